//! Texts in quotes, on one line.

use serde_json::Value;

use super::token::Text;

/// The most bytes of a text in quotes.
const LENGTH_MAX: usize = 4_000;
/// The same for single quotes, which are apostrophes, too.
const SINGLE_MAX: usize = 200;

/// Where the next closing quotes are, so that each is looked for once.
#[derive(Default)]
pub(super) struct Closings(Vec<(char, Option<usize>)>);

impl Closings {
    /// The next token from `at` on that is this mark.
    fn next(&mut self, text: &Text<'_>, at: usize, mark: char) -> Option<usize> {
        let known = self.0.iter().position(|(known, _)| *known == mark);
        if let Some(known) = known {
            match self.0[known].1 {
                None => return None,
                Some(place) if place >= at => return Some(place),
                Some(_) => {}
            }
        }
        let found = (at..text.len()).find(|place| text.is_mark(*place, mark));
        match known {
            Some(known) => self.0[known].1 = found,
            None => self.0.push((mark, found)),
        }
        found
    }
}

pub(super) fn find(text: &Text<'_>, at: usize, closings: &mut Closings) -> Option<(usize, Value)> {
    let open = text.mark(at)?;
    let (close, other) = match open {
        '"' => ('"', None),
        '“' => ('”', None),
        // German quotes close with either.
        '„' => ('“', Some('”')),
        '«' => ('»', None),
        '»' => ('«', None),
        '‘' => ('’', None),
        '\'' => ('\'', None),
        '`' => ('`', None),
        _ => return None,
    };
    if matches!(open, '\'' | '‘' | '»') && text.joined(at) && text.is_word(at.wrapping_sub(1)) {
        return None;
    }
    let mut end = closings.next(text, at + 1, close);
    if let Some(other) = other {
        let other = closings.next(text, at + 1, other);
        end = match (end, other) {
            (Some(end), Some(other)) => Some(end.min(other)),
            (end, other) => end.or(other),
        };
    }
    let end = end?;
    // Not an apostrophe within a word.
    let apostrophe = matches!(close, '\'' | '’') && !text.ends_after_mark(end);
    if end == at + 1 || apostrophe {
        return None;
    }
    let inside = text.between(at, end);
    let most = if matches!(close, '\'' | '’') {
        SINGLE_MAX
    } else {
        LENGTH_MAX
    };
    let fits = inside.len() <= most && !inside.contains('\n');
    let inside = inside.trim();
    (fits && !inside.is_empty()).then(|| (end + 1, inside.into()))
}
