//! The topic `controls`: read to its end however slow the log is, and what others write to it opens nothing.

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
    log::{
        Acknowledged, Append, Cleanup, Fetched, Lane, Log, LogError, OffsetRange, Reader, Record,
        Source, TopicSpec, Work,
    },
    state::Changes,
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::{
    port_node::scopes,
    projections_bed::wait_until,
    support::{Bed, Kind, append, on_both, part, read_all},
};

on_both!(
    a_slow_reader_is_waited_for,
    a_replayed_record_revives_nothing,
    compaction_keeps_what_counts,
    what_nobody_sealed_ends_a_key_for_good,
    records_without_a_version_get_one_once,
    a_node_of_the_version_before_runs_beside,
    two_nodes_change_the_same_thing,
);

/// A log whose readers give one record, then many polls nothing.
struct Slow {
    inner: Arc<dyn Log>,
    silence: u32,
}

struct SlowReader {
    inner: Box<dyn Reader>,
    came: VecDeque<Fetched>,
    silence: u32,
    left: u32,
}

impl Reader for SlowReader {
    fn assign(&mut self, partition: u32, offset: u64) -> Result<(), LogError> {
        self.came.clear();
        self.left = self.silence;
        self.inner.assign(partition, offset)
    }

    fn at_end(&self, partition: u32) -> bool {
        self.left == 0 && self.came.is_empty() && self.inner.at_end(partition)
    }

    fn poll(&mut self, wait: Duration, out: &mut Vec<Fetched>) -> Result<(), LogError> {
        let mut came = Vec::new();
        self.inner.poll(Duration::from_millis(5), &mut came)?;
        self.came.extend(came);
        if self.left > 0 {
            self.left -= 1;
            std::thread::sleep(wait.min(Duration::from_millis(20)));
            return Ok(());
        }
        self.left = self.silence;
        out.extend(self.came.pop_front());
        Ok(())
    }
}

impl Log for Slow {
    fn provision(&self, topics: &[TopicSpec], create: bool) -> Result<(), LogError> {
        self.inner.provision(topics, create)
    }

    fn partitions(&self, topic: &str) -> Result<u32, LogError> {
        self.inner.partitions(topic)
    }

    fn append(&self, records: Vec<Append>, state: Option<Changes>) -> Acknowledged {
        self.inner.append(records, state)
    }

    fn reader(&self, topic: &str) -> Result<Box<dyn Reader>, LogError> {
        Ok(Box::new(SlowReader {
            inner: self.inner.reader(topic)?,
            came: VecDeque::new(),
            silence: self.silence,
            left: self.silence,
        }))
    }

    fn lane(&self, processor: &str, topics: &[String]) -> Result<Box<dyn Lane>, LogError> {
        self.inner.lane(processor, topics)
    }

    fn source(&self, processor: &str, topic: &str) -> Result<Box<dyn Source>, LogError> {
        self.inner.source(processor, topic)
    }

    fn work(&self, processor: &str, topic: &str) -> Result<Box<dyn Work>, LogError> {
        self.inner.work(processor, topic)
    }

    fn offset_range(&self, topic: &str, partition: u32) -> Result<OffsetRange, LogError> {
        self.inner.offset_range(topic, partition)
    }

    fn offset_at(&self, topic: &str, partition: u32, at: Millis) -> Result<u64, LogError> {
        self.inner.offset_at(topic, partition, at)
    }

    fn committed(
        &self,
        processor: &str,
        topic: &str,
        partition: u32,
    ) -> Result<Option<u64>, LogError> {
        self.inner.committed(processor, topic, partition)
    }

    fn health(&self) -> Result<(), LogError> {
        self.inner.health()
    }
}

/// A log with `controls`, and nodes on it.
struct World {
    bed: Bed,
    log: Arc<dyn Log>,
    topic: String,
    runtime: Runtime,
}

struct Reading {
    controls: Arc<Controls>,
    _tail: Tail,
}

