//! Times of day.

use jiff::civil::{DateTime, Time};

use super::{super::token::Text, When};

/// A time, or two of them with `-` between.
pub(super) fn find(text: &Text<'_>, at: usize) -> Option<(usize, When)> {
    text.begins(at).then(|| of_clock(text, at)).flatten()
}

/// As [`find`], also in the middle of a word: behind the `T` of `2026-03-03T15:00`.
pub(super) fn of_clock(text: &Text<'_>, at: usize) -> Option<(usize, When)> {
    if let Some((after, first)) = clock(text, at)
        && let Some(next) = to(text, after)
        && let Some((end, last)) = clock(text, next)
    {
        // `2-4 pm`, `14–16 Uhr`: the second one says what the first one is.
        let half = first.half.or(last.half);
        if first.sure || last.sure {
            let (from, to) = (first.time(half)?, last.time(last.half)?);
            return text.ends(end).then_some((end, When::Times(from, to)));
        }
    }
    let (end, clock) = clock(text, at)?;
    let time = clock.time(clock.half).filter(|_| clock.sure)?;
    let zone = text.raw(end) == "Z";
    (zone || text.ends(end)).then_some((end, When::Time(time)))
}

/// Behind a comma or a word such as `at`, where a day and a time belong together.
pub(super) fn joined_by(text: &Text<'_>, at: usize, words: &[&str]) -> usize {
    let comma = usize::from(text.is_mark(at, ','));
    let word = words.contains(&text.word(at + comma)) || text.is_mark(at + comma, '@');
    at + comma + usize::from(word)
}

/// After a moment: seconds, and the zone, `Z` or `+01:00`.
pub(super) fn in_utc(text: &Text<'_>, end: usize, moment: DateTime) -> (usize, DateTime) {
    let sign = match text.joined_mark(end) {
        Some('+') => 1,
        Some('-') => -1,
        _ if text.raw(end) == "Z" && text.joined(end) => return (end + 1, moment),
        _ => return (end, moment),
    };
    let offset = || {
        let joined =
            text.joined(end + 1) && text.is_joined_mark(end + 2, ':') && text.joined(end + 3);
        let hours = text
            .small(end + 1)
            .filter(|_| joined && text.raw(end + 1).len() == 2)?;
        let minutes = text
            .small(end + 3)
            .filter(|_| text.raw(end + 3).len() == 2)?;
        let minutes = i64::from(hours) * 60 + i64::from(minutes);
        super::calendar::plus_time(moment, -sign * minutes, super::calendar::Unit::Minute)
    };
    match offset() {
        Some(moment) => (end + 4, moment),
        None => (end, moment),
    }
}

/// Which half of the day.
#[derive(Clone, Copy, PartialEq)]
enum Half {
    Morning,
    Afternoon,
}

struct Clock {
    hour: i8,
    minute: i8,
    half: Option<Half>,
    /// It is a time, and no number.
    sure: bool,
}

impl Clock {
    fn time(&self, half: Option<Half>) -> Option<Time> {
        let hour = match half {
            None => self.hour,
            Some(_) if !(1..=12).contains(&self.hour) => return None,
            Some(Half::Morning) => self.hour % 12,
            Some(Half::Afternoon) => self.hour % 12 + 12,
        };
        // `24:00` is no time of a day.
        Time::new(hour, self.minute, 0, 0).ok()
    }
}

fn to(text: &Text<'_>, at: usize) -> Option<usize> {
    let mark = matches!(text.mark(at), Some('-' | '–' | '—'));
    (mark || matches!(text.word(at), "to" | "until" | "bis")).then_some(at + 1)
}

fn clock(text: &Text<'_>, at: usize) -> Option<(usize, Clock)> {
    let named = match text.word(at) {
        "noon" | "midday" => Some(12),
        "midnight" | "mitternacht" => Some(0),
        _ => None,
    };
    if let Some(hour) = named {
        let clock = Clock {
            hour,
            minute: 0,
            half: None,
            sure: true,
        };
        return Some((at + 1, clock));
    }
    let part = |at: usize| {
        let part = text.small(at).filter(|_| text.raw(at).len() <= 2)?;
        i8::try_from(part).ok()
    };
    let hour = part(at).filter(|hour| (0..24).contains(hour))?;
    let mut end = at + 1;
    let (mut minute, mut sure) = (0, false);
    if let Some(separator @ (':' | '.')) = text.joined_mark(end)
        && let Some(minutes) = part(end + 1).filter(|_| text.joined(end + 1))
        && text.raw(end + 1).len() == 2
        && (0..60).contains(&minutes)
    {
        let minutes_end = end + 2;
        let clock_word = text.word(minutes_end) == "uhr" || half(text, minutes_end).is_some();
        if separator == ':' || clock_word {
            (minute, sure, end) = (minutes, separator == ':', minutes_end);
        }
    }
    // Seconds.
    if sure
        && text.is_joined_mark(end, ':')
        && text.joined(end + 1)
        && part(end + 1).is_some_and(|seconds| (0..60).contains(&seconds))
    {
        end += 2;
        // Their fraction.
        if text.is_joined_mark(end, '.') && text.joined(end + 1) && text.digits(end + 1).is_some() {
            end += 2;
        }
    }
    let half = half(text, end);
    if let Some((after, _)) = half {
        (end, sure) = (after, true);
    } else if text.word(end) == "uhr" {
        (end, sure) = (end + 1, true);
    } else if text.word(end) == "o" && text.word(end + 2) == "clock" && text.joined(end + 2) {
        (end, sure) = (end + 3, true);
    }
    let half = half.map(|(_, half)| half);
    let clock = Clock {
        hour,
        minute,
        half,
        sure,
    };
    Some((end, clock))
}

/// `pm`, `p.m.`
fn half(text: &Text<'_>, at: usize) -> Option<(usize, Half)> {
    match text.word(at) {
        "pm" => return Some((at + 1, Half::Afternoon)),
        // `um 3 am Montag`
        "am" if text.joined(at) || !text.german => return Some((at + 1, Half::Morning)),
        _ => {}
    }
    let half = match text.word(at) {
        "a" => Half::Morning,
        "p" => Half::Afternoon,
        _ => return None,
    };
    let dotted =
        text.is_joined_mark(at + 1, '.') && text.word(at + 2) == "m" && text.joined(at + 2);
    let dot = usize::from(text.is_joined_mark(at + 3, '.') && at + 4 < text.len());
    dotted.then_some((at + 3 + dot, half))
}
