//! Which calls of workers go, wait and are held back: tools that hang or fail, limits, controls; crashes, and how results are appended.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use hyper::Method;
use omnilink::{
    base::clock::{Clock, SystemClock},
    controls::EmergencyChange,
    runs::StepCommand,
};
use serde_json::{Value, json};

use crate::support::{
    port::{Mode, Node},
    worker::{Told, Worker, answer, put_tools, send, start, start_with, step, told},
};

fn http(url: &str) -> Value {
    json!({ "http": { "url": url } })
}

fn tool(name: &str, url: &str, more: &str) -> String {
    format!("name: {name}\nworker: {{ http: {{ url: \"{url}\" }} }}\n{more}")
}

fn many(count: usize, tool: &str, url: &str) -> Vec<StepCommand> {
    let one = |n| {
        step(
            &format!("{tool}{n:04}"),
            tool,
            &http(url),
            &json!({ "n": n }),
        )
    };
    (0..count).map(one).collect()
}

/// The line of a tool in `GET /v1/tools`.
async fn shown(node: &Node, tool: &str) -> Value {
    let bearer = node.bearer();
    let answer = node
        .call(Method::GET, "/v1/tools", &[("authorization", &bearer)], "")
        .await
        .json();
    let items = answer["items"].as_array().unwrap();
    items
        .iter()
        .find(|item| item["name"] == tool)
        .unwrap()
        .clone()
}

