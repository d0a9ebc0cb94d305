//! Placeholders of the guardian: `{EMAIL_1}`.

use serde_json::Value;

use super::{kind::SlotKind, token::Text};

pub(super) fn find(text: &Text<'_>, at: usize) -> Option<(usize, SlotKind, Value)> {
    let whole = text.is_mark(at, '{')
        && text.is_joined_mark(at + 2, '_')
        && text.is_joined_mark(at + 4, '}')
        && (1..5).all(|n| text.joined(at + n));
    let kind = SlotKind::named(text.raw(at + 1)).filter(|kind| whole && kind.is_personal())?;
    let exact = kind.name() == text.raw(at + 1) && text.digits(at + 3).is_some();
    exact.then(|| (at + 5, kind, text.stretch(at, at + 5).into()))
}
