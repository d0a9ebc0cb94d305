//! Runs from start to end: closed loops of `POST /v1/workflows` with `Prefer: wait`, each as a ratio to the bare axum answer. Steps
//! are `noop` in the process, or calls of an HTTP worker in a process of its own on the same cores. With `OMNILINK_BENCH_DBOS`, the
//! program of `benches/peers/dbos`, each load of `noop` is followed by the same of DBOS.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    limits::Limits,
    load::{self, Outcome, Until},
    machine::Peak,
    postgres::Database,
    report::{self, Row},
    server::{Log, Server},
    sustained,
    worker::Worker,
};

pub const WARM_UP: f64 = 2.0;
pub const SECONDS: f64 = 12.0;
pub const ROUNDS: usize = 3;
/// How far rows may be behind at the end of the sustained part, in seconds.
const LAG_S: f64 = 2.0;
const DRAIN: Duration = Duration::from_mins(5);
const KEY: &str = r#"{"permissions": ["orchestrations:request", "runs:write"], "constraints": {"max_rpm": 0, "max_concurrency": 0}}"#;

/// A workflow whose runs last until they are told to go on.
const PARKED: &str = "name: parked\nversion: 1.0.0\nplan: { steps: [{ id: park, tool: wait, input: { signal: go } }] }\n";

/// A load, and what is asked for as shares of the bare answer.
struct Case {
    name: &'static str,
    workflow: &'static str,
    connections: usize,
    accepted: f64,
    /// With all rows in Postgres; 0 where nothing is asked for.
    sustained: f64,
    /// How many times the rate of DBOS.
    dbos: f64,
}

const fn case(
    (name, workflow, connections): (&'static str, &'static str, usize),
    accepted: f64,
    sustained: f64,
) -> Case {
    Case {
        name,
        workflow,
        connections,
        accepted,
        sustained,
        dbos: 0.0,
    }
}

impl Case {
    const fn beats_dbos(mut self, times: f64) -> Self {
        self.dbos = times;
        self
    }

    fn steps(&self) -> &'static str {
        self.workflow.trim_start_matches(char::is_alphabetic)
    }
}

const LOCAL: [Case; 8] = [
    case(("three HTTP steps, c=256", "http3", 256), 0.060, 0.043),
    case(("three HTTP steps, c=32", "http3", 32), 0.043, 0.032),
    case(("three HTTP steps, c=1", "http3", 1), 0.0, 0.0),
    case(("ten HTTP steps, c=64", "http10", 64), 0.021, 0.016),
    case(("three noop steps, c=256", "noop3", 256), 0.14, 0.068).beats_dbos(7.0),
    case(("three noop steps, c=32", "noop3", 32), 0.085, 0.057).beats_dbos(4.5),
    case(("three noop steps, c=1", "noop3", 1), 0.0, 0.0).beats_dbos(2.5),
    case(("ten noop steps, c=64", "noop10", 64), 0.070, 0.032),
];

const KAFKA: [Case; 3] = [
    case(("three HTTP steps, c=256", "http3", 256), 0.021, 0.0),
    case(("three HTTP steps, c=32", "http3", 32), 0.011, 0.0),
    case(("three HTTP steps, c=1", "http3", 1), 0.0, 0.0),
];

/// Restate's figures, as ratios too: measured where a bare axum answer made 66,000 to 72,000 a second.
const RESTATE: [(&str, &str); 4] = [
    ("Restate, three HTTP steps, c=256", "0.022 x bare axum"),
    ("Restate, three HTTP steps, c=32", "0.015 x bare axum"),
    ("Restate, ten HTTP steps, c=64", "0.0092 x bare axum"),
    (
        "Restate, three HTTP steps, c=1",
        "p50 4.4 ms at a sync of 0.08 ms",
    ),
];

