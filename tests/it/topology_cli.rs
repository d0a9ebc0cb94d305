//! The commands `check`, `test` and `graph`, and SIGHUP.

use std::{path::Path, time::Duration};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    command::{Up, errors, omnilink, output},
    wait_until,
};

const ORDERS: &str = include_str!("../topologies/right/orders.yaml");

fn put(dir: &Path, name: &str, text: &str) {
    std::fs::create_dir_all(dir.join("topologies")).unwrap();
    std::fs::write(dir.join("topologies").join(name), text).unwrap();
}

#[test]
fn check_reports_all_problems_at_once() {
    let dir = TempDir::new().unwrap();
    let run = |args: &[&str]| output(&mut omnilink(dir.path(), args));
    assert_eq!(run(&["check"]).0, 0, "no folder, nothing wrong");
    put(dir.path(), "orders.yaml", ORDERS);
    let (code, text, _) = run(&["check"]);
    assert_eq!((code, text.as_str()), (0, "1 file checked, no errors\n"));
    put(
        dir.path(),
        "a.yaml",
        "name: a\nsource: { topic: x }\nsteps:\n  - mapp: . = 1\n  - dedupe: { window: 1h }\n",
    );
    put(dir.path(), "b.yaml", "nam: b\n");
    let (code, text, error) = run(&["check"]);
    assert_eq!(code, 1);
    assert!(
        text.starts_with("topologies/a.yaml:4:5: error: there is no step `mapp`\n  |\n4 |   - mapp: . = 1\n  |     ^^^^\n  = did you mean `map`?\n"),
        "{text}"
    );
    assert!(
        text.contains("topologies/b.yaml:1:1: error: a topology has no `nam`"),
        "{text}"
    );
    assert!(error.contains("5 errors in 2 files"), "{error}");
    assert!(!text.contains('\u{1b}'), "colour without a terminal");
    let (code, json, _) = run(&["check", "--json", "topologies/a.yaml"]);
    assert_eq!(code, 1);
    let json: Value = serde_json::from_str(&json).unwrap();
    let first = &json["items"][0];
    assert_eq!(
        (
            &first["file"],
            &first["line"],
            &first["column"],
            &first["severity"]
        ),
        (
            &json!("topologies/a.yaml"),
            &json!(4),
            &json!(5),
            &json!("error")
        )
    );
    // `up` does not start with them.
    let (code, _, error) = run(&["up", "--listen", "127.0.0.1:0"]);
    assert_eq!(code, 1);
    assert!(
        error.contains("did you mean `map`?") && error.contains("5 errors"),
        "{error}"
    );
    assert!(!dir.path().join("data").exists());
}

