//! Reads the entries of a mapping and reports all errors in them.

use std::{collections::BTreeMap, ops::Range};

use super::{
    problem::Problems,
    yaml::{Kind, Node, Text},
};
use crate::config::keys::nearest;

/// A value and its range of bytes in the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Spanned<T> {
    pub(crate) value: T,
    pub(crate) span: Range<usize>,
}

/// The entries of a mapping whose keys are known.
pub(crate) struct Fields<'n> {
    /// The range of the mapping itself, for errors about missing keys.
    pub(crate) span: Range<usize>,
    what: String,
    entries: BTreeMap<&'n str, &'n Node>,
}

impl<'n> Fields<'n> {
    /// Reports values that are not mappings, unknown keys and duplicate keys. `place`: where a missing key is shown.
    pub(crate) fn of(
        node: &'n Node,
        place: &Range<usize>,
        what: &str,
        known: &[&str],
        problems: &mut Problems,
    ) -> Option<Self> {
        let Kind::Map(entries) = &node.kind else {
            let span = if node.span.is_empty() {
                place
            } else {
                &node.span
            };
            problems
                .error(
                    span,
                    format!("{what} must be a mapping, and this is {}", node.what()),
                )
                .note(format!("with {}", listed(known)));
            return None;
        };
        let mut found = BTreeMap::new();
        for (key, value) in entries {
            let Some(name) = key.text().map(|text| text.value.as_str()) else {
                problems.error(
                    &key.span,
                    format!("a key of {what} must be text, and this is {}", key.what()),
                );
                continue;
            };
            if !known.contains(&name) {
                let problem = problems.error(&key.span, format!("{what} has no `{name}`"));
                match nearest(name, known.iter().copied()) {
                    Some(meant) => problem.note(format!("did you mean `{meant}`?")),
                    None => problem.note(format!("it has {}", listed(known))),
                };
            } else if found.insert(name, value).is_some() {
                problems.error(&key.span, format!("`{name}` is given twice"));
            }
        }
        Some(Self {
            span: place.clone(),
            what: what.to_owned(),
            entries: found,
        })
    }

    /// What was given, `null` counting as absent.
    pub(crate) fn get(&self, name: &str) -> Option<&'n Node> {
        let node = self.entries.get(name).copied()?;
        (!matches!(node.kind, Kind::Null)).then_some(node)
    }

    /// Whether the key is there, with or without a value.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    pub(crate) fn required(&self, name: &str, problems: &mut Problems) -> Option<&'n Node> {
        let node = self.get(name);
        if node.is_none() {
            problems.error(&self.span, format!("{} needs `{name}`", self.what));
        }
        node
    }

    pub(crate) fn text(&self, name: &str, problems: &mut Problems) -> Option<&'n Text> {
        text(self.get(name)?, name, problems)
    }

    pub(crate) fn required_text(&self, name: &str, problems: &mut Problems) -> Option<&'n Text> {
        text(self.required(name, problems)?, name, problems)
    }
}

/// Formats names as "`a`, `b` and `c`".
pub(crate) fn listed(names: &[&str]) -> String {
    let mut quoted: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.pop() {
        Some(last) if !quoted.is_empty() => format!("{} and {last}", quoted.join(", ")),
        last => last.unwrap_or_default(),
    }
}

/// A text that is not empty.
pub(crate) fn text<'n>(node: &'n Node, name: &str, problems: &mut Problems) -> Option<&'n Text> {
    match node.text() {
        Some(text) if text.value.trim().is_empty() => {
            problems.error(&node.span, format!("`{name}` must not be empty"));
            None
        }
        Some(text) => Some(text),
        None => {
            let problem = problems.error(
                &node.span,
                format!("`{name}` must be text, and this is {}", node.what()),
            );
            if matches!(node.kind, Kind::Bool(_) | Kind::Number(..)) {
                problem.note("put it in quotes");
            }
            None
        }
    }
}

/// A whole number within bounds.
pub(crate) fn whole(
    node: &Node,
    name: &str,
    within: std::ops::RangeInclusive<i64>,
    problems: &mut Problems,
) -> Option<i64> {
    let found = match &node.kind {
        Kind::Number(_, number) => number.as_i64().filter(|n| within.contains(n)),
        _ => None,
    };
    if found.is_none() {
        problems.error(
            &node.span,
            format!(
                "`{name}` must be a whole number from {} to {}",
                within.start(),
                within.end()
            ),
        );
    }
    found
}

/// A duration such as `90s`, `24h` or `1h30m`, in milliseconds, within bounds.
pub(crate) fn duration(
    node: &Node,
    name: &str,
    within: std::ops::RangeInclusive<i64>,
    problems: &mut Problems,
) -> Option<i64> {
    let parsed = node.text().and_then(|text| parse_duration(&text.value));
    let Some(ms) = parsed else {
        problems.error(
            &node.span,
            format!("`{name}` must be a duration, such as `500ms`, `60s`, `1h30m` or `7d`"),
        );
        return None;
    };
    if !within.contains(&ms) {
        problems.error(
            &node.span,
            format!(
                "`{name}` must be from {} to {}",
                shown_duration(*within.start()),
                shown_duration(*within.end())
            ),
        );
        return None;
    }
    Some(ms)
}

const UNITS: [(&str, i64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

fn parse_duration(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut sum: i64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: i64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(rest.len());
        let (_, ms) = UNITS.iter().find(|(unit, _)| *unit == &rest[..letters])?;
        rest = &rest[letters..];
        sum = sum.checked_add(number.checked_mul(*ms)?)?;
    }
    (!text.is_empty()).then_some(sum)
}

/// Formats a duration in its largest whole unit.
pub(crate) fn shown_duration(ms: i64) -> String {
    let (unit, size) = UNITS
        .iter()
        .find(|(_, size)| ms >= *size && ms % size == 0)
        .unwrap_or(&UNITS[4]);
    format!("{}{unit}", ms / size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in [
            ("500ms", 500),
            ("60s", 60_000),
            ("1h30m", 5_400_000),
            ("7d", 604_800_000),
        ] {
            assert_eq!(parse_duration(text), Some(ms));
            assert_eq!(parse_duration(&shown_duration(ms)), Some(ms));
        }
        for bad in [
            "",
            "5",
            "h",
            "5 s",
            "5w",
            "-5s",
            "99999999999999999999d",
            "9999999999999d",
        ] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }
}
