//! Writes changes to `controls`, each with the next version of its name.

use std::sync::Arc;

use serde::Serialize;

use super::{
    CHANGE_DEADLINE, Controls, ControlsError, Key, NewKey, Token,
    record::{self, Control, Name, Revocation, Versioned},
    scopes::EVENTS_WRITE,
};
use crate::{
    base::clock::Millis,
    log::{Append, LogError, Record, Unavailable},
};

/// How often a change is tried when other nodes change the same name at the same time.
const ATTEMPTS: u32 = 3;

impl Controls {
    /// Creates a key for `token`; only the token's hash is stored.
    pub async fn create_key(
        &self,
        new: NewKey,
        token: &Token,
        by: &str,
        now: Millis,
    ) -> Result<Key, ControlsError> {
        let (prefix, hash) = token.fingerprint();
        let key = Key {
            id: uuid::Uuid::now_v7().to_string(),
            tenant: new.tenant,
            prefix,
            hash,
            name: new.name,
            principal: new.principal,
            kind: new.kind,
            writes_events: new.scopes.permits(EVENTS_WRITE),
            scopes: new.scopes,
            created_at: now,
            expires_at: new.expires_at,
        };
        let name = (key.tenant.as_str(), record::KEY, key.id.as_str());
        self.put(name, (by, now), &key.body(), &key.hash).await?;
        Ok(key)
    }

    /// Revokes a key on every node, with immediate effect. The revocation is kept until the key would have expired.
    pub async fn revoke_key(&self, key: &Key, by: &str, now: Millis) -> Result<(), ControlsError> {
        let name = (key.tenant.as_str(), record::KEY, key.id.as_str());
        self.revoke(name, (by, now), key.expires_at).await
    }

    /// Whether this key's record comes before those of all other valid keys.
    pub fn is_oldest_key(&self, key: &Key) -> bool {
        let offset = |key: &Key| {
            let name = Control::key(key.tenant.as_str(), record::KEY, &key.id);
            self.versions.lock().offset(&name)
        };
        let mine = offset(key);
        self.keys(None).iter().all(|other| offset(other) >= mine)
    }

    /// Revokes one name: for ever, or until it would have expired.
    pub(super) async fn revoke(
        &self,
        name: Name<'_>,
        (by, now): (&str, Millis),
        expires_at: Option<Millis>,
    ) -> Result<(), ControlsError> {
        let body = Revocation {
            revoked_at: now.0,
            expires_at: expires_at.map(|at| at.0),
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
        let encoded = |e: &dyn std::fmt::Display| ControlsError::Encode(e.to_string());
        let body = serde_json::to_string(body).map_err(|e| encoded(&e))?;
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
        control.encode().map_err(|e| encoded(&e))
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
