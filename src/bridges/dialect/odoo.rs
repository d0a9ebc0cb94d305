//! The dialect `odoo-native`: the action "Send Webhook Notification" of Odoo 17, 18 and 19 (`_run_action_webhook` in its
//! `odoo/addons/base/models/ir_actions.py`). It posts `json.dumps({"_model", "_id", "_action", …fields}, sort_keys=True)` once, waits one
//! second for the answer, does not sign, and sends neither id nor time.

use std::borrow::Cow;

use crate::bridges::{
    call::Call,
    content::{Content, Object, string},
    draft::{About, Draft, Window},
    refusal::Refusal,
    signature::sha256_hex,
};
use crate::envelope::json::put_string;

/// How long the same body is a duplicate, if no `write_date` distinguishes two changes.
const SAME_BODY_MS: i64 = 10_000;

/// What Odoo's JSON does not reveal about its fields.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Fields {
    /// Fields in which `false` is a value; in all others it is Odoo's notation for empty.
    pub booleans: Vec<String>,
    /// Fields in which a number is the id of another record.
    pub many2one: Vec<String>,
}

/// Members about the webhook rather than the record.
const META: [&str; 4] = ["_action", "_id", "_model", "_name"];

/// An id derived from the body.
pub(super) fn delivery(call: &Call<'_>) -> String {
    sha256_hex(&[call.body])
}

impl Fields {
    /// The type is `odoo.{model}.{slug of the action's name}`, the entity is the record, data are its fields.
    pub(super) fn read<'a>(
        &self,
        call: &Call<'a>,
        body_hash: &'a str,
        content: &'a Content<'_>,
    ) -> Result<Draft<'a>, Refusal> {
        let body = content.object()?;
        let model = body.named("_model")?;
        // An early version of Odoo 17 sent `id` and `_name`.
        let record = match body.optional("_id")? {
            Some(id) => id,
            None if body.get("id").is_some() => body.named("id")?,
            None => body.named("_id")?,
        };
        let action = match body.optional("_action")? {
            Some(action) => action,
            None if body.get("_name").is_some() => body.named("_name")?,
            None => body.named("_action")?,
        };
        let written = body.get("write_date").and_then(string);
        // Without a time, the same change made later would look the same; then the time of receipt distinguishes them.
        let (moment, window) = match &written {
            Some(written) => (written.clone(), Window::Events),
            None => (call.now.0.to_string().into(), Window::Short(SAME_BODY_MS)),
        };
        let key = serde_json::json!([model, record, action, moment, body_hash]).to_string();
        let display_name = ["display_name", "name"]
            .iter()
            .find_map(|name| body.get(name).and_then(string));
        let kind = format!("odoo.{model}.{}", slug(&action));
        Ok(Draft {
            about: Some(About {
                kind: model,
                external_id: record,
                display_name,
            }),
            // `2024-05-03 10:15:00`, optionally with a fraction, in UTC.
            time: written.map(|written| format!("{}Z", written.replacen(' ', "T", 1))),
            window,
            ..Draft::new(sha256_hex(&[key.as_bytes()]), kind, self.data(&body))
        })
    }

    fn data(&self, body: &Object<'_>) -> String {
        let mut out = Vec::new();
        for (name, value) in &body.0 {
            if META.contains(&&**name) {
                continue;
            }
            out.push(if out.is_empty() { b'{' } else { b',' });
            put_string(name, &mut out);
            out.push(b':');
            out.extend_from_slice(self.value(name, value).as_bytes());
        }
        if out.is_empty() {
            out.push(b'{');
        }
        out.push(b'}');
        // All parts came from texts, so this is lossless.
        String::from_utf8_lossy(&out).into_owned()
    }

    fn value<'v>(&self, name: &str, value: &'v str) -> Cow<'v, str> {
        let named = |fields: &[String]| fields.iter().any(|field| field == name);
        if value == "false" && !named(&self.booleans) {
            return Cow::Borrowed("null");
        }
        if let Some((id, label)) = pair(value) {
            return Cow::Owned(format!("{{\"id\":{id},\"name\":{label}}}"));
        }
        if named(&self.many2one) && value.parse::<i64>().is_ok() {
            return Cow::Owned(format!("{{\"id\":{value}}}"));
        }
        Cow::Borrowed(value)
    }
}

/// Parses a many2one such as `[id, name]`.
fn pair(value: &str) -> Option<(i64, String)> {
    if !value.starts_with('[') {
        return None;
    }
    let (id, label): (i64, String) = serde_json::from_str(value).ok()?;
    Some((id, serde_json::Value::from(label).to_string()))
}

/// An action's name without `(#id)`, in lower case with `_` between words.
fn slug(action: &str) -> String {
    let name = match action.rsplit_once("(#") {
        Some((name, id)) if id.strip_suffix(')').is_some_and(is_number) => name,
        _ => action,
    };
    let lower = name.to_lowercase();
    let words: Vec<_> = lower
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect();
    if words.is_empty() {
        return "action".into();
    }
    words.join("_")
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_is_its_words() {
        for (action, expected) in [
            (
                "Send Webhook Notification(#413)",
                "send_webhook_notification",
            ),
            ("Order: paid (#1)(#7)", "order_paid_1"),
            ("Übergeben (neu)(#3)", "übergeben_neu"),
            ("paid", "paid"),
            ("a(#x)", "a_x"),
            ("!(#3)", "action"),
        ] {
            assert_eq!(slug(action), expected, "{action}");
        }
    }

    #[test]
    fn false_is_empty_and_other_records_are_objects() {
        let fields = Fields {
            booleans: vec!["active".into()],
            many2one: vec!["user_id".into()],
        };
        for (name, value, expected) in [
            ("active", "false", "false"),
            ("email", "false", "null"),
            ("user_id", "false", "null"),
            ("user_id", "7", r#"{"id":7}"#),
            ("user_id", r#"[7, "Zo\u00eb"]"#, r#"{"id":7,"name":"Zoë"}"#),
            ("partner_id", r#"[7,"A"]"#, r#"{"id":7,"name":"A"}"#),
            ("partner_id", "7", "7"),
            ("tag_ids", "[1, 2]", "[1, 2]"),
            ("tag_ids", "[]", "[]"),
            ("amount", "12.50", "12.50"),
        ] {
            assert_eq!(fields.value(name, value), expected, "{name} {value}");
        }
    }
}
