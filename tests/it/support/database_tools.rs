//! Databases with logins of their own, and calls of the builtin tools that use them.

use std::time::Duration;

use omnilink::{
    commands::result::{ResultError, StepResult},
    config::{Config, Sources},
    runs::StepCommand,
    stream::effect,
};
use serde_json::{Value, json};

use super::{
    port::Node,
    projections::Database,
    worker::{Told, send, start_all, step, told},
};

const ORDERS: &str = "
    CREATE TABLE orders (id int PRIMARY KEY, customer text, total numeric(10,2), paid boolean, at timestamptz, tags jsonb);
    INSERT INTO orders VALUES
      (1, 'ann', 10.50, true, '2026-01-31T13:00:00+01', '{\"a\": 1, \"b\": 2}'),
      (2, 'bob', 99, false, NULL, '{}'),
      (3, 'ann', 5, true, NULL, '{\"a\": 1}');
    CREATE TABLE hidden (secret text);
    CREATE SEQUENCE numbers;
";
const LEADS: &str = "
    CREATE SCHEMA crm;
    CREATE TABLE crm.leads (
      id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, omnilink_key text UNIQUE NOT NULL, tenant text NOT NULL, \"Name\" text NOT NULL,
      amount numeric(12,2) DEFAULT 1, born date, extra jsonb, made_at timestamptz NOT NULL DEFAULT clock_timestamp());
";
pub const TABLES: &str = r#"[{ "name": "crm.leads", "columns": ["Name", "amount", "born", "extra"], "key": "omnilink_key", "tenant": "tenant" }]"#;

/// A database with a login `{database}_NAME` for each name, dropped at the end.
pub struct Bench {
    pub database: Database,
    pub logins: Vec<String>,
}

impl Bench {
    pub fn new(database: Option<Database>, logins: &[&str], sql: &str) -> Option<Self> {
        let database = database?;
        let logins = logins
            .iter()
            .map(|name| format!("{}_{name}", database.name));
        let bench = Self {
            logins: logins.collect(),
            database,
        };
        for login in &bench.logins {
            bench
                .database
                .admin(&format!("CREATE ROLE {login} LOGIN PASSWORD 'x'"));
        }
        bench.database.run(sql);
        Some(bench)
    }

    pub fn queries() -> Option<Self> {
        let bench = Self::new(Database::empty(), &["q"], ORDERS)?;
        let login = &bench.logins[0];
        bench.database.run(&format!(
            "GRANT SELECT ON orders TO {login}; GRANT USAGE ON SEQUENCE numbers TO {login}"
        ));
        Some(bench)
    }

    pub fn leads() -> Option<Self> {
        let bench = Self::new(Database::empty(), &["w"], LEADS)?;
        let login = &bench.logins[0];
        bench.database.run(&format!(
            "GRANT USAGE ON SCHEMA crm TO {login}; GRANT SELECT, INSERT ON crm.leads TO {login}"
        ));
        Some(bench)
    }

    /// The URL of the database with a login.
    pub fn url(&self, login: &str) -> String {
        let admin = self.database.url();
        let (_, host) = admin.rsplit_once('@').unwrap();
        format!("postgres://{login}:x@{host}")
    }

    /// The configuration with these keys of `tools`, and the URL of the first login.
    pub fn config(&self, tool: &str, more: &[(&'static str, &str)]) -> Config {
        let key = match tool {
            "sql_query" => "tools.sql_query.url",
            _ => "tools.record_create.url",
        };
        let mut flags = vec![("test", key, self.url(&self.logins[0]))];
        flags.extend(
            more.iter()
                .map(|(key, value)| ("test", *key, (*value).to_owned())),
        );
        let sources = Sources {
            flags,
            ..Sources::default()
        };
        Config::load(&sources).unwrap()
    }

    /// A node that carries out calls with this configuration.
    pub fn start(&self, config: &Config) -> Calls<'_> {
        let calls = async {
            let node = Node::start().await;
            let running = start_all(&node, &[], Duration::from_secs(1), &config.database_tools);
            (node, running)
        };
        let (node, running) = self.database.runtime.block_on(calls);
        Calls {
            bench: self,
            _running: running,
            node,
            sent: 0,
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for login in &self.logins {
            self.database.run(&format!("DROP OWNED BY {login}"));
            self.database.admin(&format!("DROP ROLE {login}"));
        }
    }
}

pub struct Calls<'b> {
    bench: &'b Bench,
    _running: effect::Running,
    pub node: Node,
    pub sent: usize,
}

impl Calls<'_> {
    /// Sends calls, and waits for their results, in the same order.
    pub fn results(&mut self, commands: &[StepCommand]) -> Vec<StepResult> {
        self.bench.database.runtime.block_on(async {
            send(&self.node, commands).await;
            self.sent += commands.len();
            let told = told(&self.node, self.sent).await;
            let of = |command: &StepCommand| {
                let mut told = told.iter().map(Told::result);
                let this = told
                    .find(|r| r.step_id == command.step_id && r.attempt == command.attempt as u32);
                this.unwrap().clone()
            };
            commands.iter().map(of).collect()
        })
    }

    pub fn query(&mut self, sql: &str, params: &Value) -> StepResult {
        let call = call("sql_query", &json!({ "sql": sql, "params": params }));
        self.results(&[call]).remove(0)
    }

    pub fn rows(&mut self, sql: &str, params: &Value) -> Value {
        let result = self.query(sql, params);
        let output = result
            .output
            .unwrap_or_else(|| panic!("{sql}: {:?}", result.error));
        output.value()["rows"].clone()
    }

    pub fn error(&mut self, sql: &str) -> ResultError {
        let result = self.query(sql, &json!([]));
        assert!(result.answered);
        result
            .error
            .unwrap_or_else(|| panic!("{sql}: {:?}", result.output))
    }

    pub fn record(&mut self, input: &Value) -> StepResult {
        let call = call("record_create", input);
        self.results(&[call]).remove(0)
    }
}

/// A call of a builtin tool, of a step of its own.
pub fn call(tool: &str, input: &Value) -> StepCommand {
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    step(&format!("s{n}"), tool, &json!({ "builtin": tool }), input)
}
