//! The times of a cron expression in a time zone.
//!
//! When clocks go forward, a fixed time that is skipped (`30 2 * * *`) moves to the end of the gap; skipped times of expressions
//! with wildcards in minute or hour (`*/15 * * * *`) are dropped. When clocks go back, a fixed time occurs once, the first time,
//! and wildcards match both hours. Vixie cron and the Open Cron Pattern Specification do the same.

use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use jiff::{Timestamp, Zoned, tz::TimeZone};

use crate::base::clock::Millis;

/// A cron expression in a time zone.
#[derive(Clone, Debug)]
pub struct Schedule {
    cron: Cron,
    zone: TimeZone,
    /// Expression and zone, as given.
    name: String,
}

/// Why a schedule is invalid.
pub(super) struct ScheduleFault {
    pub(super) in_zone: bool,
    pub(super) message: String,
    pub(super) note: &'static str,
}

impl Schedule {
    /// Reads an expression of five fields (minute, hour, day of the month, month, day of the week), or one such as `@daily`; `zone` is
    /// a name of the IANA database.
    pub(super) fn new(pattern: &str, zone: &str) -> Result<Self, Vec<ScheduleFault>> {
        let parser = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .build();
        let cron = parser.parse(pattern).map_err(|error| ScheduleFault {
            in_zone: false,
            message: format!("not a cron expression: {error}"),
            note: "five fields: minute, hour, day of the month, month, day of the week",
        });
        let named = TimeZone::get(zone).map_err(|_| ScheduleFault {
            in_zone: true,
            message: format!("there is no time zone `{zone}`"),
            note: "such as `UTC` or `Europe/Berlin`",
        });
        let schedule = match (cron, named) {
            (Ok(cron), Ok(found)) => Self {
                cron,
                zone: found,
                name: format!("{pattern} {zone}"),
            },
            (cron, named) => return Err(cron.err().into_iter().chain(named.err()).collect()),
        };
        // February 29 occurs at least every 8 years; the search covers far more than that.
        if schedule.after(Millis(0)).is_none() {
            return Err(vec![ScheduleFault {
                in_zone: false,
                message: "this time never occurs".into(),
                note: "no month has such a day",
            }]);
        }
        Ok(schedule)
    }

    /// Expression and zone, as given: `0 7 * * MON-FRI Europe/Berlin`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The first time after a moment.
    pub fn after(&self, moment: Millis) -> Option<Millis> {
        let next = self.cron.find_next_occurrence(&self.zoned(moment)?, false);
        next.ok()
            .map(|next| Millis(next.timestamp().as_millisecond()))
    }

    /// The last time until a moment, the moment included.
    pub fn until(&self, moment: Millis) -> Option<Millis> {
        let last = self
            .cron
            .find_previous_occurrence(&self.zoned(moment)?, true);
        last.ok()
            .map(|last| Millis(last.timestamp().as_millisecond()))
    }

    fn zoned(&self, moment: Millis) -> Option<Zoned> {
        let at = Timestamp::from_millisecond(moment.0).ok()?;
        Some(at.to_zoned(self.zone.clone()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn schedule(pattern: &str, zone: &str) -> Schedule {
        Schedule::new(pattern, zone).unwrap_or_else(|wrong| panic!("{}", wrong[0].message))
    }

    fn at(text: &str) -> Millis {
        Millis(text.parse::<Timestamp>().unwrap().as_millisecond())
    }

    /// The times after a moment.
    fn next(schedule: &Schedule, from: &str, count: usize) -> Vec<String> {
        let mut moment = at(from);
        (0..count)
            .map(|_| {
                moment = schedule.after(moment).unwrap();
                let time = Timestamp::from_millisecond(moment.0).unwrap();
                time.to_string()
            })
            .collect()
    }

    #[test]
    fn a_fixed_time_that_clocks_skip_comes_right_after_the_gap_and_once_where_they_double_it() {
        // 2026-03-29: 02:00 CET is 03:00 CEST. 2026-10-25: 03:00 CEST is 02:00 CET.
        let fixed = schedule("30 2 * * *", "Europe/Berlin");
        assert_eq!(
            next(&fixed, "2026-03-28T00:00:00Z", 3),
            [
                "2026-03-28T01:30:00Z",
                "2026-03-29T01:00:00Z",
                "2026-03-30T00:30:00Z"
            ]
        );
        assert_eq!(
            next(&fixed, "2026-10-24T12:00:00Z", 2),
            ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
        );
    }

    #[test]
    fn times_with_wildcards_follow_the_clock_through_both_hours() {
        let often = schedule("*/30 * * * *", "Europe/Berlin");
        assert_eq!(
            next(&often, "2026-03-29T00:15:00Z", 3),
            [
                "2026-03-29T00:30:00Z",
                "2026-03-29T01:00:00Z",
                "2026-03-29T01:30:00Z"
            ]
        );
        assert_eq!(
            next(&often, "2026-10-25T00:00:00Z", 4),
            [
                "2026-10-25T00:30:00Z",
                "2026-10-25T01:00:00Z",
                "2026-10-25T01:30:00Z",
                "2026-10-25T02:00:00Z"
            ]
        );
    }

    #[test]
    fn invalid_schedules_are_refused() {
        for (pattern, zone) in [
            ("0 0 30 2 *", "UTC"),
            ("0 0 * * * *", "UTC"),
            ("61 * * * *", "UTC"),
            ("0 0 * * *", "Mars/Olympus"),
        ] {
            assert!(Schedule::new(pattern, zone).is_err(), "{pattern} {zone}");
        }
        assert_eq!(
            next(&schedule("0 0 29 2 *", "UTC"), "2026-01-01T00:00:00Z", 1),
            ["2028-02-29T00:00:00Z"]
        );
    }

    proptest! {
        #[test]
        fn the_last_time_until_a_time_is_that_time(
            from in 1_700_000_000_000_i64..1_900_000_000_000,
            which in 0usize..4,
            zone in 0usize..3,
        ) {
            let patterns = ["0 7 * * MON-FRI", "*/20 2,3 * * *", "30 2 * * *", "0 0 1 * *"];
            let zones = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"];
            let schedule = schedule(patterns[which], zones[zone]);
            let first = schedule.after(Millis(from)).unwrap();
            let second = schedule.after(first).unwrap();
            prop_assert!(Millis(from) < first && first < second);
            prop_assert_eq!(schedule.until(first), Some(first));
            prop_assert_eq!(schedule.until(Millis(second.0 - 1)), Some(first));
        }
    }
}
