//! Workers that fetch their work over HTTP: claims, leases, what becomes of them, and what the queue shows.

use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};
use omnilink::{
    projections::rebuild_tasks,
    store::{Store, tasks},
};
use serde_json::{Value, json};

use crate::support::{
    port::{Response, scopes},
    sagas::{append_command, claimed, start},
    tasks::Queue,
};

const PAY: &str = "
name: pay
kind: write
risk: { lane: safe }
worker: { claim: {} }
timeout_s: 60
";
const REFUND: &str = "
name: refund
kind: write
risk: { lane: safe }
worker: { claim: {} }
";

fn one() -> Value {
    json!([{ "id": "a", "tool": "pay", "input": { "amount": 99.50, "text": "a\u{0}b" } }])
}

fn refused(answer: &Response) -> (u16, String) {
    (answer.status.as_u16(), answer.code())
}

fn stale() -> (u16, String) {
    (409, "stale_lease".into())
}

fn done() -> Value {
    json!({ "outcome": "succeeded", "output": { "transfer": "T-1" } })
}

fn at(value: &Value) -> i64 {
    let text = value.as_str().unwrap();
    let time: jiff::Timestamp = text.parse().unwrap();
    time.as_millisecond()
}

#[test]
fn a_task_is_claimed_extended_and_completed() {
    let Some(queue) = Queue::start(&[PAY]) else {
        return;
    };
    queue.database.runtime.block_on(async {
        // The claim waits for it.
        let (claimed, run) = tokio::join!(async { queue.claim(&json!({})).await }, async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            queue.run("1", &one()).await
        });
        let [task] = &claimed[..] else {
            panic!("{claimed:?}");
        };
        let task_id = format!("{run}:a:execute:1");
        for (name, value) in [
            ("task_id", json!(task_id)),
            ("tenant", json!("acme")),
            ("run_id", json!(run)),
            ("step_id", json!("a")),
            ("attempt", json!(1)),
            ("kind", json!("execute")),
            ("tool", json!("pay")),
            ("input", json!({ "amount": 99.5, "text": "a\u{0}b" })),
            ("idempotency_key", json!(format!("{run}:a:execute"))),
        ] {
            assert_eq!(task[name], value, "{name}");
        }
        // Its time runs from the claim, and the run knows of it.
        let history = queue.until(&run, "step_started").await;
        let started: Value = serde_json::from_str(&history.last().unwrap().body).unwrap();
        assert_eq!(started["deadline"], task["deadline"]);
        let left = at(&task["deadline"]) - at(&task["lease_expires_at"]);
        assert!((25_000..35_000).contains(&left), "{left}");

        // Nobody else gets it.
        assert_eq!(
            queue.claim(&json!({ "wait_s": 0 })).await,
            Vec::<Value>::new()
        );
        let lease = json!({ "task_id": task_id, "lease": task["lease"], "lease_s": 40 });
        let extended = queue.post("heartbeat", &lease).await;
        assert_eq!(extended.status, StatusCode::OK, "{}", extended.text);
        let longer = at(&extended.json()["lease_expires_at"]) - at(&task["lease_expires_at"]);
        assert!((9_000..20_000).contains(&longer), "{longer}");
        let other = json!({ "task_id": task_id, "lease": "0".repeat(48) });
        assert_eq!(refused(&queue.post("heartbeat", &other).await), stale());

        for _ in 0..2 {
            let completed = queue.complete(task, &done()).await;
            assert_eq!(completed.status, StatusCode::OK, "{}", completed.text);
        }
        let failed = json!({ "outcome": "failed", "error": { "code": "no" } });
        assert_eq!(refused(&queue.complete(task, &failed).await), stale());
        let history = queue.until(&run, "run_succeeded").await;
        let kinds: Vec<_> = history.iter().map(|record| &*record.kind).collect();
        let expected =
            "run_started plan_ready step_scheduled step_started step_succeeded run_succeeded";
        assert_eq!(kinds.join(" "), expected);
        // Again, after the end; and the lease is over.
        let completed = queue.complete(task, &done()).await;
        assert_eq!(completed.status, StatusCode::OK, "{}", completed.text);
        assert_eq!(refused(&queue.post("heartbeat", &lease).await), stale());
    });
    queue.wait_for(
        "SELECT status || ' ' || claimed_by || ' ' || outcome FROM omnilink.tasks",
        "done tester succeeded",
    );
}

