//! Nothing that a node shows has a secret in it: logs, pages, answers, output of commands, records of topics.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::{Read, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::Arc,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use omnilink::{
    api::ROUTES,
    base::clock::SystemClock,
    log::{
        Log,
        local::{LocalLog, LocalOptions},
        topics::Names,
    },
};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::{
    bridges::hmac_sha256,
    support::{
        LogKind, TestLog,
        command::{Folder, Up, errors, omnilink, output},
        env_or_skip,
        issuer::{SigningKey, now_s},
        read_all, wait_until,
    },
};

/// Secrets by what they are. Each is distinct and long enough to occur nowhere by chance.
#[derive(Default)]
struct Secrets(BTreeMap<&'static str, Vec<String>>);

impl Secrets {
    fn add(&mut self, what: &'static str, secret: &str) {
        assert!(secret.len() >= 12, "{what}");
        let forms = self.0.entry(what).or_default();
        forms.push(secret.to_owned());
        // As `Basic` and in Postgres's SASL messages, for example.
        forms.push(STANDARD.encode(secret).trim_end_matches('=').to_owned());
        let mut hex = String::new();
        for byte in secret.bytes() {
            write!(hex, "{byte:02x}").unwrap();
        }
        forms.push(hex);
    }

    /// The secrets that a text holds, and where.
    fn within(&self, place: &str, text: &[u8], found: &mut Vec<String>) {
        for (what, forms) in &self.0 {
            for form in forms {
                if let Some(at) = text.windows(form.len()).position(|w| w == form.as_bytes()) {
                    let around = &text[at.saturating_sub(80)..at];
                    let around = String::from_utf8_lossy(around);
                    found.push(format!("{what} in {place}, behind {around:?}"));
                }
            }
        }
    }
}

/// A whole response: status line, headers and body.
fn call(url: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> String {
    let mut stream = TcpStream::connect(url.trim_start_matches("http://")).unwrap();
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: omnilink\r\nConnection: close\r\n");
    for (name, value) in headers {
        write!(head, "{name}: {value}\r\n").unwrap();
    }
    write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut response = Vec::new();
    // The server may close before all was read, as when it refuses a body.
    let _ = stream.read_to_end(&mut response);
    String::from_utf8_lossy(&response).into_owned()
}

/// All routes with each of these headers; routes that stream for ever are cut by their `Accept`.
fn call_all(url: &str, headers: &[&[(&str, &str)]], keep: &mut Vec<(String, String)>) {
    for route in ROUTES {
        let path = route.example_path();
        let method = route.method.name();
        for headers in headers {
            for body in ["", "{}", "{\"name\":1}", "no json"] {
                let response = call(url, method, &path, headers, body);
                keep.push((format!("{method} {path} {body:?}"), response));
            }
        }
    }
}

/// A server that accepts connections and answers nothing that its clients understand, so that they log errors.
struct WrongServer {
    port: u16,
    requests: Arc<Mutex<Vec<String>>>,
}

impl WrongServer {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&requests);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let seen = Arc::clone(&seen);
                std::thread::spawn(move || {
                    // A client of SMTP waits for the server to begin.
                    let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
                    let mut request = [0; 4096];
                    let length = stream.read(&mut request).unwrap_or(0);
                    let text = String::from_utf8_lossy(&request[..length]).into_owned();
                    seen.lock().push(text);
                    let _ = stream.write_all(b"-WRONGPASS invalid username-password pair\r\n");
                });
            }
        });
        Self { port, requests }
    }

    fn wait_for(&self, begins: &str) {
        wait_until(begins, || {
            self.requests.lock().iter().any(|r| r.starts_with(begins))
        });
    }
}

fn random() -> String {
    // As passwords in URLs must be, without characters that are percent-encoded there.
    uuid::Uuid::now_v7().simple().to_string()
}

