//! `omnilink runs`, `approvals` and `tools`: what they send to a node, and what they print of its answers.

use serde_json::{Value, json};

use crate::support::{
    canned::{Canned, Server},
    command::{Folder, omnilink, output},
};

const RUN: &str = "7dbd6d41-6f85-5f7b-98af-6637f5372c2e";

struct Commands {
    server: Server,
    folder: Folder,
}

impl Commands {
    fn new() -> Self {
        Self {
            server: Server::start(),
            folder: Folder::new(),
        }
    }

    /// Runs a command; returns its exit code, standard output and standard error.
    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let mut command = omnilink(self.folder.path(), args);
        output(
            command
                .env("OMNILINK_URL", &self.server.url)
                .env("OMNILINK_KEY", "omni.k.s")
                .args(["--data-dir", "data"]),
        )
    }

    /// Runs a command that sends one request; returns it, with what the command printed.
    fn ask(&self, args: &[&str], canned: Canned) -> (String, Value, String) {
        self.server.answer(canned);
        let (code, out, error) = self.run(args);
        assert_eq!(code, 0, "{args:?}: {error}");
        let mut asked = self.server.asked();
        assert_eq!(asked.len(), 1, "{asked:?}");
        let asked = asked.remove(0);
        assert_eq!(asked.header("authorization"), Some("Bearer omni.k.s"));
        let body = serde_json::from_str(&asked.body).unwrap_or_default();
        (asked.line, body, out)
    }
}

fn done() -> Canned {
    Canned::json(
        200,
        &json!({ "run_id": RUN, "status": "done", "poll_url": "/" }),
    )
}

#[test]
fn what_controls_runs() {
    let commands = Commands::new();
    let approval = format!("{RUN}.4");
    let file = commands.folder.path().join("data.json");
    std::fs::write(&file, r#"{ "big": 12.500000000000000000010 }"#).unwrap();
    let file = file.to_str().unwrap();
    for (args, path, body) in [
        (
            vec!["runs", "cancel", RUN, "--reason", "ordered twice"],
            format!("/v1/runs/{RUN}/cancel"),
            json!({ "reason": "ordered twice", "compensate": true }),
        ),
        (
            vec!["runs", "cancel", RUN, "--abandon", "--tenant", "a b"],
            format!("/v1/runs/{RUN}/cancel?tenant=a%20b"),
            json!({ "compensate": false }),
        ),
        (
            vec!["runs", "pause", RUN],
            format!("/v1/runs/{RUN}/pause"),
            json!({}),
        ),
        (
            vec!["runs", "resume", RUN],
            format!("/v1/runs/{RUN}/resume"),
            json!({}),
        ),
        (
            vec!["runs", "signal", RUN, "paid", "--data", r#"{"a":[1]}"#],
            format!("/v1/runs/{RUN}/signal"),
            json!({ "signal": "paid", "data": { "a": [1] } }),
        ),
        (
            vec![
                "approvals",
                "approve",
                &approval,
                "--reason",
                "fine",
                "--input-hash",
                "ab",
            ],
            format!("/v1/approvals/{approval}"),
            json!({ "decision": "approved", "reason": "fine", "input_hash": "ab" }),
        ),
        (
            vec!["approvals", "approve", &approval, "--input", "450"],
            format!("/v1/approvals/{approval}"),
            json!({ "decision": "approved", "input": 450 }),
        ),
        (
            vec!["approvals", "deny", &approval],
            format!("/v1/approvals/{approval}"),
            json!({ "decision": "denied" }),
        ),
        (
            vec!["approvals", "decide", &approval, "skip", "--output", "[1]"],
            format!("/v1/approvals/{approval}"),
            json!({ "decision": "skip", "output": [1] }),
        ),
    ] {
        let (line, sent, out) = commands.ask(&args, done());
        assert_eq!((line, sent), (format!("POST {path}"), body), "{args:?}");
        assert_eq!(out, "done\n");
    }
    commands.server.answer(done());
    let (code, _, error) = commands.run(&["runs", "signal", RUN, "paid", "--data-file", file]);
    assert_eq!(code, 0, "{error}");
    let body = commands.server.asked().remove(0).body;
    assert!(body.contains("12.500000000000000000010"), "{body}");

    let accepted = json!({ "run_id": RUN, "status": "accepted", "poll_url": "/" });
    let args = ["runs", "pause", RUN];
    let (_, _, out) = commands.ask(&args, Canned::json(202, &accepted));
    assert!(out.starts_with("accepted: ") && out.contains(RUN), "{out}");
    let args = ["runs", "pause", RUN, "--json"];
    let (_, _, out) = commands.ask(&args, Canned::json(202, &accepted));
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), accepted);
}

