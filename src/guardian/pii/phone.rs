//! Phone numbers: international with `+` or `00`, national with a leading zero, those of North America, and any number behind a word such as
//! `phone`. In groups or not.

use super::Stretch;

/// The most digits of a number (E.164), and of one with `00`.
const DIGITS_MAX: usize = 15;
const RUN_MAX: usize = 17;
/// The most characters between two digits, as in `) - `.
const GAP_MAX: usize = 3;
/// How far before a number the word is looked for.
const WORD_WITHIN: usize = 24;
/// Words after which a number is a phone number.
const WORDS: [&str; 18] = [
    "phone",
    "phones",
    "telephone",
    "tel",
    "mobile",
    "cell",
    "call",
    "fax",
    "whatsapp",
    "sms",
    "telefon",
    "handy",
    "mobil",
    "rufnummer",
    "teléfono",
    "telefono",
    "téléphone",
    "móvil",
];

/// A run of digits in groups.
#[derive(Default)]
struct Run {
    digits: Vec<char>,
    /// Of each group: how many digits it has, and where it ends.
    groups: Vec<(usize, usize)>,
    /// What stands between the first and the second group.
    first_gap: Option<char>,
}

pub(super) fn end(stretch: Stretch<'_>, at: usize) -> Option<usize> {
    let before = stretch.before(at);
    if before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '+' | '_')) {
        return None;
    }
    let plus = stretch.get(at) == Some('+');
    let run = Run::read(stretch, at + usize::from(plus))?;
    let first = *run.digits.first()?;
    let within = |least, most| {
        let end = run.end_within(least, most)?;
        stretch.ends_word(end).then_some(end)
    };
    if plus {
        return within(8, DIGITS_MAX).filter(|_| first != '0');
    }
    // The rest of a number, a date or a time.
    let is_rest = before.is_some_and(|c| matches!(c, '.' | ',' | '-' | '/' | ':'))
        && at >= 2
        && stretch.before(at - 1).is_some_and(|c| c.is_ascii_digit());
    if is_rest {
        return None;
    }
    if let Some(end) = run.north_american() {
        return Some(end);
    }
    if run.is_date() {
        return None;
    }
    let found = match (first, run.digits.get(1), run.digits.get(2)) {
        ('0', Some('0'), Some('1'..='9')) => within(11, RUN_MAX),
        ('0', Some('1'..='9'), _) => within(9, 11),
        _ => None,
    };
    found.or_else(|| within(6, DIGITS_MAX).filter(|_| is_named(stretch, at)))
}

impl Run {
    fn read(stretch: Stretch<'_>, at: usize) -> Option<Self> {
        let mut run = Self::default();
        let (mut i, mut size, mut gap, mut brackets) = (at, 0, 0, false);
        let mut in_brackets = false;
        loop {
            let c = stretch.get(i);
            if let Some(c @ '0'..='9') = c {
                if size == 0 {
                    in_brackets = brackets;
                }
                if run.digits.len() == RUN_MAX {
                    // Longer than any number; the groups so far may be one.
                    break;
                }
                run.digits.push(c);
                size += 1;
                gap = 0;
            } else {
                if size > 0 {
                    // A lone digit behind a number is a number of its own, but for the area of a few countries.
                    if size == 1 && run.groups.len() >= 2 && !in_brackets {
                        run.digits.pop();
                        break;
                    }
                    run.groups.push((size, i));
                    size = 0;
                }
                match c {
                    Some('(') => brackets = true,
                    Some(')') => brackets = false,
                    Some(' ' | '-' | '.' | '/' | '\u{2010}'..='\u{2015}') => {}
                    _ => break,
                }
                if run.groups.len() == 1 && run.first_gap.is_none_or(|gap| gap == ' ') {
                    run.first_gap = c;
                }
                gap += 1;
                if gap > GAP_MAX {
                    break;
                }
            }
            i += 1;
        }
        (!run.groups.is_empty()).then_some(run)
    }

    /// The end of the most groups that have so many digits together.
    fn end_within(&self, least: usize, most: usize) -> Option<usize> {
        let (mut count, mut fitting) = (0, None);
        for (size, end) in &self.groups {
            count += size;
            if (least..=most).contains(&count) {
                fitting = Some(*end);
            }
        }
        fitting
    }

    /// Three, three and four digits, perhaps behind a 1.
    fn north_american(&self) -> Option<usize> {
        let sizes: Vec<usize> = self.groups.iter().take(4).map(|(size, _)| *size).collect();
        let (skip, groups) = match sizes[..] {
            [1, 3, 3, 4] if self.digits[0] == '1' => (1, 4),
            [3, 3, 4, ..] => (0, 3),
            _ => return None,
        };
        let good = |n: usize| ('2'..='9').contains(&self.digits[skip + n]);
        (good(0) && good(3)).then(|| self.groups[groups - 1].1)
    }

    /// Day, month and year.
    fn is_date(&self) -> bool {
        let sizes: Vec<usize> = self.groups.iter().take(3).map(|(size, _)| *size).collect();
        sizes[..] == [2, 2, 4] && self.first_gap.is_some_and(|c| c != ' ')
    }
}

/// Whether one of the words stands just before.
fn is_named(stretch: Stretch<'_>, at: usize) -> bool {
    let start = at.saturating_sub(WORD_WITHIN).max(stretch.from);
    let before: String = stretch.text[start..at].iter().collect();
    let before = before.to_lowercase();
    // A placeholder is the end of a text, as what it stands for is.
    let before = before.rsplit(['{', '}']).next().unwrap_or_default();
    let words = before.split(|c: char| !c.is_alphanumeric());
    let last: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    last.iter().rev().take(3).any(|word| WORDS.contains(word))
}
