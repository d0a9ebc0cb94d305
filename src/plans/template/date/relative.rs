//! Days that count from now.

use jiff::civil::{Date, Weekday};

use super::{
    super::{numeral, token::Text},
    When,
    calendar::{Unit, around, date, month, plus, plus_time, unit, weekday},
    period::shift,
};

pub(super) fn find(text: &Text<'_>, at: usize) -> Option<(usize, When)> {
    let found = named(text, at)
        .or_else(|| ahead(text, at))
        .or_else(|| ago(text, at))
        .or_else(|| stretch(text, at))
        .or_else(|| day_of_week(text, at))
        .or_else(|| day_of_month(text, at));
    found.filter(|(end, _)| text.ends(*end))
}

/// `today`, `day after tomorrow`, `übermorgen`
fn named(text: &Text<'_>, at: usize) -> Option<(usize, When)> {
    let lower = !text.is_capital(at) || at == 0;
    let (end, days) = match text.word(at) {
        "today" | "tonight" | "heute" => (at + 1, 0),
        "tomorrow" | "tmrw" => (at + 1, 1),
        "morgen" if lower && text.german => (at + 1, 1),
        "yesterday" | "gestern" => (at + 1, -1),
        "ubermorgen" | "uebermorgen" => (at + 1, 2),
        "vorgestern" => (at + 1, -2),
        "this" if matches!(text.word(at + 1), "morning" | "afternoon" | "evening") => (at + 2, 0),
        "last" if text.word(at + 1) == "night" => (at + 2, -1),
        "the" if text.word(at + 1) == "day" => match (text.word(at + 2), text.word(at + 3)) {
            ("after", "tomorrow") => (at + 4, 2),
            ("before", "yesterday") => (at + 4, -2),
            _ => return None,
        },
        "day" => match (text.word(at + 1), text.word(at + 2)) {
            ("after", "tomorrow") => (at + 3, 2),
            ("before", "yesterday") => (at + 3, -2),
            _ => return None,
        },
        _ => return None,
    };
    Some((end, When::Day(plus(text.now.date(), days, Unit::Day)?)))
}

/// A number of units from now; minutes and hours are a moment.
fn from_now(text: &Text<'_>, count: i64, unit: Unit) -> Option<When> {
    match unit {
        Unit::Minute | Unit::Hour => plus_time(text.now, count, unit).map(When::Moment),
        _ => plus(text.now.date(), count, unit).map(When::Day),
    }
}

/// `in two weeks`, `two weeks from now`, `in a fortnight`.
fn ahead(text: &Text<'_>, at: usize) -> Option<(usize, When)> {
    let prefixed = text.word(at) == "in";
    let start = at + usize::from(prefixed);
    if prefixed && text.word(start) == "a" && text.word(start + 1) == "fortnight" {
        return Some((start + 2, from_now(text, 2, Unit::Week)?));
    }
    let (after, count) = numeral::count(text, start)?;
    let (end, unit) = unit(text, after)?;
    if prefixed {
        let time = usize::from(text.is_mark(end, '\'') || text.is_mark(end, '’'));
        let time = if text.word(end + time) == "time" {
            time + 1
        } else {
            0
        };
        return Some((end + time, from_now(text, count, unit)?));
    }
    let from = text.word(end) == "from" && matches!(text.word(end + 1), "now" | "today");
    from.then(|| Some((end + 2, from_now(text, count, unit)?)))
        .flatten()
}

/// `3 days ago`, `vor 3 Tagen`
fn ago(text: &Text<'_>, at: usize) -> Option<(usize, When)> {
    let prefixed = text.word(at) == "vor";
    let (after, count) = numeral::count(text, at + usize::from(prefixed))?;
    let (end, unit) = unit(text, after)?;
    let suffixed = text.word(end) == "ago";
    let end = end + usize::from(!prefixed);
    (prefixed || suffixed)
        .then(|| Some((end, from_now(text, -count, unit)?)))
        .flatten()
}

/// `last 30 days`, `next two weeks`
fn stretch(text: &Text<'_>, at: usize) -> Option<(usize, When)> {
    let by = shift(text, at).filter(|by| *by != 0)?;
    let (after, count) = numeral::count(text, at + 1)?;
    let (end, unit) = unit(text, after)?;
    if let Unit::Minute | Unit::Hour = unit {
        let other = plus_time(text.now, by * count, unit)?;
        let (from, to) = (text.now.min(other), text.now.max(other));
        return Some((end, When::Moments(from, to)));
    }
    let today = text.now.date();
    let other = plus(today, by * count, unit)?;
    Some((end, When::Days(today.min(other), today.max(other))))
}

