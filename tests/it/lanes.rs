//! Lanes on both logs: exactly once over restarts, poison records, timers, dead letters, effects.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use omnilink::{
    base::clock::{Clock, Millis, SystemClock},
    controls::SecretKeys,
    log::{Cleanup, Fetched, Log, Record, TopicSpec, header, topics::Names},
    state::{Space, StateError, StateStore, Table},
    stream::{
        Context, Failure, Processor, Rejected, Timer, Transform,
        dlq::{
            name::Name,
            redrive::{Pick, Redrive},
        },
        effect,
        lag::lag,
        lane::Running,
        progress::Progress,
    },
};

use crate::support::{TestLog, append, on_both_logs, read_all, record, value};

on_both_logs!(
    counts_survive_restarts,
    poison_records_become_dead_letters,
    large_failed_transactions_are_repeated,
    timers_fire_once_and_late,
    timers_wait_for_the_records_before_them,
    a_failing_timer_does_not_stop_others,
    a_record_that_makes_close_fail_becomes_a_dead_letter,
    a_slow_call_does_not_repeat_other_calls,
    a_call_that_panics_or_hangs_does_not_block_others,
);

/// Counts records by key. The value `boom` panics after a change of state, `bad` is rejected, `in:N` sets a timer due in N ms.
struct Count {
    names: [Arc<str>; 2],
    clock: Arc<dyn Clock>,
    /// Makes `close` panic once.
    fault: Arc<AtomicBool>,
    /// How often the timer `waits` has waited, and the timer `state` has failed to read the state.
    tries: Arc<[AtomicUsize; 2]>,
}

impl Processor for Count {
    fn name(&self) -> &'static str {
        "count"
    }
    fn topics(&self) -> Vec<String> {
        vec![self.names[0].to_string()]
    }
    fn transform(&self, _: &Space, _: &StateStore) -> Result<Box<dyn Transform>, StateError> {
        Ok(Box::new(CountOne {
            out: Arc::clone(&self.names[1]),
            clock: Arc::clone(&self.clock),
            fault: Arc::clone(&self.fault),
            tries: Arc::clone(&self.tries),
            unclosable: None,
        }))
    }
}

struct CountOne {
    out: Arc<str>,
    clock: Arc<dyn Clock>,
    fault: Arc<AtomicBool>,
    tries: Arc<[AtomicUsize; 2]>,
    /// How `close` fails in this transaction.
    unclosable: Option<String>,
}

/// How often each key came.
const COUNTS: Table<Bytes, u64> = Table::new("counts", b'c');
/// Keys whose timers have fired.
const FIRED: Table<String, ()> = Table::new("fired", b'f');

impl Transform for CountOne {
    fn process(&mut self, input: &Fetched, cx: &mut Context<'_>) -> Result<(), Failure> {
        let key = input.record.key.clone().unwrap();
        let text = value(input);
        let count = cx.get(&COUNTS, &key)?.unwrap_or(0) + 1;
        cx.put(&COUNTS, &key, &count);
        cx.emit(
            &self.out,
            Record {
                key: Some(key.clone()),
                value: Some(count.to_string().into()),
                headers: vec![],
            },
        );
        assert!(text != "boom", "boom");
        if text == "bad" {
            return Err(bad("it is bad"));
        }
        if let Some(how) = text.strip_prefix("unclosable:") {
            self.unclosable = Some(how.to_owned());
        }
        if let Some(ms) = text.strip_prefix("in:") {
            cx.set_timer(key, Millis(self.clock.now().0 + ms.parse::<i64>().unwrap()));
        }
        Ok(())
    }

    fn fire(&mut self, timer: Timer<'_>, cx: &mut Context<'_>) -> Result<(), Failure> {
        let key = std::str::from_utf8(timer.key).unwrap();
        let tried = |which: usize| self.tries[which].fetch_add(1, Ordering::SeqCst);
        if key == "waits" && tried(0) < 3 {
            return Err(Failure::Waiting("for a while".into()));
        }
        let late = timer.now >= timer.due && self.clock.now() >= timer.now;
        cx.put(&FIRED, key, &());
        cx.emit(&self.out, record(key, &format!("fired {late}")));
        match key {
            "panics" => panic!("it panics"),
            "rejected" => Err(bad("it is rejected")),
            "state" if tried(1) < 2 => Err(StateError::from(io::Error::other("not now")).into()),
            _ => Ok(()),
        }
    }

