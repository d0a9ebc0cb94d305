//! `GET /v1/approvals` shows the values of placeholders to keys that may decide, and to nobody else; no other route shows them.

use hyper::Method;
use omnilink::{
    controls::SecretKeys,
    guardian::{Kind, Slot},
    log::{Append, Log},
    projections::Projector,
    slots::seal,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    port::{Node, Response, scopes},
    projections::Database,
    runs::{Story, encoded, good},
    wait_until,
};

#[test]
fn deciders_see_the_values_of_placeholders() {
    let Some(database) = Database::new() else {
        return;
    };
    let store = Some(database.store());
    let dir = TempDir::new().unwrap();
    let node = database.runtime.block_on(Node::start_on(dir, None, store));
    let setup = database.setup_on(&node, &node.names.runs);
    let projector = Projector::start_runs(&setup, 1).unwrap();
    let keys = SecretKeys::open_or_create(node.dir.path()).unwrap();
    let params = json!({ "n": 1, "to": "{EMAIL_1}", "other": "{EMAIL_2}" });
    let slot = Slot {
        kind: Kind::Email,
        name: "EMAIL_1".into(),
        value: "ann@example.com".into(),
    };
    let mut records = Vec::new();
    let mut story = |run_of: &dyn Fn(&str) -> String| {
        let mut story = Story::start("acme", &params);
        story.answer("reserve", 1, good(&json!("R")));
        let sealed = seal(&keys, &run_of(&story.run_id), std::slice::from_ref(&slot));
        let mut body: Value = serde_json::from_str(&story.records[0].body).unwrap();
        body["sealed"] = sealed.into();
        story.records[0].body = body.to_string();
        records.extend(story.records.clone());
        story.run_id
    };
    let run = story(&str::to_owned);
    // What was sealed for another run does not open.
    let foreign = story(&|_| "another".to_owned());
    let records = encoded(&records).into_iter().map(|record| Append {
        topic: node.names.runs.clone(),
        record,
    });
    let appended = node.log.append(records.collect(), None);
    database.runtime.block_on(appended).unwrap().unwrap();
    wait_until("two approvals", || {
        database.number("SELECT count(*) FROM omnilink.approvals") == 2
    });

    let get = async |path: &str, key: &str| -> Response {
        node.request(Method::GET, path, key, &Value::Null).await
    };
    database.runtime.block_on(async {
        let answer = get("/v1/approvals", &node.admin).await.json();
        let items = answer["items"].as_array().unwrap();
        let of = |run: &str| {
            let mut items = items.iter();
            items.find(|item| item["run_id"] == run).unwrap().clone()
        };
        let (shown, kept) = (of(&run), of(&foreign));
        let expected = json!({ "n": 1, "to": "ann@example.com", "other": "{EMAIL_2}" });
        assert_eq!(shown["input"], expected);
        assert_eq!(kept["input"], params);
        // The hash is that of the input as it was rendered: it is what a decision names.
        assert_eq!(shown["input_hash"], kept["input_hash"]);

        let reader = node
            .key("acme", scopes(&["approvals:read", "runs:read"]))
            .await;
        for (path, key) in [
            ("/v1/approvals".to_owned(), &reader),
            (format!("/v1/runs/{run}"), &node.admin),
            (format!("/v1/runs/{run}/events"), &node.admin),
        ] {
            let answer = get(&path, key).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
            assert!(
                !answer.text.contains("ann@example.com"),
                "{path}: {}",
                answer.text
            );
            assert!(answer.text.contains("{EMAIL_1}"), "{path}: {}", answer.text);
        }
    });
    drop(projector);
}
