use super::*;

use crate::base::clock::ManualClock;

/// A lane at offset 5 of `events`/0, and the clock that its progress is judged by.
struct Bed {
    clock: Arc<ManualClock>,
    progress: Arc<Progress>,
    lane: LaneProgress,
}

impl Bed {
    fn new() -> Self {
        let clock = Arc::<ManualClock>::default();
        let progress = Arc::new(Progress::new(Arc::<ManualClock>::clone(&clock)));
        let lane = progress.lane();
        lane.set_position("events", 0, 5);
        Self {
            clock,
            progress,
            lane,
        }
    }

    /// So many seconds after the start.
    fn at(&self, second: i64) -> &Progress {
        self.clock.advance(second * 1_000 - self.clock.now().0);
        &self.progress
    }

    /// The status then, when every suspect has records.
    fn status_at(&self, second: i64, ends: impl Fn(&str, u32) -> Option<Ends>) -> ProcessorStatus {
        let progress = self.at(second);
        for suspect in progress.observe(ends) {
            progress.confirm(&suspect, true);
        }
        progress.status()
    }
}

fn ends(stable: u64, high: u64) -> impl Fn(&str, u32) -> Option<Ends> {
    move |_, _| Some(Ends { stable, high })
}

#[test]
fn a_lane_that_works_hides_none_that_stalls() {
    let progress = Arc::<Progress>::default();
    let (one, two) = (progress.lane(), progress.lane());
    two.retrying("no disk");
    one.running();
    assert_eq!(progress.trouble().as_deref(), Some("retrying: no disk"));
    one.timers_checked(Timers {
        at: Millis(5),
        next: Some(Millis(9)),
    });
    assert_eq!(progress.timers(), None);
    two.timers_checked(Timers {
        at: Millis(4),
        next: None,
    });
    let timers = Timers {
        at: Millis(4),
        next: Some(Millis(9)),
    };
    assert_eq!(progress.timers(), Some(timers));
    drop(two);
    assert_eq!(progress.trouble(), None);
}

#[test]
fn a_partition_that_moves_between_lanes_is_reported_once() {
    let progress = Arc::<Progress>::default();
    let (one, two) = (progress.lane(), progress.lane());
    one.set_position("events", 0, 7);
    two.set_position("events", 0, 9);
    let at = |next| vec![(Arc::from("events"), 0, next)];
    assert_eq!(progress.positions(), at(9));
    // It learns late that it lost the partition.
    one.revoked("events", 0);
    assert_eq!(progress.positions(), at(9));
}

#[test]
fn a_lane_that_panicked_is_seen() {
    let Bed {
        clock,
        progress,
        lane,
    } = Bed::new();
    let ended = std::thread::spawn(move || {
        let _held = lane;
        panic!("on purpose");
    });
    assert!(ended.join().is_err());
    assert!(progress.trouble().is_some());
    clock.advance(11_000);
    let later = progress.status();
    assert!(matches!(later, ProcessorStatus::Stalled(_)), "{later:?}");
}

#[test]
fn records_that_wait_for_ten_seconds_are_a_stall_once_one_was_found() {
    let bed = Bed::new();
    assert_eq!(bed.at(0).observe(ends(9, 9)), []);
    assert_eq!(bed.at(9).observe(ends(9, 9)), []);
    let suspects = bed.at(10).observe(ends(9, 9));
    assert_eq!(suspects.len(), 1);
    assert_eq!(bed.progress.status(), ProcessorStatus::Running);
    bed.progress.confirm(&suspects[0], true);
    let ProcessorStatus::Stalled(why) = bed.at(11).status() else {
        panic!("{:?}", bed.progress.status());
    };
    assert!(
        why.contains("4 records wait in events/0 from offset 5"),
        "{why}"
    );
    // What moves on does not stall.
    bed.lane.set_position("events", 0, 6);
    assert_eq!(bed.at(12).observe(ends(9, 9)), []);
    assert_eq!(bed.progress.status(), ProcessorStatus::Running);
}

#[test]
fn markers_of_transactions_are_no_backlog() {
    let bed = Bed::new();
    bed.at(0).observe(ends(6, 6));
    let suspects = bed.at(10).observe(ends(6, 6));
    bed.progress.confirm(&suspects[0], false);
    assert_eq!(bed.at(60).observe(ends(6, 6)), []);
    assert_eq!(bed.progress.status(), ProcessorStatus::Running);
    // The wait of a record behind them begins when it comes.
    assert_eq!(bed.at(61).observe(ends(8, 8)), []);
    assert_eq!(bed.at(70).observe(ends(8, 8)), []);
    let now = bed.status_at(71, ends(8, 8));
    assert!(matches!(now, ProcessorStatus::Stalled(_)), "{now:?}");
}

#[test]
fn one_partition_stalls_beside_others_that_go_on() {
    let bed = Bed::new();
    let step = |second: i64| {
        bed.at(second);
        bed.lane.set_position("events", 1, second as u64 + 1);
        bed.status_at(second, ends(100, 100))
    };
    for second in 0..30 {
        assert_eq!(step(second), ProcessorStatus::Running, "{second}");
    }
    let now = step(30);
    assert!(
        matches!(&now, ProcessorStatus::Stalled(why) if why.contains("events/0")),
        "{now:?}"
    );
}

#[test]
fn a_named_wait_is_no_stall_however_long_it_lasts() {
    let bed = Bed::new();
    bed.lane.waiting("Postgres: it is away");
    for second in [10, 20, 600] {
        let waits = ProcessorStatus::Waiting("Postgres: it is away".to_owned());
        assert_eq!(bed.status_at(second, ends(9, 9)), waits);
    }
}

