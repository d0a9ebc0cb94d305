//! Damaged and made-up bodies through every route that takes one: each gets an answer of the contract, and none is a server error.
//! The node has what the examples name, so bodies that are whole get through, and damaged ones get as far as they are good.
//!
//! `OMNILINK_TEST_MUTATIONS` says how many for each route and form (20,000); `scripts/fuzz port` runs a million.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, client::conn::http1, header::CONTENT_TYPE};
use hyper_util::rt::TokioIo;
use omnilink::{
    api::{ROUTES, problem::OVERLOADED, route::Tag},
    stream::lane::Running,
    workflows::check_texts,
};
use rand::{SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::{
    api,
    bridges::hmac_sha256,
    integrations::created,
    support::{mutations::mutated, port::Node, sagas::start_sagas},
};

const SEED: u64 = 0x006f_6d6e_696c_696e;
/// Connections at once: appends of several requests become one commit.
const CONNECTIONS: u64 = 32;
/// Every so many answers are held against the whole document, which takes longer than the answer.
const CHECKED: u64 = 50;

/// Stands in a seed for the number of the request, so that not every event has the id of another.
const NUMBER: &str = "NUMBER";
/// The secret of the source of webhooks.
const SECRET: &str = "a long random text";

/// What the examples of the starts name.
const WORKFLOWS: [&str; 3] = [
    r#"
name: expense
version: "1.0.0"
command: expense.pay
params: { type: object, required: [expense, amount], properties: { expense: { type: string }, amount: { type: number } } }
plan: { steps: [ { id: pay, tool: noop, input: { amount: "{{ params.amount }}" } } ] }
"#,
    r#"
name: onboarding
version: "1.0.0"
params: { type: object, required: [email], properties: { email: { type: string } } }
plan: { steps: [ { id: greet, tool: noop, input: { to: "{{ params.email }}" } } ] }
"#,
    // It does not end while its run is controlled.
    r#"
name: parked
version: "1.0.0"
params: { type: object }
plan: { steps: [ { id: park, tool: wait, input: { signal: never } } ] }
"#,
];
/// A start with a plan in it.
const INLINE: &str = r#"{"id":"NUMBER","source":"/hr/prod","type":"t","input":{"n":1},"plan":{"steps":[
    {"id":"a","tool":"noop","input":{"n":"{{ params.n }}"},"timeout_s":5,"retry":{"max_attempts":2,"initial_ms":10,"factor":2,"max_ms":100}},
    {"id":"b","tool":"noop","input":{"of":"{{ steps.a.output.n }}"},"depends_on":["a"],"when":"{{ params.n > 0 }}",
     "compensate":{"tool":"noop","input":{"n":1}},"irreversible":false}],"output":{"n":"{{ steps.b.output.of }}"}}}"#;

/// A way to send a body.
struct Target {
    method: Method,
    path: String,
    tag: Tag,
    content_type: String,
    headers: Vec<(&'static str, &'static str)>,
    seeds: Vec<Vec<u8>>,
}

impl Target {
    /// Codes with which a whole body may be refused on this node, which has no Postgres; and a run or a source is as the bodies before
    /// have left it.
    fn refusals(&self) -> &'static [&'static str] {
        match self.path.as_str() {
            "/v1/tasks/claim" | "/v1/tasks/heartbeat" | "/v1/rebuild" | "/v1/runs:batch" => {
                &["postgres_unavailable"]
            }
            "/v1/tasks/complete" => &["postgres_unavailable", "stale_lease"],
            "/v1/integrations" => &["name_taken"],
            "/v1/dlq/redrive" => &["redrive_running"],
            "/v1/topics" => &["partition_count"],
            // All whole ones are the same.
            path if path.starts_with("/v1/hooks/") => &["idempotency_in_flight"],
            path if path.ends_with("/retry") || path.ends_with("/feedback") => {
                &["postgres_unavailable"]
            }
            path if path.starts_with("/v1/approvals/") => &["approval_not_open", "run_ended"],
            path if path.starts_with("/v1/runs/") => &[
                "run_ended",
                "run_ending",
                "already_cancelled",
                "already_paused",
                "not_paused",
                "too_many_signals",
            ],
            _ => &[],
        }
    }

    fn is_webhook(&self) -> bool {
        self.path.starts_with("/v1/webhooks/")
    }

    /// Whether the key in the header names a run.
    fn is_start(&self) -> bool {
        self.tag == Tag::Starts || self.path.ends_with("/retry")
    }
}

