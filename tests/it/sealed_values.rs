//! Runs whose plans have placeholders of sealed values: workers get the values, and all records and rows have the placeholders.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use omnilink::{
    commands::Command,
    controls::SecretKeys,
    log::{Append, Log},
    runs::{Event, RunRecord},
    saga::Settings,
    stream::lane::Running,
};
use serde_json::{Value, json};

use crate::support::{
    TestLog, on_both_logs,
    port::Node,
    read_all,
    sagas::{Processor, claimed, result, start_sagas_with},
    tasks::Queue,
    values::{EMAIL, PHONE, assert_nowhere, start, topics_of_runs},
    worker::{self, Got, Worker, answer},
};

on_both_logs!(
    tools_on_kafka_get_values_only_if_their_file_says_so,
    placeholders_without_a_value_are_only_text,
);

fn secrets(n: u8) -> SecretKeys {
    SecretKeys::new([&*STANDARD.encode([n; 32])]).unwrap()
}

fn keys_of(node: &Node) -> SecretKeys {
    SecretKeys::open_or_create(node.dir.path()).unwrap()
}

/// The processor of runs on a node.
fn start_sagas(node: &Node) -> Running {
    let settings = Settings {
        secrets: Some(Arc::new(keys_of(node))),
        ..Settings::default()
    };
    start_sagas_with(node, settings)
}

async fn append(node: &Node, command: &Command) {
    let append = Append {
        topic: node.names.commands.clone(),
        record: command.encode().unwrap(),
    };
    node.log.append(vec![append], None).await.unwrap().unwrap();
}

