use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::{
    state::{Changes, Space, StateStore, Value, Window, WindowOptions},
    stream::{Failure, timers::Timers, transform::Gathered},
    topology::syntax::{fields::Spanned, model::Over},
};

/// So small that a few admissions fill the journal, and a few keys the memory.
const SMALL: Bounds = Bounds {
    journal_row_min: 2,
    journal_max: 6,
    cache_max: 40,
};

fn limit() -> RateLimit {
    RateLimit {
        policy: Spanned {
            value: "p".into(),
            span: 0..0,
        },
        limit: 3,
        window_ms: 100,
        over: Over::Reject,
    }
}

/// A limiter on a store, as a lane has it.
struct Bed {
    store: StateStore,
    space: Space,
    window: Window,
    limiter: Limiter,
    timers: Timers,
    gathered: Gathered,
    now: Millis,
}

impl Bed {
    fn open(store: StateStore) -> Self {
        let space = Space::new("t", 3);
        // As in a stage that has both: each reads its own rows, and leaves the other's alone.
        let options = WindowOptions {
            window_ms: 1_000,
            payload: 0,
            seal_at: 8,
        };
        Self {
            window: Window::load(&store, space.clone(), options).unwrap(),
            limiter: Limiter::load(&store, &space, SMALL).unwrap(),
            timers: Timers::load(&store, &space).unwrap(),
            gathered: Gathered::default(),
            store,
            space,
            now: Millis(1_000_000),
        }
    }

    fn with<T>(&mut self, work: impl FnOnce(&mut Limiter, &mut Context<'_>) -> T) -> T {
        let mut context = Context {
            space: &self.space,
            store: &self.store,
            timers: &mut self.timers,
            gathered: &mut self.gathered,
            now: self.now,
        };
        work(&mut self.limiter, &mut context)
    }

    fn admits(&mut self, id: Identity, now: Millis) -> bool {
        let verdict = self.with(|limiter, cx| {
            limiter.judge::<Failure>(id, &limit(), now, cx, || unreachable!("none waits"))
        });
        verdict.unwrap() == Verdict::Pass
    }

    fn commit(&mut self, now: Millis) {
        loop {
            let due = self.timers.take(now, &mut self.gathered.writes);
            let Some((_, key)) = due else {
                break;
            };
            let (_, id) = parse_timer(&key).unwrap();
            let left = self.with(|limiter, cx| limiter.fire(id, &limit(), now, None, cx));
            assert!(left.unwrap().is_empty());
        }
        self.with(Limiter::close);
        let seen = self.window.take_changes();
        self.with(|_, cx| cx.add_changes(seen));
        let changes = self.gathered.writes.take(&self.space);
        self.gathered = Gathered::default();
        self.store.apply(&changes, &[]).unwrap();
    }

    fn rows(&self, letter: u8) -> usize {
        self.store.scan(&self.space, &[b's', letter]).count()
    }
}

fn id(n: u64) -> Identity {
    Identity::of("t", &[&n.to_string()])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Against the times of each key kept in memory: the same verdicts, whatever is committed, dropped and read back on the way.
    #[test]
    fn it_judges_as_if_it_remembered_all(
        steps in prop::collection::vec(
            (0u64..9, 0i64..12, prop::bool::weighted(0.2), prop::bool::weighted(0.03), prop::bool::weighted(0.03)),
            1..600,
        )
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut bed = Bed::open(StateStore::open(dir.path()).unwrap());
        let mut model: HashMap<u64, Times> = HashMap::new();
        let mut committed = model.clone();
        let mut now = Millis(1_000_000);
        for (record, (n, step, commit, abort, reload)) in steps.into_iter().enumerate() {
            now.0 += step;
            bed.window.insert(id(1_000 + record as u64), [0; 16], now);
            let expected = model.entry(n).or_default().admit(limit().as_limit(), now).is_ok();
            prop_assert_eq!(bed.admits(id(n), now), expected);
            if abort {
                model = committed.clone();
                bed = Bed::open(bed.store);
            } else if commit || reload {
                bed.commit(now);
                committed = model.clone();
                prop_assert!(bed.limiter.journal.len() <= 2 * SMALL.journal_max + 60);
            }
            if reload && !abort {
                bed = Bed::open(bed.store);
            }
        }
        // Nothing is left of keys that have been quiet for long, but for the journal's last row.
        bed.commit(now);
        now.0 += 10_000;
        bed.commit(now);
        prop_assert_eq!(bed.rows(b'l'), 0);
    }
}

#[test]
fn a_stage_that_also_remembers_what_it_saw_forgets_no_limit() {
    let dir = tempfile::tempdir().unwrap();
    let mut bed = Bed::open(StateStore::open(dir.path()).unwrap());
    let now = Millis(1_000_000);
    for _ in 0..3 {
        assert!(bed.admits(id(1), now));
    }
    bed.with(|_, cx| cx.put(&WAITING, &(id(1), 0), &Bytes::from_static(b"it waits")));
    bed.commit(now);
    let rows = (bed.rows(b'l'), bed.rows(b'q'));
    assert_eq!(rows, (1, 1));
    let mut bed = Bed::open(bed.store);
    assert_eq!((bed.rows(b'l'), bed.rows(b'q')), rows);
    assert!(!bed.admits(id(1), now));
}

#[test]
fn many_admissions_are_one_row_and_a_key_is_written_once_for_many() {
    let dir = tempfile::tempdir().unwrap();
    let mut bed = Bed::open(StateStore::open(dir.path()).unwrap());
    let mut now = Millis(1_000_000);
    let mut logged = Vec::new();
    for _ in 0..40 {
        // Each key passes once a transaction, and never too often.
        now.0 += 50;
        for n in 0..3 {
            assert!(bed.admits(id(n), now));
        }
        bed.with(Limiter::close);
        let changes = bed.gathered.writes.take(&bed.space);
        let rows = changes.0.iter();
        logged.push(rows.filter(|change| change.key.starts_with(b"sl")).count());
        bed.store.apply(&changes, &[]).unwrap();
    }
    // The first time each has its timer set; then all three are written for every third transaction.
    assert_eq!(logged[0], 3);
    let later: usize = logged[10..].iter().sum();
    assert!((20..=36).contains(&later), "{logged:?}");
    assert!(bed.rows(b'j') <= 4);
}

#[test]
fn a_row_from_before_there_was_a_journal_is_read() {
    let mut key = KeyState::default();
    key.times.add(Millis(5));
    key.timer = Some(Millis(105));
    let row = key.to_row(&mut Vec::new()).unwrap();
    let before = KeyState::from_row(row.slice(..row.len() - 8)).unwrap();
    assert_eq!(
        (before.times, before.timer, before.flushed_to),
        (key.times, key.timer, 0)
    );
}

fn deferring() -> RateLimit {
    RateLimit {
        over: Over::Defer,
        ..limit()
    }
}

/// What a lane does with a key that has a limit, and when each record left.
struct Leaving {
    bed: Bed,
    /// Times of leaving, of committed transactions alone.
    left: Vec<i64>,
    /// Records of the open transaction that pass.
    passing: usize,
    came: u64,
    went: Vec<u64>,
    passed: Vec<u64>,
}

impl Leaving {
    fn arrive(&mut self, appended: Millis) {
        let number = self.came;
        self.came += 1;
        let record = Bytes::copy_from_slice(&number.to_be_bytes());
        let verdict = self.bed.with(|limiter, cx| {
            limiter.judge::<Failure>(id(1), &deferring(), appended, cx, || Ok(record))
        });
        if verdict.unwrap() == Verdict::Pass {
            self.passing += 1;
            self.passed.push(number);
        }
    }

