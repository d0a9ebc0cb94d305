//! Integrations: webhook sources. Definitions are readable on the topic; secrets are sealed; of tokens only the SHA-256 is stored.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{
    Controls, ControlsError,
    ended::{DeletedIntegration, IntegrationFacts},
    record,
};
use crate::base::{clock::Millis, id::Tenant};

/// The prefix of tokens, by which scanners for leaked secrets can find them.
const TOKEN_START: &str = "hook_";
/// The maximum number of valid secrets or tokens of an integration; each costs an HMAC per request.
pub const SECRETS_MAX: usize = 10;

/// A webhook source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Integration {
    /// Its id, a UUIDv7.
    pub id: String,
    /// The tenant of its events.
    pub tenant: Tenant,
    /// The definition without secrets.
    pub definition: IntegrationDefinition,
    /// The secrets of its senders, oldest first.
    pub secrets: Vec<HookSecret>,
    /// The tokens in its URL, oldest first.
    pub tokens: Vec<HookTokenHash>,
    /// When it was created.
    pub created_at: Millis,
    /// When it was last changed.
    pub updated_at: Millis,
    /// The offset of its record on `controls`, which differs after each change.
    pub offset: u64,
}

/// The readable part of an integration, as in `POST /v1/integrations`. The creator of the integration has validated it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct IntegrationDefinition {
    /// Unique in its tenant.
    pub name: String,
    /// The dialect of its senders.
    pub dialect: String,
    /// A VRL program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapping: Option<String>,
    /// The parameters of the dialect `hmac`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hmac: Option<Value>,
    /// The parameters of the dialect `odoo-native`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub odoo: Option<Value>,
}

/// A secret, and when it stops being valid.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookSecret {
    /// The secret as the sender has it.
    pub text: Arc<str>,
    /// `None` if it does not expire.
    #[serde(default, with = "until")]
    pub until: Option<Millis>,
}

/// The expiry of a secret: milliseconds since the Unix epoch, or null.
mod until {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::base::clock::Millis;

    #[expect(
        clippy::ref_option,
        reason = "serde hands over a reference to the field"
    )]
    pub(super) fn serialize<S: Serializer>(
        until: &Option<Millis>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        until.map(|until| until.0).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Millis>, D::Error> {
        Ok(Option::<i64>::deserialize(deserializer)?.map(Millis))
    }
}

impl fmt::Debug for HookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HookSecret {{ until: {:?} }}", self.until)
    }
}

/// The SHA-256 of a token, and when the token stops being valid.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HookTokenHash {
    sha256: [u8; 32],
    /// `None` if it does not expire.
    #[serde(default, with = "until")]
    pub until: Option<Millis>,
}

impl HookTokenHash {
    /// The hash of a token that does not expire.
    pub fn of(token: &HookToken) -> Self {
        Self {
            sha256: hash(token.reveal()),
            until: None,
        }
    }
}

/// The text of a token, which is shown once.
pub struct HookToken(String);

impl HookToken {
    /// Generates a token from 32 random bytes.
    pub fn generate() -> Self {
        let secret = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
        Self(format!("{TOKEN_START}{secret}"))
    }

    /// The text.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for HookToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HookToken(***)")
    }
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// The JSON body of a record.
#[derive(Serialize, Deserialize)]
struct Body {
    #[serde(flatten)]
    definition: IntegrationDefinition,
    created_at: i64,
    updated_at: i64,
}

/// The sealed part of a record, as JSON.
#[derive(Serialize, Deserialize)]
struct Sealed {
    secrets: Vec<HookSecret>,
    tokens: Vec<HookTokenHash>,
}

