//! `/v1/integrations`: sources of webhooks. Definitions are parsed by [`crate::bridges`]; here is what the documentation says of
//! them, and the answers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::time::rfc3339;
use crate::{base::clock::Millis, controls};

/// The path of the webhooks of a source that signs.
pub fn url(tenant: &str, name: &str) -> String {
    format!("/v1/webhooks/{tenant}/{name}")
}

/// The path of the webhooks of a source that does not sign.
pub fn token_url(token: &str) -> String {
    format!("/v1/hooks/{token}")
}

/// An integration, without its secrets.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Integration<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its name.
    pub name: &'a str,
    /// The tenant that its events belong to.
    pub tenant: &'a str,
    /// The dialect of its senders.
    pub dialect: &'a str,
    /// The path that its senders call; the token is not shown.
    pub url: String,
    /// A program in VRL that makes an event of a request, in place of the dialect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mapping: Option<&'a str>,
    /// The parameters of the dialect `hmac`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<HmacParameters>")]
    pub hmac: Option<&'a Value>,
    /// The parameters of the dialect `odoo-native`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<OdooParameters>")]
    pub odoo: Option<&'a Value>,
    /// How many secrets, or tokens, are valid now: more than one while a rotation overlaps.
    pub credentials: usize,
    /// When it was created.
    #[schemars(extend("format" = "date-time"))]
    pub created_at: String,
    /// When it was changed last.
    #[schemars(extend("format" = "date-time"))]
    pub updated_at: String,
}

impl<'a> Integration<'a> {
    /// An integration as it is shown.
    pub fn new(integration: &'a controls::Integration, now: Millis) -> Self {
        let definition = &integration.definition;
        Self {
            id: &integration.id,
            name: &definition.name,
            tenant: integration.tenant.as_str(),
            dialect: &definition.dialect,
            url: url_of(integration, None),
            mapping: definition.mapping.as_deref(),
            hmac: definition.hmac.as_ref(),
            odoo: definition.odoo.as_ref(),
            credentials: integration.credentials(now),
            created_at: rfc3339(integration.created_at),
            updated_at: rfc3339(integration.updated_at),
        }
    }
}

/// An integration that was created, or whose secret or token was replaced.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ChangedIntegration<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its name.
    pub name: &'a str,
    /// The path that its senders call.
    pub url: String,
    /// The token in the path, for a dialect without signatures: only in this answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<&'a str>,
}

impl<'a> ChangedIntegration<'a> {
    /// With the token that was made for it, if any.
    pub fn new(integration: &'a controls::Integration, token: Option<&'a str>) -> Self {
        Self {
            id: &integration.id,
            name: &integration.definition.name,
            url: url_of(integration, token),
            token,
        }
    }
}

fn url_of(integration: &controls::Integration, token: Option<&str>) -> String {
    if integration.tokens.is_empty() {
        url(integration.tenant.as_str(), &integration.definition.name)
    } else {
        token_url(token.unwrap_or("{token}"))
    }
}

/// An integration to be created.
#[derive(Debug, JsonSchema)]
#[schemars(extend("additionalProperties" = false))]
pub struct CreateIntegration {
    /// Its name, unique in its tenant: 1 to 100 of `A-Z a-z 0-9 . _ -`.
    pub name: String,
    /// The dialect of its senders.
    pub dialect: Dialect,
    /// What its senders sign with, at most 10; not for `odoo-native`, which does not sign.
    pub secrets: Option<Vec<String>>,
    /// A program in VRL that makes an event of a request, in place of the dialect.
    pub mapping: Option<String>,
    /// The parameters of the dialect `hmac`.
    pub hmac: Option<HmacParameters>,
    /// The parameters of the dialect `odoo-native`.
    pub odoo: Option<OdooParameters>,
    /// The tenant that its events belong to: the key's own unless given. Another one needs the permission `operator`.
    pub tenant: Option<String>,
}

/// How a source's senders sign and write.
#[derive(Debug, JsonSchema)]
#[schemars(rename_all = "kebab-case")]
pub enum Dialect {
    /// A signed timestamp and body.
    Ipai,
    /// A signed body.
    IpaiBody,
    /// Odoo's own webhook action.
    OdooNative,
    /// Standard Webhooks.
    StandardWebhooks,
    /// GitHub.
    Github,
    /// Stripe.
    Stripe,
    /// An HMAC with parameters of the source's own.
    Hmac,
}

/// How the senders of the dialect `hmac` sign.
#[derive(Debug, Serialize, JsonSchema)]
pub struct HmacParameters {
    /// The header with the signature.
    pub header: String,
    /// `sha256` or `sha1`.
    pub algorithm: String,
    /// `hex` or `base64`.
    pub encoding: String,
    /// The text before the signature in its header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// `body`, or a text with `{body}` once, and perhaps `{timestamp}`.
    pub signed: String,
    /// The header with the timestamp.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp_header: Option<String>,
    /// Seconds that the timestamp may be away from now; 300 unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tolerance_s: Option<u32>,
    /// The header with the id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id_header: Option<String>,
    /// The JSON pointer of the id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The header with the type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub type_header: Option<String>,
    /// The JSON pointer of the type.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
}

/// What the JSON of Odoo does not say about its fields.
#[derive(Debug, Serialize, JsonSchema)]
pub struct OdooParameters {
    /// Fields in which `false` is a value, not an empty field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub booleans: Option<Vec<String>>,
    /// Fields in which a number is the id of another record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub many2one: Option<Vec<String>>,
}

/// A secret or token to be replaced.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateIntegration {
    /// The new secret; required, except for `odoo-native`, which gets a new token.
    pub secret: Option<String>,
    /// For how many seconds the secrets or tokens before it stay valid; 86400 (a day) unless given, 31536000 at most.
    pub overlap_s: Option<u32>,
}
