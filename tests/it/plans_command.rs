//! `omnilink plans` and `runs feedback`: what they send to a node, and what they print of its answers.

use serde_json::{Value, json};

use crate::support::{
    canned::{Canned, Server},
    command::{Folder, omnilink, output},
};

const RUN: &str = "7dbd6d41-6f85-5f7b-98af-6637f5372c2e";
const PLAN: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e";

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

    /// Runs a command for which the node has this answer; returns what it sent and what it printed.
    fn ask(&self, args: &[&str], canned: Canned) -> (String, Value, String) {
        self.server.answer(canned);
        let mut command = omnilink(self.folder.path(), args);
        let (code, out, error) = output(
            command
                .env("OMNILINK_URL", &self.server.url)
                .env("OMNILINK_KEY", "omni.k.s")
                .args(["--data-dir", "data"]),
        );
        assert_eq!(code, 0, "{args:?}: {error}");
        let asked = self.server.asked().remove(0);
        let body = serde_json::from_str(&asked.body).unwrap_or_default();
        (asked.line, body, out)
    }
}

fn explained(source: &str, workflow: &str) -> Value {
    json!({
        "goal": "g", "template": "Pay {ID}", "slots": { "ID": "7", "ID_1": "7" }, "guardian": { "verdict": "pass", "score": 0.0 },
        "stages": [
            { "stage": "template", "verdict": "miss" },
            { "stage": "catalog", "verdict": "hit", "workflow": workflow, "score": 1.0 }
        ],
        "source": source, "workflow": { "name": workflow, "version": "1.0.0" }
    })
}

#[test]
fn cached_plans_are_listed_shown_and_forgotten() {
    let commands = Commands::new();
    let plan = json!({
        "id": PLAN, "template": "Pay {ID}", "source": "llm", "hash": "ab", "run_id": RUN, "invalid": "tool_changed",
        "created_at": "2026-01-31T12:00:00Z", "expires_at": "2026-02-01T12:00:00Z", "plan": { "steps": [] }, "tools": {}, "slots": {},
        "labels": [{ "template": "Settle {ID}", "score": 0.9, "agrees": true, "at": "2026-01-31T12:00:00Z" }]
    });
    let list = Canned::json(200, &json!({ "items": [plan] }));
    let (line, _, out) = commands.ask(&["plans", "list", "--tenant", "a b"], list);
    assert!(
        line.starts_with("GET /v1/plans?limit=100&tenant=a%20b"),
        "{line}"
    );
    assert!(
        out.contains("Pay {ID}") && out.contains("not used: tool_changed"),
        "{out}"
    );
    let (line, _, out) = commands.ask(&["plans", "show", PLAN], Canned::json(200, &plan));
    assert!(line.starts_with(&format!("GET /v1/plans/{PLAN}")), "{line}");
    assert!(
        out.contains("Settle {ID}") && out.contains("the same plan"),
        "{out}"
    );
    let gone = Canned::json(204, &Value::Null);
    let (line, _, out) = commands.ask(&["plans", "forget", PLAN], gone);
    assert!(
        line.starts_with(&format!("DELETE /v1/plans/{PLAN}")),
        "{line}"
    );
    assert_eq!(out.trim(), "forgotten");
}

#[test]
fn a_goal_is_explained() {
    let commands = Commands::new();
    let canned = Canned::json(200, &explained("catalog", "pay"));
    let args = ["plans", "explain", "Pay 7", "--params", r#"{"a":1}"#];
    let (line, body, out) = commands.ask(&args, canned);
    assert!(line.starts_with("POST /v1/plans:explain"), "{line}");
    assert_eq!(body, json!({ "goal": "Pay 7", "params": { "a": 1 } }));
    assert!(out.contains("ID_1 = 7"), "{out}");
    assert!(
        out.contains("The run would get the workflow pay 1.0.0."),
        "{out}"
    );
}

#[test]
fn a_goal_that_is_denied_or_flagged_is_explained_as_that() {
    let commands = Commands::new();
    for (verdict, expected) in [
        ("denied", "The run would be denied by the guardian."),
        (
            "flagged",
            "pay 1.0.0, and a person would have to approve it first.",
        ),
    ] {
        let mut canned = explained("catalog", "pay");
        canned["guardian"]["verdict"] = verdict.into();
        let (_, _, out) = commands.ask(&["plans", "explain", "Pay 7"], Canned::json(200, &canned));
        assert!(out.contains(expected), "{out}");
        assert_eq!(out.contains("The run would get"), verdict == "flagged");
    }
}

#[test]
fn goals_of_a_file_are_evaluated() {
    let commands = Commands::new();
    let file = commands.folder.path().join("goals.jsonl");
    std::fs::write(&file, "{\"goal\":\"Pay 7\",\"intent\":\"refund\"}\n\n").unwrap();
    let args = ["plans", "eval", file.to_str().unwrap(), "--json"];
    let (_, body, out) = commands.ask(&args, Canned::json(200, &explained("catalog", "pay")));
    assert_eq!(body, json!({ "goal": "Pay 7" }));
    let counts: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&counts["goals"], &counts["false_hits"]),
        (&json!(1), &json!(1))
    );
    let failure = json!({ "goal": "Pay 7", "intent": "refund", "found": "pay" });
    assert_eq!(counts["failures"][0], failure);
}

#[test]
fn feedback_says_good_or_bad() {
    let commands = Commands::new();
    let given = |good: bool| json!({ "run_id": RUN, "good": good, "source": "cache" });
    let args = ["runs", "feedback", RUN, "--good"];
    let (line, body, out) = commands.ask(&args, Canned::json(200, &given(true)));
    assert!(
        line.starts_with(&format!("POST /v1/runs/{RUN}/feedback")),
        "{line}"
    );
    assert_eq!((body, out.trim()), (json!({ "good": true }), "recorded"));
    let mut bad = given(false);
    bad["forgotten"] = PLAN.into();
    let args = ["runs", "feedback", RUN, "--bad", "--reason", "no"];
    let (_, body, out) = commands.ask(&args, Canned::json(200, &bad));
    assert_eq!(body, json!({ "good": false, "reason": "no" }));
    assert!(
        out.contains(&format!("the plan {PLAN} is no longer cached")),
        "{out}"
    );
}
