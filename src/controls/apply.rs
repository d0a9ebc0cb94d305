//! Applies records of `controls`: decodes each, decides whether it is accepted, and changes the state in memory.

use bytes::Bytes;

use super::{
    Controls, DeletedIntegration, Integration, Key, ReaderGrant, RevokedKey,
    record::{self, Control},
    versions::{Seen, Stamp, Verdict},
};
use crate::{base::id::Tenant, log::Fetched};

const UNKNOWN_BODY: &str = "its body does not have the expected fields";

/// A record whose seal was verified.
pub(super) struct Opened {
    pub(super) control: Control,
    pub(super) secret: Vec<u8>,
    pub(super) stamp: Stamp,
}

impl Controls {
    /// Applies records in log order.
    pub(super) fn apply(&self, records: &[Fetched]) {
        let Some(last) = records.last() else {
            return;
        };
        for fetched in records {
            self.apply_one(fetched);
        }
        self.read.send_replace(last.offset + 1);
    }

    fn apply_one(&self, fetched: &Fetched) {
        let name = fetched.record.key.as_deref().unwrap_or_default();
        let Ok(name) = std::str::from_utf8(name) else {
            return;
        };
        let Some((tenant, kind, thing)) = record::parse_key(name) else {
            return;
        };
        let value = fetched.record.value.as_ref();
        if (tenant, kind, thing) == record::UPGRADE {
            return self.apply_upgrade(name, fetched.offset, value);
        }
        let is_emergency = (tenant, kind, thing) == record::EMERGENCY;
        let kinds = [record::KEY, record::READER, record::INTEGRATION];
        if !is_emergency && !kinds.contains(&kind) {
            // Written by a later version.
            return;
        }
        let opened = value.map(|value| self.open(name, value));
        let seen = match (&opened, value) {
            (Some(Ok(opened)), Some(value)) => Seen::Sealed(opened.stamp, value),
            (Some(Err(_)), _) => Seen::Unreadable,
            _ => Seen::Tombstone,
        };
        let at = (fetched.offset, fetched.timestamp);
        let verdict = self.versions.lock().judge(name, at, seen);
        match verdict {
            Verdict::Known => return,
            Verdict::Refuse(why) => {
                self.refused.increment(1);
                tracing::warn!(
                    offset = at.0,
                    name,
                    why,
                    "a record on `controls` is refused"
                );
                return;
            }
            Verdict::Apply | Verdict::End => {}
        }
        if is_emergency {
            return self.apply_emergency(fetched.offset, opened);
        }
        if let Some(Err(why)) = &opened {
            self.refused.increment(1);
            tracing::warn!(
                offset = at.0,
                name,
                why,
                "a record on `controls` cannot be used; its key or grant is no longer valid"
            );
        } else if value.is_none() && self.versions.lock().offset(name).is_some() {
            self.refused.increment(1);
            tracing::warn!(
                offset = at.0,
                name,
                "a tombstone on `controls` has no seal; its key or grant is no longer valid and is being revoked"
            );
        }
        let opened = opened.and_then(Result::ok);
        self.change((tenant, kind, thing), fetched.offset, opened);
    }

    /// Sets the state of one name; `None` removes it.
    pub(super) fn change(
        &self,
        (tenant, kind, name): record::Name<'_>,
        offset: u64,
        opened: Option<Opened>,
    ) {
        let (opened, revoked) = match opened {
            Some(opened) if opened.stamp.revoked => (None, Some(opened.control.body)),
            opened => (opened, None),
        };
        let unusable = |why: &&'static str| {
            tracing::warn!(
                offset,
                tenant,
                kind,
                name,
                why,
                "a record on `controls` cannot be used; its key or grant is no longer valid"
            );
        };
        if kind == record::KEY {
            let key = opened.and_then(|o| read_key(tenant, name, &o).inspect_err(unusable).ok());
            let mut keys = self.keys.write();
            match key {
                Some(key) => keys.put(key),
                None => drop(keys.remove(name)),
            }
            if let Some(revoked) = revoked.and_then(|body| RevokedKey::read(tenant, name, &body)) {
                keys.revoke(revoked);
            }
            return;
        }
        if kind == record::INTEGRATION {
            let integration = opened.and_then(|o| {
                Integration::read(tenant, name, (&o.control.body, &o.secret), offset)
                    .inspect_err(unusable)
                    .ok()
            });
            let mut integrations = self.integrations.write();
            match integration {
                Some(integration) => integrations.put(integration),
                None => integrations.remove(name),
            }
            if let Some(deleted) =
                revoked.and_then(|body| DeletedIntegration::read(tenant, name, &body))
            {
                integrations.delete(deleted);
            }
            return;
        }
        let grant = opened.and_then(|o| {
            serde_json::from_str(&o.control.body)
                .map_err(|_| UNKNOWN_BODY)
                .and_then(|body| ReaderGrant::from_body(tenant, name, body, offset))
                .inspect_err(unusable)
                .ok()
        });
        let changed = match grant {
            Some(grant) => self.readers.write().put(grant),
            None => self.readers.write().remove(tenant, name),
        };
        if changed {
            self.readers_version.send_modify(|version| *version += 1);
        }
    }

    fn apply_upgrade(&self, name: &str, offset: u64, value: Option<&Bytes>) {
        let opened = value.and_then(|value| self.open(name, value).ok());
        let upgrade: Option<record::Upgrade> =
            opened.and_then(|opened| serde_json::from_str(&opened.control.body).ok());
        if let (Some(upgrade), Some(value)) = (upgrade, value) {
            let ended = self.versions.lock().upgraded(upgrade.before, value);
            for name in ended {
                tracing::warn!(
                    offset,
                    name,
                    "a record on `controls` without a version was written after the upgrade; its key or grant is no longer valid"
                );
                if let Some(name) = record::parse_key(&name) {
                    self.change(name, offset, None);
                }
            }
        } else if self.versions.lock().upgrade_hidden() {
            self.refused.increment(1);
            tracing::warn!(offset, name, "a record on `controls` is refused");
        }
    }

    /// Decodes a record and verifies its seal.
    pub(super) fn open(&self, name: &str, value: &Bytes) -> Result<Opened, &'static str> {
        let control = Control::decode(value).ok_or("not a record of this schema")?;
        let place = Control::place(name, &control.body);
        let sealed = control.sealed.as_ref().ok_or("it has no seal")?;
        let secret = self
            .secrets
            .open(sealed, &place)
            .map_err(|_| "sealed with a key that is not in `secret_key`, or modified")?;
        let stamp = record::stamp(&control.body).ok_or(UNKNOWN_BODY)?;
        Ok(Opened {
            control,
            secret,
            stamp,
        })
    }
}

fn read_key(tenant: &str, id: &str, opened: &Opened) -> Result<Key, &'static str> {
    let tenant = Tenant::new(tenant).map_err(|_| "its tenant name is not valid")?;
    let body = serde_json::from_str(&opened.control.body).map_err(|_| UNKNOWN_BODY)?;
    Key::from_body(id, tenant, body, opened.stamp.version, &opened.secret)
}
