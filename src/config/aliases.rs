//! `webhooks.aliases`: paths that senders of webhooks already have, and the source that each stands for.

use crate::base::id::Tenant;

/// The most bytes of a path.
const PATH_MAX: usize = 256;

/// Paths of routes: `*` is any one segment, `**` any number of them. A test compares them with the routes of the port.
const TAKEN: &[&str] = &[
    "/",
    "/v1/**",
    "/healthz",
    "/readyz",
    "/metrics",
    "/openapi.json",
    "/docs/**",
    "/schemas/**",
    "/subjects/**",
    "/compatibility/**",
    "/config/**",
    "/mode/**",
    "/contexts/**",
    "/workflows/agent",
    "/workflows/*/status",
    "/api/v1/goals",
];

/// A path of a webhook source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Alias {
    /// The path, such as `/odoo-webhook`.
    pub path: String,
    /// The source's tenant.
    pub tenant: Tenant,
    /// The source's name.
    pub source: String,
}

impl Alias {
    /// Reads a path and `TENANT/SOURCE`; says what is wrong with one of them.
    pub fn parse(path: &str, source: &str) -> Result<Self, &'static str> {
        // RFC 3986, section 3.3, without percent-encoding: paths are compared as they are.
        let of_path = |b: u8| b.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(&b);
        if !path.starts_with('/') || path.len() > PATH_MAX || !path.bytes().all(of_path) {
            return Err("is not a path, such as /odoo-webhook");
        }
        if is_taken(path) {
            return Err("is the path of a route of OmniLink's own");
        }
        let named = source.split_once('/').and_then(|(tenant, name)| {
            let tenant = Tenant::new(tenant).ok()?;
            (!name.is_empty() && !name.contains('/')).then(|| (tenant, name.to_owned()))
        });
        let (tenant, source) = named.ok_or("must be given TENANT/SOURCE, such as acme/odoo")?;
        Ok(Self {
            path: path.to_owned(),
            tenant,
            source,
        })
    }
}

/// Whether a route has this path.
fn is_taken(path: &str) -> bool {
    TAKEN.iter().any(|taken| {
        if let Some(root) = taken.strip_suffix("/**") {
            let rest = path.strip_prefix(root);
            return rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        }
        let (path, taken) = (path.split('/'), taken.split('/'));
        path.clone().count() == taken.clone().count()
            && path
                .zip(taken)
                .all(|(is, should)| should == "*" || is == should)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_a_route_is_refused() {
        for good in [
            "/odoo-webhook",
            "/api/webhooks/odoo",
            "/v1",
            "/v2/x",
            "/docs.html",
        ] {
            let parsed = Alias::parse(good, "acme/odoo");
            assert_eq!(parsed.is_ok(), good != "/v1", "{good}: {parsed:?}");
        }
        for bad in [
            "/v1/events",
            "/v1/new",
            "/healthz",
            "/docs",
            "/docs/page.js",
            "/workflows/x/status",
            "/api/v1/goals",
            "/",
            "odoo",
            "/a b",
            "/a?b",
            "/%61",
            "",
        ] {
            assert!(Alias::parse(bad, "acme/odoo").is_err(), "{bad}");
        }
        for bad in ["", "acme", "acme/", "/odoo", "a b/odoo", "acme/odoo/x"] {
            assert!(Alias::parse("/hook", bad).is_err(), "{bad}");
        }
    }
}
