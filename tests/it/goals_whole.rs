//! A goal on a whole node: from `POST /v1/goals` over the guardian, the catalogue, the sagas and a worker to the cache, which serves the next.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use omnilink::{
    base::clock::SystemClock,
    log::{
        local::{LocalLog, LocalOptions},
        topics::Names,
    },
};
use serde_json::{Value, json};

use crate::support::{
    command::{Folder, Up},
    read_all,
    values::{assert_nowhere, topics_of_runs},
    worker::{Worker, answer},
};

const WORKFLOW: &str = r#"
name: note
version: 1.0.0
examples: ["Write to {EMAIL} about {LOCATION} {DATE}", "About {LOCATION_2} and then {LOCATION_1}, write to {EMAIL}"]
bind: { to: "{{ slots.EMAIL }}", place: "{{ slots.LOCATION_1 }}", second: "{{ slots.LOCATION_2 }}", day: "{{ slots.DATE }}" }
params: { type: object, required: [to, place], properties: { to: { type: string, format: email }, place: { type: string }, second: { type: string }, day: { type: string } } }
plan: { steps: [{ id: write, tool: mail, input: "{{ params }}" }] }
"#;

/// Starts a goal, and waits for the end of its run.
async fn run(up: &Up, key: &str, id: usize, goal: &str) -> Value {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let request = Request::post(format!("{}/v1/goals", up.url))
        .header("authorization", format!("Bearer {}", key.trim()))
        .header("content-type", "application/json")
        .header("idempotency-key", id.to_string())
        .header("prefer", "wait=30")
        .body(Full::new(Bytes::from(
            json!({ "id": id.to_string(), "source": "/test", "type": "note", "goal": goal })
                .to_string(),
        )))
        .unwrap();
    let response = client.request(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let view: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(status, 200, "{view}");
    view
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_goal_has_the_plan_of_the_last_and_its_own_values() {
    let worker = Worker::start(|_| Box::pin(async { answer(200, &[], "{}") })).await;
    let folder = Folder::new();
    let dir = folder.path();
    let tool = format!(
        "name: mail\ndescription: Writes a mail.\nkind: write\nrisk: {{ lane: safe }}\nworker: {{ http: {{ url: '{}' }} }}\n",
        worker.url("/mail")
    );
    for (name, text) in [
        ("tools/mail.yaml", tool.as_str()),
        ("workflows/note.yaml", WORKFLOW),
    ] {
        let file = dir.join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }
    let root = dir.to_owned();
    let start = move || Up::start_with(&root, &["--without", "projections"]);
    let up = tokio::task::spawn_blocking(start).await.unwrap();
    let key = std::fs::read_to_string(dir.join("data/admin.key")).unwrap();
    let first = json!({ "to": "ann@example.com", "place": "Paris", "day": "2026-12-24" });
    let second = json!({ "to": "bob@example.org", "place": "Oslo", "day": "2027-01-02" });
    let turned = json!({ "to": "cyd@example.net", "place": "Rome", "second": "Madrid" });
    let goals = [
        (
            "Write to ann@example.com about Paris 2026-12-24",
            "catalog",
            &first,
        ),
        (
            "write to bob@example.org about Oslo 2027-01-02.",
            "cache",
            &second,
        ),
        (
            "About Madrid and then Rome, write to cyd@example.net",
            "catalog",
            &turned,
        ),
        (
            "About Madrid and then Rome, write to cyd@example.net!",
            "cache",
            &turned,
        ),
    ];
    for (id, (goal, source, input)) in goals.into_iter().enumerate() {
        // A plan is cached by a record that this node reads back.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let view = run(&up, &key, id, goal).await;
        assert_eq!(view["status"], "succeeded", "{view}");
        assert_eq!(view["plan"]["source"], source, "{view}");
        let got = worker.got().last().unwrap().json();
        assert_eq!(&got["input"], input, "{goal}");
        assert!(!view.to_string().contains("@example"), "{view}");
    }
    assert_eq!(worker.got().len(), 4);
    let stopped = tokio::task::spawn_blocking(move || up.stop()).await;
    assert_eq!(stopped.unwrap(), 0);
    let log = LocalLog::open(
        &dir.join("data/log"),
        LocalOptions::new(Arc::new(SystemClock)),
    )
    .unwrap();
    let names = Names::new("omnilink.");
    assert!(!read_all(&log, &names.plans, 0).is_empty());
    assert_nowhere(&log, &topics_of_runs(&names), &["@example"]);
}
