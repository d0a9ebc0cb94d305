//! Goals whose plan is in the cache: closed loops of `POST /v1/goals`, plans of three `noop`. The node learns the plans by itself: each
//! goal is an example of a workflow, and the first run with it succeeds. Exact hits are compared with the bare axum answer; goals in other
//! words, for each of which a vector is computed, with the embedder alone in this process. The latter need the model
//! (`OMNILINK_TEST_MODEL`, `scripts/model`).

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use omnilink::embed::Embedder;
use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

use crate::{
    limits::Limits,
    load::{self, Goals, Outcome, Until},
    machine::Peak,
    report::{self, Row},
    rows::Rows,
    runs::{self, ROUNDS, SECONDS, WARM_UP},
    server::{CONNECTIONS, Log, Server},
    sustained,
};

const KEY: &str = r#"{"permissions": ["orchestrations:request", "runs:read"], "constraints": {"max_rpm": 0, "max_concurrency": 0}}"#;
/// What is asked for, as shares of the bare answer; and of the embedder, for goals in other words.
const ACCEPTED: f64 = 0.057;
const SUSTAINED: f64 = 0.03;
const OF_EMBEDDER: f64 = 0.8;
/// The least share of goals whose plan has to come from the cache: otherwise something else is measured.
const HITS: f64 = 0.95;
/// Goals in other words: enough for two batches of the embedder, one of which is computed while the runs of the other end.
const SIMILAR_CONNECTIONS: usize = 128;
/// Texts of a call of the embedder, and its calls at the same time.
const BATCH: usize = 64;
const CALLS: usize = 2;
const LEARN: Duration = Duration::from_mins(1);
const DRAIN: Duration = Duration::from_mins(5);

/// The examples of the workflow. They say different things, but have the same plan.
const EXAMPLES: [&str; 6] = [
    "send the weekly sales report to the finance team",
    "archive the closed support tickets of the north region",
    "create a purchase order for the paper supplier",
    "remind the drivers about the safety training",
    "book the large meeting room for the design review",
    "order a replacement laptop for the new accountant",
];
/// Words around an example that leave its meaning.
const BEFORE: [&str; 16] = [
    "please",
    "kindly",
    "could you",
    "could you please",
    "can you",
    "can you please",
    "would you",
    "would you please",
    "will you please",
    "hey, please",
    "hello, please",
    "hi, could you",
    "now please",
    "just",
    "ok, please",
    "we would like to",
];
const AFTER: [&str; 12] = [
    "",
    " now",
    " please",
    " thanks",
    ", thanks",
    ", thank you",
    " right now",
    " asap",
    " quickly",
    ", ok",
    " now please",
    " asap please",
];

/// `None` without Kafka.
pub fn measure(log: Log, limits: &Limits) -> Option<()> {
    exact(log, limits)?;
    exact_with_rows(log, limits)?;
    let model = std::env::var_os("OMNILINK_TEST_MODEL").map(PathBuf::from);
    let Some(model) = model.filter(|folder| folder.join("model.safetensors").exists()) else {
        println!(
            "SKIPPED: goals in other words, because there is no model (OMNILINK_TEST_MODEL, scripts/model)"
        );
        return Some(());
    };
    similar(log, &model)
}

/// The same words again and again, without rows.
fn exact(log: Log, limits: &Limits) -> Option<()> {
    let (server, _files) = start(log, false, None)?;
    learn(&server, EXAMPLES[0]);
    let title = format!("{}: goals, exact hits, c={CONNECTIONS}", log.name());
    let goals = Goals {
        texts: leak(vec![EXAMPLES[0].to_owned()]),
        wait: true,
    };
    warm_up(&server, goals, CONNECTIONS);
    let outcome = ended(&server, &title, goals, CONNECTIONS, |outcome| {
        Row::new(&title, outcome.per_second(), "runs/s")
            .against(limits.single, "bare axum")
            .target_ratio(ACCEPTED)
    });
    hits(&title, outcome.from_cache, outcome.accepted);
    not_waiting(&server, log, limits, goals);
    Some(())
}

