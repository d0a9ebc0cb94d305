//! Text in one form: NFKC, without characters that nobody sees.

use std::ops::Range;

use unicode_normalization::{UnicodeNormalization, char::canonical_combining_class};

/// The text in NFKC, without zero-width and control characters. White space that is a control character is a space, but for tabs and ends of
/// lines. Cleaning a second time changes nothing.
pub fn clean(text: &str) -> String {
    text.chars().filter_map(seen).nfkc().collect()
}

/// Whether cleaning certainly changes nothing.
pub(super) fn is_plain(text: &str) -> bool {
    let plain = |b: &u8| matches!(b, b'\n' | b'\t' | b' '..=b'~');
    text.as_bytes().iter().all(plain)
}

/// A character as it is seen; `None`: it is not.
fn seen(c: char) -> Option<char> {
    match c {
        '\n' | '\t' => Some(c),
        '\u{2028}' | '\u{2029}' => Some('\n'),
        '\r' | '\u{b}' | '\u{c}' | '\u{85}' => Some(' '),
        c if c.is_control() || is_invisible(c) => None,
        c => Some(c),
    }
}

/// Characters without a width, and those that change the direction of others.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// A text as it is seen, character by character, and what each stands for in the text. Letters are composed with their marks only, which is
/// all that matters to finding personal data.
#[derive(Default)]
pub(super) struct Cleaned {
    pub(super) characters: Vec<char>,
    /// The bytes of the text that each character is from. Characters that are from one place have the same.
    pub(super) sources: Vec<Range<usize>>,
}

impl Cleaned {
    pub(super) fn of(text: &str) -> Self {
        let mut cleaned = Self::default();
        // A character and its marks, and where they are.
        let mut chunk = String::new();
        let mut places: Vec<Range<usize>> = Vec::new();
        for (at, c) in text.char_indices() {
            let Some(seen) = seen(c) else {
                continue;
            };
            if canonical_combining_class(seen) == 0 {
                cleaned.add(&chunk, &places);
                chunk.clear();
                places.clear();
            }
            chunk.push(seen);
            places.push(at..at + c.len_utf8());
        }
        cleaned.add(&chunk, &places);
        cleaned
    }

    fn add(&mut self, chunk: &str, places: &[Range<usize>]) {
        let (Some(first), Some(last)) = (places.first(), places.last()) else {
            return;
        };
        if chunk.is_ascii() || chunk.nfkc().eq(chunk.chars()) {
            self.characters.extend(chunk.chars());
            self.sources.extend_from_slice(places);
            return;
        }
        for c in chunk.nfkc() {
            self.characters.push(c);
            self.sources.push(first.start..last.end);
        }
    }

    /// Some characters, and all others that are from the same places, but none before `least`.
    pub(super) fn whole(&self, mut from: usize, mut to: usize, least: usize) -> Range<usize> {
        let same = |a: usize, b: usize| self.sources[a] == self.sources[b];
        while from > least && same(from - 1, from) {
            from -= 1;
        }
        while to < self.sources.len() && same(to - 1, to) {
            to += 1;
        }
        from..to
    }
}
