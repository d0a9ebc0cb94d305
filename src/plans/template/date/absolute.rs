//! Dates that name their day, month or year.

use jiff::civil::Date;

use super::{
    super::token::Text,
    When,
    calendar::{date, month, nearest, short_german_weekday, weekday, whole_month, year},
};

pub(super) fn find(text: &Text<'_>, at: usize) -> Option<(usize, When)> {
    // `Monday, 3 March`
    let named = weekday(text, at).map(|(end, _)| end);
    if let Some(after) = named.or_else(|| short_german_weekday(text, at)) {
        let comma = usize::from(text.is_mark(after, ','));
        let article = usize::from(matches!(text.word(after + comma), "the" | "den" | "der"));
        let (end, when) = of_day(text, after + comma + article, at)?;
        return matches!(when, When::Day(_)).then_some((end, when));
    }
    of_day(text, at, at)
}

/// `begin`: where the whole begins, a day of the week included.
fn of_day(text: &Text<'_>, at: usize, begin: usize) -> Option<(usize, When)> {
    if text.digits(at).is_some() {
        // Not in the middle of a longer number.
        let inside = text.joined(at)
            && at >= 2
            && matches!(text.mark(at - 1), Some('.' | '/' | '-' | ':' | ','))
            && text.joined(at - 1);
        if inside {
            return None;
        }
        return numeric(text, at, begin).or_else(|| day_and_month(text, at, begin));
    }
    month_and_day(text, at, begin)
}

/// Whether the words before say that the day has passed.
fn looks_back(text: &Text<'_>, begin: usize) -> bool {
    let since = |word: &str| matches!(word, "since" | "seit");
    let article = matches!(text.word_before(begin), "the" | "dem" | "den");
    since(text.word_before(begin)) || (article && begin > 1 && since(text.word_before(begin - 1)))
}

/// A day without its year.
fn without_year(text: &Text<'_>, month: i8, day: i16, begin: usize) -> Option<Date> {
    nearest(text.now.date(), month, day, looks_back(text, begin))
}

/// `2026-03-03`, `03.12.2026`, `12/03/26`, `03.12.`, `2026-03`, `03/2026`, `3-Mar-2026`.
fn numeric(text: &Text<'_>, at: usize, begin: usize) -> Option<(usize, When)> {
    let first = text.small(at)?;
    let first_length = text.raw(at).len();
    let separator @ ('.' | '/' | '-') = text.joined_mark(at + 1)? else {
        return None;
    };
    if !text.joined(at + 2) {
        return None;
    }
    if separator == '-'
        && let Some((end, month)) = month(text, at + 2)
    {
        let year = text.small(end + 1).map(century)?;
        let joined = text.is_joined_mark(end, '-') && text.joined(end + 1);
        let day = date(year, month.into(), first).filter(|_| joined)?;
        return Some((end + 2, When::Day(day)));
    }
    let second = text.small(at + 2)?;
    let second_length = text.raw(at + 2).len();
    let third = text
        .small(at + 4)
        .filter(|_| text.is_joined_mark(at + 3, separator) && text.joined(at + 4));
    if let Some(third) = third {
        let third_length = text.raw(at + 4).len();
        // More of it: no date.
        if text.is_joined_mark(at + 5, separator)
            && text.joined(at + 6)
            && text.digits(at + 6).is_some()
        {
            return None;
        }
        let day = match (first_length, second_length, third_length) {
            (4, ..=2, ..=2) => date(first, second, third),
            (..=2, ..=2, 2 | 4) => {
                // The day is first, where both would do.
                let year = century(third);
                date(year, second, first).or_else(|| date(year, first, second))
            }
            _ => None,
        };
        return Some((at + 5, When::Day(day?)));
    }
    let goes_on =
        text.joined_mark(at + 3).is_some() && text.joined(at + 4) && text.digits(at + 4).is_some();
    match (separator, first_length, second_length) {
        ('.', ..=2, ..=2) if text.is_joined_mark(at + 3, '.') => {
            let sure = text.german
                || (first_length, second_length) == (2, 2)
                || matches!(
                    text.word_before(begin),
                    "on" | "by" | "until" | "since" | "from"
                );
            let day = without_year(text, i8::try_from(second).ok()?, first, begin);
            let alone = text.ends(at + 4) && !text.joined(at + 4);
            Some((at + 4, When::Day(day.filter(|_| sure && alone)?)))
        }
        ('-', 4, 2) if (1900..2200).contains(&first) && !goes_on => {
            let (from, to) = whole_month(first, i8::try_from(second).ok()?)?;
            Some((at + 3, When::Days(from, to)))
        }
        ('/' | '.', ..=2, 4) if (1900..2200).contains(&second) && !goes_on => {
            let (from, to) = whole_month(second, i8::try_from(first).ok()?)?;
            Some((at + 3, When::Days(from, to)))
        }
        _ => None,
    }
}

fn century(year: i16) -> i16 {
    match year {
        0..70 => 2000 + year,
        70..100 => 1900 + year,
        _ => year,
    }
}

/// A day of the month, with `st`, `.` and the like.
fn day_of_month(text: &Text<'_>, at: usize) -> Option<(usize, i16)> {
    let day = text.small(at).filter(|day| (1..=31).contains(day))?;
    let joined = text.joined(at + 1);
    let ordinal = match text.word(at + 1) {
        "st" | "nd" | "rd" | "th" => joined,
        _ => text.is_joined_mark(at + 1, '.'),
    };
    Some((at + 1 + usize::from(ordinal), day))
}