#[test]
fn a_lease_that_lapses_grants_the_same_attempt_again() {
    let Some(queue) = Queue::start(&[PAY]) else {
        return;
    };
    queue.database.runtime.block_on(async {
        let run = queue.run("1", &one()).await;
        let first = queue.claim(&json!({ "lease_s": 1 })).await;
        let begun = Instant::now();
        let second = queue.claim(&json!({})).await;
        assert!(begun.elapsed() > Duration::from_millis(500));
        let (first, second) = (&first[0], &second[0]);
        assert_eq!(
            (&first["task_id"], &first["attempt"]),
            (&second["task_id"], &second["attempt"])
        );
        // It gives no more time.
        assert_eq!(first["deadline"], second["deadline"]);
        assert_ne!(first["lease"], second["lease"]);
        assert_eq!(refused(&queue.complete(first, &done()).await), stale());
        let retry = json!({ "outcome": "failed", "error": { "code": "busy", "retryable": true } });
        let failed = queue.complete(second, &retry).await;
        assert_eq!(failed.status, StatusCode::OK, "{}", failed.text);
        // Only the run makes another attempt.
        let third = &queue.claim(&json!({})).await[0];
        assert_eq!(
            (&third["attempt"], &third["idempotency_key"]),
            (&json!(2), &first["idempotency_key"])
        );
        assert_eq!(queue.complete(third, &done()).await.status, StatusCode::OK);
        let history = queue.until(&run, "run_succeeded").await;
        let started = history
            .iter()
            .filter(|record| record.kind == "step_started");
        assert_eq!(started.count(), 2);
    });
}

#[test]
fn many_workers_share_a_queue_and_each_task_goes_once() {
    let Some(queue) = Queue::start(&[PAY, REFUND]) else {
        return;
    };
    queue.database.runtime.block_on(async {
        let steps = |n: usize| -> Value {
            (0..n)
                .map(|n| json!({ "id": format!("s{n}"), "tool": (if n % 2 == 0 { "pay" } else { "refund" }) }))
                .collect()
        };
        let workers = (0..6).map(|_| async {
            let mut done = Vec::new();
            loop {
                let tools = json!({ "tools": ["pay", "refund"], "max": 7, "wait_s": 2 });
                let tasks = queue.claim(&tools).await;
                if tasks.is_empty() {
                    return done;
                }
                for task in tasks {
                    let completed = queue
                        .complete(&task, &json!({ "outcome": "succeeded" }))
                        .await;
                    assert_eq!(completed.status, StatusCode::OK, "{}", completed.text);
                    done.push(task["task_id"].as_str().unwrap().to_owned());
                }
            }
        });
        let started = async {
            for n in 0..10 {
                queue.run(&n.to_string(), &steps(20)).await;
            }
        };
        let (done, ()) = tokio::join!(futures_util::future::join_all(workers), started);
        let mut all = done.concat();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!((count, all.len()), (200, 200));
    });
    queue.wait_for(
        "SELECT string_agg(DISTINCT status, ' ') FROM omnilink.tasks",
        "done",
    );
}

#[test]
fn what_is_cancelled_or_paused_is_not_handed_out() {
    let Some(mut queue) = Queue::start(&[PAY, REFUND]) else {
        return;
    };
    let none = json!({ "wait_s": 0 });
    let run = queue.database.runtime.block_on(queue.run("1", &one()));
    queue.wait_for("SELECT status FROM omnilink.tasks", "open");
    queue
        .database
        .runtime
        .block_on(queue.control(&run, "pause"));
    queue.wait_for("SELECT status FROM omnilink.tasks", "paused");
    queue.database.runtime.block_on(async {
        assert_eq!(queue.claim(&none).await, Vec::<Value>::new());
        queue.control(&run, "resume").await;
        let task = &queue.claim(&json!({})).await[0];
        // Work that has begun goes on; a lease can be extended meanwhile.
        queue.control(&run, "pause").await;
        let lease = json!({ "task_id": task["task_id"], "lease": task["lease"] });
        let extended = queue.post("heartbeat", &lease).await;
        assert_eq!(extended.status, StatusCode::OK, "{}", extended.text);
        assert_eq!(queue.complete(task, &done()).await.status, StatusCode::OK);
        queue.control(&run, "resume").await;
        queue.until(&run, "run_succeeded").await;
    });
    queue.wait_for("SELECT status FROM omnilink.tasks", "done");

    // The queue has not heard that the run is over: the run itself refuses the claim.
    let run = queue.database.runtime.block_on(queue.run("2", &one()));
    queue.wait_for(
        "SELECT status FROM omnilink.tasks ORDER BY created_at DESC LIMIT 1",
        "open",
    );
    queue.hold_projection();
    queue.database.runtime.block_on(async {
        queue.control(&run, "cancel").await;
        queue.until(&run, "run_cancelled").await;
        assert_eq!(queue.claim(&none).await, Vec::<Value>::new());
    });
    assert_eq!(
        queue
            .database
            .text("SELECT string_agg(DISTINCT status, ' ') FROM omnilink.tasks"),
        "done"
    );
    queue.project();
}

