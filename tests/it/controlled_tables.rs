//! Tables that follow the topic `controls`.

use std::{sync::Arc, time::Duration};

use omnilink::{
    base::{
        clock::{Clock, Millis, SystemClock},
        id::Tenant,
    },
    controls::{
        Controls, Credential, IntegrationDefinition, KeyKind, NewKey, Scopes, SecretKeys, Token,
    },
    log::Cleanup,
    projections::{ControlledTable, ControlledTables},
    store::{
        emergency::{self, EmergencyRow},
        integrations::{self, IntegrationRow},
        keys::Ended,
    },
    stream::progress::Progress,
};
use tokio::sync::watch;

use crate::support::{LogKind, TestLog, on_both_logs, projections::Database, wait_until};

on_both_logs!(keys_are_shown_without_their_secrets);

fn keys_are_shown_without_their_secrets(test_log: TestLog) {
    let Some(database) = Database::new() else {
        return;
    };
    let log = test_log.open("one");
    log.provision(&[test_log.spec("controls", 1, Cleanup::Compact)], true)
        .unwrap();
    let secrets = SecretKeys::open_or_create(test_log.dir.path()).unwrap();
    let topic = test_log.topic("controls").into();
    let (controls, _tail) = Controls::start(log, topic, secrets).unwrap();
    let runtime = &database.runtime;
    assert!(runtime.block_on(controls.wait_readable(Duration::from_secs(20))));
    let progress = Arc::<Progress>::default();
    let table = (ControlledTable::api_keys(&controls), Arc::clone(&progress));
    let _tables = ControlledTables::start(runtime.handle(), &database.store(), [table]);

    let token = Token::generate();
    let create = |name: &str, token: &Token| {
        let new = NewKey {
            tenant: Tenant::new("acme").unwrap(),
            name: name.into(),
            principal: "ann".into(),
            kind: KeyKind::Person,
            scopes: Scopes::all(),
            expires_at: Some(Millis(4_000_000_000_000)),
        };
        let creating = controls.create_key(new, token, "me", SystemClock.now());
        runtime.block_on(creating).unwrap()
    };
    let key = create("one", &token);
    wait_until("the row", || {
        database.number("SELECT count(*) FROM omnilink.api_keys") == 1
    });
    assert_eq!(
        database.text(
            "SELECT concat_ws('|', tenant, id, name, principal, kind, prefix, scopes ->> 'permissions', max_rpm, max_concurrency, \
             EXTRACT(EPOCH FROM expires_at)::bigint, last_used_at IS NULL, revoked_at IS NULL) FROM omnilink.api_keys"
        ),
        format!(
            "acme|{}|one|ann|person|{}|[\"*\"]|0|0|4000000000|t|t",
            key.id,
            key.prefix()
        )
    );
    let shown = database.text("SELECT row_to_json(k) FROM omnilink.api_keys k");
    assert!(!shown.contains(token.reveal()));
    assert_eq!(
        database.number(
            "SELECT (EXTRACT(EPOCH FROM created_at) * 1000)::bigint FROM omnilink.api_keys"
        ),
        key.created_at.0
    );
    // A use that was projected before the table was written counts too, and is kept.
    database.run(&format!(
        "INSERT INTO omnilink.audit_log (tenant, at, id, action, resource_id, outcome, detail) \
         VALUES ('acme', '2026-01-31T12:00:00Z', '1', 'key.used', '{}', 'ok', '{{}}')",
        key.id
    ));
    create("two", &Token::generate());
    wait_until("the last use", || {
        database.number(
            "SELECT count(*) FROM omnilink.api_keys WHERE last_used_at = '2026-01-31T12:00:00Z'",
        ) == 1
    });
    database.run(
        "UPDATE omnilink.api_keys SET last_used_at = '2026-02-01T12:00:00Z' WHERE name = 'one'",
    );

    // The time is that of the revocation, not of the write.
    let at = Millis(SystemClock.now().0 - 86_400_000);
    runtime
        .block_on(controls.revoke_key(&key, "me", at))
        .unwrap();
    let revoked = || {
        database.texts(
            "SELECT (EXTRACT(EPOCH FROM revoked_at) * 1000)::bigint::text FROM omnilink.api_keys WHERE revoked_at IS NOT NULL",
        )
    };
    wait_until("it is revoked", || revoked() == [at.0.to_string()]);
    assert_eq!(
        database.texts("SELECT name || (revoked_at IS NULL) || (last_used_at = '2026-02-01T12:00:00Z') FROM omnilink.api_keys WHERE name = 'one'"),
        ["onefalsetrue"]
    );
    // It stays as it is, whatever changes else.
    create("three", &Token::generate());
    wait_until("three", || {
        database.number("SELECT count(*) FROM omnilink.api_keys WHERE revoked_at IS NULL") == 2
    });
    assert_eq!(
        database.number("SELECT count(*) FROM omnilink.api_keys WHERE revoked_at IS NOT NULL"),
        1
    );
    assert_eq!(progress.trouble(), None);

    // A new database knows the key that was revoked, from its revocation.
    let shown = "SELECT concat_ws('|', tenant, id, name, principal, kind, prefix, scopes, created_at, expires_at, revoked_at) \
        FROM omnilink.api_keys ORDER BY id";
    let fresh = Database::new().unwrap();
    let again = (
        ControlledTable::api_keys(&controls),
        Arc::<Progress>::default(),
    );
    let _again = ControlledTables::start(fresh.runtime.handle(), &fresh.store(), [again]);
    wait_until("all keys", || fresh.texts(shown).len() == 3);
    assert_eq!(fresh.texts(shown), database.texts(shown));
}

