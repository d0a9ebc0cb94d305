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
