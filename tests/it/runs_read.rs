//! Runs, their history and approvals over HTTP.

use std::{sync::Arc, time::Duration};

use hyper::{Method, StatusCode};
use omnilink::{
    audit::Entry,
    controls::KeyKind,
    log::{Append, Log},
    projections::Projector,
    runs::{CallKind, RunRecord, WorkflowVersion},
    saga::Notice,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    audit,
    support::{
        port::{Node, Response, scopes},
        projections::Database,
        runs::{Story, encoded, good, plan, started},
        sagas::start_sagas,
    },
};

/// A node whose `runs` are projected.
struct Runs {
    node: Node,
    projector: Option<Projector>,
    database: Database,
}

impl Runs {
    fn start() -> Option<Self> {
        let database = Database::new()?;
        let store = Some(database.store());
        let dir = TempDir::new().unwrap();
        let node = database.runtime.block_on(Node::start_on(dir, None, store));
        let setup = database.setup_on(&node, &node.names.runs);
        let projector = Some(Projector::start_runs(&setup, 1).unwrap());
        Some(Self {
            node,
            projector,
            database,
        })
    }

    async fn put(&self, records: &[RunRecord]) {
        let topic = &self.node.names.runs;
        let records = encoded(records).into_iter().map(|record| Append {
            topic: Arc::clone(topic),
            record,
        });
        let appended = self.node.log.append(records.collect(), None);
        appended.await.unwrap().unwrap();
    }

    async fn get(&self, path: &str) -> Response {
        self.get_as(path, &self.node.admin).await
    }

    async fn get_as(&self, path: &str, key: &str) -> Response {
        self.node
            .request(Method::GET, path, key, &Value::Null)
            .await
    }

    async fn stream(&self, path: &str, last: Option<&str>) -> Response {
        let bearer = self.node.bearer();
        let mut headers = vec![("authorization", &*bearer), ("accept", "text/event-stream")];
        headers.extend(last.map(|last| ("last-event-id", last)));
        self.node.call(Method::GET, path, &headers, "").await
    }
}

impl Drop for Runs {
    fn drop(&mut self) {
        drop(self.projector.take());
    }
}

fn items(response: &Response) -> Vec<Value> {
    assert_eq!(response.status, StatusCode::OK, "{}", response.text);
    response.json()["items"].as_array().unwrap().clone()
}