impl World {
    fn new(bed: Bed) -> Self {
        let log = bed.open("a");
        log.provision(&[bed.spec("controls", 1, Cleanup::Compact)], true)
            .unwrap();
        Self {
            log,
            topic: bed.topic("controls"),
            bed,
            runtime: Runtime::new().unwrap(),
        }
    }

    fn secrets(&self) -> SecretKeys {
        SecretKeys::open_or_create(self.bed.dir.path()).unwrap()
    }

    fn on(&self, log: Arc<dyn Log>) -> Reading {
        let topic = self.topic.as_str().into();
        let (controls, tail) = Controls::start(log, topic, self.secrets()).unwrap();
        Reading {
            controls,
            _tail: tail,
        }
    }

    fn node(&self) -> Reading {
        let node = self.on(Arc::clone(&self.log));
        let ready = node.controls.wait_readable(Duration::from_secs(30));
        assert!(self.runtime.block_on(ready));
        node
    }

    fn create(&self, node: &Reading, expires_at: Option<Millis>) -> (Key, String) {
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

    fn revoke(&self, node: &Reading, key: &Key) {
        let revoking = node.controls.revoke_key(key, "test", SystemClock.now());
        self.runtime.block_on(revoking).unwrap();
    }

    fn grant(&self, node: &Reading, login: &str) {
        let (tenant, login) = (Tenant::new("acme").unwrap(), Login::new(login).unwrap());
        let granting = node
            .controls
            .grant_reader(tenant, login, "test", SystemClock.now());
        self.runtime.block_on(granting).unwrap();
    }

    fn end_grant(&self, node: &Reading, login: &str) {
        let (tenant, login) = (Tenant::new("acme").unwrap(), Login::new(login).unwrap());
        let revoking = node
            .controls
            .revoke_reader(&tenant, &login, "test", SystemClock.now());
        self.runtime.block_on(revoking).unwrap();
    }

    fn append(&self, record: Record) -> u64 {
        append(&*self.log, &self.topic, vec![record]).unwrap()[0].offset
    }

    /// The last record of a name.
    fn last(&self, name: &str) -> Record {
        let all = read_all(&*self.log, &self.topic, 1);
        let mut of_name = all.into_iter().filter(|f| key(&f.record) == name);
        of_name.next_back().unwrap().record
    }

    /// The last body of a name; `Null` for a tombstone.
    fn body(&self, name: &str) -> Value {
        self.last(name)
            .value
            .map_or(Value::Null, |value| decode(&value)["body"].clone())
    }

    /// Waits until a node has read all there is now.
    fn settle(&self, node: &Reading) {
        self.grant(node, "settled");
    }

    /// A record as a node of the version before writes it.
    fn old_record(&self, name: &str, body: &Value, secret: &[u8]) -> Record {
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

    /// A key as a node of the version before makes it.
    fn old_key(&self) -> (String, Record, String) {
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

    /// The names that are alive to a node of the version before, which takes the last record of each name.
    fn alive_to_old_nodes(&self) -> Vec<String> {
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

    /// Has the log compact the topic until only the last record of each name is left.
    fn compact(&self) {
        if self.bed.kind == Kind::Kafka {
            let settings = [
                ("cleanup.policy", "compact"),
                ("message.timestamp.type", "LogAppendTime"),
                ("min.cleanable.dirty.ratio", "0.01"),
                ("delete.retention.ms", "0"),
                ("segment.ms", "100"),
            ];
            self.bed.alter_topic(&self.topic, &settings);
        }
        std::thread::sleep(Duration::from_millis(300));
        let deadline = Instant::now() + Duration::from_mins(2);
        loop {
            // The newest records are never compacted: these are.
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

fn key(record: &Record) -> &str {
    std::str::from_utf8(record.key.as_deref().unwrap()).unwrap()
}

/// A record's fields, with the body as JSON.
fn decode(value: &[u8]) -> Value {
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

fn tombstone(name: &str) -> Record {
    Record {
        key: Some(name.to_owned().into()),
        value: None,
        headers: Vec::new(),
    }
}

fn name_of(key: &Key) -> String {
    format!("{}/key/{}", key.tenant, key.id)
}

fn opens(node: &Reading, token: &str) -> bool {
    node.controls
        .authenticate(token, SystemClock.now())
        .is_some()
}

fn a_slow_reader_is_waited_for(bed: Bed) {
    let world = World::new(bed);
    let node = world.node();
    let tokens: Vec<_> = (0..4).map(|_| world.create(&node, None).1).collect();
    for login in ["one", "two"] {
        world.grant(&node, login);
    }
    let slow = world.on(Arc::new(Slow {
        inner: Arc::clone(&world.log),
        silence: 12,
    }));
    let began = Instant::now();
    // The moment it answers, it knows all of them, and never gives a set that lacks one.
    while !slow.controls.readable() {
        if let Some(grants) = slow.controls.readers_now() {
            assert_eq!(grants.len(), 2);
        }
        assert!(began.elapsed() < Duration::from_mins(1));
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(tokens.iter().all(|token| opens(&slow, token)));
    assert_eq!(slow.controls.readers_now().unwrap().len(), 2);
    // What comes later is as slow, and read as surely.
    let (_, token) = world.create(&node, None);
    wait_until("the new key", || opens(&slow, &token));
}

/// What transactions leave at the end of a partition is no record, and an open one hides nothing.
#[test]
fn a_read_ends_where_the_partition_does() {
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
    let Some(bed) = Bed::new(Kind::Kafka) else {
        return;
    };
    let world = World::new(bed);
    let node = world.node();
    let (_, token) = world.create(&node, None);
    let producer: BaseProducer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", part("OMNILINK_TEST_KAFKA").unwrap())
        .set("transactional.id", &world.topic)
        .create()
        .unwrap();
    let wait = Duration::from_secs(20);
    producer.init_transactions(wait).unwrap();
    let stranger = || {
        producer.begin_transaction().unwrap();
        let record = BaseRecord::to(&world.topic)
            .key("acme/unknown/x")
            .payload("x");
        producer.send(record).map_err(|(error, _)| error).unwrap();
        producer.flush(wait).unwrap();
    };
    stranger();
    producer.abort_transaction(wait).unwrap();
    let fresh = world.node();
    assert!(opens(&fresh, &token));

    stranger();
    let (key, token) = world.create(&node, None);
    wait_until("behind an open transaction", || opens(&fresh, &token));
    assert!(opens(&world.node(), &token));
    world.revoke(&node, &key);
    wait_until("revoked", || !opens(&fresh, &token));
    producer.abort_transaction(wait).unwrap();
}

fn a_replayed_record_revives_nothing(bed: Bed) {
    let world = World::new(bed);
    let (one, two) = (world.node(), world.node());
    let expires_at = Millis(SystemClock.now().0 + 3_600_000);
    let (key, token) = world.create(&one, Some(expires_at));
    let (other, other_token) = world.create(&one, None);
    world.grant(&one, "analyst");
    let reader = "acme/reader/analyst";
    let old = [
        world.last(&name_of(&key)),
        world.last(&name_of(&other)),
        world.last(reader),
    ];
    wait_until("both know it", || opens(&two, &token));
    world.revoke(&two, &key);
    world.revoke(&two, &other);
    world.end_grant(&two, "analyst");
    // A revocation is a record, kept until the key would have expired.
    let body = world.body(&name_of(&key));
    assert_eq!(body["version"], 2);
    assert_eq!(body["expires_at"], expires_at.0);
    assert!(body["revoked_at"].is_i64());
    assert!(world.body(&name_of(&other))["expires_at"].is_null());

    for record in &old {
        world.append(record.clone());
    }
    for node in [&one, &two, &world.node()] {
        world.settle(node);
        assert!(!opens(node, &token) && !opens(node, &other_token));
        let logins: Vec<_> = node.controls.readers(None);
        assert!(logins.iter().all(|grant| grant.login.as_str() != "analyst"));
    }
    // It may be granted again, and that is newer than all of it.
    world.grant(&one, "analyst");
    assert_eq!(world.body(reader)["version"], 3);
    world.append(old[2].clone());
    world.settle(&one);
    assert_eq!(one.controls.readers(None).len(), 2);
}

/// Compaction keeps the last record of a name: that is the one that counts again, soon after someone replayed another.
fn compaction_keeps_what_counts(bed: Bed) {
    let world = World::new(bed);
    let node = world.node();
    let (key, token) = world.create(&node, None);
    let (alive, alive_token) = world.create(&node, None);
    world.grant(&node, "analyst");
    let old = [
        world.last(&name_of(&key)),
        world.last("acme/reader/analyst"),
    ];
    world.revoke(&node, &key);
    world.end_grant(&node, "analyst");
    for record in old.clone() {
        world.append(record);
    }
    // Someone takes the revocation itself away.
    world.append(tombstone(&name_of(&key)));
    let garbage = Record {
        key: Some("-/upgrade/versions".into()),
        value: Some("x".into()),
        headers: Vec::new(),
    };
    world.append(garbage);
    wait_until("they are written again", || {
        let revoked = |name: &str| world.body(name)["revoked_at"].is_i64();
        revoked(&name_of(&key))
            && revoked("acme/reader/analyst")
            && world.body("-/upgrade/versions")["before"].is_u64()
    });
    world.compact();
    let fresh = world.node();
    assert!(!opens(&fresh, &token) && opens(&fresh, &alive_token));
    assert!(fresh.controls.readers(None).is_empty());
    for record in old {
        world.append(record);
    }
    world.settle(&fresh);
    assert!(!opens(&fresh, &token));
    assert_eq!(fresh.controls.readers(None).len(), 1);
    assert_eq!(fresh.controls.keys(None)[0].id, alive.id);
}

/// Who can write to the topic can end a key, seen by everyone, and no more than that.
fn what_nobody_sealed_ends_a_key_for_good(bed: Bed) {
    let world = World::new(bed);
    let node = world.node();
    let (key, token) = world.create(&node, None);
    let name = name_of(&key);
    let old = world.last(&name);
    world.append(tombstone(&name));
    wait_until("it has ended", || !opens(&node, &token));
    wait_until("it is revoked", || world.body(&name)["revoked_at"].is_i64());
    world.append(old);
    world.settle(&node);
    assert!(!opens(&node, &token) && !opens(&world.node(), &token));

    let (key, token) = world.create(&node, None);
    let name = name_of(&key);
    let old = world.last(&name);
    world.append(Record {
        value: Some("garbage".into()),
        ..old.clone()
    });
    wait_until("it has ended", || !opens(&node, &token));
    world.append(old);
    world.settle(&node);
    assert!(!opens(&node, &token));
}

fn records_without_a_version_get_one_once(bed: Bed) {
    let world = World::new(bed);
    let (name, old, token) = world.old_key();
    let (ended, ended_old, ended_token) = world.old_key();
    let grant = json!({ "granted_by": "old", "granted_at": 1 });
    let grant = world.old_record("acme/reader/analyst", &grant, &[]);
    world.append(old.clone());
    world.append(ended_old.clone());
    world.append(grant.clone());
    world.append(tombstone(&ended));

    let (one, two) = (world.node(), world.node());
    assert!(opens(&one, &token) && !opens(&one, &ended_token));
    wait_until("all have a version", || {
        let all = read_all(&*world.log, &world.topic, 7);
        let upgraded = all.iter().any(|f| key(&f.record) == "-/upgrade/versions");
        upgraded
            && world.body(&name)["version"] == 1
            && world.body("acme/reader/analyst")["version"] == 1
    });
    world.settle(&one);
    world.settle(&two);
    assert_eq!(
        world.body(&name)["scopes"]["permissions"][0],
        "events:write"
    );
    assert!(opens(&one, &token) && opens(&two, &token));
    assert_eq!(two.controls.readers(None).len(), 2);

    // From now on one without is refused: what had ended, what ends now, and what nobody knew.
    let found = one.controls.keys(None);
    world.revoke(&one, &found[0]);
    let (_, late, late_token) = world.old_key();
    for record in [old, ended_old, late] {
        world.append(record);
    }
    for node in [&one, &two, &world.node()] {
        world.settle(node);
        for token in [&token, &ended_token, &late_token] {
            assert!(!opens(node, token));
        }
        assert_eq!(node.controls.readers(None).len(), 2);
    }
    wait_until("the revocation is the last again", || {
        world.body(&name)["revoked_at"].is_i64()
    });
    std::thread::sleep(Duration::from_millis(2500));
    // Once: a later start finds nothing to do.
    let end = world.log.offset_range(&world.topic, 0).unwrap().end;
    let fresh = world.node();
    std::thread::sleep(Duration::from_millis(800));
    assert_eq!(world.log.offset_range(&world.topic, 0).unwrap().end, end);
    drop(fresh);
}

/// A rolling upgrade: one node writes without versions while another writes with them.
fn a_node_of_the_version_before_runs_beside(bed: Bed) {
    let world = World::new(bed);
    let (name, old, token) = world.old_key();
    world.append(old);
    let node = world.node();
    wait_until("the upgrade", || {
        let all = read_all(&*world.log, &world.topic, 3);
        all.iter().any(|f| key(&f.record) == "-/upgrade/versions")
    });
    let (fresh, fresh_token) = world.create(&node, None);
    let (gone, _) = world.create(&node, None);
    world.grant(&node, "analyst");
    world.grant(&node, "former");
    world.revoke(&node, &gone);
    world.end_grant(&node, "former");
    // The old node takes what the new one writes: keys, grants, and what has ended.
    let mut alive = vec![
        name.clone(),
        name_of(&fresh),
        "acme/reader/analyst".to_owned(),
    ];
    alive.sort();
    assert_eq!(world.alive_to_old_nodes(), alive);

    // A key that the old node makes now does not open here; one that it ends has ended here, for good.
    let (_, late, late_token) = world.old_key();
    world.append(late);
    world.append(tombstone(&name));
    world.append(tombstone(&name_of(&fresh)));
    world.append(tombstone("acme/reader/analyst"));
    let ended = || !opens(&node, &token) && !opens(&node, &fresh_token);
    wait_until("ended", ended);
    assert!(!opens(&node, &late_token));
    wait_until("revoked", || {
        [&*name, &name_of(&fresh), "acme/reader/analyst"]
            .iter()
            .all(|name| world.body(name)["revoked_at"].is_i64())
    });
    let next = world.node();
    assert!(!opens(&next, &token) && !opens(&next, &fresh_token) && !opens(&next, &late_token));
    assert!(next.controls.readers(None).is_empty());
}

/// Of two changes at once the later one counts, on every node, and neither is lost without a word.
fn two_nodes_change_the_same_thing(bed: Bed) {
    let world = World::new(bed);
    let (one, two) = (world.node(), world.node());
    for round in 0..10 {
        std::thread::scope(|scope| {
            scope.spawn(|| world.grant(&one, "analyst"));
            scope.spawn(|| world.end_grant(&two, "analyst"));
        });
        world.settle(&one);
        world.settle(&two);
        let logins = |node: &Reading| -> Vec<String> {
            let all = node.controls.readers(None);
            all.iter().map(|g| g.login.to_string()).collect()
        };
        let fresh = world.node();
        assert_eq!(logins(&one), logins(&two), "round {round}");
        assert_eq!(logins(&one), logins(&fresh), "round {round}");
        // What the topic shows last is what counts: compaction takes nothing away.
        let last = world.body("acme/reader/analyst");
        let granted = last["revoked_at"].is_null();
        let listed = logins(&one).contains(&"analyst".to_owned());
        assert_eq!(granted, listed, "round {round}: {last}");
    }
}
