//! Names of months and days of the week, and the arithmetic of the calendar. Weeks begin on Monday.

use jiff::{
    Span,
    civil::{Date, DateTime, Weekday},
};

use super::super::token::Text;

/// A unit of time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unit {
    Minute,
    Hour,
    Day,
    /// Monday to Friday.
    WorkingDay,
    Week,
    Month,
    Quarter,
    Year,
}

/// The unit at a token, and where it ends.
pub(super) fn unit(text: &Text<'_>, at: usize) -> Option<(usize, Unit)> {
    let unit = match text.word(at) {
        "minute" | "minutes" | "min" | "mins" | "minuten" => Unit::Minute,
        "hour" | "hours" | "hrs" | "stunde" | "stunden" => Unit::Hour,
        "day" | "days" | "tag" | "tage" | "tagen" | "tages" => Unit::Day,
        "week" | "weeks" | "woche" | "wochen" => Unit::Week,
        "month" | "months" | "monat" | "monate" | "monaten" | "monats" => Unit::Month,
        "quarter" | "quarters" | "quartal" | "quartale" | "quartals" | "quartalen" => Unit::Quarter,
        "year" | "years" | "jahr" | "jahre" | "jahren" | "jahres" => Unit::Year,
        "werktag" | "werktage" | "werktagen" | "arbeitstage" | "arbeitstagen" => Unit::WorkingDay,
        "business" | "working" | "work" if matches!(text.word(at + 1), "day" | "days") => {
            return Some((at + 2, Unit::WorkingDay));
        }
        _ => return None,
    };
    text.ends(at + 1).then_some((at + 1, unit))
}

/// The month at a token, and its end. `may` and `mar` are words, too.
pub(super) fn month(text: &Text<'_>, at: usize) -> Option<(usize, i8)> {
    let word = text.word(at);
    let month = match word {
        "january" | "jan" | "januar" | "janner" | "jaenner" => 1,
        "february" | "feb" | "februar" => 2,
        "march" | "mar" | "marz" | "maerz" => 3,
        "april" | "apr" => 4,
        "may" | "mai" => 5,
        "june" | "jun" | "juni" => 6,
        "july" | "jul" | "juli" => 7,
        "august" | "aug" => 8,
        "september" | "sep" | "sept" => 9,
        "october" | "oct" | "oktober" | "okt" => 10,
        "november" | "nov" => 11,
        "december" | "dec" | "dezember" | "dez" => 12,
        _ => return None,
    };
    let dot = word.len() <= 4 && word != "may" && text.is_joined_mark(at + 1, '.');
    // A dot at the end of the sentence does no harm, but does not belong to the name.
    let dot = dot && at + 2 < text.len() && !text.is_capital(at + 2);
    Some((at + 1 + usize::from(dot), month))
}

/// A whole word that says the day of the week, in the singular.
pub(super) fn weekday(text: &Text<'_>, at: usize) -> Option<(usize, Weekday)> {
    let short = text.is_capital(at);
    let day = match text.word(at) {
        "monday" | "montag" => Weekday::Monday,
        "tuesday" | "dienstag" => Weekday::Tuesday,
        "wednesday" | "mittwoch" => Weekday::Wednesday,
        "thursday" | "donnerstag" => Weekday::Thursday,
        "friday" | "freitag" => Weekday::Friday,
        "saturday" | "samstag" | "sonnabend" => Weekday::Saturday,
        "sunday" | "sonntag" => Weekday::Sunday,
        "mon" if short => Weekday::Monday,
        "tue" | "tues" if short => Weekday::Tuesday,
        "wed" if short => Weekday::Wednesday,
        "thu" | "thur" | "thurs" if short => Weekday::Thursday,
        "fri" if short => Weekday::Friday,
        "sat" if short => Weekday::Saturday,
        "sun" if short => Weekday::Sunday,
        _ => return None,
    };
    text.ends(at + 1).then_some((at + 1, day))
}

/// `Mo`, `Di`, …: words in other places, so they count only before a date.
pub(super) fn short_german_weekday(text: &Text<'_>, at: usize) -> Option<usize> {
    let known = matches!(text.raw(at), "Mo" | "Di" | "Mi" | "Do" | "Fr" | "Sa" | "So");
    let dot = usize::from(text.is_joined_mark(at + 1, '.'));
    known.then_some(at + 1 + dot)
}