/// Runs a node with secrets in all of its settings, and looks for them everywhere.
fn look(
    dir: &Path,
    kafka: Option<(String, Value)>,
    log: impl FnOnce() -> Arc<dyn Log>,
    prefix: &str,
) {
    let mut secrets = Secrets::default();
    let mut new = |what| {
        let secret = random();
        secrets.add(what, &secret);
        secret
    };
    let (postgres, redis) = (new("postgres.url"), new("redis.url"));
    let (registry, qdrant) = (new("schema_registry.url"), new("qdrant.api_key"));
    let secret_keys: Vec<String> = (0..2)
        .map(|_| STANDARD.encode(random().as_bytes()))
        .collect();
    for key in &secret_keys {
        secrets.add("secret_key", key);
    }
    let mut signing = |what| {
        let secret = STANDARD.encode(random());
        secrets.add(what, &secret);
        format!("whsec_{secret}")
    };
    let (notify, tool) = (
        signing("notify: webhook.secret"),
        signing("a tool's secret"),
    );
    let mail = random();
    secrets.add("notify: smtp.url", &mail);
    let issuer = SigningKey::ed("k1");
    let keys = json!({ "keys": [issuer.jwk()] }).to_string();
    fs::write(dir.join("keys.json"), keys).unwrap();
    let server = WrongServer::start();
    let wrong = server.port;
    fs::create_dir(dir.join("tools")).unwrap();
    let pay = json!({
        "name": "pay", "kind": "read", "risk": { "lane": "safe" }, "retry": { "max_attempts": 1 },
        "worker": { "http": { "url": format!("http://127.0.0.1:{wrong}/pay"), "secret": tool } },
    });
    // JSON is YAML.
    fs::write(dir.join("tools/pay.yaml"), pay.to_string()).unwrap();
    let mut config = json!({
        "secret_key": [secret_keys[0], "env:SECOND_KEY"],
        "topics": { "prefix": prefix, "partitions": 2 },
        "postgres": { "url": format!("postgres://omnilink:{postgres}@127.0.0.1:{wrong}/omnilink") },
        "redis": { "url": format!("redis://:{redis}@127.0.0.1:{wrong}/") },
        "schema_registry": { "url": format!("http://registry:{registry}@127.0.0.1:{wrong}/") },
        "qdrant": { "url": format!("http://127.0.0.1:{wrong}"), "api_key": qdrant },
        "auth": { "jwt": [{
            "issuer": "https://id.example.com", "audience": "omnilink", "jwks": "keys.json", "tenant": "default",
            "permissions": { "claim": "roles" },
        }] },
        "notify": [
            {
                "on": ["control.changed", "run.failed", "dlq"],
                "to": { "webhook": { "url": format!("http://127.0.0.1:{wrong}/notify"), "secret": notify } },
            },
            {
                "on": ["control.changed", "run.failed", "dlq"],
                "to": { "smtp": { "url": format!("smtp://omnilink:{mail}@127.0.0.1:{wrong}"), "from": "o@example.com", "to": "a@example.com" } },
            },
        ],
    });
    if let Some((brokers, properties)) = &kafka {
        config["kafka"] = json!({ "brokers": [brokers], "properties": properties });
        secrets.add(
            "sasl.password",
            properties["sasl.password"].as_str().unwrap(),
        );
    }
    fs::write(dir.join("omnilink.yaml"), config.to_string()).unwrap();

    let mut seen: Vec<(String, String)> = Vec::new();
    let env = [
        ("SECOND_KEY", secret_keys[1].as_str()),
        ("RUST_LOG", "trace"),
    ];
    let run = |args: &[&str], more: &[(&str, &str)]| {
        let mut command = omnilink(dir, args);
        let (code, out, error) = output(command.envs(env).envs(more.iter().copied()));
        (code, out, error)
    };
    let mut admin = None;
    if kafka.is_some() {
        let (code, out, error) = run(&["keys", "create", "--first", "--json"], &[]);
        assert_eq!(code, 0, "{error}");
        let made: Value = serde_json::from_str(&out).unwrap();
        admin = Some(made["key"].as_str().unwrap().to_owned());
        seen.push(("keys create --first, standard error".into(), error));
    }
    let up = Up::start_env(dir, &[], &env);
    let admin = admin.unwrap_or_else(|| {
        let key = fs::read_to_string(dir.join("data/admin.key")).unwrap();
        key.trim().to_owned()
    });
    // It is shown once, by the start that makes it.
    seen.push(("the banner".into(), up.banner.replacen(&admin, "", 1)));

    // Keys that are made, and those that are wrong.
    let bearer = format!("Bearer {admin}");
    let as_admin = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    let new_key =
        json!({ "name": "shop", "kind": "service", "scopes": { "permissions": ["events:write"] } });
    let made = call(&up.url, "POST", "/v1/keys", &as_admin, &new_key.to_string());
    let body = made.split("\r\n\r\n").nth(1).unwrap();
    let body: Value = serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {made}"));
    let key = body["key"].as_str().unwrap().to_owned();
    secrets.add("a key", &key);
    // The prefix of a key is public.
    secrets.add(
        "a key's secret",
        key.rsplit('.').next().unwrap().get(8..).unwrap(),
    );
    secrets.add("the admin key", &admin);
    secrets.add(
        "the admin key's secret",
        admin.rsplit('.').next().unwrap().get(8..).unwrap(),
    );
    let mut forged = admin.clone();
    forged.pop();
    forged.push('!');
    let (unknown, basic) = (format!("omni.abcdefgh.{}", random()), random());
    secrets.add("a forged key", forged.rsplit('.').next().unwrap());
    secrets.add("a wrong key", &unknown);
    secrets.add("a password of Basic", &basic);

    let bearer_of = |key: &str| format!("Bearer {key}");
    let (forged, wrong_key) = (bearer_of(&forged), bearer_of(&unknown));
    let good = bearer_of(&key);
    let basic = STANDARD.encode(format!("user:{basic}"));
    secrets.add("a header of Basic", &basic);
    let basic = format!("Basic {basic}");
    let json_type = ("content-type", "application/json");
    let claims = |name: &str| json!({ "iss": "https://id.example.com", "aud": "omnilink", "exp": now_s() + 3600, "sub": name, "roles": ["admin"] });
    let token = issuer.token(&claims("ann"));
    let forged_token = SigningKey::ed("k1").token(&claims("eve"));
    for token in [&token, &forged_token] {
        secrets.add("a token", token);
        secrets.add("a token's signature", token.rsplit('.').next().unwrap());
    }
    let (token, forged_token) = (bearer_of(&token), bearer_of(&forged_token));
    let as_ann = [("authorization", token.as_str()), json_type];
    let me = call(&up.url, "GET", "/v1/keys", &as_ann, "");
    assert!(me.starts_with("HTTP/1.1 200"), "{me}");
    let all: [&[(&str, &str)]; 8] = [
        &[],
        &[("authorization", &forged), json_type],
        &[("authorization", &wrong_key), json_type],
        &[("authorization", &basic), json_type],
        &[("authorization", &good), json_type],
        &[("authorization", &forged_token), json_type],
        &as_ann,
        &as_admin,
    ];
    call_all(&up.url, &all, &mut seen);
    let event =
        |id: &str| json!({ "id": id, "source": "/shop", "type": "order.paid", "data": { "n": 1 } });
    for (id, headers) in all.into_iter().enumerate() {
        let body = event(&id.to_string()).to_string();
        for idempotency in ["", "k"] {
            let headers = [headers, &[("idempotency-key", idempotency)]].concat();
            let response = call(&up.url, "POST", "/v1/events", &headers, &body);
            seen.push(("POST /v1/events".into(), response));
        }
    }
    // Keys in the wrong place are not repeated either.
    let path = format!("/v1/keys/{key}?cursor={admin}");
    seen.push((
        "a path".into(),
        call(&up.url, "DELETE", &path, &as_admin, ""),
    ));

    webhooks(&up.url, &as_admin, &mut secrets, &mut seen);
    // A run whose tool and whose end make calls that are signed, and a change that a mail tells.
    let start = json!({ "id": "1", "source": "/s", "type": "pay", "params": {} });
    let keyed = [&as_admin[..], &[("idempotency-key", "pay-1")]].concat();
    let started = call(&up.url, "POST", "/v1/tasks", &keyed, &start.to_string());
    assert!(started.starts_with("HTTP/1.1 202"), "{started}");
    seen.push(("POST /v1/tasks".into(), started));
    let change = json!({ "disabled": { "tool:none": "not here" }, "reason": "a test" });
    let changed = call(
        &up.url,
        "PATCH",
        "/v1/controls",
        &as_admin,
        &change.to_string(),
    );
    assert!(changed.starts_with("HTTP/1.1 200"), "{changed}");
    seen.push(("PATCH /v1/controls".into(), changed));
    server.wait_for("POST /pay ");
    server.wait_for("POST /notify ");

    // The commands.
    let url = up.url.clone();
    let remote = [
        ("OMNILINK_URL", url.as_str()),
        ("OMNILINK_KEY", admin.as_str()),
    ];
    for command in [
        "config",
        "config --json",
        "doctor",
        "doctor --json",
        "keys list",
        "keys list --json",
        "topics list",
        "lag",
        "lag --json",
        "dlq list",
        "readers list",
        "replay --json",
        "check",
        "graph",
        "migrate",
        "keys revoke nothing",
        "integrations list",
        "integrations list --json",
        "audit",
        "audit --json",
        "controls show",
        "controls show --json",
        "runs list",
        "runs list --json",
        "runs show 7dbd6d41-6f85-5f7b-98af-6637f5372c2e",
        "approvals list",
        "tools list",
        "tools list --json",
    ] {
        let args: Vec<&str> = command.split(' ').chain(["--data-dir", "data"]).collect();
        // Against nothing, and with the wrong key, errors are alike.
        let some = ["keys list", "lag", "config"].contains(&command);
        let settings = [
            &remote[..],
            &[("OMNILINK_URL", "http://127.0.0.1:1")],
            &[("OMNILINK_KEY", unknown.as_str())],
        ];
        for more in &settings[..if some { 3 } else { 1 }] {
            let (_, out, error) = run(&args, more);
            seen.push((format!("omnilink {command}"), out));
            seen.push((format!("omnilink {command}, standard error"), error));
        }
    }
    wait_until("errors of Postgres", || errors(dir).contains("ostgres"));
    drop(up);
    seen.push(("the log of the node".into(), errors(dir)));

    // A configuration with mistakes.
    for (variable, value) in [
        (
            "OMNILINK__POSTGRES__URL",
            format!("http://omnilink:{postgres}@h/d"),
        ),
        ("OMNILINK__REDIS__URL", format!("{redis}://")),
        (
            "OMNILINK__SCHEMA_REGISTRY__URL",
            format!("redis://:{registry}@h"),
        ),
        (
            "OMNILINK__SECRET_KEY",
            format!("{},{}", secret_keys[0], &secret_keys[1][1..]),
        ),
        ("OMNILINK__QDRANT__URL", qdrant.clone()),
        ("OMNILINK__QDRANT__API_KEI", qdrant.clone()),
        (
            "OMNILINK__NOTIFY",
            json!([{ "on": ["dlq"], "to": { "webhook": { "url": "http://h/", "secret": mail } } }]).to_string(),
        ),
        (
            "OMNILINK__NOTIFY",
            json!([{ "on": ["dlq"], "to": { "smtp": { "url": format!("http://me:{mail}@h"), "from": "o@example.com", "to": "a@example.com" } } }])
                .to_string(),
        ),
    ] {
        let (code, out, error) = run(&["config"], &[(variable, &value)]);
        assert_eq!(code, 1, "{variable}: {out}");
        seen.push((format!("the error of {variable}"), out + &error));
    }

    // A tool with a mistake in its secret.
    let bad = pay.to_string().replace("whsec_", "");
    fs::write(dir.join("tools/bad.yaml"), bad).unwrap();
    let (code, out, error) = run(&["check"], &[]);
    assert_eq!(code, 1, "{out}");
    seen.push(("check".into(), out + &error));

    let mut found = Vec::new();
    let mut bytes = 0;
    for (place, text) in &seen {
        bytes += text.len();
        // An answer that makes a key shows it.
        if place.starts_with("POST /v1/keys") && text.starts_with("HTTP/1.1 201") {
            continue;
        }
        secrets.within(place, text.as_bytes(), &mut found);
    }
    let log = log();
    let names = Names::new(prefix);
    let mut records = 0;
    for topic in names.specs(2).iter().map(|spec| &*spec.name) {
        for fetched in read_all(&*log, topic, 0) {
            records += 1;
            let record = fetched.record;
            let headers = record.headers.iter().flat_map(|(name, value)| {
                [
                    name.as_bytes().to_vec(),
                    value.clone().unwrap_or_default().to_vec(),
                ]
            });
            let parts = [record.key.clone(), record.value.clone()];
            let parts = parts.into_iter().flatten().map(|part| part.to_vec());
            for part in parts.chain(headers) {
                secrets.within(topic, &part, &mut found);
            }
        }
    }
    found.sort();
    found.dedup();
    assert!(found.is_empty(), "{}", found.join("\n"));
    // There was something to look at.
    assert!(
        seen.len() > 500 && bytes > 100_000,
        "{} {bytes}",
        seen.len()
    );
    assert!(records >= 4, "{records}");
}