/// `-`, `to` and the like between two days.
fn to(text: &Text<'_>, at: usize) -> Option<usize> {
    let mark = matches!(text.mark(at), Some('-' | '–' | '—'));
    (mark || matches!(text.word(at), "to" | "until" | "till" | "bis")).then_some(at + 1)
}

/// `3 March 2026`, `3rd of March`, `3.-5. März`.
fn day_and_month(text: &Text<'_>, at: usize, begin: usize) -> Option<(usize, When)> {
    let (end, first) = day_of_month(text, at)?;
    let last = to(text, end).and_then(|next| day_of_month(text, next));
    let last = last.filter(|(_, last)| *last > first);
    let (end, last) = last.unwrap_or((end, first));
    let of = usize::from(text.word(end) == "of");
    let (end, month) = month(text, end + of).filter(|(end, _)| text.ends(*end))?;
    let comma = usize::from(text.is_mark(end, ','));
    let dated = match year(text, end + comma) {
        Some(year) => {
            let first = date(year, month.into(), first)?;
            (end + comma + 1, first, date(year, month.into(), last)?)
        }
        None => days_without_year(text, end, month, (first, last), begin)?,
    };
    Some(days(dated))
}

/// `March 3, 2026`, `March 3rd`, `March 3-5`, `March 2026`.
fn month_and_day(text: &Text<'_>, at: usize, begin: usize) -> Option<(usize, When)> {
    let (after, month) = month(text, at)?;
    if text.begins(after)
        && let Some((end, first)) = day_of_month(text, after)
        && (text.is_capital(at) || !matches!(text.word(at), "may" | "march" | "mar"))
        && text.raw(after).len() <= 2
        && !is_decimal(text, after)
        && super::time::find(text, after).is_none()
    {
        // The dot after the day ends the sentence.
        let end = if text.is_mark(end - 1, '.') {
            end - 1
        } else {
            end
        };
        let last = to(text, end).and_then(|next| day_of_month(text, next));
        let last = last.filter(|(_, last)| *last > first);
        let (end, last) = last.map_or((end, first), |(last_end, last)| {
            let dot = usize::from(text.is_mark(last_end - 1, '.'));
            (last_end - dot, last)
        });
        let comma = usize::from(text.is_mark(end, ','));
        let dated = match year(text, end + comma) {
            Some(year) => {
                let first = date(year, month.into(), first)?;
                (end + comma + 1, first, date(year, month.into(), last)?)
            }
            None => days_without_year(text, end, month, (first, last), begin)?,
        };
        return text.ends(dated.0).then(|| days(dated));
    }
    let comma = usize::from(text.is_mark(after, ','));
    if let Some(year) = year(text, after + comma) {
        let (from, to) = whole_month(year, month)?;
        return Some((after + comma + 1, When::Days(from, to)));
    }
    let sure = match text.word(at) {
        "may" | "march" | "mar" | "mai" | "august" | "dec" | "sep" | "jan" | "jun" | "nov"
        | "oct" => text.is_capital(at) && is_after_preposition(text, begin),
        _ => text.is_capital(at),
    };
    if !sure || !text.ends(at + 1) {
        return None;
    }
    let (from, to) = bare_month(text, month, begin)?;
    Some((after, When::Days(from, to)))
}

/// `March 3.5`
fn is_decimal(text: &Text<'_>, at: usize) -> bool {
    matches!(text.joined_mark(at + 1), Some('.' | ',' | ':'))
        && text.joined(at + 2)
        && text.digits(at + 2).is_some()
}

/// The next month of this name that is not over, or the last one that has begun.
pub(super) fn bare_month(text: &Text<'_>, month: i8, begin: usize) -> Option<(Date, Date)> {
    let today = text.now.date();
    let year = match (looks_back(text, begin), month.cmp(&today.month())) {
        (true, std::cmp::Ordering::Greater) => today.year() - 1,
        (false, std::cmp::Ordering::Less) => today.year() + 1,
        _ => today.year(),
    };
    whole_month(year, month)
}

fn is_after_preposition(text: &Text<'_>, begin: usize) -> bool {
    matches!(
        text.word_before(begin),
        "in" | "of"
            | "for"
            | "since"
            | "until"
            | "till"
            | "by"
            | "from"
            | "to"
            | "during"
            | "early"
            | "late"
            | "mid"
            | "through"
            | "before"
            | "after"
            | "and"
            | "im"
            | "bis"
            | "seit"
            | "ab"
            | "fur"
            | "vom"
            | "zum"
            | "und"
            | "the"
            | "between"
    )
}

fn days_without_year(
    text: &Text<'_>,
    end: usize,
    month: i8,
    (first, last): (i16, i16),
    begin: usize,
) -> Option<(usize, Date, Date)> {
    let from = without_year(text, month, first, begin)?;
    Some((end, from, date(from.year(), month.into(), last)?))
}

fn days((end, from, to): (usize, Date, Date)) -> (usize, When) {
    if from == to {
        (end, When::Day(from))
    } else {
        (end, When::Days(from, to))
    }
}
