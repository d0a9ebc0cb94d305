//! Sagas and admission on one log: events and starts lead to runs.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use omnilink::{
    admission::Admission,
    audit::{Entry, START},
    controls::SecretKeys,
    envelope::avro,
    log::header,
    stream::{
        dlq::redrive::{Pick, Redrive, Redriven},
        lane::Running,
    },
    workflows::{Catalog, Current, check_texts},
};

use super::{
    TestLog, read_all,
    sagas::{PARTITIONS, Processor},
};

/// Sagas and admission on one log.
pub struct Node {
    pub sagas: Processor,
    pub workflows: Current,
    secrets: Arc<SecretKeys>,
    pub admission: Option<Running>,
}

impl Node {
    pub fn start(test_log: &TestLog, files: &[&str]) -> Self {
        let sagas = Processor::start(test_log);
        let secrets = SecretKeys::new([&STANDARD.encode([1; 32])[..]]).unwrap();
        let mut node = Self {
            sagas,
            workflows: Current::new(catalog(files)),
            secrets: Arc::new(secrets),
            admission: None,
        };
        node.admit(test_log);
        node
    }

    pub fn admit(&mut self, test_log: &TestLog) {
        let admission = Admission::new(&self.sagas.names, PARTITIONS, 24 * 3_600_000, false)
            .with_secrets(Arc::clone(&self.secrets))
            .with_workflows(self.workflows.clone());
        let running = test_log.start_lane(&self.sagas.log, admission, &Arc::default());
        self.admission = Some(running);
    }

    /// How many events there are, but for those about runs, once there are so many.
    pub fn events(&self, at_least: usize) -> usize {
        let mut count = 0;
        for _ in 0..100 {
            let records = read_all(&*self.sagas.log, &self.sagas.names.events, at_least);
            let values = records.iter().map(|r| r.record.value.as_deref().unwrap());
            let kinds = values.map(|value| avro::decode_event(value).unwrap().0.kind.to_string());
            count = kinds.filter(|kind| !kind.starts_with("omnilink.")).count();
            if count >= at_least {
                break;
            }
        }
        count
    }

    /// How many runs there are, once there are so many: each has five records.
    pub fn runs(&self, at_least: usize) -> usize {
        self.sagas.histories(5 * at_least).len()
    }

    /// The dead letters: stage, code and message.
    pub fn letters(&self, at_least: usize) -> Vec<(String, String, String)> {
        let letters = read_all(&*self.sagas.log, &self.sagas.names.dlq, at_least);
        let letters = letters.into_iter().map(|letter| {
            let text = |name: &str| {
                let value = header(&letter.record.headers, &format!("omnilink.dlq.{name}"));
                String::from_utf8(value.unwrap().to_vec()).unwrap()
            };
            (text("stage"), text("code"), text("message"))
        });
        letters.collect()
    }

    /// The entries of the audit log about starts, once there are so many.
    pub fn starts(&self, at_least: usize) -> Vec<Entry> {
        let records = read_all(&*self.sagas.log, &self.sagas.names.audit, at_least);
        let values = records.iter().map(|r| r.record.value.as_deref().unwrap());
        let entries = values.map(|value| Entry::decode(value).unwrap());
        entries.filter(|entry| entry.action == START).collect()
    }

    pub fn redrive(&self) -> Redriven {
        let redrive = Redrive {
            log: &*self.sagas.log,
            names: &self.sagas.names,
            secrets: &self.secrets,
        };
        redrive.run(&Pick::All, &mut |_| true).unwrap()
    }
}

/// The catalog of these files of workflows.
pub fn catalog(files: &[&str]) -> Catalog {
    let files = files.iter().enumerate();
    let named = files.map(|(n, text)| (format!("{n}.yaml"), Ok((*text).to_owned())));
    let checked = check_texts([], named);
    let problems: Vec<_> = checked.problems.iter().map(|p| p.render(false)).collect();
    assert_eq!(problems, Vec::<String>::new());
    checked.catalog.unwrap()
}
