//! One run: starts services, nodes and clients, causes faults, waits until everything has arrived, and checks it.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use omnilink::{
    base::clock::SystemClock,
    log::{
        Log,
        kafka::{KafkaLog, KafkaOptions},
        local::{LocalLog, LocalOptions},
        topics::Names,
    },
    state::StateStore,
};
use tempfile::TempDir;

use super::{
    check::{self, Totals},
    faults::{self, FaultStats, watch},
    findings::{Findings, Flaw},
    http,
    ledger::Ledger,
    nodes::Nodes,
    parts::Parts,
    plan::{Dice, Plan},
    producers,
    recovery::History,
    rows,
};
use crate::support::{LogKind, append};

/// Bad records written to the embedded log before its first start, because the port refuses them.
const LOCAL_POISONS: u32 = 20;
/// Time without changes after which the results are checked.
const SETTLED: Duration = Duration::from_secs(2);

/// What clients, followers and faults share.
pub struct Run {
    pub plan: Plan,
    pub ledger: Ledger,
    pub nodes: Nodes,
    pub names: Names,
    pub brokers: String,
    postgres: String,
    dir: PathBuf,
    began: Instant,
    over: AtomicBool,
    /// Events that a follower has seen in `events` (on Kafka), and rows in Postgres.
    admitted: AtomicU64,
    rows: AtomicU64,
    /// Positions of the projector over time.
    pub history: History,
}

impl Run {
    /// Whether clients must stop.
    pub fn over(&self) -> bool {
        self.over.load(Ordering::Relaxed) || self.began.elapsed() > self.plan.deadline
    }

    /// Clients with the same rate send at the same ticks, also after faults.
    pub fn every(&self, period: Duration) -> tokio::time::Interval {
        let mut due = tokio::time::interval_at(self.began.into(), period);
        due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        due
    }

    pub fn print(&self, what: &str) {
        let log = format!("{:?}", self.plan.kind).to_lowercase();
        let bug = self.plan.bug.unwrap_or("no bug");
        eprintln!(
            "[{log}, {bug}, {:>5.1} s] {what}",
            self.began.elapsed().as_secs_f64()
        );
    }

    fn kafka(&self) -> bool {
        self.plan.kind == LogKind::Kafka
    }

    /// The last count of rows in Postgres.
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Opens the log; the embedded one only while no node runs.
    fn open(&self) -> Arc<dyn Log> {
        if self.kafka() {
            let dir = self.dir.join("reader");
            std::fs::create_dir_all(&dir).unwrap();
            let options = KafkaOptions {
                brokers: self.brokers.clone(),
                prefix: self.names.prefix.to_string(),
                node: "reader".into(),
                ..KafkaOptions::default()
            };
            Arc::new(KafkaLog::connect(options, StateStore::open(&dir).unwrap()).unwrap())
        } else {
            Arc::new(open_local(&self.nodes.first_dir()))
        }
    }
}

