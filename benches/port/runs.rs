//! Runs from start to end: closed loops of `POST /v1/workflows` with `Prefer: wait`, each as a ratio to the bare axum answer.

use std::path::Path;

use crate::{
    limits::Limits,
    load::Until,
    machine::Peak,
    report::{self, Row},
    server::{Log, Server},
};

const WARM_UP: f64 = 2.0;
const SECONDS: f64 = 12.0;
const KEY: &str = r#"{"permissions": ["orchestrations:request"], "constraints": {"max_rpm": 0, "max_concurrency": 0}}"#;

/// A figure, and what is asked for as a share of the bare answer.
struct Case {
    name: &'static str,
    workflow: &'static str,
    connections: usize,
    asked: f64,
}

const CASES: [Case; 4] = [
    Case {
        name: "three noop steps, c=256",
        workflow: "noop3",
        connections: 256,
        asked: 0.14,
    },
    Case {
        name: "three noop steps, c=32",
        workflow: "noop3",
        connections: 32,
        asked: 0.085,
    },
    Case {
        name: "ten noop steps, c=64",
        workflow: "noop10",
        connections: 64,
        asked: 0.070,
    },
    Case {
        name: "three noop steps, c=1",
        workflow: "noop3",
        connections: 1,
        asked: 0.0,
    },
];

/// `None` without Kafka.
pub fn measure(log: Log, limits: &Limits) -> Option<()> {
    let dir = tempfile::tempdir().unwrap();
    for (name, steps) in [("noop3", 3), ("noop10", 10)] {
        write(dir.path(), name, steps);
    }
    let workflows = ("OMNILINK__WORKFLOWS_DIR", dir.path().display().to_string());
    let mut server = Server::up_with(log, false, &[workflows])?;
    server.key = server.made_key(KEY);
    let name = log.name();
    for case in CASES {
        server.drive_runs(case.workflow, case.connections, Until::Seconds(WARM_UP));
        let (cpu, peak) = (server.cpu(false), Peak::watch(server.pid()));
        let outcome = server.drive_runs(case.workflow, case.connections, Until::Seconds(SECONDS));
        let mut parts = cpu.used();
        parts.insert("load generator", outcome.cpu);
        let title = format!("{name}: {}", case.name);
        let mut row = Row::new(&title, outcome.per_second(), "runs/s")
            .against(limits.single, "bare axum")
            .note(outcome.note());
        if case.asked > 0.0 {
            row = row.target_ratio(case.asked);
        }
        row.print();
        report::cpu(&title, &parts, outcome.accepted as f64);
        Row::new(format!("{title}: resident memory, most"), peak.end(), "MB").print();
    }
    Some(())
}

/// A workflow of steps one after another.
fn write(dir: &Path, name: &str, steps: usize) {
    let step = |n: usize| {
        let after = n
            .checked_sub(1)
            .map_or_else(String::new, |before| format!("s{before}"));
        format!(
            "    - {{ id: s{n}, tool: noop, input: {{ n: {n}, ok: true }}, depends_on: [{after}] }}\n"
        )
    };
    let steps: String = (0..steps).map(step).collect();
    let text = format!("name: {name}\nversion: '1.0.0'\nplan:\n  steps:\n{steps}");
    std::fs::write(dir.join(format!("{name}.yaml")), text).unwrap();
}