/// `Monday`, `next Friday`, `Friday next week`, `next week Friday`; not `every Monday`.
fn day_of_week(text: &Text<'_>, at: usize) -> Option<(usize, When)> {
    let today = text.now.date();
    let monday = |weeks: i64| Some(around(plus(today, weeks, Unit::Week)?, Unit::Week)?.0);
    let of_week = |weeks: i64, day: Weekday| {
        plus(
            monday(weeks)?,
            i64::from(day.to_monday_zero_offset()),
            Unit::Day,
        )
    };
    if let Some((after, day)) = weekday(text, at) {
        if matches!(
            text.word_before(at),
            "every" | "each" | "all" | "per" | "jeden" | "jeder" | "jedem" | "any" | "alle"
        ) {
            return None;
        }
        // `Friday next week`, `Friday of this week`
        let of = usize::from(text.word(after) == "of");
        if let Some(weeks) = shift(text, after + of)
            && matches!(text.word(after + of + 1), "week" | "woche")
        {
            return Some((after + of + 2, When::Day(of_week(weeks, day)?)));
        }
        return Some((after, When::Day(following(today, day)?)));
    }
    let weeks = shift(text, at)?;
    if let Some((after, day)) = weekday(text, at + 1) {
        let found = match (weeks, text.word(at)) {
            (1, "coming" | "upcoming" | "following" | "kommende" | "kommenden" | "kommender") => {
                following(today, day)
            }
            (-1, _) => {
                let this = of_week(0, day)?;
                if this < today {
                    Some(this)
                } else {
                    of_week(-1, day)
                }
            }
            _ => of_week(weeks, day),
        };
        return Some((after, When::Day(found?)));
    }
    if !matches!(text.word(at + 1), "week" | "woche") {
        return None;
    }
    let on = usize::from(matches!(text.word(at + 2), "on" | "am"));
    let (after, day) = weekday(text, at + 2 + on)?;
    Some((after, When::Day(of_week(weeks, day)?)))
}

/// The first such day after today.
fn following(today: Date, day: Weekday) -> Option<Date> {
    let days = today.weekday().until(day);
    let days = if days == 0 { 7 } else { days };
    plus(today, days.into(), Unit::Day)
}

/// `15th`, `15th of the month`, `1st of next month`, `am 15.`.
fn day_of_month(text: &Text<'_>, at: usize) -> Option<(usize, When)> {
    let day = text.small(at).filter(|day| (1..=31).contains(day))?;
    let today = text.now.date();
    let before = text.word_before(at);
    if text.is_joined_mark(at + 1, '.') {
        let named = matches!(before, "am" | "zum" | "vom" | "ab");
        let noun = text.is_word(at + 2) && month(text, at + 2).is_none() && text.is_capital(at + 2);
        let more = text.joined(at + 2) || text.digits(at + 2).is_some() || noun;
        let day = next_day_of_month(today, day).filter(|_| named && !more)?;
        return Some((at + 2, When::Day(day)));
    }
    if !matches!(text.word(at + 1), "st" | "nd" | "rd" | "th") || !text.joined(at + 1) {
        return None;
    }
    let end = at + 2;
    if text.word(end) == "of" {
        if text.word(end + 1) == "the" && text.word(end + 2) == "month" {
            return Some((end + 3, When::Day(next_day_of_month(today, day)?)));
        }
        let months = shift(text, end + 1).filter(|_| text.word(end + 2) == "month")?;
        let first = plus(today.first_of_month(), months, Unit::Month)?;
        let day = date(first.year(), first.month().into(), day)?;
        return Some((end + 3, When::Day(day)));
    }
    let article = usize::from(before == "the");
    let named = matches!(
        text.word_before(at - article.min(at)),
        "on" | "by" | "until" | "till" | "before" | "after" | "since" | "from" | "to" | "and"
    );
    // `by the 2nd reviewer`
    let alone = !text.is_like_a_noun(end);
    let day = next_day_of_month(today, day).filter(|_| named && alone)?;
    Some((end, When::Day(day)))
}

fn next_day_of_month(today: Date, day: i16) -> Option<Date> {
    (0..=12).find_map(|months| {
        let first = plus(today.first_of_month(), months, Unit::Month)?;
        let day = date(first.year(), first.month().into(), day)?;
        (day >= today).then_some(day)
    })
}