#[test]
fn refusals_and_wrong_arguments() {
    let commands = Commands::new();
    let problem = json!({ "code": "run_ended", "detail": "the run has ended" });
    commands.server.answer(Canned::json(409, &problem));
    let (code, out, error) = commands.run(&["runs", "cancel", RUN]);
    assert_eq!((code, &*out), (1, ""));
    assert!(
        error.contains("run_ended") && error.contains("the run has ended"),
        "{error}"
    );
    commands.server.asked();
    for args in [
        &["runs", "cancel", "x"][..],
        &["runs", "list", "--status", "sleeping"],
        &["runs", "signal", RUN, "paid", "--data", "{"],
        &["runs", "signal", RUN],
        &["approvals", "approve", RUN],
        &[
            "approvals",
            "decide",
            "7dbd6d41-6f85-5f7b-98af-6637f5372c2e.4",
            "maybe",
        ],
    ] {
        let (code, _, error) = commands.run(args);
        assert_eq!(code, 2, "{args:?}: {error}");
    }
    assert!(commands.server.asked().is_empty());
    for command in [&["runs"][..], &["approvals"], &["tools"]] {
        let (code, out, _) = commands.run(&[command, &["--help"]].concat());
        assert!(code == 0 && out.contains("list"), "{out}");
    }
    let (_, out, _) = commands.run(&["runs", "signal", "--help"]);
    assert!(out.contains("Examples:"), "{out}");
}

fn approval() -> Value {
    json!({
        "id": format!("{RUN}.4"), "run_id": RUN, "step_id": "pay", "kind": "step", "lane": "RED", "risk_score": 0.8,
        "reasons": ["kind_payment"], "input": { "amount": 500 }, "input_hash": "ab", "status": "pending",
        "requested_at": "2026-01-31T12:00:00Z", "expires_at": "2026-02-01T12:00:00Z"
    })
}

fn run() -> Value {
    json!({
        "run_id": RUN, "tenant": "acme", "status": "waiting_approval", "workflow": { "name": "expense", "version": "1.0.0" },
        "params": {}, "principal": "ann", "created_at": "2026-01-31T12:00:00Z", "updated_at": "2026-01-31T12:00:00Z",
        "steps": [
            { "id": "book", "tool": "noop", "status": "succeeded", "attempts": 1, "started_at": "2026-01-31T12:00:00Z" },
            { "id": "pay", "tool": "pay", "status": "waiting_approval", "attempts": 0 }
        ],
        "approvals": [approval()]
    })
}

