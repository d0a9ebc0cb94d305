//! Lanes stepped on one thread, on a log in memory with a clock that the test moves: crashes, rebalances, fenced owners and failing
//! calls between any two steps, and still each input counts once and each timer fires once. A seed is the whole run.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use omnilink::{
    base::clock::{Clock, ManualClock, Millis},
    log::{
        Append, Cleanup, Fetched, Log, LogError, Record, TopicSpec, Unavailable, header,
        memory::{Fault, MemberId, MemoryLog},
    },
    state::{Space, StateError, StateStore, Table},
    stream::{
        Context, Failure, Processor, Rejected, Timer, Transform,
        lane::{Driver, Setup, Step},
        progress::{ProcessorStatus, Progress},
    },
};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use crate::support::{read_all, value};

const PARTITIONS: u32 = 3;
const NAME: &str = "sim";
const ACTIONS: usize = 150;
const SEEDS: u64 = 500;

struct Counting;

impl Processor for Counting {
    fn name(&self) -> &str {
        NAME
    }

    fn topics(&self) -> Vec<String> {
        vec!["in".into()]
    }

    fn transform(&self, _: &Space, _: &StateStore) -> Result<Box<dyn Transform>, StateError> {
        Ok(Box::new(Counter {
            out: "out".into(),
            spoiled: false,
        }))
    }
}

/// Counts records by key in keyed state, and says each count and each timer aloud.
struct Counter {
    out: Arc<str>,
    spoiled: bool,
}

const COUNTS: Table<String, u64> = Table::new("counts", b'c');
const FIRED: Table<String, u64> = Table::new("fired", b'f');

impl Counter {
    fn say(&self, cx: &mut Context<'_>, key: &str, text: String) {
        let record = Record {
            key: Some(key.to_owned().into()),
            value: Some(text.into()),
            headers: vec![],
        };
        cx.emit(&self.out, record);
    }

    fn count(
        &self,
        cx: &mut Context<'_>,
        key: &str,
        id: &str,
        due: Option<i64>,
    ) -> Result<(), StateError> {
        let count = cx.get(&COUNTS, key)?.unwrap_or(0) + 1;
        cx.put(&COUNTS, key, &count);
        self.say(
            cx,
            key,
            format!("count {id} {key} {count} {}", due.unwrap_or(0)),
        );
        if let Some(due) = due {
            cx.set_timer(format!("{key} {id}"), Millis(due));
        }
        Ok(())
    }
}

impl Transform for Counter {
    fn process(&mut self, input: &Fetched, cx: &mut Context<'_>) -> Result<(), Failure> {
        let text = value(input);
        let key = String::from_utf8(input.record.key.as_ref().unwrap().to_vec()).unwrap();
        let parts: Vec<&str> = text.split(' ').collect();
        let (id, kind, arg) = (parts[0], parts[1], parts[2].parse::<i64>().unwrap());
        let due = cx.now().0 + arg;
        match kind {
            "timer" => self.count(cx, &key, id, Some(due))?,
            "fuse" => self.count(cx, &key, &format!("{id}!"), Some(due))?,
            "wait" if cx.now().0 < arg => return Err(Failure::Waiting("its time".into())),
            "count" | "wait" => self.count(cx, &key, id, None)?,
            "reject" => return Err(Rejected::new("bad", "on purpose").into()),
            "late" => {
                self.count(cx, &key, id, Some(due))?;
                return Err(Rejected::new("bad", "after a change of state").into());
            }
            "panic" => {
                self.count(cx, &key, id, Some(due))?;
                std::panic::resume_unwind(Box::new("on purpose"));
            }
            "close" => {
                self.count(cx, &key, id, Some(due))?;
                self.spoiled = true;
            }
            "dump" => {
                for (name, table) in [("count", &COUNTS), ("fired", &FIRED)] {
                    for (of, n) in cx.scan(table)? {
                        self.say(cx, &key, format!("state {name} {of} {n}"));
                    }
                }
            }
            _ => panic!("{kind}"),
        }
        Ok(())
    }

    fn fire(&mut self, timer: Timer<'_>, cx: &mut Context<'_>) -> Result<(), Failure> {
        let name = String::from_utf8(timer.key.to_vec()).unwrap();
        let (key, id) = name.split_once(' ').unwrap();
        let count = cx.get(&COUNTS, key)?.unwrap_or(0);
        let fired = cx.get(&FIRED, key)?.unwrap_or(0) + 1;
        cx.put(&FIRED, key, &fired);
        if id.ends_with('!') {
            std::panic::resume_unwind(Box::new("on purpose"));
        }
        let (due, now) = (timer.due.0, timer.now.0);
        self.say(
            cx,
            key,
            format!("timer {id} {key} {due} {now} {count} {fired}"),
        );
        Ok(())
    }

