//! What the emergency controls hold: lanes keep their partitions, take nothing, and go on without loss; and what a whole node shows
//! and writes.

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use omnilink::{
    admission::Admission,
    base::clock::{Clock, SystemClock},
    commands::Command,
    controls::{Controls, EmergencyChange, EmergencyState, SecretKeys, Tail},
    envelope::avro,
    log::{
        Fetched, Log, Record,
        local::{LocalLog, LocalOptions},
        topics::Names,
    },
    stream::{
        lane::Running,
        progress::{ProcessorStatus, Progress},
    },
};
use serde_json::{Value, json};

use crate::support::{
    LogKind, TestLog, append,
    command::{Folder, Up, errors, get, omnilink, output},
    env_or_skip, on_both_logs, read_all,
    topology::{self, json_record, numbers},
    wait_until,
};

on_both_logs!(
    admission_is_held_and_goes_on_without_loss,
    topologies_are_held_and_go_on_without_loss,
);

const PARTITIONS: u32 = 4;

struct Switches {
    controls: Arc<Controls>,
    runtime: tokio::runtime::Runtime,
    _tail: Tail,
}

impl Switches {
    fn new(test_log: &TestLog, log: &Arc<dyn Log>, names: &Names) -> Self {
        let secrets = SecretKeys::open_or_create(test_log.dir.path()).unwrap();
        let topic = names.controls.clone();
        let (controls, tail) = Controls::start(Arc::clone(log), topic, secrets).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        assert!(runtime.block_on(controls.wait_readable(Duration::from_secs(30))));
        Self {
            controls,
            runtime,
            _tail: tail,
        }
    }

    fn set(&self, change: EmergencyChange) {
        let change = EmergencyChange {
            reason: "drill".into(),
            ..change
        };
        let now = SystemClock.now();
        let changing = self.controls.change_emergency(&change, "test", now);
        self.runtime.block_on(changing).unwrap();
    }

    fn kill_switch(&self, on: bool) {
        self.set(EmergencyChange {
            kill_switch: Some(on),
            ..EmergencyChange::default()
        });
    }

    fn events(&self, disabled: Option<&str>) {
        self.set(EmergencyChange {
            disabled: [("events".to_owned(), disabled.map(str::to_owned))].into(),
            ..EmergencyChange::default()
        });
    }
}

fn envelopes(ids: std::ops::Range<usize>) -> Vec<Record> {
    let one = |id: usize| Record {
        key: Some(format!("acme/order/{}", id % 7).into()),
        value: Some(
            json!({
                "specversion": "1.0", "id": id.to_string(), "source": "/shop", "type": "t",
                "entitytype": "order", "entityid": (id % 7).to_string(), "data": {}
            })
            .to_string()
            .into(),
        ),
        headers: vec![("omnilink-tenant".into(), Some("acme".into()))],
    };
    ids.map(one).collect()
}

fn ids(events: &[Fetched]) -> Vec<usize> {
    let id = |fetched: &Fetched| {
        let (event, _) = avro::decode_event(fetched.record.value.as_ref().unwrap()).unwrap();
        event.id.parse().unwrap()
    };
    let mut ids: Vec<usize> = events.iter().map(id).collect();
    ids.sort_unstable();
    ids
}

fn wait_for_hold(progress: &Progress, by: &str) {
    wait_until("the hold", || match progress.status() {
        ProcessorStatus::Held(why) => why.contains(by),
        _ => false,
    });
    assert!(progress.trouble().unwrap().starts_with("held: "));
}