fn open_local(node: &Path) -> LocalLog {
    let options = LocalOptions::new(Arc::new(SystemClock));
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match LocalLog::open(&node.join("log"), options.clone()) {
            Ok(log) => return log,
            // The process that has just exited may still hold the lock.
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Runs a plan and returns its findings.
pub fn run(plan: Plan) -> Findings {
    let home =
        std::env::var_os("OMNILINK_CHAOS_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = TempDir::with_prefix_in("omnilink-chaos-", home).unwrap();
    let parts = Parts::start(dir.path(), &plan);
    let run = Arc::new(Run {
        nodes: Nodes::new(dir.path(), &plan, &parts),
        ledger: Ledger::default(),
        names: Names::new("omnilink."),
        brokers: parts.brokers.clone(),
        postgres: parts.postgres.clone(),
        dir: dir.path().to_owned(),
        began: Instant::now(),
        over: AtomicBool::new(false),
        admitted: AtomicU64::new(0),
        rows: AtomicU64::new(0),
        history: History::default(),
        plan,
    });
    let plan = &run.plan;
    run.print(&format!(
        "seed {}: {} events at {}/s; SIGKILL of OmniLink {}, several times in a row {}, of the broker {} (of {}), of Postgres {}, of Redis {}; SIGSTOP {}",
        plan.seed, plan.events, plan.per_second, plan.node_kills, plan.volleys, plan.broker_kills, plan.brokers, plan.postgres_kills,
        plan.redis_kills, plan.zombies,
    ));
    prepare(&run);
    run.nodes.add();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let mut findings = Findings::default();
    let followers = follow(&run, &runtime);
    let clients = clients(&run, &runtime);
    let mut stats = faults::run(&run, &parts, &clients, &mut findings);
    finish(&run, &runtime, clients, &mut findings, &mut stats);
    settle(&run, &mut findings);
    run.over.store(true, Ordering::Relaxed);
    for follower in followers {
        // A panic has been reported.
        drop(follower.join());
    }
    for why in run.nodes.stop() {
        findings.add(Flaw::Trouble, why);
    }
    if !run.kafka() {
        drain_local(&run, &mut findings);
    }
    let (history, mut totals) = check::log(&*run.open(), &run.names, &run.ledger, &mut findings);
    match runtime.block_on(rows::read(&run.postgres)) {
        Ok(found) => check::rows(&found, &history, &run.ledger, &mut findings, &mut totals),
        Err(why) => findings.add(Flaw::Trouble, format!("Postgres cannot be read: {why}")),
    }
    for why in run.ledger.troubles() {
        findings.add(Flaw::Trouble, why);
    }
    report(&run, &stats, &totals, &findings);
    drop(runtime);
    if plan.bug.is_none() && !findings.are(&[]) {
        eprintln!("{}", run.nodes.errors());
    }
    if std::env::var_os("OMNILINK_CHAOS_KEEP").is_some() {
        run.print(&format!("kept: {}", dir.keep().display()));
    }
    findings
}

/// Preparations before the first node starts.
fn prepare(run: &Run) {
    if run.kafka() {
        std::fs::create_dir_all(run.nodes.first_dir()).unwrap();
        run.nodes.make_key();
        return;
    }
    let log = open_local(&run.nodes.first_dir());
    log.provision(&run.names.specs(check::PARTITIONS), true)
        .unwrap();
    let mut dice = Dice::new(run.plan.seed);
    for n in 0..LOCAL_POISONS {
        let mark = format!("local-{n}");
        let record = producers::poison(&mark, &mut dice);
        append(&log, &run.names.ingress, vec![record.clone()]).unwrap();
        run.ledger.poison(mark, record);
    }
}

/// Counts arriving events and rows.
fn follow(run: &Arc<Run>, runtime: &tokio::runtime::Runtime) -> Vec<std::thread::JoinHandle<()>> {
    let mut followers = Vec::new();
    if run.kafka() {
        let run = Arc::clone(run);
        followers.push(std::thread::spawn(move || {
            let log = run.open();
            let mut reader = log.reader(&run.names.events).unwrap();
            for partition in 0..check::PARTITIONS {
                reader.assign(partition, 0).unwrap();
            }
            let mut out = Vec::new();
            while !run.over.load(Ordering::Relaxed) {
                out.clear();
                // Errors of the reader are expected while the broker is down.
                drop(reader.poll(Duration::from_millis(100), &mut out));
                run.admitted.fetch_add(out.len() as u64, Ordering::Relaxed);
            }
        }));
    }
    let (run, handle) = (Arc::clone(run), runtime.handle().clone());
    followers.push(std::thread::spawn(move || {
        let mut watcher = rows::Watcher::new(&run.postgres);
        for n in 0_u32.. {
            if run.over.load(Ordering::Relaxed) {
                return;
            }
            if let Some(positions) = handle.block_on(watcher.positions()) {
                run.history.add(positions);
            }
            if n.is_multiple_of(4)
                && let Some(count) = handle.block_on(watcher.count())
            {
                run.rows.store(count, Ordering::Relaxed);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }));
    followers
}

/// A client task.
pub type Client = tokio::task::JoinHandle<()>;

/// Starts all clients, each with its share of the events.
fn clients(run: &Arc<Run>, runtime: &tokio::runtime::Runtime) -> Vec<Client> {
    use producers::Style as Form;
    let plan = &run.plan;
    let over = Duration::from_secs(1) * plan.events / plan.per_second;
    let (mut styles, mut forms) = (Vec::new(), Vec::new());
    // Percentages of all events.
    let (single, batch) = if run.kafka() { (4, 9) } else { (7, 15) };
    for _ in 0..4 {
        styles.push((http::Style::Structured, single));
        styles.push((http::Style::Binary, single));
    }
    styles.push((http::Style::Batch(20), batch));
    styles.push((http::Style::Batch(4), batch));
    if run.kafka() {
        forms = vec![(Form::Binary, 20), (Form::Structured, 15), (Form::Bare, 15)];
    }
    let parts: u32 = styles
        .iter()
        .map(|s| s.1)
        .chain(forms.iter().map(|f| f.1))
        .sum();
    let mut left = plan.events;
    let mut share = |part: u32| {
        let quota = (plan.events * part).div_ceil(parts).min(left);
        left -= quota;
        quota
    };
    let key = run.nodes.key();
    let mut clients = Vec::new();
    for (n, (style, part)) in styles.into_iter().enumerate() {
        let client = http::client(
            Arc::clone(run),
            format!("h{n}"),
            style,
            share(part),
            over,
            key.clone(),
        );
        clients.push(runtime.spawn(client));
    }
    for (n, (form, part)) in forms.into_iter().enumerate() {
        let producer =
            producers::producer(Arc::clone(run), format!("k{n}"), form, share(part), over);
        clients.push(runtime.spawn(producer));
    }
    clients
}

/// Waits until the clients have sent everything.
fn finish(
    run: &Run,
    runtime: &tokio::runtime::Runtime,
    clients: Vec<Client>,
    findings: &mut Findings,
    stats: &mut FaultStats,
) {
    while !clients.iter().all(Client::is_finished) && !run.over() {
        watch(run, findings);
        stats.poll(run);
        std::thread::sleep(Duration::from_millis(20));
    }
    run.over.store(run.over(), Ordering::Relaxed);
    for client in clients {
        let ended =
            runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), client).await });
        if !matches!(ended, Ok(Ok(()))) {
            findings.add(Flaw::Trouble, "a client did not end");
        }
    }
    let accepted = run.ledger.accepted();
    if accepted != u64::from(run.plan.events) {
        let what = format!(
            "only {accepted} events were accepted within {:?}",
            run.plan.deadline
        );
        findings.add(Flaw::Trouble, what);
    }
    run.print(&format!("all is sent; {accepted} accepted"));
}

/// Waits until everything has arrived and nothing changes any more, or nothing has changed for too long.
fn settle(run: &Run, findings: &mut Findings) {
    let expected = run.ledger.accepted();
    let read = || {
        let admitted = run.admitted.load(Ordering::Relaxed);
        (admitted, run.rows())
    };
    let (mut before, mut moved) = (read(), Instant::now());
    loop {
        watch(run, findings);
        std::thread::sleep(Duration::from_millis(100));
        let now = read();
        if now != before {
            (before, moved) = (now, Instant::now());
        }
        let there = (!run.kafka() || now.0 >= expected) && now.1 >= expected;
        let patience = if there { SETTLED } else { run.plan.quiet };
        if moved.elapsed() > patience {
            if !there {
                run.print(&format!("nothing moves: {}", run.nodes.readiness()));
            }
            return;
        }
    }
}

/// Restarts the node on the embedded log until admission has read everything.
fn drain_local(run: &Run, findings: &mut Findings) {
    for _ in 0..5 {
        let behind = {
            let log = open_local(&run.nodes.first_dir());
            let lag = |partition| {
                let end = log.offset_range(&run.names.ingress, partition).unwrap().end;
                let next = log
                    .committed("admission", &run.names.ingress, partition)
                    .unwrap();
                end - next.unwrap_or_default()
            };
            (0..check::PARTITIONS).map(lag).sum::<u64>()
        };
        if behind == 0 {
            return;
        }
        run.print(&format!("{behind} records are not read yet"));
        run.nodes.start(0);
        std::thread::sleep(SETTLED);
        for why in run.nodes.stop() {
            findings.add(Flaw::Trouble, why);
        }
    }
    findings.add(
        Flaw::Trouble,
        "admission does not read its input to the end",
    );
}

fn report(run: &Run, stats: &FaultStats, totals: &Totals, findings: &Findings) {
    let (retries, repeats) = run.ledger.retries_and_repeats();
    run.print(&format!(
        "accepted {}, in the topic {}, rows {}; entities {}; bad records {}, dead letters {}; \
         tries again {retries}, sent again on purpose {repeats}; faults {}, under way at them {}; found: {}",
        run.ledger.accepted(),
        totals.events,
        totals.rows,
        totals.entities,
        totals.poisons,
        totals.dead_letters,
        stats.faults,
        stats.under_way,
        findings.summary(),
    ));
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    for line in stats.recoveries.table() {
        let log = format!("{:?}", run.plan.kind).to_lowercase();
        eprintln!("RECOVERY\t{log}\t{}\t{line}\t{load}", run.plan.brokers);
    }
    let verdict = match (findings.are(run.plan.finds), run.plan.bug) {
        (true, None) => "held",
        (true, Some(_)) => "found",
        (false, None) => "BROKEN",
        (false, Some(_)) => "MISSED",
    };
    // For `scripts/chaos`.
    eprintln!(
        "CHAOS\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\t{:.0}\t{}\t{}",
        format!("{:?}", run.plan.kind).to_lowercase(),
        run.plan.bug.unwrap_or("-"),
        run.plan.seed,
        run.ledger.accepted(),
        totals.events,
        totals.rows,
        stats.faults,
        stats.under_way,
        run.began.elapsed().as_secs_f64(),
        verdict,
        findings.summary(),
    );
    assert!(
        stats.faults == 0 || stats.under_way > 0,
        "seed {}: nothing was under way at any fault",
        run.plan.seed
    );
}
