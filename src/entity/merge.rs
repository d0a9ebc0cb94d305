//! JSON merge patch (RFC 7396) on text: numbers keep their digits, and no tree is built.
//!
//! Both inputs must be valid JSON, which admission has checked. Keys are compared unescaped: `"a"` and `"\u0061"` are equal.

use std::borrow::Cow;

use memchr::{memchr2, memmem};

/// A patch with at least this many members is searched by binary search.
const BINARY_SEARCH_FROM: usize = 16;

/// Whether JSON text is an object.
pub(super) fn is_object(json: &[u8]) -> bool {
    json.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{')
}

/// Appends to `out` the result of applying the object `patch` to the object `target`.
pub(super) fn merge(target: &[u8], patch: &[u8], out: &mut Vec<u8>) {
    let members = Patch::of(patch);
    let mut used = vec![false; members.list.len()];
    out.push(b'{');
    let start = out.len();
    let mut expected = 0;
    for (raw_key, value) in Members::of(target) {
        let Some(at) = members.find(raw_key, expected) else {
            member(raw_key, value, start, out);
            continue;
        };
        expected = at + 1;
        used[at] = true;
        let new = members.list[at].value;
        if new == b"null" {
            continue;
        }
        if !is_object(new) {
            member(raw_key, new, start, out);
            continue;
        }
        key(raw_key, start, out);
        if is_object(value) {
            merge(value, new, out);
        } else {
            without_nulls(new, out);
        }
    }
    for (at, added) in members.list.iter().enumerate() {
        if !used[at] && added.value != b"null" {
            key(added.raw_key, start, out);
            without_nulls(added.value, out);
        }
    }
    out.push(b'}');
}

/// Appends a patch value that has no target: members that are `null` are removed from objects, at any depth.
pub(super) fn without_nulls(value: &[u8], out: &mut Vec<u8>) {
    if !is_object(value) || memmem::find(value, b"null").is_none() {
        out.extend_from_slice(value.trim_ascii());
        return;
    }
    out.push(b'{');
    let start = out.len();
    for (raw_key, value) in Members::of(value) {
        if value != b"null" {
            key(raw_key, start, out);
            without_nulls(value, out);
        }
    }
    out.push(b'}');
}

fn member(raw_key: &[u8], value: &[u8], start: usize, out: &mut Vec<u8>) {
    key(raw_key, start, out);
    out.extend_from_slice(value);
}

/// Appends a key with its quotes, unchanged, and a comma before it unless it is the first.
fn key(raw_key: &[u8], start: usize, out: &mut Vec<u8>) {
    if out.len() > start {
        out.push(b',');
    }
    out.extend_from_slice(raw_key);
    out.push(b':');
}

struct PatchMember<'a> {
    raw_key: &'a [u8],
    key: Cow<'a, [u8]>,
    value: &'a [u8],
}

/// The members of a patch, for lookup by key.
struct Patch<'a> {
    list: Vec<PatchMember<'a>>,
    /// Indices in the order of the keys; empty if the patch has few members.
    sorted: Vec<usize>,
}

impl<'a> Patch<'a> {
    fn of(patch: &'a [u8]) -> Self {
        let list: Vec<_> = Members::of(patch)
            .map(|(raw_key, value)| PatchMember {
                raw_key,
                key: unescaped(raw_key),
                value,
            })
            .collect();
        let mut sorted = Vec::new();
        if list.len() >= BINARY_SEARCH_FROM {
            sorted.extend(0..list.len());
            sorted.sort_by(|a: &usize, b: &usize| list[*a].key.cmp(&list[*b].key));
        }
        Self { list, sorted }
    }

    /// The index of a key. `expected` is its index if target and patch have the same order, which events of one producer usually do.
    fn find(&self, raw_key: &[u8], expected: usize) -> Option<usize> {
        let wanted = unescaped(raw_key);
        if self.list.get(expected).is_some_and(|m| m.key == wanted) {
            return Some(expected);
        }
        if self.sorted.is_empty() {
            return self.list.iter().position(|m| m.key == wanted);
        }
        let at = self
            .sorted
            .binary_search_by(|i| self.list[*i].key.as_ref().cmp(&wanted));
        at.ok().map(|at| self.sorted[at])
    }
}

/// A key without quotes and escapes.
fn unescaped(raw_key: &[u8]) -> Cow<'_, [u8]> {
    let inner = raw_key.get(1..raw_key.len() - 1).unwrap_or_default();
    if !inner.contains(&b'\\') {
        return Cow::Borrowed(inner);
    }
    // The key was checked before, so this does not fail; if it did, the raw text would be compared.
    match serde_json::from_slice::<String>(raw_key) {
        Ok(text) => Cow::Owned(text.into_bytes()),
        Err(_) => Cow::Borrowed(inner),
    }
}