fn admission_is_held_and_goes_on_without_loss(test_log: TestLog) {
    let log = test_log.open("a");
    let names = Names::new(&test_log.prefix);
    log.provision(&names.specs(PARTITIONS), true).unwrap();
    let switches = Switches::new(&test_log, &log, &names);
    let start = |log: &Arc<dyn Log>| -> (Running, Arc<Progress>) {
        let admission = Admission::new(&names, PARTITIONS, 24 * 3_600_000, false)
            .with_controls(Arc::clone(&switches.controls));
        let progress = Arc::<Progress>::default();
        (test_log.start_lane(log, admission, &progress), progress)
    };
    let (running, progress) = start(&log);
    append(&*log, &names.ingress, envelopes(0..20)).unwrap();
    assert_eq!(read_all(&*log, &names.events, 20).len(), 20);

    switches.events(Some("the log moves"));
    wait_for_hold(&progress, "`events` is disabled: the log moves");
    append(&*log, &names.ingress, envelopes(10..50)).unwrap();
    switches.kill_switch(true);
    switches.events(None);
    wait_for_hold(&progress, "the kill switch is on: drill (test)");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(read_all(&*log, &names.events, 20).len(), 20);

    // Another node takes over what is held, and holds it too.
    let second = (test_log.kind == LogKind::Kafka).then(|| test_log.open("b"));
    let (_running, progress) = match &second {
        None => (running, progress),
        Some(second) => {
            let (on_second, progress) = start(second);
            wait_for_hold(&progress, "kill switch");
            drop(running);
            append(&*log, &names.ingress, envelopes(50..60)).unwrap();
            std::thread::sleep(Duration::from_secs(2));
            wait_for_hold(&progress, "kill switch");
            assert_eq!(read_all(&*log, &names.events, 20).len(), 20);
            (on_second, progress)
        }
    };
    switches.kill_switch(false);
    let count = if second.is_some() { 60 } else { 50 };
    let events = read_all(&*log, &names.events, count);
    assert_eq!(ids(&events), (0..count).collect::<Vec<_>>());
    wait_until("running", || progress.status() == ProcessorStatus::Running);
    // It holds and goes on again.
    switches.kill_switch(true);
    wait_for_hold(&progress, "kill switch");
    append(&*log, &names.ingress, envelopes(count..count + 5)).unwrap();
    switches.kill_switch(false);
    let events = read_all(&*log, &names.events, count + 5);
    assert_eq!(ids(&events), (0..count + 5).collect::<Vec<_>>());
}

fn topologies_are_held_and_go_on_without_loss(test_log: TestLog) {
    let fixture = topology::Fixture::new(&test_log);
    let (orders, out) = (
        format!("{}orders", fixture.foreign),
        format!("{}out", fixture.foreign),
    );
    let file = format!(
        "name: copy\nsource: {{ topic: {orders} }}\nsteps: [ {{ key: [id] }}, {{ dedupe: {{ window: 1h }} }}, {{ route: [ {{ to: {out} }} ] }} ]\n"
    );
    let set = topology::load(
        test_log.dir.path(),
        &[("copy.yaml", &file)],
        &test_log.prefix,
    );
    let log = Arc::clone(&fixture.log);
    let switches = Switches::new(&test_log, &log, &fixture.names);
    let mut deployment = fixture
        .deployment
        .with_controls(Arc::clone(&switches.controls));
    deployment.deploy(&set).unwrap();
    let send = |numbers: std::ops::Range<u64>| {
        let records = numbers.map(|n| json_record(&n.to_string(), &json!({ "id": n, "n": n })));
        append(&*log, &orders, records.collect()).unwrap();
    };
    send(0..10);
    assert_eq!(read_all(&*log, &out, 10).len(), 10);
    // `events` concerns admission alone.
    switches.events(Some("moves"));
    send(10..20);
    assert_eq!(read_all(&*log, &out, 20).len(), 20);
    switches.kill_switch(true);
    for (_, progress) in deployment.progress() {
        wait_for_hold(&progress, "kill switch");
    }
    send(15..40);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(read_all(&*log, &out, 20).len(), 20);
    switches.kill_switch(false);
    let mut copied = numbers(&read_all(&*log, &out, 40));
    copied.sort_unstable();
    assert_eq!(copied, (0..40).collect::<Vec<_>>());
}

/// Runs a command of the node in `dir`, which listens at `url`.
fn on(url: &str, dir: &Path, args: &[&str]) -> (i32, String, String) {
    let mut command = omnilink(dir, args);
    output(
        command
            .args(["--data-dir", "data"])
            .env("OMNILINK_URL", url),
    )
}

fn json_of(url: &str, dir: &Path, args: &[&str]) -> Value {
    let (code, out, error) = on(url, dir, &[args, &["--json"]].concat());
    assert!(code == 0 || args == ["doctor"], "{out}{error}");
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out} {error}"))
}

fn ready(url: &str) -> Value {
    let response = get(url, "/readyz");
    let (_, body) = response.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap()
}