/// Sources of webhooks: their secrets and tokens, and requests that are right and wrong.
fn webhooks(
    url: &str,
    as_admin: &[(&str, &str)],
    secrets: &mut Secrets,
    seen: &mut Vec<(String, String)>,
) {
    let body = |answer: &str| -> Value {
        let body = answer.split("\r\n\r\n").nth(1).unwrap();
        serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {answer}"))
    };
    let mut shown = |place: &str, answer: String| seen.push((place.to_owned(), answer));
    let (first, second) = (random(), random());
    secrets.add("a webhook secret", &first);
    secrets.add("a webhook secret after a rotation", &second);
    let create = json!({ "name": "shop", "dialect": "ipai-body", "secrets": [first] });
    let made = call(
        url,
        "POST",
        "/v1/integrations",
        as_admin,
        &create.to_string(),
    );
    let source = body(&made);
    shown("POST /v1/integrations", made);
    let path = format!("/v1/integrations/{}/rotate", source["id"].as_str().unwrap());
    let rotate = json!({ "secret": second }).to_string();
    shown("rotate", call(url, "POST", &path, as_admin, &rotate));
    // Again, under the same name, and with what is no secret of the dialect.
    shown(
        "POST /v1/integrations",
        call(
            url,
            "POST",
            "/v1/integrations",
            as_admin,
            &create.to_string(),
        ),
    );
    let wrong = json!({ "name": "billing", "dialect": "standard-webhooks", "secrets": [format!("whsec_!{first}")] });
    shown(
        "POST /v1/integrations",
        call(
            url,
            "POST",
            "/v1/integrations",
            as_admin,
            &wrong.to_string(),
        ),
    );

    let event = r#"{"event_type":"a","aggregate_type":"b","aggregate_id":1}"#;
    let hook = source["url"].as_str().unwrap();
    for secret in [first.as_str(), &second, "wrong"] {
        let signature = hmac_sha256(secret.as_bytes(), event.as_bytes());
        let signature = format!("sha256={signature}");
        let headers = [
            ("content-type", "application/json"),
            ("x-ipai-signature", signature.as_str()),
        ];
        let answer = call(url, "POST", hook, &headers, event);
        let good = answer.starts_with("HTTP/1.1 20");
        assert_eq!(good, secret != "wrong", "{answer}");
        shown("a webhook", answer);
    }

    let native = json!({ "name": "native", "dialect": "odoo-native" });
    // The answer that makes a token shows it.
    let made = body(&call(
        url,
        "POST",
        "/v1/integrations",
        as_admin,
        &native.to_string(),
    ));
    let token = made["token"].as_str().unwrap();
    secrets.add("a token in a path", token);
    let path = format!("/v1/hooks/{token}");
    let json_type = [("content-type", "application/json")];
    for event in [r#"{"_model":"m","_id":1,"_action":"a"}"#, "no json"] {
        shown("a webhook", call(url, "POST", &path, &json_type, event));
    }
    let wrong = format!("{path}x");
    shown("a webhook", call(url, "POST", &wrong, &json_type, "{}"));
    shown("a webhook", call(url, "GET", &path, &json_type, ""));
}

