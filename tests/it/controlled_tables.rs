//! Tables that follow the topic `controls`.

use std::{sync::Arc, time::Duration};

use omnilink::{
    base::{
        clock::{Clock, Millis, SystemClock},
        id::Tenant,
    },
    controls::{Controls, KeyKind, NewKey, Scopes, SecretKeys, Token},
    log::Cleanup,
    projections::{ControlledTable, ControlledTables},
    store::{
        emergency::{self, EmergencyRow},
        integrations::{self, IntegrationRow},
    },
    stream::progress::Progress,
};
use tokio::sync::watch;

use crate::support::{TestLog, on_both_logs, projections::Database, wait_until};

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

    let revoking = controls.revoke_key(&key, "me", SystemClock.now());
    runtime.block_on(revoking).unwrap();
    wait_until("it is revoked", || {
        database.number(
            "SELECT count(*) FROM omnilink.api_keys WHERE revoked_at > now() - interval '1 minute'",
        ) == 1
    });
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
    let write = |rows: &[IntegrationRow]| {
        let writing = integrations::replace(&store, rows);
        database.runtime.block_on(writing).unwrap();
    };
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
    assert_eq!(
        database.number("SELECT count(*) FROM omnilink.integrations WHERE status = 'deleted'"),
        2
    );
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