#[test]
fn a_run_is_shown_with_its_steps_and_approvals() {
    let Some(runs) = Runs::start() else {
        return;
    };
    runs.database.runtime.block_on(async {
        let mut asked = started(&json!({ "n": 1 }));
        asked.workflow = Some(WorkflowVersion {
            name: "pay".into(),
            version: "1.2.0".into(),
        });
        let mut story = Story::start_of("acme", &plan(), asked);
        let path = format!("/v1/runs/{}", story.run_id);
        // Right after the answer to the start: the row comes while the request waits.
        let (first, ()) = tokio::join!(runs.get(&path), async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            runs.put(&story.records).await;
        });
        assert_eq!(first.status, StatusCode::OK, "{}", first.text);
        assert_eq!(first.json()["status"], "running");
        let before = story.records.len();
        story.succeed();
        runs.put(&story.records[before..]).await;
        let done = runs.get(&format!("{path}?wait=20")).await;
        assert_eq!(done.status, StatusCode::OK, "{}", done.text);
        let view = done.json();
        assert_eq!(view["status"], "succeeded");
        assert_eq!(
            view["workflow"],
            json!({ "name": "pay", "version": "1.2.0" })
        );
        assert_eq!(view["output"], json!({ "paid": { "receipt": 1.5 } }));
        let ids: Vec<_> = view["steps"]
            .as_array()
            .unwrap()
            .iter()
            .map(|s| &s["id"])
            .collect();
        assert_eq!(ids, ["reserve", "note", "pay", "close"]);
        assert_eq!(view["steps"][0]["output"], json!({ "id": "r-4" }));
        // `null` is an output too.
        assert_eq!(view["steps"][1].get("output"), Some(&Value::Null));
        assert_eq!(view["approvals"][0]["status"], "approved");
        assert_eq!(view["plan"]["source"], "workflow");
        assert_eq!(view["principal"], "tester");
        assert!(view["finished_at"].is_string() && view.get("error").is_none());

        // What nobody finds: after a while.
        for id in ["7dbd6d41-6f85-5f7b-98af-6637f5372c2e", "x"] {
            let none = runs.get(&format!("/v1/runs/{id}")).await;
            assert_eq!(
                (none.status, none.code()),
                (StatusCode::NOT_FOUND, "not_found".into())
            );
        }
        let beta = runs.node.key("beta", scopes(&["*"])).await;
        let other = runs.get_as(&path, &beta).await;
        // `*` is an operator's too, who names the tenant.
        assert_eq!(other.code(), "not_found");
        let named = runs.get_as(&format!("{path}?tenant=acme"), &beta).await;
        assert_eq!(named.status, StatusCode::OK);
        for bad in ["wait=61", "wait=x", "colour=red"] {
            assert_eq!(
                runs.get(&format!("{path}?{bad}")).await.code(),
                "invalid_payload",
                "{bad}"
            );
        }
        // A key that sees its own runs alone: all test keys have the same principal.
        let own = runs.node.key("acme", scopes(&["runs:read:own"])).await;
        assert_eq!(runs.get_as(&path, &own).await.status, StatusCode::OK);
        let mut foreign = started(&json!({}));
        foreign.principal = "somebody".into();
        let foreign = Story::start_of("acme", &plan(), foreign);
        runs.put(&foreign.records).await;
        let theirs = format!("/v1/runs/{}", foreign.run_id);
        assert_eq!(runs.get(&theirs).await.status, StatusCode::OK);
        assert_eq!(runs.get_as(&theirs, &own).await.code(), "not_found");
        assert_eq!(
            runs.get_as(&format!("{theirs}/events"), &own).await.code(),
            "not_found"
        );
        assert_eq!(items(&runs.get_as("/v1/runs", &own).await).len(), 1);
        let writer = runs.node.key("acme", scopes(&["events:write"])).await;
        for path in [&*path, "/v1/runs", "/v1/approvals"] {
            assert_eq!(runs.get_as(path, &writer).await.code(), "permission_denied");
        }
    });
}

#[test]
fn a_request_waits_for_the_end_of_a_run() {
    let Some(runs) = Runs::start() else {
        return;
    };
    runs.database.runtime.block_on(async {
        let mut story = Story::start("acme", &json!({ "n": 1 }));
        runs.put(&story.records).await;
        let path = format!("/v1/runs/{}", story.run_id);
        let now = runs.get(&format!("{path}?wait=1")).await;
        assert_eq!(now.status, StatusCode::ACCEPTED, "{}", now.text);
        assert_eq!(now.json()["status"], "running");
        // The row of another node's run changes.
        let before = story.records.len();
        story.cancel();
        story.answer("reserve", 1, good(&Value::Null));
        story.answer("note", 1, good(&Value::Null));
        let middle = story.records.len();
        for step in ["note", "reserve"] {
            story.result(step, CallKind::Compensate, 1, good(&Value::Null));
        }
        assert!(story.run.has_ended());
        let path_wait = format!("{path}?wait=30");
        let (ended, ()) = tokio::join!(runs.get(&path_wait), async {
            tokio::time::sleep(Duration::from_millis(400)).await;
            runs.put(&story.records[before..middle]).await;
            tokio::time::sleep(Duration::from_millis(400)).await;
            runs.put(&story.records[middle..]).await;
        });
        assert_eq!(ended.status, StatusCode::OK, "{}", ended.text);
        assert_eq!(ended.json()["status"], "cancelled");

        // A run of this node: its processor says so, before there is a row.
        let view = serde_json::from_value(ended.json()).unwrap();
        let mut view: omnilink::api::runs::RunView = view;
        let run = uuid::Uuid::new_v4();
        view.run_id = run.to_string();
        let path = format!("/v1/runs/{run}?wait=30");
        let publish = async {
            while !runs.node.followers.follows(&run) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let ended = Notice::Ended(Arc::new(view.clone()));
            runs.node.followers.publish(&run, &ended);
        };
        let (ended, ()) = tokio::join!(runs.get(&path), publish);
        assert_eq!(ended.status, StatusCode::OK, "{}", ended.text);
        assert_eq!(ended.json(), serde_json::to_value(&view).unwrap());
        assert!(!runs.node.followers.any());
    });
}

