use std::{fmt::Write, fs, path::Path, time::Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Fault, Schema, load};

fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

/// The faults, a line each: file, the text that it is about, message.
fn faults(found: &[Fault], root: &Path) -> String {
    let mut shown = String::new();
    for fault in found {
        let file = fault.file.strip_prefix(root).unwrap().display();
        let at = &fault.text[fault.span.clone()];
        writeln!(shown, "{file} | {at} | {}", fault.message).unwrap();
    }
    shown
}

fn schema(schema: &Value) -> Schema {
    let dir = folder(&[("s.json", &schema.to_string())]);
    Schema::load(&dir.path().join("s.json")).unwrap()
}

fn message(schema: &Schema, value: &Value) -> String {
    let violation = schema.check(&value.to_string()).unwrap_err();
    violation.message("/data", schema.name())
}

#[test]
fn all_faults_of_all_files_are_found_with_their_places() {
    let dir = folder(&[
        (
            "a.json",
            r#"{"type": "strin", "minimum": "1", "properties": {"x": 1}}"#,
        ),
        (
            "b.json",
            r##"{"$ref": "https://example.com/x.json", "properties": {"y": {"$ref": "none.json#/a"}, "z": {"$ref": "#/$defs/no"}, "o": {"$ref": "../a.json"}}}"##,
        ),
        (
            "c.json",
            r#"{"properties": {"x": {"pattern": "(?=a)b"}, "y": {"pattern": "("}, "z": {"format": "dat"}}}"#,
        ),
        (
            "d.json",
            r#"{"$schema": "http://json-schema.org/draft-07/schema#"}"#,
        ),
        ("e.json", r#"{"type": "object", "type": "array"}"#),
        ("f.json", "{"),
        ("g*h.json", "true"),
        ("h%2Ei.json", "true"),
        ("h.i.json", "true"),
        (".hidden.json", "["),
        (".git/x.json", "["),
        ("%ff.json", "true"),
        ("sub/x.json", "[]"),
        ("right.json", r#"{"$ref": "sub/right.json"}"#),
        ("sub/right.json", r#"{"$ref": "../right2.json#/$defs/x"}"#),
        ("right2.json", r#"{"$defs": {"x": {"const": 1}}}"#),
    ]);
    let found = load(dir.path()).err().unwrap();
    let expected = r##"%ff.json |  | the name is not UTF-8 when percent-decoded
a.json | "strin" | "strin" is not valid under any of the schemas listed in the 'anyOf' keyword
a.json | "1" | "1" is not of type "number"
a.json | 1 | 1 is not of types "boolean", "object"
b.json | "https://example.com/x.json" | `https://example.com/x.json` is not in this folder, and references to a network are not followed
b.json | "none.json#/a" | `none.json` cannot be read: No such file or directory (os error 2)
b.json | "#/$defs/no" | Pointer '/$defs/no' does not exist
b.json | "../a.json" | `a.json` is not a valid schema
c.json | "(?=a)b" | "(?=a)b" is not a "regex"
c.json | "(" | "(" is not a "regex"
c.json | "dat" | there is no format "dat"
d.json | "http://json-schema.org/draft-07/schema#" | only JSON Schema 2020-12 is supported
e.json |  | duplicate name "type", at byte 19
f.json |  | not JSON: a name in double quotes was expected, at byte 1
g*h.json |  | `*` can only be at the end of a type
h.i.json |  | `h%2Ei.json` is for the same type
sub/x.json | [] | [] is not of types "boolean", "object"
"##;
    assert_eq!(faults(&found, dir.path()), expected);
}

#[test]
fn data_is_checked_with_its_place() {
    let order = schema(&json!({
        "type": "object",
        "required": ["total", "mail"],
        "properties": {
            "total": { "type": "number", "minimum": 0 },
            "mail": { "format": "email" },
            "items": { "items": { "type": "string", "pattern": "^[A-Z]{2}$" } }
        },
        "unevaluatedProperties": false
    }));
    let good = json!({ "total": 1, "mail": "a@example.com", "items": ["AB"] });
    assert_eq!(order.check(&good.to_string()), Ok(()));
    let mut shown = String::new();
    for bad in [
        json!(1),
        json!({ "mail": "a@example.com" }),
        json!({ "total": -1, "mail": "a@example.com" }),
        json!({ "total": 1, "mail": "secret" }),
        json!({ "total": 1, "mail": "a@example.com", "items": ["AB", "A~"] }),
        json!({ "total": 1, "mail": "a@example.com", "x/y": 1 }),
    ] {
        writeln!(shown, "{}", message(&order, &bad)).unwrap();
    }
    let expected = r#"`/data` does not fit the schema `s.json`: value is not of type "object"
`/data` does not fit the schema `s.json`: "total" is a required property
`/data/total` does not fit the schema `s.json`: value is less than the minimum of 0
`/data/mail` does not fit the schema `s.json`: value is not a "email"
`/data/items/1` does not fit the schema `s.json`: value does not match "^[A-Z]{2}$"
`/data` does not fit the schema `s.json`: Unevaluated properties are not allowed ('x/y' was unexpected)
"#;
    assert_eq!(shown, expected);
}

#[test]
fn numbers_that_no_float_holds_are_refused() {
    let number = schema(&json!({ "type": "number" }));
    assert_eq!(number.check("1e308"), Ok(()));
    let violation = number.check("1e400").unwrap_err();
    let message = violation.message("/data", number.name());
    assert!(message.contains("cannot be checked"), "{message}");
}

/// A tree whose schema refers to itself twice for each level.
fn twice() -> Schema {
    let child = json!({ "properties": { "child": { "$ref": "#" } } });
    schema(&json!({ "allOf": [child, child], "properties": { "bad": false } }))
}

fn nested(depth: usize, leaf: Value) -> Value {
    (0..depth).fold(leaf, |value, _| json!({ "child": value }))
}

#[test]
fn a_check_takes_time_by_the_size_alone() {
    // On a thread of the usual size, as those that check.
    let checked = std::thread::spawn(|| {
        let began = Instant::now();
        let twice = twice();
        assert_eq!(twice.check(&nested(120, json!({})).to_string()), Ok(()));
        let deep = message(&twice, &nested(120, json!({ "bad": 1 })));
        assert!(deep.contains("the place was not searched"), "{deep}");
        let shallow = message(&twice, &nested(3, json!({ "bad": 1 })));
        assert!(
            shallow.starts_with("`/data/child/child/child/bad` does not fit"),
            "{shallow}"
        );
        // A pattern that takes an engine with back-tracking ages.
        let pattern = schema(&json!({ "pattern": "^(([a-z])+.)+[A-Z]([a-z])+$" }));
        pattern
            .check(&json!("a".repeat(200_000)).to_string())
            .unwrap_err();
        let unique = schema(&json!({ "uniqueItems": true }));
        let many: Vec<Value> = (0..20_000).map(|n| json!({ "n": n })).collect();
        assert_eq!(unique.check(&json!(many).to_string()), Ok(()));
        began.elapsed()
    });
    let took = checked.join().unwrap();
    assert!(took.as_secs() < 20, "{took:?}");
}

#[test]
fn the_longest_pattern_wins() {
    let dir = folder(&[
        ("order.paid.json", r#"{"const": 1}"#),
        ("order.*.json", r#"{"const": 2}"#),
        ("order.paid*.json", r#"{"const": 3}"#),
        ("a%2Fb.json", r#"{"const": 4}"#),
        ("é*.json", r#"{"const": 5}"#),
    ]);
    let set = load(dir.path()).ok().unwrap();
    assert_eq!(set.len(), 5);
    let number = |kind: &str| {
        let schema = set.of(kind)?;
        (1..=5).find(|n: &u8| schema.check(&n.to_string()).is_ok())
    };
    for (kind, expected) in [
        ("order.paid", Some(1)),
        ("order.paid.late", Some(3)),
        ("order.sent", Some(2)),
        ("order.", Some(2)),
        ("order", None),
        ("a/b", Some(4)),
        ("éa", Some(5)),
        ("è", None),
        ("", None),
    ] {
        assert_eq!(number(kind), expected, "{kind}");
    }
    let all = load(folder(&[("*.json", "true")]).path()).ok().unwrap();
    assert!(all.of("x").is_some());
    assert!(load(Path::new("no/such/folder")).ok().unwrap().is_empty());
}

#[test]
fn references_lead_to_files_of_the_folder() {
    let dir = folder(&[
        (
            "order.json",
            r#"{"properties": {"a": {"$ref": "parts/money.json"}, "b": {"$ref": "parts/money.json#/$defs/code"}, "c": {"$ref": "https://example.com/id.json"}}}"#,
        ),
        (
            "parts/money.json",
            r#"{"type": "number", "$defs": {"code": {"const": "EUR"}}}"#,
        ),
        (
            "parts/other.json",
            r#"{"$id": "https://example.com/id.json", "const": "id", "$comment": "known by its id"}"#,
        ),
    ]);
    let set = load(dir.path()).ok().unwrap();
    assert_eq!(set.len(), 1);
    let order = set.of("order").unwrap();
    assert_eq!(order.check(r#"{"a": 1, "b": "EUR", "c": "id"}"#), Ok(()));
    for bad in [json!({"a": "1"}), json!({"b": "USD"}), json!({"c": "x"})] {
        order.check(&bad.to_string()).unwrap_err();
    }
    // A change of what it refers to is a change.
    let file = dir.path().join("order.json");
    let (one, same) = (Schema::load(&file).unwrap(), Schema::load(&file).unwrap());
    assert!(one.is_same(&same));
    fs::write(
        dir.path().join("parts/money.json"),
        r#"{"$defs": {"code": true}}"#,
    )
    .unwrap();
    assert!(!one.is_same(&Schema::load(&file).unwrap()));
}
