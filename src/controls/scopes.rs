//! What a key may do: permissions, and constraints on them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Taking events in.
pub const EVENTS_WRITE: &str = "events:write";
/// Keys, sources and what was turned away, of the key's own tenant.
pub const ADMIN: &str = "admin";
/// The same for every tenant, and the switches.
pub const OPERATOR: &str = "operator";

/// What a key may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Scopes {
    /// Each matches on `*`, exactly, or `prefix:*`.
    pub permissions: Vec<String>,
    /// What bounds the permissions.
    #[serde(default)]
    pub constraints: Constraints,
}

/// Bounds of a key. An empty list allows all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Constraints {
    /// Environments (last `/` segment of `source`).
    pub env_allowlist: Vec<String>,
    /// Items a minute; 0 is unlimited.
    pub max_rpm: u32,
    /// Requests in flight; 0 is unlimited.
    pub max_concurrency: u32,
    /// KiB of an item.
    pub max_payload_kb: u32,
    /// Adapters of commands.
    pub allowed_adapters: Vec<String>,
    /// Workflows, for commands too.
    pub allowed_workflows: Vec<AllowedWorkflow>,
    /// Types, workflows and tools that a person has to approve.
    pub approvals_required_for: Vec<String>,
}

/// A workflow that a key may start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AllowedWorkflow {
    /// Its name.
    pub name: String,
    /// Its version; absent means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

impl Default for Constraints {
    fn default() -> Self {
        Self {
            env_allowlist: Vec::new(),
            max_rpm: 60,
            max_concurrency: 5,
            max_payload_kb: 256,
            allowed_adapters: Vec::new(),
            allowed_workflows: Vec::new(),
            approvals_required_for: Vec::new(),
        }
    }
}

impl Scopes {
    /// Everything, unlimited: the first key's.
    pub fn all() -> Self {
        Self {
            permissions: vec!["*".into()],
            constraints: Constraints {
                max_rpm: 0,
                max_concurrency: 0,
                // The port's own limits are the only ones left.
                max_payload_kb: u32::MAX,
                ..Constraints::default()
            },
        }
    }

    /// Whether a permission is granted.
    pub fn permits(&self, permission: &str) -> bool {
        self.permissions
            .iter()
            .any(|granted| covers(granted, permission))
    }

    /// What of `other` a holder of these scopes lacks, and so may not grant; for people.
    pub fn lacks(&self, other: &Self) -> Option<String> {
        if let Some(p) = other.permissions.iter().find(|p| !self.permits(p)) {
            return Some(format!("permission `{p}`"));
        }
        let (mine, theirs) = (&self.constraints, &other.constraints);
        let number = |mine: u32, theirs: u32| mine != 0 && (theirs == 0 || theirs > mine);
        let list = |mine: &[String], theirs: &[String]| {
            !mine.is_empty() && (theirs.is_empty() || theirs.iter().any(|t| !mine.contains(t)))
        };
        let workflow = |t: &AllowedWorkflow| {
            mine.allowed_workflows
                .iter()
                .any(|m| m.name == t.name && (m.version.is_none() || m.version == t.version))
        };
        let wider = [
            ("max_rpm", number(mine.max_rpm, theirs.max_rpm)),
            (
                "max_concurrency",
                number(mine.max_concurrency, theirs.max_concurrency),
            ),
            (
                "max_payload_kb",
                theirs.max_payload_kb > mine.max_payload_kb,
            ),
            (
                "env_allowlist",
                list(&mine.env_allowlist, &theirs.env_allowlist),
            ),
            (
                "allowed_adapters",
                list(&mine.allowed_adapters, &theirs.allowed_adapters),
            ),
            (
                "allowed_workflows",
                !mine.allowed_workflows.is_empty()
                    && (theirs.allowed_workflows.is_empty()
                        || !theirs.allowed_workflows.iter().all(workflow)),
            ),
            // This one forces approvals: granting fewer of them is granting more.
            (
                "approvals_required_for",
                mine.approvals_required_for
                    .iter()
                    .any(|m| !theirs.approvals_required_for.contains(m)),
            ),
        ];
        let (name, _) = wider.into_iter().find(|(_, wider)| *wider)?;
        Some(format!(
            "constraint `{name}`, which may not be wider than one's own"
        ))
    }

