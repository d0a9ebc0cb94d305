//! Effects beside calls that hang: what they hold up, and what is repeated after a restart.

use std::{collections::BTreeSet, pin::Pin, sync::Arc, time::Duration};

use omnilink::{
    base::clock::SystemClock,
    log::{Cleanup, Fetched, Log, Record},
    stream::{effect, progress::Progress},
};
use tokio::{runtime::Runtime, sync::watch};

use crate::support::{TestLog, append, on_both_logs, record, value, wait_until};

on_both_logs!(
    a_call_that_hangs_holds_up_no_other,
    a_partition_with_too_many_hanging_calls_waits_alone,
);

/// Records its calls. Those for `slow …` end when the gate is open.
struct Gated {
    calls: parking_lot::Mutex<Vec<String>>,
    gate: watch::Receiver<bool>,
}

impl effect::Effect for Gated {
    fn call(&self, input: Fetched, _: bool) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        let text = value(&input);
        let mut gate = self.gate.clone();
        Box::pin(async move {
            let hangs = text.starts_with("slow");
            self.calls.lock().push(text);
            if hangs {
                drop(gate.wait_for(|open| *open).await);
            }
        })
    }
}

/// A log with the effect's input in several partitions.
struct Bed {
    log: Arc<dyn Log>,
    input: String,
    dlq: String,
    gate: watch::Sender<bool>,
    runtime: Runtime,
}

impl Bed {
    fn open(test_log: &TestLog) -> Self {
        let log = test_log.open("a");
        let specs = ["in", "dlq"].map(|name| test_log.spec(name, 3, Cleanup::Keep));
        log.provision(&specs, true).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        Self {
            log,
            input: test_log.topic("in"),
            dlq: test_log.topic("dlq"),
            gate: watch::Sender::new(false),
            runtime,
        }
    }

    fn start(&self, concurrency: usize) -> (Arc<Gated>, effect::Running) {
        let calls = Arc::new(Gated {
            calls: parking_lot::Mutex::default(),
            gate: self.gate.subscribe(),
        });
        let setup = effect::Setup {
            log: Arc::clone(&self.log),
            name: "calls".into(),
            topic: self.input.clone(),
            dlq: self.dlq.as_str().into(),
            concurrency,
            deadline: Duration::from_mins(5),
            drain: Duration::ZERO,
            clock: Arc::new(SystemClock),
            runtime: self.runtime.handle().clone(),
            progress: Arc::<Progress>::default(),
        };
        let running = effect::start(calls.clone(), setup).unwrap();
        (calls, running)
    }

    /// Appends records with this key; returns their partition.
    fn append(&self, key: &str, name: &str, count: usize) -> u32 {
        let records: Vec<Record> = (0..count)
            .map(|n| record(key, &format!("{name} {n}")))
            .collect();
        let mut partition = 0;
        for some in records.chunks(3000) {
            partition = append(&*self.log, &self.input, some.to_vec()).unwrap()[0].partition;
        }
        partition
    }
}

fn a_call_that_hangs_holds_up_no_other(test_log: TestLog) {
    const MANY: usize = 30_000;
    let bed = Bed::open(&test_log);
    bed.append("k", "slow", 1);
    bed.append("k", "fast", MANY);
    let (gated, running) = bed.start(100);
    wait_until("all are called", || gated.calls.lock().len() == 1 + MANY);
    // Long enough for finished calls to be committed.
    std::thread::sleep(Duration::from_millis(600));
    drop(running);
    // The next owner repeats only what has not ended.
    bed.append("k", "last", 1);
    let (gated, running) = bed.start(100);
    wait_until("the last one is called", || {
        gated.calls.lock().contains(&"last 0".to_owned())
    });
    assert_eq!(*gated.calls.lock(), ["slow 0", "last 0"]);
    drop(running);
}

fn a_partition_with_too_many_hanging_calls_waits_alone(test_log: TestLog) {
    const HANGING: usize = 3200;
    const MANY: usize = 24_000;
    let bed = Bed::open(&test_log);
    let waits = bed.append("k", "slow", HANGING);
    bed.append("k", "fast", MANY);
    let (gated, running) = bed.start(HANGING + 100);
    wait_until("most are called", || {
        gated.calls.lock().len() >= MANY - 1000
    });
    let others: Vec<String> = (0..20)
        .map(|n| n.to_string())
        .filter(|key| bed.append(key, key, 1) != waits)
        .map(|key| format!("{key} 0"))
        .collect();
    wait_until("those of other partitions are called", || {
        let calls = gated.calls.lock();
        others.iter().all(|other| calls.contains(other))
    });
    let all = HANGING + MANY + 20;
    assert!(gated.calls.lock().len() < all);
    bed.gate.send_replace(true);
    wait_until("all are called", || gated.calls.lock().len() >= all);
    std::thread::sleep(Duration::from_millis(300));
    let calls = gated.calls.lock();
    let distinct: BTreeSet<&String> = calls.iter().collect();
    assert_eq!((calls.len(), distinct.len()), (all, all));
    drop(calls);
    drop(running);
}
