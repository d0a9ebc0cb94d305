//! The step `validate`: a record that does not fit the schema goes to the dead letters.

use vrl::path::{OwnedSegment, OwnedValuePath};

use super::message::Message;
use crate::event_schemas::Violation;
use crate::stream::Rejected;
use crate::topology::{syntax::model::Validate, vrl::json};

/// The error is `invalid_payload`; its message has the JSON pointer within the record to what does not fit.
pub(crate) fn check(step: &Validate, message: &Message) -> Result<(), Rejected> {
    let rejected = |violation: Violation| {
        let under = step.field.as_ref().map_or(String::new(), pointer);
        let message = violation.message(&under, step.schema.name());
        Rejected::new("invalid_payload", message)
    };
    let text = match &step.field {
        None => message.json()?,
        Some(path) => match message.document.get(path) {
            Some(value) => {
                let mut text = Vec::new();
                json::write(&value, message.document.record(), &mut text).map_err(|e| {
                    Rejected::new(e.code(), format!("the value has no JSON form: {e}"))
                })?;
                text.into()
            }
            None if step.schema.accepts_all() => return Ok(()),
            None => return Err(rejected(Violation::whole("it is not there"))),
        },
    };
    // The text of a document is UTF-8.
    let text = std::str::from_utf8(&text).unwrap_or_default();
    step.schema.check(text).map_err(rejected)
}

/// The JSON pointer of a field.
fn pointer(path: &OwnedValuePath) -> String {
    let mut pointer = String::new();
    for segment in &path.segments {
        pointer.push('/');
        match segment {
            OwnedSegment::Field(name) => {
                pointer.push_str(&name.replace('~', "~0").replace('/', "~1"));
            }
            OwnedSegment::Index(index) => pointer.push_str(&index.to_string()),
        }
    }
    pointer
}