#[test]
fn a_compensation_is_claimed_with_what_it_undoes() {
    let Some(queue) = Queue::start(&[PAY, REFUND]) else {
        return;
    };
    queue.database.runtime.block_on(async {
        let undo = json!({ "tool": "refund", "input": "{{ step.output }}" });
        let steps = json!([
            { "id": "a", "tool": "pay", "input": { "n": 1 }, "compensate": undo },
            { "id": "b", "tool": "pay", "depends_on": ["a"], "retry": { "max_attempts": 1 } },
        ]);
        let run = queue.run("1", &steps).await;
        let a = &queue.claim(&json!({})).await[0];
        queue.complete(a, &done()).await;
        let b = &queue.claim(&json!({})).await[0];
        let failed = json!({ "outcome": "failed", "error": { "code": "no_funds", "message": "empty" } });
        queue.complete(b, &failed).await;
        let task = &queue.claim(&json!({ "tools": ["refund"] })).await[0];
        assert_eq!(task["task_id"], json!(format!("{run}:a:compensate:1")));
        assert_eq!(task["kind"], "compensate");
        assert_eq!(task["input"], json!({ "transfer": "T-1" }));
        let execute = json!({
            "idempotency_key": format!("{run}:a:execute"), "outcome": "succeeded", "input": { "n": 1 }, "output": { "transfer": "T-1" }
        });
        assert_eq!(task["execute"], execute);
        assert_eq!(task["error"], json!({ "code": "no_funds", "message": "empty" }));
        assert_eq!(queue.complete(task, &json!({ "outcome": "succeeded" })).await.status, StatusCode::OK);
        let history = queue.until(&run, "run_failed").await;
        let mut started = history
            .iter()
            .filter(|record| record.kind == "step_started");
        let started: Value = serde_json::from_str(&started.next_back().unwrap().body).unwrap();
        assert_eq!((&started["kind"], &started["step_id"]), (&json!("compensate"), &json!("a")));
    });
}

#[test]
fn a_compensation_that_is_called_again_has_its_first_key() {
    let Some(queue) = Queue::start(&[PAY, REFUND]) else {
        return;
    };
    let undone = json!({ "id": "a", "tool": "pay", "compensate": { "tool": "refund" } });
    let tools = [claimed("pay"), claimed("refund")];
    let (run, mut command) = start("1", &json!({ "steps": [undone] }), &tools, &json!({}));
    let mut body: Value = serde_json::from_str(&command.body).unwrap();
    let undo = json!({ "step_id": "a", "run_id": "old", "input": {}, "execute": {} });
    body["retry"] = json!({ "of": "old", "undo": [undo] });
    command.body = body.to_string();
    let claim = async || {
        let task = queue.claim(&json!({ "tools": ["refund"] })).await.remove(0);
        assert_eq!(task["task_id"], json!(format!("{run}:a:compensate:1")));
        assert_eq!(task["idempotency_key"], "old:a:compensate");
        task
    };
    queue.database.runtime.block_on(async {
        append_command(&queue.node, &command).await;
        claim().await;
    });
    queue.wait_for(
        "SELECT count(*) FROM omnilink.tasks WHERE started_at IS NOT NULL",
        "1",
    );
    rebuild_tasks(&queue.setup(), &mut |_, _| {}).unwrap();
    queue.database.runtime.block_on(async {
        let task = claim().await;
        assert_eq!(queue.complete(&task, &done()).await.status, StatusCode::OK);
        queue.until(&run, "run_succeeded").await;
        // All other keys follow from the row, and are not stored.
        queue.run("2", &one()).await;
        let task = queue.claim(&json!({})).await.remove(0);
        queue.complete(&task, &done()).await;
    });
    let keys = "SELECT string_agg(COALESCE(idempotency_key, '-'), ' ' ORDER BY created_at) FROM omnilink.tasks";
    queue.wait_for(keys, "old:a:compensate -");
}

