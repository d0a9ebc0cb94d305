//! Finds the place of a value in a JSON text by its JSON pointer.

use std::{borrow::Cow, ops::Range};

/// The bytes of the value that a JSON pointer (RFC 6901) leads to, in a valid JSON text. If it leads nowhere, those of the deepest
/// value on its way.
pub(super) fn of_value(text: &str, pointer: &str) -> Range<usize> {
    let mut cursor = Cursor { text, at: 0 };
    cursor.spaces();
    for segment in pointer.split('/').skip(1) {
        let segment = segment.replace("~1", "/").replace("~0", "~");
        let begin = cursor.at;
        if !cursor.enter(&segment) {
            cursor.at = begin;
            break;
        }
    }
    let begin = cursor.at;
    cursor.skip();
    begin..cursor.at
}

struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl Cursor<'_> {
    fn peek(&self) -> u8 {
        self.text.as_bytes().get(self.at).copied().unwrap_or(b' ')
    }

    fn spaces(&mut self) {
        let bytes = self.text.as_bytes();
        while bytes.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
    }

    /// The end of a string, its quotes included.
    fn string_end(&self) -> usize {
        let mut escaped = false;
        let rest = self.text.as_bytes().iter().enumerate().skip(self.at + 1);
        for (at, byte) in rest {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => return at + 1,
                _ => {}
            }
        }
        self.text.len()
    }

    fn name(&mut self) -> Cow<'static, str> {
        let end = self.string_end();
        let name = serde_json::from_str::<String>(&self.text[self.at..end]);
        self.at = end;
        name.map_or(Cow::Borrowed(""), Cow::Owned)
    }

    /// Goes past a value.
    fn skip(&mut self) {
        let mut depth = 0;
        loop {
            match self.peek() {
                b'"' => self.at = self.string_end(),
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' => {
                    depth -= 1;
                    self.at += 1;
                }
                _ => self.at += 1,
            }
            let ends = depth == 0
                && matches!(
                    self.peek(),
                    b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t'
                );
            if ends || self.at >= self.text.len() {
                self.at = self.at.min(self.text.len());
                return;
            }
        }
    }

    /// Goes to a member's value or an item; `false`: there is none of that name or number.
    fn enter(&mut self, segment: &str) -> bool {
        let object = match self.peek() {
            b'{' => true,
            b'[' => false,
            _ => return false,
        };
        self.at += 1;
        for index in 0_usize.. {
            self.spaces();
            if !object && self.peek() != b']' && segment.parse() == Ok(index) {
                return true;
            }
            if object && self.peek() == b'"' {
                let name = self.name();
                self.spaces();
                self.at += 1;
                self.spaces();
                if name == segment {
                    return true;
                }
            }
            if matches!(self.peek(), b'}' | b']') || self.at >= self.text.len() {
                return false;
            }
            self.skip();
            self.spaces();
            if self.peek() != b',' {
                return false;
            }
            self.at += 1;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn found<'a>(text: &'a str, pointer: &str) -> &'a str {
        &text[of_value(text, pointer)]
    }

    #[test]
    fn a_pointer_leads_to_its_value() {
        let text = r#" { "a/b" : [ 1, {"x": "}\"]"}, [] ], "": null, "n": -1.5e3 } "#;
        for (pointer, value) in [
            ("", text.trim()),
            ("/a~1b", r#"[ 1, {"x": "}\"]"}, [] ]"#),
            ("/a~1b/0", "1"),
            ("/a~1b/1/x", r#""}\"]""#),
            ("/a~1b/2", "[]"),
            ("/", "null"),
            ("/n", "-1.5e3"),
            // Where it leads nowhere: as far as it leads.
            ("/a~1b/3", r#"[ 1, {"x": "}\"]"}, [] ]"#),
            ("/n/x", "-1.5e3"),
        ] {
            assert_eq!(found(text, pointer), value, "{pointer}");
        }
    }

    fn pointers(value: &Value, at: &str, out: &mut Vec<(String, Value)>) {
        out.push((at.to_owned(), value.clone()));
        match value {
            Value::Object(members) => {
                for (name, value) in members {
                    let name = name.replace('~', "~0").replace('/', "~1");
                    pointers(value, &format!("{at}/{name}"), out);
                }
            }
            Value::Array(items) => {
                for (index, value) in items.iter().enumerate() {
                    pointers(value, &format!("{at}/{index}"), out);
                }
            }
            _ => {}
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i32>().prop_map(|n| json!(n)),
            any::<String>().prop_map(Value::String)
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                prop::collection::btree_map("[a-c~/\"\\\\é]{0,2}", inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_pointer_of_a_text_leads_to_its_value(value in any_json(), pretty: bool) {
            let text = if pretty { format!("{value:#}") } else { value.to_string() };
            let mut all = Vec::new();
            pointers(&value, "", &mut all);
            for (pointer, value) in all {
                let read: Value = serde_json::from_str(found(&text, &pointer)).unwrap();
                prop_assert_eq!(read, value);
            }
        }
    }
}
