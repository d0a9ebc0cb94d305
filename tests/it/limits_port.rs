//! Limits of the port on one node, mostly of `POST /v1/events`: what is counted, what is refused, and in which order.

use std::sync::Arc;

use hyper::{HeaderMap, Method, StatusCode};
use omnilink::{
    base::clock::SystemClock,
    controls::{Constraints, Scopes},
    limits::{Kind, Limiter, OnBackendDown, Per, Policy},
    workflows::check_texts,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    integrations::created,
    support::port::{Mode, Node, Response, scopes},
};

fn event(id: &str) -> Value {
    typed(id, "t")
}

fn typed(id: &str, kind: &str) -> Value {
    json!({ "id": id, "source": "/s/prod", "type": kind, "data": { "n": 1 } })
}

fn policy(limit: u32, per: Per, on: Option<Vec<Kind>>) -> Arc<Policy> {
    Arc::new(Policy {
        name: "strict".into(),
        limit,
        window_s: 60,
        per,
        on_backend_down: OnBackendDown::Local,
        on,
    })
}

async fn node(policies: Vec<Arc<Policy>>) -> Node {
    let limiter = Limiter::in_memory(Arc::new(SystemClock));
    Node::start_limited(TempDir::new().unwrap(), None, limiter, policies).await
}

/// A key that may write events, and has no limits but these.
async fn key(node: &Node, tenant: &str, constraints: Constraints) -> String {
    let scopes = Scopes {
        permissions: vec!["events:write".into()],
        constraints,
    };
    node.key(tenant, scopes).await
}

fn unlimited() -> Constraints {
    Constraints {
        max_rpm: 0,
        max_concurrency: 0,
        ..Constraints::default()
    }
}

fn rpm(max_rpm: u32) -> Constraints {
    Constraints {
        max_rpm,
        ..unlimited()
    }
}

async fn post(node: &Node, key: &str, body: &Value) -> Response {
    node.request(Method::POST, "/v1/events", key, body).await
}

async fn post_from(node: &Node, key: &str, address: &str, body: &Value) -> Response {
    let authorization = format!("Bearer {key}");
    let headers = [
        ("authorization", authorization.as_str()),
        ("content-type", "application/json"),
        ("x-forwarded-for", address),
    ];
    node.call(Method::POST, "/v1/events", &headers, body.to_string())
        .await
}

fn statuses(response: &Response) -> Vec<String> {
    let body = response.json();
    let results = body["results"].as_array().unwrap().iter();
    results
        .map(|r| r["status"].as_str().unwrap().to_owned())
        .collect()
}

fn number(headers: &HeaderMap, name: &str) -> u64 {
    headers[name].to_str().unwrap().parse().unwrap()
}

