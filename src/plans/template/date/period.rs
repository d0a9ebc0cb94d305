//! Weeks, months, quarters and years, and their ends.

use jiff::civil::Date;

use super::{
    super::token::Text,
    When,
    absolute::bare_month,
    calendar::{Unit, around, date, month, plus, quarter, unit, week, whole_month, year},
};

pub(super) fn find(text: &Text<'_>, at: usize) -> Option<(usize, When)> {
    edge(text, at)
        .or_else(|| abbreviation(text, at))
        .or_else(|| named(text, at))
        .or_else(|| shifted(text, at).map(|(end, from, to)| (end, When::Days(from, to))))
        .or_else(|| bare_year(text, at))
}

/// Which end of a period.
#[derive(Clone, Copy)]
enum Edge {
    Start,
    Middle,
    End,
}

/// `end of next month`, `start of Q3`, `mid-March`, `Ende März`, `month-end`.
fn edge(text: &Text<'_>, at: usize) -> Option<(usize, When)> {
    let word = text.word(at);
    if let Some(unit) = match word {
        "monatsende" => Some(Unit::Month),
        "quartalsende" => Some(Unit::Quarter),
        "jahresende" => Some(Unit::Year),
        _ => None,
    } {
        return Some((at + 1, When::Day(around(text.now.date(), unit)?.1)));
    }
    let hyphen = usize::from(text.is_joined_mark(at + 1, '-'));
    if let Some((after, unit @ (Unit::Week | Unit::Month | Unit::Quarter | Unit::Year))) =
        unit(text, at)
        && text.word(after + hyphen) == "end"
    {
        return Some((
            after + hyphen + 1,
            When::Day(around(text.now.date(), unit)?.1),
        ));
    }
    let (edge, after) = match word {
        "end" | "ende" => (Edge::End, at + 1),
        "start" | "beginning" | "anfang" => (Edge::Start, at + 1),
        "middle" | "mitte" => (Edge::Middle, at + 1),
        "mid" => (Edge::Middle, at + 1 + hyphen),
        _ => return None,
    };
    let of = text.word(after) == "of";
    // `start of` needs its `of`: `start Monday` says something else.
    if matches!(word, "end" | "start" | "beginning" | "middle") && !of {
        return None;
    }
    let inside = after + usize::from(of);
    if matches!(text.word(inside), "business" | "day") && matches!(edge, Edge::End) {
        return Some((inside + 1, When::Day(text.now.date())));
    }
    let (end, from, to) = inner(text, inside)?;
    let day = match edge {
        Edge::Start => from,
        Edge::End => to,
        // Of a month or longer.
        Edge::Middle => date(from.year(), from.month().into(), 15).filter(|day| *day < to)?,
    };
    Some((end, When::Day(day)))
}

/// The period behind `end of`.
fn inner(text: &Text<'_>, at: usize) -> Option<(usize, Date, Date)> {
    let article = matches!(
        text.word(at),
        "the" | "der" | "des" | "this" | "dieses" | "dieser"
    );
    if article && let Some((end, unit)) = unit(text, at + 1) {
        let (from, to) = around(text.now.date(), unit)?;
        return Some((end, from, to));
    }
    if let Some((end, When::Days(from, to))) =
        named(text, at).or_else(|| super::absolute::find(text, at))
    {
        return Some((end, from, to));
    }
    if let Some(found) = shifted(text, at) {
        return Some(found);
    }
    if let Some((end, unit)) = unit(text, at) {
        let (from, to) = around(text.now.date(), unit)?;
        return Some((end, from, to));
    }
    if let Some((end, month)) = month(text, at) {
        let (from, to) = bare_month(text, month, at)?;
        return Some((end, from, to));
    }
    let year = year(text, at)?;
    let (from, to) = around(date(year, 1, 1)?, Unit::Year)?;
    Some((at + 1, from, to))
}