#[test]
fn runs_and_approvals_are_listed_page_by_page() {
    let Some(runs) = Runs::start() else {
        return;
    };
    runs.database.runtime.block_on(async {
        let mut all = Vec::new();
        for n in 0..24_i64 {
            let mut asked = started(&json!({ "n": n }));
            // Two at the same moment.
            asked.received_at.0 = 1_700_000_000_000 + n / 2 * 1_000;
            asked.workflow = Some(WorkflowVersion {
                name: ["pay", "ship"][n as usize % 2].into(),
                version: "1.0.0".into(),
            });
            let tenant = if n < 20 { "acme" } else { "beta" };
            let mut story = Story::start_of(tenant, &plan(), asked);
            story.live(n as usize);
            runs.put(&story.records).await;
            all.push(story);
        }
        let last = &all[19];
        while runs.get(&format!("/v1/runs/{}", last.run_id)).await.status != StatusCode::OK {}
        let mut expected: Vec<_> = all[..20].iter().collect();
        expected.sort_by_key(|s| std::cmp::Reverse((s.records[0].at, s.run_id.clone())));
        let expected: Vec<_> = expected.iter().map(|s| s.run_id.clone()).collect();
        for limit in [1, 7, 20, 100] {
            let (mut ids, mut cursor) = (Vec::new(), String::new());
            loop {
                let page = runs.get(&format!("/v1/runs?limit={limit}{cursor}")).await;
                ids.extend(
                    items(&page)
                        .iter()
                        .map(|i| i["run_id"].as_str().unwrap().to_owned()),
                );
                match page.json()["next_cursor"].as_str() {
                    Some(next) => cursor = format!("&cursor={next}"),
                    None => break,
                }
            }
            assert_eq!(ids, expected, "{limit}");
        }
        let count = async |query: &str| items(&runs.get(&format!("/v1/runs?{query}")).await).len();
        // `Story::live` ends runs in eight ways.
        assert_eq!(count("status=succeeded").await, 3);
        assert_eq!(count("status=denied").await, 3);
        assert_eq!(count("status=paused").await, 3);
        assert_eq!(count("status=waiting_approval").await, 2);
        assert_eq!(count("workflow=pay").await, 10);
        assert_eq!(count("principal=tester").await, 20);
        assert_eq!(count("principal=nobody").await, 0);
        assert_eq!(
            count("since=2023-11-14T22:13:21Z&until=2023-11-14T22:13:23Z").await,
            4
        );
        assert_eq!(count("tenant=beta").await, 4);
        for bad in ["status=red", "limit=0", "cursor=x", "since=1", "colour=red"] {
            assert_eq!(
                runs.get(&format!("/v1/runs?{bad}")).await.code(),
                "invalid_payload",
                "{bad}"
            );
        }

        // Those that wait for a person, then those that were decided.
        let pending = items(&runs.get("/v1/approvals").await);
        assert!(
            pending
                .iter()
                .all(|a| a["status"] == "pending" && a["kind"] == "step")
        );
        assert_eq!(pending.len(), 5);
        assert!(
            pending.is_sorted_by(|a, b| a["requested_at"].as_str() >= b["requested_at"].as_str())
        );
        let of = async |status: &str| {
            items(&runs.get(&format!("/v1/approvals?status={status}")).await).len()
        };
        assert_eq!((of("denied").await, of("retry").await), (3, 2));
        assert_eq!((of("approved").await, of("expired").await), (5, 5));
        assert_eq!(
            runs.get("/v1/approvals?status=red").await.code(),
            "invalid_payload"
        );
        let first = runs.get("/v1/approvals?limit=2").await;
        let next = first.json()["next_cursor"].as_str().unwrap().to_owned();
        let second = items(
            &runs
                .get(&format!("/v1/approvals?limit=100&cursor={next}"))
                .await,
        );
        assert_eq!([items(&first), second].concat(), pending);
        let reader = runs.node.key("beta", scopes(&["approvals:read"])).await;
        assert!(
            items(&runs.get_as("/v1/approvals", &reader).await)
                .iter()
                .all(|a| { all[20..].iter().any(|story| a["run_id"] == story.run_id) })
        );
    });
}

