//! Computes which times of a schedule are due. Pure.

use crate::{
    base::clock::Millis,
    workflows::{CatchUp, Schedule},
};

/// The maximum number of times that are started at once.
const BATCH: usize = 20;
/// A time that passed longer ago than this counts as missed.
const LATE_MS: i64 = 60_000;

/// The due times of a schedule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Due {
    /// The times that start a run, in order.
    pub(super) times: Vec<Millis>,
    /// The new mark: all times up to it are started or skipped. `None` if it does not change.
    pub(super) mark: Option<Millis>,
}

/// The due times of a schedule whose mark is `last`.
pub(super) fn due(schedule: &Schedule, catch_up: CatchUp, last: Millis, now: Millis) -> Due {
    let times = match catch_up {
        CatchUp::All => {
            let mut times = Vec::new();
            let mut next = schedule.after(last);
            while let Some(time) = next.filter(|time| *time <= now && times.len() < BATCH) {
                times.push(time);
                next = schedule.after(time);
            }
            times
        }
        CatchUp::Last | CatchUp::None => {
            let time = schedule.until(now).filter(|time| *time > last);
            time.into_iter().collect()
        }
    };
    let mark = times.last().copied();
    let missed = |time: &Millis| now.0.saturating_sub(time.0) > LATE_MS;
    let times = match catch_up {
        CatchUp::None => times.into_iter().filter(|time| !missed(time)).collect(),
        CatchUp::Last | CatchUp::All => times,
    };
    Due { times, mark }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workflows::{Trigger, check_texts};

    const DAY: i64 = 86_400_000;

    /// `0 7 * * *` in UTC, read as users write it.
    fn daily() -> Schedule {
        let file = "name: w\nversion: '1.0.0'\nplan: { steps: [ { id: s, tool: noop } ] }\non: [ { cron: '0 7 * * *' } ]\n";
        let catalog = check_texts([], [("w".to_owned(), Ok(file.to_owned()))]).catalog;
        let catalog = catalog.unwrap();
        let workflow = catalog.workflow("w", None).unwrap();
        match &workflow.triggers[0] {
            Trigger::Cron(trigger) => trigger.schedule.clone(),
            Trigger::Event(_) => unreachable!(),
        }
    }

    fn at(day: i64, hour: i64, minute: i64) -> Millis {
        Millis(day * DAY + hour * 3_600_000 + minute * 60_000)
    }

    #[test]
    fn a_time_is_due_once() {
        for catch_up in [CatchUp::Last, CatchUp::All, CatchUp::None] {
            let before = due(&daily(), catch_up, at(3, 7, 0), at(4, 6, 59));
            assert_eq!(
                before,
                Due {
                    times: Vec::new(),
                    mark: None
                }
            );
            let on_time = due(&daily(), catch_up, at(3, 7, 0), at(4, 7, 0));
            assert_eq!(on_time.times, [at(4, 7, 0)]);
            assert_eq!(on_time.mark, Some(at(4, 7, 0)));
            let again = due(&daily(), catch_up, at(4, 7, 0), at(4, 7, 0));
            assert_eq!(again.times, []);
        }
    }

    #[test]
    fn of_missed_times_the_last_all_or_none_are_started() {
        let missed = |catch_up| due(&daily(), catch_up, at(3, 7, 0), at(6, 9, 30));
        let mark = Some(at(6, 7, 0));
        assert_eq!(
            missed(CatchUp::Last),
            Due {
                times: vec![at(6, 7, 0)],
                mark
            }
        );
        assert_eq!(
            missed(CatchUp::None),
            Due {
                times: Vec::new(),
                mark
            }
        );
        let all = vec![at(4, 7, 0), at(5, 7, 0), at(6, 7, 0)];
        assert_eq!(missed(CatchUp::All), Due { times: all, mark });
    }

    #[test]
    fn many_missed_times_are_started_in_parts() {
        let (mut last, mut parts, mut times) = (at(0, 7, 0), 0, 0);
        loop {
            let part = due(&daily(), CatchUp::All, last, at(250, 8, 0));
            let Some(mark) = part.mark else {
                break;
            };
            assert!(part.times.len() <= BATCH && mark > last);
            times += part.times.len();
            (parts, last) = (parts + 1, mark);
        }
        assert_eq!((parts, times), (13, 250));
    }

    #[test]
    fn a_clock_that_goes_back_starts_nothing_again() {
        let back = due(&daily(), CatchUp::All, at(9, 7, 0), at(4, 8, 0));
        assert_eq!(
            back,
            Due {
                times: Vec::new(),
                mark: None
            }
        );
    }
}
