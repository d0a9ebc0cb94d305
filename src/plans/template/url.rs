//! Web addresses.

use serde_json::Value;

use super::token::Text;

/// The last labels of domains that are addresses without `https://` or `www.`, too.
const TOP_LEVELS: &[&str] = &[
    "com", "org", "net", "io", "de", "eu", "uk", "ch", "at", "fr", "gov", "edu",
];

pub(super) fn find(text: &Text<'_>, at: usize) -> Option<(usize, Value)> {
    if !text.is_word(at) || !text.begins(at) {
        return None;
    }
    let scheme = matches!(text.word(at), "http" | "https" | "ftp" | "sftp")
        && text.is_joined_mark(at + 1, ':')
        && text.is_joined_mark(at + 2, '/')
        && text.is_joined_mark(at + 3, '/')
        && text.joined(at + 4);
    let www = text.word(at) == "www" && text.is_joined_mark(at + 1, '.') && text.joined(at + 2);
    let after = match (scheme, www) {
        (true, _) => at + 4,
        (_, true) => at + 2,
        _ => domain(text, at)?,
    };
    let mut end = after.max(at + 1);
    while end < text.len() && text.joined(end) && !is_outside(text.mark(end)) {
        end += 1;
    }
    // What ends the sentence is not part of it.
    while end > after
        && matches!(
            text.mark(end - 1),
            Some('.' | ',' | ';' | ':' | '!' | '?' | ')' | ']' | '\'' | '’' | '*')
        )
    {
        end -= 1;
    }
    (end > after || !scheme && !www).then(|| (end, text.stretch(at, end).into()))
}

fn is_outside(mark: Option<char>) -> bool {
    matches!(
        mark,
        Some('"' | '<' | '>' | '“' | '”' | '„' | '«' | '»' | '`' | '|')
    )
}

/// `shop.example.com`: labels, of which the last one is a known top level.
fn domain(text: &Text<'_>, at: usize) -> Option<usize> {
    // Not the rest of a mail address or of a file's name.
    if text.joined(at)
        && matches!(
            text.mark(at.wrapping_sub(1)),
            Some('@' | '.' | '/' | '-' | '_')
        )
    {
        return None;
    }
    let mut end = at + 1;
    let mut last = at;
    // A domain has at most 127 labels; a label of words, digits and hyphens some tokens.
    for _ in 0..64 {
        match text.joined_mark(end) {
            Some('.') if text.joined(end + 1) && text.is_word(end + 1) => last = end + 1,
            Some('-') if text.joined(end + 1) => {}
            None if text.joined(end) => {
                end += 1;
                continue;
            }
            _ => break,
        }
        end += 2;
    }
    let known = last > at && last + 1 == end && TOP_LEVELS.contains(&text.word(last));
    let lower = !text.is_capital(last);
    (known && lower).then_some(end)
}