/// Runs that ended and were answered, without rows. `None` without Kafka.
pub fn accepted(log: Log, limits: &Limits) -> Option<()> {
    let (server, _files) = start(log, false)?;
    for case in cases(log) {
        let title = format!("{}: {}", log.name(), case.name);
        server.drive_runs(case.workflow, case.connections, Until::Seconds(WARM_UP));
        let (cpu, peak) = (server.cpu(false), Peak::watch(server.pid()));
        let mut rounds: Vec<Outcome> = Vec::new();
        for _ in 0..ROUNDS {
            let until = Until::Seconds(SECONDS);
            rounds.push(server.drive_runs(case.workflow, case.connections, until));
        }
        let mut parts = cpu.used();
        let runs: u64 = rounds.iter().map(|round| round.accepted).sum();
        parts.insert("load generator", rounds.iter().map(|round| round.cpu).sum());
        rounds.sort_by(|a, b| a.per_second().total_cmp(&b.per_second()));
        let outcome = &rounds[ROUNDS / 2];
        let mut row = Row::new(&title, outcome.per_second(), "runs/s")
            .against(limits.single, "bare axum")
            .note(outcome.note());
        if case.accepted > 0.0 {
            row = row.target_ratio(case.accepted);
        }
        row.print();
        if case.connections == 1 {
            one_by_one(&title, case, limits, outcome);
        }
        report::cpu(&title, &parts, runs as f64);
        Row::new(format!("{title}: resident memory, most"), peak.end(), "MB").print();
        if log == Log::Local && case.workflow.starts_with("noop") {
            beside_dbos(&title, case, outcome.per_second());
        }
    }
    for (name, figure) in RESTATE {
        report::quoted(name, figure, "2026-11");
    }
    Some(())
}

/// The same load on DBOS, in a database of its own. Without its program, or without Postgres, it is left out.
fn beside_dbos(title: &str, case: &Case, ours: f64) {
    let program = std::env::var_os("OMNILINK_BENCH_DBOS");
    let (Some(program), Some(database)) = (program, Database::new()) else {
        return;
    };
    let (connections, seconds) = (case.connections.to_string(), SECONDS.to_string());
    let ran = Command::new(program)
        .args([&database.url, &connections, &seconds, case.steps()])
        .output()
        .unwrap();
    let why = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "DBOS: {why}");
    let printed = String::from_utf8(ran.stdout).unwrap();
    let figures: Vec<f64> = printed
        .split(' ')
        .map(|n| n.trim().parse().unwrap())
        .collect();
    let note = format!(
        "answers: p50 {:.2} ms, p99 {:.2} ms",
        figures[1], figures[2]
    );
    Row::new(format!("{title}: DBOS"), figures[0], "runs/s")
        .note(note)
        .print();
    let mut row =
        Row::new(format!("{title}: beside DBOS"), ours, "runs/s").against(figures[0], "DBOS");
    if case.dbos > 0.0 {
        row = row.target_ratio(case.dbos);
    }
    row.print();
}

/// The target of a single client: six transactions of one record on Kafka; on the embedded log a number of syncs, and what the
/// processor needs where axum answers 140,000 a second.
fn one_by_one(title: &str, case: &Case, limits: &Limits, outcome: &Outcome) {
    let (bound, note) = if let Some(transaction) = limits.transaction_ms {
        let note = format!("6 transactions of one record, {transaction:.2} ms each");
        (6.0 * transaction, note)
    } else {
        let (syncs, ms) = match case.workflow {
            "http3" => (5.0, 1.0),
            _ => (2.0, 0.4),
        };
        let note = format!(
            "{syncs} syncs of {:.2} ms and {ms} ms × 140,000 / axum",
            limits.sync_ms
        );
        let bound = syncs * limits.sync_ms + ms * 140_000.0 / limits.single;
        (bound, note)
    };
    Row::new(format!("{title}: p50"), outcome.percentile(0.5), "ms")
        .target_below(bound)
        .note(note)
        .print();
}

/// The rate at which all rows are in Postgres, driven at what is asked for; `None` without Kafka.
pub fn sustained(log: Log, limits: &Limits) -> Option<()> {
    for case in cases(log).filter(|case| case.sustained > 0.0) {
        // Each with tables of its own.
        let (server, _files) = start(log, true)?;
        let title = format!("{}: {}, sustained with rows", log.name(), case.name);
        server.drive_runs(case.workflow, case.connections, Until::Seconds(WARM_UP));
        let until = Until::Seconds(sustained::seconds());
        let plan = server.runs_plan(case.workflow, case.connections, until);
        driven(&server, &title, case.sustained, limits, plan);
    }
    Some(())
}