#[test]
fn what_is_held_does_not_stall_and_hides_no_lane_that_does() {
    let bed = Bed::new();
    bed.lane.held("the kill switch is on");
    for second in [10, 600] {
        let held = ProcessorStatus::Held("the kill switch is on".to_owned());
        assert_eq!(bed.status_at(second, ends(9, 9)), held);
    }
    let detail = bed.progress.trouble().unwrap();
    assert_eq!(detail, "held: the kill switch is on");
    let other = bed.progress.lane();
    other.retrying("no disk");
    assert_eq!(bed.progress.trouble().as_deref(), Some("retrying: no disk"));
}

#[test]
fn a_call_that_does_not_return_is_a_wait() {
    let bed = Bed::new();
    let call = bed.lane.calls().begin("Postgres: writing a batch");
    let status = |second| bed.status_at(second, ends(9, 9));
    assert_eq!(status(1), ProcessorStatus::Running);
    for second in [6, 20, 60] {
        let now = status(second);
        assert!(
            matches!(&now, ProcessorStatus::Waiting(what) if what.contains("writing a batch")),
            "{now:?}"
        );
    }
    drop(call);
    let now = status(61);
    assert!(matches!(now, ProcessorStatus::Stalled(_)), "{now:?}");
}

#[test]
fn a_transaction_of_a_producer_that_stays_open_is_named() {
    let bed = Bed::new();
    assert_eq!(bed.at(0).observe(ends(5, 8)), []);
    assert_eq!(bed.at(11).observe(ends(5, 9)), []);
    let ProcessorStatus::Waiting(what) = bed.at(12).status() else {
        panic!("{:?}", bed.progress.status());
    };
    assert!(
        what.contains("events/0") && what.contains("5 to 8"),
        "{what}"
    );
}

#[test]
fn a_lane_that_fails_again_and_again_stalls_with_its_error() {
    let bed = Bed::new();
    let retrying = |second| {
        bed.at(second);
        // It opens anew, reads, and fails.
        bed.lane.starting("its partitions");
        bed.lane.running();
        bed.lane.retrying("the abort failed");
        bed.progress.status()
    };
    for second in 0..6 {
        retrying(second);
    }
    let early = retrying(7);
    assert_eq!(
        early,
        ProcessorStatus::Retrying("the abort failed".to_owned())
    );
    let late = retrying(11);
    assert!(
        matches!(&late, ProcessorStatus::Stalled(why) if why.contains("the abort failed")),
        "{late:?}"
    );
}

#[test]
fn a_lane_that_fails_when_it_opens_is_not_well_before_it_has_polled() {
    let bed = Bed::new();
    for second in 0..30 {
        bed.at(second);
        bed.lane.starting("its partitions");
        let starting = bed.progress.status();
        bed.lane.starting("the state of events/0 is restored");
        bed.lane.set_position("events", 0, 5);
        bed.lane.retrying("it has lost its end");
        let failed = bed.progress.status();
        let ends = |status: &ProcessorStatus, so: &str| {
            let detail = status.detail().unwrap_or_default();
            detail.starts_with(so) && detail.ends_with("it has lost its end")
        };
        match second {
            0 => assert_eq!(starting, ProcessorStatus::Running),
            1..10 => assert!(ends(&starting, "retrying: "), "{second} {starting:?}"),
            _ => assert!(ends(&starting, "stalled: "), "{second} {starting:?}"),
        }
        let so = if second < 10 {
            "retrying: "
        } else {
            "stalled: "
        };
        assert!(ends(&failed, so), "{second} {failed:?}");
    }
    // The last start restores for long.
    bed.at(31);
    bed.lane.starting("the state of events/0 is restored");
    let restoring = bed.at(60).status();
    assert!(
        matches!(restoring, ProcessorStatus::Stalled(_)),
        "{restoring:?}"
    );
    bed.lane.running();
    assert_eq!(bed.progress.status(), ProcessorStatus::Running);
    bed.at(61);
    bed.lane.starting("its partitions");
    assert_eq!(bed.at(70).status(), ProcessorStatus::Running);
    let waits = ProcessorStatus::Waiting("its partitions".to_owned());
    assert_eq!(bed.at(71).status(), waits);
}

#[test]
fn starts_that_fail_late_are_one_failure() {
    let bed = Bed::new();
    let fails_at = |second| {
        bed.at(second);
        bed.lane.retrying("no broker");
        bed.at(second + 1);
        bed.lane.starting("the state of events/0 is restored");
        [second + 2, second + 25].map(|second| bed.at(second).status().detail().unwrap())
    };
    let waits = "retrying: no broker; now waiting: the state of events/0 is restored";
    assert_eq!(fails_at(0), ["retrying: no broker", waits]);
    for detail in fails_at(30) {
        assert!(detail.starts_with("stalled: "), "{detail}");
    }
}

#[test]
fn a_start_hides_no_stall_before_it_and_begins_none() {
    let bed = Bed::new();
    bed.status_at(0, ends(9, 9));
    bed.at(6);
    bed.lane.starting("its partitions");
    for second in [12, 15] {
        let status = bed.status_at(second, ends(9, 9));
        assert_eq!(status, ProcessorStatus::Running, "{second}");
    }
    bed.lane.running();
    for second in [16, 17] {
        let status = bed.status_at(second, ends(9, 9));
        assert!(matches!(status, ProcessorStatus::Stalled(_)), "{status:?}");
        bed.lane.starting("its partitions");
    }
}