/// The states on each partition of `commands`, by their versions.
fn states(log: &dyn Log, topic: &str) -> Vec<Vec<EmergencyState>> {
    let partitions = log.partitions(topic).unwrap();
    let mut states = vec![Vec::new(); partitions as usize];
    for fetched in read_all(log, topic, partitions as usize) {
        let command = Command::decode(&fetched.record.value.unwrap()).unwrap();
        assert_eq!((&*command.kind, &*command.tenant), ("controls", "-"));
        assert!(command.run_id.is_empty() && fetched.record.key.is_none());
        states[fetched.partition as usize].push(serde_json::from_str(&command.body).unwrap());
    }
    states
}

#[test]
fn a_node_shows_what_is_in_force_and_tells_every_partition_of_commands() {
    let folder = Folder::new();
    let dir = folder.path();
    let up = Up::start_with(dir, &[]);
    let set = |url: &str, args: &[&str]| {
        let all = [&["controls", "set"], args, &["--reason", "incident 7"]].concat();
        json_of(url, dir, &all)
    };
    let none = on(&up.url, dir, &["controls", "set", "--reason", "x"]);
    assert_eq!(none.0, 2, "{}", none.2);
    let bad = on(
        &up.url,
        dir,
        &["controls", "set", "--disable", "event=x", "--reason", "x"],
    );
    assert!(
        bad.0 == 1 && bad.2.contains("no feature `event`"),
        "{}",
        bad.2
    );
    set(
        &up.url,
        &["--kill-switch", "on", "--disable", "tool:pay=a=b"],
    );
    let now = set(
        &up.url,
        &["--safe-mode", "on", "--allow", "crm:*", "--allow", "read"],
    );
    assert_eq!(now["disabled"], json!({ "tool:pay": "a=b" }));
    assert_eq!(now["allowed_operations"], json!(["crm:*", "read"]));
    let (_, table, error) = on(&up.url, dir, &["controls", "show"]);
    let shown = |line: &str| table.lines().any(|text| text.starts_with(line));
    assert!(shown("kill_switch        ON"), "{table}");
    assert!(shown("operator_takeover  off"), "{table}");
    assert!(table.contains("allowed: crm:*, read"), "{table}");
    assert!(error.contains("version 2, changed by admin at "), "{error}");
    wait_until("/readyz shows it", || {
        let ready = ready(&up.url);
        let part = |name: &str| ready["parts"][name]["detail"].as_str().unwrap_or_default();
        let (controls, admission) = (part("controls"), part("admission"));
        assert_ne!(ready["status"], "down", "{ready}");
        controls.contains("kill_switch since 20")
            && controls.contains("incident 7 (admin)")
            && controls.contains("tool:pay disabled since")
            && admission.starts_with("held: the kill switch is on")
    });
    let doctor = json_of(&up.url, dir, &["doctor"]);
    let items = doctor["items"].as_array().unwrap();
    let controls = items.iter().find(|item| item["check"] == "controls");
    let controls = controls.unwrap_or_else(|| panic!("{doctor}"));
    assert_eq!(controls["status"], "warning");
    let lag = json_of(&up.url, dir, &["lag"]);
    let of_admission = lag["items"].as_array().unwrap().iter();
    let mut of_admission = of_admission.filter(|item| item["processor"] == "admission");
    assert!(of_admission.all(|item| item["held"].is_string()), "{lag}");
    assert_eq!(up.stop(), 0);

    let bad = [("OPERATOR_TAKEOVER", "ture")];
    let refused = output(omnilink(dir, &["up", "--data-dir", "data"]).envs(bad));
    assert!(
        refused.0 == 1 && refused.2.contains("OPERATOR_TAKEOVER"),
        "{}",
        refused.2
    );

    // The topic's controls survive a restart, and the node adds its own.
    let up = Up::start_env(dir, &[], &[("OPERATOR_TAKEOVER", "true")]);
    let now = json_of(&up.url, dir, &["controls", "show"]);
    assert_eq!(
        (&now["kill_switch"], &now["version"]),
        (&json!(true), &json!(2))
    );
    assert_eq!(now["held_by_environment"], json!(["operator_takeover"]));
    let detail = ready(&up.url)["parts"]["controls"]["detail"].clone();
    assert!(
        detail
            .as_str()
            .unwrap()
            .contains("OPERATOR_TAKEOVER is set on this node"),
        "{detail}"
    );
    set(
        &up.url,
        &[
            "--kill-switch",
            "off",
            "--safe-mode",
            "off",
            "--allow-none",
            "--enable",
            "tool:pay",
        ],
    );
    wait_until("admission runs", || {
        ready(&up.url)["parts"]["admission"]["detail"] == ""
    });
    assert_eq!(up.stop(), 0);

    let options = LocalOptions::new(Arc::new(SystemClock));
    let log = LocalLog::open(&dir.join("data/log"), options).unwrap();
    let names = Names::new("omnilink.");
    let states = states(&log, &names.commands);
    assert!(states.len() > 1);
    for of_partition in &states {
        // Each change once: after the restart the node knew what it had appended.
        let versions: Vec<_> = of_partition.iter().map(|state| state.version).collect();
        assert_eq!(versions, [1, 2, 3], "{}", errors(dir));
        let switches: Vec<_> = of_partition.iter().map(|state| state.kill_switch).collect();
        assert_eq!(switches, [true, true, false]);
        assert_eq!(of_partition[1].allowed_operations, ["crm:*", "read"]);
    }
}

