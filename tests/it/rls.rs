//! Row-level security: which login reads which tenants.

use omnilink::store::{
    Session, exposure,
    grants::{self, Grant},
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::support::projections::Database;

/// A login with the reader role, and rows of two tenants.
pub struct Readers {
    pub database: Database,
    pub login: String,
}

impl Readers {
    pub fn new(attributes: &str) -> Option<Self> {
        let database = Database::new()?;
        let login = format!("r_{}", database.name);
        database.run(&format!(
            "CREATE ROLE {login} LOGIN PASSWORD 'x' {attributes}; GRANT omnilink_reader TO {login}"
        ));
        for tenant in ["acme", "beta", "gamma"] {
            database.run(&format!(
                "INSERT INTO omnilink.events SELECT '{tenant}', 'x', '/', 't', NULL, NULL, NULL, NULL, NULL, now(), 'producer', \
                 now(), NULL, NULL, '{{}}', 0, (random() * 1e15)::bigint; \
                 INSERT INTO omnilink.entities VALUES ('{tenant}', 'order', '1', NULL, '{{}}', 1, 'x', now())"
            ));
        }
        Some(Self { database, login })
    }

    pub async fn connect(&self) -> PgConnection {
        let options = self
            .database
            .options
            .clone()
            .username(&self.login)
            .password("x");
        PgConnection::connect_with(&options).await.unwrap()
    }

    /// The tenants whose events the login can read.
    pub fn seen(&self) -> Vec<String> {
        self.database.runtime.block_on(async {
            let mut reader = self.connect().await;
            tenants(&mut reader, "omnilink.events").await
        })
    }

    fn grant(&self, tenants: &[&str]) {
        let grants: Vec<Grant> = tenants
            .iter()
            .map(|tenant| Grant {
                role: self.login.clone(),
                tenant: (*tenant).to_owned(),
            })
            .collect();
        let store = self.database.store();
        self.database.runtime.block_on(async {
            grants::replace(&store, &grants).await.unwrap();
            assert_eq!(grants::list(&store).await.unwrap(), grants);
        });
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.database.run(&format!(
            "DROP OWNED BY {login}; DROP ROLE {login}",
            login = self.login
        ));
    }
}

/// The tables of migrations 0004 to 0009 that have a tenant, each with the columns that a row needs, and their values after the tenant.
const TABLES: [(&str, &str, &str); 10] = [
    (
        "omnilink.audit_log",
        "at, id, action, outcome, detail",
        "now(), '1', 'start', 'ok', '{}'",
    ),
    (
        "omnilink.rejections",
        "id, at, source, code",
        "'1', now(), 'odoo', 'x'",
    ),
    (
        "omnilink.api_keys",
        "id, name, principal, kind, prefix, scopes, max_rpm, max_concurrency, created_at",
        "'1', 'n', 'p', 'service', 'x', '{}', 0, 0, now()",
    ),
    (
        "omnilink.integrations",
        "id, name, dialect, status, created_at, updated_at",
        "'1', 'n', 'github', 'active', now(), now()",
    ),
    (
        "odoo.webhook_events",
        "id, source, event_type, status, retry_count, received_at",
        "'1', '/webhooks/acme/odoo', 't', 'completed', 0, now()",
    ),
    (
        "omnilink.runs",
        "run_id, seq, status, trigger, created_at, updated_at",
        "'1', 1, 'running', 'request', now(), now()",
    ),
    (
        "omnilink.run_steps",
        "run_id, step_id, tool, status, attempts",
        "'1', 'a', 't', 'running', 1",
    ),
    (
        "omnilink.run_history",
        "run_id, first_seq, types, at, records",
        "'1', 1, '{paused}', ARRAY[now()], ARRAY['{}']",
    ),
    (
        "omnilink.approvals",
        "approval_id, run_id, kind, status, lane, risk_score, reasons, input, input_hash, requested_at, expires_at",
        "'1.2', '1', 'step', 'pending', 'RED', 0.8, '[]', '{}', 'x', now(), now()",
    ),
    (
        "omnilink.tasks",
        "task_id, run_id, step_id, kind, attempt, tool, status, input, limit_key, timeout_ms, deadline, created_at",
        "'1:a:execute:1', '1', 'a', 'execute', 1, 't', 'open', '{}', '', 1000, now(), now()",
    ),
];

/// Views of them.
const VIEWS: [&str; 2] = ["omnilink.run_events", "omnilink.orchestration_requests"];

/// The names of the tables and views.
fn shown() -> impl Iterator<Item = &'static str> {
    TABLES.iter().map(|(table, ..)| *table).chain(VIEWS)
}

