//! Runs are controlled and decided at a node that carries out none of them: it answers what the other node's runs say.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{
    LogKind, TestLog,
    command::{Folder, Up, get, omnilink, output},
    env_or_skip,
    projections::Database,
    wait_until,
};

/// A run that nobody has started.
const NOBODY: &str = "7dbd6d41-6f85-5f7b-98af-6637f5372c2e";

/// Two nodes on one Kafka and Postgres, and keys of persons.
struct Case {
    /// Takes requests; runs are not carried out here.
    door: Up,
    /// Carries out runs.
    other: Up,
    /// Of the person who starts runs.
    admin: String,
    /// Of another person of the same tenant.
    boss: String,
    /// Of a person of another tenant.
    stranger: String,
    database: Database,
    _folders: [Folder; 2],
}

/// A folder of a node, with two workflows.
fn folder(database: &Database, log: &TestLog) -> Folder {
    let folder = Folder::new();
    let workflows = folder.path().join("workflows");
    std::fs::create_dir(&workflows).unwrap();
    let asks = "name: asks\nversion: '1.0.0'\nplan:\n  steps:\n    - { id: ask, tool: approve, input: { message: 'Well?' } }\n    - { id: w, tool: wait, depends_on: [ask], input: { signal: go, timeout_s: 600 } }\n";
    let quick = "name: quick\nversion: '1.0.0'\nplan:\n  steps:\n    - { id: a, tool: noop }\n";
    for (name, text) in [("asks", asks), ("quick", quick)] {
        std::fs::write(workflows.join(format!("{name}.yaml")), text).unwrap();
    }
    let config = json!({
        "postgres": { "url": database.url() },
        "kafka": { "brokers": [env_or_skip("OMNILINK_TEST_KAFKA").unwrap()] },
        "topics": { "prefix": log.prefix, "partitions": 2, "replication_factor": 1 },
        "secret_key": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    });
    std::fs::write(folder.path().join("omnilink.yaml"), config.to_string()).unwrap();
    folder
}

fn uses_postgres(node: &Up) -> bool {
    let response = get(&node.url, "/readyz");
    let (_, body) = response.split_once("\r\n\r\n").unwrap();
    let ready: Value = serde_json::from_str(body).unwrap();
    ready["parts"]["postgres"]["status"] == "ok"
}

/// Sends a request; returns the status, and the last line of the answer.
fn post(node: &Up, key: &str, path: &str, more: &str, body: &Value) -> (u16, Value) {
    let mut stream = TcpStream::connect(node.url.trim_start_matches("http://")).unwrap();
    let body = body.to_string();
    let id = uuid::Uuid::now_v7();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: omnilink\r\nConnection: close\r\nContent-Type: application/json\r\nAuthorization: Bearer {key}\r\nIdempotency-Key: {id}\r\n{more}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let mut lines = body.lines();
    let last = lines.rfind(|line| line.starts_with('{')).unwrap();
    (
        head[9..12].parse().unwrap(),
        serde_json::from_str(last).unwrap(),
    )
}

fn create_key(node: &Up, admin: &str, tenant: &str, name: &str) -> String {
    let permissions = ["runs:write", "approvals:decide"];
    let body = json!({
        "name": name, "kind": "person", "tenant": tenant, "scopes": { "permissions": permissions }
    });
    let (status, made) = post(node, admin, "/v1/keys", "", &body);
    assert_eq!(status, 201, "{made}");
    made["key"].as_str().unwrap().to_owned()
}

impl Case {
    /// `None` without a broker or Postgres.
    fn start() -> Option<Self> {
        let database = Database::empty()?;
        let log = TestLog::new(LogKind::Kafka)?;
        let folders = [folder(&database, &log), folder(&database, &log)];
        let path = folders[0].path();
        let mut first = omnilink(path, &["keys", "create", "--first"]);
        let (code, _, error) = output(first.args(["--data-dir", "data"]));
        assert_eq!(code, 0, "{error}");
        let admin = std::fs::read_to_string(path.join("data/admin.key")).unwrap();
        let admin = admin.trim().to_owned();
        let door = Up::start_with(path, &["--without", "sagas"]);
        let other = Up::start_with(folders[1].path(), &[]);
        wait_until("Postgres is in use", || {
            uses_postgres(&door) && uses_postgres(&other)
        });
        let case = Self {
            boss: create_key(&door, &admin, "default", "boss"),
            stranger: create_key(&door, &admin, "other", "eve"),
            door,
            other,
            admin,
            database,
            _folders: folders,
        };
        // The other node has its partitions once it carries out a run of each.
        for _ in 0..4 {
            let (status, run) = case.post_start("quick", "Prefer: wait=50\r\n");
            assert_eq!(
                (status, &run["status"]),
                (200, &json!("succeeded")),
                "{run}"
            );
        }
        Some(case)
    }

