//! Workers on a real Kafka, in Python: the example, with JSON, and a client with Avro.

use std::process::{Child, Command, Stdio};

use omnilink::runs::StepCommand;
use serde_json::{Value, json};

use crate::support::{
    LogKind, TestLog,
    command::{Folder, Up, omnilink, output},
    env_or_skip, read_all, wait_until,
};

struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends a start that waits for the end of the run.
fn post(up: &Up, key: &str, id: &str, amount: u32, wait_s: u32) -> Value {
    let body =
        json!({ "id": id, "source": "/shop", "type": "pay", "params": { "amount": amount } });
    let mut command = Command::new("curl");
    command.args([
        "-s",
        &format!("{}/v1/tasks", up.url),
        "-d",
        &body.to_string(),
    ]);
    for header in [
        format!("Authorization: Bearer {key}"),
        "Content-Type: application/json".into(),
        format!("Idempotency-Key: {id}"),
        format!("Prefer: wait={wait_s}"),
    ] {
        command.args(["-H", &header]);
    }
    let (code, out, error) = output(&mut command);
    assert_eq!(code, 0, "{error}");
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}"))
}

#[test]
fn workers_in_python_read_steps_and_write_commands() {
    let (Some(python), Some(brokers)) = (
        env_or_skip("OMNILINK_TEST_PYTHON"),
        env_or_skip("OMNILINK_TEST_KAFKA"),
    ) else {
        return;
    };
    let test_log = TestLog::new(LogKind::Kafka).unwrap();
    let dir = Folder::new();
    let write = |file: &str, text: &str| {
        let file = dir.path().join(file);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    };
    let tool = "name: pay\nkind: write\nrisk: { lane: safe }\nworker: { kafka: {} }\n";
    write("tools/pay.yaml", tool);
    let config = format!(
        "kafka: {{ brokers: [\"{brokers}\"] }}\ntopics: {{ prefix: \"{}\", partitions: 3, replication_factor: 1 }}\n\
         secret_key: AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
        test_log.prefix
    );
    write("omnilink.yaml", &config);
    let mut first = omnilink(dir.path(), &["keys", "create", "--first"]);
    let (code, _, error) = output(first.args(["--data-dir", "data"]));
    assert_eq!(code, 0, "{error}");
    let up = Up::start_with(dir.path(), &["--without", "projections"]);
    let key = std::fs::read_to_string(dir.path().join("data/admin.key")).unwrap();
    let key = key.trim();

    // Nobody works yet: a client with Avro answers, on every partition of the topic.
    let log = test_log.open("reader");
    let topic = test_log.topic("commands");
    let answered = std::thread::scope(|scope| {
        let waits = scope.spawn(|| post(&up, key, "avro", 5, 60));
        let calls = read_all(&*log, &test_log.topic("steps"), 1);
        let call = StepCommand::decode(calls[0].record.value.as_deref().unwrap()).unwrap();
        let script = format!("{}/tests/clients/results.py", env!("CARGO_MANIFEST_DIR"));
        let mut client = Command::new(&python);
        client.args([&script, &brokers, &up.url, &topic]);
        client.args([&call.tenant, &call.run_id, &call.step_id]);
        let (code, out, error) = output(&mut client);
        assert_eq!(code, 0, "{out}{error}");
        waits.join().unwrap()
    });
    assert_eq!(answered["status"], "succeeded", "{answered}");
    assert_eq!(answered["steps"][0]["output"], json!({ "by": "avro" }));
    assert_eq!(answered["steps"][0]["attempts"], 1, "{answered}");

    // The example works from here on. It reads the call that is over, too, and its result changes nothing.
    let example = format!(
        "{}/examples/workers/kafka_worker.py",
        env!("CARGO_MANIFEST_DIR")
    );
    let mut worker = Command::new(&python);
    worker
        .args([&example, &brokers, "pay"])
        .stdin(Stdio::null());
    worker
        .env("OMNILINK_URL", &up.url)
        .env("PREFIX", &test_log.prefix);
    let _worker = Worker(worker.spawn().unwrap());
    for id in ["1", "2", "3"] {
        let ended = post(&up, key, id, 5, 60);
        assert_eq!(ended["status"], "succeeded", "{ended}");
        let transfer = ended["steps"][0]["output"]["transfer"].as_str().unwrap();
        assert_eq!(
            transfer,
            format!("T-{}", &ended["run_id"].as_str().unwrap()[..8])
        );
    }
    let failed = post(&up, key, "4", 5_000, 60);
    assert_eq!(
        (&failed["status"], &failed["error"]["code"]),
        (&json!("failed"), &json!("no_funds")),
        "{failed}"
    );
    wait_until("all calls have results", || {
        let commands = read_all(&*log, &topic, 1);
        let text = |value: &[u8]| value.starts_with(b"{");
        let foreign = commands
            .iter()
            .filter(|one| one.record.value.as_deref().is_some_and(text));
        foreign.count() >= 5
    });
    assert_eq!(read_all(&*log, &test_log.topic("dlq"), 0).len(), 0);
    assert_eq!(up.stop(), 0);
}