/// The headers of a 429 agree with each other.
fn assert_limited(response: &Response, policy: &str, limit: u64) {
    assert_eq!(response.code(), "rate_limit_exceeded", "{}", response.text);
    let headers = &response.headers;
    let wait = number(headers, "retry-after");
    assert!((1..=60).contains(&wait), "{wait}");
    let quota = format!("\"{policy}\";q={limit};w=60");
    assert_eq!(headers["ratelimit-policy"], *quota);
    assert_eq!(headers["ratelimit"], *format!("\"{policy}\";r=0;t={wait}"));
    assert_eq!(number(headers, "x-ratelimit-limit"), limit);
    assert_eq!(number(headers, "x-ratelimit-remaining"), 0);
    assert_eq!(number(headers, "x-ratelimit-reset"), wait);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_items_of_a_batch_pass() {
    let node = node(Vec::new()).await;
    let limited = key(&node, "acme", rpm(5)).await;
    let ids = ["1", "2", "3", "4", "5", "6", "7"];
    let mut batch: Vec<_> = ids.into_iter().map(event).collect();
    // What is refused for another reason uses up nothing.
    batch[1]["type"] = json!("");
    let first = post(&node, &limited, &json!(batch)).await;
    assert_eq!(first.status, StatusCode::ACCEPTED, "{}", first.text);
    let mut expected = ["ingested"; 7];
    (expected[1], expected[6]) = ("invalid", "rate_limited");
    assert_eq!(statuses(&first), expected);
    let over = first.result(6);
    assert_eq!(over["error"]["code"], "rate_limit_exceeded");
    let wait = over["retry_after_seconds"].as_u64().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    // An answer that accepts says how the tightest limit stands.
    assert_eq!(first.headers["ratelimit-policy"], "\"max_rpm\";q=5;w=60");
    let rate = first.headers["ratelimit"].to_str().unwrap();
    assert!(rate.starts_with("\"max_rpm\";r=0;t="), "{rate}");

    let single = post(&node, &limited, &event("8")).await;
    assert_limited(&single, "max_rpm", 5);
    assert_eq!(statuses(&single), ["rate_limited"]);
    // Whatever came first in the batch, waiting helps.
    let batch = json!([typed("9", ""), event("10")]);
    let none = post(&node, &limited, &batch).await;
    assert_limited(&none, "max_rpm", 5);
    assert_eq!(statuses(&none), ["invalid", "rate_limited"]);

    // What was refused has used no identity: another body is taken, by a key with a window of its own.
    let other = key(&node, "acme", rpm(5)).await;
    let mut changed = event("7");
    changed["data"] = json!(2);
    let taken = post(&node, &other, &changed).await;
    assert_eq!(statuses(&taken), ["ingested"], "{}", taken.text);
    let rate = taken.headers["ratelimit"].to_str().unwrap();
    assert_eq!(rate, "\"max_rpm\";r=4;t=60");
    // Nothing limits this one.
    let free = post(&node, &node.admin, &event("11")).await;
    assert_eq!(statuses(&free), ["ingested"]);
    assert!(!free.headers.contains_key("ratelimit"));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_per_has_windows_of_its_own() {
    for per in [Per::Key, Per::Tenant, Per::Type, Per::Ip] {
        let node = node(vec![policy(2, per, None)]).await;
        let (mine, same_tenant, other_tenant) = (
            key(&node, "acme", unlimited()).await,
            key(&node, "acme", unlimited()).await,
            key(&node, "other", unlimited()).await,
        );
        let three = json!([event("1"), event("2"), event("3")]);
        let first = post_from(&node, &mine, "192.0.2.1", &three).await;
        let expected = ["ingested", "ingested", "rate_limited"];
        assert_eq!(statuses(&first), expected, "{per:?}");
        // Each in one respect another sender.
        let cases = [
            (&same_tenant, "192.0.2.1", "t", Per::Key),
            (&other_tenant, "192.0.2.1", "t", Per::Tenant),
            (&mine, "192.0.2.1", "u", Per::Type),
            (&mine, "192.0.2.2", "t", Per::Ip),
        ];
        for (key, address, kind, other) in cases {
            let sent = typed(&format!("{other:?}"), kind);
            let response = post_from(&node, key, address, &sent).await;
            // Another tenant's keys and types are other keys and types.
            let another_tenant = other == Per::Tenant && per != Per::Ip;
            if per == other || another_tenant {
                assert_eq!(statuses(&response), ["ingested"], "{per:?} {other:?}");
            } else {
                assert_limited(&response, "strict", 2);
            }
        }
        if per == Per::Ip {
            // Of IPv6 each /64.
            let from = async |address, id| {
                let response = post_from(&node, &mine, address, &event(id)).await;
                response.status.as_u16()
            };
            assert_eq!(from("2001:db8::1", "4").await, 202);
            assert_eq!(from("2001:db8::2", "5").await, 202);
            assert_eq!(from("2001:db8::3", "6").await, 429);
            assert_eq!(from("2001:db8:0:1::3", "7").await, 202);
        }
        if per == Per::Type {
            // Items of another type pass beside those that do not.
            let batch = json!([typed("8", "t"), typed("9", "v"), typed("10", "t")]);
            let mixed = post(&node, &mine, &batch).await;
            let expected = ["rate_limited", "ingested", "rate_limited"];
            assert_eq!(statuses(&mixed), expected);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_for_the_requests_that_it_names() {
    let commands = policy(1, Per::Tenant, Some(vec![Kind::Commands]));
    let mut events = Policy::clone(&policy(2, Per::Tenant, Some(vec![Kind::Events])));
    events.name = "of-events".into();
    let node = node(vec![commands, Arc::new(events)]).await;
    let key = key(&node, "acme", rpm(100)).await;
    for id in ["1", "2"] {
        let response = post(&node, &key, &event(id)).await;
        assert_eq!(statuses(&response), ["ingested"]);
        // The one with the least left.
        let policy = &response.headers["ratelimit-policy"];
        assert_eq!(policy, "\"of-events\";q=2;w=60");
    }
    assert_limited(&post(&node, &key, &event("3")).await, "of-events", 2);
}

const ORDER: &str = r#"
name: order
version: "1.0.0"
command: order.pay
params: { type: object }
plan: { steps: [ { id: a, tool: noop, input: {} } ] }
"#;

/// Each kind of request has a policy of one request, uses that one up, and no other.
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_may_name_each_kind_of_request() {
    let policies = Kind::ALL.map(|(name, kind)| {
        let mut policy = Policy::clone(&policy(1, Per::Tenant, Some(vec![kind])));
        policy.name = format!("of-{name}").into();
        Arc::new(policy)
    });
    let node = node(policies.to_vec()).await;
    let checked = check_texts([], [("order.yaml".to_owned(), Ok(ORDER.to_owned()))]);
    node.workflows.replace(checked.catalog.unwrap());
    let native = json!({ "name": "native", "dialect": "odoo-native" });
    let hook = created(&node, &native).await["url"]
        .as_str()
        .unwrap()
        .to_owned();
    let start = |kind: &str, field: &str, value: Value| json!({ "id": "1", "source": "/s/prod", "type": kind, field: value });
    let mut workflow = start("t", "workflow", json!({ "name": "order" }));
    workflow["input"] = json!({});
    let requests = [
        ("events", "/v1/events", event("1")),
        (
            "commands",
            "/v1/commands",
            start("order.pay", "params", json!({})),
        ),
        ("workflows", "/v1/workflows", workflow),
        (
            "goals",
            "/v1/goals",
            start("t", "goal", json!("Pay order 1")),
        ),
        ("tasks", "/v1/tasks", start("noop", "params", json!({}))),
        (
            "webhooks",
            hook.as_str(),
            json!({ "_model": "m", "_id": 1, "_action": "a" }),
        ),
        (
            "runs",
            "/v1/runs/7dbd6d41-6f85-5f7b-98af-6637f5372c2e/cancel",
            json!({}),
        ),
    ];
    assert_eq!(
        requests.each_ref().map(|r| r.0),
        Kind::ALL.map(|(name, _)| name)
    );
    let bearer = node.bearer();
    for (kind, path, body) in &requests {
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
            ("idempotency-key", kind),
        ];
        let send = || node.call(Method::POST, path, &headers, body.to_string());
        let first = send().await;
        assert!(first.status.is_success(), "{kind}: {}", first.text);
        assert_limited(&send().await, &format!("of-{kind}"), 1);
    }
}

/// Size, fields, scope and allowlists come before the rate, identity after it.
#[tokio::test(flavor = "multi_thread")]
async fn the_rate_has_its_place_among_the_checks() {
    let node = node(vec![policy(2, Per::Tenant, None)]).await;
    let narrow = Constraints {
        env_allowlist: vec!["prod".into()],
        max_payload_kb: 1,
        ..unlimited()
    };
    let key = key(&node, "acme", narrow).await;
    let reads_only = Scopes {
        constraints: unlimited(),
        ..scopes(&["events:read"])
    };
    let reader = node.key("acme", reads_only).await;
    let mut elsewhere = event("1");
    elsewhere["source"] = json!("/s/test");
    let mut large = event("1");
    large["data"] = json!("x".repeat(2_000));
    // A field is missing as well: the size is looked at first.
    let mut large_and_wrong = large.clone();
    large_and_wrong["type"] = json!("");
    let refused = [
        (&key, typed("1", ""), "missing_type"),
        (&key, large, "payload_too_large"),
        (&key, large_and_wrong, "payload_too_large"),
        (&reader, event("1"), "permission_denied"),
        (&key, elsewhere, "env_not_allowed"),
    ];
    for (key, body, code) in &refused {
        for _ in 0..3 {
            assert_eq!(post(&node, key, body).await.code(), *code);
        }
    }
    // None of them used anything up; a duplicate does.
    assert_eq!(
        statuses(&post(&node, &key, &event("1")).await),
        ["ingested"]
    );
    let again = post(&node, &key, &event("1")).await;
    assert_eq!(statuses(&again), ["duplicate"]);
    assert_limited(&post(&node, &key, &event("1")).await, "strict", 2);
    // Nor is it looked at for them.
    for (key, body, code) in &refused {
        assert_eq!(post(&node, key, body).await.code(), *code);
    }
    // The identity is not looked at: another body under it is no mismatch yet.
    let mut other = event("1");
    other["data"] = json!(2);
    assert_limited(&post(&node, &key, &other).await, "strict", 2);
    // An empty batch asks for nothing.
    let empty = post(&node, &key, &json!([])).await;
    assert_eq!(empty.status, StatusCode::ACCEPTED);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_flight_are_limited_before_the_body_is_read() {
    let node = node(Vec::new()).await;
    let one = Constraints {
        max_concurrency: 1,
        ..unlimited()
    };
    let (key, other) = (
        key(&node, "acme", one.clone()).await,
        key(&node, "acme", one).await,
    );
    let authorization = format!("Bearer {key}");
    let call = async |content_type: &str, authorization: &str, body: &str| {
        let headers = [
            ("authorization", authorization),
            ("content-type", content_type),
        ];
        let body = body.to_owned();
        node.call(Method::POST, "/v1/events", &headers, body).await
    };

    node.log.set_mode(Mode::Held);
    let one = event("1");
    let mut held = std::pin::pin!(post(&node, &key, &one));
    let early = tokio::time::timeout(std::time::Duration::from_millis(300), &mut held).await;
    assert!(early.is_err(), "responded too early");

    let busy = call("application/json", &authorization, "no JSON").await;
    assert_eq!(busy.code(), "concurrency_limit_exceeded", "{}", busy.text);
    let told = [
        (
            "ratelimit-policy",
            "\"max_concurrency\";q=1;qu=\"concurrent-requests\"",
        ),
        ("ratelimit", "\"max_concurrency\";r=0;t=1"),
        ("x-ratelimit-limit", "1"),
        ("x-ratelimit-remaining", "0"),
        ("x-ratelimit-reset", "1"),
        ("retry-after", "1"),
    ];
    for (name, value) in told {
        assert_eq!(busy.headers[name], value, "{name}");
    }
    // Key and media type come first.
    let unknown = call("application/json", "Bearer omni.x", "no JSON").await;
    assert_eq!(unknown.code(), "invalid_key");
    let text = call("text/plain", &authorization, "no JSON").await;
    assert_eq!(text.code(), "unsupported_media_type");
    // Another key has places of its own; reads take none.
    let two = event("2");
    let mut second = std::pin::pin!(post(&node, &other, &two));
    let early = tokio::time::timeout(std::time::Duration::from_millis(200), &mut second).await;
    assert!(early.is_err(), "responded too early");

    node.log.set_mode(Mode::Works);
    assert_eq!(statuses(&held.await), ["ingested"]);
    assert_eq!(statuses(&second.await), ["ingested"]);
    let free = call("application/json", &authorization, "no JSON").await;
    assert_eq!(free.code(), "invalid_payload");
    let next = post(&node, &key, &event("3")).await;
    assert_eq!(statuses(&next), ["ingested"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_senders_at_once_get_what_is_there() {
    let node = Arc::new(node(vec![policy(50, Per::Tenant, None)]).await);
    let key = key(&node, "acme", rpm(40)).await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..30 {
        let (node, key) = (Arc::clone(&node), key.clone());
        tasks.spawn(async move {
            let ids = [0, 1, 2].map(|part| event(&format!("{n}-{part}")));
            let response = post(&node, &key, &json!(ids)).await;
            let taken = statuses(&response);
            taken.iter().filter(|s| *s == "ingested").count()
        });
    }
    let taken: usize = tasks.join_all().await.into_iter().sum();
    assert_eq!(taken, 40);
    // The key's window was looked at for what the tenant's had: 10 are left there, for any key.
    let admin = json!(
        (0..12)
            .map(|n| event(&format!("a-{n}")))
            .collect::<Vec<_>>()
    );
    let rest = post(&node, &node.admin, &admin).await;
    let taken = statuses(&rest);
    assert_eq!(taken.iter().filter(|s| *s == "ingested").count(), 10);
}
