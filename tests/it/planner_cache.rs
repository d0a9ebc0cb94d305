//! Cached plans: from a run's success to the next goal, over HTTP, forgotten by feedback, and in Qdrant.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use hyper::{Method, StatusCode};
use omnilink::{
    base::clock::{Clock, SystemClock},
    commands::start::PlanSource,
    log::{Append, Log, topics::Names},
    planner::{Planner, Settings},
    plans::jcs,
    projections::Projector,
    runs::{CachedPlan, ENTRY, Json, LABEL, PlanLabel, PlanRecord, RunRecord, entry_id},
    saga,
    stream::lane,
    workflows::Current,
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::support::{
    Away, LogKind, TestLog, append, assert_notice,
    language_model::{
        LanguageServer, Planning, Says, models, plan_of, planned, put_files, put_plans, request,
        settings, stages, start,
    },
    port::{Node, NodeOptions, Response},
    projections::Database,
    read_all, sagas, wait_until,
    worker::{Worker, answer},
};

pub const TEMPLATE: &str = "Note {LOCATION} {DATE}";
const BOOK: &str =
    "name: book\ndescription: Books.\nworker: { claim: {} }\nkind: write\nrisk: { lane: safe }\n";

pub fn note() -> Value {
    json!({ "steps": [{ "id": "note", "tool": "noop", "input": { "place": "{{ slots.LOCATION }}", "day": "{{ slots.DATE }}" } }] })
}

/// The record of a plan that has succeeded.
pub fn entry(template: &str, plan: &Value, slots: &Value) -> PlanRecord {
    let cached = CachedPlan {
        run_id: "00000000-0000-5000-8000-000000000009".into(),
        plan: Json::of(plan),
        hash: jcs::hash(plan),
        source: "llm".into(),
        workflow: None,
        tools: BTreeMap::new(),
        slots: serde_json::from_value(slots.clone()).unwrap(),
    };
    PlanRecord {
        tenant: "acme".into(),
        entry: entry_id("acme", template),
        kind: ENTRY.into(),
        template: template.into(),
        at: SystemClock.now().0,
        body: serde_json::to_string(&cached).unwrap(),
    }
}

pub fn slots() -> Value {
    json!({ "LOCATION": "Paris", "LOCATION_1": "Paris", "DATE": "2026-12-24", "DATE_1": "2026-12-24" })
}

pub async fn node_with(planner: Settings) -> Node {
    let options = NodeOptions {
        planner,
        ..NodeOptions::default()
    };
    Node::start_whole(TempDir::new().unwrap(), options).await
}

pub fn start_sagas(node: &Node) -> lane::Running {
    let settings = saga::Settings::default();
    sagas::start_sagas_with(node, settings)
}

/// Starts the run of a goal by hand, and returns its history once it has ended.
pub async fn run(node: &Node, id: &str, goal: &str) -> Vec<RunRecord> {
    let (run, command) = sagas::goal(id, goal, &json!({}));
    let append = Append {
        topic: node.names.commands.clone(),
        record: command.encode().unwrap(),
    };
    node.log.append(vec![append], None).await.unwrap().unwrap();
    for _ in 0..200 {
        let (log, topic) = (node.log.clone(), node.names.runs.to_string());
        let read = move || read_all(&*log, &topic, 0);
        let records = tokio::task::spawn_blocking(read).await.unwrap();
        let records = records.iter();
        let history =
            records.map(|f| RunRecord::decode(f.record.value.as_deref().unwrap()).unwrap());
        let history: Vec<_> = history.filter(|record| record.run_id == run).collect();
        if history
            .last()
            .is_some_and(|last| last.kind.starts_with("run_") && last.seq > 1)
        {
            return history;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the run of {goal} has not ended");
}

pub fn ready(history: &[RunRecord]) -> Value {
    let record = history.iter().find(|record| record.kind == "plan_ready");
    serde_json::from_str(&record.unwrap().body).unwrap()
}

pub async fn call(node: &Node, method: Method, path: &str, body: &Value) -> Response {
    node.request(method, path, &node.admin, body).await
}

/// The cached plans, once there are so many.
pub async fn cached(node: &Node, count: usize) -> Vec<Value> {
    for _ in 0..200 {
        let list = call(node, Method::GET, "/v1/plans", &Value::Null)
            .await
            .json();
        let items = list["items"].as_array().unwrap().clone();
        if items.len() == count {
            return items;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not {count} cached plans");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_has_succeeded_serves_the_next_goal_until_it_is_forgotten() {
    let server = LanguageServer::start(&[Says::plan(&note())]).await;
    let node = node_with(Settings {
        models: models(&[server.item("m")]),
        ..Settings::default()
    })
    .await;
    let (_planning, _sagas) = (start(&node), start_sagas(&node));
    let first = run(&node, "1", "Note Paris 2026-12-24").await;
    assert_eq!(first.last().unwrap().kind, "run_succeeded");
    assert_eq!(ready(&first)["source"], "llm");
    let id = entry_id("acme", TEMPLATE);
    let listed = cached(&node, 1).await;
    assert_eq!(
        (&listed[0]["id"], &listed[0]["template"]),
        (&json!(id), &json!(TEMPLATE))
    );
    assert_eq!(listed[0]["invalid"], Value::Null);
    let second = run(&node, "2", "note  Oslo 2026-12-31").await;
    assert_eq!(second.last().unwrap().kind, "run_succeeded");
    let used = ready(&second);
    assert_eq!(
        (&used["source"], &used["entry"]),
        (&json!("cache"), &json!(id))
    );
    assert_eq!(server.got().len(), 1);

    let shown = call(&node, Method::GET, &format!("/v1/plans/{id}"), &Value::Null)
        .await
        .json();
    assert_eq!(shown["plan"], note());
    let explain = json!({ "goal": "Note Rome 2026-12-25", "params": {} });
    let explained = call(&node, Method::POST, "/v1/plans:explain", &explain)
        .await
        .json();
    assert_eq!(
        (&explained["source"], &explained["entry"]),
        (&json!("cache"), &json!(id))
    );
    assert_eq!(explained["stages"][0]["verdict"], "hit");
    let other = json!({ "goal": "Mail ann@example.com about it" });
    let explained = call(&node, Method::POST, "/v1/plans:explain", &other)
        .await
        .json();
    assert_eq!(explained["goal"], "Mail {EMAIL_1} about it");
    assert_eq!(explained["source"], "llm");
    assert_eq!(server.got().len(), 1);
    for (body, code) in [
        (json!({}), "missing_goal"),
        (json!({ "goal": "x".repeat(20_001) }), "invalid_payload"),
    ] {
        let answer = call(&node, Method::POST, "/v1/plans:explain", &body).await;
        assert_eq!(
            (answer.status, &*answer.code()),
            (StatusCode::BAD_REQUEST, code)
        );
    }

    // Of another tenant there is nothing to see.
    let other = node
        .key(
            "bolt",
            crate::support::port::scopes(&["runs:read", "runs:write"]),
        )
        .await;
    let path = format!("/v1/plans/{id}");
    for method in [Method::GET, Method::DELETE] {
        let answer = node.request(method, &path, &other, &Value::Null).await;
        assert_eq!(
            (answer.status, &*answer.code()),
            (StatusCode::NOT_FOUND, "not_found")
        );
    }
    let gone = call(&node, Method::DELETE, &path, &Value::Null).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    cached(&node, 0).await;
    let again = call(&node, Method::DELETE, &path, &Value::Null).await;
    assert_eq!(again.status, StatusCode::NOT_FOUND);
    let third = run(&node, "3", "Note Rome 2026-12-25").await;
    assert_eq!(ready(&third)["source"], "llm");
    assert_eq!(server.got().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_is_not_used_once_a_tool_has_changed_or_when_it_has_expired() {
    let node = node_with(Settings::default()).await;
    put_files(&node, &[BOOK], &[]);
    let _planning = start(&node);
    let plan = json!({ "steps": [{ "id": "a", "tool": "book", "input": { "to": "{{ slots.LOCATION }}", "on": "{{ slots.DATE }}" } }] });
    let mut record = entry("Book {LOCATION} {DATE}", &plan, &slots());
    let catalog = node.workflows.get();
    let definition = catalog
        .tool("book")
        .unwrap()
        .kept
        .as_ref()
        .unwrap()
        .to_string();
    let mut body: CachedPlan = serde_json::from_str(&record.body).unwrap();
    let hash = Sha256::digest(definition);
    let hash = hash
        .iter()
        .fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
    body.tools = [("book".to_owned(), hash)].into();
    record.body = serde_json::to_string(&body).unwrap();
    let mut old = entry("Keep {LOCATION} {DATE}", &note(), &slots());
    old.at -= 24 * 3_600_000;
    put_plans(&node, &[record, old]).await;
    cached(&node, 1).await;
    let answer = planned(&node, &request(1, "Book Paris 2026-12-24")).await;
    assert_eq!(answer.planned.as_ref().unwrap().source, PlanSource::Cache);
    assert!(answer.tools.contains_key("book"));
    assert_eq!(
        answer.found.template.as_deref(),
        Some("Book {LOCATION} {DATE}")
    );
    let answer = planned(&node, &request(2, "Keep Paris 2026-12-24")).await;
    assert!(answer.error.is_some());
    put_files(&node, &[&format!("{BOOK}timeout_s: 7\n")], &[]);
    let answer = planned(&node, &request(3, "Book Paris 2026-12-24")).await;
    assert!(answer.error.is_some());
    let lookup = answer.found.lookup.unwrap().value();
    assert_eq!(lookup["stages"][0]["reason"], "tool_changed");
    assert_eq!(cached(&node, 1).await[0]["invalid"], "tool_changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn values_in_a_plan_bind_it_to_goals_with_the_same_values() {
    let node = node_with(Settings::default()).await;
    let _planning = start(&node);
    let plan = json!({ "steps": [{ "id": "a", "tool": "noop", "input": { "place": "Paris", "day": "{{ slots.DATE }}" } }] });
    put_plans(&node, &[entry(TEMPLATE, &plan, &slots())]).await;
    cached(&node, 1).await;
    let answer = planned(&node, &request(1, "Note Paris 2026-12-31")).await;
    assert_eq!(answer.planned.as_ref().unwrap().source, PlanSource::Cache);
    let answer = planned(&node, &request(2, "Note Rome 2026-12-31")).await;
    assert!(answer.error.is_some(), "{:?}", stages(&answer));
}

#[test]
fn feedback_forgets_a_plan_and_is_audited() {
    let Some(database) = Database::new() else {
        return;
    };
    let store = Some(database.store());
    let node = database
        .runtime
        .block_on(Node::start_on(TempDir::new().unwrap(), None, store));
    let setup = database.setup_on(&node, &node.names.runs);
    let projector = Projector::start_runs(&setup, 1).unwrap();
    database.runtime.block_on(async {
        let (_planning, _sagas) = (start(&node), start_sagas(&node));
        put_plans(&node, &[entry(TEMPLATE, &note(), &slots())]).await;
        cached(&node, 1).await;
        let history = run(&node, "1", "Note Paris 2026-12-24").await;
        let run_id = history[0].run_id.clone();
        let path = format!("/v1/runs/{run_id}/feedback");
        let good = call(&node, Method::POST, &path, &json!({ "good": true })).await;
        assert_eq!(good.status, StatusCode::OK, "{}", good.text);
        let expected = json!({ "run_id": run_id, "good": true, "source": "cache" });
        assert_eq!(good.json(), expected);
        cached(&node, 1).await;
        for (body, code) in [
            (json!({}), "missing_good"),
            (json!({ "good": false, "reason": " " }), "invalid_payload"),
        ] {
            let answer = call(&node, Method::POST, &path, &body).await;
            assert_eq!(answer.code(), code);
        }
        let bad = json!({ "good": false, "reason": "the wrong place" });
        let bad = call(&node, Method::POST, &path, &bad).await.json();
        assert_eq!(bad["forgotten"], entry_id("acme", TEMPLATE));
        cached(&node, 0).await;
        let unknown = "/v1/runs/00000000-0000-5000-8000-000000000000/feedback";
        let answer = call(&node, Method::POST, unknown, &json!({ "good": true })).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
        let entries = crate::support::audit_entries(&node, "feedback.given", 2).await;
        let detail: Value = serde_json::from_str(&entries.last().unwrap().detail).unwrap();
        assert_eq!(detail["reason"], "the wrong place");
        // Another plan for the same goals is not the one that was wrong.
        let mut other = note();
        other["steps"][0]["id"] = json!("another");
        put_plans(&node, &[entry(TEMPLATE, &other, &slots())]).await;
        cached(&node, 1).await;
        let again = call(&node, Method::POST, &path, &json!({ "good": false })).await;
        assert_eq!(again.status, StatusCode::OK, "{}", again.text);
        assert_eq!(again.json().get("forgotten"), None);
        cached(&node, 1).await;
    });
    drop(projector);
}

/// A double of Qdrant that keeps points in memory.
#[derive(Default)]
struct Points {
    made: bool,
    stored: BTreeMap<String, Value>,
    down: bool,
}

async fn qdrant(points: Arc<Mutex<Points>>) -> Worker {
    Worker::start(move |got| {
        let mut points = points.lock();
        let ok = |result: Value| answer(200, &[], json!({ "result": result, "status": "ok" }).to_string());
        let collection = "/collections/t_plans";
        let response = match (&*got.method, &*got.path) {
            _ if points.down => answer(503, &[], ""),
            _ if got.header("api-key") != "qd-hush" => answer(401, &[], ""),
            ("GET", path) if path == collection && !points.made => answer(404, &[], ""),
            ("GET", path) if path == collection => {
                ok(json!({ "config": { "params": { "vectors": { "size": 384, "distance": "Cosine" } } } }))
            }
            ("PUT", path) if path == collection => {
                points.made = true;
                ok(json!(true))
            }
            ("PUT", path) if path.ends_with("/index") => ok(json!({})),
            ("PUT", path) if path.ends_with("/points") => {
                for point in got.json()["points"].as_array().unwrap() {
                    let id = point["id"].as_str().unwrap().to_owned();
                    points.stored.insert(id, point.clone());
                }
                ok(json!({}))
            }
            ("POST", path) if path.ends_with("/points/scroll") => {
                // One at a time.
                let offset = got.json()["offset"].as_str().unwrap_or_default().to_owned();
                let mut from = points.stored.range(offset..);
                let page: Vec<_> = from.next().map(|(_, point)| point.clone()).into_iter().collect();
                ok(json!({ "points": page, "next_page_offset": from.next().map(|(id, _)| id) }))
            }
            ("POST", path) if path.contains("/points/delete") => {
                for id in got.json()["points"].as_array().unwrap() {
                    points.stored.remove(id.as_str().unwrap());
                }
                ok(json!({}))
            }
            ("POST", path) if path.ends_with("/points/query") => {
                let asked = got.json();
                assert_eq!(asked["filter"]["must"][0]["match"]["value"], "acme");
                let dot = |one: &Value, other: &Value| -> f64 {
                    let pairs = one.as_array().unwrap().iter().zip(other.as_array().unwrap());
                    pairs.map(|(a, b)| a.as_f64().unwrap() * b.as_f64().unwrap()).sum()
                };
                let found = points.stored.values().map(|point| {
                    json!({ "id": point["id"], "score": dot(&point["vector"], &asked["query"]), "payload": point["payload"] })
                });
                let mut found: Vec<_> = found.collect();
                // What another tenant has, by mistake, is not used.
                found.push(json!({ "id": 1, "score": 1.0, "payload": { "tenant": "bolt", "entry": "x" } }));
                ok(json!({ "points": found }))
            }
            other => panic!("{other:?}"),
        };
        Box::pin(async move { response })
    })
    .await
}

/// With the model: a node whose planner has Qdrant at this URL.
async fn node_on_qdrant(url: &str, key: Option<&str>) -> Option<(Node, Planning)> {
    #[cfg(not(feature = "embed"))]
    let model: Option<std::path::PathBuf> = None;
    #[cfg(feature = "embed")]
    let model = crate::embed::model_dir();
    let mut config = json!({ "qdrant": { "url": url }, "topics": { "prefix": "t." } });
    if let Some(key) = key {
        config["qdrant"]["api_key"] = key.into();
    }
    let node = node_with(settings(&config, Some(model?))).await;
    let planning = start(&node);
    Some((node, planning))
}

async fn wait_for_qdrant(planning: &Planning, good: bool) {
    for _ in 0..300 {
        let status = planning.planner.qdrant_status().unwrap();
        let embedded = planning.planner.embeddings_status().detail.is_empty();
        if embedded && status.detail.is_empty() == good {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{:?}", planning.planner.qdrant_status());
}

#[tokio::test(flavor = "multi_thread")]
async fn qdrant_gives_candidates_and_without_it_memory_is_searched() {
    let points = Arc::<Mutex<Points>>::default();
    // What was forgotten while the node was down, and what is not OmniLink's.
    for (id, payload) in [
        ("0", json!({ "tenant": "acme", "entry": "0" })),
        ("1", json!({ "of": "another" })),
        ("f", json!({ "tenant": "bolt", "entry": "f" })),
    ] {
        let point = json!({ "id": id, "vector": vec![0.0; 384], "payload": payload });
        points.lock().stored.insert(id.to_owned(), point);
    }
    let server = qdrant(points.clone()).await;
    let Some((node, planning)) = node_on_qdrant(&server.url(""), Some("qd-hush")).await else {
        return;
    };
    let template = "Book a flight to {LOCATION} {DATE}";
    put_plans(&node, &[entry(template, &note(), &slots())]).await;
    cached(&node, 1).await;
    wait_for_qdrant(&planning, true).await;
    for _ in 0..100 {
        if points.lock().stored.len() == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(points.lock().stored.remove("1").is_some());
    assert_eq!(points.lock().stored.len(), 1);
    let answer = planned(
        &node,
        &request(1, "Please book a flight to Oslo 2026-12-31"),
    )
    .await;
    assert_eq!(plan_of(&answer), note(), "{:?}", stages(&answer));
    assert!(answer.found.degraded.is_empty());
    assert!(
        server
            .got()
            .iter()
            .any(|got| got.path.ends_with("/points/query"))
    );
    points.lock().down = true;
    let answer = planned(
        &node,
        &request(2, "Please book a flight to Rome 2026-12-31"),
    )
    .await;
    assert_eq!(plan_of(&answer), note(), "{:?}", stages(&answer));
    assert_eq!(answer.found.degraded, ["qdrant_unavailable"]);
    wait_for_qdrant(&planning, false).await;
    // It comes back without what it had.
    *points.lock() = Points::default();
    wait_for_qdrant(&planning, true).await;
    assert_eq!(points.lock().stored.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_qdrant_is_filled_and_searched() {
    let Some(url) = crate::support::env_or_skip("QDRANT_URL") else {
        return;
    };
    let Some((node, planning)) = node_on_qdrant(&url, None).await else {
        return;
    };
    put_plans(
        &node,
        &[entry(
            "Book a flight to {LOCATION} {DATE}",
            &note(),
            &slots(),
        )],
    )
    .await;
    cached(&node, 1).await;
    wait_for_qdrant(&planning, true).await;
    let answer = planned(
        &node,
        &request(1, "Please book a flight to Oslo 2026-12-31"),
    )
    .await;
    assert_eq!(plan_of(&answer), note(), "{:?}", stages(&answer));
    assert!(answer.found.degraded.is_empty());
}

#[cfg(feature = "embed")]
#[tokio::test(flavor = "multi_thread")]
async fn a_near_miss_is_compared_with_the_plan_of_the_model_and_becomes_an_alias() {
    let Some(model) = crate::embed::model_dir() else {
        return;
    };
    let server = LanguageServer::start(&[Says::plan(&note())]).await;
    let config = json!({ "planner": [server.item("m")], "plans": { "threshold": 0.99 } });
    let node = node_with(settings(&config, Some(model))).await;
    let planning = start(&node);
    for _ in 0..100 {
        if planning.planner.embeddings_status().detail.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let template = "Book a flight to {LOCATION} {DATE}";
    put_plans(&node, &[entry(template, &note(), &slots())]).await;
    cached(&node, 1).await;
    // Its vector comes a moment later.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let goal = "Reserve me a flight to Oslo 2026-12-31";
    let answer = planned(&node, &request(1, goal)).await;
    assert_eq!(
        answer.planned.as_ref().unwrap().source,
        PlanSource::Llm,
        "{:?}",
        stages(&answer)
    );
    let id = entry_id("acme", template);
    let mut labels = Vec::new();
    for _ in 0..200 {
        let shown = call(&node, Method::GET, &format!("/v1/plans/{id}"), &Value::Null)
            .await
            .json();
        labels.clone_from(shown["labels"].as_array().unwrap());
        if !labels.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(labels[0]["agrees"], true, "{labels:?}");
    assert_eq!(
        labels[0]["template"],
        "Reserve me a flight to {LOCATION} {DATE}"
    );
    let records = tokio::task::spawn_blocking({
        let (log, topic) = (node.log.clone(), node.names.plans.to_string());
        move || read_all(&*log, &topic, 2)
    });
    let records = records.await.unwrap();
    let records = records
        .iter()
        .filter_map(|f| PlanRecord::decode(f.record.value.as_deref()?));
    let label = records
        .into_iter()
        .find(|record| record.kind == LABEL)
        .unwrap();
    let label: PlanLabel = serde_json::from_str(&label.body).unwrap();
    assert_eq!(label.hash, Some(jcs::hash(&note())));
    // The next goal with these words is an alias.
    let answer = planned(&node, &request(2, "Reserve me a flight to Rome 2026-12-31")).await;
    assert_eq!(
        answer.planned.as_ref().unwrap().source,
        PlanSource::Cache,
        "{:?}",
        stages(&answer)
    );
    assert_eq!(server.got().len(), 1);
}

/// The new topic is longer than what was read of the old one.
#[test]
fn plans_of_a_recreated_topic_are_forgotten() {
    let Some(test_log) = TestLog::new(LogKind::Kafka) else {
        return;
    };
    let kafka = test_log.kafka_admin();
    let names = Names::new(&test_log.prefix);
    let log = test_log.open("a");
    log.provision(&names.specs(1), true).unwrap();
    let away = Away::over(&log);
    let shared: Arc<dyn Log> = away.clone();
    let planner = Planner::new(
        &Settings::default(),
        Current::default(),
        Arc::new(SystemClock),
    );
    let planner = planner.unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _following = {
        let _entered = runtime.enter();
        planner.follow(&shared, &names).unwrap()
    };
    let put = |templates: &[&str]| {
        let plan = json!({ "steps": [{ "id": "a", "tool": "noop" }] });
        let records = templates.iter().map(|template| {
            let entry = entry(template, &plan, &json!({}));
            entry.encode().unwrap()
        });
        append(&*log, &names.plans, records.collect()).unwrap();
    };
    let known = |wanted: &[&str]| {
        let (plans, _) = planner.plans("acme", None, 10);
        let mut known: Vec<_> = plans.into_iter().map(|plan| plan.template).collect();
        known.sort_unstable();
        known == wanted
    };
    put(&["Clean up", "Tidy up"]);
    wait_until("both plans", || known(&["Clean up", "Tidy up"]));
    away.0.set(true);
    kafka.recreate_topic(&*log, &names.plans, 1);
    put(&["Dust", "Mop", "Sweep"]);
    away.0.set(false);
    wait_until("the plans of the new topic", || {
        known(&["Dust", "Mop", "Sweep"])
    });
    assert_notice(&names.plans, &["deleted and recreated", "plans reads it"]);
}
