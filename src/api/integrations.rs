//! `/v1/integrations`: webhook sources. Definitions are parsed by [`crate::bridges`]; this file has their documentation, and the answers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::time::rfc3339;
use crate::{base::clock::Millis, controls};

/// The webhook path of a source that signs.
pub fn url(tenant: &str, name: &str) -> String {
    format!("/v1/webhooks/{tenant}/{name}")
}

/// The webhook path of a source that does not sign.
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
    /// The tenant of its events.
    pub tenant: &'a str,
    /// The dialect of its senders.
    pub dialect: &'a str,
    /// The path that its senders call; the token is not shown.
    pub url: String,
    /// A VRL program that builds the event from a request, instead of the dialect.
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
    /// The number of valid secrets or tokens; more than one during the overlap of a rotation.
    pub credentials: usize,
    /// When it was created.
    #[schemars(extend("format" = "date-time"))]
    pub created_at: String,
    /// When it was last changed.
    #[schemars(extend("format" = "date-time"))]
    pub updated_at: String,
}

impl<'a> Integration<'a> {
    /// The integration as shown.
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
    /// The token in the path, for a dialect without signatures; it is only in this answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<&'a str>,
}

impl<'a> ChangedIntegration<'a> {
    /// Includes the token if one was created.
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

/// An integration to create.
#[derive(Debug, JsonSchema)]
#[schemars(extend("additionalProperties" = false))]
pub struct CreateIntegration {
    /// Its name, unique in its tenant: 1 to 100 of `A-Z a-z 0-9 . _ -`.
    pub name: String,
    /// The dialect of its senders.
    pub dialect: Dialect,
    /// The secrets that its senders sign with, at most 10; not for `odoo-native`, which does not sign.
    pub secrets: Option<Vec<String>>,
    /// A VRL program that builds the event from a request, instead of the dialect.
    pub mapping: Option<String>,
    /// The parameters of the dialect `hmac`.
    pub hmac: Option<HmacParameters>,
    /// The parameters of the dialect `odoo-native`.
    pub odoo: Option<OdooParameters>,
    /// The tenant of its events; default: that of the key. Another tenant needs the permission `operator`.
    pub tenant: Option<String>,
}

/// How the senders of a source sign and format requests.
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
    /// An HMAC with the source's own parameters.
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
    /// `body`, or a text with `{body}` once, and optionally `{timestamp}`.
    pub signed: String,
    /// The header with the timestamp.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp_header: Option<String>,
    /// How many seconds the timestamp may differ from now; default 300.
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

/// What Odoo's JSON does not reveal about its fields.
#[derive(Debug, Serialize, JsonSchema)]
pub struct OdooParameters {
    /// Fields in which `false` is a value rather than an empty field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub booleans: Option<Vec<String>>,
    /// Fields in which a number is the id of another record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub many2one: Option<Vec<String>>,
}

/// A rotation of a secret or token.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateIntegration {
    /// The new secret; required, except for `odoo-native`, which gets a new token.
    pub secret: Option<String>,
    /// For how many seconds the previous secrets or tokens stay valid; default 86400 (a day), at most 31536000.
    pub overlap_s: Option<u32>,
}