/// A year of four digits.
pub(super) fn year(text: &Text<'_>, at: usize) -> Option<i16> {
    let year = text.small(at).filter(|_| text.raw(at).len() == 4)?;
    // Not the whole number of `2026.50`, and no time.
    let goes_on =
        text.joined_mark(at + 1).is_some() && text.joined(at + 2) && text.digits(at + 2).is_some();
    ((1900..2200).contains(&year) && text.ends(at + 1) && !goes_on).then_some(year)
}

pub(super) fn date(year: i16, month: i16, day: i16) -> Option<Date> {
    Date::new(year, i8::try_from(month).ok()?, i8::try_from(day).ok()?).ok()
}

/// The next such day, or the last one; today is both.
pub(super) fn nearest(today: Date, month: i8, day: i16, back: bool) -> Option<Date> {
    // 29 February comes every 4 years, or after 8.
    (0..=8_i16).find_map(|years| {
        let year = if back {
            today.year() - years
        } else {
            today.year() + years
        };
        let day = date(year, month.into(), day)?;
        (if back { day <= today } else { day >= today }).then_some(day)
    })
}

/// The whole month.
pub(super) fn whole_month(year: i16, month: i8) -> Option<(Date, Date)> {
    let first = date(year, month.into(), 1)?;
    Some((first, first.last_of_month()))
}

/// The whole unit that holds a day.
pub(super) fn around(day: Date, unit: Unit) -> Option<(Date, Date)> {
    match unit {
        Unit::Minute | Unit::Hour => None,
        Unit::Day | Unit::WorkingDay => Some((day, day)),
        Unit::Week => {
            let monday = plus(
                day,
                -i64::from(day.weekday().to_monday_zero_offset()),
                Unit::Day,
            )?;
            Some((monday, plus(monday, 6, Unit::Day)?))
        }
        Unit::Month => Some((day.first_of_month(), day.last_of_month())),
        Unit::Quarter => quarter(day.year(), (day.month() - 1) / 3 + 1),
        Unit::Year => Some((day.first_of_year(), day.last_of_year())),
    }
}

/// The quarter from 1 to 4.
pub(super) fn quarter(year: i16, quarter: i8) -> Option<(Date, Date)> {
    let first = date(year, i16::from(quarter) * 3 - 2, 1)?;
    Some((first, plus(first, 2, Unit::Month)?.last_of_month()))
}

/// A week of ISO 8601.
pub(super) fn week(year: i16, week: i8) -> Option<(Date, Date)> {
    let monday = jiff::civil::ISOWeekDate::new(year, week, Weekday::Monday).ok()?;
    let monday = monday.date();
    Some((monday, plus(monday, 6, Unit::Day)?))
}

/// So many units later; earlier with a number below zero.
pub(super) fn plus(day: Date, count: i64, unit: Unit) -> Option<Date> {
    let span = Span::new();
    let span = match unit {
        Unit::Minute | Unit::Hour => return None,
        Unit::Day => span.try_days(count),
        Unit::WorkingDay => return plus_working_days(day, count),
        Unit::Week => span.try_weeks(count),
        Unit::Month => span.try_months(count),
        Unit::Quarter => span.try_months(count.checked_mul(3)?),
        Unit::Year => span.try_years(count),
    };
    day.checked_add(span.ok()?).ok()
}

/// So many minutes or hours later.
pub(super) fn plus_time(at: DateTime, count: i64, unit: Unit) -> Option<DateTime> {
    let span = match unit {
        Unit::Minute => Span::new().try_minutes(count),
        Unit::Hour => Span::new().try_hours(count),
        _ => return None,
    };
    at.checked_add(span.ok()?).ok()
}

fn plus_working_days(day: Date, count: i64) -> Option<Date> {
    let step = if count < 0 { -1 } else { 1 };
    // Whole weeks at once; so at most four steps are left.
    let mut day = plus(day, count / 5, Unit::Week)?;
    let mut left = (count % 5).abs();
    while left > 0 || is_weekend(day) {
        day = plus(day, step, Unit::Day)?;
        if !is_weekend(day) && left > 0 {
            left -= 1;
        }
    }
    Some(day)
}

fn is_weekend(day: Date) -> bool {
    matches!(day.weekday(), Weekday::Saturday | Weekday::Sunday)
}
