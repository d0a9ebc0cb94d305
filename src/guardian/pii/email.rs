//! Mail addresses: a local part without quotes, and a domain with a top level of letters.

use super::Stretch;

/// The most characters of a local part.
const LOCAL_MAX: usize = 64;
/// The most characters of a label of a domain.
const LABEL_MAX: usize = 63;
/// The most characters of a domain.
const DOMAIN_MAX: usize = 255;

pub(super) fn end(stretch: Stretch<'_>, at: usize) -> Option<usize> {
    let before = stretch.before(at);
    if before.is_some_and(|c| is_local(c) && !matches!(c, '.' | '-')) {
        return None;
    }
    let mut i = at;
    while stretch.get(i).is_some_and(is_local) {
        i += 1;
        if i - at > LOCAL_MAX {
            return None;
        }
    }
    if i == at || stretch.before(i) == Some('.') || stretch.get(i) != Some('@') {
        return None;
    }
    domain(stretch, i + 1)
}

fn domain(stretch: Stretch<'_>, at: usize) -> Option<usize> {
    let (mut i, mut labels, mut end) = (at, 0, None);
    loop {
        let start = i;
        while stretch.get(i).is_some_and(is_label) && i - start <= LABEL_MAX {
            i += 1;
        }
        let mut stop = i;
        while stop > start && stretch.before(stop) == Some('-') {
            stop -= 1;
        }
        let label = &stretch.text[start..stop];
        if label.is_empty() || label[0] == '-' || label.len() > LABEL_MAX {
            return end;
        }
        labels += 1;
        if labels >= 2 && is_top_level(label) {
            end = Some(stop);
        }
        if stop < i || stretch.get(i) != Some('.') || i - at > DOMAIN_MAX {
            return end;
        }
        i += 1;
    }
}

fn is_top_level(label: &[char]) -> bool {
    let puny = label.len() > 4 && label[..4] == ['x', 'n', '-', '-'];
    puny || label.len() >= 2 && label.iter().all(|c| c.is_alphabetic())
}

/// Scripts that do not put spaces between words could not be told from an address.
fn is_letter(c: char) -> bool {
    c.is_ascii_alphanumeric() || (c < '\u{250}' && c.is_alphabetic())
}

fn is_local(c: char) -> bool {
    is_letter(c) || matches!(c, '.' | '_' | '%' | '+' | '-')
}

fn is_label(c: char) -> bool {
    is_letter(c) || c == '-'
}
