//! What functions are given is looked at: one that would make too much of it does not run.

use bytes::Bytes;
use vrl::value::{KeyString, Value};

use crate::topology::vrl::products::INDEX;

/// Bytes that a function may make of a product of what it is given.
const MADE: usize = 16 << 20;
/// Bytes of a text that becomes a value for every few of them, or that is searched again and again.
const TEXT: usize = 1 << 20;
/// Bytes of a text that takes long for each of them.
const SHORT: usize = 16 << 10;
/// Levels of a value.
pub(crate) const LEVELS: usize = 128;

/// Why a function is not run with its arguments. The text follows the function's name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("would make more than {most} bytes")]
    Bytes { most: usize },
    #[error("would make more than {most} values")]
    Nodes { most: usize },
    #[error("takes a text of at most {most} bytes")]
    Text { most: usize },
    #[error("takes a value of at most {most} levels")]
    Levels { most: usize },
    #[error("takes a path of at most {most} levels")]
    Path { most: usize },
    #[error("makes at most {most} levels of a name")]
    Name { most: usize },
    #[error("fills an array up to index {most} at most")]
    Index { most: isize },
    #[error("takes a separator that is not empty")]
    EmptySeparator,
    #[error("takes at least one array")]
    NoArrays,
    #[error("the text and the list of patterns are too large")]
    Searches,
    #[error("takes a scale of 0 to 100")]
    Scale,
    #[error("takes a compression level of 0 to 9")]
    Compression,
    #[error("takes no text with anchors and aliases")]
    Aliases,
}

fn too_large(made: usize) -> Result<(), Refused> {
    if made > MADE {
        return Err(Refused::Bytes { most: MADE });
    }
    Ok(())
}

fn len(value: Option<&Value>) -> usize {
    value.map_or(0, |value| value.as_bytes().map_or(0, Bytes::len))
}

fn given(values: &[Option<Value>], at: usize) -> Option<&Value> {
    values.get(at)?.as_ref()
}

fn at_most(values: &[Option<Value>], most: usize) -> Result<(), Refused> {
    if len(given(values, 0)) > most {
        return Err(Refused::Text { most });
    }
    Ok(())
}

pub(super) fn text(values: &[Option<Value>]) -> Result<(), Refused> {
    at_most(values, TEXT)
}

pub(super) fn short(values: &[Option<Value>]) -> Result<(), Refused> {
    at_most(values, SHORT)
}

pub(super) fn replace(values: &[Option<Value>]) -> Result<(), Refused> {
    let (Some(value), Some(pattern), Some(with)) =
        (given(values, 0), given(values, 1), given(values, 2))
    else {
        return Ok(());
    };
    let (bytes, with_bytes) = (len(Some(value)), len(Some(with)));
    // Nearly always this says it.
    if (bytes + 1).saturating_mul(with_bytes + 1) <= MADE {
        return Ok(());
    }
    let text = String::from_utf8_lossy(value.as_bytes().map_or(&[], |text| text));
    let (matches, groups) = match pattern {
        Value::Regex(regex) => {
            let groups = with
                .as_bytes()
                .map_or(0, |with| memchr::memchr_iter(b'$', with).count());
            (regex.find_iter(&text).count(), groups)
        }
        pattern => {
            let pattern = String::from_utf8_lossy(pattern.as_bytes().map_or(&[], |text| text));
            (text.matches(&*pattern).count(), 0)
        }
    };
    // Each group may be all that was matched.
    let made = matches.saturating_mul(with_bytes);
    too_large(made.saturating_add(groups.saturating_add(1).saturating_mul(bytes)))
}

/// A replacement may come for each character, and for the end.
pub(super) fn each_character(values: &[Option<Value>]) -> Result<(), Refused> {
    let longest = values
        .iter()
        .skip(1)
        .flatten()
        .map(|value| weigh(value).bytes)
        .max();
    let each = longest.unwrap_or(0).max(16);
    let bytes = values
        .first()
        .and_then(Option::as_ref)
        .map_or(0, |value| weigh(value).bytes);
    too_large((bytes + 1).saturating_mul(each))
}

pub(super) fn join(values: &[Option<Value>]) -> Result<(), Refused> {
    let Some(Value::Array(items)) = given(values, 0) else {
        return Ok(());
    };
    let each = len(given(values, 1));
    let all: usize = items.iter().map(|item| len(Some(item))).sum();
    too_large(all.saturating_add(items.len().saturating_mul(each)))
}

/// What lies in a value.
pub(super) struct Weight {
    pub(super) nodes: usize,
    bytes: usize,
    levels: usize,
}

pub(super) fn weigh(value: &Value) -> Weight {
    let mut weight = Weight {
        nodes: 0,
        bytes: 0,
        levels: 0,
    };
    let mut left = vec![(value, 1)];
    while let Some((value, level)) = left.pop() {
        weight.nodes += 1;
        weight.levels = weight.levels.max(level);
        match value {
            Value::Object(fields) => {
                weight.bytes += fields.keys().map(KeyString::len).sum::<usize>();
                left.extend(fields.values().map(|value| (value, level + 1)));
            }
            Value::Array(items) => left.extend(items.iter().map(|value| (value, level + 1))),
            value => weight.bytes += len(Some(value)),
        }
    }
    weight
}

/// Whether a value has more levels than so many.
pub(crate) fn deeper_than(value: &Value, levels: usize) -> bool {
    let inner = |value: &Value| match levels.checked_sub(1) {
        Some(left) => deeper_than(value, left),
        None => true,
    };
    match value {
        Value::Object(fields) => levels == 0 || fields.values().any(inner),
        Value::Array(items) => levels == 0 || items.iter().any(inner),
        _ => false,
    }
}

