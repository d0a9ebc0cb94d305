//! Text in one form: NFKC, without characters that nobody sees.

use unicode_normalization::UnicodeNormalization;

/// The text in NFKC, without zero-width and control characters. White space that is a control character is a space, but for tabs and ends of
/// lines. Cleaning a second time changes nothing.
pub fn clean(text: &str) -> String {
    let seen = text.chars().filter_map(|c| match c {
        '\n' | '\t' => Some(c),
        '\u{2028}' | '\u{2029}' => Some('\n'),
        '\r' | '\u{b}' | '\u{c}' | '\u{85}' => Some(' '),
        c if c.is_control() || is_invisible(c) => None,
        c => Some(c),
    });
    seen.nfkc().collect()
}

/// Characters without a width, and those that change the direction of others.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}