    fn close(&mut self, _: &mut Context<'_>) -> Result<(), Failure> {
        assert!(!self.fault.swap(false, Ordering::SeqCst), "planted");
        match self.unclosable.as_deref() {
            Some("panics") => panic!("it cannot close"),
            Some(_) => Err(bad("it cannot close")),
            None => Ok(()),
        }
    }
}

fn bad(message: &str) -> Failure {
    Rejected {
        code: "bad".into(),
        message: message.into(),
        value: None,
        stage: None,
    }
    .into()
}

struct Fixture {
    log: Arc<dyn Log>,
    progress: Arc<Progress>,
    input: String,
    out: String,
    dlq: String,
    fault: Arc<AtomicBool>,
}

fn fixture(test_log: &TestLog, node: &str) -> Fixture {
    let log = test_log.open(node);
    let specs = [
        test_log.spec("in", 3, Cleanup::Keep),
        test_log.spec("out", 3, Cleanup::Keep),
        test_log.spec("dlq", 3, Cleanup::Keep),
        test_log.spec("state.count", 3, Cleanup::Compact),
    ];
    log.provision(&specs, true).unwrap();
    Fixture {
        log,
        progress: Arc::default(),
        input: test_log.topic("in"),
        out: test_log.topic("out"),
        dlq: test_log.topic("dlq"),
        fault: Arc::default(),
    }
}

fn start(test_log: &TestLog, fixture: &Fixture) -> Running {
    let processor = Count {
        names: [fixture.input.as_str().into(), fixture.out.as_str().into()],
        clock: Arc::clone(&test_log.clock),
        fault: Arc::clone(&fixture.fault),
        tries: Arc::default(),
    };
    test_log.start_lane(&fixture.log, processor, &fixture.progress)
}

/// The counts emitted for a key, in order.
fn counts(all: &[Fetched], key: &str) -> Vec<String> {
    all.iter()
        .filter(|f| f.record.key.as_deref() == Some(key.as_bytes()))
        .map(value)
        .collect()
}

fn counts_survive_restarts(test_log: TestLog) {
    let mut sent = 0;
    for round in 0..4 {
        let fixture = fixture(&test_log, "a");
        let running = start(&test_log, &fixture);
        // A fault in the middle: the current transaction is aborted and repeated.
        fixture.fault.store(round % 2 == 1, Ordering::SeqCst);
        for _ in 0..25 {
            for key in ["x", "y", "z"] {
                append(&*fixture.log, &fixture.input, vec![record(key, "1")]).unwrap();
            }
            sent += 1;
        }
        let all = read_all(&*fixture.log, &fixture.out, sent * 3);
        for key in ["x", "y", "z"] {
            let expected: Vec<_> = (1..=sent).map(|n| n.to_string()).collect();
            assert_eq!(counts(&all, key), expected, "round {round}");
        }
        if round == 0 {
            // Stops with records left, which the next round processes.
            running.stop();
        }
        drop(running);
    }
}