/// Sources that were deleted are known from the topic, too, with the time at which that was.
#[test]
fn a_new_database_knows_deleted_sources() {
    let (Some(database), Some(test_log)) = (Database::new(), TestLog::new(LogKind::Local)) else {
        return;
    };
    let log = test_log.open("one");
    log.provision(&[test_log.spec("controls", 1, Cleanup::Compact)], true)
        .unwrap();
    let secrets = || SecretKeys::open_or_create(test_log.dir.path()).unwrap();
    let topic: Arc<str> = test_log.topic("controls").into();
    let start = || Controls::start(Arc::clone(&log), Arc::clone(&topic), secrets()).unwrap();
    let at = Millis(SystemClock.now().0 - 86_400_000);
    let id = {
        let (controls, _tail) = start();
        database.runtime.block_on(async {
            assert!(controls.wait_readable(Duration::from_secs(20)).await);
            let definition = IntegrationDefinition {
                name: "github".into(),
                dialect: "github".into(),
                mapping: None,
                hmac: None,
                odoo: None,
            };
            let tenant = Tenant::new("acme").unwrap();
            let secret = Credential::Secret("s".into());
            let made = controls.create_integration(tenant, definition, vec![secret], ("me", at));
            let made = made.await.unwrap().unwrap();
            let later = Millis(at.0 + 5_000);
            let deleting = controls.remove_integration(&made, ("me", later));
            deleting.await.unwrap();
            made.id.clone()
        })
    };
    // A node that starts now has never seen the source.
    let (controls, _tail) = start();
    let readable = controls.wait_readable(Duration::from_secs(20));
    assert!(database.runtime.block_on(readable));
    let table = (
        ControlledTable::integrations(&controls),
        Arc::<Progress>::default(),
    );
    let _tables = ControlledTables::start(database.runtime.handle(), &database.store(), [table]);
    let rows = || {
        database.texts(
            "SELECT concat_ws('|', tenant, id, name, dialect, status, (EXTRACT(EPOCH FROM created_at) * 1000)::bigint, \
             (EXTRACT(EPOCH FROM updated_at) * 1000)::bigint) FROM omnilink.integrations",
        )
    };
    let expected = format!("acme|{id}|github|github|deleted|{}|{}", at.0, at.0 + 5_000);
    wait_until("the row", || rows() == [expected.clone()]);
}

fn source(id: &str, status: &str, updated_at: i64) -> IntegrationRow {
    IntegrationRow {
        tenant: "acme".into(),
        id: id.into(),
        name: format!("source-{id}"),
        dialect: "github".into(),
        status: status.into(),
        created_at: Millis(1_700_000_000_000),
        updated_at: Millis(updated_at),
    }
}