    /// What is wrong with the form of these scopes; for people.
    pub fn problem(&self) -> Option<String> {
        let texts = |list: &[String]| {
            list.len() > 1000 || list.iter().any(|t| t.is_empty() || t.len() > 512)
        };
        let c = &self.constraints;
        if self.permissions.is_empty() {
            return Some("`scopes.permissions` must hold at least one permission".into());
        }
        let lists = [
            &self.permissions,
            &c.env_allowlist,
            &c.allowed_adapters,
            &c.approvals_required_for,
        ];
        if lists.into_iter().any(|l| texts(l)) || c.allowed_workflows.len() > 1000 {
            return Some("`scopes` may hold 1,000 entries a list, of 1 to 512 bytes each".into());
        }
        if let Some(p) = self.permissions.iter().find(|p| !is_permission(p)) {
            return Some(format!(
                "`{p}` is no permission: they are `*`, `name` or `prefix:*`"
            ));
        }
        (c.max_payload_kb == 0).then(|| "`max_payload_kb` must be at least 1".into())
    }
}

/// A `*` stands alone or at the end, after a `:`; elsewhere it would match nothing.
fn is_permission(p: &str) -> bool {
    let stem = p.strip_suffix(":*").unwrap_or(p);
    p == "*" || (!stem.is_empty() && !stem.contains('*') && !stem.contains(char::is_whitespace))
}

/// Whether holding `granted` includes `asked`, which may itself be a pattern.
fn covers(granted: &str, asked: &str) -> bool {
    match granted.strip_suffix('*') {
        Some("") => true,
        Some(prefix) if prefix.ends_with(':') => asked.starts_with(prefix),
        _ => granted == asked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(permissions: &[&str]) -> Scopes {
        Scopes {
            permissions: permissions.iter().map(ToString::to_string).collect(),
            constraints: Constraints::default(),
        }
    }

    #[test]
    fn permissions_match_exactly_or_by_prefix() {
        let held = scopes(&["events:write", "commands:*"]);
        assert!(held.permits("events:write"));
        assert!(held.permits("commands:expense.pay"));
        assert!(held.permits("commands:*"));
        for lacking in [
            "events:*",
            "events",
            "commands",
            "admin",
            "*",
            "commandsx:y",
        ] {
            assert!(!held.permits(lacking), "{lacking}");
        }
        assert!(scopes(&["*"]).permits("anything:at:all"));
    }

    #[test]
    fn nobody_grants_what_they_lack() {
        let mut mine = scopes(&["admin", "events:write"]);
        assert_eq!(mine.lacks(&scopes(&["events:write"])), None);
        assert!(mine.lacks(&scopes(&["*"])).is_some());
        assert!(mine.lacks(&Scopes::all()).is_some());
        assert_eq!(Scopes::all().lacks(&Scopes::all()), None);

        let mut theirs = scopes(&["events:write"]);
        theirs.constraints.max_rpm = 0;
        assert!(mine.lacks(&theirs).is_some());
        theirs.constraints.max_rpm = 61;
        assert!(mine.lacks(&theirs).is_some());
        theirs.constraints.max_rpm = 60;
        mine.constraints.env_allowlist = vec!["prod".into()];
        assert!(mine.lacks(&theirs).is_some());
        theirs.constraints.env_allowlist = vec!["prod".into()];
        assert_eq!(mine.lacks(&theirs), None);
        mine.constraints.approvals_required_for = vec!["pay".into()];
        assert!(mine.lacks(&theirs).is_some());
    }
}
