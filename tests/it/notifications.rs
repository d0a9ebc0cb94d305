//! Notifications of a whole node: webhooks that are refused at first, over a restart; mail over a real server; what is not told.

use std::{
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::support::{
    command::{Folder, Up, get, omnilink, output},
    worker::{Got, Worker, answer},
};

const PATIENCE: Duration = Duration::from_secs(30);
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Fails, as its condition is no boolean.
const BROKEN: &str = "name: broken\nversion: '1.0.0'\nplan:\n  steps:\n    - { id: a, tool: noop, when: '{{ params.n }}', input: { secret: '{{ params.word }}' } }\n";
const ASKS: &str = "name: asks\nversion: '1.0.0'\nplan:\n  steps:\n    - { id: ok, tool: approve, input: { message: '500 EUR to bob?' } }\n";

fn folder(notify: &Value) -> Folder {
    let folder = Folder::new();
    let workflows = folder.path().join("workflows");
    std::fs::create_dir(&workflows).unwrap();
    for (name, text) in [("broken", BROKEN), ("asks", ASKS)] {
        std::fs::write(workflows.join(format!("{name}.yaml")), text).unwrap();
    }
    configure(folder.path(), notify);
    folder
}

fn configure(dir: &Path, notify: &Value) {
    let config = json!({ "notify": notify, "public_url": "https://omni.example.com/" });
    std::fs::write(dir.join("omnilink.yaml"), config.to_string()).unwrap();
}

async fn up(folder: &Folder) -> Up {
    let dir = folder.path().to_owned();
    let up = tokio::task::spawn_blocking(move || {
        let env = [("HOOK_SECRET", SECRET)];
        Up::start_env(&dir, &["--without", "projections"], &env)
    });
    up.await.unwrap()
}

async fn stop(up: Up) {
    tokio::task::spawn_blocking(move || assert_eq!(up.stop(), 0))
        .await
        .unwrap();
}

/// Starts a workflow.
async fn start(up: &Up, folder: &Folder, workflow: &str, id: &str) -> String {
    let key = std::fs::read_to_string(folder.path().join("data/admin.key")).unwrap();
    let body = json!({
        "id": id, "source": "/test", "type": "test", "workflow": { "name": workflow }, "input": { "n": 5, "word": "hunter2" }
    });
    let request = hyper::Request::post(format!("{}/v1/workflows", up.url))
        .header("authorization", format!("Bearer {}", key.trim()))
        .header("content-type", "application/json")
        .header("idempotency-key", id)
        .body(http_body_util::Full::new(bytes::Bytes::from(
            body.to_string(),
        )))
        .unwrap();
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
        .build_http();
    let response = client.request(request).await.unwrap();
    let body = http_body_util::BodyExt::collect(response.into_body())
        .await
        .unwrap()
        .to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap();
    body["results"][0]["run_id"]
        .as_str()
        .unwrap_or_else(|| panic!("{body}"))
        .to_owned()
}

async fn until(what: &str, mut there: impl FnMut() -> bool) {
    let began = Instant::now();
    while !there() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The body, if the signature is right (Standard Webhooks).
fn verified(got: &Got) -> Value {
    let key = STANDARD
        .decode(SECRET.trim_start_matches("whsec_"))
        .unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    for part in [
        got.header("webhook-id"),
        ".",
        got.header("webhook-timestamp"),
        ".",
    ] {
        mac.update(part.as_bytes());
    }
    mac.update(&got.body);
    let expected = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
    assert_eq!(got.header("webhook-signature"), expected);
    got.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_sent_until_it_is_taken_also_over_a_restart() {
    let down = Arc::new(AtomicBool::new(true));
    let is_down = down.clone();
    let receiver = Worker::start(move |_| {
        let status = if is_down.load(Ordering::Relaxed) {
            503
        } else {
            204
        };
        Box::pin(async move { answer(status, &[], "") })
    })
    .await;
    let to = json!({ "webhook": { "url": receiver.url("/hook"), "secret": "env:HOOK_SECRET" } });
    let notify = json!([
        { "on": ["run.failed", "approval.requested", "control.changed"], "tenant": "default", "to": to },
        { "on": ["control.changed"], "to": to },
        { "on": ["run.failed"], "tenant": "another", "to": { "webhook": { "url": receiver.url("/another"), "secret": SECRET } } }
    ]);
    // Without anybody to tell: what happens now is not told later.
    let folder = folder(&json!([]));
    let node = up(&folder).await;
    start(&node, &folder, "broken", "before").await;
    stop(node).await;

    configure(folder.path(), &notify);
    let node = up(&folder).await;
    let failed = start(&node, &folder, "broken", "1").await;
    until("two refusals", || receiver.got().len() >= 2).await;
    let ready = get(&node.url, "/readyz");
    assert!(
        ready.contains("it answers 503 Service Unavailable"),
        "{ready}"
    );
    stop(node).await;
    let refused = receiver.got().len();
    down.store(false, Ordering::Relaxed);
    let node = up(&folder).await;
    until("the next owner", || receiver.got().len() > refused).await;
    let got = receiver.got();
    let told = verified(&got[refused]);
    assert_eq!(told["type"], "run.failed");
    let data = json!({
        "run_id": failed, "failed_step_id": "a", "code": "invalid_expression", "tenant": "default",
        "subject": format!("Run {failed} has failed"), "url": format!("https://omni.example.com/v1/runs/{failed}")
    });
    assert_eq!(told["data"], data);
    for attempt in &got {
        assert_eq!(
            attempt.header("webhook-id"),
            got[refused].header("webhook-id")
        );
        assert!(verified(attempt) == told);
    }

    // A question is told without what it is about.
    let asks = start(&node, &folder, "asks", "2").await;
    until("the question", || receiver.got().len() == refused + 2).await;
    let told = verified(&receiver.got()[refused + 1]);
    assert_eq!(
        (&told["type"], &told["data"]["run_id"]),
        (&json!("approval.requested"), &json!(asks))
    );
    assert!(
        told["data"]["approval_id"]
            .as_str()
            .unwrap()
            .starts_with(&asks),
        "{told}"
    );
    assert!(!told.to_string().contains("bob"), "{told}");
    // Of the controls, which are the whole installation's.
    let args = ["controls", "set", "--safe-mode", "on", "--reason", "drill"];
    let mut command = omnilink(folder.path(), &args);
    let (code, _, error) = output(
        command
            .env("HOOK_SECRET", SECRET)
            .env("OMNILINK_URL", &node.url)
            .args(["--data-dir", "data"]),
    );
    assert_eq!(code, 0, "{error}");
    until("the control", || receiver.got().len() == refused + 3).await;
    let told = verified(&receiver.got()[refused + 2]);
    assert_eq!(
        (&told["type"], &told["data"]["reason"]),
        (&json!("control.changed"), &json!("drill"))
    );
    let ready = get(&node.url, "/readyz");
    assert!(!ready.contains("it answers"), "{ready}");
    let metrics = get(&node.url, "/metrics");
    let line = "omnilink_notifications_total{on=\"run.failed\",to=\"webhook\",outcome=\"sent\"} 1";
    assert!(metrics.contains(line), "{metrics}");
    // After a restart nothing is told again.
    stop(node).await;
    let node = up(&folder).await;
    start(&node, &folder, "asks", "3").await;
    until("the next question", || receiver.got().len() == refused + 4).await;
    assert_eq!(
        verified(&receiver.got()[refused + 3])["type"],
        "approval.requested"
    );
    stop(node).await;
    assert!(receiver.got().iter().all(|got| got.path == "/hook"));
}

/// A mail server that refuses the first mail for now, and prints each one that it takes.
const SERVER: &str = r#"
import json, signal, sys
from email import message_from_bytes
from aiosmtpd.controller import Controller

class Handler:
    seen = 0
    async def handle_DATA(self, server, session, envelope):
        Handler.seen += 1
        if Handler.seen == 1:
            return "451 try again"
        mail = message_from_bytes(envelope.content)
        text = mail.get_payload(decode=True).decode()
        print(json.dumps({"from": envelope.mail_from, "to": envelope.rcpt_tos, "subject": mail["subject"], "id": mail["message-id"], "text": text}), flush=True)
        return "250 OK"

controller = Controller(Handler(), hostname="127.0.0.1", port=int(sys.argv[1]))
controller.start()
print("ready", flush=True)
sys.stdin.read()
"#;

struct MailServer {
    child: Child,
    lines: mpsc::Receiver<String>,
    port: u16,
}

impl MailServer {
    /// `None`: there is no Python with `aiosmtpd`.
    fn start() -> Option<Self> {
        let python = std::env::var("OMNILINK_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let child = Command::new(python)
            .args(["-c", SERVER, &port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.ok()?;
        let (send, lines) = mpsc::channel();
        let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        std::thread::spawn(move || {
            while let Some(Ok(line)) = stdout.next() {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        if lines.recv_timeout(PATIENCE).is_err() {
            let _ = child.kill();
            let mut error = String::new();
            let mut stderr = child.stderr.take().unwrap();
            stderr.read_to_string(&mut error).unwrap();
            assert!(error.contains("No module named 'aiosmtpd'"), "{error}");
            return None;
        }
        Some(Self { child, lines, port })
    }

    /// The next mail that it takes.
    fn next(&mut self) -> Value {
        let line = self.lines.recv_timeout(PATIENCE).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_says_what_happened_and_where_to_look() {
    let Some(mut server) = MailServer::start() else {
        println!("SKIPPED: no Python with aiosmtpd (scripts/clients python)");
        return;
    };
    let url = format!("smtp://127.0.0.1:{}", server.port);
    let to = json!({ "smtp": { "url": url, "from": "OmniLink <omnilink@example.com>", "to": ["ops@example.com", "ann@example.com"] } });
    let folder = folder(&json!([{ "on": ["run.failed", "dlq"], "to": to }]));
    let node = up(&folder).await;
    let failed = start(&node, &folder, "broken", "1").await;
    let mail = server.next();
    assert_eq!(mail["from"], "omnilink@example.com");
    assert_eq!(mail["to"], json!(["ops@example.com", "ann@example.com"]));
    assert_eq!(
        mail["subject"],
        format!("[OmniLink] Run {failed} has failed")
    );
    assert!(mail["id"].as_str().unwrap().contains(&failed), "{mail}");
    let text = mail["text"].as_str().unwrap();
    for part in [
        format!("https://omni.example.com/v1/runs/{failed}"),
        format!("omnilink runs show {failed}"),
        "Tenant: default".to_owned(),
    ] {
        assert!(text.contains(&part), "{part} in {text}");
    }
    assert!(
        !text.contains("hunter2") && !text.contains("invalid_expression"),
        "{text}"
    );
    stop(node).await;
}

#[test]
fn a_configuration_that_cannot_be_used_is_refused() {
    let folder = folder(
        &json!([{ "on": ["run.failed"], "to": { "webhook": { "url": "http://h/", "secret": "hunter2" } } }]),
    );
    for args in [&["check"][..], &["config"], &["doctor"]] {
        let (code, out, error) = output(&mut omnilink(folder.path(), args));
        assert_eq!(code, 1, "{args:?}: {out}{error}");
        let said = format!("{out}{error}");
        assert!(
            said.contains("notify") && said.contains("whsec_") && !said.contains("hunter2"),
            "{args:?}: {said}"
        );
    }
}