/// Iterates over the members of an object: the key with its quotes, and the value without surrounding white space.
struct Members<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Members<'a> {
    fn of(object: &'a [u8]) -> Self {
        let mut members = Self {
            text: object,
            at: 0,
        };
        members.skip_to(b'{');
        members
    }

    /// Skips to the position after the next `byte`.
    fn skip_to(&mut self, byte: u8) {
        while let Some(b) = self.text.get(self.at) {
            self.at += 1;
            if *b == byte {
                return;
            }
        }
    }

    /// Reads a string, with its quotes.
    fn string(&mut self) -> &'a [u8] {
        let start = self.at;
        self.at += 1;
        while let Some(found) = memchr2(b'"', b'\\', self.text.get(self.at..).unwrap_or_default()) {
            self.at += found;
            if self.text[self.at] == b'"' {
                self.at += 1;
                return &self.text[start..self.at];
            }
            self.at += 2;
        }
        self.at = self.text.len();
        &self.text[start..]
    }

    fn value(&mut self) -> &'a [u8] {
        let start = self.at;
        let mut depth = 0_usize;
        while let Some(b) = self.text.get(self.at) {
            match b {
                b'"' => {
                    self.string();
                    if depth == 0 {
                        break;
                    }
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' | b',' if depth == 0 => break,
                b'}' | b']' => {
                    depth -= 1;
                    if depth == 0 {
                        self.at += 1;
                        break;
                    }
                }
                _ => {}
            }
            self.at += 1;
        }
        self.text[start..self.at].trim_ascii_end()
    }

    fn skip_space(&mut self) {
        while self.text.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.text.get(self.at)? {
                b'"' => break,
                b'}' => return None,
                _ => self.at += 1,
            }
        }
        let key = self.string();
        self.skip_to(b':');
        self.skip_space();
        Some((key, self.value()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::*;

    /// The pseudo-code of the RFC.
    fn reference(target: Value, patch: &Value) -> Value {
        let Value::Object(patch) = patch else {
            return patch.clone();
        };
        let mut target = match target {
            Value::Object(members) => members,
            _ => Map::new(),
        };
        for (key, value) in patch {
            if value.is_null() {
                target.remove(key);
            } else {
                let old = target.remove(key).unwrap_or(Value::Null);
                target.insert(key.clone(), reference(old, value));
            }
        }
        Value::Object(target)
    }

    fn merged(target: &str, patch: &str) -> String {
        let mut out = Vec::new();
        merge(target.as_bytes(), patch.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn examples_of_the_rfc() {
        let cases = [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, "{}"),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
            (
                r#"{"a":{"b":"c"}}"#,
                r#"{"a":{"b":"d","c":null}}"#,
                r#"{"a":{"b":"d"}}"#,
            ),
            (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#),
            ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
            // Beyond the RFC's examples: white space, escapes, brackets in text, unchanged digits.
            (
                " { \"a\" : 1.10 , \"b\" : [ 1, {\"x\":\"]}\"} ] } ",
                r#"{"c":1e400}"#,
                r#"{"a":1.10,"b":[ 1, {"x":"]}"} ],"c":1e400}"#,
            ),
            (
                r#"{"a":1,"\"q\\":2}"#,
                r#"{"\u0061":3,"\u0022q\u005c":null}"#,
                r#"{"a":3}"#,
            ),
            (
                r#"{"a":{"x":1}}"#,
                r#"{"a":[null,{"y":null}]}"#,
                r#"{"a":[null,{"y":null}]}"#,
            ),
        ];
        for (target, patch, expected) in cases {
            assert_eq!(merged(target, patch), expected, "{target} + {patch}");
        }
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            3 => Just(Value::Null),
            1 => any::<bool>().prop_map(Value::from),
            1 => any::<i64>().prop_map(Value::from),
            2 => "[a\"\\\\{}\\[\\]:, \u{e9}\u{1f600}]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 64, 8, |inner| {
            prop_oneof![
                1 => prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                3 => object(inner),
            ]
        })
    }

    fn object(inner: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
        // Few distinct keys, so that both objects share some; sometimes more than `BINARY_SEARCH_FROM`.
        prop::collection::btree_map("[abé\"\\\\]{0,2}", inner, 0..24)
            .prop_map(|members| Value::Object(members.into_iter().collect()))
    }

    proptest! {
        #[test]
        fn merging_agrees_with_the_reference(target in object(json()), patch in object(json()), pretty: bool) {
            let write = |v: &Value| if pretty { serde_json::to_string_pretty(v) } else { serde_json::to_string(v) }.unwrap();
            let merged = merged(&write(&target), &write(&patch));
            let value: Value = serde_json::from_str(&merged).expect(&merged);
            prop_assert_eq!(value, reference(target, &patch));
        }
    }
}
