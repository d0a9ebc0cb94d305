//! The configuration: precedence of its sources, errors, and redaction.

use omnilink::config::{Config, LogFormat, Sources};
use tempfile::TempDir;

fn sources(dir: &TempDir, yaml: &str, env: &[(&str, &str)]) -> Sources {
    let file = dir.path().join("omnilink.yaml");
    std::fs::write(&file, yaml).unwrap();
    Sources {
        file: Some(file),
        env: env
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect(),
        flags: Vec::new(),
    }
}

const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

#[test]
fn flags_win_over_the_environment_over_the_file() {
    let dir = TempDir::new().unwrap();
    let yaml = "
listen: 127.0.0.1:1
data_dir: store
topics: { prefix: file., partitions: 3 }
trusted_proxies: [10.0.0.0/8, ::1]
log: { format: json }
limits:
  batch_items: 7
kafka:
";
    let env = [
        ("OMNILINK__TOPICS__PREFIX", "env."),
        ("OMNILINK__LISTEN", "127.0.0.1:2"),
        ("OMNILINK__LIMITS__DEDUPE_WINDOW_S", "3600"),
        ("OMNILINK_KEY", "not configuration"),
    ];
    let sources = sources(&dir, yaml, &env).flag("--listen", "listen", Some("127.0.0.1:3".into()));
    let config = Config::load(&sources).unwrap();
    assert_eq!(config.listen.port(), 3);
    assert_eq!(config.topics.prefix, "env.");
    assert_eq!(config.topics.partitions, 3);
    assert_eq!(config.limits.batch_items, 7);
    assert_eq!(config.limits.dedupe_window.as_secs(), 3600);
    assert_eq!(config.log_format, LogFormat::Json);
    assert!(config.trusted_proxies[0].contains("10.9.8.7".parse().unwrap()));
    assert!(!config.trusted_proxies[0].contains("11.0.0.1".parse().unwrap()));
    // Paths in the file are relative to it.
    assert_eq!(config.data_dir, dir.path().join("store"));
}