/// `EOM`, `YTD`
fn abbreviation(text: &Text<'_>, at: usize) -> Option<(usize, When)> {
    if text.word(at) == "year" && text.word(at + 1) == "to" && text.word(at + 2) == "date" {
        return to_date(text, at + 3, Unit::Year);
    }
    if !text.is_all_capitals(at) {
        return None;
    }
    let today = text.now.date();
    let unit = match text.raw(at) {
        "EOD" | "COB" => return Some((at + 1, When::Day(today))),
        "YTD" => return to_date(text, at + 1, Unit::Year),
        "QTD" => return to_date(text, at + 1, Unit::Quarter),
        "MTD" => return to_date(text, at + 1, Unit::Month),
        "EOW" => Unit::Week,
        "EOM" => Unit::Month,
        "EOQ" => Unit::Quarter,
        "EOY" => Unit::Year,
        _ => return None,
    };
    Some((at + 1, When::Day(around(today, unit)?.1)))
}

fn to_date(text: &Text<'_>, end: usize, unit: Unit) -> Option<(usize, When)> {
    let today = text.now.date();
    Some((end, When::Days(around(today, unit)?.0, today)))
}

/// `Q3 2026`, `2026 Q3`, `H1`, `third quarter`, `week 23`, `KW 23`.
fn named(text: &Text<'_>, at: usize) -> Option<(usize, When)> {
    if let Some(of) = year(text, at) {
        let (end, part) = part_of_year(text, at + 1)?;
        let (from, to) = part.days(of)?;
        return Some((end, When::Days(from, to)));
    }
    let (end, part) = part_of_year(text, at)?;
    let mut after = end;
    if text.word(after) == "of" || text.is_mark(after, '/') || text.is_mark(after, ',') {
        after += 1;
    }
    if let Some(of) = year(text, after) {
        let (from, to) = part.days(of)?;
        return Some((after + 1, When::Days(from, to)));
    }
    let (from, to) = part.days(text.now.year())?;
    Some((end, When::Days(from, to)))
}

enum Part {
    Quarter(i8),
    Half(i8),
    Week(i8),
}

impl Part {
    fn days(&self, year: i16) -> Option<(Date, Date)> {
        match self {
            Self::Quarter(number) => quarter(year, *number),
            Self::Half(number) => {
                let first = date(year, i16::from(*number) * 6 - 5, 1)?;
                Some((first, plus(first, 5, Unit::Month)?.last_of_month()))
            }
            Self::Week(number) => week(year, *number),
        }
    }
}

fn part_of_year(text: &Text<'_>, at: usize) -> Option<(usize, Part)> {
    let word = text.word(at);
    let number = text
        .small(at + 1)
        .and_then(|number| i8::try_from(number).ok());
    let number = number.filter(|_| text.ends(at + 2));
    let joined = text.joined(at + 1);
    match (word, number) {
        ("q", Some(number @ 1..=4)) if joined => return Some((at + 2, Part::Quarter(number))),
        ("quarter" | "quartal", Some(number @ 1..=4)) => {
            return Some((at + 2, Part::Quarter(number)));
        }
        ("h", Some(number @ 1..=2)) if joined && text.is_all_capitals(at) => {
            return Some((at + 2, Part::Half(number)));
        }
        ("kw" | "cw" | "week" | "kalenderwoche", Some(number @ 1..=53)) => {
            return Some((at + 2, Part::Week(number)));
        }
        _ => {}
    }
    if word == "calendar" && text.word(at + 1) == "week" {
        return part_of_year(text, at + 1);
    }
    let (after, number) = ordinal(text, at)?;
    match (text.word(after), number) {
        ("quarter" | "quartal", 1..=4) => Some((after + 1, Part::Quarter(number))),
        ("half", 1..=2) if text.word(after + 1) == "of" && year(text, after + 2).is_some() => {
            Some((after + 1, Part::Half(number)))
        }
        ("halbjahr", 1..=2) => Some((after + 1, Part::Half(number))),
        _ => None,
    }
}