#[test]
fn limits_hold_over_all_workers() {
    let limited = "limit: { concurrency: 1, key: \"{{ input.account }}\" }";
    let rated = "limit: { rate: { limit: 2, window_s: 600 } }";
    let Some(queue) = Queue::start(&[&format!("{PAY}{limited}"), &format!("{REFUND}{rated}")])
    else {
        return;
    };
    let step = |id: &str, tool: &str, account: &str| json!({ "id": id, "tool": tool, "input": { "account": account } });
    queue.database.runtime.block_on(async {
        let steps = json!([
            step("a1", "pay", "a"),
            step("a2", "pay", "a"),
            step("b1", "pay", "b"),
            step("r1", "refund", "a"),
            step("r2", "refund", "b"),
            step("r3", "refund", "c"),
        ]);
        queue.run("1", &steps).await;
    });
    queue.wait_for("SELECT count(*) FROM omnilink.tasks", "6");
    queue.database.runtime.block_on(async {
        let none = json!({ "wait_s": 0 });
        let first = queue.claim(&none).await;
        let mut keys: Vec<_> = first
            .iter()
            .map(|task| task["input"]["account"].as_str().unwrap())
            .collect();
        keys.sort_unstable();
        assert_eq!(keys, ["a", "b"]);
        assert_eq!(queue.claim(&none).await, Vec::<Value>::new());
        // A seat is free again.
        let of_a = first
            .iter()
            .find(|task| task["input"]["account"] == "a")
            .unwrap();
        let (next, _) = tokio::join!(async { queue.claim(&json!({})).await }, async {
            tokio::time::sleep(Duration::from_millis(400)).await;
            queue.complete(of_a, &done()).await
        });
        assert_eq!(next[0]["input"]["account"], "a");
        let refunds = queue
            .claim(&json!({ "tools": ["refund"], "wait_s": 1 }))
            .await;
        assert_eq!(refunds.len(), 2);
        queue.complete(&refunds[0], &done()).await;
        let more = queue
            .claim(&json!({ "tools": ["refund"], "wait_s": 1 }))
            .await;
        assert_eq!(more, Vec::<Value>::new());
    });
}

#[test]
fn controls_stop_claims_and_not_what_ends_work() {
    let Some(queue) = Queue::start(&[
        PAY,
        "name: look\nkind: read\nrisk: { lane: safe }\nworker: { claim: {} }",
    ]) else {
        return;
    };
    let set = async |change: &Value| {
        let (node, path) = (&queue.node, "/v1/controls");
        let answer = node.request(Method::PATCH, path, &node.admin, change).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    };
    let both = json!({ "tools": ["pay", "look"], "max": 9 });
    queue.database.runtime.block_on(async {
        let steps = json!([{ "id": "a", "tool": "pay" }, { "id": "b", "tool": "pay" }, { "id": "c", "tool": "look" }]);
        queue.run("1", &steps).await;
        let first = &queue.claim(&json!({ "max": 1 })).await[0];
        set(&json!({ "safe_mode": true, "reason": "test" })).await;
        // `look` only reads.
        let held = loop {
            let answer = queue.post("claim", &both).await.json();
            if let Some(task) = answer["tasks"].get(0) {
                assert_eq!(task["tool"], "look");
                break answer["held"].clone();
            }
        };
        assert_eq!(held, json!([{ "tool": "pay", "reason": "safe_mode" }]));
        // A claim that waits goes on once the control is lifted.
        let (second, ()) = tokio::join!(async { queue.claim(&json!({})).await }, async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            set(&json!({ "safe_mode": false, "disabled": { "tool:look": "broken" }, "reason": "test" })).await;
        });
        assert_eq!(second[0]["tool"], "pay");
        let held = queue.post("claim", &both).await.json()["held"].clone();
        assert_eq!(held, json!([{ "tool": "look", "reason": "tool:look" }]));
        set(&json!({ "disabled": { "workers": "moving" }, "reason": "test" })).await;
        let off = queue.post("claim", &both).await;
        assert_eq!(refused(&off), (503, "feature_disabled".into()));
        // Also of a claim that waits already.
        set(&json!({ "disabled": { "workers": null, "tool:look": null }, "reason": "test" })).await;
        let waiting = json!({ "tools": ["pay"], "wait_s": 20 });
        let (off, ()) = tokio::join!(queue.post("claim", &waiting), async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            set(&json!({ "kill_switch": true, "reason": "test" })).await;
        });
        assert_eq!(refused(&off), (503, "omnilink_disabled".into()));
        let lease = json!({ "task_id": first["task_id"], "lease": first["lease"] });
        assert_eq!(queue.post("heartbeat", &lease).await.status, StatusCode::OK);
        assert_eq!(queue.complete(first, &done()).await.status, StatusCode::OK);
    });
}

