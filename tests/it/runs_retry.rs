//! Runs that repeat others, on a whole node with Postgres: what they take over, what they call again, and what is refused.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::{Value, json};

use crate::support::{
    command::{Folder, Up, get, omnilink, output},
    worker::{Got, Worker, answer},
};

/// A node with a worker whose `/pay` and `/cancel` fail as long as `broken`.
struct Bed {
    up: Option<Up>,
    folder: Folder,
    worker: Worker,
    broken: Arc<AtomicBool>,
    admin: String,
}

impl Bed {
    /// `seat` is reserved, then `money` is paid; with `undo` the seat is cancelled if that fails.
    async fn start(undo: bool) -> Self {
        let broken = Arc::new(AtomicBool::new(true));
        let breaks = broken.clone();
        let worker = Worker::start(move |got| {
            let broken = breaks.load(Ordering::Relaxed);
            Box::pin(async move {
                match &*got.path {
                    "/reserve" => answer(200, &[], r#"{"seat":"12A"}"#),
                    "/pay" | "/cancel" if broken => {
                        let problem = [("content-type", "application/problem+json")];
                        answer(402, &problem, r#"{"code":"no_funds","detail":"empty"}"#)
                    }
                    _ => answer(200, &[], r#"{"transfer":"T-1"}"#),
                }
            })
        })
        .await;
        let folder = Folder::new();
        let write = |file: &str, text: &str| {
            let file = folder.path().join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        };
        let compensate =
            "compensate: { tool: cancel, input: { seat: \"{{ step.output.seat }}\" } }";
        for (tool, more) in [
            ("reserve", if undo { compensate } else { "" }),
            ("pay", ""),
            ("cancel", ""),
        ] {
            let url = worker.url(&format!("/{tool}"));
            let text = format!(
                "name: {tool}\nkind: write\nrisk: {{ lane: safe }}\nworker: {{ http: {{ url: \"{url}\" }} }}\n{more}\n"
            );
            write(&format!("tools/{tool}.yaml"), &text);
        }
        let trip =
            json!({ "name": "trip", "version": "1.0.0", "plan": plan("{{ params.amount }}") });
        write("workflows/trip.yaml", &trip.to_string());
        let slow = json!({ "name": "slow", "version": "1.0.0", "plan": { "steps": [{ "id": "w", "tool": "wait", "input": { "signal": "s", "timeout_s": 60 } }] } });
        write("workflows/slow.yaml", &slow.to_string());
        let dir = folder.path().to_owned();
        let up = tokio::task::spawn_blocking(move || Up::start(&dir))
            .await
            .unwrap();
        let admin = std::fs::read_to_string(folder.path().join("data/admin.key")).unwrap();
        let bed = Self {
            up: Some(up),
            worker,
            broken,
            admin: admin.trim().to_owned(),
            folder,
        };
        for _ in 0..200 {
            let ready: Value =
                serde_json::from_str(bed.ready().split_once("\r\n\r\n").unwrap().1).unwrap();
            if ready["parts"]["postgres"]["status"] == "ok" {
                return bed;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{}", bed.ready());
    }

    fn ready(&self) -> String {
        get(self.url(), "/readyz")
    }

    fn url(&self) -> &str {
        &self.up.as_ref().unwrap().url
    }

    /// Posts with an idempotency key; waits for the end of the run that it starts.
    async fn post(
        &self,
        path: &str,
        key: Option<&str>,
        id: Option<&str>,
        body: &Value,
    ) -> (u16, Value) {
        let mut request = Request::post(format!("{}{path}", self.url()))
            .header(
                "authorization",
                format!("Bearer {}", key.unwrap_or(&self.admin)),
            )
            .header("content-type", "application/json")
            .header("prefer", "wait=30");
        if let Some(id) = id {
            request = request.header("idempotency-key", id);
        }
        let body = if body.is_null() {
            Bytes::new()
        } else {
            body.to_string().into()
        };
        let request = request.body(Full::new(body)).unwrap();
        let client = Client::builder(TokioExecutor::new()).build_http();
        let response = client.request(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    async fn start_run(&self, name: &str, id: &str) -> Value {
        let body = json!({ "id": id, "source": "/shop", "type": "trip", "workflow": { "name": name }, "input": { "amount": 5 } });
        let (status, run) = self.post("/v1/workflows", None, Some(id), &body).await;
        assert_eq!(status, 200, "{run}");
        run
    }

    async fn retry(&self, run: &str, id: &str, body: &Value) -> (u16, Value) {
        self.post(&format!("/v1/runs/{run}/retry"), None, Some(id), body)
            .await
    }

    /// Changes the emergency controls.
    fn set_controls(&self, args: &[&str]) {
        let all = [&["controls", "set"], args, &["--reason", "drill"]].concat();
        let mut command = omnilink(self.folder.path(), &all);
        command
            .env("OMNILINK_URL", self.url())
            .args(["--data-dir", "data"]);
        let (code, out, error) = output(&mut command);
        assert_eq!(code, 0, "{args:?}: {out}{error}");
    }

    fn calls(&self, path: &str) -> Vec<Got> {
        let got = self.worker.got().into_iter();
        got.filter(|got| got.path == path).collect()
    }

    async fn stop(mut self) {
        let up = self.up.take().unwrap();
        up.stop_well(self.folder.path()).await;
    }
}

fn plan(amount: &str) -> Value {
    json!({
        "steps": [
            { "id": "seat", "tool": "reserve", "input": {} },
            { "id": "money", "tool": "pay", "input": { "amount": amount }, "depends_on": ["seat"] }
        ],
        "output": { "seat": "{{ steps.seat.output.seat }}", "transfer": "{{ steps.money.output.transfer }}" }
    })
}

fn id(run: &Value) -> &str {
    run["run_id"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_repeated_without_what_it_has_done() {
    let bed = Bed::start(false).await;
    let failed = bed.start_run("trip", "1").await;
    assert_eq!(
        (&failed["status"], &failed["steps"][0]["status"]),
        (&json!("failed"), &json!("succeeded")),
        "{failed}"
    );
    bed.broken.store(false, Ordering::Relaxed);

    let (status, run) = bed
        .retry(id(&failed), "again", &json!({ "reuse": true }))
        .await;
    assert_eq!(
        (status, &run["status"]),
        (200, &json!("succeeded")),
        "{run}"
    );
    assert_ne!(id(&run), id(&failed));
    assert_eq!(run["retry_of"], failed["run_id"]);
    assert_eq!(run["workflow"], failed["workflow"]);
    assert_eq!(run["params"], json!({ "amount": 5 }));
    assert_eq!(run["output"], json!({ "seat": "12A", "transfer": "T-1" }));
    assert_eq!(run["steps"][0]["attempts"], 0, "{run}");
    assert_eq!(
        (bed.calls("/reserve").len(), bed.calls("/pay").len()),
        (1, 2)
    );
    let key = format!("{}:money:execute", id(&run));
    assert_eq!(bed.calls("/pay")[1].header("idempotency-key"), key);

    // The same again is the same run; the same key about another run is another one.
    let (status, again) = bed
        .retry(id(&failed), "again", &json!({ "reuse": true }))
        .await;
    assert_eq!((status, &again["run_id"]), (200, &run["run_id"]), "{again}");
    let (status, other) = bed.retry(id(&failed), "again", &json!({})).await;
    assert_eq!(
        (status, &other["code"]),
        (422, &json!("idempotency_mismatch")),
        "{other}"
    );
    let (status, whole) = bed.retry(id(&run), "again", &Value::Null).await;
    assert_eq!(
        (status, &whole["status"]),
        (200, &json!("succeeded")),
        "{whole}"
    );
    assert_eq!(
        (bed.calls("/reserve").len(), bed.calls("/pay").len()),
        (2, 3)
    );

    // Steps that an edited plan changes are carried out again.
    let edited = json!({ "reuse": true, "plan": plan("7") });
    let (status, run) = bed.retry(id(&failed), "edited", &edited).await;
    assert_eq!(
        (status, &run["plan"]["source"]),
        (200, &json!("inline")),
        "{run}"
    );
    assert_eq!(bed.calls("/reserve").len(), 2);
    assert_eq!(
        bed.calls("/pay")[3].json()["input"],
        json!({ "amount": "7" })
    );
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compensations_that_failed_are_called_again() {
    let bed = Bed::start(true).await;
    let failed = bed.start_run("trip", "1").await;
    assert_eq!(
        failed["steps"][0]["status"], "compensation_failed",
        "{failed}"
    );
    let path = id(&failed).to_owned();

    // What may be undone in part is not reused; what has not been undone is there again.
    let (status, again) = bed
        .retry(&path, "broken", &json!({ "compensations": true }))
        .await;
    assert_eq!(
        (status, &again["status"]),
        (200, &json!("failed")),
        "{again}"
    );
    assert_eq!(again["error"]["code"], "compensation_failed");
    bed.broken.store(false, Ordering::Relaxed);
    // Also of the run that only undoes.
    let (status, run) = bed
        .retry(id(&again), "fixed", &json!({ "compensations": true }))
        .await;
    assert_eq!(
        (status, &run["status"]),
        (200, &json!("succeeded")),
        "{run}"
    );
    assert_eq!(run["steps"][0]["status"], "compensated", "{run}");
    assert_eq!(
        (bed.calls("/reserve").len(), bed.calls("/pay").len()),
        (1, 1)
    );
    let cancels = bed.calls("/cancel");
    assert_eq!(cancels.len(), 3);
    for cancel in &cancels {
        assert_eq!(
            cancel.header("idempotency-key"),
            format!("{path}:seat:compensate")
        );
        let call = cancel.json();
        assert_eq!(call["input"], json!({ "seat": "12A" }));
        assert_eq!(
            call["execute"]["idempotency_key"],
            format!("{path}:seat:execute")
        );
        assert_eq!(call["execute"]["output"], json!({ "seat": "12A" }));
        assert_eq!(call["execute"]["outcome"], "succeeded");
        assert_eq!(call["error"]["code"], "no_funds");
    }

    for (run, body, code) in [
        (id(&run), json!({ "compensations": true }), "invalid_retry"),
        (id(&again), json!({}), "invalid_retry"),
        (
            id(&failed),
            json!({ "compensations": true, "reuse": true }),
            "invalid_payload",
        ),
        (id(&failed), json!({ "what": 1 }), "invalid_payload"),
        (
            "7dbd6d41-6f85-5f7b-98af-6637f5372c2e",
            json!({}),
            "not_found",
        ),
    ] {
        let (_, refused) = bed.retry(run, "refused", &body).await;
        assert_eq!(refused["code"], code, "{refused}");
    }
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_repeated_is_refused() {
    let bed = Bed::start(false).await;
    let failed = bed.start_run("trip", "1").await;
    let path = format!("/v1/runs/{}/retry", id(&failed));
    let (status, refused) = bed.post(&path, None, None, &Value::Null).await;
    assert_eq!(
        (status, &refused["code"]),
        (400, &json!("missing_idempotency_key"))
    );

    let make = |permission: &'static str| {
        let mut command = omnilink(
            bed.folder.path(),
            &[
                "keys",
                "create",
                "--name",
                permission,
                "--permission",
                permission,
                "--json",
            ],
        );
        let (code, out, error) = output(
            command
                .env("OMNILINK_URL", bed.url())
                .args(["--data-dir", "data"]),
        );
        assert_eq!(code, 0, "{error}");
        let key: Value = serde_json::from_str(&out).unwrap();
        key["key"].as_str().unwrap().to_owned()
    };
    let reader = make("runs:read");
    let (status, refused) = bed
        .post(&path, Some(&reader), Some("r"), &Value::Null)
        .await;
    assert_eq!(
        (status, &refused["code"]),
        (403, &json!("permission_denied")),
        "{refused}"
    );
    let writer = make("runs:write");
    let edited = json!({ "plan": plan("7") });
    let (status, refused) = bed.post(&path, Some(&writer), Some("w"), &edited).await;
    assert_eq!(
        (status, &refused["code"]),
        (403, &json!("permission_denied")),
        "{refused}"
    );
    bed.broken.store(false, Ordering::Relaxed);
    let (status, run) = bed
        .post(&path, Some(&writer), Some("w"), &Value::Null)
        .await;
    assert_eq!(
        (status, &run["principal"]),
        (200, &json!("runs:write")),
        "{run}"
    );

    let body = json!({ "id": "2", "source": "/shop", "type": "x", "workflow": { "name": "slow" }, "input": {} });
    let request = Request::post(format!("{}/v1/workflows", bed.url()))
        .header("authorization", format!("Bearer {}", bed.admin))
        .header("content-type", "application/json")
        .header("idempotency-key", "slow")
        .body(Full::new(Bytes::from(body.to_string())))
        .unwrap();
    let client = Client::builder(TokioExecutor::new()).build_http();
    let response = client.request(request).await.unwrap();
    let started = response.into_body().collect().await.unwrap().to_bytes();
    let started: Value = serde_json::from_slice(&started).unwrap();
    let slow = started["results"][0]["run_id"].as_str().unwrap();
    let (status, refused) = bed.retry(slow, "slow", &json!({})).await;
    assert_eq!(
        (status, &refused["code"]),
        (409, &json!("not_ended")),
        "{refused}"
    );
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_feature_stops_the_repetition_of_its_runs() {
    let bed = Bed::start(true).await;
    let failed = bed.start_run("trip", "1").await;
    let ways = [
        ("same", json!({})),
        ("edited", json!({ "plan": plan("7") })),
        ("undo", json!({ "compensations": true })),
    ];
    let stopped: [(&str, &[&str]); 2] = [
        ("workflows", &["same", "edited", "undo"]),
        ("workflow:trip", &["same", "undo"]),
    ];
    for (feature, stops) in stopped {
        bed.set_controls(&["--disable", &format!("{feature}=drill")]);
        for (way, options) in ways.iter().filter(|(way, _)| stops.contains(way)) {
            let (status, refused) = bed.retry(id(&failed), way, options).await;
            assert_eq!(
                (status, &refused["code"], &refused["feature"]),
                (503, &json!("feature_disabled"), &json!(feature)),
                "{way}: {refused}"
            );
        }
        bed.set_controls(&["--enable", feature]);
    }
    for other in ["commands", "goals"] {
        bed.set_controls(&["--disable", &format!("{other}=drill")]);
    }
    let (status, run) = bed.retry(id(&failed), "same", &json!({})).await;
    assert_eq!((status, &run["status"]), (200, &json!("failed")), "{run}");
    bed.stop().await;
}
