//! `/v1/readers`: which login of Postgres sees which tenant.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::time::rfc3339;
use crate::controls::ReaderGrant;

/// A grant: the login sees the tenant's rows.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Reader<'a> {
    /// A login of Postgres.
    pub login: &'a str,
    /// The tenant that it sees.
    pub tenant: &'a str,
    /// Who granted it.
    pub granted_by: &'a str,
    /// When it was granted.
    #[schemars(extend("format" = "date-time"))]
    pub granted_at: String,
}

impl<'a> Reader<'a> {
    /// A grant as it is shown.
    pub fn new(grant: &'a ReaderGrant) -> Self {
        Self {
            login: grant.login.as_str(),
            tenant: grant.tenant.as_str(),
            granted_by: &grant.granted_by,
            granted_at: rfc3339(grant.granted_at),
        }
    }
}

// The login is optional for serde, so that the error names it.
/// A grant to be made.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["login"]))]
pub struct GrantReader {
    /// A login of Postgres.
    #[schemars(with = "String")]
    pub login: Option<String>,
    /// The tenant: the key's own unless given. Another one needs the permission `operator`.
    pub tenant: Option<String>,
}

/// Which tenant's grant, where the path names the login.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RevokeReader {
    /// The tenant: the key's own unless given. Another one needs the permission `operator`.
    pub tenant: Option<String>,
}