    fn close(&mut self, _: &mut Context<'_>) -> Result<(), Failure> {
        if self.spoiled {
            return Err(Rejected::new("unclosed", "on purpose").into());
        }
        Ok(())
    }
}

/// A record that was appended.
struct Sent {
    id: String,
    key: String,
    kind: &'static str,
    at: Millis,
}

/// A lane that may be there, and its place in the group.
struct Seat {
    driver: Driver,
    member: Option<MemberId>,
}

struct World {
    rng: StdRng,
    clock: Arc<ManualClock>,
    log: Arc<MemoryLog>,
    seats: Vec<Seat>,
    sent: Vec<Sent>,
}

impl World {
    fn new(seed: u64) -> Self {
        let clock = Arc::new(ManualClock::at(Millis(1_000_000)));
        let log = Arc::new(MemoryLog::new(Arc::<ManualClock>::clone(&clock)));
        let specs = ["in", "out", "dlq"].map(|name| TopicSpec {
            name: name.into(),
            partitions: PARTITIONS,
            cleanup: Cleanup::Keep,
        });
        log.provision(&specs, true).unwrap();
        log.control(NAME);
        let mut world = Self {
            rng: StdRng::seed_from_u64(seed),
            clock,
            log,
            seats: Vec::new(),
            sent: Vec::new(),
        };
        for _ in 0..2 {
            let seat = world.seat();
            world.seats.push(seat);
        }
        world
    }

    fn seat(&mut self) -> Seat {
        let clock: Arc<dyn Clock> = Arc::<ManualClock>::clone(&self.clock);
        let setup = Setup {
            log: Arc::<MemoryLog>::clone(&self.log),
            dlq: "dlq".into(),
            progress: Arc::new(Progress::new(Arc::clone(&clock))),
            clock,
        };
        Seat {
            driver: Driver::seeded(Arc::new(Counting), setup, self.rng.random()),
            member: None,
        }
    }

    fn send(&mut self) {
        const KINDS: [(&str, u32); 8] = [
            ("count", 40),
            ("timer", 30),
            ("wait", 4),
            ("reject", 4),
            ("late", 2),
            ("panic", 2),
            ("close", 1),
            ("fuse", 2),
        ];
        let now = self.clock.now();
        let mut records = Vec::new();
        for _ in 0..self.rng.random_range(1..=5) {
            let kind = KINDS
                .choose_weighted(&mut self.rng, |kind| kind.1)
                .unwrap()
                .0;
            let arg = self.rng.random_range(0..400);
            let arg = if kind == "wait" { now.0 + arg } else { arg };
            let id = self.sent.len().to_string();
            let key = format!("k{}", self.rng.random_range(0..6));
            records.push(record(&key, format!("{id} {kind} {arg}")));
            let at = now;
            self.sent.push(Sent { id, key, kind, at });
        }
        drop(self.log.append(records, None));
    }

    fn step(&mut self, at: usize) -> Step {
        let seat = &mut self.seats[at];
        let step = seat.driver.step(Duration::ZERO);
        let members = self.log.members(NAME);
        if let Step::Joined = step {
            seat.member = members.last().copied();
        }
        seat.member = seat.member.filter(|member| members.contains(member));
        step
    }

    /// Partitions without an owner are assigned to members that are there.
    fn assign(&mut self) {
        let members: Vec<_> = self.seats.iter().filter_map(|seat| seat.member).collect();
        for partition in 0..PARTITIONS {
            let at = (0, partition);
            if self.log.owner(NAME, at).is_none()
                && let Some(member) = members.choose(&mut self.rng)
            {
                self.log.assign(NAME, *member, &[at]);
            }
        }
    }

