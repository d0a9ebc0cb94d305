//! Writes changes to `controls`, each with the next version of its name.

use std::{sync::Arc, time::Duration};

use serde::Serialize;

use super::{
    CHANGE_DEADLINE, Controls, ControlsError, Key, KeyChange, NewKey, Token,
    record::{self, Control, Name, Revocation, Versioned},
};
use crate::{
    base::clock::Millis,
    log::{Append, LogError, Record, Unavailable},
};

/// How often a change is tried when other nodes change the same name at the same time.
const ATTEMPTS: u32 = 3;

fn name_of(key: &Key) -> Name<'_> {
    (key.tenant.as_str(), record::KEY, &key.id)
}

impl Controls {
    /// Creates a key for `token`; only the token's hash is stored.
    pub async fn create_key(
        &self,
        new: NewKey,
        token: &Token,
        by: &str,
        now: Millis,
    ) -> Result<Key, ControlsError> {
        let id = uuid::Uuid::now_v7().to_string();
        let key = Key::new(id, new, token.fingerprint(), now);
        self.put(name_of(&key), (by, now), &key.body(), &key.secret())
            .await?;
        Ok(key)
    }

    /// Gives a key another secret. The previous one stays valid for `overlap`. `check` sees the key, and may refuse; `None` if the key no
    /// longer exists.
    pub async fn rotate_key<E: From<ControlsError>>(
        &self,
        id: &str,
        (token, overlap): (&Token, Duration),
        by: (&str, Millis),
        check: impl Fn(&Key) -> Result<(), E>,
    ) -> Result<Option<Arc<Key>>, E> {
        let (prefix, hash) = token.fingerprint();
        let overlap_ms = i64::try_from(overlap.as_millis()).unwrap_or(i64::MAX);
        let edit = |key: &Key| {
            if key.has(&hash) {
                return Ok(None);
            }
            check(key)?;
            Ok(Some(key.rotated((prefix, hash), overlap_ms, by.1)))
        };
        self.edit_key(id, by, edit).await
    }

    /// Changes a key. `check` sees the changed key, and may refuse; `None` if the key no longer exists.
    pub async fn change_key<E: From<ControlsError>>(
        &self,
        id: &str,
        change: &KeyChange,
        by: (&str, Millis),
        check: impl Fn(&Key) -> Result<(), E>,
    ) -> Result<Option<Arc<Key>>, E> {
        let edit = |key: &Key| {
            let changed = key.changed(change, by.1);
            if changed == *key {
                return Ok(None);
            }
            check(&changed)?;
            Ok(Some(changed))
        };
        self.edit_key(id, by, edit).await
    }

    /// Changes the key as last read: the record has the version after that of the key that `edit` saw, so it never undoes a revocation.
    /// If another node changed the key at the same time, the later record counts, and its writer adds the other change in a further
    /// record. `edit` returns `None` once the key is as desired.
    async fn edit_key<E: From<ControlsError>>(
        &self,
        id: &str,
        by: (&str, Millis),
        edit: impl Fn(&Key) -> Result<Option<Key>, E>,
    ) -> Result<Option<Arc<Key>>, E> {
        let _one_at_a_time = self.editing.lock().await;
        let overwritten = || self.keys.write().overwritten.remove(id);
        drop(overwritten());
        for _ in 0..=ATTEMPTS {
            let lost = overwritten();
            let Some(key) = self.key(id) else {
                return Ok(None);
            };
            let Some(edited) = edit(lost.as_ref().unwrap_or(&key))? else {
                return Ok(Some(key));
            };
            let body = Versioned {
                version: key.version + 1,
                body: edited.body(),
            };
            let record = self.sealed(name_of(&key), by, &body, &edited.secret())?;
            self.write(record).await?;
        }
        Err(ControlsError::Contended.into())
    }

