//! The binary as a user runs it.

use std::{
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::command::{Folder, Up, errors, get, omnilink, output};

#[test]
fn a_first_start_takes_events_and_a_restart_keeps_them() {
    let dir = Folder::new();
    let dir = dir.path();
    let began = Instant::now();
    let up = Up::start(dir);
    assert!(began.elapsed() < Duration::from_secs(10));
    let key = std::fs::read_to_string(dir.join("data/admin.key")).unwrap();
    let key = key.trim();
    assert!(up.banner.contains(key), "shown the first time");
    assert_eq!(up.banner.matches("curl").count(), 3);
    for file in ["admin.key", "secret.key"] {
        let mode = std::fs::metadata(dir.join("data").join(file))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let run = |args: &[&str]| {
        let mut command = omnilink(dir, args);
        output(
            command
                .env("OMNILINK_URL", &up.url)
                .args(["--data-dir", "data"]),
        )
    };

    // Keys.
    let (code, made, error) = run(&[
        "keys",
        "create",
        "--name",
        "shop",
        "--permission",
        "events:write",
        "--json",
    ]);
    assert_eq!(code, 0, "{error}");
    let made: Value = serde_json::from_str(&made).unwrap();
    assert_eq!(
        (&made["tenant"], &made["kind"]),
        (&json!("default"), &json!("service"))
    );
    let (_, listed, _) = run(&["keys", "list", "--json"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["items"][0]["id"], made["id"]);
    assert_eq!(listed["items"][1]["kind"], "person");
    let (_, table, _) = run(&["keys", "list"]);
    assert!(
        table.starts_with("ID ") && table.contains("events:write"),
        "{table}"
    );

    // Events: new ones, a duplicate, a refused one, and a line that is not JSON.
    let mut file = std::fs::File::create(dir.join("events.jsonl")).unwrap();
    // A byte order mark.
    write!(file, "\u{feff}").unwrap();
    for n in 0..120 {
        let event = json!({ "id": n.to_string(), "source": "/s", "type": "t", "data": { "n": n } });
        writeln!(file, "{event}\n").unwrap();
    }
    writeln!(
        file,
        "{{\"id\":\"7\",\"source\":\"/s\",\"type\":\"t\",\"data\":{{\"n\":7}}}}"
    )
    .unwrap();
    writeln!(file, "{{\"id\":\"x\"}}\nnonsense").unwrap();
    drop(file);
    let (code, summary, _) = run(&["send", "events.jsonl", "--json"]);
    assert_eq!(code, 1);
    let summary: Value = serde_json::from_str(&summary).unwrap();
    let counts =
        ["events", "ingested", "duplicates", "refused"].map(|n| summary[n].as_u64().unwrap());
    assert_eq!(counts, [123, 120, 1, 2], "{summary}");
    let mut lines: Vec<_> = summary["refusals"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| (r["line"].as_u64().unwrap(), r["code"].as_str().unwrap()))
        .collect();
    lines.sort_unstable();
    assert_eq!(lines, [(242, "missing_source"), (243, "invalid_payload")]);
    let (_, summary, _) = run(&["send", "events.jsonl"]);
    assert!(
        summary.contains("0 ingested, 121 duplicates, 2 refused"),
        "{summary}"
    );

    // All parts report metrics and their lag.
    let counted = [
        "omnilink_admission_records_total{outcome=\"admitted\"} 120",
        "omnilink_processor_lag_records{processor=\"admission\"}",
        "omnilink_port_events_total{result=\"ingested\"} 120",
    ];
    let began = Instant::now();
    loop {
        let metrics = get(&up.url, "/metrics");
        if counted.iter().all(|line| metrics.contains(line)) {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{metrics}");
        std::thread::sleep(Duration::from_millis(50));
    }

    let id = made["id"].as_str().unwrap();
    assert_eq!(run(&["keys", "revoke", id]).0, 0);
    let (code, _, error) = run(&["keys", "revoke", id]);
    assert_eq!(code, 1);
    assert!(
        error.contains("404") && error.contains("no such key"),
        "{error}"
    );

    let (_, shown, _) = run(&["config", "--json"]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let postgres = std::fs::read_to_string(dir.join("data/postgres.url"));
    match shown["postgres"]["url"].as_str() {
        Some(url) => assert!(
            url.contains(":***@") && url != postgres.unwrap().trim(),
            "{url}"
        ),
        None => assert!(postgres.is_err()),
    }

    // A second start keeps all data and does not print the key.
    assert_eq!(up.stop(), 0);
    let up = Up::start(dir);
    assert!(!up.banner.contains(key));
    assert_eq!(
        std::fs::read_to_string(dir.join("data/admin.key"))
            .unwrap()
            .trim(),
        key
    );
    let (_, summary, _) = output(
        omnilink(dir, &["send", "events.jsonl", "--data-dir", "data"]).env("OMNILINK_URL", &up.url),
    );
    assert!(summary.contains("121 duplicates"), "{summary}");
    assert!(!errors(dir).contains("omni."), "{}", errors(dir));
    assert_eq!(up.stop(), 0);
}

#[test]
fn a_second_signal_stops_immediately() {
    let dir = Folder::new();
    // Without projections: an immediate stop would leave the embedded Postgres running.
    let mut up = Up::start_with(dir.path(), &["--without", "projections"]);
    let key = std::fs::read_to_string(dir.path().join("data/admin.key")).unwrap();
    // An unfinished request keeps the drain from completing.
    let mut stream = TcpStream::connect(up.url.trim_start_matches("http://")).unwrap();
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{{",
        key.trim()
    );
    stream.write_all(head.as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    up.signal();
    std::thread::sleep(Duration::from_millis(500));
    assert!(up.child.try_wait().unwrap().is_none(), "did not drain");
    up.signal();
    let began = Instant::now();
    assert!(!up.child.wait().unwrap().success());
    assert!(began.elapsed() < Duration::from_secs(1));
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
}

#[test]
fn usage_and_failures_have_their_exit_codes() {
    let dir = Folder::new();
    let run = |args: &[&str]| output(&mut omnilink(dir.path(), args));
    for args in [
        &["upp"][..],
        &["keys", "create"],
        &["readers", "grant", "analyst"],
        &["send"],
        &["up", "--no-such"],
        &[],
    ] {
        let (code, _, error) = run(args);
        assert_eq!(code, 2, "{args:?}: {error}");
    }
    assert!(run(&["upp"]).2.contains("'up'"), "did you mean");
    for args in [
        &["--help"][..],
        &["up", "--help"],
        &["keys", "create", "--help"],
        &["readers", "grant", "--help"],
        &["readers", "revoke", "--help"],
        &["readers", "list", "--help"],
        &["send", "--help"],
        &["config", "--help"],
        &["check", "--help"],
        &["test", "--help"],
        &["graph", "--help"],
    ] {
        let (code, help, _) = run(args);
        assert_eq!(code, 0);
        assert!(help.contains("Examples:"), "{args:?}: {help}");
        assert!(!help.contains('\u{1b}'), "colour without a terminal");
    }
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, _) = run(&["completions", shell]);
        assert_eq!(code, 0);
        assert!(script.contains("omnilink"));
    }

    let (code, _, error) = run(&["send", "none.jsonl"]);
    assert_eq!(code, 1);
    assert!(
        error.starts_with("error: no key: OMNILINK_KEY is not set"),
        "{error}"
    );
    let nobody = "http://127.0.0.1:9";
    let mut command = omnilink(dir.path(), &["keys", "list"]);
    let (code, _, error) = output(command.env("OMNILINK_KEY", "x").env("OMNILINK_URL", nobody));
    assert_eq!(code, 1);
    assert!(
        error.contains("nothing answers at http://127.0.0.1:9; start `omnilink up`"),
        "{error}"
    );

    std::fs::write(
        dir.path().join("omnilink.yaml"),
        "lisen: 1\ntopics: { partitions: x }\n",
    )
    .unwrap();
    let (code, _, error) = run(&["config"]);
    assert_eq!(code, 1);
    assert!(
        error.contains("2 errors") && error.contains("did you mean `listen`?"),
        "{error}"
    );
}

#[test]
fn config_prints_the_effective_configuration_without_secrets() {
    let dir = Folder::new();
    std::fs::write(
        dir.path().join("other.yaml"),
        "postgres: { url: 'postgres://u:hush@h/db' }\ntrusted_proxies: [10.0.0.1]\n",
    )
    .unwrap();
    let run = |args: &[&str]| {
        let mut command = omnilink(dir.path(), args);
        output(command.env("OMNILINK__TOPICS__PREFIX", "x."))
    };
    // Before or after the subcommand.
    let (code, before, error) = run(&["--config", "other.yaml", "config", "--json"]);
    assert_eq!(code, 0, "{error}");
    let (_, after, _) = run(&["config", "--json", "--config", "other.yaml"]);
    assert_eq!(before, after);
    let shown: Value = serde_json::from_str(&before).unwrap();
    assert_eq!(shown["postgres"]["url"], "postgres://u:***@h/db");
    assert_eq!(shown["topics"]["prefix"], "x.");
    assert_eq!(shown["listen"], "127.0.0.1:7700");
    let (_, text, _) = run(&["config", "--config", "other.yaml"]);
    assert!(
        text.contains("\ntrusted_proxies:\n  - \"10.0.0.1/32\"\n"),
        "{text}"
    );
    assert!(!text.contains("hush"));

    // The output is itself a valid configuration.
    std::fs::write(dir.path().join("omnilink.yaml"), text.replace("u:***", "u")).unwrap();
    let (code, _, error) = run(&["config"]);
    assert_eq!(code, 0, "{error}");
}

/// A file with more lines than a limit allows at once is sent as fast as it allows.
#[test]
fn send_waits_for_a_rate_limit() {
    let dir = Folder::new();
    let dir = dir.path();
    let policies = "{tenant: {limit: 30, window_s: 3, per: tenant}}";
    let up = Up::start_env(dir, &[], &[("OMNILINK__LIMITS__POLICIES", policies)]);
    let lines = (0..75).map(|n| {
        format!(
            "{}\n",
            json!({ "id": n.to_string(), "source": "/s", "type": "t", "data": n })
        )
    });
    std::fs::write(dir.join("events.jsonl"), lines.collect::<String>()).unwrap();
    let began = Instant::now();
    let args = ["send", "events.jsonl", "--give-up-after", "2", "--json"];
    let mut command = omnilink(dir, &args);
    let (code, sent, error) = output(
        command
            .env("OMNILINK_URL", &up.url)
            .args(["--data-dir", "data"]),
    );
    assert_eq!(code, 0, "{error}");
    let sent: Value = serde_json::from_str(&sent).unwrap();
    assert_eq!(
        (&sent["ingested"], &sent["refused"]),
        (&json!(75), &json!(0)),
        "{sent}"
    );
    // Three windows: the third begins 6 s after the first.
    assert!(
        began.elapsed() >= Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(up.stop(), 0);
}
