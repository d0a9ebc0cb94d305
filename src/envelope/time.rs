//! Reading and writing RFC 3339 date-times.

use std::{fmt, ops::RangeInclusive};

/// The valid times of events: the years 1 to 9999 in UTC, in microseconds since 1970. RFC 3339, Postgres, Parquet and the date types of
/// most languages can represent these; most have no year 0.
pub(super) const TIMES: RangeInclusive<i64> = -62_135_596_800_000_000..=253_402_300_799_999_999;

const MICROS: i64 = 1_000_000;
const DAY_S: i64 = 86_400;

/// Parses an RFC 3339 date-time into microseconds since 1970-01-01T00:00:00Z.
///
/// Returns `None` if the text is malformed or the time is outside the years 1 to 9999 in UTC. Digits beyond microseconds are dropped. A
/// leap second (23:59:60 UTC) becomes the first second of the next day, as in Postgres.
///
/// ```
/// use omnilink::envelope::{Rfc3339, parse_rfc3339};
///
/// let micros = parse_rfc3339("2025-01-31T13:00:00.5+01:00").unwrap();
/// assert_eq!(Rfc3339(micros).to_string(), "2025-01-31T12:00:00.5Z");
/// assert_eq!(parse_rfc3339("2025-01-31"), None);
/// ```
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let number = |at: usize, digits: usize| -> Option<i64> {
        bytes.get(at..at + digits)?.iter().try_fold(0, |n, b| {
            b.is_ascii_digit().then(|| n * 10 + i64::from(b - b'0'))
        })
    };
    let is = |at: usize, wanted: &[u8]| bytes.get(at).is_some_and(|b| wanted.contains(b));
    let (year, month, day) = (number(0, 4)?, number(5, 2)?, number(8, 2)?);
    let (hour, minute, second) = (number(11, 2)?, number(14, 2)?, number(17, 2)?);
    let separated = is(4, b"-") && is(7, b"-") && is(10, b"Tt") && is(13, b":") && is(16, b":");
    let in_range = (1..=12).contains(&month)
        && (1..=days_in(year, month)).contains(&day)
        && hour <= 23
        && minute <= 59
        && second <= 60;
    if !separated || !in_range {
        return None;
    }
    let mut at = 19;
    let mut micros = 0;
    if is(at, b".") {
        let digits = bytes[at + 1..]
            .iter()
            .take_while(|b| b.is_ascii_digit())
            .count();
        if digits == 0 {
            return None;
        }
        let kept = digits.min(6);
        micros = number(at + 1, kept)? * 10_i64.pow(6 - kept as u32);
        at += 1 + digits;
    }
    let offset_minutes = match bytes.get(at)? {
        b'Z' | b'z' => {
            at += 1;
            0
        }
        sign @ (b'+' | b'-') => {
            let (hours, minutes) = (number(at + 1, 2)?, number(at + 4, 2)?);
            if !is(at + 3, b":") || hours > 23 || minutes > 59 {
                return None;
            }
            at += 6;
            let minutes = hours * 60 + minutes;
            if *sign == b'-' { -minutes } else { minutes }
        }
        _ => return None,
    };
    if at != bytes.len() {
        return None;
    }
    let minutes = (days_since_1970(year, month, day) * 24 + hour) * 60 + minute - offset_minutes;
    if second == 60 && minutes.rem_euclid(24 * 60) != 24 * 60 - 1 {
        return None;
    }
    Some((minutes * 60 + second) * 1_000_000 + micros).filter(|time| TIMES.contains(time))
}

/// Displays microseconds since 1970-01-01T00:00:00Z as an RFC 3339 date-time in UTC, without trailing zeros in the fraction. A time outside
/// the years 0 to 9999 is displayed as the nearest end of that range. (jiff cannot represent times after 9999-12-30T22:00:00Z.)
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rfc3339(pub i64);

/// The maximum length of the text.
const TEXT_MAX: usize = 27;

impl Rfc3339 {
    /// The start of year 0, which earlier versions of OmniLink admitted.
    const FIRST: i64 = -62_167_219_200_000_000;

    /// Appends the text.
    pub fn write(self, out: &mut Vec<u8>) {
        let micros = self.0.clamp(Self::FIRST, *TIMES.end());
        let (seconds, fraction) = (micros.div_euclid(MICROS), micros.rem_euclid(MICROS));
        let (days, second) = (seconds.div_euclid(DAY_S), seconds.rem_euclid(DAY_S));
        let (year, month, day) = date_of(days);
        let mut put = |number: i64, digits: u32, after: &[u8]| {
            for power in (0..digits).rev() {
                out.push(b'0' + (number / 10_i64.pow(power) % 10) as u8);
            }
            out.extend_from_slice(after);
        };
        put(year, 4, b"-");
        put(month, 2, b"-");
        put(day, 2, b"T");
        put(second / 3600, 2, b":");
        put(second / 60 % 60, 2, b":");
        put(second % 60, 2, b"");
        if fraction > 0 {
            out.push(b'.');
            let mut rest = fraction;
            let mut power = 100_000;
            while rest > 0 {
                out.push(b'0' + (rest / power) as u8);
                rest %= power;
                power /= 10;
            }
        }
        out.push(b'Z');
    }
}

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::with_capacity(TEXT_MAX);
        self.write(&mut text);
        f.write_str(&String::from_utf8_lossy(&text))
    }
}

