//! The topic `controls`: nodes read it to its end even if the log is slow, and records without a valid seal grant no access.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use omnilink::{
    base::clock::{Clock, Millis, SystemClock},
    log::{Log, Record},
};
use serde_json::json;

use crate::support::{
    Away, LogKind, LogProxy, TestLog, append, assert_notice,
    controls::{Fixture, Slow, TestNode, is_valid, key, name_of, tombstone},
    env_or_skip, on_both_logs, read_all, wait_until,
};

on_both_logs!(
    a_slow_reader_is_waited_for,
    a_replayed_record_restores_no_access,
    compaction_keeps_the_current_record,
    an_unsealed_record_revokes_a_key_for_good,
    records_without_a_version_are_upgraded_once,
    an_earlier_release_runs_beside,
    two_nodes_change_the_same_grant,
);

fn a_slow_reader_is_waited_for(test_log: TestLog) {
    let fixture = Fixture::new(test_log);
    let node = fixture.node();
    let tokens: Vec<_> = (0..4).map(|_| fixture.create(&node, None).1).collect();
    for login in ["one", "two"] {
        fixture.grant(&node, login);
    }
    let slow = fixture.on(LogProxy::new(Slow {
        inner: Arc::clone(&fixture.log),
        silence: 12,
    }));
    let began = Instant::now();
    // Once it is readable, it has read everything, and it never returns a partial set.
    while !slow.controls.readable() {
        if let Some(grants) = slow.controls.readers_now() {
            assert_eq!(grants.len(), 2);
        }
        assert!(began.elapsed() < Duration::from_mins(1));
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(tokens.iter().all(|token| is_valid(&slow, token)));
    assert_eq!(slow.controls.readers_now().unwrap().len(), 2);
    // Later records are read too.
    let (_, token) = fixture.create(&node, None);
    wait_until("the new key", || is_valid(&slow, &token));
}

/// Transaction markers at the end of a partition do not keep a read from completing, and an open transaction hides no records.
#[test]
fn a_read_completes_despite_transaction_markers() {
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
    let Some(test_log) = TestLog::new(LogKind::Kafka) else {
        return;
    };
    let fixture = Fixture::new(test_log);
    let node = fixture.node();
    let (_, token) = fixture.create(&node, None);
    let producer: BaseProducer = rdkafka::ClientConfig::new()
        .set(
            "bootstrap.servers",
            env_or_skip("OMNILINK_TEST_KAFKA").unwrap(),
        )
        .set("transactional.id", &fixture.topic)
        .create()
        .unwrap();
    let wait = Duration::from_secs(20);
    producer.init_transactions(wait).unwrap();
    let foreign_transaction = || {
        producer.begin_transaction().unwrap();
        let record = BaseRecord::to(&fixture.topic)
            .key("acme/unknown/x")
            .payload("x");
        producer.send(record).map_err(|(error, _)| error).unwrap();
        producer.flush(wait).unwrap();
    };
    foreign_transaction();
    producer.abort_transaction(wait).unwrap();
    let fresh = fixture.node();
    assert!(is_valid(&fresh, &token));

    foreign_transaction();
    let (key, token) = fixture.create(&node, None);
    wait_until("the key behind an open transaction", || {
        is_valid(&fresh, &token)
    });
    assert!(is_valid(&fixture.node(), &token));
    fixture.revoke(&node, &key);
    wait_until("revoked", || !is_valid(&fresh, &token));
    producer.abort_transaction(wait).unwrap();
}

/// The new topic is longer than what was read of the old one.
#[test]
fn keys_of_a_recreated_topic_are_forgotten() {
    let Some(test_log) = TestLog::new(LogKind::Kafka) else {
        return;
    };
    let kafka = test_log.kafka_admin();
    let fixture = Fixture::new(test_log);
    let log = Away::over(&fixture.log);
    let shared: Arc<dyn Log> = log.clone();
    let node = fixture.on(shared);
    let readable = node.controls.wait_readable(Duration::from_secs(30));
    assert!(fixture.runtime.block_on(readable));
    let (gone, gone_token) = fixture.create(&node, None);
    let (_, token) = fixture.create(&node, None);
    let old = read_all(&*fixture.log, &fixture.topic, 2);
    log.0.set(true);
    kafka.recreate_topic(&*fixture.log, &fixture.topic, 1);
    let mut records: Vec<Record> = old.iter().map(|f| f.record.clone()).collect();
    records.retain(|record| key(record) != name_of(&gone));
    let filler = Record {
        key: Some("acme/unknown/x".into()),
        value: Some("x".into()),
        headers: Vec::new(),
    };
    records.extend(std::iter::repeat_n(filler, old.len()));
    append(&*fixture.log, &fixture.topic, records).unwrap();
    log.0.set(false);
    wait_until("the keys of the new topic", || {
        is_valid(&node, &token) && !is_valid(&node, &gone_token)
    });
    assert_notice(
        &fixture.topic,
        &["deleted and recreated", "controls reads it"],
    );
}

fn a_replayed_record_restores_no_access(test_log: TestLog) {
    let fixture = Fixture::new(test_log);
    let (one, two) = (fixture.node(), fixture.node());
    let expires_at = Millis(SystemClock.now().0 + 3_600_000);
    let (key, token) = fixture.create(&one, Some(expires_at));
    let (other, other_token) = fixture.create(&one, None);
    fixture.grant(&one, "analyst");
    let reader = "acme/reader/analyst";
    let old = [
        fixture.last(&name_of(&key)),
        fixture.last(&name_of(&other)),
        fixture.last(reader),
    ];
    wait_until("both nodes have the key", || is_valid(&two, &token));
    fixture.revoke(&two, &key);
    fixture.revoke(&two, &other);
    fixture.revoke_grant(&two, "analyst");
    // A revocation is a record, kept until the key would have expired.
    let body = fixture.body(&name_of(&key));
    assert_eq!(body["version"], 2);
    assert_eq!(body["expires_at"], expires_at.0);
    assert!(body["revoked_at"].is_i64());
    assert!(fixture.body(&name_of(&other))["expires_at"].is_null());

    for record in &old {
        fixture.append(record.clone());
    }
    for node in [&one, &two, &fixture.node()] {
        fixture.catch_up(node);
        assert!(!is_valid(node, &token) && !is_valid(node, &other_token));
        let logins: Vec<_> = node.controls.readers(None);
        assert!(logins.iter().all(|grant| grant.login.as_str() != "analyst"));
    }
    // A new grant has a higher version.
    fixture.grant(&one, "analyst");
    assert_eq!(fixture.body(reader)["version"], 3);
    fixture.append(old[2].clone());
    fixture.catch_up(&one);
    assert_eq!(one.controls.readers(None).len(), 2);
}

/// Compaction keeps the last record of a name: after a replayed record the current one is soon written again.
fn compaction_keeps_the_current_record(test_log: TestLog) {
    let fixture = Fixture::new(test_log);
    let node = fixture.node();
    let (key, token) = fixture.create(&node, None);
    let (alive, alive_token) = fixture.create(&node, None);
    fixture.grant(&node, "analyst");
    let old = [
        fixture.last(&name_of(&key)),
        fixture.last("acme/reader/analyst"),
    ];
    fixture.revoke(&node, &key);
    fixture.revoke_grant(&node, "analyst");
    for record in old.clone() {
        fixture.append(record);
    }
    // A tombstone on the revocation.
    fixture.append(tombstone(&name_of(&key)));
    let garbage = Record {
        key: Some("-/upgrade/versions".into()),
        value: Some("x".into()),
        headers: Vec::new(),
    };
    fixture.append(garbage);
    wait_until("the current records are written again", || {
        let revoked = |name: &str| fixture.body(name)["revoked_at"].is_i64();
        revoked(&name_of(&key))
            && revoked("acme/reader/analyst")
            && fixture.body("-/upgrade/versions")["before"].is_u64()
    });
    fixture.compact();
    let fresh = fixture.node();
    assert!(!is_valid(&fresh, &token) && is_valid(&fresh, &alive_token));
    assert!(fresh.controls.readers(None).is_empty());
    for record in old {
        fixture.append(record);
    }
    fixture.catch_up(&fresh);
    assert!(!is_valid(&fresh, &token));
    assert_eq!(fresh.controls.readers(None).len(), 1);
    assert_eq!(fresh.controls.keys(None)[0].id, alive.id);
}

/// Someone who can write to the topic can revoke a key, which all nodes report, but nothing more.
fn an_unsealed_record_revokes_a_key_for_good(test_log: TestLog) {
    let fixture = Fixture::new(test_log);
    let node = fixture.node();
    let (key, token) = fixture.create(&node, None);
    let name = name_of(&key);
    let old = fixture.last(&name);
    fixture.append(tombstone(&name));
    wait_until("the key is invalid", || !is_valid(&node, &token));
    wait_until("the key is revoked", || {
        fixture.body(&name)["revoked_at"].is_i64()
    });
    fixture.append(old);
    fixture.catch_up(&node);
    assert!(!is_valid(&node, &token) && !is_valid(&fixture.node(), &token));

    let (key, token) = fixture.create(&node, None);
    let name = name_of(&key);
    let old = fixture.last(&name);
    fixture.append(Record {
        value: Some("garbage".into()),
        ..old.clone()
    });
    wait_until("the key is invalid", || !is_valid(&node, &token));
    fixture.append(old);
    fixture.catch_up(&node);
    assert!(!is_valid(&node, &token));
}

fn records_without_a_version_are_upgraded_once(test_log: TestLog) {
    let fixture = Fixture::new(test_log);
    let (name, old, token) = fixture.old_key();
    let (ended, ended_old, ended_token) = fixture.old_key();
    let grant = json!({ "granted_by": "old", "granted_at": 1 });
    let grant = fixture.old_record("acme/reader/analyst", &grant, &[]);
    fixture.append(old.clone());
    fixture.append(ended_old.clone());
    fixture.append(grant.clone());
    fixture.append(tombstone(&ended));

    let (one, two) = (fixture.node(), fixture.node());
    assert!(is_valid(&one, &token) && !is_valid(&one, &ended_token));
    wait_until("all have a version", || {
        let all = read_all(&*fixture.log, &fixture.topic, 7);
        let upgraded = all.iter().any(|f| key(&f.record) == "-/upgrade/versions");
        upgraded
            && fixture.body(&name)["version"] == 1
            && fixture.body("acme/reader/analyst")["version"] == 1
    });
    fixture.catch_up(&one);
    fixture.catch_up(&two);
    assert_eq!(
        fixture.body(&name)["scopes"]["permissions"][0],
        "events:write"
    );
    assert!(is_valid(&one, &token) && is_valid(&two, &token));
    assert_eq!(two.controls.readers(None).len(), 2);

    // From now on records without a version are refused, whether their name is revoked or new.
    let found = one.controls.keys(None);
    fixture.revoke(&one, &found[0]);
    let (_, late, late_token) = fixture.old_key();
    for record in [old, ended_old, late] {
        fixture.append(record);
    }
    for node in [&one, &two, &fixture.node()] {
        fixture.catch_up(node);
        for token in [&token, &ended_token, &late_token] {
            assert!(!is_valid(node, token));
        }
        assert_eq!(node.controls.readers(None).len(), 2);
    }
    wait_until("the revocation is the last record again", || {
        fixture.body(&name)["revoked_at"].is_i64()
    });
    std::thread::sleep(Duration::from_millis(2500));
    // Only once: a later start writes nothing.
    let end = fixture.log.offset_range(&fixture.topic, 0).unwrap().end;
    let fresh = fixture.node();
    std::thread::sleep(Duration::from_millis(800));
    assert_eq!(
        fixture.log.offset_range(&fixture.topic, 0).unwrap().end,
        end
    );
    drop(fresh);
}

/// A rolling upgrade: one node writes records without versions while another writes them with versions.
fn an_earlier_release_runs_beside(test_log: TestLog) {
    let fixture = Fixture::new(test_log);
    let (name, old, token) = fixture.old_key();
    fixture.append(old);
    let node = fixture.node();
    wait_until("the upgrade", || {
        let all = read_all(&*fixture.log, &fixture.topic, 3);
        all.iter().any(|f| key(&f.record) == "-/upgrade/versions")
    });
    let (fresh, fresh_token) = fixture.create(&node, None);
    let (gone, _) = fixture.create(&node, None);
    fixture.grant(&node, "analyst");
    fixture.grant(&node, "former");
    fixture.revoke(&node, &gone);
    fixture.revoke_grant(&node, "former");
    // The old node accepts the records of the new one: keys, grants and revocations.
    let mut alive = vec![
        name.clone(),
        name_of(&fresh),
        "acme/reader/analyst".to_owned(),
    ];
    alive.sort();
    assert_eq!(fixture.valid_for_old_nodes(), alive);

    // A key that the old node creates now is not valid here; one that it revokes stays revoked here.
    let (_, late, late_token) = fixture.old_key();
    fixture.append(late);
    fixture.append(tombstone(&name));
    fixture.append(tombstone(&name_of(&fresh)));
    fixture.append(tombstone("acme/reader/analyst"));
    let invalid = || !is_valid(&node, &token) && !is_valid(&node, &fresh_token);
    wait_until("the keys are invalid", invalid);
    assert!(!is_valid(&node, &late_token));
    wait_until("revoked", || {
        [&*name, &name_of(&fresh), "acme/reader/analyst"]
            .iter()
            .all(|name| fixture.body(name)["revoked_at"].is_i64())
    });
    let next = fixture.node();
    assert!(
        !is_valid(&next, &token) && !is_valid(&next, &fresh_token) && !is_valid(&next, &late_token)
    );
    assert!(next.controls.readers(None).is_empty());
}

/// Of two concurrent changes the later one wins on every node, and the other one fails or is retried.
fn two_nodes_change_the_same_grant(test_log: TestLog) {
    let fixture = Fixture::new(test_log);
    let (one, two) = (fixture.node(), fixture.node());
    for round in 0..10 {
        std::thread::scope(|scope| {
            scope.spawn(|| fixture.grant(&one, "analyst"));
            scope.spawn(|| fixture.revoke_grant(&two, "analyst"));
        });
        fixture.catch_up(&one);
        fixture.catch_up(&two);
        let logins = |node: &TestNode| -> Vec<String> {
            let all = node.controls.readers(None);
            all.iter().map(|g| g.login.to_string()).collect()
        };
        let fresh = fixture.node();
        assert_eq!(logins(&one), logins(&two), "round {round}");
        assert_eq!(logins(&one), logins(&fresh), "round {round}");
        // The last record on the topic is the current one, so compaction loses nothing.
        let last = fixture.body("acme/reader/analyst");
        let granted = last["revoked_at"].is_null();
        let listed = logins(&one).contains(&"analyst".to_owned());
        assert_eq!(granted, listed, "round {round}: {last}");
    }
}
