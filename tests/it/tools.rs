//! Operator commands as a user runs them: with a running `up`, which has the embedded log open, and without it.

use std::{
    io::{BufRead, BufReader, Write},
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::command::{Folder, Up, omnilink, output};

struct Bench {
    dir: Folder,
    up: Option<Up>,
}

impl Bench {
    fn new() -> Self {
        let dir = Folder::new();
        let up = Up::start_with(dir.path(), &["--without", "projections"]);
        Self { dir, up: Some(up) }
    }

    fn command(&self, args: &[&str]) -> std::process::Command {
        let mut command = omnilink(self.dir.path(), args);
        command.args(["--data-dir", "data"]);
        if let Some(up) = &self.up {
            command.env("OMNILINK_URL", &up.url);
        }
        command
    }

    fn run(&self, args: &[&str]) -> (i32, String, String) {
        output(&mut self.command(args))
    }

    /// The output of a command that must succeed.
    fn ok(&self, args: &[&str]) -> String {
        let (code, out, error) = self.run(args);
        assert_eq!(code, 0, "{args:?}: {out}{error}");
        out
    }

    fn json(&self, args: &[&str]) -> Value {
        let out = self.ok(&[args, &["--json"]].concat());
        serde_json::from_str(&out).unwrap_or_else(|e| panic!("{args:?}: {e}: {out}"))
    }

    fn lines(&self, args: &[&str]) -> Vec<Value> {
        let out = self.ok(&[args, &["--json"]].concat());
        out.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn send(&self, from: u64, to: u64) {
        let mut file = std::fs::File::create(self.dir.path().join("events.jsonl")).unwrap();
        for n in from..to {
            let event = json!({ "id": n.to_string(), "source": "/s", "type": format!("t{}", n % 2),
                "entity": { "type": "order", "external_id": (n % 5).to_string() }, "data": { "n": n } });
            writeln!(file, "{event}").unwrap();
        }
        drop(file);
        self.ok(&["send", "events.jsonl"]);
    }

    fn stop(&mut self) {
        assert_eq!(self.up.take().unwrap().stop(), 0);
    }
}

fn ids(lines: &[Value]) -> Vec<u64> {
    lines
        .iter()
        .map(|line| line["id"].as_str().unwrap().parse().unwrap())
        .collect()
}

#[test]
fn commands_work_with_and_without_a_running_node() {
    let mut bench = Bench::new();
    bench.send(0, 100);
    let deadline = Instant::now() + Duration::from_secs(20);
    let deadline = deadline + Duration::from_mins(3);
    while bench.json(&["lag"])["items"]
        .as_array()
        .unwrap()
        .iter()
        .any(|item| item["records"] != 0)
    {
        assert!(Instant::now() < deadline, "admission does not keep up");
    }
    let lag = bench.json(&["lag"]);
    let items = lag["items"].as_array().unwrap();
    assert_eq!(items.len(), 4 * 8, "of admission, planner, saga, workers");
    assert_eq!(
        items[3],
        json!({ "processor": "admission", "partition": 3, "records": 0, "age_s": 0.0 })
    );
    let events =
        || -> Vec<u64> { ids(&bench.lines(&["replay", "--type", "t1", "--entity", "order:3"])) };
    let expected: Vec<u64> = (0..100).filter(|n| n % 2 == 1 && n % 5 == 3).collect();
    assert_eq!(events(), expected);

    // `--follow` ends cleanly when the node stops.
    let mut following = bench
        .command(&["replay", "--follow", "--since", "1h", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut followed = BufReader::new(following.stdout.take().unwrap()).lines();
    for _ in 0..100 {
        followed.next().unwrap().unwrap();
    }
    bench.send(100, 101);
    let line: Value = serde_json::from_str(&followed.next().unwrap().unwrap()).unwrap();
    assert_eq!(line["id"], "100");

    // Interrupted, it keeps the events written to the file so far.
    let part = bench.dir.path().join("followed.ndjson.part");
    let mut writing = bench
        .command(&["replay", "--follow", "--into", "followed.ndjson"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    while !std::fs::read_to_string(&part).is_ok_and(|text| text.lines().count() == 101) {
        assert!(Instant::now() < deadline, "nothing is written");
        std::thread::sleep(Duration::from_millis(50));
    }
    let pid = rustix::process::Pid::from_child(&writing);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(writing.wait().unwrap().success());
    let followed_file = std::fs::read_to_string(bench.dir.path().join("followed.ndjson"));
    assert_eq!(followed_file.unwrap().lines().count(), 101);

    // The text and JSON outputs agree.
    assert_eq!(bench.ok(&["dlq", "show", "--all", "--json"]), "");
    let asked: [&[&str]; 5] = [
        &["topics", "list"],
        &["replay", "--entity", "order:2", "--as-of", "2100-01-01"],
        &["dlq", "list"],
        &["dlq", "redrive", "--all"],
        &["topics", "create", "shop.copy", "--partitions", "3"],
    ];
    let over_port: Vec<Value> = asked.iter().map(|args| bench.json(args)).collect();
    let state = &over_port[1];
    assert_eq!(
        (&state["version"], &state["state"]),
        (&json!(20), &json!({ "n": 97 }))
    );
    let topics = over_port[0]["items"].as_array().unwrap();
    assert!(topics.iter().all(|t| t["trouble"].is_null()), "{topics:?}");
    let of_events = topics
        .iter()
        .find(|t| t["name"] == "omnilink.events")
        .unwrap();
    assert_eq!(
        (&of_events["records"], &of_events["partitions"]),
        (&json!(101), &json!(8))
    );
    let copied = bench.json(&["replay", "--into", "topic:shop.copy"]);
    assert_eq!(copied["events"], 101);
    let parquet = bench.json(&["replay", "--into", "port.parquet", "--tenant", "default"]);
    assert_eq!(parquet["into"], "port.parquet");
    let whole = bench.ok(&["replay", "--json"]);
    bench.ok(&["replay", "--into", "events.ndjson"]);
    let file = bench.dir.path().join("events.ndjson");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), whole);

    // A key of a tenant reads its own events, and cannot operate the node.
    let key = bench.json(&[
        "keys",
        "create",
        "--tenant",
        "acme",
        "--permission",
        "admin",
    ]);
    let key = key["key"].as_str().unwrap();
    let theirs = output(
        bench
            .command(&["replay", "--json"])
            .env("OMNILINK_KEY", key),
    );
    assert_eq!((theirs.0, &*theirs.1), (0, ""));
    for args in [
        &["lag"][..],
        &["dlq", "list"],
        &["topics", "list"],
        &["replay", "--tenant", "default"],
    ] {
        let (code, _, error) = output(bench.command(args).env("OMNILINK_KEY", key));
        assert_eq!(code, 1);
        assert!(error.contains("permission_denied"), "{args:?}: {error}");
    }

    bench.stop();
    assert!(following.wait().unwrap().success());
    assert!(followed.next().is_none());
    // Without a node the log is read directly.
    for (args, before) in asked.iter().zip(&over_port) {
        let mut now = bench.json(args);
        let mut before = before.clone();
        if args[0] == "topics" {
            for list in [&mut now, &mut before] {
                for item in list["items"].as_array_mut().unwrap() {
                    item["records"] = Value::Null;
                }
            }
        }
        assert_eq!(now, before, "{args:?}");
    }
    assert_eq!(bench.ok(&["replay", "--json"]), whole);
    let again = bench.json(&["replay", "--into", "log.parquet"]);
    assert_eq!(again["events"], 101);
    for file in ["port.parquet", "log.parquet"] {
        let file = std::fs::File::open(bench.dir.path().join(file)).unwrap();
        let reader =
            parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        assert_eq!(reader.metadata().file_metadata().num_rows(), 101);
    }
    let people = bench.ok(&["replay", "--entity", "order:4", "--since", "1h"]);
    assert!(
        people
            .lines()
            .next()
            .unwrap()
            .ends_with("default t0 order:4 {\"n\":4}"),
        "{people}"
    );
}

/// Type and id may contain colons and bidirectional control characters.
#[test]
fn entity_names_are_unambiguous_and_printed_escaped() {
    let mut bench = Bench::new();
    let mut file = std::fs::File::create(bench.dir.path().join("events.jsonl")).unwrap();
    let entities = [
        ("erp:sale.order", "SO:1"),
        ("erp", "sale.order:SO:1"),
        ("erp:sale.order:SO", "1"),
        ("order", "a\u{202e}b\u{1b}[2J\u{200b}"),
    ];
    for (n, (kind, id)) in entities.iter().enumerate() {
        let event = json!({ "id": n.to_string(), "source": "/s", "type": "t",
            "entity": { "type": kind, "external_id": id }, "data": { "n": n, "text": "\u{2066}x" } });
        writeln!(file, "{event}").unwrap();
    }
    drop(file);
    bench.ok(&["send", "events.jsonl"]);
    let until = Instant::now() + Duration::from_mins(3);
    while bench.lines(&["replay"]).len() < entities.len() {
        assert!(Instant::now() < until, "admission does not keep up");
    }
    // Over the port, and on the log directly.
    for _ in 0..2 {
        for (n, (kind, id)) in entities.iter().enumerate() {
            let apart = ["--entity-type", kind, "--entity-id", id];
            let events = bench.lines(&[&["replay"][..], &apart].concat());
            assert_eq!(ids(&events), [n as u64]);
            let state = bench.json(&[&["replay", "--as-of", "2100-01-01"][..], &apart].concat());
            assert_eq!(
                (
                    &state["entity_type"],
                    &state["external_id"],
                    &state["state"]["n"]
                ),
                (&json!(kind), &json!(id), &json!(n))
            );
        }
        let (code, out, error) = bench.run(&["replay", "--entity", "erp:sale.order:SO:1"]);
        assert_eq!((code, &*out), (2, ""), "{error}");
        assert!(error.contains("--entity-type"), "{error}");
        let unseen =
            |c: char| c.is_control() && c != '\n' || "\u{202e}\u{2066}\u{200b}".contains(c);
        let shown = [
            bench.ok(&["replay"]),
            bench.ok(&["replay", "--json"]),
            bench.ok(&[
                "replay",
                "--as-of",
                "2100-01-01",
                "--entity",
                &format!("order:{}", entities[3].1),
            ]),
            bench
                .run(&[
                    "replay",
                    "--as-of",
                    "2100-01-01",
                    "--entity",
                    "order:\u{202e}?",
                ])
                .2,
        ];
        for text in &shown {
            assert!(!text.contains(unseen), "{text:?}");
            assert!(text.contains("\\u202e"), "{text}");
        }
        assert!(
            shown[0].contains(r#"type "erp:sale.order" id "SO:1""#),
            "{}",
            shown[0]
        );
        assert!(
            shown[0].contains(r"order:a\u202eb\u001b[2J\u200b "),
            "{}",
            shown[0]
        );
        if bench.up.is_some() {
            bench.stop();
        }
    }
    for wrong in [
        &["replay", "--entity-type", "order"][..],
        &["replay", "--entity-id", "1"],
        &["replay", "--entity-type", "order", "--entity-id", ""],
        &[
            "replay",
            "--entity",
            "order:1",
            "--entity-type",
            "order",
            "--entity-id",
            "1",
        ],
    ] {
        assert_eq!(bench.run(wrong).0, 2, "{wrong:?}");
    }
}

#[test]
fn doctor_reports_problems() {
    let mut bench = Bench::new();
    let status = |found: &Value, check: &str| -> Vec<String> {
        let items = found["items"].as_array().unwrap().iter();
        items
            .filter(|item| item["check"] == check)
            .map(|item| item["status"].as_str().unwrap().to_owned())
            .collect()
    };
    let well = bench.json(&["doctor"]);
    for check in [
        "config",
        "disk",
        "secret key",
        "api key",
        "log",
        "node",
        "topics",
    ] {
        assert_eq!(status(&well, check), ["ok"], "{check}: {well}");
    }
    bench.stop();
    let alone = bench.json(&["doctor"]);
    for check in ["config", "disk", "secret key", "api key", "log", "topics"] {
        assert_eq!(status(&alone, check), ["ok"], "{check}: {alone}");
    }
    let run = |name: &str, value: &str| {
        let (code, out, _) = output(bench.command(&["doctor", "--json"]).env(name, value));
        assert_eq!(code, 1, "{out}");
        serde_json::from_str::<Value>(&out).unwrap()
    };
    let counts = run("OMNILINK__TOPICS__PARTITIONS", "5");
    assert!(
        status(&counts, "topics").iter().all(|s| s == "failed"),
        "{counts}"
    );
    assert!(
        counts.to_string().contains("set topics.partitions to 8"),
        "{counts}"
    );
    let config = run("OMNILINK__LISTEN", "nonsense");
    assert_eq!(status(&config, "config"), ["failed"]);
    let postgres = run(
        "OMNILINK__POSTGRES__URL",
        "postgres://hush:hush@127.0.0.1:9/x",
    );
    assert_eq!(status(&postgres, "postgres"), ["failed"]);
    assert!(!postgres.to_string().contains("hush"), "{postgres}");
}

#[test]
fn help_and_usage() {
    let dir = Folder::new();
    let run = |args: &[&str]| output(&mut omnilink(dir.path(), args));
    for args in [
        &["lag"][..],
        &["doctor"],
        &["topics", "list"],
        &["topics", "create"],
        &["dlq", "list"],
        &["dlq", "show"],
        &["dlq", "redrive"],
        &["replay"],
    ] {
        let (code, help, _) = run(&[args, &["--help"]].concat());
        assert_eq!(code, 0);
        assert!(help.contains("Examples:"), "{args:?}: {help}");
    }
    for args in [
        &["dlq", "redrive"][..],
        &["dlq", "redrive", "--all", "1:2"],
        &["dlq", "show", "one"],
        &["replay", "--entity", "order"],
        &["replay", "--since", "yesterday"],
        &["replay", "--as-of", "1h"],
        &["topics"],
    ] {
        let (code, _, error) = run(args);
        assert_eq!(code, 2, "{args:?}: {error}");
    }
    // Without a log: nothing is created.
    let (code, _, error) = run(&["lag"]);
    assert_eq!(code, 1);
    assert!(error.contains("there is no log in"), "{error}");
    assert!(!dir.path().join("data").exists());
}
