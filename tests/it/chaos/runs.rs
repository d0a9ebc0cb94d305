//! Runs under kills: sagas of three steps whose HTTP worker fails, hangs and answers twice, while nodes and the broker are killed.
//! Every run must end, each step must have one idempotency key, and effects must be compensated exactly in runs that did not succeed.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    can_run,
    nodes::Nodes,
    parts::Parts,
    plan::{Dice, Plan},
    seed, setting,
};
use crate::support::{
    LogKind,
    worker::{Answers, Got, Worker, answer},
};

const CLIENTS: usize = 16;
/// Longer than the time limit of a step.
const HANG: Duration = Duration::from_secs(3);
/// Time limit from the last start until all runs have ended.
const SETTLE: Duration = Duration::from_mins(4);

type Http = Client<HttpConnector, Full<Bytes>>;

/// How a worker behaves towards a call, by its idempotency key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Behaviour {
    Good,
    /// The first attempt is refused.
    Busy,
    /// The first attempt is not answered, but has its effect.
    Slow,
    /// No attempt is answered.
    Silent,
    /// Every attempt is refused for good.
    Broken,
    /// The call is accepted, and completed twice.
    Twice,
}

impl Behaviour {
    fn of(key: &str) -> Self {
        let number = omnilink::log::murmur2(key.as_bytes()) % 100;
        let undoes = key.ends_with(":compensate");
        match number {
            0..10 => Self::Busy,
            10..18 => Self::Broken,
            // Compensations are never slow, silent or completed later.
            18..22 if !undoes => Self::Slow,
            22..25 if !undoes => Self::Silent,
            25..35 if !undoes => Self::Twice,
            _ => Self::Good,
        }
    }
}

/// What the worker has seen.
#[derive(Default)]
struct Ledger {
    /// The idempotency keys of each step and kind.
    keys: BTreeMap<String, BTreeSet<String>>,
    /// The number of calls of each key.
    calls: BTreeMap<String, u32>,
}

/// The worker's state, and the nodes at which it completes calls.
struct World {
    nodes: Nodes,
    http: Http,
    key: String,
    ledger: Mutex<Ledger>,
    attempts: AtomicUsize,
    completed: AtomicU32,
}

