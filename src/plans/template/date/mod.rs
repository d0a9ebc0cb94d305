//! Dates and times: absolute ones, and those that count from now.
//!
//! | file | holds |
//! |---|---|
//! | `calendar` | names of months and days of the week, and the arithmetic of the calendar |
//! | `absolute` | `2026-03-03`, `3 March 2026`, `03.12.2026`, `March 2026` |
//! | `period` | weeks, quarters, years, their ends: `Q3 2026`, `end of next month` |
//! | `relative` | `tomorrow`, `next Monday`, `in two weeks`, `last 30 days` |
//! | `time` | times of day |

mod absolute;
mod calendar;
mod period;
mod relative;
mod time;

use jiff::civil::{Date, DateTime, Time};
use serde_json::{Value, json};

use super::token::Text;

/// What a date or a time says.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum When {
    Day(Date),
    /// The first and the last day.
    Days(Date, Date),
    /// In UTC.
    Moment(DateTime),
    Time(Time),
    Times(Time, Time),
    /// From a time to another one of the same day, in UTC.
    Moments(DateTime, DateTime),
}

impl When {
    /// ISO 8601: text, or an object with `from` and `to`.
    pub(super) fn value(self) -> Value {
        let time = |time: Time| format!("{:02}:{:02}", time.hour(), time.minute());
        let moment = |moment: DateTime| format!("{}T{}", moment.date(), time(moment.time()));
        match self {
            Self::Day(day) => json!(day.to_string()),
            Self::Days(from, to) => json!({ "from": from.to_string(), "to": to.to_string() }),
            Self::Moment(at) => json!(moment(at)),
            Self::Time(at) => json!(time(at)),
            Self::Times(from, to) => json!({ "from": time(from), "to": time(to) }),
            Self::Moments(from, to) => json!({ "from": moment(from), "to": moment(to) }),
        }
    }

    /// `None` for a day, the usual case.
    pub(super) fn form(self) -> Option<&'static str> {
        match self {
            Self::Day(_) => None,
            Self::Days(..) => Some("range"),
            Self::Moment(_) => Some("moment"),
            Self::Time(_) => Some("time"),
            Self::Times(..) => Some("times"),
            Self::Moments(..) => Some("moments"),
        }
    }
}

/// The date or time that begins at a token, and where it ends. The longest one.
pub(super) fn find(text: &Text<'_>, at: usize) -> Option<(usize, When)> {
    if let Some((end, time)) = time::find(text, at) {
        let day = day(text, time::joined_by(text, end, &["on", "am"]));
        return match (day, time) {
            (Some((end, When::Day(day))), When::Time(time)) => {
                Some((end, When::Moment(day.to_datetime(time))))
            }
            (Some((end, When::Day(day))), When::Times(from, to)) => Some((
                end,
                When::Moments(day.to_datetime(from), day.to_datetime(to)),
            )),
            _ => Some((end, time)),
        };
    }
    let (end, when) = day(text, at)?;
    let When::Day(day) = when else {
        return Some((end, when));
    };
    // `2026-03-03T15:00`
    let time = if text.word(end) == "t" && text.joined(end) && text.joined(end + 1) {
        time::of_clock(text, end + 1)
    } else {
        time::find(text, time::joined_by(text, end, &["at", "um", "ab"]))
    };
    Some(match time {
        Some((end, When::Time(time))) => {
            let (end, moment) = time::in_utc(text, end, day.to_datetime(time));
            (end, When::Moment(moment))
        }
        Some((end, When::Times(from, to))) => (
            end,
            When::Moments(day.to_datetime(from), day.to_datetime(to)),
        ),
        _ => (end, when),
    })
}

/// The longest of the days and ranges that begin here.
fn day(text: &Text<'_>, at: usize) -> Option<(usize, When)> {
    if !text.begins(at) {
        return None;
    }
    let found = [
        absolute::find(text, at),
        relative::find(text, at),
        period::find(text, at),
    ];
    let mut longest: Option<(usize, When)> = None;
    for (end, when) in found.into_iter().flatten() {
        if longest.is_none_or(|(longest, _)| end > longest) {
            longest = Some((end, when));
        }
    }
    // `2026-03-03T15:00`
    longest.filter(|(end, _)| text.ends(*end) || text.word(*end) == "t")
}