impl Integration {
    pub(super) fn read(
        tenant: &str,
        id: &str,
        (body, sealed): (&str, &[u8]),
        offset: u64,
    ) -> Result<Self, &'static str> {
        let body: Body = serde_json::from_str(body)
            .map_err(|_| "its body does not have the fields of an integration")?;
        let sealed: Sealed =
            serde_json::from_slice(sealed).map_err(|_| "its secrets cannot be read")?;
        Ok(Self {
            id: id.to_owned(),
            tenant: Tenant::new(tenant).map_err(|_| "its tenant name is not valid")?,
            definition: body.definition,
            secrets: sealed.secrets,
            tokens: sealed.tokens,
            created_at: Millis(body.created_at),
            updated_at: Millis(body.updated_at),
            offset,
        })
    }

    /// Adds another secret or token, valid from `now` on. The previous ones stay valid for `overlap_s` seconds, unless they expire
    /// earlier; expired ones are dropped.
    #[must_use]
    pub fn rotated(&self, with: Credential, now: Millis, overlap_s: u32) -> Self {
        let end = Millis(now.0.saturating_add(i64::from(overlap_s) * 1000));
        let mut next = self.clone();
        let untils = next.secrets.iter_mut().map(|secret| &mut secret.until);
        for until in untils.chain(next.tokens.iter_mut().map(|token| &mut token.until)) {
            *until = Some(until.map_or(end, |until| until.min(end)));
        }
        next.secrets.retain(|secret| valid(secret.until, now));
        next.tokens.retain(|token| valid(token.until, now));
        match with {
            Credential::Secret(text) => next.secrets.push(HookSecret { text, until: None }),
            Credential::Token(hash) => next.tokens.push(hash),
        }
        next.updated_at = now;
        next
    }

    /// The number of valid secrets and tokens.
    pub fn credentials(&self, now: Millis) -> usize {
        let untils = self.secrets.iter().map(|secret| secret.until);
        let untils = untils.chain(self.tokens.iter().map(|token| token.until));
        untils.filter(|until| valid(*until, now)).count()
    }
}

/// A sender's credential.
#[derive(Clone, Debug)]
pub enum Credential {
    /// For dialects that sign.
    Secret(Arc<str>),
    /// For dialects that are authenticated by a token in the URL.
    Token(HookTokenHash),
}

fn valid(until: Option<Millis>, now: Millis) -> bool {
    until.is_none_or(|until| now < until)
}

/// All integrations, by id, by name and by the hashes of their tokens.
#[derive(Default)]
pub(super) struct Integrations {
    ids: HashMap<Box<str>, Arc<Integration>>,
    /// By tenant and name. If two nodes create the same name at the same time, the first one on the topic is here.
    names: HashMap<Box<str>, HashMap<Box<str>, Arc<Integration>>>,
    tokens: HashMap<[u8; 32], Arc<Integration>>,
    deleted: HashMap<Box<str>, Arc<DeletedIntegration>>,
}

impl Integrations {
    pub(super) fn put(&mut self, integration: Integration) {
        self.deleted.remove(integration.id.as_str());
        let integration = Arc::new(integration);
        let before = self
            .ids
            .insert(integration.id.as_str().into(), Arc::clone(&integration));
        for token in before.iter().flat_map(|before| &before.tokens) {
            self.tokens.remove(&token.sha256);
        }
        for token in &integration.tokens {
            self.tokens.insert(token.sha256, Arc::clone(&integration));
        }
        let names = self.names.entry(integration.tenant.as_str().into());
        match names
            .or_default()
            .entry(integration.definition.name.as_str().into())
        {
            Entry::Vacant(name) => {
                name.insert(integration);
            }
            Entry::Occupied(mut holder) if holder.get().id == integration.id => {
                holder.insert(integration);
            }
            Entry::Occupied(_) => {}
        }
    }

    /// Remembers a deletion.
    pub(super) fn delete(&mut self, deleted: DeletedIntegration) {
        let id = deleted.id.as_str().into();
        self.deleted.insert(id, Arc::new(deleted));
    }

