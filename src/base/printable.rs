//! Text as a terminal shows it whole: what would steer it, turn its text around, or not be seen, is escaped as JSON escapes it
//! (`\u202e`). Within JSON the result is the same JSON.

use std::{borrow::Cow, fmt::Write as _, io};

/// Whether a character does something else than to be seen: controls (C0, C1), the ends of lines and paragraphs, and what Unicode says
/// is shown as nothing (`Default_Ignorable_Code_Point`: the controls of direction, what joins or has no width, selectors, tags).
fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Text with all that is not seen escaped, but ends of lines (`\n`) and tabs.
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, false)
}

/// As [`printable`], with the colours that we put in: sequences of colours are kept.
pub fn printable_coloured(text: &str) -> Cow<'_, str> {
    escaped(text, true)
}

/// As [`printable`], in one line.
pub fn printable_line(text: &str) -> Cow<'_, str> {
    match printable(text) {
        text if text.contains(['\n', '\t']) => text.replace(['\n', '\t'], " ").into(),
        text => text,
    }
}

fn escaped(text: &str, colours: bool) -> Cow<'_, str> {
    let hidden = |c: char| is_unseen(c) && !matches!(c, '\n' | '\t');
    let is_plain = |b: u8| matches!(b, b' '..=b'~' | b'\n' | b'\t');
    // Nearly all text is.
    if text.bytes().all(is_plain) || !text.contains(hidden) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(at) = rest.find(hidden) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(length) = colour(rest).filter(|_| colours) {
            out.push_str(&rest[..length]);
            rest = &rest[length..];
            continue;
        }
        let Some(c) = rest.chars().next() else {
            break;
        };
        for unit in c.encode_utf16(&mut [0; 2]) {
            // A `String` never refuses text.
            let _ = write!(out, "\\u{unit:04x}");
        }
        rest = &rest[c.len_utf8()..];
    }
    out.push_str(rest);
    out.into()
}

/// The length of a sequence that sets colours (`ESC [ 1 ; 31 m`), if the text begins with one.
fn colour(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\x1b[")?;
    let end = parameters.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    parameters[end..].starts_with('m').then_some(end + 3)
}

/// Writes what it is given as [`printable_coloured`]; each write is whole text.
pub struct Printable<W>(pub W);

impl<W: io::Write> io::Write for Printable<W> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let whole = String::from_utf8_lossy(text);
        self.0.write_all(printable_coloured(&whole).as_bytes())?;
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_seen_is_escaped() {
        let cases = [
            ("plain\ttext\n", "plain\ttext\n"),
            ("ä 日本 אב 😀 \u{a0}", "ä 日本 אב 😀 \u{a0}"),
            ("a\u{202e}b\u{2066}c\u{200f}", "a\\u202eb\\u2066c\\u200f"),
            (
                "\x1b[31mred\x07\r\x7f\u{9b}2J",
                "\\u001b[31mred\\u0007\\u000d\\u007f\\u009b2J",
            ),
            (
                "\u{200b}\u{200d}\u{feff}\u{ad}\u{2060}",
                "\\u200b\\u200d\\ufeff\\u00ad\\u2060",
            ),
            ("\u{2028}\u{2029}\u{85}", "\\u2028\\u2029\\u0085"),
            ("\u{e0041}", "\\udb40\\udc41"),
        ];
        for (text, expected) in cases {
            assert_eq!(printable(text), expected, "{text:?}");
        }
        assert_eq!(printable_line("a\nb\tc\x1b"), "a b c\\u001b");
        assert_eq!(
            printable_coloured("\x1b[1;31mred\x1b[0m\x1b[2J\x1b]0;t\x07\x1b["),
            "\x1b[1;31mred\x1b[0m\\u001b[2J\\u001b]0;t\\u0007\\u001b["
        );
    }

    #[test]
    fn json_stays_the_same_json() {
        let all: String = ('\0'..=char::MAX).filter(|c| is_unseen(*c)).collect();
        let json = serde_json::to_string(&[&all, "\\u202e"]).unwrap();
        let shown = printable(&json);
        assert!(!shown.contains(is_unseen));
        let (before, after): (serde_json::Value, serde_json::Value) = (
            serde_json::from_str(&json).unwrap(),
            serde_json::from_str(&shown).unwrap(),
        );
        assert_eq!(before, after);
    }
}
