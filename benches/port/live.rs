//! Many runs: 100,000 that wait for a signal (memory and processor time while they wait, a restart after a kill), and the same loads
//! before and after a million runs that have ended.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::{
    load::{self, Until},
    machine::{self, Peak},
    report::{Row, percentile},
    request, runs,
    server::{Log, Server},
};

/// Runs that wait.
const LIVE: u64 = 100_000;
/// At most this much above a node without them.
const MEMORY_MB: f64 = 150.0;
/// At most this share of a core, in percent, above a node without them.
const IDLE_PERCENT: f64 = 1.0;
const REST: Duration = Duration::from_secs(20);
/// From the start of the process to the end of the first run.
const RESTART_S: [f64; 2] = [5.0, 15.0];
const DEADLINE: Duration = Duration::from_mins(3);
/// Of the figures before.
const SLOWER: f64 = 0.1;

/// `None` without Kafka.
pub fn live(log: Log) -> Option<()> {
    let (mut server, _files) = runs::start(log, false)?;
    let title = format!("{}: {LIVE} live runs", log.name());
    // What every node keeps once it has worked.
    server.drive_runs("noop3", 32, Until::Seconds(runs::WARM_UP));
    let before = rest(&server);
    let started = server.metric("omnilink_runs_started_total");
    let peak = Peak::watch(server.pid());
    let one = park_one(server.address, &server.key, "");
    assert!(one.starts_with("HTTP/1.1 202"), "{one}");
    let outcome = server.park("parked", LIVE - 1);
    assert_eq!(outcome.refused, 0);
    let deadline = Instant::now() + DEADLINE;
    while server.metric("omnilink_runs_started_total") - started < LIVE as f64 {
        assert!(Instant::now() < deadline, "not all runs have started");
        std::thread::sleep(Duration::from_millis(50));
    }
    Row::new(format!("{title}: starts"), outcome.per_second(), "runs/s")
        .note(outcome.note())
        .print();
    let after = rest(&server);
    Row::new(format!("{title}: memory above idle"), after.memory - before.memory, "MB")
        .target_below(MEMORY_MB)
        .note(format!(
            "{:.0} MB idle, {:.0} with them, {:.0} at most while they started; params of 1 KiB; data directory {:.0} MB",
            before.memory,
            after.memory,
            peak.end(),
            server.data_mb()
        ))
        .print();
    Row::new(format!("{title}: of a core"), after.percent, "%")
        .target_below(before.percent + IDLE_PERCENT)
        .note(format!("{:.2} % without them", before.percent))
        .print();

    let began = Instant::now();
    server.kill(false);
    let mut tries = 0;
    let ended = loop {
        tries += 1;
        let headers = format!("Idempotency-Key: restart-{tries}\r\nPrefer: wait=30\r\n");
        let body = body("noop3", "{}");
        let ran = load::post_to(
            server.address,
            &server.key,
            "/v1/workflows",
            &headers,
            &body,
        );
        match ran {
            Ok(answer) if answer.starts_with("HTTP/1.1 200") => break began.elapsed(),
            other => assert!(began.elapsed() < DEADLINE, "no run ends: {other:?}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    Row::new(
        format!("{title}: from a start after a kill to the end of a run"),
        ended.as_secs_f64(),
        "s",
    )
    .target_below(RESTART_S[usize::from(log == Log::Kafka)])
    .print();
    let rested = rest(&server);
    Row::new(format!("{title}: memory after that"), rested.memory, "MB")
        .note(format!("{:.2} % of a core", rested.percent))
        .print();
    // A run that has ended is only found in Postgres, so it is waited for before it gets its signal.
    let (address, key) = (server.address, server.key.clone());
    let waiting = std::thread::spawn(move || park_one(address, &key, "Prefer: wait=30\r\n"));
    std::thread::sleep(Duration::from_secs(1));
    signal(&server, &run_id(&one));
    let first = waiting.join().unwrap();
    assert!(
        first.contains(r#""status":"succeeded""#),
        "the first run goes on after the restart: {first}"
    );
    Some(())
}

/// `None` without Kafka.
pub fn finished(log: Log) -> Option<()> {
    const ENDED: u64 = 1_000_000;
    const LOADS: [(&str, usize); 4] =
        [("noop3", 256), ("noop3", 32), ("http3", 256), ("http3", 32)];
    let (server, _files) = runs::start(log, false)?;
    let rates = || {
        LOADS.map(|(workflow, connections)| {
            server.drive_runs(workflow, connections, Until::Seconds(runs::WARM_UP));
            let rounds: Vec<f64> = (0..runs::ROUNDS)
                .map(|_| {
                    server
                        .drive_runs(workflow, connections, Until::Seconds(runs::SECONDS / 2.0))
                        .per_second()
                })
                .collect();
            percentile(rounds, 0.5)
        })
    };
    let before = rates();
    let memory = server.resident_mb();
    let outcome = server.drive_runs("noop3", 256, Until::Requests(ENDED));
    Row::new(
        format!("{}: {ENDED} runs", log.name()),
        outcome.per_second(),
        "runs/s",
    )
    .note(format!(
        "{}; {:.0} MB resident, {memory:.0} before them; data directory {:.0} MB",
        outcome.note(),
        server.resident_mb(),
        server.data_mb()
    ))
    .print();
    let after = rates();
    for ((workflow, connections), (before, after)) in
        LOADS.into_iter().zip(before.into_iter().zip(after))
    {
        let title = format!(
            "{}: {workflow}, c={connections}, after {ENDED} runs",
            log.name()
        );
        Row::new(title, after, "runs/s")
            .against(before, "before them")
            .target_ratio(1.0 - SLOWER)
            .print();
    }
    Some(())
}

struct Rest {
    memory: f64,
    /// Of a core.
    percent: f64,
}

/// Waits until nothing is left to do, then measures.
fn rest(server: &Server) -> Rest {
    std::thread::sleep(REST / 2);
    let used = || machine::cpu_by_thread(server.pid()).values().sum::<f64>();
    let (began, before) = (Instant::now(), used());
    std::thread::sleep(REST);
    Rest {
        memory: server.resident_mb(),
        percent: (used() - before) / began.elapsed().as_micros() as f64 * 100.0,
    }
}

fn body(workflow: &str, params: &str) -> String {
    format!(
        r#"{{"id":"1","source":"/bench/shop","type":"bench","workflow":{{"name":"{workflow}"}},"input":{params}}}"#
    )
}

/// Starts the first of the waiting runs, or asks for it again.
fn park_one(address: SocketAddr, key: &str, prefer: &str) -> String {
    let headers = format!("Idempotency-Key: the-first\r\n{prefer}");
    let body = body("parked", &request::parked_params());
    load::post_to(address, key, "/v1/workflows", &headers, &body).unwrap()
}

fn run_id(answer: &str) -> String {
    let (_, rest) = answer
        .split_once(r#""run_id":""#)
        .expect("it names its run");
    rest.split('"').next().unwrap().to_owned()
}

fn signal(server: &Server, run: &str) {
    let path = format!("/v1/runs/{run}/signal");
    let answer =
        load::post_to(server.address, &server.key, &path, "", r#"{"signal":"go"}"#).unwrap();
    assert!(answer.starts_with("HTTP/1.1 2"), "{answer}");
}