#[test]
fn lists_and_runs_are_tables() {
    let commands = Commands::new();
    let list = json!({ "items": [run()], "next_cursor": "c" });
    let args = [
        "runs",
        "list",
        "--status",
        "waiting_approval",
        "--limit",
        "5",
    ];
    let (line, _, out) = commands.ask(&args, Canned::json(200, &list));
    assert_eq!(line, "GET /v1/runs?limit=5&status=waiting%5Fapproval");
    let lines: Vec<_> = out.lines().collect();
    assert!(lines[0].starts_with("RUN "), "{out}");
    assert!(
        lines[1].starts_with(RUN) && lines[1].contains("waiting_approval  expense 1.0.0  ann"),
        "{out}"
    );

    let (line, _, out) = commands.ask(&["runs", "show", RUN], Canned::json(200, &run()));
    assert_eq!(line, format!("GET /v1/runs/{RUN}"));
    assert!(out.contains("status    waiting_approval"), "{out}");
    assert!(out.contains("book  noop  succeeded"), "{out}");
    assert!(
        out.contains(&format!("omnilink approvals show {RUN}.4")),
        "{out}"
    );
    let (_, _, out) = commands.ask(&["runs", "show", RUN, "--json"], Canned::json(200, &run()));
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), run());

    let list = json!({ "items": [approval()] });
    let (line, _, out) = commands.ask(&["approvals", "list"], Canned::json(200, &list));
    assert_eq!(line, "GET /v1/approvals?limit=100&status=pending");
    assert!(
        out.contains(&format!("{RUN}.4  step  pay   RED   pending")),
        "{out}"
    );
    let id = format!("{RUN}.4");
    let (line, _, out) = commands.ask(&["approvals", "show", &id], Canned::json(200, &run()));
    assert_eq!(line, format!("GET /v1/runs/{RUN}"));
    assert!(
        out.contains(&format!("approvals approve {id} --input-hash ab")),
        "{out}"
    );
    commands.server.answer(Canned::json(200, &run()));
    let (code, _, error) = commands.run(&["approvals", "show", &format!("{RUN}.5")]);
    assert!(code == 1 && error.contains("no approval"), "{error}");
    commands.server.asked();
    // A key that decides and sees no runs.
    let denied = json!({ "code": "permission_denied", "detail": "the key lacks the permission `runs:read`" });
    commands.server.answer(Canned::json(403, &denied));
    commands.server.answer(Canned::json(200, &list));
    let (code, out, error) = commands.run(&["approvals", "show", &id]);
    assert!(code == 0 && out.contains("\"amount\": 500"), "{error}");
    assert_eq!(
        commands.server.asked()[1].line,
        "GET /v1/approvals?limit=1000"
    );

    let tool = json!({ "items": [{ "name": "pay", "worker": "http", "running": 1, "queued": 0, "held": 0, "breaker": "closed" }] });
    let (line, _, out) = commands.ask(&["tools", "list"], Canned::json(200, &tool));
    assert_eq!(line, "GET /v1/tools");
    assert!(
        out.contains("pay   -     -     http    1        0       0     closed"),
        "{out}"
    );
}

/// The records of a run that ends well; each as an item, and as an event.
fn records() -> Vec<Value> {
    let plan = json!({ "steps": [{ "id": "pay", "tool": "noop" }] });
    let bodies = [
        json!({ "type": "run_started", "workflow": { "name": "expense", "version": "1.0.0" }, "params": {}, "principal": "ann" }),
        json!({ "type": "plan_ready", "source": "workflow", "hash": "00", "plan": plan }),
        json!({ "type": "step_scheduled", "step_id": "pay", "attempt": 1, "input": {}, "deadline": "2026-01-31T12:05:00Z" }),
        json!({ "type": "step_succeeded", "step_id": "pay", "attempt": 1, "output": 7 }),
        json!({ "type": "run_succeeded", "output": 7 }),
    ];
    let mut records = Vec::new();
    for (seq, mut record) in (1..).zip(bodies) {
        record["seq"] = seq.into();
        record["run_id"] = RUN.into();
        record["at"] = "2026-01-31T12:00:00Z".into();
        records.push(record);
    }
    records
}

fn events(records: &[Value]) -> String {
    let events = records.iter().map(|record| {
        let (seq, kind) = (&record["seq"], record["type"].as_str().unwrap());
        format!("id: {seq}\nevent: {kind}\ndata: {record}\n\n")
    });
    events.collect()
}

#[test]
fn a_history_comes_in_pages() {
    let commands = Commands::new();
    let records = records();
    for (items, next_cursor) in [(&records[..3], json!("3")), (&records[3..], Value::Null)] {
        let page = json!({ "items": items, "next_cursor": next_cursor });
        commands.server.answer(Canned::json(200, &page));
    }
    let (code, out, error) = commands.run(&["runs", "history", RUN]);
    assert_eq!(code, 0, "{error}");
    let asked: Vec<_> = commands
        .server
        .asked()
        .into_iter()
        .map(|asked| asked.line)
        .collect();
    let path = format!("GET /v1/runs/{RUN}/events");
    assert_eq!(asked, [path.clone(), format!("{path}?cursor=3")]);
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines.len(), 6);
    assert!(
        lines[4].contains("step_succeeded") && lines[4].ends_with("attempt=1 output=7"),
        "{out}"
    );
}