/// An example with a new id in each request: a repeated one with another body would be refused for that alone.
fn with_new_ids(example: &str) -> Vec<u8> {
    let mut value: Value = serde_json::from_str(example).unwrap();
    let items = match &mut value {
        Value::Array(items) => items.as_mut_slice(),
        item => std::slice::from_mut(item),
    };
    for item in items {
        if item["id"].is_string() {
            item["id"] = NUMBER.into();
        }
    }
    value.to_string().into_bytes()
}

/// With the number of the request in place of [`NUMBER`].
fn numbered(mut body: Vec<u8>, number: &str) -> Bytes {
    while let Some(at) = memchr::memmem::find(&body, NUMBER.as_bytes()) {
        body.splice(at..at + NUMBER.len(), number.bytes());
    }
    body.into()
}

/// Bodies of real webhooks, the smaller ones; none if they are not on this machine.
fn real_bodies() -> Vec<Value> {
    let root = std::env::var("OMNILINK_SHARED_DATA").unwrap_or_else(|_| "../shared/data".into());
    let mut files: Vec<_> = fs::read_dir(Path::new(&root).join("github-webhooks"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|folder| fs::read_dir(folder.path()).ok())
        .flatten()
        .flatten()
        .map(|file| file.path())
        .collect();
    files.sort();
    let texts = files
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok());
    let bodies: Vec<_> = texts
        .filter(|text| text.len() < 8_000)
        .filter_map(|text| serde_json::from_str(&text).ok())
        .take(20)
        .collect();
    if bodies.is_empty() {
        eprintln!(
            "SKIPPED: real bodies, because there is no {root}/github-webhooks (OMNILINK_SHARED_DATA)"
        );
    }
    bodies
}