    fn act(&mut self) {
        let at = self.rng.random_range(0..self.seats.len());
        let partition = (0, self.rng.random_range(0..PARTITIONS));
        let unavailable = || LogError::Unavailable(Unavailable::Closing);
        match self.rng.random_range(0..100) {
            0..20 => self.send(),
            20..35 => self.clock.advance(self.rng.random_range(0..200)),
            35..40 => self.log.set_poll_records(self.rng.random_range(1..20)),
            40..45 => self.assign(),
            // A crash.
            45..48 => self.seats[at] = self.seat(),
            48..51 => self.log.revoke(NAME, &[partition]),
            51..53 => self.log.lose(NAME, &[partition]),
            // Another owner, and the one before does not know.
            53..55 => {
                let owner = self.log.owner(NAME, partition);
                if let Some(member) = self.seats[at].member
                    && Some(member) != owner
                {
                    self.log.assign(NAME, member, &[partition]);
                }
            }
            55..60 => {
                let faults = [
                    Fault::Poll(unavailable()),
                    Fault::Commit(unavailable()),
                    Fault::Commit(LogError::Aborted(Arc::new(unavailable()))),
                    Fault::Commit(LogError::Stateless),
                    Fault::CommitAnswer(unavailable()),
                    Fault::CommitAnswer(LogError::Stateless),
                ];
                let fault = faults.choose(&mut self.rng).unwrap().clone();
                self.log.fail(NAME, fault);
            }
            _ => drop(self.step(at)),
        }
    }

    /// Lets all lanes work until nothing is left to do, and no timer is left.
    fn settle(&mut self) {
        for _ in 0..20_000 {
            self.assign();
            let mut idle = true;
            let mut wakes = None;
            for at in 0..self.seats.len() {
                match self.step(at) {
                    Step::Processed {
                        records: 0,
                        timers: 0,
                    } => {}
                    Step::Failed { retry_after, .. } => {
                        idle = false;
                        self.clock.advance(retry_after.as_millis() as i64 + 1);
                    }
                    _ => idle = false,
                }
                wakes = wakes
                    .into_iter()
                    .chain(self.seats[at].driver.wakes_in())
                    .min();
            }
            match wakes {
                _ if !idle => {}
                Some(left) => self.clock.advance(left.as_millis() as i64 + 1),
                None => return,
            }
        }
        panic!("it does not come to rest");
    }

    fn topic(&self, name: &str) -> Vec<Fetched> {
        let ends = (0..PARTITIONS).map(|p| self.log.offset_range(name, p).unwrap().end);
        read_all(&*self.log, name, ends.sum::<u64>() as usize)
    }

    fn check(&mut self) {
        self.settle();
        let dumps = (0..12).map(|n| record(&format!("dump{n}"), "d dump 0".into()));
        drop(self.log.append(dumps.collect(), None));
        self.settle();
        let mut counts: BTreeMap<String, (u64, i64)> = BTreeMap::new();
        let (mut timers, mut state) = (BTreeMap::new(), BTreeMap::new());
        let mut by_key: BTreeMap<String, u64> = BTreeMap::new();
        let mut fired_by_key: BTreeMap<String, u64> = BTreeMap::new();
        for fetched in self.topic("out") {
            let text = value(&fetched);
            let parts: Vec<&str> = text.split(' ').collect();
            let n = |at: usize| parts[at].parse::<i64>().unwrap();
            match parts[0] {
                "count" => {
                    let count = by_key.entry(parts[2].into()).or_default();
                    *count += 1;
                    assert_eq!(*count, n(3) as u64, "outputs count up: {text}");
                    let twice = counts.insert(parts[1].into(), (*count, n(4)));
                    assert!(twice.is_none(), "counted twice: {text}");
                }
                "timer" => {
                    let fired = fired_by_key.entry(parts[2].into()).or_default();
                    *fired += 1;
                    assert_eq!(*fired, n(6) as u64, "{text}");
                    let (due, now) = (n(3), n(4));
                    assert!(now >= due && fetched.timestamp.0 >= due, "early: {text}");
                    let counted = self.sent.iter().filter(|sent| {
                        let counts = ["count", "timer", "wait", "fuse"].contains(&sent.kind);
                        counts && sent.key == parts[2] && sent.at.0 < due
                    });
                    assert!(counted.count() <= n(5) as usize, "before its input: {text}");
                    let twice = timers.insert(parts[1].to_owned(), due);
                    assert!(twice.is_none(), "fired twice: {text}");
                }
                _ => drop(state.insert(format!("{} {}", parts[1], parts[2]), n(3) as u64)),
            }
        }
        let mut dead = BTreeMap::new();
        for letter in self.topic("dlq") {
            let id = if letter.record.value.is_some() {
                value(&letter).split(' ').next().unwrap().to_owned()
            } else {
                // A timer's.
                let key = String::from_utf8(letter.record.key.unwrap().to_vec()).unwrap();
                key.split_once(' ').unwrap().1.to_owned()
            };
            let code = header(&letter.record.headers, "omnilink.dlq.code").unwrap();
            assert!(dead.insert(id, code.to_vec()).is_none(), "two letters");
        }
        for Sent { id, key, kind, .. } in &self.sent {
            let (id, fuse) = (id.clone(), format!("{id}!"));
            let (counted, rejected, fired) = match *kind {
                "count" | "wait" => (Some(id), None, None),
                "timer" => (Some(id.clone()), None, Some(id)),
                "fuse" => (Some(fuse.clone()), Some(fuse), None),
                _ => (None, Some(id), None),
            };
            let due = counted.map(|id| counts.remove(&id).expect("it was counted").1);
            if let Some(id) = rejected {
                dead.remove(&id)
                    .unwrap_or_else(|| panic!("{id} {kind} {key}: no letter"));
            }
            let fired = fired.map(|id| timers.remove(&id).expect("it has fired"));
            assert!(fired.is_none() || fired == due);
        }
        assert!(counts.is_empty() && dead.is_empty() && timers.is_empty());
        for (rows, said) in [("count", by_key), ("fired", fired_by_key)] {
            for (key, n) in said {
                assert_eq!(
                    state.remove(&format!("{rows} {key}")),
                    Some(n),
                    "{rows} {key}"
                );
            }
        }
        assert!(state.is_empty(), "{state:?}");
    }
}