#[test]
fn a_run_is_watched_until_it_ends() {
    let commands = Commands::new();
    let records = records();
    // The stream breaks, and goes on after the last event that came.
    commands
        .server
        .answer(Canned::events(&events(&records[..3])));
    commands
        .server
        .answer(Canned::events(&events(&records[3..])));
    let (code, out, error) = commands.run(&["runs", "watch", RUN]);
    assert_eq!(code, 0, "{error}");
    let asked = commands.server.asked();
    assert_eq!(asked[0].line, format!("GET /v1/runs/{RUN}/events"));
    assert_eq!(asked[0].header("accept"), Some("text/event-stream"));
    assert_eq!(asked[0].header("last-event-id"), None);
    assert_eq!(asked[1].header("last-event-id"), Some("3"));
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines.len(), 5, "{out}");
    assert_eq!(
        lines[3],
        "4  2026-01-31T12:00:00Z  step_succeeded  pay  attempt=1 output=7"
    );
    assert!(!out.contains('\x1b'), "{out}");

    commands.server.answer(Canned::events(&events(&records)));
    let (_, out, _) = commands.run(&["runs", "watch", RUN, "--json"]);
    let printed: Vec<Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(printed, records);
    commands.server.asked();

    let mut failed = records.clone();
    failed[4] = json!({
        "seq": 5, "run_id": RUN, "type": "run_failed", "at": "2026-01-31T12:00:00Z",
        "error": { "failed_step_id": "pay", "code": "http_503", "message": "busy", "compensation_results": [] }
    });
    commands.server.answer(Canned::events(&events(&failed)));
    let (code, _, error) = commands.run(&["runs", "watch", RUN]);
    assert_eq!(code, 1);
    assert!(error.contains("pay: http_503: busy"), "{error}");

    let problem = json!({ "code": "not_found", "detail": "there is no such run" });
    commands.server.answer(Canned::json(404, &problem));
    let (code, _, error) = commands.run(&["runs", "watch", RUN]);
    assert!(
        code == 1 && error.contains("there is no such run"),
        "{error}"
    );
}