#[test]
fn a_history_is_paged_and_streamed() {
    let Some(runs) = Runs::start() else {
        return;
    };
    runs.database.runtime.block_on(async {
        let mut story = Story::start("acme", &json!({ "n": 1 }));
        let begun = story.records.len();
        story.succeed();
        runs.put(&story.records[..begun]).await;
        let path = format!("/v1/runs/{}/events", story.run_id);
        // A stream shows what there is, then what comes, and ends with the last record.
        let (all, ()) = tokio::join!(runs.stream(&path, None), async {
            for record in &story.records[begun..] {
                tokio::time::sleep(Duration::from_millis(60)).await;
                runs.put(std::slice::from_ref(record)).await;
            }
        });
        assert_eq!(all.status, StatusCode::OK, "{}", all.text);
        assert_eq!(all.headers["content-type"], "text/event-stream");
        let events: Vec<Vec<&str>> = all.text.split("\n\n").map(|e| e.lines().collect()).collect();
        let events: Vec<_> = events.into_iter().filter(|e| e.len() == 3).collect();
        assert_eq!(events.len(), story.records.len());
        for (event, record) in events.iter().zip(&story.records) {
            let field = |name: &str| {
                let lines = event.iter();
                let mut found = lines.filter_map(|l| l.strip_prefix(name)?.strip_prefix(": "));
                found.next().unwrap()
            };
            assert_eq!(field("id"), record.seq.to_string());
            assert_eq!(field("event"), record.kind);
            let data: Value = serde_json::from_str(field("data")).unwrap();
            let mut expected: Value = serde_json::from_str(&record.body).unwrap();
            let at = serde_json::to_value(omnilink::base::clock::Millis(record.at)).unwrap();
            let more = json!({ "run_id": record.run_id, "seq": record.seq, "at": at, "causation": record.causation });
            expected.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            assert_eq!(data, expected);
        }
        // It resumes, and says when there is nothing more to come.
        let last = story.records.len();
        let rest = runs.stream(&path, Some(&(last - 2).to_string())).await;
        assert_eq!(rest.text.matches("id: ").count(), 2);
        assert!(rest.text.contains("event: run_succeeded"));
        let none = runs.stream(&path, Some(&last.to_string())).await;
        assert_eq!((none.status, &*none.text), (StatusCode::NO_CONTENT, ""));
        assert_eq!(runs.stream(&path, Some("x")).await.code(), "invalid_payload");

        let first = runs.get(&format!("{path}?limit=4")).await;
        assert_eq!(first.json()["next_cursor"], "4");
        let second = runs.get(&format!("{path}?limit=1000&cursor=4")).await;
        assert_eq!(second.json().get("next_cursor"), None);
        let both = [items(&first), items(&second)].concat();
        let seqs: Vec<_> = both.iter().map(|item| item["seq"].as_u64().unwrap()).collect();
        assert_eq!(seqs, (1..=last as u64).collect::<Vec<_>>());
        assert_eq!(both[0]["type"], "run_started");
        for bad in ["cursor=x", "limit=0", "limit=1001"] {
            assert_eq!(runs.get(&format!("{path}?{bad}")).await.code(), "invalid_payload", "{bad}");
        }
    });
}