impl World {
    /// Sends a request, with retries, until a node gives a final answer.
    async fn send(&self, method: &str, path: &str, id: &str, body: &Value) -> (StatusCode, Value) {
        let mut pause = Duration::from_millis(20);
        loop {
            let attempt = self.attempts.fetch_add(1, Ordering::Relaxed);
            if let Some(address) = self.nodes.address(attempt) {
                let text = if body.is_null() {
                    String::new()
                } else {
                    body.to_string()
                };
                let request = Request::builder()
                    .method(method)
                    .uri(format!("http://{address}{path}"))
                    .header("authorization", format!("Bearer {}", self.key))
                    .header("content-type", "application/json")
                    .header("idempotency-key", id)
                    .body(Full::new(text.into()))
                    .unwrap();
                let exchange = async {
                    let response = self.http.request(request).await.ok()?;
                    let status = response.status();
                    let body = response.into_body().collect().await.ok()?.to_bytes();
                    Some((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
                };
                let answer = tokio::time::timeout(Duration::from_secs(40), exchange).await;
                if let Ok(Some((status, body))) = answer
                    && !matches!(status.as_u16(), 408 | 429 | 500..)
                    // 409 is temporary for a start in flight, but not for a stale lease.
                    && (status != 409 || path != "/v1/workflows")
                {
                    return (status, body);
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    async fn call(self: Arc<Self>, got: Got) -> hyper::Response<Full<Bytes>> {
        let command = got.json();
        let text = |name: &str| command[name].as_str().unwrap_or_default().to_owned();
        let key = got.header("idempotency-key").to_owned();
        let step = format!("{}:{}:{}", text("run_id"), text("step_id"), text("kind"));
        let before = {
            let mut ledger = self.ledger.lock();
            ledger.keys.entry(step).or_default().insert(key.clone());
            let calls = ledger.calls.entry(key.clone()).or_insert(0);
            *calls += 1;
            *calls - 1
        };
        let good = || {
            answer(
                200,
                &[("content-type", "application/json")],
                r#"{"done":1}"#,
            )
        };
        match (Behaviour::of(&key), before) {
            (Behaviour::Busy, 0) => answer(503, &[], "busy"),
            (Behaviour::Slow, 0) | (Behaviour::Silent, _) => {
                tokio::time::sleep(HANG).await;
                good()
            }
            (Behaviour::Broken, _) => answer(422, &[], "broken"),
            (Behaviour::Twice, _) => {
                let (task, lease) = (text("task_id"), text("lease"));
                tokio::spawn(async move {
                    for n in 0..2 {
                        let body = json!({ "task_id": task, "lease": lease, "outcome": "succeeded", "output": { "done": n } });
                        let (status, _) =
                            self.send("POST", "/v1/tasks/complete", &task, &body).await;
                        self.completed
                            .fetch_add(u32::from(status == 200), Ordering::Relaxed);
                    }
                });
                answer(202, &[], "")
            }
            _ => good(),
        }
    }

    /// Starts run number `n`; returns its id.
    async fn start(&self, n: u32) -> String {
        let id = format!("run-{n}");
        let body = json!({ "id": id, "source": "/chaos", "type": "chaos.run", "workflow": { "name": "three" }, "input": { "n": n } });
        let (status, answer) = self.send("POST", "/v1/workflows", &id, &body).await;
        assert_eq!(status, 202, "{answer}");
        answer["results"][0]["run_id"].as_str().unwrap().to_owned()
    }
}

/// Writes the files of the workflow and its tools.
fn write(dir: &Path, worker: &Worker) {
    let (workflows, tools) = (dir.join("workflows"), dir.join("tools"));
    std::fs::create_dir_all(&workflows).unwrap();
    std::fs::create_dir_all(&tools).unwrap();
    let tool = |name: &str, more: &str| {
        let url = worker.url("/");
        let text = format!(
            "name: {name}\ndescription: Does it.\nkind: write\nrisk: {{ lane: safe }}\nworker:\n  http: {{ url: '{url}' }}\n{more}"
        );
        std::fs::write(tools.join(format!("{name}.yaml")), text).unwrap();
    };
    tool(
        "work",
        "timeout_s: 2\nretry: { max_attempts: 3, initial_ms: 50, factor: 2, max_ms: 200 }\ncompensate: { tool: undo, input: { of: '{{ step.input }}', done: '{{ step.output.done }}' } }\n",
    );
    tool("undo", "");
    let workflow = "name: three\nversion: '1.0.0'\nplan:\n  steps:\n    - { id: a, tool: work, input: '{{ params.n }}' }\n    - { id: b, tool: work, input: '{{ params.n }}', depends_on: [a] }\n    - { id: c, tool: work, input: '{{ steps.b.output }}', depends_on: [b] }\n";
    std::fs::write(workflows.join("three.yaml"), workflow).unwrap();
}

/// The size of a test.
struct Load {
    kind: LogKind,
    runs: u32,
    node_kills: u32,
    broker_kills: u32,
    per_second: u32,
}

fn holds(load: &Load) {
    if !can_run(load.kind) {
        return;
    }
    let seed = seed();
    let dir = TempDir::with_prefix("omnilink-runs-").unwrap();
    let plan = Plan::short(load.kind, seed);
    let parts = Parts::start(dir.path(), &plan);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let world: Arc<Mutex<Option<Arc<World>>>> = Arc::default();
    let at = Arc::clone(&world);
    let worker = runtime.block_on(Worker::start(move |got| -> Answers {
        let world = at.lock().clone();
        Box::pin(async move {
            match world {
                Some(world) => world.call(got).await,
                None => answer(503, &[], ""),
            }
        })
    }));
    write(dir.path(), &worker);
    let mut nodes = Nodes::new(dir.path(), &plan, &parts);
    for (name, folder) in [("WORKFLOWS_DIR", "workflows"), ("TOOLS_DIR", "tools")] {
        let folder = dir.path().join(folder).display().to_string();
        nodes.set(&format!("OMNILINK__{name}"), &folder);
    }
    if load.kind == LogKind::Kafka {
        std::fs::create_dir_all(nodes.first_dir()).unwrap();
        nodes.make_key();
    }
    nodes.add();
    let key = nodes.key();
    let made = Arc::new(World {
        nodes,
        http: Client::builder(TokioExecutor::new()).build(HttpConnector::new()),
        key,
        ledger: Mutex::default(),
        attempts: AtomicUsize::new(0),
        completed: AtomicU32::new(0),
    });
    *world.lock() = Some(Arc::clone(&made));
    let began = Instant::now();
    let started = drive(&made, load, seed, &parts, &runtime);
    let sent = began.elapsed();
    let counts = runtime.block_on(check(&made, &started));
    eprintln!(
        "seed {seed}: {} runs on {:?}, {} kills of the node and {} of the broker; sent in {sent:?}, all checked after {:?}; {counts:?}, {} completed later",
        load.runs,
        load.kind,
        load.node_kills,
        load.broker_kills,
        began.elapsed(),
        made.completed.load(Ordering::Relaxed),
    );
    assert_eq!(made.nodes.stop(), Vec::<String>::new());
    // Breaks the cycle: the worker refers to the world, and the world to its nodes.
    *world.lock() = None;
}

/// Starts the runs at a steady rate while nodes and brokers are killed; returns their ids.
fn drive(
    world: &Arc<World>,
    load: &Load,
    seed: u64,
    parts: &Parts,
    runtime: &tokio::runtime::Runtime,
) -> Vec<String> {
    let next = Arc::new(AtomicU32::new(0));
    let began = tokio::time::Instant::now();
    let (runs, rate) = (load.runs, f64::from(load.per_second));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (world, next) = (Arc::clone(world), Arc::clone(&next));
            runtime.spawn(async move {
                let mut started = Vec::new();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= runs {
                        return started;
                    }
                    let due = began + Duration::from_secs_f64(f64::from(n) / rate);
                    tokio::time::sleep_until(due).await;
                    started.push(world.start(n).await);
                }
            })
        })
        .collect();
    let mut dice = Dice::new(seed);
    let kills = load.node_kills + load.broker_kills;
    let apart = f64::from(runs) / rate / f64::from(kills + 1);
    let mut brokers = load.broker_kills;
    for kill in 0..kills {
        let due = began + Duration::from_secs_f64(apart * f64::from(kill + 1));
        runtime.block_on(async { tokio::time::sleep_until(due).await });
        if brokers > 0 && dice.between(1, u64::from(kills - kill)) <= u64::from(brokers) {
            brokers -= 1;
            parts.kill("kafka");
            let (killed, before) = (Instant::now(), world.nodes.cpu_time(0));
            std::thread::sleep(Duration::from_millis(dice.between(500, 3_000)));
            parts.restart("kafka");
            if let (Some(before), Some(after)) = (before, world.nodes.cpu_time(0)) {
                let (used, down) = (after.saturating_sub(before), killed.elapsed());
                let share = used.as_secs_f64() / down.as_secs_f64();
                assert!(
                    share < 0.5,
                    "without a broker, the node used {used:?} of {down:?}"
                );
            }
            // A node that found no broker may have exited.
            drop(world.nodes.ended());
            world.nodes.start_all();
        } else {
            world.nodes.kill(0);
            world.nodes.start_all();
        }
    }
    let started = clients.into_iter().map(|client| runtime.block_on(client));
    started.flat_map(Result::unwrap).collect()
}

/// Waits for the end of each run, and compares its history with what the worker has seen.
async fn check(world: &World, started: &[String]) -> BTreeMap<String, u32> {
    let deadline = Instant::now() + SETTLE;
    let unique: BTreeSet<_> = started.iter().collect();
    assert_eq!(unique.len(), started.len(), "a start made two runs");
    let mut counts = BTreeMap::new();
    for run in started {
        let (status, view) = loop {
            let path = format!("/v1/runs/{run}?wait=20");
            let (status, view) = world.send("GET", &path, run, &Value::Null).await;
            if status == 200 {
                break (view["status"].as_str().unwrap().to_owned(), view);
            }
            assert!(Instant::now() < deadline, "run {run} does not end: {view}");
        };
        *counts.entry(status.clone()).or_insert(0) += 1;
        let path = format!("/v1/runs/{run}/events?limit=200");
        // The node that knows the end first may be ahead of the rows.
        let history = loop {
            let (_, events) = world.send("GET", &path, run, &Value::Null).await;
            let history = events["items"].as_array().cloned().unwrap_or_default();
            let last = history.last().and_then(|record| record["type"].as_str());
            if last == Some(&*format!("run_{status}")) || Instant::now() >= deadline {
                break history;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        check_run(run, &status, &history, &world.ledger.lock());
        assert_eq!(view["steps"].as_array().unwrap().len(), 3, "{view}");
    }
    counts
}

fn check_run(run: &str, status: &str, history: &[Value], ledger: &Ledger) {
    let types: Vec<_> = history
        .iter()
        .map(|r| r["type"].as_str().unwrap())
        .collect();
    let why = || format!("run {run} ({status}): {types:?}");
    let (mut effects, mut undone) = (Vec::new(), Vec::new());
    let (mut succeeded, mut late) = (BTreeSet::new(), false);
    for (n, record) in history.iter().enumerate() {
        assert_eq!(record["seq"], n + 1, "{}", why());
        let step = || record["step_id"].as_str().unwrap().to_owned();
        match record["type"].as_str().unwrap() {
            "step_succeeded" => {
                let again = record["late"] == true;
                late |= again;
                assert!(again || succeeded.insert(step()), "{}", why());
                if !effects.contains(&step()) {
                    effects.push(step());
                }
            }
            "step_unknown" => effects.push(step()),
            "compensation_succeeded" | "compensation_failed" => undone.push(step()),
            _ => {}
        }
    }
    let last = format!("run_{status}");
    assert_eq!(types.last().copied(), Some(&*last), "{}", why());
    let ends = types.iter().filter(|kind| kind.starts_with("run_")).count();
    assert_eq!(ends, 2, "{}", why());
    let mut expected: Vec<_> = effects.iter().rev().cloned().collect();
    if status == "succeeded" {
        assert_eq!(succeeded.len(), 3, "{}", why());
        expected.clear();
    } else if late {
        // A late success during compensations changes their order.
        expected.sort_unstable();
        undone.sort_unstable();
    }
    assert_eq!(undone, expected, "{}", why());
    for step in ["a", "b", "c"] {
        for (kind, wanted) in [
            (
                "execute",
                types.contains(&"step_scheduled") && effects.contains(&step.to_owned()),
            ),
            ("compensate", undone.contains(&step.to_owned())),
        ] {
            let of = format!("{run}:{step}:{kind}");
            let keys = ledger.keys.get(&of);
            let only = BTreeSet::from([of.clone()]);
            assert!(keys.is_none_or(|keys| *keys == only), "{of}: {keys:?}");
            // Compensations are called only where the history says so, and every reported call was made.
            if kind == "compensate" {
                assert_eq!(keys.is_some(), wanted, "{of}: {}", why());
            } else {
                assert!(!wanted || keys.is_some(), "{of}: {}", why());
            }
        }
    }
}

#[test]
fn short_on_the_local_log() {
    holds(&Load {
        kind: LogKind::Local,
        runs: 400,
        node_kills: 3,
        broker_kills: 0,
        per_second: 25,
    });
}

#[test]
fn short_on_kafka() {
    holds(&Load {
        kind: LogKind::Kafka,
        runs: 300,
        node_kills: 2,
        broker_kills: 1,
        per_second: 10,
    });
}

/// What `scripts/chaos --runs` runs.
#[test]
#[ignore = "minutes: scripts/chaos --runs N"]
fn long() {
    let kind = match setting::<String>("LOG").as_deref() {
        Some("kafka") => LogKind::Kafka,
        _ => LogKind::Local,
    };
    let kafka = kind == LogKind::Kafka;
    holds(&Load {
        kind,
        runs: setting("RUNS").unwrap_or(10_000),
        node_kills: 20,
        broker_kills: if kafka { 3 } else { 0 },
        per_second: if kafka { 30 } else { 60 },
    });
}
