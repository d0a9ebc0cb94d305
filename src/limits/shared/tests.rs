//! Tests the script on a real Redis against plain counting.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use proptest::prelude::*;

use super::*;
use crate::{
    config::Secret,
    limits::{ask, policy::Policy, subject},
};

/// 2100-01-01: the tests use times so late that Redis's own clock expires nothing.
const LATE: i64 = 4_102_444_800_000_000;

fn redis() -> Option<String> {
    let url = std::env::var("OMNILINK_TEST_REDIS").ok();
    let url = url.filter(|url| !url.is_empty());
    if url.is_none() {
        eprintln!("SKIPPED: OMNILINK_TEST_REDIS is not set");
    }
    url
}

fn group(prefix: &str, limits: &[(u32, u32)]) -> Group {
    let windows = limits.iter().enumerate();
    let windows = windows.map(|(at, (limit, window_s))| subject::Window {
        key: format!("{{{prefix}}}:w{at}").into(),
        policy: Arc::new(Policy {
            limit: *limit,
            window_s: *window_s,
            ..Policy::of_key(1).unwrap()
        }),
        of: 0,
    });
    Group {
        slot: format!("{{{prefix}}}").into(),
        windows: windows.collect(),
        in_flight: None,
    }
}

async fn open(url: &str, prefix: &str) -> Shared {
    let url = SecretUrl::new(Secret::new(url), &["redis"]).unwrap();
    let shared = Shared::open(&url, prefix, Duration::from_secs(30)).unwrap();
    while shared.backend() == Backend::Down {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    shared
}

/// A window by plain counting.
#[derive(Default)]
struct Counted(Vec<i64>);

impl Counted {
    /// The window's own time, which never goes back.
    fn now(&self, clock: i64) -> i64 {
        self.0.last().map_or(clock, |last| clock.max(*last))
    }

    fn inside(&self, length: i64, clock: i64) -> usize {
        let now = self.now(clock);
        self.0.iter().filter(|at| **at + length > now).count()
    }

    fn add(&mut self, count: usize, clock: i64) {
        let now = self.now(clock);
        self.0.extend(std::iter::repeat_n(now, count));
    }
}

#[derive(Clone, Debug)]
struct Step {
    ahead: i64,
    /// For each window: its current limit, and what is owed.
    windows: Vec<(u32, u32)>,
    runs: Vec<(u32, u32)>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let windows = prop::collection::vec((1u32..10, 0u32..3), 3);
    let runs = prop::collection::vec((1u32..3, 0u32..6), 0..4);
    let ahead = prop_oneof![8 => 0i64..400, 1 => -300i64..0, 1 => 500i64..3_000];
    let owes = prop::bool::weighted(0.1);
    let step = (ahead, windows, runs, owes).prop_map(|(ahead, windows, runs, owes)| Step {
        ahead,
        windows: windows
            .into_iter()
            .map(|(limit, owed)| (limit, if owes { owed } else { 0 }))
            .collect(),
        runs,
    });
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    /// Uses a clock that sometimes goes back, changing limits, and owed admissions: an item is admitted if and only if all binding
    /// windows have room, and the script's report about each window is correct.
    #[test]
    fn the_script_decides_as_one_would_by_counting(
        lengths in prop::collection::vec(200i64..1_500, 3),
        steps in steps(),
        fixed in prop::bool::ANY,
    ) {
        let Some(url) = redis() else { return Ok(()) };
        let script = TAKE.replace("redis.call('TIME')", "{0, ARGV[#ARGV]}");
        prop_assert!(script != TAKE);
        let mut redis = redis::Client::open(url).unwrap().get_connection().unwrap();
        let prefix = uuid::Uuid::now_v7().simple().to_string();
        // Which type each window counts, and whether it binds.
        let kinds = [(0, true), (1, true), (2, false)];
        let mut model = [const { Counted(Vec::new()) }; 3];
        let mut clock = LATE;
        let first = steps[0].windows.clone();
        for step in &steps {
            clock += step.ahead;
            let windows = if fixed { &first } else { &step.windows };
            let mut command = redis::cmd("EVAL");
            command.arg(&script).arg(3);
            for at in 0..3 {
                command.arg(format!("{{{prefix}}}{at}"));
            }
            command.arg(3).arg(step.runs.len()).arg(0).arg(0).arg("");
            for at in 0..3 {
                let (limit, owed) = windows[at];
                command.arg(limit).arg(lengths[at]).arg(owed).arg(u8::from(kinds[at].1)).arg(kinds[at].0);
            }
            for (of, count) in &step.runs {
                command.arg(*of).arg(*count);
            }
            command.arg(clock);
            let answer: Vec<i64> = command.query(&mut redis).unwrap();
            prop_assert_eq!(&answer[..3], &[clock, 1, 0]);

            let room = |model: &[Counted; 3], at: usize| {
                (windows[at].0 as usize).saturating_sub(model[at].inside(lengths[at], clock))
            };
            for at in 0..3 {
                let owed = (windows[at].1 as usize).min(room(&model, at));
                model[at].add(owed, clock);
            }
            for (run, (of, count)) in step.runs.iter().enumerate() {
                let mut passed = 0;
                for _ in 0..*count {
                    let its = || (0..3).filter(|at| kinds[*at].0 == 0 || kinds[*at].0 == *of);
                    if its().all(|at| !kinds[at].1 || room(&model, at) > 0) {
                        passed += 1;
                        for at in its() {
                            let one = room(&model, at).min(1);
                            model[at].add(one, clock);
                        }
                    }
                }
                prop_assert_eq!(answer[3 + run], passed);
            }
            for (at, said) in answer[3 + step.runs.len()..].chunks(3).enumerate() {
                let limit = windows[at].0 as usize;
                prop_assert_eq!(said[0] as usize, room(&model, at));
                let free = |later: i64| model[at].inside(lengths[at], clock + later) < limit;
                prop_assert!(free(said[1]));
                prop_assert!(said[1] == 0 || !free(said[1] - 1));
                prop_assert_eq!(model[at].inside(lengths[at], clock + said[2]), 0);
            }
        }
        // Uses the highest limit that the window ever had.
        for at in 0..3 {
            let limits = steps.iter().map(|step| step.windows[at].0);
            let most = if fixed { first[at].0 } else { limits.max().unwrap() };
            assert_never_more(model[at].0.iter().map(|at| (*at, 1)), lengths[at], most);
        }
        // The script never stores more than the limit, whatever happened.
        for at in 0..3 {
            let kept: usize = redis::cmd("LLEN").arg(format!("{{{prefix}}}{at}")).query(&mut redis).unwrap();
            prop_assert!(kept <= 10, "{}", kept);
            let _: () = redis::cmd("DEL").arg(format!("{{{prefix}}}{at}")).query(&mut redis).unwrap();
        }
    }
}

fn assert_never_more(admitted: impl Iterator<Item = (i64, u32)>, length: i64, limit: u32) {
    let mut by_time: BTreeMap<i64, u32> = BTreeMap::new();
    for (at, count) in admitted {
        *by_time.entry(at).or_default() += count;
    }
    for first in by_time.keys() {
        let inside: u32 = by_time
            .range(first..&(first + length))
            .map(|(_, n)| n)
            .sum();
        assert!(inside <= limit, "{inside} in a window from {first}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_nodes_under_load_never_pass_a_limit_in_any_window() {
    let Some(url) = redis() else { return };
    let prefix = format!("t{}.", uuid::Uuid::now_v7().simple());
    let nodes = [open(&url, &prefix).await, open(&url, &prefix).await].map(Arc::new);
    let (limit, length) = (100, 1);
    let group = Arc::new(group("acme", &[(limit, length), (1_000_000, 3)]));
    let end = Instant::now() + Duration::from_secs(4);
    let refused = Arc::new(AtomicI64::new(0));
    let mut tasks = Vec::new();
    for n in 0..16 {
        let (node, group) = (Arc::clone(&nodes[n % 2]), Arc::clone(&group));
        let refused = Arc::clone(&refused);
        tasks.push(tokio::spawn(async move {
            let mut admitted = Vec::new();
            while Instant::now() < end {
                let count = rand::random_range(1..5);
                let runs = [Run { of: 0, count }];
                let late = Instant::now() + Duration::from_secs(5);
                let decided = node
                    .decide(&group, &runs, &[true; 2], &[0; 2], 0, late)
                    .await;
                let decided = decided.unwrap();
                let Verdict::Granted { runs, .. } = decided.verdict else {
                    panic!("busy");
                };
                refused.fetch_add(i64::from(runs[0].count < count), Ordering::Relaxed);
                admitted.push((decided.at, runs[0].count));
                tokio::time::sleep(Duration::from_millis(rand::random_range(0..6))).await;
            }
            admitted
        }));
    }
    let mut admitted = Vec::new();
    for task in tasks {
        admitted.extend(task.await.unwrap());
    }
    let total: u32 = admitted.iter().map(|(_, count)| count).sum();
    assert!(refused.load(Ordering::Relaxed) > 0);
    // The whole limit was used several times.
    assert!(total >= 3 * limit, "{total}");
    assert_never_more(admitted.into_iter(), i64::from(length) * 1_000_000, limit);
    while nodes.iter().any(|node| node.nodes() != 2) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The limiter's keys expire by themselves, and a call that refuses writes nothing.
#[tokio::test]
async fn keys_expire_by_themselves() {
    let Some(url) = redis() else { return };
    let prefix = format!("t{}.", uuid::Uuid::now_v7().simple());
    let shared = open(&url, &prefix).await;
    let mut redis = redis::Client::open(&*url)
        .unwrap()
        .get_connection()
        .unwrap();
    let mut group = group("acme", &[(2, 1)]);
    group.in_flight = Some(ask::InFlight {
        key: "{acme}:in_flight:k".into(),
        limit: 1,
    });
    let runs = [Run { of: 0, count: 3 }];
    let late = Instant::now() + Duration::from_secs(5);
    let verdict = shared.take(&group, &runs, &[true], &[0], 1, late).await;
    let Some(Verdict::Granted { runs: granted, .. }) = verdict else {
        panic!("{verdict:?}");
    };
    assert_eq!(granted[0].count, 2);
    let busy = shared.take(&group, &runs, &[true], &[0], 2, late).await;
    assert_eq!(busy, Some(Verdict::Busy));
    for (key, most) in [("{acme}:w0", 1_001), ("{acme}:in_flight:k", 30_001)] {
        let key = format!("{prefix}limits:{key}");
        let left: i64 = redis::cmd("PTTL").arg(key).query(&mut redis).unwrap();
        assert!((1..=most).contains(&left), "{left}");
    }
    // Scripts that the server forgot are loaded again.
    let () = redis::cmd("SCRIPT").arg("FLUSH").query(&mut redis).unwrap();
    let busy = shared.take(&group, &runs, &[true], &[0], 3, late).await;
    assert_eq!(busy, Some(Verdict::Busy));
}