fn record(key: &str, value: String) -> Append {
    Append {
        topic: "in".into(),
        record: Record {
            key: Some(key.to_owned().into()),
            value: Some(value.into()),
            headers: vec![],
        },
    }
}

fn run(seed: u64) -> Vec<Fetched> {
    let mut world = World::new(seed);
    for _ in 0..ACTIONS {
        world.act();
    }
    world.check();
    [world.topic("out"), world.topic("dlq")].concat()
}

#[test]
fn each_input_counts_once_whatever_happens() {
    let began = std::time::Instant::now();
    for seed in 0..SEEDS {
        let run = std::panic::catch_unwind(|| run(seed));
        assert!(run.is_ok(), "seed {seed} fails");
    }
    eprintln!("{:?} a seed", began.elapsed() / SEEDS as u32);
}

#[test]
fn a_seed_is_the_same_run_each_time() {
    for seed in 0..20 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}

/// Its state cannot be read while the flag is set.
struct Damaged(Arc<AtomicBool>);

impl Processor for Damaged {
    fn name(&self) -> &'static str {
        "damaged"
    }

    fn topics(&self) -> Vec<String> {
        Counting.topics()
    }

    fn transform(
        &self,
        space: &Space,
        state: &StateStore,
    ) -> Result<Box<dyn Transform>, StateError> {
        if self.0.load(Ordering::SeqCst) {
            return Err(StateError::damaged("a row"));
        }
        Counting.transform(space, state)
    }
}

#[test]
fn a_lane_that_cannot_be_opened_is_stalled_until_it_has_polled() {
    let World { clock, log, .. } = World::new(0);
    let progress = Arc::new(Progress::new(Arc::<ManualClock>::clone(&clock)));
    let setup = Setup {
        log,
        dlq: "dlq".into(),
        progress: Arc::clone(&progress),
        clock: Arc::<ManualClock>::clone(&clock),
    };
    let damaged = Arc::new(AtomicBool::new(true));
    let mut driver = Driver::seeded(Arc::new(Damaged(Arc::clone(&damaged))), setup, 0);
    let stalled = |status: &ProcessorStatus| matches!(status, ProcessorStatus::Stalled(why) if why.contains("a row is damaged"));
    let mut seen = Vec::new();
    for _ in 0..30 {
        assert!(matches!(driver.step(Duration::ZERO), Step::Joined));
        seen.push(progress.status());
        let step = driver.step(Duration::ZERO);
        assert!(matches!(step, Step::Failed { .. }), "{step:?}");
        seen.push(progress.status());
        clock.advance(1_000);
    }
    assert_eq!(seen[0], ProcessorStatus::Running);
    let first = seen.iter().position(stalled).unwrap();
    assert!(seen[first..].iter().all(stalled), "{seen:?}");
    damaged.store(false, Ordering::SeqCst);
    for _ in 0..2 {
        driver.step(Duration::ZERO);
        assert!(stalled(&progress.status()), "{:?}", progress.status());
    }
    driver.step(Duration::ZERO);
    assert_eq!(progress.status(), ProcessorStatus::Running);
}