fn poison_records_become_dead_letters(test_log: TestLog) {
    let fixture = fixture(&test_log, "a");
    let _running = start(&test_log, &fixture);
    for text in ["1", "boom", "1", "bad", "1"] {
        let mut record = record("k", text);
        record.headers.push(("mine".into(), Some("kept".into())));
        append(&*fixture.log, &fixture.input, vec![record]).unwrap();
    }
    let dead = read_all(&*fixture.log, &fixture.dlq, 2);
    assert_eq!(dead.iter().map(value).collect::<Vec<_>>(), ["boom", "bad"]);
    let head = |i: usize, name: &str| {
        String::from_utf8(header(&dead[i].record.headers, name).unwrap().to_vec()).unwrap()
    };
    assert_eq!(head(0, "omnilink.dlq.code"), "panic");
    assert_eq!(head(0, "omnilink.dlq.message"), "boom");
    assert_eq!(head(1, "omnilink.dlq.code"), "bad");
    assert_eq!(head(1, "omnilink.dlq.topic"), fixture.input);
    assert_eq!(head(1, "omnilink.dlq.offset"), "3");
    assert_eq!(head(1, "omnilink.dlq.stage"), "count");
    assert_eq!(head(1, "mine"), "kept");
    assert!(head(1, "omnilink.dlq.failed_at").ends_with('Z'));
    // Neither has changed the state.
    let all = read_all(&*fixture.log, &fixture.out, 3);
    assert_eq!(counts(&all, "k"), ["1", "2", "3"]);
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let lags: Vec<_> = fixture
            .progress
            .positions()
            .into_iter()
            .map(|(topic, partition, next)| {
                lag(&*fixture.log, &topic, partition, next, test_log.clock.now())
                    .unwrap()
                    .records
            })
            .collect();
        if lags.len() == 3 && lags.iter().all(|l| *l == 0) {
            break;
        }
        assert!(Instant::now() < deadline, "{lags:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn large_failed_transactions_are_repeated(test_log: TestLog) {
    const EACH: usize = 3_000;
    let fixture = fixture(&test_log, "a");
    let mut all: Vec<Record> = (0..EACH)
        .flat_map(|_| ["x", "y", "z"].map(|key| record(key, "1")))
        .collect();
    all.insert(7_000, record("x", "boom"));
    append(&*fixture.log, &fixture.input, all).unwrap();
    // And the next transaction fails in `close`.
    fixture.fault.store(true, Ordering::SeqCst);
    let _running = start(&test_log, &fixture);
    let out = read_all(&*fixture.log, &fixture.out, 3 * EACH);
    for key in ["x", "y", "z"] {
        let expected: Vec<_> = (1..=EACH).map(|n| n.to_string()).collect();
        assert_eq!(counts(&out, key), expected);
    }
    let dead = read_all(&*fixture.log, &fixture.dlq, 1);
    assert_eq!(dead.iter().map(value).collect::<Vec<_>>(), ["boom"]);
}

fn timers_fire_once_and_late(test_log: TestLog) {
    {
        let fixture = fixture(&test_log, "a");
        let running = start(&test_log, &fixture);
        append(
            &*fixture.log,
            &fixture.input,
            vec![record("soon", "in:300"), record("later", "in:2500")],
        )
        .unwrap();
        let all = read_all(&*fixture.log, &fixture.out, 3);
        assert_eq!(counts(&all, "soon"), ["1", "fired true"]);
        assert_eq!(counts(&all, "later"), ["1"]);
        drop(running);
    }
    // The second one fires after a restart.
    let fixture = fixture(&test_log, "a");
    let _running = start(&test_log, &fixture);
    let all = read_all(&*fixture.log, &fixture.out, 4);
    assert_eq!(counts(&all, "later"), ["1", "fired true"]);
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(read_all(&*fixture.log, &fixture.out, 4).len(), 4);
}

/// A timer that is due at the start fires after all records that were in its partition then, however many came in between and
/// whatever else the lane has to read.
fn timers_wait_for_the_records_before_them(test_log: TestLog) {
    {
        let fixture = fixture(&test_log, "a");
        let running = start(&test_log, &fixture);
        append(
            &*fixture.log,
            &fixture.input,
            vec![record("late", "in:1200")],
        )
        .unwrap();
        assert_eq!(
            counts(&read_all(&*fixture.log, &fixture.out, 1), "late"),
            ["1"]
        );
        drop(running);
    }
    let fixture = fixture(&test_log, "a");
    for batch in 0..20 {
        let others = (0..1000).map(|n| record(&format!("{}", (batch * 1000 + n) % 97), "x"));
        append(&*fixture.log, &fixture.input, others.collect()).unwrap();
    }
    append(
        &*fixture.log,
        &fixture.input,
        vec![record("late", "x"), record("late", "x")],
    )
    .unwrap();
    std::thread::sleep(Duration::from_millis(1300));
    let _running = start(&test_log, &fixture);
    let all = read_all(&*fixture.log, &fixture.out, 20_004);
    assert_eq!(counts(&all, "late"), ["1", "2", "3", "fired true"]);
}

/// Six timers due at once: one panics, one is rejected, one waits, one cannot read the state for a while.
fn a_failing_timer_does_not_stop_others(test_log: TestLog) {
    let fixture = fixture(&test_log, "a");
    let names = Names::new(&test_log.prefix);
    let specs = [TopicSpec {
        name: Arc::clone(&names.redriven),
        partitions: 1,
        cleanup: Cleanup::Keep,
    }];
    fixture.log.provision(&specs, true).unwrap();
    let _running = start(&test_log, &fixture);
    let keys = ["one", "panics", "rejected", "state", "two", "waits"];
    // The second round shows that the lane continues with all keys.
    for round in 1..=2 {
        let records = keys.iter().map(|key| record(key, "in:400")).collect();
        append(&*fixture.log, &fixture.input, records).unwrap();
        let all = read_all(&*fixture.log, &fixture.out, round * 10);
        assert_eq!(all.len(), round * 10);
        for key in keys {
            let mut fired: Vec<_> = counts(&all, key);
            fired.retain(|text| text.starts_with("fired"));
            let expected = if key == "panics" || key == "rejected" {
                0
            } else {
                round
            };
            assert_eq!(fired, vec!["fired true"; expected], "{key}");
        }
        assert_eq!(
            read_all(&*fixture.log, &fixture.dlq, round * 2).len(),
            round * 2
        );
    }
    let dead = read_all(&*fixture.log, &fixture.dlq, 4);
    for (key, code, message) in [
        ("panics", "panic", "it panics"),
        ("rejected", "bad", "it is rejected"),
    ] {
        let mut letters = dead
            .iter()
            .filter(|l| l.record.key.as_deref() == Some(key.as_bytes()));
        let letter = letters.next().unwrap();
        let head = |name: &str| {
            let value = header(&letter.record.headers, &format!("omnilink.dlq.{name}"));
            value.map(|value| String::from_utf8(value.to_vec()).unwrap())
        };
        assert_eq!(letter.record.value, None);
        assert_eq!(head("code").as_deref(), Some(code));
        assert_eq!(head("message").as_deref(), Some(message));
        assert_eq!(head("stage").as_deref(), Some("count"));
        assert_eq!(head("topic"), None);
        let due: i64 = head("timer").unwrap().parse().unwrap();
        assert!(
            (0..60_000).contains(&(test_log.clock.now().0 - due)),
            "{due}"
        );
        // It has no topic to return to.
        let secrets = SecretKeys::new(["AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="]).unwrap();
        let redrive = Redrive {
            log: &*fixture.log,
            names: &names,
            secrets: &secrets,
        };
        let name = Name {
            partition: letter.partition,
            offset: letter.offset,
        };
        let named = redrive
            .run(&Pick::Names([name].into()), &mut |_| true)
            .unwrap();
        assert_eq!((named.redriven, named.timers), (0, vec![name]));
        let all = redrive.run(&Pick::All, &mut |_| true).unwrap();
        assert_eq!((all.redriven, all.homeless), (0, 4));
    }
}

fn a_record_that_makes_close_fail_becomes_a_dead_letter(test_log: TestLog) {
    let fixture = fixture(&test_log, "a");
    let mut all: Vec<Record> = (0..60).map(|_| record("k", "1")).collect();
    all.insert(7, record("k", "unclosable:panics"));
    all.insert(40, record("k", "unclosable:rejected"));
    append(&*fixture.log, &fixture.input, all).unwrap();
    let _running = start(&test_log, &fixture);
    let out = read_all(&*fixture.log, &fixture.out, 60);
    let expected: Vec<_> = (1..=60).map(|n| n.to_string()).collect();
    assert_eq!(counts(&out, "k"), expected);
    let dead = read_all(&*fixture.log, &fixture.dlq, 2);
    let texts: Vec<_> = dead.iter().map(value).collect();
    assert_eq!(texts, ["unclosable:panics", "unclosable:rejected"]);
    let code = |n: usize| {
        header(&dead[n].record.headers, "omnilink.dlq.code")
            .unwrap()
            .to_vec()
    };
    assert_eq!((code(0), code(1)), (b"panic".to_vec(), b"bad".to_vec()));
}

/// Records its calls; the call for `slow` never returns. They are repeated if an earlier owner may have read their records.
struct Calls(parking_lot::Mutex<Vec<String>>, bool);

impl effect::Effect for Calls {
    fn call(
        &self,
        input: Fetched,
        repeated: bool,
    ) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        let text = value(&input);
        assert_eq!(repeated, self.1, "{text}");
        Box::pin(async move {
            self.0.lock().push(text.clone());
            if text == "slow" {
                std::future::pending::<()>().await;
            }
        })
    }
}