fn days_in(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// The day number of a date in the proleptic Gregorian calendar (H. Hinnant, `days_from_civil`). Years start in March.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year - 719_468
}

/// The date of a day number: the inverse of [`days_since_1970`] (H. Hinnant, `civil_from_days`).
fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn valid_and_invalid_times() {
        let good = [
            ("1970-01-01T00:00:00Z", 0),
            ("1969-12-31T23:59:59.999999Z", -1),
            ("2018-04-05T17:31:00Z", 1_522_949_460_000_000),
            ("2018-04-05t19:31:00.5+02:00", 1_522_949_460_500_000),
            ("2018-04-05T17:31:00.1234567899z", 1_522_949_460_123_456),
            ("2016-12-31T23:59:60Z", 1_483_228_800_000_000),
            ("2017-01-01T00:59:60+01:00", 1_483_228_800_000_000),
            ("2024-02-29T00:00:00-00:00", 1_709_164_800_000_000),
            ("0001-01-01T00:00:00Z", -62_135_596_800_000_000),
            ("0001-01-01T14:00:00+14:00", -62_135_596_800_000_000),
            ("0000-12-31T10:00:00-14:00", -62_135_596_800_000_000),
            ("9999-12-31T23:59:59.999999999Z", 253_402_300_799_999_999),
            ("9998-12-31T23:59:60Z", 253_370_764_800_000_000),
            ("9999-12-31T23:59:59Z", 253_402_300_799_000_000),
        ];
        for (text, micros) in good {
            assert_eq!(parse_rfc3339(text), Some(micros), "{text}");
        }
        let bad = [
            "",
            "2018-04-05",
            "2018-04-05T17:31:00",
            "2018-04-05 17:31:00Z",
            "2018-04-05T17:31Z",
            "2018-04-05T17:31:00.Z",
            "2018-04-05T17:31:00+0200",
            "2018-04-05T17:31:00+24:00",
            "2018-04-05T17:31:00Zx",
            "2018-04-05T24:00:00Z",
            "2018-04-05T12:00:60Z",
            "2018-13-05T17:31:00Z",
            "2018-00-05T17:31:00Z",
            "2018-04-31T17:31:00Z",
            "2023-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "+018-04-05T17:31:00Z",
            "2018-04-05T17:31:00٣Z",
            "0000-01-01T00:00:00Z",
            "0000-12-31T23:59:59.999999Z",
            "0001-01-01T00:00:00+00:01",
            "0001-01-01T00:00:00+14:00",
            "9999-12-31T23:59:59-00:01",
            "9999-12-31T23:59:60Z",
        ];
        for text in bad {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }

    #[test]
    fn times_at_the_ends_of_the_range_are_written() {
        let shown = |micros| Rfc3339(micros).to_string();
        assert_eq!(shown(*TIMES.start()), "0001-01-01T00:00:00Z");
        assert_eq!(shown(*TIMES.end()), "9999-12-31T23:59:59.999999Z");
        assert_eq!(shown(253_402_214_400_000_000), "9999-12-31T00:00:00Z");
        assert_eq!(shown(Rfc3339::FIRST), "0000-01-01T00:00:00Z");
        assert_eq!(shown(-1), "1969-12-31T23:59:59.999999Z");
        assert_eq!(shown(500_000), "1970-01-01T00:00:00.5Z");
        assert_eq!(shown(i64::MAX), shown(*TIMES.end()));
        assert_eq!(shown(i64::MIN), shown(Rfc3339::FIRST));
    }

    proptest! {
        #[test]
        fn agrees_with_jiff(micros in -62_135_596_800_000_000..253_402_207_200_000_000_i64) {
            let text = jiff::Timestamp::from_microsecond(micros).unwrap().to_string();
            prop_assert_eq!(parse_rfc3339(&text), Some(micros), "{}", &text);
            prop_assert_eq!(Rfc3339(micros).to_string(), text);
        }

        #[test]
        fn written_times_are_parsed_back(micros in TIMES) {
            let text = Rfc3339(micros).to_string();
            prop_assert!(text.len() <= TEXT_MAX);
            prop_assert_eq!(parse_rfc3339(&text), Some(micros), "{}", text);
        }

        #[test]
        fn never_panics(text in "[0-9TZtz:.+ -]{0,40}") {
            if let (Some(ours), Ok(theirs)) = (parse_rfc3339(&text), text.parse::<jiff::Timestamp>()) {
                prop_assert_eq!(ours, theirs.as_microsecond());
            }
        }
    }
}
