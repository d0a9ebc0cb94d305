//! The bounds of plans that language models make: hosts and types of events outside the allowlists need a person's approval.

use std::collections::BTreeMap;

use hyper::Uri;
use serde_json::Value;

use crate::plans::Builtin;

/// The reason of a step that may reach a host that is not allowed.
pub const PLANNER_HOST: &str = "planner_host";
/// The reason of a step that may emit an event that is not allowed.
pub const PLANNER_EVENT: &str = "planner_event";

/// What such plans may do without approval.
#[derive(Clone, Debug, Default)]
pub struct Bounds {
    /// `allow.planner_hosts`, in lower case.
    pub hosts: Vec<String>,
    /// `allow.planner_events`.
    pub events: Vec<String>,
}

impl Bounds {
    /// The steps of a plan that need approval, with the reasons. A step counts with its compensation, which nobody approves later.
    pub(super) fn red(&self, plan: &Value) -> BTreeMap<String, Vec<String>> {
        let mut red: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for step in plan["steps"].as_array().into_iter().flatten() {
            let id = step["id"].as_str().unwrap_or_default();
            let reasons = [step, &step["compensate"]]
                .into_iter()
                .filter_map(|call| self.outside(call));
            for reason in reasons {
                let reasons = red.entry(id.to_owned()).or_default();
                if !reasons.iter().any(|known| known == reason) {
                    reasons.push(reason.to_owned());
                }
            }
        }
        red
    }

    fn outside(&self, call: &Value) -> Option<&'static str> {
        let tool = call["tool"].as_str()?;
        let input = &call["input"];
        if tool == Builtin::Http.name() {
            let host = input["url"].as_str().and_then(host);
            let allowed = host.is_some_and(|host| self.hosts.iter().any(|one| covers(one, &host)));
            return (!allowed).then_some(PLANNER_HOST);
        }
        if tool == Builtin::Emit.name() {
            let kind = input["type"].as_str().filter(|kind| !kind.contains("{{"));
            let allowed = kind.is_some_and(|kind| self.events.iter().any(|one| emits(one, kind)));
            return (!allowed).then_some(PLANNER_EVENT);
        }
        None
    }
}

/// The host of a URL, in lower case; `None` if an expression could change it.
fn host(url: &str) -> Option<String> {
    let fixed = match url.find("{{") {
        None => url,
        Some(at) => {
            let fixed = &url[..at];
            let (_, rest) = fixed.split_once("://")?;
            // Without the end of the authority, what follows could belong to it.
            rest.find(['/', '?', '#'])?;
            fixed
        }
    };
    // A URL needs no path, but this parser does not take a fragment.
    let fixed = fixed.split('#').next()?;
    let uri: Uri = fixed.parse().ok()?;
    uri.host().map(str::to_ascii_lowercase)
}

/// Whether an item of `allow.planner_hosts` covers a host.
fn covers(allowed: &str, host: &str) -> bool {
    match allowed.strip_prefix("*.") {
        Some(domain) => host
            .strip_suffix(domain)
            .is_some_and(|below| below.len() > 1 && below.ends_with('.')),
        None => allowed == host.trim_start_matches('[').trim_end_matches(']'),
    }
}

/// Whether an item of `allow.planner_events` covers a type.
fn emits(allowed: &str, kind: &str) -> bool {
    match allowed.strip_suffix(".*") {
        Some(prefix) => kind
            .strip_prefix(prefix)
            .is_some_and(|below| below.len() > 1 && below.starts_with('.')),
        None => allowed == kind || allowed == "*",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn bounds() -> Bounds {
        Bounds {
            hosts: vec!["api.example.com".into(), "*.shop.example".into()],
            events: vec!["order.paid".into(), "mail.*".into()],
        }
    }

    #[test]
    fn only_hosts_that_are_certainly_allowed_need_no_approval() {
        for (url, allowed) in [
            ("https://api.example.com/x", true),
            ("https://API.example.com", true),
            ("https://a.shop.example/{{ slots.ID }}", true),
            (
                "https://api.example.com/{{ params.x }}?y={{ slots.ID }}",
                true,
            ),
            ("https://shop.example/", false),
            ("https://evil.example/?api.example.com", false),
            ("https://api.example.com@evil.example/", false),
            ("https://api.example.com{{ slots.ID }}/x", false),
            ("https://{{ slots.ID }}/api.example.com", false),
            ("{{ slots.URL }}", false),
            ("https://api.example.com.evil.example/", false),
        ] {
            let plan = json!({ "steps": [{ "id": "a", "tool": "http", "input": { "method": "GET", "url": url } }] });
            assert_eq!(bounds().red(&plan).is_empty(), allowed, "{url}");
        }
    }

    #[test]
    fn events_and_compensations_count() {
        let emit = |kind: &str| json!({ "tool": "emit", "input": { "type": kind, "data": 1 } });
        for (kind, allowed) in [
            ("order.paid", true),
            ("mail.sent", true),
            ("mail", false),
            ("mailer.sent", false),
            ("order.{{ slots.ID }}", false),
        ] {
            let mut step = emit(kind);
            step["id"] = "a".into();
            let plan = json!({ "steps": [step] });
            assert_eq!(bounds().red(&plan).is_empty(), allowed, "{kind}");
        }
        let plan = json!({ "steps": [
            { "id": "a", "tool": "noop", "compensate": emit("order.lost") },
            { "id": "b", "tool": "noop" },
            { "id": "c", "tool": "http", "input": "{{ params }}" }
        ] });
        let expected: BTreeMap<String, Vec<String>> = [
            ("a".to_owned(), vec![PLANNER_EVENT.to_owned()]),
            ("c".to_owned(), vec![PLANNER_HOST.to_owned()]),
        ]
        .into();
        assert_eq!(bounds().red(&plan), expected);
    }
}