#[test]
fn agents_see_how_their_goals_get_on_and_persons_are_audited() {
    let Some(runs) = Runs::start() else {
        return;
    };
    runs.database.runtime.block_on(async {
        let agent = runs
            .node
            .key("acme", scopes(&["orchestrations:request"]))
            .await;
        let mut stories: Vec<_> = (0..4)
            .map(|n| Story::start("acme", &json!({ "n": n })))
            .collect();
        stories[0].succeed();
        stories[1].live(2);
        stories[2].live(1);
        for story in &stories {
            runs.put(&story.records).await;
        }
        let mut seen = Vec::new();
        for story in &stories {
            let path = format!("/workflows/{}/status", story.run_id);
            let status = runs.get_as(&path, &agent).await;
            assert_eq!(status.status, StatusCode::OK, "{}", status.text);
            assert_eq!(status.json()["progress"], story.records.len());
            seen.push(status.json());
        }
        assert_eq!(seen[0]["status"], "completed");
        assert_eq!(seen[0]["result"], json!({ "paid": { "receipt": 1.5 } }));
        assert_eq!(
            (&seen[1]["status"], &seen[1]["error"]["code"]),
            (&json!("failed"), &json!("broken"))
        );
        assert_eq!(
            (&seen[2]["status"], &seen[2]["error"]["code"]),
            (&json!("failed"), &json!("denied"))
        );
        assert_eq!(seen[3]["status"], "running");

        let person = scopes(&["runs:read", "approvals:read"]);
        let person = runs
            .node
            .key_of(KeyKind::Person, "acme", person, None)
            .await;
        let path = format!("/v1/runs/{}", stories[0].run_id);
        for path in [
            &*path,
            &*format!("{path}/events"),
            "/v1/approvals",
            "/v1/runs",
        ] {
            assert_eq!(runs.get_as(path, &person).await.status, StatusCode::OK);
        }
        let reads = |entry: &Entry| {
            let of = ["run.read", "run.history_read", "approval.listed"];
            of.contains(&&*entry.action)
        };
        let entries = audit::entries(&runs.node, 3).await;
        let read: Vec<_> = entries
            .iter()
            .filter(|entry| reads(entry))
            .map(|entry| (&*entry.action, entry.resource_id.as_deref().unwrap()))
            .collect();
        let id = stories[0].run_id.as_str();
        assert_eq!(
            read,
            [
                ("run.read", id),
                ("run.history_read", id),
                ("approval.listed", "pending")
            ]
        );
    });
}

/// From the start over HTTP to what is read, with the processor of runs between.
#[test]
fn what_was_started_is_read() {
    let Some(runs) = Runs::start() else {
        return;
    };
    let node = &runs.node;
    let processor = start_sagas(node);
    runs.database.runtime.block_on(async {
        let post = async |id: &str, steps: Value| {
            let body = json!({ "id": id, "source": "/erp/prod", "type": "ask", "plan": { "steps": steps }, "input": { "n": 1 } });
            let bearer = node.bearer();
            let headers = [
                ("authorization", &*bearer),
                ("content-type", "application/json"),
                ("idempotency-key", id),
            ];
            let answer = node.call(Method::POST, "/v1/workflows", &headers, body.to_string());
            let answer = answer.await;
            assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
            answer.json()["results"][0]["poll_url"].as_str().unwrap().to_owned()
        };
        let echo = json!([{ "id": "echo", "tool": "noop", "input": "{{ params.n }}" }]);
        let path = post("1", echo).await;
        let run = runs.get(&format!("{path}?wait=20")).await;
        assert_eq!(run.status, StatusCode::OK, "{}", run.text);
        let run = run.json();
        assert_eq!((&run["status"], &run["steps"][0]["output"]), (&json!("succeeded"), &json!(1)));
        let events = runs.stream(&format!("{path}/events"), None).await;
        assert!(events.text.contains("event: run_started") && events.text.contains("event: run_succeeded"));

        let ask = json!([{ "id": "ask", "tool": "approve", "input": { "message": "Pay?" } }]);
        let path = post("2", ask).await;
        let run = runs.get(&path).await.json();
        assert_eq!((&run["status"], run["approvals"].as_array().unwrap().len()), (&json!("waiting_approval"), 1));
        let asked = items(&runs.get("/v1/approvals").await);
        assert_eq!(asked, *run["approvals"].as_array().unwrap());
        assert_eq!((&asked[0]["message"], &asked[0]["step_id"]), (&json!("Pay?"), &json!("ask")));
        assert_eq!(items(&runs.get("/v1/runs").await).len(), 2);
    });
    drop(processor);
}

/// Without Postgres runs cannot be read, which the answer says.
#[tokio::test(flavor = "multi_thread")]
async fn without_postgres_there_is_an_answer_too() {
    let node = Node::start().await;
    let id = "7dbd6d41-6f85-5f7b-98af-6637f5372c2e";
    for path in [
        "/v1/runs".to_owned(),
        format!("/v1/runs/{id}?wait=30"),
        format!("/v1/runs/{id}/events"),
        "/v1/approvals".to_owned(),
        format!("/workflows/{id}/status"),
    ] {
        let answer = node
            .request(Method::GET, &path, &node.admin, &Value::Null)
            .await;
        assert_eq!(answer.code(), "postgres_unavailable", "{path}");
        assert!(answer.headers.contains_key("retry-after"));
    }
}