fn a_slow_call_does_not_repeat_other_calls(test_log: TestLog) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    for round in 0..2 {
        let fixture = fixture(&test_log, "a");
        if round == 0 {
            for text in ["a", "slow", "b", "c", "d"] {
                append(&*fixture.log, &fixture.input, vec![record("k", text)]).unwrap();
            }
        } else {
            append(&*fixture.log, &fixture.input, vec![record("k", "e")]).unwrap();
        }
        let calls = Arc::new(Calls(parking_lot::Mutex::default(), round == 1));
        let setup = effect::Setup {
            log: Arc::clone(&fixture.log),
            name: "calls".into(),
            topic: fixture.input.clone(),
            dlq: fixture.dlq.as_str().into(),
            concurrency: 3,
            deadline: Duration::from_mins(5),
            drain: Duration::ZERO,
            clock: Arc::new(SystemClock),
            runtime: runtime.handle().clone(),
            progress: Arc::clone(&fixture.progress),
        };
        let running = effect::start(calls.clone(), setup).unwrap();
        let expected: &[&str] = if round == 0 {
            &["a", "b", "c", "d", "slow"]
        } else {
            &["e", "slow"]
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        let seen = || {
            let mut seen = calls.0.lock().clone();
            seen.sort();
            seen
        };
        while seen().len() < expected.len() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        // Long enough for finished calls to be committed, and for a repeated call to show.
        std::thread::sleep(Duration::from_millis(600));
        assert_eq!(seen(), expected, "round {round}");
        drop(running);
    }
}