#[test]
fn other_tenants_and_keys_see_nothing() {
    let Some(queue) = Queue::start(&[PAY]) else {
        return;
    };
    queue.database.runtime.block_on(async {
        queue.run("1", &one()).await;
        let task = &queue.claim(&json!({})).await[0];
        let node = &queue.node;
        let all = ["tasks:claim", "tasks:complete"];
        let beta = node.key("beta", scopes(&all)).await;
        let ask = async |key: &str, what: &str, body: &Value| {
            let path = format!("/v1/tasks/{what}");
            refused(&node.request(Method::POST, &path, key, body).await)
        };
        let lease = json!({ "task_id": task["task_id"], "lease": task["lease"] });
        assert_eq!(ask(&beta, "heartbeat", &lease).await, stale());
        let mut outcome = lease.clone();
        outcome["outcome"] = "succeeded".into();
        assert_eq!(ask(&beta, "complete", &outcome).await, stale());
        let claim = json!({ "tools": ["pay"] });
        let of_beta = node
            .request(Method::POST, "/v1/tasks/claim", &beta, &claim)
            .await;
        assert_eq!(of_beta.json(), json!({ "tasks": [] }));
        let other = node
            .key("acme", scopes(&["runs:read", "tasks:complete"]))
            .await;
        for (what, body) in [("claim", &claim), ("heartbeat", &lease)] {
            assert_eq!(
                ask(&other, what, body).await,
                (403, "permission_denied".into())
            );
        }
        for (wrong, code) in [
            (json!({}), "missing_tools"),
            (json!({ "tools": [] }), "invalid_payload"),
            (json!({ "tools": ["pay"], "max": 101 }), "invalid_payload"),
            (json!({ "tools": ["pay"], "wait_s": 61 }), "invalid_payload"),
            (json!({ "tools": ["pay"], "lease_s": 0 }), "invalid_payload"),
            (json!({ "tools": ["pay"], "lease": 5 }), "invalid_payload"),
        ] {
            assert_eq!(
                refused(&queue.post("claim", &wrong).await),
                (400, code.into()),
                "{wrong}"
            );
        }
    });
}

#[test]
fn a_rebuild_lets_leases_lapse() {
    let Some(queue) = Queue::start(&[PAY]) else {
        return;
    };
    let (run, task) = queue.database.runtime.block_on(async {
        let run = queue.run("1", &one()).await;
        (run, queue.claim(&json!({})).await[0].clone())
    });
    queue.wait_for(
        "SELECT count(*) FROM omnilink.tasks WHERE started_at IS NOT NULL",
        "1",
    );
    rebuild_tasks(&queue.setup(), &mut |_, _| {}).unwrap();
    queue.database.runtime.block_on(async {
        assert_eq!(refused(&queue.complete(&task, &done()).await), stale());
        let again = &queue.claim(&json!({})).await[0];
        assert_eq!(
            (&again["task_id"], &again["deadline"]),
            (&task["task_id"], &task["deadline"])
        );
        assert_eq!(queue.complete(again, &done()).await.status, StatusCode::OK);
        queue.until(&run, "run_succeeded").await;
    });
    queue.wait_for("SELECT status FROM omnilink.tasks", "done");
    // Another one, beside the running projector: the same rows, but for leases.
    let rows = "SELECT string_agg(concat_ws('|', tenant, task_id, tool, status, input, deadline, created_at, started_at, finished_at), ',') FROM omnilink.tasks";
    let before = queue.database.text(rows);
    rebuild_tasks(&queue.setup(), &mut |_, _| {}).unwrap();
    assert_eq!(queue.database.text(rows), before);
    // What has been over for a week is forgotten.
    queue
        .database
        .run("UPDATE omnilink.tasks SET finished_at = now() - interval '8 days'");
    let store: Store = queue.database.store();
    assert_eq!(
        queue
            .database
            .runtime
            .block_on(tasks::expire(&store))
            .unwrap(),
        1
    );
}

