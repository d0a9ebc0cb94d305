//! The table of configuration keys.

mod policies;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Map, Value as Json, json};

use super::{
    Alias, AllowedOrigin, BREAKER_CALLS, Config, LogFormat, Network, Problem, QueryLogin, Secret,
    SecretUrl,
    database_tools::{self, BadQueryLogin, BadTables},
    given::{self, Given, PROPERTIES, Value},
    jwt::{self, BadIssuers},
    notify::{self, BadNotify},
    planner::{self, BadModels, LanguageModel},
    secret::{MASK, SecretError},
};

pub(super) use policies::Drafts;
use policies::POLICIES;

/// A configuration key.
pub struct Key {
    /// Its name, such as `topics.prefix`.
    pub name: &'static str,
    /// What it does, as shown in `omnilink config --help`.
    pub doc: &'static str,
    set: fn(&mut Config, &Value, &Context<'_>) -> Result<(), ValueError>,
    show: fn(&Config) -> Json,
}

impl Key {
    /// The environment variable that sets it.
    pub fn env(&self) -> String {
        given::env_name(self.name)
    }
}

/// Why a key does not take a value: what is wrong, and what it takes.
#[derive(Debug, thiserror::Error)]
enum ValueError {
    #[error("must not be empty")]
    Empty,
    /// YAML's number or boolean where a text belongs.
    #[error("must be text: put it in quotes")]
    Unquoted,
    /// The whole of what the key takes.
    #[error("{0}")]
    Takes(&'static str),
    #[error("must be {0}")]
    MustBe(&'static str),
    #[error("must be a whole number from {least} to {most}")]
    OutOfRange { least: i64, most: i64 },
    /// One of a list is not what the list holds.
    #[error("`{item}` is not {what}")]
    Item { item: String, what: &'static str },
    #[error("`{0}` must be text, a whole number, true or false")]
    Property(String),
    /// A path of `webhooks.aliases`, and what is wrong with it.
    #[error("`{path}` {what}")]
    Alias { path: String, what: &'static str },
    /// A map that a variable gives as YAML.
    #[error("{0}")]
    Yaml(String),
    #[error("{}", match nearest {
        Some(name) => format!("there is no such key; did you mean `{name}`?"),
        None => "there is no such key; `omnilink config --help` lists them".to_owned(),
    })]
    NoSuchKey { nearest: Option<&'static str> },
    #[error("{}", match nearest {
        Some(name) => format!("there is no such field; did you mean `{name}`?"),
        None => "there is no such field".to_owned(),
    })]
    NoSuchField { nearest: Option<&'static str> },
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error(transparent)]
    Issuers(#[from] BadIssuers),
    #[error(transparent)]
    Notify(#[from] BadNotify),
    #[error(transparent)]
    Tables(#[from] BadTables),
    #[error(transparent)]
    QueryLogin(#[from] BadQueryLogin),
    #[error(transparent)]
    Models(#[from] BadModels),
}

/// What parsing a value may need: the folder for relative paths, and the environment for `env:NAME`.
pub(super) struct Context<'a> {
    pub(super) base: &'a Path,
    pub(super) env: &'a dyn Fn(&str) -> Option<String>,
}

/// The schemes of Postgres's URLs.
const POSTGRES: &[&str] = &["postgres", "postgresql"];

/// All keys, in display order.
pub const KEYS: &[Key] = &[
    Key {
        name: "listen",
        doc: "address and port of the HTTP port (127.0.0.1:7700)",
        set: |c, v, _| {
            c.listen = parse::<SocketAddr>(v, "an address and port, such as 127.0.0.1:7700")?;
            Ok(())
        },
        show: |c| json!(c.listen.to_string()),
    },
    Key {
        name: "insecure_listen",
        doc: "allow `listen` on a non-loopback address without TLS, although keys are sent unencrypted (false)",
        set: |c, v, _| {
            c.insecure_listen = boolean(v)?;
            Ok(())
        },
        show: |c| json!(c.insecure_listen),
    },
    Key {
        name: "tls.cert",
        doc: "PEM file with the port's certificate, then its intermediates; read again when it changes; without it the port has no TLS",
        set: |c, v, ctx| {
            c.tls.cert = Some(path(v, ctx)?);
            Ok(())
        },
        show: |c| json!(c.tls.cert.as_ref().map(|file| file.display().to_string())),
    },
    Key {
        name: "tls.key",
        doc: "PEM file with the certificate's private key: PKCS#8, PKCS#1 or SEC1, not encrypted",
        set: |c, v, ctx| {
            c.tls.key = Some(path(v, ctx)?);
            Ok(())
        },
        show: |c| json!(c.tls.key.as_ref().map(|file| file.display().to_string())),
    },
    Key {
        name: "trusted_proxies",
        doc: "list of addresses or networks whose X-Forwarded-For is trusted (none)",
        set: |c, v, _| {
            c.trusted_proxies = texts(v)?
                .iter()
                .map(|t| {
                    Network::parse(t).ok_or_else(|| ValueError::Item {
                        item: t.clone(),
                        what: "an address or a network, such as 10.0.0.0/8",
                    })
                })
                .collect::<Result<_, _>>()?;
            Ok(())
        },
        show: |c| {
            json!(
                c.trusted_proxies
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
            )
        },
    },
    Key {
        name: "cors",
        doc: "list of origins (https://app.example.com, or *) whose pages may call the port and whose webhooks it accepts (none)",
        set: |c, v, _| {
            let parsed = |text: &String| {
                AllowedOrigin::parse(text).ok_or_else(|| ValueError::Item {
                    item: text.clone(),
                    what: "an origin, such as https://app.example.com, nor *",
                })
            };
            c.cors = texts(v)?.iter().map(parsed).collect::<Result<_, _>>()?;
            Ok(())
        },
        show: |c| json!(c.cors.iter().map(ToString::to_string).collect::<Vec<_>>()),
    },
    Key {
        name: "auth.jwt",
        doc: "list of issuers whose tokens (JWT) are accepted beside keys: {issuer, audience, jwks, principal, tenant, permissions, constraints}; JSON in a variable (none); docs/identity.md",
        set: |c, v, ctx| {
            let issuers = v.json().map_err(ValueError::MustBe)?;
            c.jwt = jwt::parse(issuers, ctx.base)?;
            Ok(())
        },
        show: |c| json!(c.jwt),
    },
    Key {
        name: "data_dir",
        doc: "folder for everything kept on disk (./data)",
        set: |c, v, ctx| {
            c.data_dir = path(v, ctx)?;
            Ok(())
        },
        show: |c| json!(c.data_dir.display().to_string()),
    },
    Key {
        name: "secret_key",
        doc: "list of base64 32-byte keys: the first encrypts, all decrypt; required with Kafka, else created in data_dir",
        set: |c, v, ctx| {
            c.secret_key = texts(v)?
                .iter()
                .map(|t| secret_key(t, ctx))
                .collect::<Result<_, _>>()?;
            Ok(())
        },
        show: |c| {
            json!(
                c.secret_key
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
            )
        },
    },
    Key {
        name: "topics.prefix",
        doc: "prefix of every topic, consumer group and transactional id (omnilink.)",
        set: |c, v, _| {
            let prefix = text(v)?;
            let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
            if prefix.len() > 100 || !prefix.bytes().all(good) {
                return Err(ValueError::Takes(
                    "at most 100 of the characters A-Z a-z 0-9 . _ -",
                ));
            }
            c.topics.prefix = prefix;
            Ok(())
        },
        show: |c| json!(c.topics.prefix),
    },
    Key {
        name: "topics.partitions",
        doc: "partitions of a topic; cannot be changed once topics exist (8)",
        set: |c, v, _| {
            c.topics.partitions = within(v, 1, 10_000)? as u32;
            Ok(())
        },
        show: |c| json!(c.topics.partitions),
    },
    Key {
        name: "topics.replication_factor",
        doc: "replication factor of topics on Kafka (the broker's default)",
        set: |c, v, _| {
            c.topics.replication_factor = Some(within(v, 1, 100)? as u16);
            Ok(())
        },
        show: |c| json!(c.topics.replication_factor),
    },
    Key {
        name: "kafka.brokers",
        doc: "list of host:port of some brokers; without it the log is embedded",
        set: |c, v, _| {
            let brokers = texts(v)?;
            if let Some(bad) = brokers.iter().find(|b| !is_host_port(b)) {
                return Err(ValueError::Item {
                    item: bad.clone(),
                    what: "a broker, such as kafka-1:9092",
                });
            }
            c.kafka.brokers = brokers;
            Ok(())
        },
        show: |c| json!(c.kafka.brokers),
    },
    Key {
        name: PROPERTIES,
        doc: "map of librdkafka properties, passed on as they are; values may be references",
        set: |c, v, ctx| {
            let entries = map(v, "a map, such as {security.protocol: SASL_SSL}")?;
            entries
                .iter()
                .try_for_each(|(name, value)| property(c, name, value, ctx))
        },
        show: |c| {
            let shown = c.kafka.properties.iter().map(|(name, value)| {
                let masked = value.is_reference() || is_secret(name);
                let value = if masked {
                    value.to_string()
                } else {
                    value.expose().to_owned()
                };
                (name.clone(), json!(value))
            });
            Json::Object(shown.collect())
        },
    },
    Key {
        name: "postgres.url",
        doc: "postgres://… ; without it Postgres is embedded",
        set: |c, v, ctx| {
            c.postgres_url = Some(SecretUrl::new(secret(v, ctx)?, POSTGRES)?);
            Ok(())
        },
        show: |c| json!(c.postgres_url.as_ref().map(ToString::to_string)),
    },
    Key {
        name: "redis.url",
        doc: "redis://… ; limits, and requests in flight, that several nodes share; without it each node keeps its own",
        set: |c, v, ctx| {
            c.redis_url = Some(SecretUrl::new(secret(v, ctx)?, &["redis"])?);
            Ok(())
        },
        show: |c| json!(c.redis_url.as_ref().map(ToString::to_string)),
    },
    Key {
        name: "schema_registry.url",
        doc: "http://… or https://…, user and password in it if need be; the registry of foreign Avro; without it such records go to `dlq`",
        set: |c, v, ctx| {
            let url = SecretUrl::new(secret(v, ctx)?, &["http", "https"])?;
            c.schema_registry_url = Some(url);
            Ok(())
        },
        show: |c| json!(c.schema_registry_url.as_ref().map(ToString::to_string)),
    },
    Key {
        name: "qdrant.url",
        doc: "http://… or https://… of Qdrant: the index of cached plans; without it each node searches in memory",
        set: |c, v, ctx| {
            c.qdrant_url = Some(SecretUrl::new(secret(v, ctx)?, &["http", "https"])?);
            Ok(())
        },
        show: |c| json!(c.qdrant_url.as_ref().map(ToString::to_string)),
    },
    Key {
        name: "qdrant.api_key",
        doc: "the key of qdrant.url",
        set: |c, v, ctx| {
            c.qdrant_api_key = Some(secret(v, ctx)?);
            Ok(())
        },
        show: |c| json!(c.qdrant_api_key.as_ref().map(ToString::to_string)),
    },
    Key {
        name: "limits.single_bytes",
        doc: "maximum size of a single event in bytes (262144)",
        set: |c, v, _| {
            c.limits.single_bytes = within(v, 1024, 64 << 20)? as usize;
            Ok(())
        },
        show: |c| json!(c.limits.single_bytes),
    },
    Key {
        name: "limits.batch_bytes",
        doc: "maximum size of a batch in bytes (1048576)",
        set: |c, v, _| {
            c.limits.batch_bytes = within(v, 1024, 64 << 20)? as usize;
            Ok(())
        },
        show: |c| json!(c.limits.batch_bytes),
    },
    Key {
        name: "limits.batch_items",
        doc: "maximum number of items of a batch (50)",
        set: |c, v, _| {
            c.limits.batch_items = within(v, 1, 10_000)? as usize;
            Ok(())
        },
        show: |c| json!(c.limits.batch_items),
    },
    Key {
        name: "limits.dedupe_window_s",
        doc: "seconds for which an event's identity is remembered (86400)",
        set: |c, v, _| {
            c.limits.dedupe_window = Duration::from_secs(within(v, 60, 366 * 86_400)? as u64);
            Ok(())
        },
        show: |c| json!(c.limits.dedupe_window.as_secs()),
    },
    Key {
        name: POLICIES,
        doc: "map of rate limits by name: {limit, window_s, per: key|tenant|ip|type, on_backend_down: open|closed|local (local), on: [events, commands, workflows, goals, tasks, webhooks, runs] (all)} (none)",
        // Its fields are gathered first ([`Drafts`]).
        set: |_, _, _| Ok(()),
        show: |c| {
            let shown = c.limits.policies.iter();
            Json::Object(shown.map(|p| (p.name.to_string(), p.show())).collect())
        },
    },
    Key {
        name: "webhooks.aliases",
        doc: "map of paths to webhook sources, such as {/odoo-webhook: acme/odoo}: more paths for senders that already have one (none)",
        set: |c, v, _| {
            let takes = "a map, such as {/odoo-webhook: acme/odoo}";
            let mut aliases = Vec::new();
            for (path, source) in map(v, takes)? {
                let alias = Alias::parse(&path, &text(&source)?);
                aliases.push(alias.map_err(|what| ValueError::Alias { path, what })?);
            }
            c.aliases = aliases;
            Ok(())
        },
        show: |c| {
            let shown = c.aliases.iter().map(|alias| {
                let source = format!("{}/{}", alias.tenant, alias.source);
                (alias.path.clone(), json!(source))
            });
            Json::Object(shown.collect())
        },
    },
    Key {
        name: "webhooks_dir",
        doc: "folder with shapes of webhook sources, which `check` and `test` read (./webhooks)",
        set: |c, v, ctx| {
            c.webhooks_dir = path(v, ctx)?;
            Ok(())
        },
        show: |c| json!(c.webhooks_dir.display().to_string()),
    },
    Key {
        name: "audit.retention_days",
        doc: "days for which the audit log is kept, in its topic and in Postgres (90)",
        set: |c, v, _| {
            c.audit_retention_days = within(v, 1, 36_500)? as u32;
            Ok(())
        },
        show: |c| json!(c.audit_retention_days),
    },
    Key {
        name: "runs.identity_d",
        doc: "days for which the idempotency key of a run that has ended names it (90)",
        set: |c, v, _| {
            c.runs.identity_d = within(v, 1, 3650)? as u32;
            Ok(())
        },
        show: |c| json!(c.runs.identity_d),
    },
    Key {
        name: "runs.events",
        doc: "whether each end of a run is also an event omnilink.run.{succeeded,failed,denied,cancelled} (false)",
        set: |c, v, _| {
            c.runs.events = boolean(v)?;
            Ok(())
        },
        show: |c| json!(c.runs.events),
    },
    Key {
        name: "limits.approval_expiry_s",
        doc: "seconds for which an approval can be decided (86400)",
        set: |c, v, _| {
            c.runs.approval_expiry = Duration::from_secs(within(v, 1, 366 * 86_400)? as u64);
            Ok(())
        },
        show: |c| json!(c.runs.approval_expiry.as_secs()),
    },
    Key {
        name: "risk.approve_above",
        doc: "risk score, from 0 to 1, above which a step waits for a person, whatever its lane (0.7)",
        set: |c, v, _| {
            c.runs.approve_above = score(v)?;
            Ok(())
        },
        show: |c| json!(c.runs.approve_above),
    },
    Key {
        name: "guardian.enabled",
        doc: "whether goals are scored for prompt injection; personal data in goals are replaced by placeholders in any case (true); docs/guardian.md",
        set: |c, v, _| {
            c.guardian.enabled = boolean(v)?;
            Ok(())
        },
        show: |c| json!(c.guardian.enabled),
    },
    Key {
        name: "guardian.max_goal_length",
        doc: "maximum number of characters of a goal (20000)",
        set: |c, v, _| {
            c.guardian.max_goal_length = within(v, 1, 200_000)? as usize;
            Ok(())
        },
        show: |c| json!(c.guardian.max_goal_length),
    },
    Key {
        name: "guardian.flag_at",
        doc: "score of a goal, from 0 to 1, from which a person must approve its run (0.5)",
        set: |c, v, _| {
            c.guardian.flag_at = score(v)?;
            Ok(())
        },
        show: |c| json!(c.guardian.flag_at),
    },
    Key {
        name: "guardian.deny_at",
        doc: "score of a goal, from 0 to 1, from which its run is denied (0.95)",
        set: |c, v, _| {
            c.guardian.deny_at = score(v)?;
            Ok(())
        },
        show: |c| json!(c.guardian.deny_at),
    },
    Key {
        name: "breaker.failures",
        doc: "how many of a tool's last 20 calls must fail (and at least half) for its circuit breaker to open (5)",
        set: |c, v, _| {
            c.breaker.failures = within(v, 1, BREAKER_CALLS.into())? as u32;
            Ok(())
        },
        show: |c| json!(c.breaker.failures),
    },
    Key {
        name: "breaker.open_s",
        doc: "seconds for which a circuit breaker stays open before a trial call is sent (30)",
        set: |c, v, _| {
            c.breaker.open = Duration::from_secs(within(v, 1, 3_600)? as u64);
            Ok(())
        },
        show: |c| json!(c.breaker.open.as_secs()),
    },
    Key {
        name: "topologies_dir",
        doc: "folder of the topology files; read again on SIGHUP (./topologies)",
        set: |c, v, ctx| {
            c.topologies_dir = path(v, ctx)?;
            Ok(())
        },
        show: |c| json!(c.topologies_dir.display().to_string()),
    },
    Key {
        name: "event_schemas_dir",
        doc: "folder of JSON Schemas for the data of events; read again on SIGHUP (./event-schemas)",
        set: |c, v, ctx| {
            c.event_schemas_dir = path(v, ctx)?;
            Ok(())
        },
        show: |c| json!(c.event_schemas_dir.display().to_string()),
    },
    Key {
        name: "workflows_dir",
        doc: "folder of the workflow files; read again on SIGHUP (./workflows)",
        set: |c, v, ctx| {
            c.workflows_dir = path(v, ctx)?;
            Ok(())
        },
        show: |c| json!(c.workflows_dir.display().to_string()),
    },
    Key {
        name: "tools_dir",
        doc: "folder of the tool files; read again on SIGHUP (./tools)",
        set: |c, v, ctx| {
            c.tools_dir = path(v, ctx)?;
            Ok(())
        },
        show: |c| json!(c.tools_dir.display().to_string()),
    },
    Key {
        name: "embed.model_dir",
        doc: "folder of the model of the embeddings, which `omnilink model fetch` fills ({data_dir}/models/all-MiniLM-L6-v2)",
        set: |c, v, ctx| {
            c.embed_model_dir = Some(path(v, ctx)?);
            Ok(())
        },
        show: |c| json!(c.model_dir().display().to_string()),
    },
    Key {
        name: "allow.http_hosts",
        doc: "list of hosts that the builtin tool `http` may reach: api.example.com, or *.example.com for all below it; a private address only if the host itself is named (none)",
        set: |c, v, _| {
            let hosts = texts(v)?;
            if let Some(bad) = hosts.iter().find(|host| !is_host_pattern(host)) {
                return Err(ValueError::Item {
                    item: bad.clone(),
                    what: "a host, such as api.example.com or *.example.com, without scheme, port and path",
                });
            }
            c.allow_http_hosts = hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
            Ok(())
        },
        show: |c| json!(c.allow_http_hosts),
    },
    Key {
        name: "planner",
        doc: "list of language models that plan goals, tried in order: {url, model, api_key, timeout_s (60), price: {input, output} (of a million tokens)}; url is an OpenAI-compatible base such as https://api.openai.com/v1; values may be references; JSON in a variable (none); docs/plans.md",
        set: |c, v, ctx| {
            let items = v.json().map_err(ValueError::MustBe)?;
            c.planner = planner::parse(items, &|text| Secret::resolve(text, ctx.base, ctx.env))?;
            Ok(())
        },
        show: |c| {
            json!(
                c.planner
                    .iter()
                    .map(LanguageModel::show)
                    .collect::<Vec<_>>()
            )
        },
    },
    Key {
        name: "plans.ttl_s",
        doc: "seconds for which a plan is cached after its last success (86400)",
        set: |c, v, _| {
            c.plans.ttl = Duration::from_secs(within(v, 1, 366 * 86_400)? as u64);
            Ok(())
        },
        show: |c| json!(c.plans.ttl.as_secs()),
    },
    Key {
        name: "plans.threshold",
        doc: "least similarity, from 0 to 1, of a goal to that of a cached plan or to an example (0.85); plans.threshold 1 leaves only goals with the same words",
        set: |c, v, _| {
            let least = match v {
                Value::Int(i) => Some(*i as f64),
                Value::Number(n) => Some(*n),
                Value::Raw(t) => t.parse().ok(),
                _ => None,
            };
            let least = least.filter(|least| (0.0..=1.0).contains(least));
            c.plans.threshold = least.ok_or(ValueError::MustBe("a number from 0 to 1"))?;
            Ok(())
        },
        show: |c| json!(c.plans.threshold),
    },
    Key {
        name: "allow.planner_hosts",
        doc: "list of hosts that the tool `http` may reach in plans of language models without a person's approval: api.example.com, or *.example.com for all below it; allow.http_hosts applies as well (none)",
        set: |c, v, _| {
            let hosts = texts(v)?;
            if let Some(bad) = hosts.iter().find(|host| !is_host_pattern(host)) {
                return Err(ValueError::Item {
                    item: bad.clone(),
                    what: "a host, such as api.example.com or *.example.com, without scheme, port and path",
                });
            }
            c.allow_planner_hosts = hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
            Ok(())
        },
        show: |c| json!(c.allow_planner_hosts),
    },
    Key {
        name: "allow.planner_events",
        doc: "list of types of events that the tool `emit` may emit in plans of language models without a person's approval: order.paid, or order.* for all below it (none)",
        set: |c, v, _| {
            c.allow_planner_events = texts(v)?;
            Ok(())
        },
        show: |c| json!(c.allow_planner_events),
    },
    Key {
        name: "guardian.llm",
        doc: "a language model that looks at goals for prompt injection before they are planned: {url, model, api_key}, as in planner; JSON in a variable (none); docs/plans.md",
        set: |c, v, ctx| {
            let item = v.json().map_err(ValueError::MustBe)?;
            let resolve = |text: &str| Secret::resolve(text, ctx.base, ctx.env);
            c.guardian_llm = Some(planner::parse_second_look(item, &resolve)?);
            Ok(())
        },
        show: |c| json!(c.guardian_llm.as_ref().map(LanguageModel::show_second_look)),
    },
    Key {
        name: "tools.sql_query.url",
        doc: "postgres://… with a login of its own: the database, and the rights, of the builtin tool `sql_query`; or a map of tenants to such URLs, as JSON in a variable (none: not usable); docs/database-tools.md",
        set: |c, v, ctx| {
            let given = match v {
                Value::Raw(raw) if !raw.trim_start().starts_with('{') => raw.as_str().into(),
                given => given.json().map_err(ValueError::MustBe)?,
            };
            let url = |text: &str| {
                let secret = Secret::resolve(text, ctx.base, ctx.env)?;
                SecretUrl::new(secret, POSTGRES)
            };
            c.database_tools.sql_query.login = Some(database_tools::parse_login(&given, &url)?);
            Ok(())
        },
        show: |c| {
            let login = c.database_tools.sql_query.login.as_ref();
            json!(login.map(QueryLogin::show))
        },
    },
    Key {
        name: "tools.sql_query.max_rows",
        doc: "maximum number of rows of a query (1000)",
        set: |c, v, _| {
            c.database_tools.sql_query.max_rows = within(v, 1, 100_000)? as u32;
            Ok(())
        },
        show: |c| json!(c.database_tools.sql_query.max_rows),
    },
    Key {
        name: "tools.sql_query.timeout_s",
        doc: "seconds that a query may take (10)",
        set: |c, v, _| {
            let seconds = within(v, 1, 3_600)?.unsigned_abs();
            c.database_tools.sql_query.timeout = Duration::from_secs(seconds);
            Ok(())
        },
        show: |c| json!(c.database_tools.sql_query.timeout.as_secs()),
    },
    Key {
        name: "tools.record_create.url",
        doc: "postgres://… with a login of its own: the database of `tools.record_create.tables` (none: not usable)",
        set: |c, v, ctx| {
            let url = SecretUrl::new(secret(v, ctx)?, POSTGRES)?;
            c.database_tools.record_create.url = Some(url);
            Ok(())
        },
        show: |c| {
            let url = c.database_tools.record_create.url.as_ref();
            json!(url.map(ToString::to_string))
        },
    },
    Key {
        name: "tools.record_create.tables",
        doc: "list of tables in which the builtin tool `record_create` creates records: {name: schema.table, columns, key, tenant, returning}; JSON in a variable (none); docs/database-tools.md",
        set: |c, v, _| {
            let items = v.json().map_err(ValueError::MustBe)?;
            c.database_tools.record_create.tables = database_tools::parse_tables(items)?;
            Ok(())
        },
        show: |c| json!(c.database_tools.record_create.tables),
    },
    Key {
        name: "notify",
        doc: "list of notification targets: {on: [approval.requested, incident, run.failed, run.denied, dlq, stalled, control.changed], tenant, to: {webhook: {url, secret}} or {smtp: {url, from, to}}}; values may be references; JSON in a variable (none); docs/notifications.md",
        set: |c, v, ctx| {
            let items = v.json().map_err(ValueError::MustBe)?;
            c.notify = notify::parse(items, &|text| Secret::resolve(text, ctx.base, ctx.env))?;
            Ok(())
        },
        show: |c| {
            json!(
                c.notify
                    .iter()
                    .map(notify::Notify::show)
                    .collect::<Vec<_>>()
            )
        },
    },
    Key {
        name: "public_url",
        doc: "http://… or https://… under which people reach the port, for links in notifications (that of `listen`)",
        set: |c, v, _| {
            let url = text(v)?;
            let rest = url.strip_prefix("https://").or(url.strip_prefix("http://"));
            let good = |rest: &str| !rest.is_empty() && !rest.contains(['?', '#', '@', ' ']);
            if !rest.is_some_and(good) {
                return Err(ValueError::MustBe(
                    "a URL such as https://omnilink.example.com",
                ));
            }
            c.public_url = Some(url.trim_end_matches('/').to_owned());
            Ok(())
        },
        show: |c| json!(c.public_url),
    },
    Key {
        name: "log.format",
        doc: "`text` or `json` lines on standard error (text); RUST_LOG chooses what is logged",
        set: |c, v, _| {
            c.log_format = match &text(v)?[..] {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                _ => return Err(ValueError::Takes("`text` or `json`")),
            };
            Ok(())
        },
        show: |c| {
            json!(match c.log_format {
                LogFormat::Text => "text",
                LogFormat::Json => "json",
            })
        },
    },
];

impl Config {
    /// The effective configuration as nested JSON, secrets replaced by `***` or by the reference they came from.
    pub fn redacted(&self) -> Json {
        let mut root = Map::new();
        for key in KEYS {
            put(&mut root, key.name, (key.show)(self));
        }
        Json::Object(root)
    }
}

/// Puts a value where a key with sections says.
fn put(object: &mut Map<String, Json>, name: &str, value: Json) {
    let Some((section, rest)) = name.split_once('.') else {
        object.insert(name.to_owned(), value);
        return;
    };
    let section = object
        .entry(section)
        .or_insert_with(|| Json::Object(Map::new()));
    if let Json::Object(section) = section {
        put(section, rest, value);
    }
}

/// Whether this is the name of a section.
pub(super) fn is_section(path: &str) -> bool {
    let below = |name: &str| {
        let rest = name.strip_prefix(path);
        rest.is_some_and(|rest| rest.starts_with('.'))
    };
    KEYS.iter().any(|key| below(key.name))
}

/// Sets one key, or adds a problem.
pub(super) fn set(
    config: &mut Config,
    path: &str,
    given: &Given,
    context: &Context<'_>,
    drafts: &mut Drafts,
    problems: &mut Vec<Problem>,
) {
    if drafts.set(path, given, problems) {
        return;
    }
    // `redis: { url: }` counts as absent.
    let absent = matches!(given.value, Value::Null);
    let result = if let Some(key) = KEYS.iter().find(|k| k.name == path) {
        if absent {
            Ok(())
        } else {
            (key.set)(config, &given.value, context)
        }
    } else if let Some(name) = path
        .strip_prefix(PROPERTIES)
        .and_then(|p| p.strip_prefix('.'))
    {
        property(config, name, &given.value, context)
    } else if is_section(path) {
        Err(ValueError::Takes("a section, with its keys under it"))
    } else {
        let nearest = nearest(path, KEYS.iter().map(|k| k.name));
        Err(ValueError::NoSuchKey { nearest })
    };
    if let Err(error) = result {
        problems.push(Problem {
            place: given.place.clone(),
            key: path.to_owned(),
            message: error.to_string(),
        });
    }
}

/// The candidate closest to `name`, for "did you mean".
pub(crate) fn nearest<'a>(
    name: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    let last = name.rsplit('.').next().unwrap_or(name);
    candidates
        .map(|c| {
            // A key in the wrong section, or in none, counts as one edit.
            let c_last = c.rsplit('.').next().unwrap_or(c);
            (distance(name, c).min(1 + distance(last, c_last)), c)
        })
        .min()
        .filter(|(d, _)| *d <= 1 + name.len() / 4)
        .map(|(_, c)| c)
}

/// The Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let swap = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = swap.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

fn text(value: &Value) -> Result<String, ValueError> {
    match value {
        Value::Text(t) | Value::Raw(t) if !t.is_empty() => Ok(t.clone()),
        Value::Text(_) | Value::Raw(_) | Value::Null => Err(ValueError::Empty),
        Value::Int(_) | Value::Number(_) | Value::Bool(_) => Err(ValueError::Unquoted),
        Value::List(_) | Value::Map(_) => Err(ValueError::MustBe("text")),
    }
}

/// A list of strings. A single value is a list of one; the text of a variable or flag is split at commas.
fn texts(value: &Value) -> Result<Vec<String>, ValueError> {
    match value {
        Value::List(items) => items.iter().map(text).collect(),
        Value::Raw(raw) => Ok(raw
            .split(',')
            .map(str::trim)
            .filter(|t| !t.is_empty())
            .map(str::to_owned)
            .collect()),
        Value::Null => Ok(Vec::new()),
        one => Ok(vec![text(one)?]),
    }
}

/// The entries of a map. The text of a variable or flag is YAML.
fn map(value: &Value, takes: &'static str) -> Result<Vec<(String, Value)>, ValueError> {
    match value {
        Value::Map(entries) => {
            let entries = entries.iter();
            Ok(entries
                .map(|(name, given)| (name.clone(), given.value.clone()))
                .collect())
        }
        Value::Raw(raw) => match given::from_yaml(raw, "", is_section) {
            Ok(leaves) => Ok(leaves.into_iter().map(|(k, g)| (k, g.value)).collect()),
            Err(e) => Err(ValueError::Yaml(e.message)),
        },
        _ => Err(ValueError::Takes(takes)),
    }
}

fn parse<T: std::str::FromStr>(value: &Value, what: &'static str) -> Result<T, ValueError> {
    let parsed = text(value)?.parse();
    parsed.map_err(|_| ValueError::MustBe(what))
}

fn boolean(value: &Value) -> Result<bool, ValueError> {
    match value {
        Value::Bool(b) => Ok(*b),
        Value::Raw(t) if t == "true" || t == "1" => Ok(true),
        Value::Raw(t) if t == "false" || t == "0" => Ok(false),
        _ => Err(ValueError::MustBe("true or false")),
    }
}

fn within(value: &Value, least: i64, most: i64) -> Result<i64, ValueError> {
    let found = match value {
        Value::Int(i) => Some(*i),
        Value::Raw(t) => t.parse().ok(),
        _ => None,
    };
    found
        .filter(|i| (least..=most).contains(i))
        .ok_or(ValueError::OutOfRange { least, most })
}

/// A score from 0 to 1.
fn score(value: &Value) -> Result<f64, ValueError> {
    let score = match value {
        Value::Int(i) => Some(*i as f64),
        Value::Number(n) => Some(*n),
        Value::Raw(t) => t.parse().ok(),
        _ => None,
    };
    let score = score.filter(|score| (0.0..=1.0).contains(score));
    score.ok_or(ValueError::MustBe("a number from 0 to 1"))
}

fn path(value: &Value, context: &Context<'_>) -> Result<PathBuf, ValueError> {
    Ok(context.base.join(text(value)?))
}

fn secret(value: &Value, context: &Context<'_>) -> Result<Secret, ValueError> {
    let given = text(value)?;
    Ok(Secret::resolve(&given, context.base, context.env)?)
}

fn secret_key(given: &str, context: &Context<'_>) -> Result<Secret, ValueError> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let secret = Secret::resolve(given, context.base, context.env)?;
    match STANDARD.decode(secret.expose().trim()) {
        Ok(bytes) if bytes.len() == 32 => Ok(secret),
        _ => Err(ValueError::MustBe(
            "base64 of 32 bytes: `openssl rand -base64 32` makes one",
        )),
    }
}

fn property(
    config: &mut Config,
    name: &str,
    value: &Value,
    context: &Context<'_>,
) -> Result<(), ValueError> {
    let text = match value {
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::Text(t) | Value::Raw(t) => t.clone(),
        _ => {
            return Err(ValueError::Property(name.to_owned()));
        }
    };
    let secret = Secret::resolve(&text, context.base, context.env)?;
    config.kafka.properties.insert(name.to_owned(), secret);
    Ok(())
}

/// Whether a librdkafka property may hold a secret.
fn is_secret(name: &str) -> bool {
    [
        "password",
        "secret",
        "token",
        ".pem",
        "jaas",
        "oauthbearer.config",
        "username",
        "assertion",
    ]
    .iter()
    .any(|part| name.contains(part))
}

/// A host, or `*.` and one.
fn is_host_pattern(text: &str) -> bool {
    let host = text.strip_prefix("*.").unwrap_or(text);
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    let v6 = || text.parse::<std::net::Ipv6Addr>().is_ok();
    (!host.is_empty() && host.bytes().all(good)) || v6()
}

fn is_host_port(text: &str) -> bool {
    text.rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

/// What replaces a secret in [`Config::redacted`].
pub const REDACTED: &str = MASK;