/// As fast as they are accepted, and until the last run has ended.
fn not_waiting(server: &Server, log: Log, limits: &Limits, goals: Goals) {
    let title = format!(
        "{}: goals, exact hits, not waiting, c={CONNECTIONS}",
        log.name()
    );
    let goals = Goals {
        wait: false,
        ..goals
    };
    let runs = || server.metric("omnilink_runs_ended_total") as u64;
    let before = runs();
    let began = Instant::now();
    let outcome = load::run(server.goals_plan(goals, CONNECTIONS, Until::Seconds(SECONDS)));
    let at_the_end = runs() - before;
    while runs() - before < outcome.accepted {
        assert!(began.elapsed() < DRAIN, "runs do not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    let rate = outcome.accepted as f64 / began.elapsed().as_secs_f64();
    Row::new(
        format!("{title}: accepted"),
        outcome.per_second(),
        "goals/s",
    )
    .against(limits.single, "bare axum")
    .target_ratio(ACCEPTED)
    .note(outcome.note())
    .print();
    Row::new(format!("{title}: until the last run ended"), rate, "runs/s")
        .against(limits.single, "bare axum")
        .note(format!(
            "{at_the_end} of {} runs had ended with the load",
            outcome.accepted
        ))
        .print();
}

/// The same, driven at what is asked for, with rows in Postgres.
fn exact_with_rows(log: Log, limits: &Limits) -> Option<()> {
    let (server, _files) = start(log, true, None)?;
    learn(&server, EXAMPLES[0]);
    let title = format!(
        "{}: goals, exact hits, c={CONNECTIONS}, sustained with rows",
        log.name()
    );
    let goals = Goals {
        texts: leak(vec![EXAMPLES[0].to_owned()]),
        wait: true,
    };
    warm_up(&server, goals, CONNECTIONS);
    runs::settle(&server);
    let before = server.rows(Rows::plans_from_cache);
    let until = Until::Seconds(sustained::seconds());
    let plan = server.goals_plan(goals, CONNECTIONS, until);
    let outcome = runs::driven(&server, &title, SUSTAINED, limits, plan);
    let rows = server.rows(Rows::plans_from_cache) - before;
    hits(&format!("{title}: by rows"), rows, outcome.accepted);
    Some(())
}

/// The same in other words, beside the embedder alone.
fn similar(log: Log, model: &Path) -> Option<()> {
    let (server, _files) = start(log, false, Some(model))?;
    for example in EXAMPLES {
        learn(&server, example);
        learn_vector(&server, example);
    }
    let mut texts = other_words();
    let all = texts.len();
    // A goal without a plan would keep its connection until the end of the wait.
    texts.retain(|text| {
        let explained = explain(&server, text);
        explained["source"] == "cache" && explained["score"].as_f64() < Some(1.0)
    });
    let texts = leak(texts);
    let embedder = embedder(model, texts);
    Row::new("limit: the embedder, in batches of 64", embedder, "texts/s")
        .note(format!(
            "{} different texts of {all}: those that are similar enough",
            texts.len()
        ))
        .print();
    let title = format!(
        "{}: goals, hits in other words, c={SIMILAR_CONNECTIONS}",
        log.name()
    );
    let goals = Goals { texts, wait: true };
    warm_up(&server, goals, SIMILAR_CONNECTIONS);
    let before = by_vector(&server);
    let outcome = ended(&server, &title, goals, SIMILAR_CONNECTIONS, |outcome| {
        Row::new(&title, outcome.per_second(), "runs/s")
            .against(embedder, "the embedder")
            .target_ratio(OF_EMBEDDER)
    });
    let found = (by_vector(&server) - before) as u64;
    hits(&title, outcome.from_cache, outcome.accepted);
    hits(&format!("{title}: by similarity"), found, outcome.accepted);
    Some(())
}

/// Hits by similarity, all stages before which have missed.
fn by_vector(server: &Server) -> f64 {
    server.metric("omnilink_plan_lookups_total{stage=\"threshold\",verdict=\"hit\"}")
}

fn warm_up(server: &Server, goals: Goals, connections: usize) {
    load::run(server.goals_plan(goals, connections, Until::Seconds(WARM_UP)));
}

/// Measures runs that are answered when they have ended; the median of the rounds, with the counts of all.
fn ended(
    server: &Server,
    title: &str,
    goals: Goals,
    connections: usize,
    row: impl FnOnce(&Outcome) -> Row,
) -> Outcome {
    let drive = |seconds| load::run(server.goals_plan(goals, connections, Until::Seconds(seconds)));
    let (cpu, peak) = (server.cpu(false), Peak::watch(server.pid()));
    let mut rounds: Vec<Outcome> = (0..ROUNDS).map(|_| drive(SECONDS)).collect();
    let mut parts = cpu.used();
    parts.insert("load generator", rounds.iter().map(|round| round.cpu).sum());
    let accepted = rounds.iter().map(|round| round.accepted).sum();
    let from_cache = rounds.iter().map(|round| round.from_cache).sum();
    rounds.sort_by(|a, b| a.per_second().total_cmp(&b.per_second()));
    let mut outcome = rounds.swap_remove(ROUNDS / 2);
    row(&outcome).note(outcome.note()).print();
    report::cpu(title, &parts, accepted as f64);
    Row::new(format!("{title}: resident memory, most"), peak.end(), "MB").print();
    (outcome.accepted, outcome.from_cache) = (accepted, from_cache);
    outcome
}

/// Prints the share of runs whose plan came from the cache, and fails if it is too small.
fn hits(title: &str, hits: u64, runs: u64) {
    Row::new(
        format!("{title}: plans from the cache"),
        hits as f64,
        "runs",
    )
    .against(runs as f64, "all")
    .target_ratio(HITS)
    .print();
    let share = hits as f64 / runs as f64;
    assert!(
        share >= HITS,
        "{title}: only {share:.3} of the plans came from the cache"
    );
}

/// A server with the workflow; its folder lasts as long as what is returned.
fn start(log: Log, projections: bool, model: Option<&Path>) -> Option<(Server, TempDir)> {
    let dir = tempfile::tempdir().unwrap();
    let (workflows, tools) = (dir.path().join("workflows"), dir.path().join("tools"));
    std::fs::create_dir_all(&workflows).unwrap();
    std::fs::create_dir_all(&tools).unwrap();
    let examples = json!(EXAMPLES);
    let text = runs::workflow("noop3", "noop", 3) + &format!("examples: {examples}\n");
    std::fs::write(workflows.join("noop3.yaml"), text).unwrap();
    let path = |dir: &Path| dir.display().to_string();
    let mut settings = vec![
        ("OMNILINK__WORKFLOWS_DIR", path(&workflows)),
        ("OMNILINK__TOOLS_DIR", path(&tools)),
    ];
    if let Some(model) = model {
        settings.push(("OMNILINK__EMBED__MODEL_DIR", path(model)));
    }
    let mut server = Server::up_with(log, projections, &settings)?;
    server.key = server.made_key(KEY);
    Some((server, dir))
}

/// Lets the node learn the plan of an example: the first run has it from the catalogue and succeeds, later ones from the cache.
fn learn(server: &Server, goal: &str) {
    let headers = || format!("Prefer: wait=30\r\nIdempotency-Key: {}\r\n", Uuid::now_v7());
    let body = json!({ "id": "1", "source": "/bench/shop", "type": "bench", "goal": goal });
    let run = || {
        let run = post(server, "/v1/goals", &headers(), &body);
        assert_eq!(run["status"], "succeeded", "{run}");
        server.count_one();
        run
    };
    let first = run();
    assert_eq!(first["plan"]["source"], "catalog", "{first}");
    let deadline = Instant::now() + LEARN;
    while run()["plan"]["source"] != "cache" {
        assert!(Instant::now() < deadline, "`{goal}` is not cached");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until the cached plan of an example is found by its vector. Nothing runs meanwhile, so nothing else is cached.
fn learn_vector(server: &Server, example: &str) {
    let goal = format!("please {example}");
    let deadline = Instant::now() + LEARN;
    loop {
        let explained = explain(server, &goal);
        if explained["source"] == "cache" {
            return;
        }
        assert!(Instant::now() < deadline, "{explained}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// How a goal would get its plan.
fn explain(server: &Server, goal: &str) -> Value {
    post(server, "/v1/plans:explain", "", &json!({ "goal": goal }))
}

/// The answer to one request on a connection of its own.
fn post(server: &Server, path: &str, headers: &str, body: &Value) -> Value {
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_mins(1)))
        .unwrap();
    let (key, body) = (&server.key, body.to_string());
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

/// The examples in other words.
fn other_words() -> Vec<String> {
    let around = BEFORE
        .iter()
        .flat_map(|b| AFTER.iter().map(move |a| (b, a)));
    around
        .flat_map(|(before, after)| EXAMPLES.map(|example| format!("{before} {example}{after}")))
        .collect()
}

/// Texts a second of the embedder alone, with a queue that is never empty.
fn embedder(model: &Path, texts: &'static [String]) -> f64 {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let embedder = Embedder::load(model).unwrap();
    let embed = |seconds: f64| {
        let until = Instant::now() + Duration::from_secs_f64(seconds);
        let next = Arc::new(AtomicU64::new(0));
        let call = |embedder: Embedder, next: Arc<AtomicU64>| async move {
            let mut embedded = 0;
            while Instant::now() < until {
                let from = next.fetch_add(BATCH as u64, Ordering::Relaxed) as usize;
                let batch: Vec<&str> = (from..from + BATCH)
                    .map(|n| texts[n % texts.len()].as_str())
                    .collect();
                embedded += embedder.embed(&batch).await.unwrap().len();
            }
            embedded
        };
        runtime.block_on(async {
            let began = Instant::now();
            let calls: Vec<_> = (0..CALLS)
                .map(|_| tokio::spawn(call(embedder.clone(), Arc::clone(&next))))
                .collect();
            let mut embedded = 0;
            for call in calls {
                embedded += call.await.unwrap();
            }
            embedded as f64 / began.elapsed().as_secs_f64()
        })
    };
    embed(WARM_UP);
    embed(SECONDS)
}

/// The load generator's threads share them.
fn leak(texts: Vec<String>) -> &'static [String] {
    Box::leak(texts.into_boxed_slice())
}