fn ordinal(text: &Text<'_>, at: usize) -> Option<(usize, i8)> {
    let number = match text.word(at) {
        "first" | "erste" | "ersten" | "erstes" => 1,
        "second" | "zweite" | "zweiten" | "zweites" => 2,
        "third" | "dritte" | "dritten" | "drittes" => 3,
        "fourth" | "vierte" | "vierten" | "viertes" => 4,
        _ => {
            let number = text.small(at)?;
            let suffix =
                matches!(text.word(at + 1), "st" | "nd" | "rd" | "th") && text.joined(at + 1);
            let suffix = suffix || text.is_joined_mark(at + 1, '.');
            return suffix
                .then(|| i8::try_from(number).ok())
                .flatten()
                .map(|n| (at + 2, n));
        }
    };
    Some((at + 1, number))
}

/// `this`, `next`, `last` and their German forms: 0, 1, -1.
pub(super) fn shift(text: &Text<'_>, at: usize) -> Option<i64> {
    Some(match text.word(at) {
        "this" | "current" | "diese" | "dieser" | "dieses" | "diesen" | "diesem" | "aktuellen"
        | "laufenden" => 0,
        "next" | "coming" | "following" | "upcoming" | "nachste" | "nachster" | "nachstes"
        | "nachsten" | "nachstem" | "naechste" | "naechsten" | "kommende" | "kommenden"
        | "kommender" => 1,
        "last" | "previous" | "past" | "letzte" | "letzter" | "letztes" | "letzten" | "letztem"
        | "vergangene" | "vergangenen" | "vorige" | "vorigen" | "voriges" => -1,
        _ => return None,
    })
}

/// `next week`, `this quarter`, `last year`, `next March`, `the weekend`.
fn shifted(text: &Text<'_>, at: usize) -> Option<(usize, Date, Date)> {
    let today = text.now.date();
    let by = match shift(text, at) {
        Some(by) => by,
        None if text.word(at) == "the" && text.word(at + 1) == "weekend" => 0,
        None => return None,
    };
    if matches!(text.word(at + 1), "weekend" | "wochenende") {
        let (monday, sunday) = around(plus(today, by, Unit::Week)?, Unit::Week)?;
        return Some((at + 2, plus(monday, 5, Unit::Day)?, sunday));
    }
    if let Some((end, month)) = month(text, at + 1) {
        let year = match (by, month.cmp(&today.month())) {
            (1, std::cmp::Ordering::Less | std::cmp::Ordering::Equal) => today.year() + 1,
            (-1, std::cmp::Ordering::Greater | std::cmp::Ordering::Equal) => today.year() - 1,
            _ => today.year(),
        };
        // `last March 3` is not here.
        let (from, to) = whole_month(year, month)?;
        return text.digits(end).is_none().then_some((end, from, to));
    }
    let (end, unit) = unit(text, at + 1)?;
    // `past week` is the seven days up to today.
    if text.word(at) == "past" {
        return Some((end, plus(today, -1, unit)?, today));
    }
    let step = match unit {
        Unit::Week | Unit::Month | Unit::Quarter | Unit::Year => unit,
        Unit::Minute | Unit::Hour | Unit::Day | Unit::WorkingDay => return None,
    };
    // The last day of a month is not in every month.
    let first = around(today, unit)?.0;
    let (from, to) = around(plus(first, by, step)?, unit)?;
    Some((end, from, to))
}

/// `2026`, behind words that make it a year.
fn bare_year(text: &Text<'_>, at: usize) -> Option<(usize, When)> {
    let year = year(text, at)?;
    let before = matches!(
        text.word_before(at),
        "in" | "of"
            | "for"
            | "year"
            | "since"
            | "until"
            | "during"
            | "jahr"
            | "seit"
            | "fur"
            | "jahres"
            | "from"
    );
    let unit_after =
        super::super::unit::find(text, at + 1).is_some() || text.is_like_a_noun(at + 1);
    if !before || unit_after {
        return None;
    }
    let (from, to) = around(date(year, 1, 1)?, Unit::Year)?;
    Some((at + 1, When::Days(from, to)))
}
