//! The trace context of a request (W3C Trace Context, level 1).

use std::borrow::Cow;

use super::{
    Event,
    json::{has_member, put_string},
};

/// The longest `tracestate` that is kept, in bytes: the standard requires at least this much to be propagated.
const STATE_MAX: usize = 512;
/// The most members of a `tracestate`, by the standard.
const STATE_MEMBERS: usize = 32;

/// Valid values of the headers `traceparent` and `tracestate`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TraceContext<'a> {
    parent: &'a str,
    state: Option<Cow<'a, str>>,
}

impl<'a> TraceContext<'a> {
    /// Reads the values of all headers with these names. Returns `None` if there is no `traceparent`, more than one, or an invalid one. An
    /// invalid `tracestate` is dropped.
    pub fn of(
        mut parents: impl Iterator<Item = &'a [u8]>,
        states: impl Iterator<Item = &'a [u8]>,
    ) -> Option<Self> {
        let parent = parents.next()?;
        if parents.next().is_some() {
            return None;
        }
        let parent = std::str::from_utf8(parent).ok().map(str::trim)?;
        is_parent(parent).then(|| Self {
            parent,
            state: state(states),
        })
    }
}

impl TraceContext<'_> {
    /// The value of `traceparent`.
    pub fn parent(&self) -> &str {
        self.parent
    }

    /// The value of `tracestate`.
    pub fn state(&self) -> Option<&str> {
        self.state.as_deref()
    }
}

impl Event<'_> {
    /// Adds the trace context of the event's request to the extensions, unless the event has one of its own.
    pub fn keep_trace(&mut self, trace: &TraceContext<'_>) {
        if has_member(&self.extensions, "traceparent") || has_member(&self.extensions, "tracestate")
        {
            return;
        }
        let object = self.extensions.trim_end();
        let open = object.strip_suffix('}').unwrap_or(object);
        let mut out = open.to_owned().into_bytes();
        let mut put = |name: &str, value: &str| {
            if out.len() > 1 {
                out.push(b',');
            }
            put_string(name, &mut out);
            out.push(b':');
            put_string(value, &mut out);
        };
        put("traceparent", trace.parent);
        if let Some(state) = &trace.state {
            put("tracestate", state);
        }
        out.push(b'}');
        // Concatenated from valid UTF-8, so this does not fail.
        if let Ok(text) = String::from_utf8(out) {
            self.extensions = Cow::Owned(text);
        }
    }
}

/// Checks `{version}-{trace id}-{parent id}-{flags}`, in lower-case hexadecimal. Later versions may append more after a hyphen.
fn is_parent(text: &str) -> bool {
    let Some((known, more)) = text.split_at_checked(55) else {
        return false;
    };
    let mut parts = known.split('-');
    let mut hex = |digits: usize| {
        parts.next().filter(|part| {
            let is_hex = |b: u8| b.is_ascii_digit() || matches!(b, b'a'..=b'f');
            part.len() == digits && part.bytes().all(is_hex)
        })
    };
    let (Some(version), Some(trace), Some(parent), Some(_flags)) =
        (hex(2), hex(32), hex(16), hex(2))
    else {
        return false;
    };
    let some = |id: &str| id.bytes().any(|b| b != b'0');
    let ends = match version {
        "00" => more.is_empty(),
        "ff" => false,
        _ => more.is_empty() || more.starts_with('-'),
    };
    ends && some(trace) && some(parent) && more.bytes().all(|b| b.is_ascii_graphic())
}

