//! Personal data of goals: starts with sealed values, and where the values must not be.

use std::sync::Arc;

use omnilink::{
    commands::Command,
    controls::SecretKeys,
    guardian::{Kind, Slot},
    log::{Log, topics::Names},
    slots::seal,
};
use serde_json::{Value, json};

use super::{read_all, sagas};

/// What the placeholders of [`start`] stand for.
pub const EMAIL: &str = "ann@example.com";
pub const PHONE: u64 = 4_155_552_671;

/// The start of a run with a plan, as [`sagas::start`], whose placeholders `{EMAIL_1}` and `{PHONE_1}` have sealed values.
pub fn start(secrets: &SecretKeys, id: &str, plan: &Value, tools: &[Value]) -> (String, Command) {
    let params = json!({ "slots": { "EMAIL_1": "{EMAIL_1}", "PHONE_1": "{PHONE_1}" } });
    let (run, mut command) = sagas::start(id, plan, tools, &params);
    let slot = |kind: Kind, value: Value| Slot {
        kind,
        name: format!("{}_1", kind.name()),
        value,
    };
    let slots = [
        slot(Kind::Email, EMAIL.into()),
        slot(Kind::Phone, PHONE.into()),
    ];
    let mut body: Value = serde_json::from_str(&command.body).unwrap();
    body["sealed"] = seal(secrets, &run, &slots).into();
    command.body = body.to_string();
    (run, command)
}

/// The topics that hold what becomes of a run.
pub fn topics_of_runs(names: &Names) -> Vec<Arc<str>> {
    [
        &names.commands,
        &names.runs,
        &names.steps,
        &names.goals,
        &names.plans,
        &names.audit,
        &names.dlq,
    ]
    .map(Arc::clone)
    .to_vec()
}

/// Fails if a record of one of the topics has one of the texts in it, in its key, value or headers.
pub fn assert_nowhere(log: &dyn Log, topics: &[Arc<str>], texts: &[&str]) {
    for topic in topics {
        for fetched in read_all(log, topic, 0) {
            let record = &fetched.record;
            let headers = record.headers.iter();
            let headers = headers.filter_map(|(_, value)| value.as_deref());
            let parts = [record.key.as_deref(), record.value.as_deref()];
            for part in parts.into_iter().flatten().chain(headers) {
                let part = String::from_utf8_lossy(part);
                for text in texts {
                    assert!(!part.contains(text), "{text} is on {topic}: {part}");
                }
            }
        }
    }
}
