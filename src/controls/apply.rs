//! Taking records in: what each says, whether it counts, and what it changes in memory.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    Controls, Key, ReaderGrant,
    record::{self, Control},
    versions::{Seen, Stamp, Verdict},
};
use crate::{base::id::Tenant, log::Fetched};

const OTHER_VERSION: &str = "its body is not of this version";

/// A record whose seal is good.
pub(super) struct Opened {
    pub(super) control: Control,
    pub(super) secret: Vec<u8>,
    pub(super) stamp: Stamp,
}

impl Controls {
    /// Takes records in, in order.
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
        if ![record::KEY, record::READER].contains(&kind) {
            // Of a later version.
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
        if let Some(Err(why)) = &opened {
            self.refused.increment(1);
            tracing::warn!(
                offset = at.0,
                name,
                why,
                "a record on `controls` cannot be used: what it names has ended"
            );
        } else if value.is_none() && self.versions.lock().offset(name).is_some() {
            self.refused.increment(1);
            tracing::warn!(
                offset = at.0,
                name,
                "a record without a value and so without a seal on `controls`: what it names has ended, and is revoked"
            );
        }
        let opened = opened.and_then(Result::ok);
        self.change((tenant, kind, thing), fetched.offset, opened);
    }

    /// The state of one thing from now on; `None`: it has ended.
    pub(super) fn change(
        &self,
        (tenant, kind, thing): record::Name<'_>,
        offset: u64,
        opened: Option<Opened>,
    ) {
        let opened = opened.filter(|opened| !opened.stamp.revoked);
        let unusable = |why: &&'static str| {
            tracing::warn!(
                offset,
                tenant,
                kind,
                thing,
                why,
                "a record on `controls` cannot be used: what it names has ended"
            );
        };
        if kind == record::KEY {
            let key = opened.and_then(|o| read_key(tenant, thing, o).inspect_err(unusable).ok());
            let mut keys = self.keys.write();
            match key {
                Some(key) => keys.put(Arc::new(key)),
                None => keys.remove(thing),
            }
            return;
        }
        let grant = opened.and_then(|o| {
            serde_json::from_str(&o.control.body)
                .map_err(|_| OTHER_VERSION)
                .and_then(|body| ReaderGrant::from_body(tenant, thing, body, offset))
                .inspect_err(unusable)
                .ok()
        });
        let changed = match grant {
            Some(grant) => self.readers.write().put(grant),
            None => self.readers.write().remove(tenant, thing),
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
                    "a record on `controls` has no version and was written after the upgrade: what it names has ended"
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

    /// What a record says, from its body and the secret that was sealed.
    pub(super) fn open(&self, name: &str, value: &Bytes) -> Result<Opened, &'static str> {
        let control = Control::decode(value).ok_or("not a record of this schema")?;
        let place = Control::place(name, &control.body);
        let sealed = control.sealed.as_ref().ok_or("nothing sealed in it")?;
        let secret = self.secrets.open(sealed, &place).map_err(
            |_| "sealed under a key that is not in `secret_key`, or changed by someone else",
        )?;
        let stamp = record::stamp(&control.body).ok_or(OTHER_VERSION)?;
        Ok(Opened {
            control,
            secret,
            stamp,
        })
    }
}

fn read_key(tenant: &str, id: &str, opened: Opened) -> Result<Key, &'static str> {
    let tenant = Tenant::new(tenant).map_err(|_| "its tenant has no valid name")?;
    let hash = opened.secret.try_into();
    let hash = hash.map_err(|_| "its hash has another length")?;
    let body = serde_json::from_str(&opened.control.body).map_err(|_| OTHER_VERSION)?;
    Key::from_body(id, tenant, body, hash).ok_or("its prefix has another length")
}