async fn tenants(connection: &mut PgConnection, table: &str) -> Vec<String> {
    sqlx::query_scalar(AssertSqlSafe(format!(
        "SELECT tenant FROM {table} ORDER BY tenant"
    )))
    .fetch_all(connection)
    .await
    .unwrap()
}

async fn refused(connection: &mut PgConnection, sql: &'static str) {
    let error = sqlx::raw_sql(sql).execute(connection).await.unwrap_err();
    let code = error
        .as_database_error()
        .and_then(|e| e.code().map(std::borrow::Cow::into_owned));
    assert_eq!(code.as_deref(), Some("42501"), "{sql}: {error}");
}

#[test]
fn a_reader_sees_the_tenants_granted_to_its_login() {
    let Some(readers) = Readers::new("") else {
        return;
    };
    readers.grant(&["acme", "beta"]);
    readers.database.runtime.block_on(async {
        let mut reader = readers.connect().await;
        for table in [
            "omnilink.events",
            "omnilink.entities",
            "omnilink.reader_grants",
        ] {
            assert_eq!(
                tenants(&mut reader, table).await,
                ["acme", "beta"],
                "{table}"
            );
        }
        // The setting restricts access further, even to nothing; an empty one has no effect.
        for (setting, seen) in [
            ("beta", &["beta"][..]),
            ("gamma", &[]),
            ("", &["acme", "beta"]),
        ] {
            sqlx::query("SELECT set_config('omnilink.tenant', $1, false)")
                .bind(setting)
                .execute(&mut reader)
                .await
                .unwrap();
            assert_eq!(
                tenants(&mut reader, "omnilink.events").await,
                seen,
                "{setting}"
            );
            assert_eq!(
                tenants(&mut reader, "omnilink.entities").await,
                seen,
                "{setting}"
            );
        }
        for sql in [
            "SELECT * FROM omnilink.events_default",
            "SELECT * FROM omnilink.entities_all",
            "SELECT * FROM omnilink.projection_offsets",
            "SELECT * FROM omnilink.migrations",
            "INSERT INTO omnilink.reader_grants SELECT session_user, 'gamma'",
            "UPDATE omnilink.entities SET version = 2",
            "DELETE FROM omnilink.events",
            "TRUNCATE omnilink.events",
            "CREATE TABLE omnilink.mine (n integer)",
            "SET ROLE omnilink_service",
        ] {
            refused(&mut reader, sql).await;
        }
        // After SET ROLE the grants of the login still apply.
        sqlx::raw_sql("SET ROLE omnilink_reader")
            .execute(&mut reader)
            .await
            .unwrap();
        assert_eq!(
            tenants(&mut reader, "omnilink.events").await,
            ["acme", "beta"]
        );
    });
    readers.grant(&[]);
    readers.database.runtime.block_on(async {
        let mut reader = readers.connect().await;
        assert!(tenants(&mut reader, "omnilink.events").await.is_empty());
    });
}

#[test]
fn the_tables_of_the_audit_log_show_a_reader_its_tenants() {
    let Some(readers) = Readers::new("") else {
        return;
    };
    readers.grant(&["acme", "beta"]);
    for (table, columns, values) in TABLES {
        for tenant in ["acme", "beta", "gamma", "-"] {
            readers.database.run(&format!(
                "INSERT INTO {table} (tenant, {columns}) VALUES ('{tenant}', {values})"
            ));
        }
    }
    readers
        .database
        .run("INSERT INTO omnilink.emergency_controls VALUES ('kill_switch', false, 'false')");
    readers.database.runtime.block_on(async {
        let mut reader = readers.connect().await;
        for table in shown() {
            assert_eq!(
                tenants(&mut reader, table).await,
                ["acme", "beta"],
                "{table}"
            );
        }
        sqlx::raw_sql("SET omnilink.tenant = 'beta'")
            .execute(&mut reader)
            .await
            .unwrap();
        for table in shown() {
            assert_eq!(tenants(&mut reader, table).await, ["beta"], "{table}");
        }
        for sql in [
            "SELECT * FROM omnilink.emergency_controls",
            "SELECT * FROM omnilink.audit_log_all",
            "SELECT * FROM odoo.webhook_events_all",
            "SELECT * FROM omnilink.tasks_all",
            "UPDATE omnilink.tasks SET status = 'done'",
            "INSERT INTO omnilink.audit_log SELECT * FROM omnilink.audit_log",
            "UPDATE omnilink.api_keys SET revoked_at = NULL",
            "DELETE FROM omnilink.rejections",
            "CREATE TABLE odoo.mine (n integer)",
        ] {
            refused(&mut reader, sql).await;
        }
    });
}

