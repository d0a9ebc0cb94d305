//! The agents' routes, which agents were written against: `POST /workflows/agent`, `GET /workflows/{id}/status`,
//! `POST /api/v1/goals`.

use hyper::Method;
use omnilink::commands::start::run_id;
use serde_json::{Value, json};

use crate::{
    starts::{entries, send},
    support::port::{Node, scopes},
};

#[tokio::test(flavor = "multi_thread")]
async fn agents_have_routes_of_their_own() {
    let node = Node::start().await;
    let envelope = |payload: Value| {
        json!({ "eventId": "e1", "eventType": "omnilink:agent.goal_received", "source": "agent-7", "idempotencyKey": "k7",
            "timestamp": "2026-01-31T12:00:00Z", "schemaVersion": "1.0.0", "tenantId": "other", "payload": payload })
    };
    let goal = json!({ "goal": "Pay", "user_id": "ann", "context": { "a": 1 } });
    let send = async |route: &str, key: &str, body: Value| {
        send(&node, route, key, &[], &body.to_string()).await
    };
    let (agent, plain) = ("/workflows/agent", "/api/v1/goals");
    let admin = &node.admin;
    for (route, body) in [
        (agent, envelope(goal.clone())),
        (plain, envelope(goal.clone())),
        (
            plain,
            json!({ "goal": "Pay", "context": {}, "idempotencyKey": "k8" }),
        ),
    ] {
        let answer = send(route, admin, body).await;
        assert_eq!(answer.status.as_u16(), 202, "{}", answer.text);
        assert_eq!(answer.json()["status"], "accepted");
    }
    let mut no_key = envelope(goal.clone());
    no_key["idempotencyKey"] = Value::Null;
    let mut other_type = envelope(goal.clone());
    other_type["eventType"] = "omnilink:agent.other".into();
    let mut no_id = envelope(goal.clone());
    no_id["eventId"] = Value::Null;
    for (route, body, code) in [
        (agent, no_key, "missing_idempotency_key"),
        (plain, json!({ "goal": "Pay" }), "missing_idempotency_key"),
        (agent, other_type, "unsupported_kind"),
        (agent, no_id, "missing_id"),
        (
            agent,
            json!({ "goal": "Pay", "idempotencyKey": "k" }),
            "missing_eventId",
        ),
        (agent, envelope(json!({ "user_id": "ann" })), "missing_goal"),
        (
            agent,
            envelope(json!({ "goal": "x", "user": "ann" })),
            "invalid_payload",
        ),
        (
            agent,
            envelope(json!({ "goal": "x", "context": 7 })),
            "invalid_payload",
        ),
        (
            plain,
            json!({ "goal": "", "idempotencyKey": "k" }),
            "missing_goal",
        ),
        (plain, json!([1]), "invalid_payload"),
    ] {
        let answer = send(route, admin, body).await;
        assert_eq!(answer.code(), code, "{route}: {}", answer.text);
    }
    for route in [agent, plain] {
        let body = envelope(goal.clone()).to_string();
        let headers = [("content-type", "application/cloudevents+json")];
        let answer = crate::starts::send(&node, route, admin, &headers, &body).await;
        assert_eq!(answer.status.as_u16(), 415, "{}", answer.text);
    }
    let key = node.key("acme", scopes(&["other"])).await;
    let answer = send(agent, &key, envelope(goal.clone())).await;
    assert_eq!(answer.code(), "permission_denied");
    // Without `act_as` the user is told to the planner alone.
    let key = node.key("acme", scopes(&["orchestrations:request"])).await;
    let answer = send(agent, &key, envelope(goal)).await;
    assert_eq!(answer.status.as_u16(), 202, "{}", answer.text);
    let entries = entries(&node, 15).await;
    let users: Vec<_> = [0, entries.len() - 1]
        .map(|n| entries[n].on_behalf_of.as_deref())
        .to_vec();
    assert_eq!(users, [Some("ann"), None]);
    let run = |key: &str| run_id(&["run", "acme", key]).to_string();
    let runs = [0, 1, 2].map(|n| entries[n].resource_id.clone().unwrap());
    assert_eq!(runs, [run("k7"), run("k7"), run("k8")]);
    let id = run("k7");

    let path = format!("/workflows/{id}/status");
    let answer = node.request(Method::GET, &path, admin, &Value::Null).await;
    assert_eq!(
        (answer.status.as_u16(), &*answer.code()),
        (503, "postgres_unavailable")
    );
}