/// Each value within is named by all the names above it.
pub(super) fn flattened(values: &[Option<Value>]) -> Result<(), Refused> {
    let Some(value) = given(values, 0) else {
        return Ok(());
    };
    let each: usize = values
        .iter()
        .skip(1)
        .map(|value| len(value.as_ref()))
        .sum::<usize>()
        + 8;
    let mut made: usize = 0;
    let mut left = vec![(value, 0, 1)];
    while let Some((value, above, level)) = left.pop() {
        if level > LEVELS {
            return Err(Refused::Levels { most: LEVELS });
        }
        match value {
            Value::Object(fields) => left.extend(
                fields
                    .iter()
                    .map(|(name, value)| (value, above + name.len() + each, level + 1)),
            ),
            Value::Array(items) => {
                left.extend(
                    items
                        .iter()
                        .map(|value| (value, above + 20 + each, level + 1)),
                );
            }
            value => made = made.saturating_add(above + len(Some(value))),
        }
        too_large(made)?;
    }
    Ok(())
}

pub(super) fn unflattened(values: &[Option<Value>]) -> Result<(), Refused> {
    let Some(value) = given(values, 0) else {
        return Ok(());
    };
    if weigh(value).levels > LEVELS / 2 {
        return Err(Refused::Levels { most: LEVELS / 2 });
    }
    let separator = given(values, 1).and_then(Value::as_bytes);
    let separator = separator.map_or(".".into(), |text| String::from_utf8_lossy(text));
    if separator.is_empty() {
        // It would split a name there for ever.
        return Err(Refused::EmptySeparator);
    }
    let mut left = vec![value];
    while let Some(value) = left.pop() {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    if name.len() >= separator.len()
                        && name.matches(&*separator).count() >= LEVELS / 2
                    {
                        return Err(Refused::Name { most: LEVELS / 2 });
                    }
                    left.push(value);
                }
            }
            Value::Array(items) => left.extend(items),
            _ => {}
        }
    }
    Ok(())
}

pub(super) fn indented(values: &[Option<Value>]) -> Result<(), Refused> {
    let Some(value) = given(values, 0) else {
        return Ok(());
    };
    let weight = weigh(value);
    if weight.levels > LEVELS {
        return Err(Refused::Levels { most: LEVELS });
    }
    // A byte may be six when it is escaped.
    let plain = weight
        .bytes
        .saturating_mul(6)
        .saturating_add(weight.nodes * 32);
    let spaces = weight.nodes.saturating_mul(weight.levels * 2);
    if plain.saturating_add(spaces) > 8 * MADE {
        return Err(Refused::Bytes { most: 8 * MADE });
    }
    Ok(())
}

/// Of no arrays at all it would make elements for ever.
pub(super) fn zipped(values: &[Option<Value>]) -> Result<(), Refused> {
    match (given(values, 0), given(values, 1)) {
        (Some(Value::Array(arrays)), None) if arrays.is_empty() => Err(Refused::NoArrays),
        _ => Ok(()),
    }
}

pub(super) fn path(values: &[Option<Value>]) -> Result<(), Refused> {
    let Some(Value::Array(segments)) = given(values, 0) else {
        return Ok(());
    };
    if segments.len() > LEVELS / 2 {
        return Err(Refused::Path { most: LEVELS / 2 });
    }
    let far = |segment: &Value| matches!(segment, Value::Integer(index) if index.unsigned_abs() > INDEX.unsigned_abs() as u64);
    if segments.iter().any(far) {
        return Err(Refused::Index { most: INDEX });
    }
    Ok(())
}

pub(super) fn searches(values: &[Option<Value>]) -> Result<(), Refused> {
    let searches = match given(values, 1) {
        Some(Value::Array(items)) => items.len(),
        _ => 0,
    };
    if len(given(values, 0)).saturating_mul(searches) > 1 << 28 {
        return Err(Refused::Searches);
    }
    Ok(())
}

pub(super) fn number_format(values: &[Option<Value>]) -> Result<(), Refused> {
    if let Some(Value::Integer(scale)) = given(values, 0)
        && !(0..=100).contains(scale)
    {
        return Err(Refused::Scale);
    }
    let separators = len(given(values, 1)) + len(given(values, 2));
    too_large(separators.saturating_mul(512))
}

pub(super) fn level(values: &[Option<Value>]) -> Result<(), Refused> {
    match given(values, 0) {
        // Higher ones take hundreds of megabytes for a few bytes.
        Some(Value::Integer(level)) if !(0..=9).contains(level) => Err(Refused::Compression),
        _ => Ok(()),
    }
}

/// Its parser goes as deep as the text does: a lane's stack is enough for as deep as so short a text can go.
pub(super) fn ruby_hash(values: &[Option<Value>]) -> Result<(), Refused> {
    at_most(values, SHORT)
}

pub(super) fn yaml(values: &[Option<Value>]) -> Result<(), Refused> {
    at_most(values, SHORT * 4)?;
    let bytes = given(values, 0)
        .and_then(Value::as_bytes)
        .cloned()
        .unwrap_or_default();
    let has = |byte| memchr::memchr(byte, &bytes).is_some();
    // Each anchor may double what those before it are.
    if has(b'&') && has(b'*') {
        return Err(Refused::Aliases);
    }
    Ok(())
}

/// As with [`ruby_hash`], a level takes some bytes more.
pub(super) fn xml(values: &[Option<Value>]) -> Result<(), Refused> {
    at_most(values, SHORT * 8)
}