#[test]
fn a_run_is_repeated_under_a_key() {
    let commands = Commands::new();
    let started = json!({ "results": [{ "status": "queued", "index": 0, "run_id": "new", "poll_url": "/" }] });
    for (args, body, said) in [
        (vec!["--reuse"], json!({ "reuse": true }), "started new\n"),
        (
            vec!["--compensations"],
            json!({ "compensations": true }),
            "started new\n",
        ),
    ] {
        let args = [vec!["runs", "retry", RUN], args].concat();
        let (line, sent, out) = commands.ask(&args, Canned::json(202, &started));
        assert_eq!(
            (line, sent),
            (format!("POST /v1/runs/{RUN}/retry"), body),
            "{args:?}"
        );
        assert_eq!(out, said);
    }
    let plan = commands.folder.path().join("plan.json");
    std::fs::write(&plan, r#"{ "steps": [] }"#).unwrap();
    let plan = plan.to_str().unwrap();
    commands.server.answer(Canned::json(202, &started));
    let (code, _, error) = commands.run(&[
        "runs",
        "retry",
        RUN,
        "--plan",
        plan,
        "--idempotency-key",
        "k",
    ]);
    assert_eq!(code, 0, "{error}");
    let asked = commands.server.asked().remove(0);
    assert_eq!(asked.header("idempotency-key"), Some("k"));
    assert_eq!(asked.body, r#"{"plan":{ "steps": [] }}"#);
    for args in [
        &["runs", "retry"][..],
        &["runs", "retry", RUN, "--status", "failed"],
        &["runs", "retry", RUN, "--compensations", "--reuse"],
        &["runs", "cancel", "--older-than", "soon"],
        &["runs", "pause", RUN, "--dry-run"],
    ] {
        let (code, _, error) = commands.run(args);
        assert_eq!(code, 2, "{args:?}: {error}");
    }
}

#[test]
fn many_runs_are_controlled_by_a_filter() {
    let commands = Commands::new();
    let row = |id: &str, status: &str| json!({ "run_id": id, "status": status });
    let pages = [
        json!({ "items": [row("a", "running"), row("b", "succeeded")], "next_cursor": "c" }),
        json!({ "items": [row("c", "paused"), row("d", "queued"), row("e", "running")] }),
    ];
    let filter = [
        "runs",
        "cancel",
        "--workflow",
        "expense",
        "--older-than",
        "2026-01-31",
        "--tenant",
        "acme",
    ];
    let list = || {
        for page in &pages {
            commands.server.answer(Canned::json(200, page));
        }
    };
    list();
    let (code, out, error) = commands.run(&[&filter[..], &["--dry-run"]].concat());
    assert_eq!(code, 0, "{error}");
    assert_eq!(
        out,
        "cancel would be sent to 4 runs: 1 paused, 1 queued, 2 running\n"
    );
    let asked = commands.server.asked();
    let path =
        "GET /v1/runs?limit=1000&workflow=expense&until=2026%2D01%2D31T00%3A00%3A00Z&tenant=acme";
    assert_eq!(asked[0].line, path);
    assert_eq!(asked[1].line, format!("{path}&cursor=c"));
    assert_eq!(asked.len(), 2);

    commands
        .server
        .answer(Canned::json(200, &json!({ "items": [] })));
    let more = [
        "runs",
        "pause",
        "--tool",
        "pay",
        "--code",
        "http_500",
        "--since",
        "2026-01-31",
        "--dry-run",
    ];
    assert_eq!(commands.run(&more).0, 0);
    let path =
        "GET /v1/runs?limit=1000&tool=pay&code=http%5F500&since=2026%2D01%2D31T00%3A00%3A00Z";
    assert_eq!(commands.server.asked()[0].line, path);

    // Requests go out at the same time: any of them gets any of the answers.
    list();
    let problem = |status, code: &str| Canned::json(status, &json!({ "code": code }));
    commands.server.answer(done());
    commands.server.answer(problem(409, "run_ended"));
    commands.server.answer(problem(429, "rate_limit_exceeded"));
    commands.server.answer(problem(403, "permission_denied"));
    commands.server.answer(done());
    let (code, out, error) = commands.run(&[&filter[..], &["--reason", "old", "--json"]].concat());
    assert_eq!(code, 1, "{error}");
    assert!(error.contains("it failed for 1 of 4 runs"), "{error}");
    let summary: Value = serde_json::from_str(&out).unwrap();
    let expected = json!({
        "matched": 4, "done": 2, "accepted": 0, "skipped": 1, "failed": 1,
        "codes": { "run_ended": 1, "permission_denied": 1 }
    });
    assert_eq!(summary, expected);
    let asked = commands.server.asked();
    let mut lines: Vec<_> = asked[2..].iter().map(|asked| &*asked.line).collect();
    lines.sort_unstable();
    lines.dedup();
    let paths = ["a", "c", "d", "e"].map(|id| format!("POST /v1/runs/{id}/cancel?tenant=acme"));
    assert_eq!(lines, paths);
    assert!(
        asked[2..].iter().all(|a| a.body.contains("\"old\"")),
        "{asked:?}"
    );

    // A retry has a key of its own for each round.
    let failed = json!({ "items": [row("a", "failed"), row("b", "running")] });
    commands.server.answer(Canned::json(200, &failed));
    let again = json!({ "results": [{ "run_id": "new", "duplicate": true }] });
    commands.server.answer(Canned::json(202, &again));
    let (code, out, error) = commands.run(&["runs", "retry", "--status", "failed"]);
    assert_eq!(code, 0, "{error}");
    assert_eq!(out, "1 run: 0 done, 1 skipped\n  1 duplicate\n");
    let asked = commands.server.asked();
    assert_eq!(asked[0].line, "GET /v1/runs?limit=1000&status=failed");
    assert_eq!(asked[1].header("idempotency-key"), Some("bulk"));
}