/// On Kafka anybody may write to `ingress` while the port is closed: `lag` and `doctor`, which read Kafka by themselves, say that it is
/// held.
#[test]
fn tools_without_a_node_say_that_kafka_input_is_held() {
    let Some(test_log) = TestLog::new(LogKind::Kafka) else {
        return;
    };
    let dir = test_log.dir.path();
    let config = json!({
        "kafka": { "brokers": [env_or_skip("OMNILINK_TEST_KAFKA").unwrap()] },
        "topics": { "prefix": test_log.prefix, "partitions": 2, "replication_factor": 1 },
        "secret_key": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "postgres": { "url": "postgres://nobody:none@127.0.0.1:9/none" },
    });
    std::fs::write(dir.join("omnilink.yaml"), config.to_string()).unwrap();
    let first = ["keys", "create", "--first", "--data-dir", "data"];
    let (code, _, error) = output(&mut omnilink(dir, &first));
    assert_eq!(code, 0, "{error}");
    let up = Up::start_with(dir, &[]);
    let elsewhere = dir.join("second");
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::copy(dir.join("omnilink.yaml"), elsewhere.join("omnilink.yaml")).unwrap();
    let second = Up::start_with(&elsewhere, &[]);
    json_of(
        &up.url,
        dir,
        &[
            "controls",
            "set",
            "--kill-switch",
            "on",
            "--reason",
            "drill",
        ],
    );
    for node in [&up, &second] {
        wait_until("held", || {
            let ready = ready(&node.url);
            let detail = ready["parts"]["admission"]["detail"].as_str();
            detail.is_some_and(|detail| detail.starts_with("held: "))
        });
    }
    let names = Names::new(&test_log.prefix);
    let log = test_log.open("producer");
    append(&*log, &names.ingress, envelopes(0..10)).unwrap();
    std::thread::sleep(Duration::from_secs(2));

    let direct = |args: &[&str]| {
        let mut command = omnilink(dir, args);
        let (_, out, error) = output(command.args(["--data-dir", "data", "--json"]));
        let read: Value =
            serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{error}"));
        read["items"].as_array().unwrap().clone()
    };
    let lag = direct(&["lag"]);
    let held = lag.iter().filter(|item| item["held"].is_string());
    let held: BTreeSet<_> = held
        .map(|item| item["processor"].as_str().unwrap())
        .collect();
    assert_eq!(held, ["admission"].into(), "{lag:?}");
    let doctor = direct(&["doctor"]);
    let says = |check: &str, text: &str| {
        let mut found = doctor.iter().filter(|item| item["check"] == check);
        found.any(|item| item["detail"].as_str().unwrap().contains(text))
    };
    assert!(says("controls", "kill_switch since 20"), "{doctor:?}");
    assert!(
        says("processors", "admission: held: the kill switch is on"),
        "{doctor:?}"
    );
    assert!(says("processors", "10 records wait"), "{doctor:?}");
    assert!(!says("processors", "stalled"), "{doctor:?}");

    json_of(
        &second.url,
        dir,
        &[
            "controls",
            "set",
            "--kill-switch",
            "off",
            "--reason",
            "over",
        ],
    );
    let events = read_all(&*log, &names.events, 10);
    assert_eq!(ids(&events), (0..10).collect::<Vec<_>>());
    assert_eq!((up.stop(), second.stop()), (0, 0));
    for of_partition in states(&*log, &names.commands) {
        let versions: BTreeSet<_> = of_partition.iter().map(|state| state.version).collect();
        assert!(versions.contains(&2), "{versions:?}");
    }
}