/// Joins the members of all headers, in order; `None` if there are none or one of them is invalid.
fn state<'a>(mut states: impl Iterator<Item = &'a [u8]>) -> Option<Cow<'a, str>> {
    let first = std::str::from_utf8(states.next()?).ok()?;
    let mut whole = Cow::Borrowed(first.trim());
    for more in states {
        let more = std::str::from_utf8(more).ok()?.trim();
        let joined = whole.to_mut();
        joined.push(',');
        joined.push_str(more);
        if joined.len() > STATE_MAX {
            return None;
        }
    }
    let members = || {
        let members = whole.split(',').map(|m| m.trim_matches([' ', '\t']));
        members.filter(|member| !member.is_empty())
    };
    let count = members().count();
    let good = (1..=STATE_MEMBERS).contains(&count) && members().all(is_member);
    (good && whole.len() <= STATE_MAX).then_some(whole)
}

fn is_member(member: &str) -> bool {
    let Some((key, value)) = member.split_once('=') else {
        return false;
    };
    let in_key = |b: u8| {
        b.is_ascii_lowercase()
            || b.is_ascii_digit()
            || matches!(b, b'_' | b'-' | b'*' | b'/' | b'@')
    };
    let in_value = |b: u8| matches!(b, 0x20..=0x7e) && b != b'=';
    let begins = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    key.as_bytes().first().is_some_and(begins)
        && key.len() <= 256
        && key.bytes().all(in_key)
        && (1..=256).contains(&value.len())
        && value.bytes().all(in_value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::{clock::Millis, id::Tenant},
        envelope::{Form, parse_structured},
    };

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn context<'a>(parents: &[&'a str], states: &[&'a str]) -> Option<TraceContext<'a>> {
        let bytes = |texts: &[&'a str]| texts.iter().map(|t| t.as_bytes()).collect::<Vec<_>>();
        TraceContext::of(bytes(parents).into_iter(), bytes(states).into_iter())
    }

    #[test]
    fn invalid_trace_contexts_are_ignored() {
        for parent in [
            PARENT,
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        ] {
            assert_eq!(context(&[parent], &[]).unwrap().parent, parent);
        }
        for bad in [
            "",
            "x",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0é",
        ] {
            assert_eq!(context(&[bad], &["a=1"]), None, "{bad}");
        }
        assert_eq!(context(&[PARENT, PARENT], &[]), None);
        let state = |states: &[&'static str]| {
            let state = context(&[PARENT], states).unwrap().state;
            state.map(Cow::into_owned)
        };
        assert_eq!(
            state(&["a=1", " b@c=\"2\\\" "]).as_deref(),
            Some("a=1,b@c=\"2\\\"")
        );
        assert_eq!(state(&["a=1,,b=2"]).as_deref(), Some("a=1,,b=2"));
        for bad in ["", "a", "A=1", "a=", "=1", "a=\u{7f}", "a=b=c"] {
            assert_eq!(state(&[bad]), None, "{bad}");
        }
        let long = Box::leak(format!("a={}", "x".repeat(256)).into_boxed_str());
        assert!(state(&[long]).is_some());
        assert_eq!(state(&[long, "b=1", long]), None);
    }

    #[test]
    fn an_envelope_with_a_trace_context_keeps_its_own() {
        let kept = |more: &str| {
            let text = format!(r#"{{"id":"1","source":"/s","type":"t","data":1{more}}}"#);
            let tenant = Tenant::new("acme").unwrap();
            let parsed = parse_structured(text.as_bytes(), Form::OmniLink, &tenant, Millis(1));
            let mut event = parsed.unwrap().event.into_owned();
            event.keep_trace(&context(&[PARENT], &["a=\"1\""]).unwrap());
            event.check().unwrap();
            serde_json::from_str::<serde_json::Value>(&event.extensions).unwrap()
        };
        assert_eq!(
            kept(""),
            serde_json::json!({ "traceparent": PARENT, "tracestate": "a=\"1\"" })
        );
        assert_eq!(
            kept(r#","x":"{}""#),
            serde_json::json!({ "x": "{}", "traceparent": PARENT, "tracestate": "a=\"1\"" })
        );
        let own = serde_json::json!({ "traceparent": "own" });
        assert_eq!(kept(r#","traceparent":"own""#), own);
    }
}
