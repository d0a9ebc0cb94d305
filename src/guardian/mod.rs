//! The guardian: what a goal in plain words is before anybody plans it. Personal data become placeholders, and patterns of prompt injection
//! give a score. Pure: no model, no network.
//!
//! | file | holds |
//! |---|---|
//! | `clean` | the text in one form, without what nobody sees |
//! | `pii` | where personal data are |
//! | `redact` | placeholders instead of them, and back |
//! | `injection` | patterns of prompt injection |

mod clean;
mod injection;
mod pii;
mod redact;

pub use self::{
    clean::clean,
    injection::{InjectionPattern, score},
    pii::Kind,
    redact::{Redactor, Slot, bind, bind_value, placeholders, whole_placeholder},
};

use serde_json::Value;

/// The limits of the guardian.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Lines {
    /// Whether goals are scored. Without a score every goal passes; personal data are replaced in any case.
    pub scores: bool,
    /// The most characters of a goal, before and after cleaning.
    pub max_length: usize,
    /// The score from which a person must approve the goal.
    pub flag_at: f64,
    /// The score from which the goal is denied.
    pub deny_at: f64,
}

impl Default for Lines {
    fn default() -> Self {
        Self {
            scores: true,
            max_length: 20_000,
            flag_at: 0.5,
            deny_at: 0.95,
        }
    }
}

/// The decision about a goal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is planned.
    Pass,
    /// A person must approve it.
    Flagged,
    /// It is denied.
    Denied,
}

/// The result of the guardian for a goal.
#[derive(Clone, PartialEq, Debug)]
pub struct Guarded {
    /// The goal, cleaned, with placeholders instead of personal data.
    pub text: String,
    /// What the placeholders stand for.
    pub slots: Vec<Slot>,
    /// From 0, nothing suspicious, to 1.
    pub score: f64,
    /// The patterns found, each once.
    pub patterns: Vec<InjectionPattern>,
    /// The decision.
    pub verdict: Verdict,
}

/// A goal is too long.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a goal has at most {max} characters")]
pub struct TooLong {
    /// The limit, in characters.
    pub max: usize,
}

/// Checks a goal.
///
/// ```
/// use omnilink::guardian::{Lines, Verdict, guard};
///
/// let guarded = guard("Send the offer to ann@example.com", &Lines::default()).unwrap();
/// assert_eq!(guarded.text, "Send the offer to {EMAIL_1}");
/// assert_eq!(guarded.verdict, Verdict::Pass);
/// ```
pub fn guard(goal: &str, lines: &Lines) -> Result<Guarded, TooLong> {
    guard_with(goal, &mut [], lines)
}

/// Checks a goal, and puts placeholders into the documents that were sent with it. The same value has the same placeholder in all of
/// them. The documents are not scored.
pub fn guard_with(
    goal: &str,
    documents: &mut [&mut Value],
    lines: &Lines,
) -> Result<Guarded, TooLong> {
    let too_long = |text: &str| text.chars().nth(lines.max_length).is_some();
    let max = lines.max_length;
    if too_long(goal) {
        return Err(TooLong { max });
    }
    let cleaned = clean(goal);
    // Some characters stand for several.
    if too_long(&cleaned) {
        return Err(TooLong { max });
    }
    let (score, patterns) = if lines.scores {
        score(&cleaned)
    } else {
        (0.0, Vec::new())
    };
    let mut redactor = Redactor::default();
    redactor.reserve(&cleaned);
    for document in &*documents {
        redactor.reserve_value(document);
    }
    let text = redactor.redact(&cleaned);
    for document in documents {
        redactor.redact_value(document);
    }
    let verdict = if !lines.scores {
        Verdict::Pass
    } else if score >= lines.deny_at {
        Verdict::Denied
    } else if score >= lines.flag_at {
        Verdict::Flagged
    } else {
        Verdict::Pass
    };
    Ok(Guarded {
        text,
        slots: redactor.into_slots(),
        score,
        patterns,
        verdict,
    })
}

#[cfg(test)]
mod tests;