fn held(told: &[Told]) -> Vec<(&str, i64)> {
    let held = told.iter().filter(|told| matches!(told, Told::Held(_)));
    held.map(|told| (&*told.held().reason, told.held().until.unwrap().0))
        .collect()
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_that_hang_hold_up_no_other() {
    let node = Node::start().await;
    let hanging = Worker::start(|_| Box::pin(std::future::pending())).await;
    let quick = Worker::start(|_| Box::pin(async { answer(200, &[], "1") })).await;
    let url = hanging.url("/");
    put_tools(
        &node,
        &[
            tool("narrow", &url, "limit: { concurrency: 2 }"),
            tool("quick", &quick.url("/"), ""),
        ],
    );
    let _running = start(&node, &[]);
    // Far more than the effect has seats: of one tool with a limit, and of two without.
    let mut steps = many(30, "narrow", &url);
    steps.extend(many(700, "wide", &url));
    steps.extend(many(700, "wider", &url));
    steps.extend(many(50, "quick", &quick.url("/")));
    send(&node, &steps).await;
    let begun = Instant::now();
    until("the quick calls go", async || quick.got().len() == 50).await;
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    let calls = |tool: &str| {
        let of = |got: &crate::support::worker::Got| got.json()["tool"] == tool;
        hanging.got().iter().filter(|got| of(got)).count()
    };
    assert_eq!(calls("narrow"), 2);
    until("the seats are taken", async || hanging.got().len() == 258).await;
    assert_eq!((calls("wide"), calls("wider")), (128, 128));
    // The others wait for a second, and are held back.
    let told = told(&node, 50 + 28 + 2 * (700 - 128)).await;
    let held = held(&told);
    assert_eq!(held.len(), 28 + 2 * (700 - 128));
    let now = SystemClock.now().0;
    for (reason, until) in held {
        assert_eq!(reason, "tool_busy");
        assert!(until < now + 61_000, "{until}");
    }
    let shown = shown(&node, "narrow").await;
    assert_eq!(
        (&shown["running"], &shown["queued"]),
        (&json!(2), &json!(0))
    );
    assert_eq!(shown["limit"], json!({ "concurrency": 2, "used": 2 }));
    assert_eq!(shown["breaker"], "closed");
    assert_eq!(hanging.got().len(), 258);
    assert!(quick.connections() <= 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_opens_holds_and_closes_after_a_probe() {
    let node = Node::start().await;
    let broken = Arc::new(AtomicBool::new(true));
    let state = broken.clone();
    let worker = Worker::start(move |_| {
        let status = if state.load(Ordering::SeqCst) {
            500
        } else {
            200
        };
        Box::pin(async move { answer(status, &[], "{}") })
    })
    .await;
    let url = worker.url("/");
    put_tools(&node, &[tool("pay", &url, "limit: { concurrency: 1 }")]);
    let _running = start(&node, &[]);
    send(&node, &many(8, "pay", &url)).await;
    let first = told(&node, 8).await;
    // One at a time: five fail, three are held.
    assert_eq!(worker.got().len(), 5);
    let held = held(&first);
    assert_eq!(
        held.iter().map(|(reason, _)| *reason).collect::<Vec<_>>(),
        ["circuit_open"; 3]
    );
    let now = SystemClock.now().0;
    assert!(
        held.iter()
            .all(|(_, until)| (now - 1_000..now + 3_000).contains(until)),
        "{held:?}"
    );
    let line = shown(&node, "pay").await;
    assert_eq!(
        (&line["breaker"], &line["held"], &line["hold_reason"]),
        (&json!("open"), &json!(3), &json!("circuit_open"))
    );
    assert!(line["open_until"].is_string() && line["held_until"].is_string());
    // After the pause one call goes, and the tool is open to all again.
    broken.store(false, Ordering::SeqCst);
    until("the pause ends", async || {
        shown(&node, "pay").await["breaker"] == "half_open"
    })
    .await;
    let probe = step("probe", "pay", &http(&url), &json!({}));
    send(&node, &[probe]).await;
    until("the breaker closes", async || {
        shown(&node, "pay").await["breaker"] == "closed"
    })
    .await;
    assert_eq!(worker.got().len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_fails_does_not_hold_up_others_of_the_builtin_http() {
    let node = Node::start().await;
    let worker = Worker::start(|got| {
        let status = if got.path == "/broken" { 500 } else { 200 };
        Box::pin(async move { answer(status, &[], "{}") })
    })
    .await;
    let _running = start(&node, &["localhost", "127.0.0.1"]);
    let port = worker.address.port();
    let get = |id: &str, host: &str, path: &str| {
        let input = json!({ "method": "GET", "url": format!("http://{host}:{port}{path}") });
        step(id, "http", &json!({ "builtin": "http" }), &input)
    };
    let broken: Vec<_> = (0..5)
        .map(|n| get(&format!("a{n}"), "localhost", "/broken"))
        .collect();
    send(&node, &broken).await;
    told(&node, 5).await;
    let more = [
        get("b", "localhost", "/good"),
        get("c", "127.0.0.1", "/good"),
    ];
    send(&node, &more).await;
    let told = told(&node, 7).await;
    assert_eq!(told[5].held().reason, "circuit_open");
    assert!(told[6].result().output.is_some());
    assert_eq!(shown(&node, "http").await["breaker"], "open");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_after_closes_the_tool_and_a_rate_is_kept() {
    let node = Node::start().await;
    let worker = Worker::start(|got| {
        Box::pin(async move {
            match got.path.as_str() {
                "/busy" => answer(429, &[("retry-after", "30")], "{}"),
                _ => answer(200, &[], "{}"),
            }
        })
    })
    .await;
    let (busy, rated, keyed) = (
        worker.url("/busy"),
        worker.url("/rated"),
        worker.url("/keyed"),
    );
    put_tools(
        &node,
        &[
            tool("busy", &busy, ""),
            tool(
                "rated",
                &rated,
                "limit: { rate: { limit: 3, window_s: 60 } }",
            ),
            tool(
                "keyed",
                &keyed,
                "limit: { rate: { limit: 1, window_s: 60 }, key: \"{{ input.account }}\" }",
            ),
        ],
    );
    let _running = start(&node, &[]);
    send(&node, &many(1, "busy", &busy)).await;
    let first = told(&node, 1).await;
    assert_eq!(first[0].result().retry_after_ms, Some(30_000));
    let now = SystemClock.now().0;
    let mut steps = many(5, "rated", &rated);
    steps.push(step("busy_again", "busy", &http(&busy), &json!({})));
    for (n, account) in ["a", "a", "b"].iter().enumerate() {
        steps.push(step(
            &format!("keyed{n}"),
            "keyed",
            &http(&keyed),
            &json!({ "account": account }),
        ));
    }
    send(&node, &steps).await;
    let told = told(&node, 10).await;
    let of = |tool: &str| -> Vec<&Told> {
        told.iter()
            .filter(|told| told.step().starts_with(tool))
            .collect()
    };
    let again = of("busy_again")[0].held();
    assert_eq!(again.reason, "rate_limited");
    assert!((now + 25_000..=now + 32_000).contains(&again.until.unwrap().0));
    for (tool, holds, window_ms) in [("rated", 2, 60_000), ("keyed", 1, 60_000)] {
        let held: Vec<_> = of(tool)
            .into_iter()
            .filter(|told| matches!(told, Told::Held(_)))
            .collect();
        assert_eq!(held.len(), holds, "{tool}");
        for told in held {
            assert_eq!(told.held().reason, "rate_limited");
            let until = told.held().until.unwrap().0;
            assert!(
                (now + window_ms - 10_000..=now + window_ms + 65_000).contains(&until),
                "{tool}: {}",
                until - now
            );
        }
    }
    let paths = worker
        .got()
        .into_iter()
        .map(|got| got.path)
        .filter(|path| path == "/busy");
    assert_eq!(paths.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_needs_the_params_is_the_one_of_the_run() {
    let node = Node::start().await;
    let worker = Worker::start(|_| Box::pin(async { answer(200, &[], "{}") })).await;
    let url = worker.url("/");
    let limit = "limit: { rate: { limit: 1, window_s: 60 }, key: \"{{ params.account }}\" }";
    put_tools(&node, &[tool("keyed", &url, limit)]);
    let _running = start(&node, &[]);
    let keys = ["a", "a", "b"].into_iter().enumerate();
    let steps = keys.map(|(n, key)| StepCommand {
        limit_key: Some(key.to_owned()),
        ..step(&format!("s{n}"), "keyed", &http(&url), &json!({}))
    });
    send(&node, &steps.collect::<Vec<_>>()).await;
    let told = told(&node, 3).await;
    let held: Vec<_> = told
        .iter()
        .filter(|told| matches!(told, Told::Held(_)))
        .map(Told::step)
        .collect();
    // One of the two with the same key.
    assert!(held == ["s0"] || held == ["s1"], "{held:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn controls_are_looked_at_before_each_call() {
    let node = Node::start().await;
    let worker = Worker::start(|_| Box::pin(async { answer(200, &[], "{}") })).await;
    let url = worker.url("/");
    let tools = ["read", "write", "allowed"].map(|name| {
        let kind = if name == "read" { "read" } else { "write" };
        tool(name, &url, &format!("kind: {kind}"))
    });
    put_tools(&node, &tools);
    let _running = start(&node, &[]);
    let change = async |change: EmergencyChange| {
        let now = SystemClock.now();
        node.controls
            .change_emergency(&change, "ann", now)
            .await
            .unwrap();
    };
    let all = |round: &str| -> Vec<_> {
        let tools = ["read", "write", "allowed"].iter();
        tools
            .map(|tool| step(&format!("{round}_{tool}"), tool, &http(&url), &json!({})))
            .collect()
    };
    let mut expected = 0;
    let mut round = async |name: &str| -> Vec<(String, String)> {
        send(&node, &all(name)).await;
        expected += 3;
        let told = told(&node, expected).await;
        let held = told.iter().filter(|told| told.step().starts_with(name));
        let held = held.filter_map(|told| match told {
            Told::Held(held) => Some((held.step_id.clone(), held.reason.clone())),
            Told::Result(_) => None,
        });
        held.collect()
    };
    let base = EmergencyChange {
        reason: "test".into(),
        ..EmergencyChange::default()
    };
    assert_eq!(round("none").await, []);
    change(EmergencyChange {
        safe_mode: Some(true),
        allowed_operations: Some(vec!["allowed".into()]),
        ..base.clone()
    })
    .await;
    assert_eq!(
        round("safe").await,
        [("safe_write".to_owned(), "safe_mode".to_owned())]
    );
    change(EmergencyChange {
        safe_mode: Some(false),
        disabled: [("tool:read".to_owned(), Some("broken".to_owned()))].into(),
        ..base.clone()
    })
    .await;
    assert_eq!(
        round("tool").await,
        [("tool_read".to_owned(), "tool:read".to_owned())]
    );
    change(EmergencyChange {
        kill_switch: Some(true),
        ..base.clone()
    })
    .await;
    let killed = round("kill").await;
    assert!(
        killed.len() == 3 && killed.iter().all(|(_, reason)| reason == "kill_switch"),
        "{killed:?}"
    );
    assert_eq!(worker.got().len(), 3 + 2 + 2);
}

#[test]
fn a_call_whose_result_was_lost_in_a_crash_goes_again_with_the_same_key() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap()
    };
    let outer = runtime();
    let node = outer.block_on(Node::start());
    let worker = outer.block_on(Worker::start(|_| {
        Box::pin(async { answer(200, &[], "{}") })
    }));
    outer.block_on(send(
        &node,
        &[step("pay", "pay", &http(&worker.url("/")), &json!({}))],
    ));
    node.log.set_mode(Mode::Fails);
    let life = runtime();
    let running = {
        let _in = life.enter();
        start_with(&node, &[], Duration::ZERO)
    };
    outer.block_on(until("the call goes", async || worker.got().len() == 1));
    // The process dies before the result is in the log.
    drop(running);
    drop(life);
    node.log.set_mode(Mode::Works);
    let running = {
        let _in = outer.enter();
        start(&node, &[])
    };
    let results = outer.block_on(told(&node, 1));
    assert_eq!(results.len(), 1);
    let got = worker.got();
    assert_eq!(got.len(), 2);
    assert_eq!(
        got[0].header("idempotency-key"),
        got[1].header("idempotency-key")
    );
    assert_eq!(got[0].body, got[1].body);
    drop(running);
    // What is finished is not called again.
    let running = {
        let _in = outer.enter();
        start(&node, &[])
    };
    outer.block_on(send(
        &node,
        &[step("next", "pay", &http(&worker.url("/")), &json!({}))],
    ));
    assert_eq!(outer.block_on(told(&node, 2)).len(), 2);
    assert_eq!(worker.got().len(), 3);
    drop(running);
}

#[test]
fn a_call_that_is_held_after_a_crash_may_have_been_made_before() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap()
    };
    let outer = runtime();
    let node = outer.block_on(Node::start());
    let worker = outer.block_on(Worker::start(|_| Box::pin(std::future::pending())));
    let pay = |id: &str| step(id, "pay", &http(&worker.url("/")), &json!({}));
    let life = runtime();
    let running = {
        let _in = life.enter();
        start_with(&node, &[], Duration::ZERO)
    };
    outer.block_on(send(&node, &[pay("first")]));
    outer.block_on(until("the call goes", async || worker.got().len() == 1));
    drop(running);
    drop(life);
    let change = EmergencyChange {
        reason: "test".into(),
        kill_switch: Some(true),
        ..EmergencyChange::default()
    };
    let changed = node
        .controls
        .change_emergency(&change, "ann", SystemClock.now());
    outer.block_on(changed).unwrap();
    let running = {
        let _in = outer.enter();
        start(&node, &[])
    };
    assert_eq!(outer.block_on(told(&node, 1)).len(), 1);
    // One that comes now was not read by anybody before.
    outer.block_on(send(&node, &[pay("second")]));
    let told = outer.block_on(told(&node, 2));
    let maybe: Vec<_> = told
        .iter()
        .map(|told| (told.step(), told.held().maybe_called))
        .collect();
    assert_eq!(maybe, [("first", true), ("second", false)]);
    assert_eq!(worker.got().len(), 1);
    drop(running);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_finishes_calls_in_flight() {
    let node = Node::start().await;
    let worker = Worker::start(|_| {
        Box::pin(async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            answer(200, &[], "{}")
        })
    })
    .await;
    let running = start_with(&node, &[], Duration::from_secs(10));
    send(&node, &many(3, "pay", &worker.url("/"))).await;
    until("the calls go", async || worker.got().len() == 3).await;
    tokio::task::spawn_blocking(move || drop(running))
        .await
        .unwrap();
    assert_eq!(told(&node, 3).await.len(), 3);
    let running = start(&node, &[]);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(worker.got().len(), 3);
    tokio::task::spawn_blocking(move || drop(running))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn results_that_are_there_together_are_one_append() {
    let node = Node::start().await;
    let answered = Arc::new(AtomicUsize::new(0));
    let counted = answered.clone();
    let worker = Worker::start(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { answer(200, &[], "{}") })
    })
    .await;
    let _running = start(&node, &[]);
    let steps: Vec<_> = (0..5)
        .flat_map(|n| many(40, &format!("t{n}_"), &worker.url("/")))
        .collect();
    send(&node, &steps).await;
    node.log.set_mode(Mode::Held);
    until("all calls go", async || {
        answered.load(Ordering::SeqCst) == 200
    })
    .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    // Appends that began before the log was held are done; those after it are few, and wait.
    let held = node.log.held();
    assert!((1..=4).contains(&held), "{held}");
    node.log.set_mode(Mode::Works);
    assert_eq!(told(&node, 200).await.len(), 200);
}