/// Drives runs at this share of the bare answer, after a warm-up, and waits for their rows.
pub fn driven(
    server: &Server,
    title: &str,
    share: f64,
    limits: &Limits,
    plan: load::Plan,
) -> Outcome {
    let rate = share * limits.single;
    settle(server);
    let before = server.rows(crate::rows::Rows::ended_runs);
    let (cpu, peak) = (server.cpu(true), Peak::watch(server.pid()));
    let outcome = load::run(load::Plan {
        rate: Some(rate),
        ..plan
    });
    let rows = server.rows(crate::rows::Rows::ended_runs) - before;
    let began = Instant::now();
    settle(server);
    let (lag, peak) = (began.elapsed().as_secs_f64(), peak.end());
    let mut parts = cpu.used();
    parts.insert("load generator", outcome.cpu);
    let all = server.rows(crate::rows::Rows::ended_runs) - before;
    Row::new(title, outcome.per_second(), "runs/s")
        .against(limits.single, "bare axum")
        // What was driven, less a little for the start of the connections.
        .target_ratio(share * 0.99)
        .note(format!(
            "driven at {rate:.0}/s; {}; {rows} of {all} had rows at the end",
            outcome.note()
        ))
        .print();
    Row::new(format!("{title}: until the last row"), lag, "s")
        .target_below(LAG_S)
        .note(if all == outcome.accepted {
            format!("all {all} runs have their row")
        } else {
            format!(
                "MISMATCH: {} runs ended, {all} have a row",
                outcome.accepted
            )
        })
        .print();
    report::cpu(title, &parts, outcome.accepted as f64);
    Row::new(format!("{title}: resident memory, most"), peak, "MB").print();
    outcome
}

/// Waits until all runs that were answered have their row.
pub fn settle(server: &Server) {
    let deadline = Instant::now() + DRAIN;
    while server.rows(crate::rows::Rows::ended_runs) < server.accepted() {
        assert!(Instant::now() < deadline, "rows do not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// All, or those whose names contain `OMNILINK_BENCH_CASES`.
fn cases(log: Log) -> impl Iterator<Item = &'static Case> {
    let chosen = std::env::var("OMNILINK_BENCH_CASES").unwrap_or_default();
    let all: &'static [Case] = match log {
        Log::Local => &LOCAL,
        Log::Kafka => &KAFKA,
    };
    all.iter().filter(move |case| case.name.contains(&chosen))
}

/// A server with the workflows and their worker; both folders and the worker last as long as what is returned.
pub fn start(log: Log, projections: bool) -> Option<(Server, (tempfile::TempDir, Worker))> {
    let dir = tempfile::tempdir().unwrap();
    let worker = Worker::start();
    let (workflows, tools) = (dir.path().join("workflows"), dir.path().join("tools"));
    std::fs::create_dir_all(&workflows).unwrap();
    std::fs::create_dir_all(&tools).unwrap();
    let tool = format!(
        "name: work\ndescription: Answers at once.\nkind: write\nrisk: {{ lane: safe }}\nworker:\n  http: {{ url: 'http://{}/' }}\n",
        worker.address
    );
    std::fs::write(tools.join("work.yaml"), tool).unwrap();
    for (name, tool, steps) in [
        ("noop3", "noop", 3),
        ("noop10", "noop", 10),
        ("http3", "work", 3),
        ("http10", "work", 10),
    ] {
        write(&workflows, name, tool, steps);
    }
    std::fs::write(workflows.join("parked.yaml"), PARKED).unwrap();
    let path = |dir: &Path| dir.display().to_string();
    let settings = [
        ("OMNILINK__WORKFLOWS_DIR", path(&workflows)),
        ("OMNILINK__TOOLS_DIR", path(&tools)),
    ];
    let mut server = Server::up_with(log, projections, &settings)?;
    server.key = server.made_key(KEY);
    Some((server, (dir, worker)))
}

/// A workflow of steps one after another, whose inputs and outputs have 20 bytes.
fn write(dir: &Path, name: &str, tool: &str, steps: usize) {
    let text = workflow(name, tool, steps);
    std::fs::write(dir.join(format!("{name}.yaml")), text).unwrap();
}

/// The text of such a workflow; more members may follow.
pub fn workflow(name: &str, tool: &str, steps: usize) -> String {
    let step = |n: usize| {
        let after = n
            .checked_sub(1)
            .map_or_else(String::new, |before| format!("s{before}"));
        format!(
            "    - {{ id: s{n}, tool: {tool}, input: {{ n: {n}, ok: true, a: 1 }}, depends_on: [{after}] }}\n"
        )
    };
    let steps: String = (0..steps).map(step).collect();
    format!("name: {name}\nversion: '1.0.0'\nplan:\n  steps:\n{steps}")
}