    pub(super) fn remove(&mut self, id: &str) {
        let Some(gone) = self.ids.remove(id) else {
            return;
        };
        for token in &gone.tokens {
            self.tokens.remove(&token.sha256);
        }
        let Some(names) = self.names.get_mut(gone.tenant.as_str()) else {
            return;
        };
        let name = gone.definition.name.as_str();
        if names.get(name).is_none_or(|holder| holder.id != gone.id) {
            return;
        }
        names.remove(name);
        let others = self.ids.values();
        let next = others
            .filter(|other| other.tenant == gone.tenant && other.definition.name == name)
            .min_by_key(|other| other.offset);
        if let Some(next) = next {
            names.insert(name.into(), Arc::clone(next));
        } else if names.is_empty() {
            self.names.remove(gone.tenant.as_str());
        }
    }
}

impl Controls {
    /// The integration with this id.
    pub fn integration(&self, id: &str) -> Option<Arc<Integration>> {
        self.integrations.read().ids.get(id).cloned()
    }

    /// The integration with this name.
    pub fn integration_named(&self, tenant: &str, name: &str) -> Option<Arc<Integration>> {
        let integrations = self.integrations.read();
        integrations.names.get(tenant)?.get(name).cloned()
    }

    /// The integration whose URL has this token. Tokens are found by their SHA-256, which is compared in constant time.
    pub fn integration_by_token(&self, token: &str, now: Millis) -> Option<Arc<Integration>> {
        let wanted = hash(token);
        let found = self.integrations.read().tokens.get(&wanted).cloned()?;
        let good = |known: &HookTokenHash| {
            bool::from(known.sha256.ct_eq(&wanted)) && valid(known.until, now)
        };
        found.tokens.iter().any(good).then_some(found)
    }

    /// All integrations of all tenants.
    pub fn all_integrations(&self) -> Vec<Arc<Integration>> {
        self.integrations.read().ids.values().cloned().collect()
    }

    /// All integrations that were deleted, as far as their deletions are on the topic.
    pub fn deleted_integrations(&self) -> Vec<Arc<DeletedIntegration>> {
        let integrations = self.integrations.read();
        integrations.deleted.values().cloned().collect()
    }

    /// All integrations of a tenant, newest first.
    pub fn integrations(&self, tenant: &Tenant) -> Vec<Arc<Integration>> {
        let integrations = self.integrations.read();
        let all = integrations.ids.values();
        let mut found: Vec<_> = all.filter(|one| one.tenant == *tenant).cloned().collect();
        found.sort_unstable_by(|a, b| b.id.cmp(&a.id));
        found
    }

    /// Creates an integration; `None` if the tenant already has one with this name.
    pub async fn create_integration(
        &self,
        tenant: Tenant,
        definition: IntegrationDefinition,
        credentials: Vec<Credential>,
        (by, now): (&str, Millis),
    ) -> Result<Option<Arc<Integration>>, ControlsError> {
        let _one_by_one = self.integration_changes.lock().await;
        if self
            .integration_named(tenant.as_str(), &definition.name)
            .is_some()
        {
            return Ok(None);
        }
        let mut integration = Integration {
            id: uuid::Uuid::now_v7().to_string(),
            tenant,
            definition,
            secrets: Vec::new(),
            tokens: Vec::new(),
            created_at: now,
            updated_at: now,
            offset: 0,
        };
        for credential in credentials {
            match credential {
                Credential::Secret(text) => {
                    integration.secrets.push(HookSecret { text, until: None });
                }
                Credential::Token(hash) => integration.tokens.push(hash),
            }
        }
        self.write_integration(&integration, (by, now)).await?;
        let tenant = integration.tenant.as_str();
        let holder = self.integration_named(tenant, &integration.definition.name);
        if holder.as_ref().is_some_and(|h| h.id == integration.id) {
            return Ok(holder);
        }
        // Another node created one with this name at the same time, and its record is first.
        self.remove_integration(&integration, (by, now)).await?;
        Ok(None)
    }