#[test]
fn tests_and_graph_are_printed() {
    let dir = TempDir::new().unwrap();
    put(dir.path(), "orders.yaml", ORDERS);
    let run = |args: &[&str]| output(&mut omnilink(dir.path(), args));
    let (code, text, error) = run(&["test"]);
    assert_eq!(code, 0, "{text}{error}");
    assert!(text.contains("ok      topologies/orders.yaml:"), "{text}");
    assert!(text.ends_with("5 tests passed\n"), "{text}");
    put(
        dir.path(),
        "orders.yaml",
        &ORDERS.replace("type: order.paid, tenant", "type: order.sold, tenant"),
    );
    let (code, text, error) = run(&["test", "topologies/orders.yaml"]);
    assert_eq!(code, 1);
    assert!(
        text.contains("- \"order.sold\"") && text.contains("+ \"order.paid\""),
        "{text}"
    );
    assert!(error.contains("1 of 5 tests failed"), "{error}");
    let (code, json, _) = run(&["test", "--json"]);
    assert_eq!(code, 1);
    let json: Value = serde_json::from_str(&json).unwrap();
    let passed: Vec<bool> = json["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| i["passed"].as_bool().unwrap())
        .collect();
    assert_eq!(passed, [false, true, true, true, true]);
    let (code, graph, _) = run(&["graph"]);
    assert_eq!(code, 0);
    let expected = "flowchart LR
  t_ingress[/\"ingress\"/]
  p_admission[\"<b>admission</b><br/>normalise → key → dedupe → route\"]:::system
  t_events[/\"events\"/]
  p_projections[\"<b>projections</b><br/>project\"]:::system
  db_events[(\"events\")]
  db_entities[(\"entities\")]
  t_shop_2e_orders[/\"shop.orders\"/]
  p_orders[\"<b>orders</b><br/>map → key\"]:::user
  t_omnilink_2e_rekey_2e_orders[/\"omnilink.rekey.orders\"/]
  p_orders_20_2[\"<b>orders 2</b><br/>dedupe → key\"]:::user
  t_omnilink_2e_rekey_2e_orders_2e_2[/\"omnilink.rekey.orders.2\"/]
  p_orders_20_3[\"<b>orders 3</b><br/>rate_limit → route\"]:::user
  t_throttled[/\"throttled\"/]
  t_ingress --> p_admission
  p_admission --> t_events
  t_events --> p_projections
  p_projections --> db_events
  p_projections --> db_entities
  t_shop_2e_orders --> p_orders
  p_orders --> t_omnilink_2e_rekey_2e_orders
  t_omnilink_2e_rekey_2e_orders --> p_orders_20_2
  p_orders_20_2 --> t_omnilink_2e_rekey_2e_orders_2e_2
  t_omnilink_2e_rekey_2e_orders_2e_2 --> p_orders_20_3
  p_orders_20_3 -->|over shop| t_throttled
  p_orders_20_3 --> t_ingress
  classDef system fill:#eee,stroke:#888
  classDef user fill:#def,stroke:#48a
";
    assert_eq!(graph, expected);
}

#[test]
fn the_graph_shows_what_starts_workflows() {
    let dir = TempDir::new().unwrap();
    let workflows = dir.path().join("workflows");
    std::fs::create_dir(&workflows).unwrap();
    let started = r#"
name: invoice.send
version: "1.0.0"
plan: { steps: [ { id: a, tool: noop } ] }
on: [ { event: order.* }, { event: order.paid, when: 'true' }, { cron: "0 9 * * 1", tz: Europe/Berlin } ]
"#;
    let requested = "name: other\nversion: '1.0.0'\nplan: { steps: [ { id: a, tool: noop } ] }\n";
    std::fs::write(workflows.join("send.yaml"), started).unwrap();
    std::fs::write(workflows.join("other.yaml"), requested).unwrap();
    let (code, graph, error) = output(&mut omnilink(dir.path(), &["graph"]));
    assert_eq!(code, 0, "{error}");
    let workflow = "w_invoice_2e_send";
    let times = "c_0_20_9_20__2a__20__2a__20_1_20_Europe_2f_Berlin";
    for line in [
        &format!("{workflow}([\"<b>invoice.send</b><br/>workflow\"]):::user"),
        &format!("p_admission -->|\"order.*\"| {workflow}"),
        &format!("p_admission -->|\"order.paid\"| {workflow}"),
        &format!("{times}{{{{\"0 9 * * 1 Europe/Berlin\"}}}}"),
        &format!("{times} --> {workflow}"),
        &format!("{workflow} --> t_commands"),
    ] {
        assert!(
            graph.lines().any(|one| one.trim() == line),
            "{line}: {graph}"
        );
    }
    assert!(!graph.contains("other"), "{graph}");
}

fn derive(from: &str) -> String {
    format!(
        "name: derived
source: {{ topic: events }}
steps:
  - filter: .type == \"{from}\"
  - map: |
      .id = string!(.id) + \"/next\"
      .type = \"next\"
  - route: [ {{ to: ingress }} ]
"
    )
}

#[test]
fn files_are_reloaded_on_sighup() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    put(dir, "derived.yaml", &derive("a"));
    let up = Up::start_with(dir, &["--without", "projections"]);
    let hangup = || {
        let pid = rustix::process::Pid::from_child(&up.child);
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    };
    let get = |path: &str| {
        let url = format!("{}{path}", up.url);
        let out = std::process::Command::new("curl")
            .args(["-s", &url])
            .output()
            .unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    let admitted = || {
        let metrics = get("/metrics");
        let line = metrics
            .lines()
            .find(|line| line.starts_with("omnilink_admission_records_total{outcome=\"admitted\"}"))
            .unwrap_or("x 0");
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let send = |id: &str, kind: &str| {
        let event = json!({ "id": id, "source": "/s", "type": kind, "data": {} });
        std::fs::write(dir.join("one.jsonl"), event.to_string()).unwrap();
        let mut command = omnilink(dir, &["send", "one.jsonl", "--data-dir", "data"]);
        let (code, _, error) = output(command.env("OMNILINK_URL", &up.url));
        assert_eq!(code, 0, "{error}");
    };
    send("1", "a");
    wait_until("an event and what is derived from it", || admitted() == 2);
    let ready: Value = serde_json::from_str(&get("/readyz")).unwrap();
    assert_eq!(ready["parts"]["topologies"]["status"], "ok");
    assert!(
        get("/metrics")
            .contains("omnilink_processor_lag_records{processor=\"topology.derived\"} 0")
    );

    // Invalid files change nothing and are reported.
    put(
        dir,
        "derived.yaml",
        &derive("b").replace("filter", "fliter"),
    );
    hangup();
    wait_until("an error", || errors(dir).contains("continue unchanged"));
    assert!(errors(dir).contains("derived.yaml:4:5: error: there is no step `fliter`"));
    send("2", "a");
    wait_until("what ran goes on", || admitted() == 4);

    put(dir, "derived.yaml", &derive("b"));
    hangup();
    wait_until("a new set", || errors(dir).contains("were reloaded"));
    send("3", "b");
    wait_until("the new one runs", || admitted() == 6);
    send("4", "a");
    wait_until("the event", || admitted() == 7);

    std::fs::remove_file(dir.join("topologies/derived.yaml")).unwrap();
    let before = errors(dir).matches("were reloaded").count();
    hangup();
    wait_until("an empty set", || {
        errors(dir).matches("were reloaded").count() > before
    });
    send("5", "b");
    wait_until("the event alone", || admitted() == 8);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(admitted(), 8);
    assert_eq!(up.stop(), 0);
}
