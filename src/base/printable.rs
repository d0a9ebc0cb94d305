//! Text that is safe to print on a terminal: control characters, bidirectional overrides and invisible characters are escaped in
//! JSON's notation (`\u202e`). Escaping JSON text yields JSON with the same meaning.

use std::{borrow::Cow, fmt::Write as _, io};

/// Whether a character is invisible or controls the terminal: C0 and C1 controls, line and paragraph separators, and Unicode's
/// `Default_Ignorable_Code_Point` (direction controls, joiners, zero-width characters, variation selectors, tags).
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Escapes all invisible characters except line feeds and tabs. Borrows where there are none.
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, false)
}

/// Like [`printable`], but keeps ANSI colour sequences (`ESC [ … m`), which our own output contains.
pub fn printable_coloured(text: &str) -> Cow<'_, str> {
    escaped(text, true)
}

/// Like [`printable`], on one line: line feeds and tabs become spaces.
pub fn printable_line(text: &str) -> Cow<'_, str> {
    match printable(text) {
        text if text.contains(['\n', '\t']) => text.replace(['\n', '\t'], " ").into(),
        text => text,
    }
}

fn escaped(text: &str, colours: bool) -> Cow<'_, str> {
    let hidden = |c: char| is_invisible(c) && !matches!(c, '\n' | '\t');
    let is_plain = |b: u8| matches!(b, b' '..=b'~' | b'\n' | b'\t');
    // The fast path: most text is plain ASCII.
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
            // Writing to a `String` cannot fail.
            let _ = write!(out, "\\u{unit:04x}");
        }
        rest = &rest[c.len_utf8()..];
    }
    out.push_str(rest);
    out.into()
}

/// The length of the ANSI colour sequence (`ESC [ 1 ; 31 m`) that the text begins with, if any.
fn colour(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\x1b[")?;
    let end = parameters.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    parameters[end..].starts_with('m').then_some(end + 3)
}

/// A writer that escapes as [`printable_coloured`] does. Each write must hold whole characters and whole colour sequences.
pub struct Printable<W>(pub W);

impl<W: io::Write> io::Write for Printable<W> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let decoded = String::from_utf8_lossy(text);
        self.0.write_all(printable_coloured(&decoded).as_bytes())?;
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
    fn invisible_characters_are_escaped() {
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
    fn escaped_json_parses_to_the_same_value() {
        let all: String = ('\0'..=char::MAX).filter(|c| is_invisible(*c)).collect();
        let json = serde_json::to_string(&[&all, "\\u202e"]).unwrap();
        let shown = printable(&json);
        assert!(!shown.contains(is_invisible));
        let (before, after): (serde_json::Value, serde_json::Value) = (
            serde_json::from_str(&json).unwrap(),
            serde_json::from_str(&shown).unwrap(),
        );
        assert_eq!(before, after);
    }
}
