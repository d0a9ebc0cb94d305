//! `POST /v1/runs:batch`, on a whole node with Postgres: which runs a filter names, what comes of them, and who may.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::{Value, json};

use crate::support::command::{Folder, Up, get, omnilink, output};

/// A node with a workflow that waits for a signal, one that succeeds, and one that fails.
struct Bed {
    up: Option<Up>,
    folder: Folder,
    admin: String,
}

impl Bed {
    async fn start() -> Self {
        let folder = Folder::new();
        let workflows = folder.path().join("workflows");
        std::fs::create_dir_all(&workflows).unwrap();
        let steps = [
            (
                "slow",
                json!({ "id": "w", "tool": "wait", "input": { "signal": "s", "timeout_s": 600 } }),
            ),
            ("quick", json!({ "id": "n", "tool": "noop" })),
            (
                "broken",
                json!({ "id": "e", "tool": "emit", "input": { "type": "{{ params.type }}", "data": 1 } }),
            ),
        ];
        for (name, step) in steps {
            let workflow = json!({ "name": name, "version": "1.0.0", "plan": { "steps": [step] } });
            std::fs::write(workflows.join(format!("{name}.yaml")), workflow.to_string()).unwrap();
        }
        let dir = folder.path().to_owned();
        let up = tokio::task::spawn_blocking(move || Up::start(&dir))
            .await
            .unwrap();
        let admin = std::fs::read_to_string(folder.path().join("data/admin.key")).unwrap();
        let bed = Self {
            up: Some(up),
            admin: admin.trim().to_owned(),
            folder,
        };
        for _ in 0..200 {
            let ready = get(bed.url(), "/readyz");
            let ready: Value =
                serde_json::from_str(ready.split_once("\r\n\r\n").unwrap().1).unwrap();
            if ready["parts"]["postgres"]["status"] == "ok" {
                return bed;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{}", get(bed.url(), "/readyz"));
    }

    fn url(&self) -> &str {
        &self.up.as_ref().unwrap().url
    }

    async fn call(
        &self,
        method: &str,
        path: &str,
        key: &str,
        more: &[(&str, &str)],
        body: &Value,
    ) -> (u16, String) {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url()))
            .header("authorization", format!("Bearer {key}"))
            .header("content-type", "application/json");
        for (name, value) in more {
            request = request.header(*name, *value);
        }
        let request = request
            .body(Full::new(Bytes::from(body.to_string())))
            .unwrap();
        let client = Client::builder(TokioExecutor::new()).build_http();
        let response = client.request(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn start_run(&self, workflow: &str, id: &str) -> String {
        let body = json!({ "id": id, "source": "/shop", "type": "t", "workflow": { "name": workflow }, "input": { "type": "" } });
        let (status, answer) = self
            .call(
                "POST",
                "/v1/workflows",
                &self.admin,
                &[("idempotency-key", id)],
                &body,
            )
            .await;
        assert_eq!(status, 202, "{answer}");
        let answer: Value = serde_json::from_str(&answer).unwrap();
        answer["results"][0]["run_id"].as_str().unwrap().to_owned()
    }

    /// The lines of the answer.
    async fn batch(&self, key: Option<&str>, body: &Value) -> Vec<Value> {
        let headers: Vec<_> = key
            .map(|key| ("idempotency-key", key))
            .into_iter()
            .collect();
        let (status, text) = self
            .call("POST", "/v1/runs:batch", &self.admin, &headers, body)
            .await;
        assert_eq!(status, 200, "{text}");
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Counts until there are so many.
    async fn counted(&self, action: &str, filter: &Value, matched: u64) {
        let body = json!({ "action": action, "filter": filter, "dry_run": true });
        let expected =
            json!({ "status": "done", "matched": matched, "done": 0, "skipped": 0, "failed": 0 });
        for _ in 0..100 {
            if self.batch(None, &body).await == [expected.clone()] {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!(
            "{action} {filter}: {:?}, not {matched}",
            self.batch(None, &body).await
        );
    }

    async fn done(&self, action: &str, filter: &Value, matched: u64) {
        self.counted(action, filter, matched).await;
        let lines = self
            .batch(None, &json!({ "action": action, "filter": filter }))
            .await;
        let first = json!({ "status": "running", "matched": matched, "done": 0, "skipped": 0, "failed": 0 });
        let last = json!({ "status": "done", "matched": matched, "done": matched, "skipped": 0, "failed": 0 });
        assert_eq!((lines.first(), lines.last()), (Some(&first), Some(&last)));
    }

    /// The code of a refusal.
    async fn refused(&self, key: &str, body: &Value) -> (u16, String) {
        let (status, text) = self.call("POST", "/v1/runs:batch", key, &[], body).await;
        let problem: Value = serde_json::from_str(&text).unwrap_or_default();
        (status, problem["code"].as_str().unwrap_or(&text).to_owned())
    }

    /// The entries of the audit log, once there are so many.
    async fn audited(&self, action: &str, at_least: usize) -> Vec<Value> {
        let path = format!("/v1/audit?action={action}");
        let mut entries = Vec::new();
        for _ in 0..100 {
            let (status, text) = self
                .call("GET", &path, &self.admin, &[], &Value::Null)
                .await;
            assert_eq!(status, 200, "{text}");
            let list: Value = serde_json::from_str(&text).unwrap();
            entries = list["items"].as_array().unwrap().clone();
            if entries.len() >= at_least {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        entries
    }

    async fn stop(mut self) {
        let up = self.up.take().unwrap();
        up.stop_well(self.folder.path()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_is_done_to_all_runs_that_a_filter_names() {
    let bed = Bed::start().await;
    let mut slow = Vec::new();
    for n in 0..3 {
        slow.push(bed.start_run("slow", &format!("slow{n}")).await);
        bed.start_run("quick", &format!("quick{n}")).await;
    }
    bed.start_run("broken", "broken").await;
    // Runs that the action does not fit are left out.
    bed.counted("retry", &json!({ "status": "succeeded" }), 3)
        .await;
    bed.counted("pause", &json!({ "workflow": "quick" }), 0)
        .await;
    bed.counted("cancel", &json!({ "since": "2099-01-01T00:00:00Z" }), 0)
        .await;
    bed.counted("cancel", &json!({ "until": "2099-01-01T00:00:00Z" }), 3)
        .await;
    bed.done("pause", &json!({ "workflow": "slow" }), 3).await;
    bed.done(
        "resume",
        &json!({ "status": "paused", "workflow": "slow" }),
        3,
    )
    .await;
    bed.counted("resume", &json!({ "status": "paused" }), 0)
        .await;
    bed.counted("cancel", &json!({ "tool": "wait", "status": "running" }), 3)
        .await;
    let cancel = json!({ "action": "cancel", "filter": { "tool": "wait" }, "reason": "stale" });
    let lines = bed.batch(None, &cancel).await;
    assert_eq!(lines.last().unwrap()["done"], 3, "{lines:?}");
    bed.counted("retry", &json!({ "status": "cancelled" }), 3)
        .await;

    // One entry for each run, and one for all of them.
    let paused = bed.audited("run.paused", 3).await;
    assert_eq!(paused.len(), 3);
    let mut runs: Vec<_> = paused
        .iter()
        .map(|entry| entry["resource_id"].as_str().unwrap().to_owned())
        .collect();
    runs.sort();
    slow.sort();
    assert_eq!(runs, slow);
    let all = bed.audited("runs.controlled", 3).await;
    assert_eq!(all.len(), 3, "{all:?}");
    assert_eq!(all[0]["resource_id"], "cancel");
    assert_eq!(
        all[0]["detail"],
        json!({ "filter": { "tool": "wait" }, "matched": 3, "reason": "stale" })
    );

    // The list takes the same filters.
    for (filter, items) in [
        ("tool=emit&code=invalid_input", 1),
        ("tool=noop&code=invalid_input", 0),
        ("tool=noop", 3),
    ] {
        let path = format!("/v1/runs?{filter}");
        let (status, text) = bed.call("GET", &path, &bed.admin, &[], &Value::Null).await;
        let list: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (status, list["items"].as_array().unwrap().len()),
            (200, items),
            "{filter}: {text}"
        );
    }

    // Each run that failed so is repeated once.
    let failed = json!({ "code": "invalid_input", "until": jiff::Timestamp::now().to_string() });
    bed.counted("retry", &failed, 1).await;
    let retry = json!({ "action": "retry", "filter": failed });
    let lines = bed.batch(Some("round-1"), &retry).await;
    assert_eq!(lines.last().unwrap()["done"], 1, "{lines:?}");
    bed.counted("retry", &json!({ "code": "invalid_input" }), 2)
        .await;
    let lines = bed.batch(Some("round-1"), &retry).await;
    let last = json!({ "status": "done", "matched": 1, "done": 0, "skipped": 1, "failed": 0, "codes": { "duplicate": 1 } });
    assert_eq!(lines.last().unwrap(), &last);
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_batch_must_say_and_who_may_send_it() {
    let bed = Bed::start().await;
    let all = json!({ "workflow": "slow" });
    for (body, code) in [
        (json!({ "filter": all }), "missing_action"),
        (json!({ "action": "pause" }), "missing_filter"),
        (
            json!({ "action": "pause", "filter": {} }),
            "invalid_payload",
        ),
        (
            json!({ "action": "pause", "filter": { "since": "yesterday" } }),
            "invalid_payload",
        ),
        (
            json!({ "action": "pause", "filter": all, "reason": "x" }),
            "invalid_payload",
        ),
        (
            json!({ "action": "signal", "filter": all }),
            "invalid_payload",
        ),
        (
            json!({ "action": "retry", "filter": all }),
            "missing_idempotency_key",
        ),
    ] {
        assert_eq!(
            bed.refused(&bed.admin, &body).await,
            (400, code.to_owned()),
            "{body}"
        );
    }
    let pause = json!({ "action": "pause", "filter": all });
    let mut create = omnilink(
        bed.folder.path(),
        &[
            "keys",
            "create",
            "--name",
            "reader",
            "--permission",
            "runs:read",
            "--json",
        ],
    );
    create
        .env("OMNILINK_URL", bed.url())
        .env("OMNILINK_KEY", &bed.admin);
    let made = tokio::task::spawn_blocking(move || output(&mut create))
        .await
        .unwrap();
    assert_eq!(made.0, 0, "{made:?}");
    let made: Value = serde_json::from_str(&made.1).unwrap();
    let reader = made["key"].as_str().unwrap();
    assert_eq!(
        bed.refused(reader, &pause).await,
        (403, "permission_denied".to_owned())
    );

    // The kill switch closes all but what ends runs.
    bed.start_run("slow", "1").await;
    bed.counted("cancel", &all, 1).await;
    let switch = json!({ "kill_switch": true, "reason": "test" });
    let (status, text) = bed
        .call("PATCH", "/v1/controls", &bed.admin, &[], &switch)
        .await;
    assert_eq!(status, 200, "{text}");
    assert_eq!(
        bed.refused(&bed.admin, &pause).await,
        (503, "omnilink_disabled".to_owned())
    );
    bed.done("cancel", &all, 1).await;
    bed.stop().await;
}