/// The history of a run, once its last record is of this type.
async fn history(node: &Node, run: &str, last: &str) -> Vec<RunRecord> {
    for _ in 0..100 {
        let (log, topic) = (node.log.clone(), node.names.runs.clone());
        let read = move || read_all(log.as_ref(), &topic, 1);
        let records = tokio::task::spawn_blocking(read).await.unwrap();
        let records = records.iter();
        let records = records.map(|one| RunRecord::decode(one.record.value.as_deref().unwrap()));
        let history: Vec<_> = records
            .map(Option::unwrap)
            .filter(|record| record.run_id == run)
            .collect();
        if history.last().is_some_and(|record| record.kind == last) {
            return history;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("no {last}");
}

async fn assert_hidden(node: &Node) {
    let (log, topics) = (node.log.clone(), topics_of_runs(&node.names));
    let phone = PHONE.to_string();
    let search = move || assert_nowhere(log.as_ref(), &topics, &[EMAIL, &phone]);
    tokio::task::spawn_blocking(search).await.unwrap();
}

/// The outputs of steps that succeeded, and the errors of those that failed: code and message.
fn outcomes(history: &[RunRecord]) -> Vec<(String, Value)> {
    let outcomes = history.iter().filter_map(|record| match record.event()? {
        Event::StepSucceeded {
            step_id, output, ..
        } => Some((step_id.to_string(), output.value())),
        Event::StepFailed { step_id, error, .. } => {
            let error = json!([error.code, error.message]);
            Some((step_id.to_string(), error))
        }
        _ => None,
    });
    outcomes.collect()
}

/// Placeholders do not match it, and their values do.
fn schema() -> Value {
    json!({
        "type": "object", "required": ["to"],
        "properties": { "to": { "type": "string", "format": "email" }, "phone": { "type": "integer" } }
    })
}

fn tool(name: &str, worker: &Value, more: &Value) -> Value {
    let mut tool =
        json!({ "name": name, "worker": worker, "kind": "write", "risk": { "lane": "safe" } });
    let more = more.as_object().unwrap().clone();
    tool.as_object_mut().unwrap().extend(more);
    tool
}

#[tokio::test(flavor = "multi_thread")]
async fn http_workers_get_the_values_and_the_history_has_placeholders() {
    let node = Node::start().await;
    let worker = Worker::start(|got| {
        Box::pin(async move {
            match &*got.path {
                "/send" => {
                    let to = got.json()["input"]["to"].clone();
                    let output = json!({ "sent_to": to, EMAIL: true, "text": format!("sent to {EMAIL}.") });
                    answer(200, &[], output.to_string())
                }
                "/check" => {
                    let problem = [("content-type", "application/problem+json")];
                    let body = json!({ "code": "no_mailbox", "detail": format!("{EMAIL} or {PHONE}: unknown") });
                    answer(422, &problem, body.to_string())
                }
                _ => answer(200, &[], ""),
            }
        })
    })
    .await;
    let _sagas = start_sagas(&node);
    let _workers = worker::start(&node, &[]);
    let http = |path: &str| json!({ "http": { "url": worker.url(path) } });
    let undo = json!({ "input_schema": schema(), "compensate": { "tool": "unsend", "input": { "was": "{{ step.output.sent_to }}" } } });
    let tools = [
        tool("send", &http("/send"), &undo),
        tool("unsend", &http("/unsend"), &json!({})),
        tool("check", &http("/check"), &json!({})),
    ];
    let plan = json!({ "steps": [
        { "id": "a", "tool": "send", "input": {
            "to": "{{ params.slots.EMAIL_1 }}", "text": "Hi {{ params.slots.EMAIL_1 }}", "phone": "{PHONE_1}", "other": "{EMAIL_2}" } },
        { "id": "b", "tool": "check", "depends_on": ["a"], "input": { "again": "{{ steps.a.output.sent_to }}" } }
    ] });
    let (run, command) = start(&keys_of(&node), "1", &plan, &tools);
    append(&node, &command).await;
    let history = history(&node, &run, "run_failed").await;
    let expected = [
        (
            "a".to_owned(),
            json!({ "sent_to": "{EMAIL_1}", "{EMAIL_1}": true, "text": "sent to {EMAIL_1}." }),
        ),
        (
            "b".to_owned(),
            json!(["no_mailbox", "{EMAIL_1} or {PHONE_1}: unknown"]),
        ),
    ];
    assert_eq!(outcomes(&history), expected);

    let got: Vec<_> = worker.got().iter().map(Got::json).collect();
    let [send, check, unsend] = &got[..] else {
        panic!("{got:?}");
    };
    let input =
        json!({ "to": EMAIL, "text": format!("Hi {EMAIL}"), "phone": PHONE, "other": "{EMAIL_2}" });
    assert_eq!(send["input"], input);
    assert_eq!(check["input"], json!({ "again": EMAIL }));
    assert_eq!(unsend["input"], json!({ "was": EMAIL }));
    assert_eq!(unsend["execute"]["input"], input);
    assert_eq!(unsend["execute"]["output"]["sent_to"], EMAIL);
    assert_hidden(&node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_cannot_be_opened_fail_the_step() {
    let node = Node::start().await;
    let worker = Worker::start(|_| Box::pin(async { answer(200, &[], "") })).await;
    let _sagas = start_sagas(&node);
    let _workers = worker::start(&node, &[]);
    let tools = [tool(
        "send",
        &json!({ "http": { "url": worker.url("/send") } }),
        &json!({}),
    )];
    let plan = json!({ "steps": [{ "id": "a", "tool": "send", "input": { "to": "{EMAIL_1}" } }] });
    let (run, command) = start(&secrets(9), "1", &plan, &tools);
    append(&node, &command).await;
    let history = history(&node, &run, "run_failed").await;
    let outcomes = outcomes(&history);
    let [(step, error)] = &outcomes[..] else {
        panic!("{history:?}");
    };
    assert_eq!(
        (&**step, &error[0]),
        ("a", &json!("sealed_slots_unreadable"))
    );
    assert_eq!(worker.got().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn values_must_match_the_schema_of_the_tool() {
    let node = Node::start().await;
    let worker = Worker::start(|_| Box::pin(async { answer(200, &[], "") })).await;
    let url = worker.url("/send");
    let input =
        "input_schema: { type: object, properties: { to: { type: string, maxLength: 5 } } }";
    let file =
        format!("name: send\nkind: write\nworker: {{ http: {{ url: \"{url}\" }} }}\n{input}\n");
    worker::put_tools(&node, &[file]);
    let _sagas = start_sagas(&node);
    let _workers = worker::start(&node, &[]);
    let short = json!({ "input_schema": { "type": "object", "properties": { "to": { "type": "string", "maxLength": 5 } } } });
    let tools = [tool("send", &json!({ "http": { "url": url } }), &short)];
    for (n, to) in ["{EMAIL_1}", "{EMAIL_2}"].into_iter().enumerate() {
        let plan = json!({ "steps": [{ "id": "a", "tool": "send", "input": { "to": to } }] });
        let (run, command) = start(&keys_of(&node), &n.to_string(), &plan, &tools);
        append(&node, &command).await;
        let history = history(&node, &run, "run_failed").await;
        let outcomes = outcomes(&history);
        let error = &outcomes[0].1;
        assert_eq!(error[0], "invalid_input");
        assert!(
            error[1].as_str().unwrap().contains("`/input/to`"),
            "{error}"
        );
    }
    assert_eq!(worker.got().len(), 0);
    assert_hidden(&node).await;
}

fn tools_on_kafka_get_values_only_if_their_file_says_so(test_log: TestLog) {
    let keys = Arc::new(secrets(7));
    let settings = Settings {
        secrets: Some(keys.clone()),
        ..Settings::default()
    };
    let sagas = Processor::start_with(&test_log, settings);
    let kafka = json!({ "kafka": {} });
    let plan = json!({
        "steps": [{ "id": "a", "tool": "k", "input": { "to": "{EMAIL_1}" } }], "output": "{{ steps.a.output.to }}"
    });
    let sealed = tool("k", &kafka, &json!({ "pii": "sealed" }));
    for (n, tool) in [tool("k", &kafka, &json!({})), sealed].iter().enumerate() {
        let (run, command) = start(&keys, &n.to_string(), &plan, std::slice::from_ref(tool));
        sagas.send(&command);
        let history = sagas.history_until(&run, "run_failed");
        let outcomes = outcomes(&history);
        let [(step, error)] = &outcomes[..] else {
            panic!("{history:?}");
        };
        assert_eq!((&**step, &error[0]), ("a", &json!("sealed_slots")));
    }
    // Those calls are on no topic.
    assert_eq!(sagas.calls(0).len(), 0);
    assert_nowhere(&*sagas.log, &topics_of_runs(&sagas.names), &[EMAIL]);

    let plain = json!({ "pii": "plain", "input_schema": schema() });
    let plain = tool("k", &kafka, &plain);
    let (run, command) = start(&keys, "plain", &plan, &[plain]);
    sagas.send(&command);
    let call = sagas.calls(1).remove(0);
    assert_eq!((call.run_id.as_str(), &call.sealed), (&*run, &None));
    let input: Value = serde_json::from_str(&call.input).unwrap();
    assert_eq!(input, json!({ "to": EMAIL }));
    // What the worker writes is its own, and the history has none of it.
    sagas.send(&result(&call, Ok(json!({ "to": EMAIL }))));
    let history = sagas.history_until(&run, "run_succeeded");
    let expected = [("a".to_owned(), json!({ "to": "{EMAIL_1}" }))];
    assert_eq!(outcomes(&history), expected);
    assert_nowhere(
        &*sagas.log,
        std::slice::from_ref(&sagas.names.runs),
        &[EMAIL],
    );
}

fn placeholders_without_a_value_are_only_text(test_log: TestLog) {
    let keys = Arc::new(secrets(7));
    let settings = Settings {
        secrets: Some(keys.clone()),
        ..Settings::default()
    };
    let sagas = Processor::start_with(&test_log, settings);
    let plan = json!({ "steps": [{ "id": "a", "tool": "k", "input": { "to": "{EMAIL_2}" } }] });
    let tools = [tool("k", &json!({ "kafka": {} }), &json!({}))];
    let (_, command) = start(&keys, "1", &plan, &tools);
    sagas.send(&command);
    let call = sagas.calls(1).remove(0);
    assert_eq!((&*call.input, call.sealed), (r#"{"to":"{EMAIL_2}"}"#, None));
}

#[test]
fn claimed_tasks_have_the_values_and_their_rows_placeholders() {
    let Some(queue) = Queue::start(&["name: pay\nworker: { claim: {} }\n"]) else {
        return;
    };
    let node = &queue.node;
    let plan = json!({ "steps": [{ "id": "a", "tool": "pay", "input": { "to": "{EMAIL_1}" } }] });
    let tools = [claimed("pay")];
    queue.database.runtime.block_on(async {
        let (run, command) = start(&keys_of(node), "1", &plan, &tools);
        append(node, &command).await;
        let task = queue.claim(&json!({})).await.remove(0);
        assert_eq!(task["input"], json!({ "to": EMAIL }));
        let output = json!({ "outcome": "succeeded", "output": { "to": EMAIL } });
        let completed = queue.complete(&task, &output).await;
        assert_eq!(completed.status, 200, "{}", completed.text);
        let history = history(node, &run, "run_succeeded").await;
        let expected = [("a".to_owned(), json!({ "to": "{EMAIL_1}" }))];
        assert_eq!(outcomes(&history), expected);
        // A failure, too.
        let (run, command) = start(&keys_of(node), "2", &plan, &tools);
        append(node, &command).await;
        let task = queue.claim(&json!({})).await.remove(0);
        let error = json!({ "code": "no", "message": format!("no {EMAIL}") });
        let failed = json!({ "outcome": "failed", "error": error });
        let completed = queue.complete(&task, &failed).await;
        assert_eq!(completed.status, 200, "{}", completed.text);
        let history = self::history(node, &run, "run_failed").await;
        let expected = [("a".to_owned(), json!(["no", "no {EMAIL_1}"]))];
        assert_eq!(outcomes(&history), expected);
        // Sealed with a key that this node does not have.
        let (run, command) = start(&secrets(9), "3", &plan, &tools);
        append(node, &command).await;
        let claims = queue.claim(&json!({ "wait_s": 3 })).await;
        assert_eq!(claims, Vec::<Value>::new());
        let history = self::history(node, &run, "run_failed").await;
        assert_eq!(outcomes(&history)[0].1[0], "sealed_slots_unreadable");
        assert_hidden(node).await;
    });
    queue.wait_for(
        "SELECT string_agg(DISTINCT input, ',') || ' ' || count(sealed) || ' ' || count(*) FILTER (WHERE sealed LIKE '%ann@%') \
         FROM omnilink.tasks",
        r#"{"to":"{EMAIL_1}"} 3 0"#,
    );
}
