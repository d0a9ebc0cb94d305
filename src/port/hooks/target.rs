//! Which source a path refers to.

use std::{borrow::Cow, collections::HashMap};

use percent_encoding::percent_decode_str;

use crate::config::Alias;

/// The source that a request is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Target<'p> {
    /// By tenant and name.
    Named(Cow<'p, str>, Cow<'p, str>),
    /// By its token.
    Token(Cow<'p, str>),
}

/// `webhooks.aliases`, by path.
pub(crate) struct Aliases(HashMap<String, Alias>);

impl Aliases {
    pub(super) fn new(aliases: Vec<Alias>) -> Self {
        let by_path = aliases.into_iter().map(|alias| (alias.path.clone(), alias));
        Self(by_path.collect())
    }
}

impl<'p> Target<'p> {
    /// Parses a path; `None` if it is not the path of a webhook.
    pub(crate) fn of(path: &'p str, aliases: &'p Aliases) -> Option<Self> {
        let decoded = |part: &'p str| percent_decode_str(part).decode_utf8().ok();
        if let Some(rest) = path.strip_prefix("/v1/webhooks/") {
            let (tenant, source) = rest.split_once('/')?;
            let is_one = !tenant.is_empty() && !source.is_empty() && !source.contains('/');
            return is_one.then_some(Self::Named(decoded(tenant)?, decoded(source)?));
        }
        if let Some(token) = path.strip_prefix("/v1/hooks/") {
            let is_one = !token.is_empty() && !token.contains('/');
            return is_one.then_some(Self::Token(decoded(token)?));
        }
        let alias = aliases.0.get(path)?;
        Some(Self::Named(
            alias.tenant.as_str().into(),
            alias.source.as_str().into(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::Tenant;

    #[test]
    fn paths_name_sources() {
        let aliases = Aliases::new(vec![Alias {
            path: "/odoo-webhook".into(),
            tenant: Tenant::new("acme").unwrap(),
            source: "odoo".into(),
        }]);
        let named = |tenant: &'static str, source: &'static str| {
            Some(Target::Named(tenant.into(), source.into()))
        };
        let of = |path: &'static str| Target::of(path, &aliases);
        assert_eq!(of("/v1/webhooks/acme/git%68ub"), named("acme", "github"));
        assert_eq!(of("/v1/hooks/hook_x"), Some(Target::Token("hook_x".into())));
        assert_eq!(of("/odoo-webhook"), named("acme", "odoo"));
        for none in [
            "/v1/webhooks/acme",
            "/v1/webhooks/acme/",
            "/v1/webhooks//a",
            "/v1/webhooks/acme/a/b",
            "/v1/webhooks/acme/%ff",
            "/v1/hooks/",
            "/v1/hooks/a/b",
            "/odoo-webhook/",
            "/v1/events",
        ] {
            assert_eq!(of(none), None, "{none}");
        }
    }
}