/// `panic` panics at every call, `now` before it returns its future, `once` at the first call; `hang` never returns.
struct Faulty(parking_lot::Mutex<Vec<String>>);

impl effect::Effect for Faulty {
    fn call(
        &self,
        input: Fetched,
        repeated: bool,
    ) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        let text = value(&input);
        let first = !self.0.lock().contains(&text);
        assert!(first || repeated, "{text}");
        self.0.lock().push(text.clone());
        assert!(text != "now", "before its future");
        Box::pin(async move {
            match &*text {
                "panic" => panic!("on purpose: {text}"),
                "once" if first => panic!("the first time"),
                "hang" => std::future::pending().await,
                _ => {}
            }
        })
    }
}

fn a_call_that_panics_or_hangs_does_not_block_others(test_log: TestLog) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let fixture = fixture(&test_log, "a");
    let records = ["panic", "once", "now", "hang", "a"].map(|text| record("k", text));
    append(&*fixture.log, &fixture.input, records.to_vec()).unwrap();
    let calls = Arc::new(Faulty(parking_lot::Mutex::default()));
    let run = |calls: &Arc<Faulty>| {
        let setup = effect::Setup {
            log: Arc::clone(&fixture.log),
            name: "faulty".into(),
            topic: fixture.input.clone(),
            dlq: fixture.dlq.as_str().into(),
            concurrency: 2,
            deadline: Duration::from_millis(200),
            drain: Duration::ZERO,
            clock: Arc::new(SystemClock),
            runtime: runtime.handle().clone(),
            progress: Arc::clone(&fixture.progress),
        };
        effect::start(calls.clone(), setup).unwrap()
    };
    let running = run(&calls);
    let dead = read_all(&*fixture.log, &fixture.dlq, 3);
    let head = |letter: &Fetched, name: &str| {
        String::from_utf8(header(&letter.record.headers, name).unwrap().to_vec()).unwrap()
    };
    let mut codes: Vec<_> = dead
        .iter()
        .map(|letter| (value(letter), head(letter, "omnilink.dlq.code")))
        .collect();
    codes.sort();
    let expected = [("hang", "timeout"), ("now", "panic"), ("panic", "panic")];
    assert_eq!(codes, expected.map(|(v, c)| (v.to_owned(), c.to_owned())));
    let panicked = dead.iter().find(|letter| value(letter) == "panic").unwrap();
    let message = head(panicked, "omnilink.dlq.message");
    assert!(message.contains("on purpose"), "{message}");
    assert_eq!(head(panicked, "omnilink.dlq.stage"), "faulty");
    // All calls are finished: the low-water mark is behind the last record, and a restart repeats no call.
    let partition = dead[0].partition;
    assert!(dead.iter().all(|letter| letter.partition == partition));
    let deadline = Instant::now() + Duration::from_secs(30);
    let kept = || fixture.log.committed("faulty", &fixture.input, partition);
    while kept().unwrap() != Some(5) {
        assert!(Instant::now() < deadline, "{:?}", kept());
        std::thread::sleep(Duration::from_millis(50));
    }
    let called = |text: &str| calls.0.lock().iter().filter(|t| *t == text).count();
    let times = ["panic", "once", "now", "hang", "a"].map(called);
    assert_eq!(times, [5, 2, 5, 5, 1]);
    assert_eq!(fixture.progress.rejections(), 3);
    drop(running);
    let again = Arc::new(Faulty(parking_lot::Mutex::default()));
    let running = run(&again);
    append(&*fixture.log, &fixture.input, vec![record("k", "b")]).unwrap();
    while again.0.lock().is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(*again.0.lock(), ["b"]);
    drop(running);
}
