//! `/v1/readers`: which Postgres login can read which tenant.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::time::rfc3339;
use crate::controls::ReaderGrant;

/// A grant: the login can read the tenant's rows.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Reader<'a> {
    /// A Postgres login.
    pub login: &'a str,
    /// The tenant that it can read.
    pub tenant: &'a str,
    /// Who granted it.
    pub granted_by: &'a str,
    /// When it was granted.
    #[schemars(extend("format" = "date-time"))]
    pub granted_at: String,
}

impl<'a> Reader<'a> {
    /// The grant as shown.
    pub fn new(grant: &'a ReaderGrant) -> Self {
        Self {
            login: grant.login.as_str(),
            tenant: grant.tenant.as_str(),
            granted_by: &grant.granted_by,
            granted_at: rfc3339(grant.granted_at),
        }
    }
}

// Serde treats the login as optional, so that the error can name it.
/// A grant to create.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["login"]))]
pub struct GrantReader {
    /// A Postgres login.
    #[schemars(with = "String")]
    pub login: Option<String>,
    /// The tenant; default: that of the key. Another tenant needs the permission `operator`.
    pub tenant: Option<String>,
}

/// The tenant of the grant to revoke; the path names the login.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RevokeReader {
    /// The tenant; default: that of the key. Another tenant needs the permission `operator`.
    pub tenant: Option<String>,
}