#[test]
fn doctor_sees_what_shows_too_much() {
    let Some(readers) = Readers::new("") else {
        return;
    };
    let database = &readers.database;
    let problems = || {
        database.runtime.block_on(async {
            let store = database.store();
            let mut connection = store.connect(Session::Login).await.unwrap();
            exposure::problems(&mut connection).await.unwrap()
        })
    };
    assert_eq!(problems(), Vec::<String>::new());
    let login = &readers.login;
    database.run(&format!(
        "GRANT SELECT ON omnilink.audit_log_all TO {login}; GRANT SELECT ON omnilink.migrations TO PUBLIC; \
         GRANT DELETE ON odoo.webhook_events TO {login}; \
         CREATE VIEW public.all_events AS SELECT * FROM omnilink.events; GRANT SELECT ON public.all_events TO {login}; \
         CREATE VIEW public.good AS SELECT * FROM omnilink.events; ALTER VIEW public.good SET (security_invoker = true); \
         GRANT SELECT ON public.good TO {login}; \
         GRANT USAGE ON SCHEMA odoo TO PUBLIC; GRANT CREATE ON SCHEMA omnilink TO {login}; \
         GRANT UPDATE (name) ON omnilink.api_keys TO {login}; \
         CREATE POLICY all_rows ON omnilink.events FOR SELECT TO {login} USING (true); \
         ALTER POLICY readers ON omnilink.entities USING (true)"
    ));
    let found = problems().join("\n");
    for expected in [
        format!("{login} may read the partition omnilink.audit_log_all itself"),
        "omnilink.migrations has no row-level security, and PUBLIC may read it".to_owned(),
        format!("{login} may change odoo.webhook_events"),
        "the view public.all_events is no security_invoker".to_owned(),
        "PUBLIC has USAGE on the schema odoo: REVOKE USAGE ON SCHEMA odoo FROM PUBLIC".to_owned(),
        format!("{login} has CREATE on the schema omnilink"),
        format!(
            "{login} has UPDATE on the column name of omnilink.api_keys: REVOKE UPDATE (name) ON"
        ),
        "the policy all_rows on omnilink.events is not OmniLink's".to_owned(),
        "the policy readers on omnilink.entities is not as OmniLink made it".to_owned(),
    ] {
        assert!(found.contains(&expected), "{expected} in:\n{found}");
    }
    assert!(!found.contains("good"), "{found}");
}

#[test]
fn a_partition_granted_by_mistake_shows_nothing() {
    let Some(readers) = Readers::new("") else {
        return;
    };
    readers.grant(&["acme"]);
    readers.database.run(&format!(
        "GRANT SELECT ON ALL TABLES IN SCHEMA omnilink TO {login}; GRANT SELECT ON ALL TABLES IN SCHEMA odoo TO {login}",
        login = readers.login
    ));
    let partitions = readers.database.texts(
        "SELECT format('%I.%I', c.relnamespace::regnamespace, c.relname) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
         WHERE c.relkind = 'r'",
    );
    assert!(partitions.len() >= 8, "{partitions:?}");
    readers.database.runtime.block_on(async {
        let mut reader = readers.connect().await;
        for partition in partitions {
            assert!(
                tenants(&mut reader, &partition).await.is_empty(),
                "{partition}"
            );
        }
        assert_eq!(tenants(&mut reader, "omnilink.events").await, ["acme"]);
    });
}

#[test]
fn a_readers_own_view_shows_no_more() {
    let Some(readers) = Readers::new("NOINHERIT") else {
        return;
    };
    readers.grant(&["beta"]);
    readers.database.runtime.block_on(async {
        let mut reader = readers.connect().await;
        // Without INHERIT the login needs SET ROLE.
        refused(&mut reader, "SELECT * FROM omnilink.events").await;
        sqlx::raw_sql(
            "SET ROLE omnilink_reader; CREATE TEMP VIEW mine AS SELECT * FROM omnilink.events",
        )
        .execute(&mut reader)
        .await
        .unwrap();
        assert_eq!(tenants(&mut reader, "mine").await, ["beta"]);
    });
}