    /// Revokes a key on every node, with immediate effect. The revocation is kept until none of the key's records would be valid.
    pub async fn revoke_key(&self, key: &Key, by: &str, now: Millis) -> Result<(), ControlsError> {
        let was = key.facts();
        self.revoke(name_of(key), (by, now), key.latest_expiry, Some(&was))
            .await
    }

    /// Whether this key, which was just created, precedes all other valid keys. A key that was changed since it was created precedes it,
    /// because its current record may be later.
    pub fn is_oldest_key(&self, key: &Key) -> bool {
        let current = |key: &Key| {
            let (tenant, kind, id) = name_of(key);
            self.versions
                .lock()
                .current(&Control::key(tenant, kind, id))
        };
        let mine = current(key).map(|(_, offset)| offset);
        self.keys(None).iter().all(|other| {
            let theirs = current(other);
            other.id == key.id || theirs.is_none_or(|(version, at)| version == 1 && Some(at) > mine)
        })
    }

    /// Revokes one name: forever, or until it would have expired. `was`: a description of it, for readers that have no earlier record.
    pub(super) async fn revoke(
        &self,
        name: Name<'_>,
        (by, now): (&str, Millis),
        expires_at: Option<Millis>,
        was: Option<&impl Serialize>,
    ) -> Result<(), ControlsError> {
        let was = was.map(serde_json::to_value).transpose();
        let body = Revocation {
            revoked_at: now.0,
            expires_at: expires_at.map(|at| at.0),
            was: was?,
        };
        self.put(name, (by, now), &body, &[]).await.map(drop)
    }

    /// Writes the state of one name; returns the offset of its record.
    pub(super) async fn put(
        &self,
        name: Name<'_>,
        by: (&str, Millis),
        body: &impl Serialize,
        secret: &[u8],
    ) -> Result<u64, ControlsError> {
        let key = Control::key(name.0, name.1, name.2);
        for _ in 0..ATTEMPTS {
            let version = self.versions.lock().next(&key);
            let record = self.sealed(name, by, &Versioned { version, body }, secret)?;
            let offset = self.write(record).await?;
            // The record was refused if another node's change with the same version came first.
            if self.versions.lock().offset(&key) >= Some(offset) {
                return Ok(offset);
            }
        }
        Err(ControlsError::Contended)
    }

    /// A record whose seal covers its key, its body and the secret.
    pub(super) fn sealed(
        &self,
        (tenant, kind, name): Name<'_>,
        (by, now): (&str, Millis),
        body: &impl Serialize,
        secret: &[u8],
    ) -> Result<Record, ControlsError> {
        let body = serde_json::to_string(body)?;
        let place = Control::place(&Control::key(tenant, kind, name), &body);
        let control = Control {
            tenant: tenant.to_owned(),
            kind: kind.to_owned(),
            name: name.to_owned(),
            at: Control::at(now),
            principal: by.to_owned(),
            body,
            sealed: Some(self.secrets.seal(secret, &place)),
        };
        Ok(control.encode()?)
    }

    /// Appends, and waits until this node has read it back; returns the record's offset.
    pub(super) async fn write(&self, record: Record) -> Result<u64, ControlsError> {
        let append = Append {
            topic: Arc::clone(&self.topic),
            record,
        };
        let mut read = self.read.subscribe();
        let appended = self.log.append(vec![append], None);
        let done = async {
            let positions = appended
                .await
                .map_err(|_| LogError::Unavailable(Unavailable::Closing))??;
            let offset = positions.first().map_or(0, |p| p.offset);
            // Cannot fail: the sender lives in `self`.
            let _ = read.wait_for(|read| *read > offset).await;
            Ok(offset)
        };
        match tokio::time::timeout(CHANGE_DEADLINE, done).await {
            Ok(result) => result.map_err(ControlsError::Log),
            Err(_) => Err(ControlsError::Log(LogError::Unavailable(
                Unavailable::NotConfirmed {
                    what: "the change",
                    within: CHANGE_DEADLINE,
                    advice: None,
                },
            ))),
        }
    }
}