    fn fire(&mut self) {
        let now = self.bed.now;
        while let Some((_, key)) = self.bed.timers.take(now, &mut self.bed.gathered.writes) {
            let (_, id) = parse_timer(&key).unwrap();
            let released = self
                .bed
                .with(|limiter, cx| limiter.fire(id, &deferring(), now, None, cx).unwrap());
            for (_, record) in released {
                self.passing += 1;
                self.passed
                    .push(u64::from_be_bytes(record[..].try_into().unwrap()));
            }
        }
    }

    /// What passed leaves `early` after the transaction began, and is committed `commit` after it.
    fn commit(&mut self, early: i64, commit: i64) {
        self.bed.with(Limiter::close);
        let changes = self.bed.gathered.writes.take(&self.bed.space);
        self.bed.gathered = Gathered::default();
        self.bed.store.apply(&changes, &[]).unwrap();
        let left = self.bed.now.0 + early.min(commit);
        self.left
            .extend(std::iter::repeat_n(left, std::mem::take(&mut self.passing)));
        self.went.append(&mut self.passed);
        self.bed.now.0 += commit;
    }

    /// The process, or the transaction, is over.
    fn reopen(mut self) -> Self {
        let now = self.bed.now;
        self.bed = Bed::open(self.bed.store);
        self.bed.now = now;
        self.passing = 0;
        self.passed.clear();
        self
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Over the times at which records leave, whatever their times of appending are, however long a commit takes and a process is
    /// away, and whatever arrives meanwhile: never more than the limit in any window, all in order, none lost or doubled.
    #[test]
    fn no_window_of_the_times_of_leaving_has_more_than_the_limit(
        steps in prop::collection::vec(
            (
                0usize..6,                        // records that arrive
                0i64..400,                        // so long before they were appended
                0i64..60,                         // time that passes
                (0i64..40, 0i64..40),             // until they leave, and until the commit is known
                prop::sample::select(vec![0u8, 0, 0, 0, 1, 2]), // 1: aborted, 2: killed after the commit
                0i64..2_000,                      // away
            ),
            1..60,
        )
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut world = Leaving {
            bed: Bed::open(StateStore::open(dir.path()).unwrap()),
            left: Vec::new(),
            passing: 0,
            came: 0,
            went: Vec::new(),
            passed: Vec::new(),
        };
        for (records, lag, pass, (early, commit), end, away) in steps {
            world.bed.now.0 += pass;
            let came = world.came;
            for _ in 0..records {
                let appended = Millis(world.bed.now.0 - lag);
                world.arrive(appended);
            }
            world.fire();
            if end == 1 {
                world.bed.now.0 += away;
                world = world.reopen();
                // They come again.
                world.came = came;
                continue;
            }
            if end == 2 {
                // It left, was committed, and the process ended before it knew; it may be back at once.
                world.commit(early, commit);
                world.bed.now.0 += away;
                world = world.reopen();
                continue;
            }
            world.commit(early, commit);
            let now = world.bed.now;
            world.bed.limiter.committed(now);
        }
        // All that waits leaves in time.
        for _ in 0..4_000 {
            if world.went.len() as u64 == world.came {
                break;
            }
            world.bed.now.0 += 10;
            world.fire();
            world.commit(0, 0);
            let now = world.bed.now;
            world.bed.limiter.committed(now);
        }
        prop_assert_eq!(&world.went, &(0..world.came).collect::<Vec<_>>());
        let limit = deferring().as_limit();
        for first in &world.left {
            let window = *first..first + limit.window_ms;
            let inside = world.left.iter().filter(|at| window.contains(at)).count();
            prop_assert!(inside <= limit.limit as usize, "{} in a window from {}", inside, first);
        }
    }
}

/// The rows of a transaction in which one key has three records pass and one wait, and another has one pass, as version 0.1 wrote them.
const OLD_ROWS: [(&[u8], &[u8]); 6] = [
    (
        b"T\x80\x00\x00\x00\x00\x0fB\xa4p\x00\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01",
        b"",
    ),
    (
        b"T\x80\x00\x00\x00\x00\x0fB\xaep\x00\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02",
        b"",
    ),
    (
        b"sj\x00\x00\x00\x00\x00\x00\x00\x00",
        b"\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x00\x00\x00\x00\x00\x0fB@\
          \x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x00\x00\x00\x00\x00\x0fB@",
    ),
    (
        b"sl\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01",
        b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x0fB\xa4\
          \x03\xc0\x84=\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01",
    ),
    (
        b"sl\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02\x02",
        b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x0fB\xae\
          \x01\xca\x84=\x00\x00\x00\x00\x00\x00\x00\x01",
    ),
    (
        b"sq\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00",
        b"record 3",
    ),
];

#[test]
fn rows_are_written_as_earlier_versions_wrote_them() {
    let (one, two) = (Identity([1; 16]), Identity([2; 16]));
    let mut bed = Bed::open(StateStore::in_memory());
    for n in 0..4 {
        let record = Bytes::from(format!("record {n}"));
        let verdict = bed.with(|limiter, cx| {
            limiter.judge::<Failure>(one, &deferring(), cx.now(), cx, || Ok(record))
        });
        let expected = [Verdict::Pass, Verdict::Deferred][usize::from(n == 3)];
        assert_eq!(verdict.unwrap(), expected);
    }
    assert!(bed.admits(two, Millis(1_000_010)));
    bed.with(Limiter::close);
    let mut changes = bed.gathered.writes.take(&bed.space).0;
    changes.sort_by(|a, b| a.key.cmp(&b.key));
    let written: Vec<_> = changes
        .iter()
        .map(|change| (&change.key[..], change.value.as_deref().unwrap()))
        .collect();
    assert_eq!(written, OLD_ROWS);
}

#[test]
fn rows_of_earlier_versions_are_read() {
    let store = StateStore::in_memory();
    let mut rows = Changes::default();
    for (key, value) in OLD_ROWS {
        rows.put(&Space::new("t", 3), key, value);
    }
    store.apply(&rows, &[]).unwrap();
    let (one, two) = (Identity([1; 16]), Identity([2; 16]));
    let mut bed = Bed::open(store);
    assert_eq!(bed.limiter.journal.len(), 2);
    let admitted = [1, 2, 3].map(|_| bed.admits(two, Millis(1_000_020)));
    assert_eq!(admitted, [true, true, false]);
    let now = Millis(1_020_000);
    let released = bed.with(|limiter, cx| limiter.fire(one, &deferring(), now, None, cx));
    assert_eq!(released.unwrap(), [(0, Bytes::from_static(b"record 3"))]);
    // What waited is gone.
    bed.commit(now);
    assert_eq!(bed.rows(b'q'), 0);
}