    /// Replaces the secret or the token of an integration ([`Integration::rotated`]). `None` if it was deleted meanwhile, or already has
    /// [`SECRETS_MAX`] valid ones. If two nodes rotate the same one at the same time, the later change counts.
    pub async fn rotate_integration(
        &self,
        id: &str,
        with: Credential,
        overlap_s: u32,
        (by, now): (&str, Millis),
    ) -> Result<Option<Arc<Integration>>, ControlsError> {
        let _one_by_one = self.integration_changes.lock().await;
        let Some(current) = self.integration(id) else {
            return Ok(None);
        };
        let next = current.rotated(with, now, overlap_s);
        if next.credentials(now) > SECRETS_MAX {
            return Ok(None);
        }
        self.write_integration(&next, (by, now)).await?;
        Ok(self.integration(id))
    }

    /// Deletes an integration on every node.
    pub async fn remove_integration(
        &self,
        integration: &Integration,
        by: (&str, Millis),
    ) -> Result<(), ControlsError> {
        let tenant = integration.tenant.as_str();
        let name = (tenant, record::INTEGRATION, integration.id.as_str());
        let was = IntegrationFacts {
            name: integration.definition.name.clone(),
            dialect: integration.definition.dialect.clone(),
            created_at: integration.created_at.0,
        };
        self.revoke(name, by, None, Some(&was)).await
    }

    async fn write_integration(
        &self,
        integration: &Integration,
        by: (&str, Millis),
    ) -> Result<(), ControlsError> {
        let body = Body {
            definition: integration.definition.clone(),
            created_at: integration.created_at.0,
            updated_at: integration.updated_at.0,
        };
        let sealed = Sealed {
            secrets: integration.secrets.clone(),
            tokens: integration.tokens.clone(),
        };
        let sealed = serde_json::to_vec(&sealed)?;
        let tenant = integration.tenant.as_str();
        let name = (tenant, record::INTEGRATION, integration.id.as_str());
        self.put(name, by, &body, &sealed).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn integration(id: &str, tenant: &str, name: &str, offset: u64) -> Integration {
        let body = format!(
            r#"{{"version":1,"name":"{name}","dialect":"ipai","created_at":1,"updated_at":1}}"#
        );
        let sealed = br#"{"secrets":[{"text":"s"}],"tokens":[]}"#;
        Integration::read(tenant, id, (&body, sealed), offset).unwrap()
    }

    #[test]
    fn the_first_of_a_name_holds_it_until_it_is_deleted() {
        let mut all = Integrations::default();
        all.put(integration("1", "acme", "a", 1));
        all.put(integration("2", "acme", "a", 2));
        all.put(integration("3", "beta", "a", 3));
        let holder =
            |all: &Integrations, tenant: &str| all.names.get(tenant).map(|n| n["a"].id.clone());
        assert_eq!(holder(&all, "acme").as_deref(), Some("1"));
        // A change keeps the name.
        all.put(integration("1", "acme", "a", 4));
        assert_eq!(all.names["acme"]["a"].offset, 4);
        all.remove("1");
        assert_eq!(holder(&all, "acme").as_deref(), Some("2"));
        all.remove("2");
        assert_eq!(holder(&all, "acme"), None);
        assert_eq!(holder(&all, "beta").as_deref(), Some("3"));
    }

    #[test]
    fn a_token_is_valid_up_to_the_end_of_its_overlap() {
        let (first, second) = (HookToken::generate(), HookToken::generate());
        let of = |token: &HookToken| Credential::Token(HookTokenHash::of(token));
        let mut one = integration("1", "acme", "a", 1);
        one.secrets.clear();
        let one = one.rotated(of(&first), Millis(0), 0);
        let two = one.rotated(of(&second), Millis(1_000), 60);
        assert_eq!(two.credentials(Millis(60_999)), 2);
        assert_eq!(two.credentials(Millis(61_000)), 1);
        let mut all = Integrations::default();
        all.put(one);
        all.put(two.clone());
        assert_eq!(all.tokens.len(), 2);
        all.put(two.rotated(of(&HookToken::generate()), Millis(61_000), 0));
        assert!(!all.tokens.contains_key(&hash(first.reveal())));
        // Without an overlap, the previous one expires at once.
        let last = all.ids["1"].clone();
        assert_eq!(last.credentials(Millis(61_000)), 1);
        assert!(!format!("{second:?} {last:?}").contains(second.reveal()));
    }
}
