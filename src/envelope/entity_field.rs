//! Reading the member `entity` of an envelope in OmniLink's form.

use super::{
    Entity, Invalid,
    attributes::{Attributes, string},
    json::{self, JsonError, Scanner, Value},
    rules,
};

/// Reads `{type, external_id, display_name?}` or `null`; returns its hash.
pub(super) fn entity<'a>(
    scanner: &mut Scanner<'a>,
    attributes: &mut Attributes<'a>,
) -> Result<u128, JsonError> {
    if scanner.peek() != Some(b'{') {
        let (value, hash) = scanner.scalar()?;
        if !matches!(value, Value::Null) {
            attributes.fail(Invalid::payload("`entity` must be an object"));
        }
        return Ok(hash);
    }
    let [mut kind, mut external_id, mut display_name] = [None, None, None];
    let mut members = scanner.enter_object()?;
    while scanner.next_member(&members)? {
        let (name, name_hash) = scanner.name(&members)?;
        let (value, hash) = scanner.scalar()?;
        Scanner::insert(&mut members, name_hash, hash);
        let (field, place) = match &*name {
            "type" => ("entity.type", &mut kind),
            "external_id" => ("entity.external_id", &mut external_id),
            "display_name" => ("entity.display_name", &mut display_name),
            other => {
                let other = json::truncated(other);
                attributes.fail(Invalid::payload(format!(
                    "`entity.{other}` is no known field"
                )));
                continue;
            }
        };
        match string(field, value) {
            Ok(text) => *place = text,
            Err(problem) => attributes.fail(problem),
        }
    }
    if let Some(name) = &display_name
        && let Err(problem) = rules::without_nul("entity.display_name", name)
    {
        attributes.fail(problem);
    }
    let (kind, external_id) = (kind.unwrap_or_default(), external_id.unwrap_or_default());
    for (field, text) in [("entity.type", &kind), ("entity.external_id", &external_id)] {
        if let Err(problem) = rules::identifier(field, text) {
            attributes.fail(problem);
        }
    }
    attributes.entity = Some(Entity {
        kind,
        external_id,
        display_name,
    });
    scanner.leave_object(&members)
}
