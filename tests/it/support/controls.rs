//! A fixture for `controls`: nodes that read the topic, and records as an earlier release writes them.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use apache_avro::{
    Schema, reader::datum::GenericDatumReader, types::Value as Avro,
    writer::datum::GenericDatumWriter,
};
use omnilink::{
    base::{
        clock::{Clock, Millis, SystemClock},
        id::{Login, Tenant},
    },
    controls::{Controls, Key, KeyKind, NewKey, SCHEMA, SCHEMA_ID, SecretKeys, Tail, Token},
    log::{Cleanup, Fetched, Log, LogError, Reader, Record},
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::{Intercept, LogKind, TestLog, append, port::scopes, read_all};

/// A log whose readers return one record, then nothing for `silence` polls.
pub struct Slow {
    pub inner: Arc<dyn Log>,
    pub silence: u32,
}

struct SlowReader {
    inner: Box<dyn Reader>,
    buffered: VecDeque<Fetched>,
    silence: u32,
    left: u32,
}

impl Reader for SlowReader {
    fn assign(&mut self, partition: u32, offset: u64) -> Result<(), LogError> {
        self.buffered.clear();
        self.left = self.silence;
        self.inner.assign(partition, offset)
    }

    fn at_end(&self, partition: u32) -> bool {
        self.left == 0 && self.buffered.is_empty() && self.inner.at_end(partition)
    }

    fn poll(&mut self, wait: Duration, out: &mut Vec<Fetched>) -> Result<(), LogError> {
        let mut records = Vec::new();
        self.inner.poll(Duration::from_millis(5), &mut records)?;
        self.buffered.extend(records);
        if self.left > 0 {
            self.left -= 1;
            std::thread::sleep(wait.min(Duration::from_millis(20)));
            return Ok(());
        }
        self.left = self.silence;
        out.extend(self.buffered.pop_front());
        Ok(())
    }
}

impl Intercept for Slow {
    fn inner(&self) -> &dyn Log {
        &*self.inner
    }

    fn reader(&self, topic: &str) -> Result<Box<dyn Reader>, LogError> {
        Ok(Box::new(SlowReader {
            inner: self.inner.reader(topic)?,
            buffered: VecDeque::new(),
            silence: self.silence,
            left: self.silence,
        }))
    }
}

/// A log with the topic `controls`, and nodes that read it.
pub struct Fixture {
    test_log: TestLog,
    pub log: Arc<dyn Log>,
    pub topic: String,
    pub runtime: Runtime,
}

/// A node's controls.
pub struct TestNode {
    pub controls: Arc<Controls>,
    _tail: Tail,
}

impl Fixture {
    pub fn new(test_log: TestLog) -> Self {
        let log = test_log.open("a");
        log.provision(&[test_log.spec("controls", 1, Cleanup::Compact)], true)
            .unwrap();
        Self {
            log,
            topic: test_log.topic("controls"),
            test_log,
            runtime: Runtime::new().unwrap(),
        }
    }

    fn secrets(&self) -> SecretKeys {
        SecretKeys::open_or_create(self.test_log.dir.path()).unwrap()
    }

    pub fn on(&self, log: Arc<dyn Log>) -> TestNode {
        let topic = self.topic.as_str().into();
        let (controls, tail) = Controls::start(log, topic, self.secrets()).unwrap();
        TestNode {
            controls,
            _tail: tail,
        }
    }

    pub fn node(&self) -> TestNode {
        let node = self.on(Arc::clone(&self.log));
        let ready = node.controls.wait_readable(Duration::from_secs(30));
        assert!(self.runtime.block_on(ready));
        node
    }

    pub fn create(&self, node: &TestNode, expires_at: Option<Millis>) -> (Key, String) {
        let new = NewKey {
            tenant: Tenant::new("acme").unwrap(),
            name: "test".into(),
            principal: "tester".into(),
            kind: KeyKind::Service,
            scopes: scopes(&["events:write"]),
            expires_at,
        };
        let token = Token::generate();
        let creating = node
            .controls
            .create_key(new, &token, "test", SystemClock.now());
        let key = self.runtime.block_on(creating).unwrap();
        (key, token.reveal().to_owned())
    }

    pub fn revoke(&self, node: &TestNode, key: &Key) {
        let revoking = node.controls.revoke_key(key, "test", SystemClock.now());
        self.runtime.block_on(revoking).unwrap();
    }

    pub fn grant(&self, node: &TestNode, login: &str) {
        let (tenant, login) = (Tenant::new("acme").unwrap(), Login::new(login).unwrap());
        let granting = node
            .controls
            .grant_reader(tenant, login, "test", SystemClock.now());
        self.runtime.block_on(granting).unwrap();
    }

    pub fn revoke_grant(&self, node: &TestNode, login: &str) {
        let (tenant, login) = (Tenant::new("acme").unwrap(), Login::new(login).unwrap());
        let revoking = node
            .controls
            .revoke_reader(&tenant, &login, "test", SystemClock.now());
        self.runtime.block_on(revoking).unwrap();
    }

    pub fn append(&self, record: Record) -> u64 {
        append(&*self.log, &self.topic, vec![record]).unwrap()[0].offset
    }

    /// The last record with a key.
    pub fn last(&self, name: &str) -> Record {
        let all = read_all(&*self.log, &self.topic, 1);
        let mut of_name = all.into_iter().filter(|f| key(&f.record) == name);
        of_name.next_back().unwrap().record
    }

    /// The last body with a key; `Null` for a tombstone.
    pub fn body(&self, name: &str) -> Value {
        self.last(name)
            .value
            .map_or(Value::Null, |value| decode(&value)["body"].clone())
    }

    /// Waits until a node has read all records appended so far.
    pub fn catch_up(&self, node: &TestNode) {
        self.grant(node, "marker");
    }

    /// A record as an earlier release writes it, without a version.
    pub fn old_record(&self, name: &str, body: &Value, secret: &[u8]) -> Record {
        let body = body.to_string();
        let place = [name.as_bytes(), b"\0", body.as_bytes()].concat();
        let mut parts = name.splitn(3, '/');
        let mut text = || Avro::String(parts.next().unwrap().to_owned());
        let sealed = Avro::Bytes(self.secrets().seal(secret, &place));
        let datum = Avro::Record(vec![
            ("tenant".into(), text()),
            ("kind".into(), text()),
            ("name".into(), text()),
            (
                "at".into(),
                Avro::TimestampMicros(SystemClock.now().0 * 1000),
            ),
            ("principal".into(), Avro::String("old".into())),
            ("body".into(), Avro::String(body)),
            ("sealed".into(), Avro::Union(1, Box::new(sealed))),
        ]);
        let mut value = vec![0];
        value.extend_from_slice(&SCHEMA_ID.to_be_bytes());
        let schema = Schema::parse_str(SCHEMA).unwrap();
        GenericDatumWriter::builder(&schema)
            .build()
            .unwrap()
            .write_value(&mut value, datum)
            .unwrap();
        Record {
            key: Some(name.to_owned().into()),
            value: Some(value.into()),
            headers: Vec::new(),
        }
    }

    /// A key as an earlier release creates it.
    pub fn old_key(&self) -> (String, Record, String) {
        let token = Token::generate();
        let (prefix, hash) = token.fingerprint();
        let name = format!("acme/key/{}", uuid::Uuid::now_v7());
        let body = json!({
            "prefix": std::str::from_utf8(&prefix).unwrap(),
            "name": "old",
            "principal": "old",
            "kind": "service",
            "scopes": { "permissions": ["events:write"] },
            "created_at": 1,
        });
        let record = self.old_record(&name, &body, &hash);
        (name, record, token.reveal().to_owned())
    }

    /// The names that are valid for an earlier release, which takes the last record of each name.
    pub fn valid_for_old_nodes(&self) -> Vec<String> {
        let mut alive = BTreeMap::new();
        for fetched in read_all(&*self.log, &self.topic, 1) {
            let name = key(&fetched.record).to_owned();
            let body = fetched.record.value.map(|v| decode(&v)["body"].clone());
            let has = |fields: &[&str]| {
                let body = body.as_ref();
                body.is_some_and(|body| fields.iter().all(|f| !body[f].is_null()))
            };
            let good = match name.split('/').nth(1).unwrap() {
                "key" => has(&[
                    "prefix",
                    "name",
                    "principal",
                    "kind",
                    "scopes",
                    "created_at",
                ]),
                "reader" => has(&["granted_by", "granted_at"]),
                _ => false,
            };
            alive.insert(name, good);
        }
        alive.retain(|_, good| *good);
        alive.into_keys().collect()
    }

    /// Compacts the topic until only the last record of each name is left.
    pub fn compact(&self) {
        if self.test_log.kind == LogKind::Kafka {
            let settings = [
                ("cleanup.policy", "compact"),
                ("message.timestamp.type", "LogAppendTime"),
                ("min.cleanable.dirty.ratio", "0.01"),
                ("delete.retention.ms", "0"),
                ("segment.ms", "100"),
            ];
            self.test_log.alter_topic(&self.topic, &settings);
        }
        std::thread::sleep(Duration::from_millis(300));
        let deadline = Instant::now() + Duration::from_mins(2);
        loop {
            // Compaction skips the newest records: append some.
            for _ in 0..2 {
                self.append(Record {
                    key: Some("acme/unknown/x".into()),
                    value: Some("x".into()),
                    headers: Vec::new(),
                });
                std::thread::sleep(Duration::from_millis(150));
            }
            self.log.tidy().unwrap();
            let mut left = BTreeMap::<String, u32>::new();
            for fetched in read_all(&*self.log, &self.topic, 1) {
                *left.entry(key(&fetched.record).to_owned()).or_default() += 1;
            }
            left.remove("acme/unknown/x");
            if left.values().all(|count| *count == 1) {
                return;
            }
            assert!(Instant::now() < deadline, "{left:?}");
        }
    }
}

pub fn key(record: &Record) -> &str {
    std::str::from_utf8(record.key.as_deref().unwrap()).unwrap()
}

/// The principal and the body of a record's value.
pub fn decode(value: &[u8]) -> Value {
    let schema = Schema::parse_str(SCHEMA).unwrap();
    let mut datum = value.get(5..).unwrap_or_default();
    let read = GenericDatumReader::builder(&schema)
        .build()
        .unwrap()
        .read_value(&mut datum);
    let Ok(Avro::Record(fields)) = read else {
        return Value::Null;
    };
    let text = |name: &str| {
        let field = fields.iter().find(|(n, _)| n == name);
        match field {
            Some((_, Avro::String(text))) => text.clone(),
            _ => String::new(),
        }
    };
    let body: Value = serde_json::from_str(&text("body")).unwrap();
    json!({ "body": body, "principal": text("principal") })
}

pub fn tombstone(name: &str) -> Record {
    Record {
        key: Some(name.to_owned().into()),
        value: None,
        headers: Vec::new(),
    }
}

pub fn name_of(key: &Key) -> String {
    format!("{}/key/{}", key.tenant, key.id)
}

pub fn is_valid(node: &TestNode, token: &str) -> bool {
    node.controls
        .authenticate(token, SystemClock.now())
        .is_some()
}