fn targets() -> Vec<Target> {
    let real = real_bodies();
    let text = |value: Value| value.to_string().into_bytes();
    let cloud_event = |data: &Value| json!({ "specversion": "1.0", "id": NUMBER, "source": "/github", "type": "github.push", "data": data });
    let mut targets = Vec::new();
    for route in ROUTES {
        let method: Method = route.method.name().parse().unwrap();
        for content in route.body {
            let examples = content.example.iter();
            let mut seeds: Vec<Vec<u8>> = examples.map(|example| with_new_ids(example)).collect();
            if route.path == "/v1/workflows" && content.media == "application/json" {
                seeds.push(INLINE.into());
            }
            if route.path == "/v1/webhooks/{tenant}/{source}" {
                let issues = real.iter().filter(|body| body["issue"].is_object());
                seeds.extend(issues.map(|body| text(body.clone())));
            }
            if route.path == "/v1/events" {
                let real = real.iter().map(cloud_event);
                seeds.extend(real.map(|event| match content.media {
                    "application/cloudevents-batch+json" => text(json!([event, event])),
                    _ => text(event),
                }));
            }
            targets.push(Target {
                method: method.clone(),
                path: route.example_path(),
                tag: route.tag,
                content_type: content.media.to_owned(),
                headers: Vec::new(),
                seeds,
            });
        }
        if route.path == "/v1/events" {
            let mut seeds: Vec<_> = real.iter().map(|body| text(body.clone())).collect();
            seeds.push(br#"{"total":9.5}"#.to_vec());
            targets.push(Target {
                method,
                path: route.path.to_owned(),
                tag: route.tag,
                content_type: "application/json".to_owned(),
                headers: vec![
                    ("ce-specversion", "1.0"),
                    ("ce-id", NUMBER),
                    ("ce-source", "/github"),
                    ("ce-type", "github.push"),
                ],
                seeds,
            });
        }
    }
    targets
}

/// Makes on the node what the path names. The processor of runs stays as long as what is returned.
async fn prepare(node: &Node, target: &mut Target) -> Option<Running> {
    node.workflows.replace({
        let files = WORKFLOWS.iter().enumerate();
        let files = files.map(|(n, text)| (format!("{n}.yaml"), Ok((*text).to_owned())));
        let checked = check_texts([], files);
        let problems: Vec<_> = checked.problems.iter().map(|p| p.render(false)).collect();
        assert_eq!(problems, Vec::<String>::new());
        checked.catalog.unwrap()
    });
    let id = |made: &Value| made["id"].as_str().unwrap().to_owned();
    let url = |made: &Value| made["url"].as_str().unwrap().to_owned();
    let github = json!({ "name": "billing", "dialect": "github", "secrets": [SECRET] });
    let mut sagas = None;
    match target.path.clone().as_str() {
        path if path.starts_with("/v1/keys/") => {
            let scopes = json!({ "permissions": ["events:write"] });
            let body = json!({ "name": "shop", "kind": "service", "scopes": scopes });
            let made = node.request(Method::POST, "/v1/keys", &node.admin, &body);
            target.set_id(&id(&made.await.json()));
        }
        path if path.starts_with("/v1/integrations/") => {
            target.set_id(&id(&created(node, &github).await));
            // With an overlap only ten would be valid at once.
            target.seeds = vec![br#"{"secret":"another long random text","overlap_s":0}"#.to_vec()];
        }
        path if path.starts_with("/v1/webhooks/") => {
            target.path = url(&created(node, &github).await);
        }
        path if path.starts_with("/v1/hooks/") => {
            let native = json!({ "name": "native", "dialect": "odoo-native" });
            target.path = url(&created(node, &native).await);
        }
        path if path.starts_with("/v1/runs/") || path.starts_with("/v1/approvals/") => {
            sagas = Some(start_sagas(node));
            let start = json!({ "id": "1", "source": "/s", "type": "t", "workflow": { "name": "parked" }, "input": {} });
            let bearer = node.bearer();
            let headers = [
                ("authorization", bearer.as_str()),
                ("content-type", "application/json"),
                ("idempotency-key", "parked"),
            ];
            let started = node.call(Method::POST, "/v1/workflows", &headers, start.to_string());
            let run = started.await.result(0)["run_id"]
                .as_str()
                .unwrap()
                .to_owned();
            let seq = path.starts_with("/v1/approvals/").then_some(".4");
            target.set_id(&format!("{run}{}", seq.unwrap_or_default()));
        }
        path if target.tag == Tag::SchemaRegistry => {
            target.path = path.replace("omnilink.", &node.names.prefix);
            let subject = format!("/subjects/{}-value/versions/latest", node.names.events);
            let known = node.call(Method::GET, &subject, &[], "").await.json();
            target.seeds = vec![
                json!({ "schema": known["schema"] })
                    .to_string()
                    .into_bytes(),
            ];
        }
        _ => {}
    }
    sagas
}

impl Target {
    /// Puts an id in place of the example's, which is the third part of the path.
    fn set_id(&mut self, id: &str) {
        let mut parts: Vec<_> = self.path.split('/').collect();
        parts[3] = id;
        self.path = parts.join("/");
    }
}

/// What became of the bodies of one target.
#[derive(Default)]
struct Counts {
    accepted: u64,
    refused: u64,
    /// Whole bodies, and those of them that got through.
    whole: u64,
    passed: u64,
    /// Damaged bodies that got through all the same.
    damaged: u64,
}

/// Sends mutations until `left` is used up, on one connection after the other.
async fn send(
    node: Arc<Node>,
    target: Arc<Target>,
    mut rng: StdRng,
    left: Arc<AtomicU64>,
) -> Counts {
    let mut client: Option<http1::SendRequest<Full<Bytes>>> = None;
    let mut counts = Counts::default();
    loop {
        let Ok(number) =
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
        else {
            return counts;
        };
        let number_text = number.to_string();
        let (body, whole) = mutated(&mut rng, &target.seeds);
        let body = numbered(body, &number_text);
        let mut request = Request::builder()
            .method(&target.method)
            .uri(&target.path)
            .header("host", "omnilink")
            .header("authorization", node.bearer())
            .header(CONTENT_TYPE, &target.content_type);
        for (name, value) in &target.headers {
            let value = if *value == NUMBER {
                &number_text
            } else {
                *value
            };
            request = request.header(*name, value);
        }
        if target.is_start() {
            request = request.header("idempotency-key", &number_text);
        }
        if target.is_webhook() {
            let signature = format!("sha256={}", hmac_sha256(SECRET.as_bytes(), &body));
            request = request
                .header("x-hub-signature-256", signature)
                .header("x-github-event", "issues")
                .header("x-github-delivery", &number_text);
        }
        let request = request.body(Full::new(body.clone())).unwrap();
        // A refused body that is still being sent ends the connection.
        if client.as_mut().is_none_or(|client| client.is_closed()) {
            let stream = TcpStream::connect(node.address).await.unwrap();
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            client = Some(sender);
        }
        let about = || format!("{} {}: {:?}", target.method, target.path, body);
        let sender = client.as_mut().unwrap();
        if sender.ready().await.is_err() {
            client = None;
            continue;
        }
        let answer = sender.send_request(request).await;
        let answer = answer.unwrap_or_else(|e| panic!("no answer: {e}: {}", about()));
        let (head, answer) = answer.into_parts();
        let answer = answer
            .collect()
            .await
            .unwrap_or_else(|e| panic!("broken off: {e}: {}", about()));
        let answer = String::from_utf8(answer.to_bytes().to_vec()).unwrap();
        let status = head.status.as_u16();
        let code = || {
            let answer = serde_json::from_str::<Value>(&answer).ok()?;
            Some(answer["code"].as_str()?.to_owned())
        };
        if status >= 500 {
            // This node has no Postgres.
            let expected = [OVERLOADED.code, "postgres_unavailable"];
            let expected = code().is_some_and(|code| expected.contains(&code.as_str()));
            assert!(status == 503 && expected, "{status} {answer}: {}", about());
        }
        if answer.contains(ALL_DISABLED) {
            enable_all(&node).await;
            continue;
        }
        let refusals = target.refusals();
        let passed = status < 400 || code().is_some_and(|code| refusals.contains(&code.as_str()));
        if whole {
            counts.whole += 1;
            counts.passed += u64::from(passed);
            let overloaded = || code().is_some_and(|code| code == OVERLOADED.code);
            assert!(passed || overloaded(), "{status} {answer}: {}", about());
        } else {
            counts.damaged += u64::from(passed);
        }
        if number % CHECKED == 0 {
            api::check(
                &target.method,
                &target.path,
                head.status,
                &head.headers,
                &answer,
            );
        }
        if status < 400 {
            counts.accepted += 1;
        } else {
            counts.refused += 1;
        }
    }
}

/// The refusal of a control that would disable one feature more than there may be.
const ALL_DISABLED: &str = "at most 128 features may be disabled at once";

/// Enables what damaged bodies have disabled: no whole one does.
async fn enable_all(node: &Node) {
    let controls = node
        .request(Method::GET, "/v1/controls", &node.admin, &Value::Null)
        .await;
    let controls = controls.json();
    let disabled = controls["disabled"].as_object().unwrap();
    let enabled: serde_json::Map<_, _> = disabled
        .keys()
        .map(|feature| (feature.clone(), Value::Null))
        .collect();
    let body = serde_json::json!({ "disabled": enabled, "reason": "enabled again" });
    let enabled = node
        .request(Method::PATCH, "/v1/controls", &node.admin, &body)
        .await;
    assert!(enabled.status.is_success(), "{}", enabled.text);
}

/// How many bodies a target gets.
pub fn rounds() -> u64 {
    let count = std::env::var("OMNILINK_TEST_MUTATIONS").ok();
    count.map_or(20_000, |count| count.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn mutated_bodies_are_never_a_server_error() {
    let count = rounds();
    for (index, mut target) in targets().into_iter().enumerate() {
        // A node for each, so that what one route makes does not slow the next.
        let node = Arc::new(Node::start().await);
        let sagas = prepare(&node, &mut target).await;
        let began = std::time::Instant::now();
        let target = Arc::new(target);
        let left = Arc::new(AtomicU64::new(count));
        let senders: Vec<_> = (0..CONNECTIONS)
            .map(|connection| {
                let rng = StdRng::seed_from_u64(SEED ^ ((index as u64) << 32) ^ connection);
                tokio::spawn(send(node.clone(), target.clone(), rng, left.clone()))
            })
            .collect();
        let mut all = Counts::default();
        for sender in senders {
            let its = sender.await.unwrap();
            all.accepted += its.accepted;
            all.refused += its.refused;
            all.whole += its.whole;
            all.passed += its.passed;
            all.damaged += its.damaged;
        }
        eprintln!(
            "{} {} {}: {} accepted, {} refused; {} of {} whole bodies got through, and {} damaged ones; in {:.1?}",
            target.method,
            target.path,
            target.content_type,
            all.accepted,
            all.refused,
            all.passed,
            all.whole,
            all.damaged,
            began.elapsed()
        );
        assert!(all.accepted + all.refused > count * 9 / 10);
        // Most are damaged; some get through, or nothing but the parser was tried.
        assert!(all.refused > 0, "{}", target.path);
        assert!(
            all.passed > 0 && all.passed * 10 >= all.whole * 9,
            "{}",
            target.path
        );
        assert!(all.damaged > 0, "{}", target.path);
        assert_eq!(
            node.call(Method::GET, "/healthz", &[], "").await.status,
            200
        );
        drop(sagas);
    }
}
