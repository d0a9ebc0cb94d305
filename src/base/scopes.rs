//! What a key may do: permissions, and constraints on them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// May write events.
pub const EVENTS_WRITE: &str = "events:write";
/// May do everything in its own tenant, such as managing keys and reader grants, but for [`OPERATOR`] and [`ACT_AS`].
pub const ADMIN: &str = "admin";
/// May do so for every tenant, and run operations such as rebuild and redrive.
pub const OPERATOR: &str = "operator";
/// May name the user for whom a request is made (`on_behalf_of`).
pub const ACT_AS: &str = "act_as";

/// Permissions and constraints of a key, in the JSON form of the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Scopes {
    /// Each is `*`, an exact name, or `prefix:*`. `*` holds all; `admin` holds all but `operator` and `act_as`; `X:write` holds
    /// `X:read`, and `X:read` holds `X:read:own`.
    pub permissions: Vec<String>,
    /// Limits of the key.
    #[serde(default)]
    pub constraints: Constraints,
}

/// Limits of a key. An empty list allows everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Constraints {
    /// Allowed environments (the last `/` segment of `source`).
    pub env_allowlist: Vec<String>,
    /// Items per minute; 0 is unlimited.
    pub max_rpm: u32,
    /// Concurrent requests; 0 is unlimited.
    pub max_concurrency: u32,
    /// Size limit of an item, in KiB.
    pub max_payload_kb: u32,
    /// Allowed adapters of commands.
    pub allowed_adapters: Vec<String>,
    /// Allowed workflows, also for commands.
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
    /// Its version; `None` allows all.
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

impl Constraints {
    /// Whether it limits items per minute or concurrent requests.
    pub fn limits_rate(&self) -> bool {
        self.max_rpm != 0 || self.max_concurrency != 0
    }
}

impl Scopes {
    /// All permissions without limits: the scopes of the first key.
    pub fn all() -> Self {
        Self {
            permissions: vec!["*".into()],
            constraints: Constraints {
                max_rpm: 0,
                max_concurrency: 0,
                // Only the limits of the port apply.
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

    /// The first permission or constraint of `other` that exceeds these scopes, so that their holder may not grant it; `None` if
    /// there is none.
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
            // Fewer required approvals are wider.
            (
                "approvals_required_for",
                mine.approvals_required_for
                    .iter()
                    .any(|m| !theirs.approvals_required_for.contains(m)),
            ),
        ];
        let (name, _) = wider.into_iter().find(|(_, wider)| *wider)?;
        Some(format!(
            "constraint `{name}`, which may not be wider than that of your own key"
        ))
    }

    /// Why these scopes are not well-formed; `None` if they are.
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
        if let Some(p) = self.permissions.iter().find(|p| !Self::is_permission(p)) {
            return Some(format!(
                "`{p}` is not a permission: use `*`, `name` or `prefix:*`"
            ));
        }
        (c.max_payload_kb == 0).then(|| "`max_payload_kb` must be at least 1".into())
    }

    /// Whether a text is a permission. A `*` may only stand alone or at the end after a `:`; elsewhere it would match nothing.
    pub fn is_permission(p: &str) -> bool {
        let stem = p.strip_suffix(":*").unwrap_or(p);
        p == "*" || (!stem.is_empty() && !stem.contains('*') && !stem.contains(char::is_whitespace))
    }
}

/// Whether `granted` includes `requested`, which may itself be a pattern.
fn covers(granted: &str, requested: &str) -> bool {
    match granted.strip_suffix('*') {
        Some("") => true,
        Some(prefix) if prefix.ends_with(':') => requested.starts_with(prefix),
        _ if granted == ADMIN => !["*", OPERATOR, ACT_AS].contains(&requested),
        _ => granted == requested || includes(granted, requested),
    }
}

/// Whether the right in `granted` includes that in `requested`, on the same thing: `write` includes `read`, and both `read:own`.
fn includes(granted: &str, requested: &str) -> bool {
    let (thing, rights): (_, &[&str]) = match granted.rsplit_once(':') {
        Some((thing, "write")) => (thing, &["read", "read:own"]),
        Some((thing, "read")) => (thing, &["read:own"]),
        _ => return false,
    };
    let right = requested
        .strip_prefix(thing)
        .and_then(|rest| rest.strip_prefix(':'));
    right.is_some_and(|right| rights.contains(&right))
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
    fn admin_holds_all_but_operator_and_act_as_and_write_holds_read() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            (
                "admin",
                &["admin", "events:write", "runs:read:own", "commands:*"],
                &["operator", "act_as", "*"],
            ),
            (
                "operator",
                &["operator"],
                &["act_as", "admin", "events:write"],
            ),
            ("*", &["operator", "act_as", "admin"], &[]),
            (
                "runs:write",
                &["runs:write", "runs:read", "runs:read:own"],
                &["runs:*", "runs:abandon", "run:read", "events:read"],
            ),
            (
                "runs:read",
                &["runs:read", "runs:read:own"],
                &["runs:write", "runs:reading", "runs:read:all"],
            ),
            ("runs:read:own", &["runs:read:own"], &["runs:read"]),
            ("commands:a:write", &["commands:a:read"], &["commands:read"]),
            ("write", &["write"], &["read", ":read"]),
        ];
        for (held, permitted, lacking) in cases {
            let held = scopes(&[held]);
            for permission in *permitted {
                assert!(held.permits(permission), "{held:?} {permission}");
                assert_eq!(held.lacks(&scopes(&[permission])), None);
            }
            for permission in *lacking {
                assert!(!held.permits(permission), "{held:?} {permission}");
                assert!(held.lacks(&scopes(&[permission])).is_some());
            }
        }
    }

    #[test]
    fn a_key_cannot_grant_wider_scopes_than_its_own() {
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