#[test]
fn all_errors_are_reported_at_once_with_their_places() {
    let dir = TempDir::new().unwrap();
    let yaml = "
lisen: 127.0.0.1:1
topics:
  partitions: many
  partition: 3
limits: 5
secret_key: [short]
postgres: { url: \"mysql://x\" }
prefix: x.
";
    let env = [
        ("OMNILINK__LOG__FORMAT", "xml"),
        ("OMNILINK__NONSENSE", "1"),
    ];
    let error = Config::load(&sources(&dir, yaml, &env)).unwrap_err();
    let text = error.to_string();
    for expected in [
        "omnilink.yaml:2:1: `lisen`: there is no such key; did you mean `listen`?",
        "omnilink.yaml:4:3: `topics.partitions`: must be a whole number from 1 to 10000",
        "omnilink.yaml:5:3: `topics.partition`: there is no such key; did you mean `topics.partitions`?",
        "`limits`: a section, with its keys under it",
        "`secret_key`: must be base64 of 32 bytes",
        "`postgres.url`: must be a URL that begins with `postgres://` or `postgresql://`",
        "did you mean `topics.prefix`?",
        "OMNILINK__LOG__FORMAT: `log.format`: `text` or `json`",
        "OMNILINK__NONSENSE: `nonsense`: there is no such key",
    ] {
        assert!(text.contains(expected), "{expected}\nin\n{text}");
    }
    assert_eq!(error.problems.len(), 9, "{text}");

    for (yaml, expected) in [
        ("a: [", "omnilink.yaml:"),
        ("- 1", "a configuration is a mapping"),
        ("listen: 1\nlisten: 2", "omnilink.yaml:2"),
        ("listen: 0.0.0.0:7700", "insecure_listen"),
        (
            "listen: \"[::]:7700\"\ninsecure_listen: false",
            "set `tls.cert` and `tls.key`",
        ),
        (
            "tls: { cert: c.pem }",
            "`tls.cert`: TLS needs both `tls.cert` and `tls.key`",
        ),
        (
            "tls: { key: k.pem }",
            "`tls.key`: TLS needs both `tls.cert` and `tls.key`",
        ),
        (
            "kafka: { brokers: \"b:9092\" }",
            "`secret_key`: required with Kafka",
        ),
        ("kafka: { brokers: [nowhere] }", "is not a broker"),
        (
            "limits: { single_bytes: 2000000 }",
            "is more than `limits.batch_bytes`",
        ),
        (
            "kafka: { brokers: b:9092 }\nsecret_key: env:K\nlimits: { single_bytes: 1000000 }",
            "does not fit into a Kafka message",
        ),
        ("topics: { prefix: 7 }", "put it in quotes"),
        (
            "postgres: { url: \"env:NO_SUCH\" }",
            "the environment variable NO_SUCH is not set",
        ),
        ("redis: { url: \"file:none\" }", "cannot be read"),
    ] {
        let text = Config::load(&sources(&dir, yaml, &[("K", KEY)]))
            .unwrap_err()
            .to_string();
        assert!(text.contains(expected), "{yaml}: {text}");
    }
    let missing = Sources {
        file: Some("/no/such.yaml".into()),
        ..Sources::default()
    };
    assert!(
        Config::load(&missing)
            .unwrap_err()
            .to_string()
            .contains("/no/such.yaml: cannot be read")
    );
}

#[test]
fn runs_breakers_and_allowed_hosts_have_settings() {
    let dir = TempDir::new().unwrap();
    let config = Config::load(&sources(&dir, "", &[])).unwrap().redacted();
    assert_eq!(config["runs"]["identity_d"], 90);
    assert_eq!(
        config["breaker"],
        serde_json::json!({ "failures": 5, "open_s": 30 })
    );
    assert_eq!(
        config["allow"],
        serde_json::json!({ "http_hosts": [], "planner_events": [], "planner_hosts": [] })
    );
    let yaml = "
runs: { identity_d: 7 }
breaker: { failures: 3, open_s: 60 }
allow: { http_hosts: [API.example.com, \"*.shop.example\"] }
";
    let config = Config::load(&sources(&dir, yaml, &[])).unwrap();
    assert_eq!(config.runs.identity_d, 7);
    assert_eq!(
        (config.breaker.failures, config.breaker.open.as_secs()),
        (3, 60)
    );
    assert_eq!(
        config.allow_http_hosts,
        ["api.example.com", "*.shop.example"]
    );
    for (yaml, expected) in [
        ("breaker: { failures: 21 }", "from 1 to 20"),
        ("breaker: { open_s: 0 }", "from 1 to 3600"),
        (
            "allow: { http_hosts: [\"https://a.example\"] }",
            "is not a host",
        ),
        (
            "runs: { identity_days: 7 }",
            "did you mean `runs.identity_d`?",
        ),
    ] {
        let error = Config::load(&sources(&dir, yaml, &[])).unwrap_err();
        assert!(error.to_string().contains(expected), "{yaml}: {error}");
    }
}

#[test]
fn policies_are_read_by_name_field_by_field() {
    let dir = TempDir::new().unwrap();
    let yaml = "
limits:
  policies:
    tenant: { limit: 6000, window_s: 60, per: tenant }
    address: { limit: 600, window_s: 60, per: ip, on_backend_down: open }
    starts:
      limit: 100
      window_s: 3600
      per: key
      on_backend_down: closed
      on: [commands, workflows, goals]
";
    let env = [
        // One field of one of the file's, and a whole one.
        ("OMNILINK__LIMITS__POLICIES__TENANT__LIMIT", "7"),
        (
            "OMNILINK__LIMITS__POLICIES__MORE",
            "{limit: 1, window_s: 2, per: type, on: webhooks}",
        ),
    ];
    let config = Config::load(&sources(&dir, yaml, &env)).unwrap();
    let shown = config.redacted()["limits"]["policies"].clone();
    assert_eq!(
        shown,
        serde_json::json!({
            "address": { "limit": 600, "window_s": 60, "per": "ip", "on_backend_down": "open" },
            "more": {
                "limit": 1, "window_s": 2, "per": "type", "on_backend_down": "local", "on": ["webhooks"]
            },
            "starts": {
                "limit": 100, "window_s": 3600, "per": "key", "on_backend_down": "closed",
                "on": ["commands", "workflows", "goals"]
            },
            "tenant": { "limit": 7, "window_s": 60, "per": "tenant", "on_backend_down": "local" },
        })
    );
    let whole = [(
        "OMNILINK__LIMITS__POLICIES",
        "{a: {limit: 1, window_s: 1, per: key}}",
    )];
    let config = Config::load(&sources(&dir, "limits: { policies: }", &whole)).unwrap();
    assert_eq!(&*config.limits.policies[0].name, "a");
}

#[test]
fn all_errors_of_policies_are_reported_with_their_places() {
    let dir = TempDir::new().unwrap();
    let yaml = "
limits:
  policies:
    max_rpm: { limit: 1, window_s: 1, per: key }
    max_concurrency: { limit: 1, window_s: 1, per: key }
    a b: { limit: 1 }
    a: { limit: 0, window_s: 1d, per: user, on: [events, reads], limits: 5 }
    b: { per: key }
    c: {}
    d:
    e: 5
    f: { limit: 1, window_s: 1, per: key, on_backend_down: shut, on: [] }
";
    let env = [
        ("OMNILINK__LIMITS__POLICIES__G__LIMIT", "many"),
        ("OMNILINK__LIMITS__POLICIES__H", "{limit: "),
    ];
    let error = Config::load(&sources(&dir, yaml, &env)).unwrap_err();
    let text = error.to_string();
    let expected = [
        "omnilink.yaml:4:5: `limits.policies.max_rpm`: this name is reserved",
        "omnilink.yaml:5:5: `limits.policies.max_concurrency`: this name is reserved",
        "omnilink.yaml:6:5: `limits.policies.a b`: the name of a policy has",
        "omnilink.yaml:7:10: `limits.policies.a.limit`: must be a whole number from 1 to 10000000",
        "omnilink.yaml:7:20: `limits.policies.a.window_s`: must be a whole number from 1 to 86400",
        "`limits.policies.a.per`: must be `key`, `tenant`, `ip` or `type`",
        "`limits.policies.a.on`: `reads` is not one of events, commands",
        "`limits.policies.a.limits`: there is no such field; did you mean `limit`?",
        "omnilink.yaml:8:5: `limits.policies.b`: `limit`, `window_s` is missing",
        "omnilink.yaml:9:5: `limits.policies.c`: `limit`, `window_s`, `per` is missing",
        "omnilink.yaml:10:5: `limits.policies.d`: `limit`, `window_s`, `per` is missing",
        "omnilink.yaml:11:5: `limits.policies.e`: a policy, such as {limit: 6000,",
        "`limits.policies.f.on_backend_down`: must be `open`, `closed` or `local`",
        "`limits.policies.f.on`: must not be empty",
        "OMNILINK__LIMITS__POLICIES__G__LIMIT: `limits.policies.g.limit`: must be a whole number",
        "OMNILINK__LIMITS__POLICIES__H: `limits.policies.h`: ",
    ];
    for expected in expected {
        assert!(text.contains(expected), "{expected}\nin\n{text}");
    }
    assert_eq!(error.problems.len(), expected.len(), "{text}");
    let text = Config::load(&sources(&dir, "limits: { policies: [a] }", &[]))
        .unwrap_err()
        .to_string();
    assert!(text.contains("a map of policies by name"), "{text}");
}

#[test]
fn no_secret_is_displayed() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("kafka.password"), "from-file-hush\n").unwrap();
    let yaml = format!(
        "
secret_key: [{KEY}, env:OLD_KEY]
postgres: {{ url: \"postgres://me:pg-hush@db/omnilink?sslmode=require&password=query-hush\" }}
redis: {{ url: env:REDIS }}
kafka:
  brokers: [a:9092, b:9092]
  properties:
    security.protocol: SASL_SSL
    sasl.username: user-hush
    sasl.password: file:kafka.password
    ssl.key.password: plain-hush
    socket.timeout.ms: 6000
"
    );
    let env = [
        ("OLD_KEY", KEY),
        ("REDIS", "redis://:redis-hush@cache"),
        (
            "OMNILINK__KAFKA__PROPERTIES__SSL_KEYSTORE_PASSWORD",
            "env-hush",
        ),
    ];
    let config = Config::load(&sources(&dir, &yaml, &env)).unwrap();
    let property = |name: &str| config.kafka.properties[name].expose();
    assert_eq!(property("sasl.password"), "from-file-hush");
    assert_eq!(property("ssl.keystore.password"), "env-hush");
    assert_eq!(property("socket.timeout.ms"), "6000");
    assert_eq!(
        config.redis_url.as_ref().unwrap().expose(),
        "redis://:redis-hush@cache"
    );

    for shown in [config.redacted().to_string(), format!("{config:?}")] {
        assert!(!shown.contains("hush") && !shown.contains(KEY), "{shown}");
    }
    let shown = config.redacted();
    assert_eq!(
        shown["postgres"]["url"],
        "postgres://me:***@db/omnilink?sslmode=require&password=***"
    );
    assert_eq!(shown["redis"]["url"], "env:REDIS");
    assert_eq!(
        shown["kafka"]["properties"]["security.protocol"],
        "SASL_SSL"
    );
    assert_eq!(
        shown["kafka"]["properties"]["sasl.password"],
        "file:kafka.password"
    );
    assert_eq!(
        shown["secret_key"],
        serde_json::json!(["***", "env:OLD_KEY"])
    );

    // Errors quote no values either.
    let yaml = format!(
        "secret_key: [{}]\npostgres: {{ url: \"hush://hush\" }}\nkafka: {{ properties: {{ a: [hush] }} }}\n\"hush: x",
        &KEY[4..]
    );
    let text = Config::load(&sources(&dir, &yaml, &[]))
        .unwrap_err()
        .to_string();
    assert!(
        !text.contains("hush") && !text.contains(&KEY[4..]),
        "{text}"
    );
}