#[test]
fn without_postgres_claims_are_unavailable() {
    let Some(queue) = Queue::start(&[PAY]) else {
        return;
    };
    let task = queue.database.runtime.block_on(async {
        queue.run("1", &one()).await;
        queue.claim(&json!({})).await[0].clone()
    });
    queue
        .database
        .run("ALTER TABLE omnilink.tasks RENAME TO gone");
    queue.database.runtime.block_on(async {
        let down = (503, "postgres_unavailable".to_owned());
        let claim = json!({ "tools": ["pay"], "wait_s": 5 });
        assert_eq!(refused(&queue.post("claim", &claim).await), down);
        let lease = json!({ "task_id": task["task_id"], "lease": task["lease"] });
        assert_eq!(refused(&queue.post("heartbeat", &lease).await), down);
        assert_eq!(refused(&queue.complete(&task, &done()).await), down);
    });
    queue
        .database
        .run("ALTER TABLE omnilink.gone RENAME TO tasks");
    queue.database.runtime.block_on(async {
        let answer = queue.complete(&task, &done()).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    });
}

#[test]
fn the_end_of_all_attempts_is_in_the_answer() {
    let Some(queue) = Queue::start(&[PAY]) else {
        return;
    };
    queue.database.runtime.block_on(async {
        let step = json!([{ "id": "a", "tool": "pay", "input": {}, "deadline_s": 20 }]);
        let run = queue.run("1", &step).await;
        let task = queue.claim(&json!({ "lease_s": 50 })).await.remove(0);
        let history = queue.until(&run, "step_started").await;
        let started = history.iter().find(|record| record.kind == "step_started");
        let started: Value = serde_json::from_str(&started.unwrap().body).unwrap();
        assert_eq!(started["deadline"], task["deadline"], "{task}");
        let scheduled = history
            .iter()
            .find(|record| record.kind == "step_scheduled");
        let begun = scheduled.unwrap().at;
        assert!(
            (0..=20_000).contains(&(at(&task["deadline"]) - begun)),
            "{task}"
        );
        assert!(
            at(&task["lease_expires_at"]) <= at(&task["deadline"]),
            "{task}"
        );
    });
}

#[test]
fn tools_show_what_waits_and_what_is_claimed() {
    let limited = format!("{PAY}limit: {{ concurrency: 5 }}");
    let Some(queue) = Queue::start(&[&limited, REFUND]) else {
        return;
    };
    queue.database.runtime.block_on(async {
        let shown = async |tool: &str| -> Value {
            let (node, none) = (&queue.node, Value::Null);
            let answer = node
                .request(Method::GET, "/v1/tools", &node.admin, &none)
                .await;
            let items = answer.json()["items"].clone();
            let mut items = items.as_array().unwrap().iter();
            items.find(|item| item["name"] == tool).unwrap().clone()
        };
        for id in ["1", "2", "3"] {
            queue.run(id, &one()).await;
        }
        let deadline = Instant::now() + Duration::from_secs(20);
        while shown("pay").await["queued"] != 3 {
            assert!(Instant::now() < deadline, "{}", shown("pay").await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let claimed = queue.claim(&json!({ "max": 2 })).await;
        assert_eq!(claimed.len(), 2);
        let pay = shown("pay").await;
        assert_eq!(
            (&pay["queued"], &pay["running"], &pay["limit"]["used"]),
            (&json!(1), &json!(2), &json!(2)),
            "{pay}"
        );
        let refund = shown("refund").await;
        assert_eq!(
            (&refund["queued"], &refund["running"]),
            (&json!(0), &json!(0))
        );
    });
}