    fn post_start(&self, workflow: &str, more: &str) -> (u16, Value) {
        let body = json!({
            "id": "1", "source": "/test", "type": "test", "workflow": { "name": workflow }, "input": {}
        });
        post(&self.door, &self.admin, "/v1/workflows", more, &body)
    }

    /// Starts a run that asks a person, and then waits for the signal `go`.
    fn run(&self) -> String {
        let (status, accepted) = self.post_start("asks", "");
        assert_eq!(status, 202, "{accepted}");
        let run_id = accepted["results"][0]["run_id"].as_str();
        run_id.unwrap().to_owned()
    }

    /// Returns the status of the answer, and its field `status` or its code.
    fn send(&self, key: &str, path: &str, body: &Value) -> (u16, String) {
        let (status, answer) = post(&self.door, key, path, "", body);
        let field = if status < 300 { "status" } else { "code" };
        let said = answer[field].as_str();
        (
            status,
            said.unwrap_or_else(|| panic!("{answer}")).to_owned(),
        )
    }

    fn control(&self, run: &str, what: &str, body: &Value) -> (u16, String) {
        self.send(&self.admin, &format!("/v1/runs/{run}/{what}"), body)
    }

    fn decide(&self, key: &str, run: &str, decision: &str) -> (u16, String) {
        // The third record of the run asks.
        let path = format!("/v1/approvals/{run}.3");
        self.send(key, &path, &json!({ "decision": decision }))
    }

    fn stop(self) {
        assert_eq!(self.door.stop(), 0);
        assert_eq!(self.other.stop(), 0);
    }
}

fn done() -> (u16, String) {
    (200, "done".to_owned())
}

fn refused(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

#[test]
fn a_node_answers_what_the_runs_of_another_one_say() {
    let Some(case) = Case::start() else {
        return;
    };
    let nothing = json!({});
    for _ in 0..3 {
        let run = case.run();
        let not_found = refused(404, "not_found");
        assert_eq!(case.control(NOBODY, "pause", &nothing), not_found);
        let path = format!("/v1/runs/{run}/cancel");
        assert_eq!(case.send(&case.stranger, &path, &nothing), not_found);

        assert_eq!(case.control(&run, "pause", &nothing), done());
        let again = case.control(&run, "pause", &nothing);
        assert_eq!(again, refused(409, "already_paused"));
        assert_eq!(case.control(&run, "resume", &nothing), done());
        let again = case.control(&run, "resume", &nothing);
        assert_eq!(again, refused(409, "not_paused"));

        let own = case.decide(&case.admin, &run, "approved");
        assert_eq!(own, refused(403, "self_approval"));
        assert_eq!(case.decide(&case.boss, &run, "approved"), done());
        // The same again changes nothing, and is as good as the first time.
        assert_eq!(case.decide(&case.boss, &run, "approved"), done());
        let late = case.decide(&case.boss, &run, "denied");
        assert_eq!(late, refused(409, "approval_not_open"));

        let go = json!({ "signal": "go" });
        assert_eq!(case.control(&run, "signal", &go), done());
        for what in ["cancel", "pause"] {
            let late = case.control(&run, what, &nothing);
            assert_eq!(late, refused(409, "run_ended"), "{what}");
        }
    }
    case.stop();
}

#[test]
fn an_action_on_many_runs_of_another_node_counts_those_that_refuse() {
    let Some(case) = Case::start() else {
        return;
    };
    let runs: Vec<_> = (0..24).map(|_| case.run()).collect();
    let paused = &runs[0];
    assert_eq!(case.control(paused, "pause", &json!({})), done());
    let count = |condition: &str| {
        let sql = format!("SELECT run_id FROM omnilink.runs WHERE {condition}");
        case.database.texts(&sql).len()
    };
    wait_until("the rows are there", || {
        count("workflow_name = 'asks'") == 24 && count("status = 'paused'") == 1
    });
    // As if the row came late: the run is asked once more.
    let late = format!("UPDATE omnilink.runs SET status = 'running' WHERE run_id = '{paused}'");
    case.database.run(&late);
    let began = Instant::now();
    let body = json!({ "action": "pause", "filter": { "workflow": "asks" } });
    let (status, last) = post(&case.door, &case.admin, "/v1/runs:batch", "", &body);
    let expected = json!({
        "status": "done", "matched": 24, "done": 23, "skipped": 1, "failed": 0, "codes": { "already_paused": 1 }
    });
    assert_eq!((status, last), (200, expected));
    // Without answers it would take three times 2 s.
    let took = began.elapsed();
    assert!(took < Duration::from_secs(6), "{took:?}");
    case.stop();
}