#[test]
fn a_deleted_source_keeps_its_row() {
    let Some(database) = Database::new() else {
        return;
    };
    let store = database.store();
    let write_with = |rows: &[IntegrationRow], ended: &[Ended]| {
        let writing = integrations::replace(&store, rows, ended);
        database.runtime.block_on(writing).unwrap();
    };
    let write = |rows: &[IntegrationRow]| write_with(rows, &[]);
    let rows = || {
        database.texts(
            "SELECT concat_ws('|', id, name, dialect, status, EXTRACT(EPOCH FROM created_at)::bigint, \
             updated_at > now() - interval '1 minute', last_received_at IS NOT NULL) FROM omnilink.integrations ORDER BY id",
        )
    };
    database.run(
        "INSERT INTO omnilink.audit_log (tenant, at, id, action, resource_id, outcome, detail) \
         VALUES ('acme', now(), '1', 'source.received', '1', 'ok', '{}')",
    );
    write(&[source("1", "active", 1), source("2", "active", 1)]);
    let active = [
        "1|source-1|github|active|1700000000|f|t",
        "2|source-2|github|active|1700000000|f|f",
    ];
    assert_eq!(rows(), active);
    // The same again changes no row.
    let versions = || database.texts("SELECT xmin FROM omnilink.integrations ORDER BY id");
    let before = versions();
    write(&[source("1", "active", 1), source("2", "active", 1)]);
    assert_eq!(versions(), before);
    write(&[source("2", "paused", 2)]);
    assert_eq!(
        rows(),
        [
            "1|source-1|github|deleted|1700000000|t|t",
            "2|source-2|github|paused|1700000000|f|f"
        ]
    );
    // A node that had read an older set is corrected by the next.
    write(&[source("1", "active", 1), source("2", "active", 1)]);
    assert_eq!(rows(), active);
    write(&[]);
    let deleted = || {
        database.texts(
            "SELECT (EXTRACT(EPOCH FROM updated_at) * 1000)::bigint::text FROM omnilink.integrations \
             WHERE status = 'deleted' ORDER BY id",
        )
    };
    let seen = deleted();
    assert_eq!(seen.len(), 2);
    // It keeps the time at which that was seen, until the time of the deletion is known.
    write(&[]);
    assert_eq!(deleted(), seen);
    let ended = Ended {
        tenant: "acme".into(),
        id: "1".into(),
        at: Millis(1_700_000_005_000),
    };
    write_with(&[], &[ended]);
    assert_eq!(deleted(), ["1700000005000", &*seen[1]]);
}

#[test]
fn emergency_controls_are_the_whole_set() {
    let Some(database) = Database::new() else {
        return;
    };
    let store = database.store();
    let row = |name: &str, enabled, reason: Option<&str>| EmergencyRow {
        feature_name: name.into(),
        enabled,
        value: Some("[\"noop\"]".into()),
        disabled_reason: reason.map(str::to_owned),
        updated_by: Some("ann".into()),
        updated_at: Some(Millis(1_700_000_000_000)),
    };
    let rows = || {
        database.texts(
            "SELECT concat_ws('|', feature_name, enabled, value, disabled_reason, updated_by, EXTRACT(EPOCH FROM updated_at)::bigint) \
             FROM omnilink.emergency_controls ORDER BY 1",
        )
    };
    // As a table that follows a set of its own.
    let (sender, changed) = watch::channel(0);
    let set = Arc::new(parking_lot::Mutex::new(Some(vec![
        row("kill_switch", true, Some("drill")),
        row("webhooks", true, None),
    ])));
    let progress = Arc::<Progress>::default();
    let shown = Arc::clone(&set);
    let table = ControlledTable::new(
        "emergency_controls",
        changed,
        move || shown.lock().clone(),
        |store, rows| async move {
            emergency::replace(&store, &rows, ("ann", Millis(1_700_000_000_000))).await
        },
    );
    let running = [(table, Arc::clone(&progress))];
    let _tables = ControlledTables::start(database.runtime.handle(), &store, running);
    let first = [
        "kill_switch|t|[\"noop\"]|drill|ann|1700000000",
        "webhooks|t|[\"noop\"]|ann|1700000000",
    ];
    wait_until("both", || rows() == first);
    *set.lock() = Some(vec![row("webhooks", false, Some("too many"))]);
    sender.send_replace(1);
    wait_until("one", || {
        rows() == ["webhooks|f|[\"noop\"]|too many|ann|1700000000"]
    });
    // While the set is not known nothing is written, and it says so.
    *set.lock() = None;
    sender.send_replace(2);
    wait_until("it waits", || progress.trouble().is_some());
    assert_eq!(rows().len(), 1);
    *set.lock() = Some(Vec::new());
    wait_until("none", || rows().is_empty());
    wait_until("it works", || progress.trouble().is_none());
}