#[test]
fn nothing_shown_has_a_secret_in_it() {
    let dir = Folder::new();
    let data = dir.path().join("data/log");
    let log = || -> Arc<dyn Log> {
        Arc::new(LocalLog::open(&data, LocalOptions::new(Arc::new(SystemClock))).unwrap())
    };
    look(dir.path(), None, log, "omnilink.");
}

#[test]
fn nothing_shown_has_a_secret_in_it_on_kafka() {
    let Some(test_log) = TestLog::sasl() else {
        return;
    };
    assert_eq!(test_log.kind, LogKind::Kafka);
    let brokers = env_or_skip("OMNILINK_TEST_KAFKA_SASL").unwrap();
    let properties = env_or_skip("OMNILINK_TEST_KAFKA_SASL_PROPERTIES").unwrap();
    let properties = serde_json::from_str(&properties).unwrap();
    let dir = Folder::new();
    let log = || test_log.open("reader");
    look(
        dir.path(),
        Some((brokers, properties)),
        log,
        &test_log.prefix,
    );
}

#[test]
fn the_search_finds_secrets_in_every_form() {
    let mut secrets = Secrets::default();
    secrets.add("x", "a secret of many letters");
    let basic = STANDARD.encode("a secret of many letters");
    for text in [
        "before a secret of many letters after",
        &basic,
        "6120736563726574206f66206d616e79206c657474657273",
    ] {
        let mut found = Vec::new();
        secrets.within("here", text.as_bytes(), &mut found);
        assert_eq!(found.len(), 1, "{text}");
    }
}
