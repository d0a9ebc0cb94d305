//! As much of JSON Schema 2020-12 as the OpenAPI document uses: enough to hold answers against it. Formats and patterns are left out.

use serde_json::Value;

/// What of `value` is not as `schema` says; `root` is what references lead into.
pub fn errors(root: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    check(root, schema, value, "", &mut found);
    found
}

fn is_type(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|n| n.fract() == 0.0),
        other => panic!("there is no type `{other}`"),
    }
}

fn check(root: &Value, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    let Some(schema) = schema.as_object() else {
        if *schema == Value::Bool(false) {
            found.push(format!("{at}: nothing may stand here"));
        }
        return;
    };
    let fits = |schema: &Value| errors(root, schema, value).is_empty();
    let many = |schemas: &Value| {
        schemas
            .as_array()
            .unwrap()
            .iter()
            .filter(|s| fits(s))
            .count()
    };
    for (keyword, given) in schema {
        let good = match keyword.as_str() {
            "$ref" => {
                let pointer = given.as_str().unwrap().strip_prefix('#').unwrap();
                check(root, root.pointer(pointer).unwrap(), value, at, found);
                true
            }
            "type" => match given {
                Value::String(name) => is_type(value, name),
                names => {
                    let mut names = names.as_array().unwrap().iter();
                    names.any(|name| is_type(value, name.as_str().unwrap()))
                }
            },
            "const" => given == value,
            "enum" => given.as_array().unwrap().contains(value),
            "minimum" => value.as_f64().is_none_or(|n| n >= given.as_f64().unwrap()),
            "maximum" => value.as_f64().is_none_or(|n| n <= given.as_f64().unwrap()),
            "anyOf" => many(given) > 0,
            "oneOf" => many(given) == 1,
            "allOf" => {
                for part in given.as_array().unwrap() {
                    check(root, part, value, at, found);
                }
                true
            }
            "required" => {
                for name in given.as_array().unwrap() {
                    if value.is_object() && value.get(name.as_str().unwrap()).is_none() {
                        found.push(format!("{at}: {name} is required"));
                    }
                }
                true
            }
            "properties" => {
                for (name, schema) in given.as_object().unwrap() {
                    if let Some(value) = value.get(name) {
                        check(root, schema, value, &format!("{at}/{name}"), found);
                    }
                }
                true
            }
            "additionalProperties" => {
                for (name, value) in value.as_object().into_iter().flatten() {
                    if schema
                        .get("properties")
                        .is_none_or(|known| known.get(name).is_none())
                    {
                        check(root, given, value, &format!("{at}/{name}"), found);
                    }
                }
                true
            }
            "prefixItems" => {
                let items = value.as_array().into_iter().flatten();
                for (item, schema) in items.zip(given.as_array().unwrap()) {
                    check(root, schema, item, at, found);
                }
                true
            }
            "items" => {
                let before = schema.get("prefixItems").and_then(Value::as_array);
                let items = value.as_array().into_iter().flatten();
                for item in items.skip(before.map_or(0, Vec::len)) {
                    check(root, given, item, &format!("{at}/*"), found);
                }
                true
            }
            "minItems" => value
                .as_array()
                .is_none_or(|v| v.len() as u64 >= given.as_u64().unwrap()),
            "maxItems" => value
                .as_array()
                .is_none_or(|v| v.len() as u64 <= given.as_u64().unwrap()),
            "minLength" | "maxLength" | "pattern" | "format" | "contentEncoding" | "title"
            | "description" | "default" => true,
            other => panic!("{at}: `{other}` is not known here"),
        };
        if !good {
            found.push(format!("{at}: {value} is not {keyword} {given}"));
        }
    }
}
