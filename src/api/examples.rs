//! Examples for the table of routes. Tests validate them against the schemas.

pub(super) const EVENT: &str = r#"{
  "id": "order-17-paid",
  "source": "/shop/prod",
  "type": "order.paid",
  "entity": { "type": "order", "external_id": "17" },
  "data": { "total": 99.5, "currency": "EUR" }
}"#;

pub(super) const CLOUD_EVENT: &str = r#"{
  "specversion": "1.0",
  "id": "order-17-paid",
  "source": "/shop/prod",
  "type": "order.paid",
  "entitytype": "order",
  "entityid": "17",
  "datacontenttype": "application/json",
  "data": { "total": 99.5, "currency": "EUR" }
}"#;

pub(super) const CLOUD_EVENTS: &str = r#"[
  { "specversion": "1.0", "id": "1", "source": "/shop/prod", "type": "order.paid", "data": { "total": 99.5 } },
  { "specversion": "1.0", "id": "2", "source": "/shop/prod", "type": "order.sent" }
]"#;

pub(super) const ACCEPTED: &str = r#"{
  "request_id": "4bf92f3577b34da6a3ce929d0e0e4736",
  "results": [
    { "status": "ingested", "index": 0, "record_id": "0d1bb2a5-3a0f-5a5c-9c39-0f4d1c9d2a11" }
  ]
}"#;

pub(super) const CHANGE_CONTROLS: &str = r#"{
  "safe_mode": true,
  "disabled": { "tool:send_mail": "the provider rejects our mail", "tool:pay": null },
  "reason": "incident 17: mails are sent twice"
}"#;

pub(super) const CONTROLS: &str = r#"{
  "kill_switch": false,
  "operator_takeover": false,
  "safe_mode": true,
  "allowed_operations": [],
  "disabled": { "tool:send_mail": "the provider rejects our mail" },
  "version": 8,
  "changed_by": "ann",
  "changed_at": "2026-01-31T12:00:00Z",
  "reason": "incident 17: mails are sent twice",
  "since": { "safe_mode": "2026-01-31T12:00:00Z", "tool:send_mail": "2026-01-31T12:00:00Z" },
  "held_by_environment": [],
  "unverified": false
}"#;

pub(super) const COMMAND: &str = r#"{
  "id": "expense-17",
  "source": "/erp/prod",
  "type": "expense.pay",
  "params": { "expense": "17", "amount": 99.5 }
}"#;

pub(super) const WORKFLOW: &str = r#"{
  "id": "ann-1",
  "source": "/hr/prod",
  "type": "onboarding.requested",
  "workflow": { "name": "onboarding", "version": "1.0.0" },
  "input": { "email": "ann@example.com" },
  "run_at": "2026-02-01T08:00:00Z",
  "policy": { "approval": "required" }
}"#;

pub(super) const GOAL: &str = r#"{
  "id": "1",
  "source": "/desk/prod",
  "type": "goal.received",
  "goal": "Book flight to Paris tomorrow",
  "context": { "department": "sales" }
}"#;

pub(super) const TASK: &str = r#"{
  "id": "1",
  "source": "/desk/prod",
  "type": "noop",
  "params": { "any": "input" }
}"#;

pub(super) const CLOUD_COMMAND: &str = r#"{
  "specversion": "1.0",
  "id": "1",
  "source": "/erp/prod",
  "type": "expense.pay",
  "datacontenttype": "application/json",
  "data": { "params": { "expense": "17", "amount": 99.5 } }
}"#;

pub(super) const CLOUD_COMMANDS: &str = r#"[
  {
    "specversion": "1.0",
    "id": "1",
    "source": "/erp/prod",
    "type": "expense.pay",
    "datacontenttype": "application/json",
    "data": { "params": { "expense": "17", "amount": 99.5 } }
  }
]"#;

pub(super) const CLOUD_WORKFLOW: &str = r#"{
  "specversion": "1.0",
  "id": "1",
  "source": "/erp/prod",
  "type": "onboarding.requested",
  "datacontenttype": "application/json",
  "data": { "workflow": { "name": "onboarding" }, "input": { "email": "ann@example.com" } }
}"#;

pub(super) const CLOUD_WORKFLOWS: &str = r#"[
  {
    "specversion": "1.0",
    "id": "1",
    "source": "/erp/prod",
    "type": "onboarding.requested",
    "datacontenttype": "application/json",
    "data": { "workflow": { "name": "onboarding" }, "input": { "email": "ann@example.com" } }
  }
]"#;

pub(super) const CLOUD_GOAL: &str = r#"{
  "specversion": "1.0",
  "id": "1",
  "source": "/erp/prod",
  "type": "goal.received",
  "datacontenttype": "application/json",
  "data": { "goal": "Book flight to Paris tomorrow" }
}"#;

pub(super) const CLOUD_GOALS: &str = r#"[
  {
    "specversion": "1.0",
    "id": "1",
    "source": "/erp/prod",
    "type": "goal.received",
    "datacontenttype": "application/json",
    "data": { "goal": "Book flight to Paris tomorrow" }
  }
]"#;

pub(super) const CLOUD_TASK: &str = r#"{
  "specversion": "1.0",
  "id": "1",
  "source": "/erp/prod",
  "type": "noop",
  "datacontenttype": "application/json",
  "data": { "params": { "any": "input" } }
}"#;

pub(super) const CLOUD_TASKS: &str = r#"[
  {
    "specversion": "1.0",
    "id": "1",
    "source": "/erp/prod",
    "type": "noop",
    "datacontenttype": "application/json",
    "data": { "params": { "any": "input" } }
  }
]"#;

pub(super) const STARTED: &str = r#"{
  "request_id": "4bf92f3577b34da6a3ce929d0e0e4736",
  "results": [
    {
      "status": "queued",
      "index": 0,
      "run_id": "7dbd6d41-6f85-5f7b-98af-6637f5372c2e",
      "poll_url": "/v1/runs/7dbd6d41-6f85-5f7b-98af-6637f5372c2e"
    }
  ]
}"#;

pub(super) const CONTROLLED: &str = r#"{
  "run_id": "7dbd6d41-6f85-5f7b-98af-6637f5372c2e",
  "status": "done",
  "poll_url": "/v1/runs/7dbd6d41-6f85-5f7b-98af-6637f5372c2e"
}"#;

pub(super) const CONTROL_ACCEPTED: &str = r#"{
  "run_id": "7dbd6d41-6f85-5f7b-98af-6637f5372c2e",
  "status": "accepted",
  "poll_url": "/v1/runs/7dbd6d41-6f85-5f7b-98af-6637f5372c2e"
}"#;

pub(super) const SIGNAL_RUN: &str =
    r#"{ "signal": "delivered", "data": { "parcel": "JD014600003" } }"#;

pub(super) const DECIDE_APPROVAL: &str = r#"{
  "decision": "approved",
  "reason": "within the budget",
  "input_hash": "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
}"#;

pub(super) const AGENT_ENVELOPE: &str = r#"{
  "eventId": "1f0d9f5e",
  "eventType": "omnilink:agent.goal_received",
  "source": "agent-7",
  "idempotencyKey": "goal-1",
  "timestamp": "2026-01-31T12:00:00Z",
  "payload": { "goal": "Book flight to Paris tomorrow", "user_id": "ann", "context": {} }
}"#;

pub(super) const AGENT_GOAL: &str =
    r#"{ "goal": "Book flight to Paris tomorrow", "context": { "department": "sales" } }"#;

pub(super) const AGENT_ACCEPTED: &str = r#"{
  "workflow_id": "7dbd6d41-6f85-5f7b-98af-6637f5372c2e",
  "status": "accepted",
  "poll_url": "/workflows/7dbd6d41-6f85-5f7b-98af-6637f5372c2e/status"
}"#;

pub(super) const AGENT_STATUS: &str = r#"{ "status": "running", "progress": 3 }"#;

pub(super) const CREATE_KEY: &str = r#"{
  "name": "shop",
  "kind": "service",
  "scopes": { "permissions": ["events:write"], "constraints": { "env_allowlist": ["prod"] } }
}"#;

pub(super) const CREATED_KEY: &str = r#"{
  "id": "01998a55-0c1e-7b60-9f3b-3a3c8a5b1f00",
  "key": "omni.Zk3vQ0aB.Zk3vQ0aBx1R7s0mB9Qm3uC4YzKq0b8y1lT6uN2w5aZE",
  "prefix": "Zk3vQ0aB",
  "name": "shop",
  "principal": "shop",
  "tenant": "acme",
  "kind": "service",
  "scopes": {
    "permissions": ["events:write"],
    "constraints": {
      "env_allowlist": ["prod"], "max_rpm": 60, "max_concurrency": 5, "max_payload_kb": 256,
      "allowed_adapters": [], "allowed_workflows": [], "approvals_required_for": []
    }
  },
  "created_at": "2026-01-31T12:00:00Z",
  "limits_enforced": true
}"#;

pub(super) const ROTATED_KEY: &str = r#"{
  "id": "01998a55-0c1e-7b60-9f3b-3a3c8a5b1f00",
  "key": "omni.b8y1lT6u.b8y1lT6uN2w5aZEZk3vQ0aBx1R7s0mB9Qm3uC4YzKq0",
  "prefix": "b8y1lT6u"
}"#;

pub(super) const CHANGE_KEY: &str = r#"{
  "name": "shop (EU)",
  "expires_at": "2027-01-31T12:00:00Z"
}"#;

pub(super) const CHANGED_KEY: &str = r#"{
  "id": "01998a55-0c1e-7b60-9f3b-3a3c8a5b1f00",
  "prefix": "Zk3vQ0aB",
  "name": "shop (EU)",
  "principal": "shop",
  "tenant": "acme",
  "kind": "service",
  "scopes": {
    "permissions": ["events:write"],
    "constraints": {
      "env_allowlist": ["prod"], "max_rpm": 60, "max_concurrency": 5, "max_payload_kb": 256,
      "allowed_adapters": [], "allowed_workflows": [], "approvals_required_for": []
    }
  },
  "created_at": "2026-01-31T12:00:00Z",
  "expires_at": "2027-01-31T12:00:00Z",
  "last_used_at": "2026-02-01T08:30:00Z",
  "limits_enforced": true
}"#;

pub(super) const KEYS: &str = r#"{
  "items": [
    {
      "id": "01998a55-0c1e-7b60-9f3b-3a3c8a5b1f00",
      "prefix": "Zk3vQ0aB",
      "name": "shop",
      "principal": "shop",
      "tenant": "acme",
      "kind": "service",
      "scopes": {
        "permissions": ["events:write"],
        "constraints": {
          "env_allowlist": ["prod"], "max_rpm": 60, "max_concurrency": 5, "max_payload_kb": 256,
          "allowed_adapters": [], "allowed_workflows": [], "approvals_required_for": []
        }
      },
      "created_at": "2026-01-31T12:00:00Z",
      "last_used_at": "2026-02-01T08:30:00Z",
      "limits_enforced": true
    }
  ],
  "next_cursor": "01998a55-0c1e-7b60-9f3b-3a3c8a5b1f00"
}"#;

pub(super) const CREATE_INTEGRATION: &str = r#"{
  "name": "github",
  "dialect": "github",
  "secrets": ["It's a Secret to Everybody"]
}"#;

pub(super) const CREATED_INTEGRATION: &str = r#"{
  "id": "01998a55-0c1e-7b60-9f3b-3a3c8a5b1f00",
  "name": "github",
  "url": "/v1/webhooks/acme/github"
}"#;

pub(super) const INTEGRATIONS: &str = r#"{
  "items": [
    {
      "id": "01998a55-0c1e-7b60-9f3b-3a3c8a5b1f00",
      "name": "github",
      "tenant": "acme",
      "dialect": "github",
      "url": "/v1/webhooks/acme/github",
      "credentials": 1,
      "created_at": "2026-01-31T12:00:00Z",
      "updated_at": "2026-01-31T12:00:00Z"
    }
  ]
}"#;

pub(super) const ROTATE_INTEGRATION: &str =
    r#"{ "secret": "another long random text", "overlap_s": 3600 }"#;

pub(super) const WEBHOOK: &str = r#"{
  "action": "opened",
  "issue": { "node_id": "I_1", "title": "It broke" },
  "repository": { "id": 1 }
}"#;

pub(super) const HOOK: &str = r#"{
  "_action": "Order confirmed(#412)",
  "_id": 57,
  "_model": "sale.order",
  "id": 57,
  "write_date": "2024-05-03 10:15:02"
}"#;

pub(super) const DUPLICATE: &str = r#"{
  "request_id": "4bf92f3577b34da6a3ce929d0e0e4736",
  "results": [
    { "status": "duplicate", "index": 0, "record_id": "0d1bb2a5-3a0f-5a5c-9c39-0f4d1c9d2a11", "duplicate": true }
  ]
}"#;

pub(super) const GRANT_READER: &str = r#"{ "login": "grafana", "tenant": "acme" }"#;

pub(super) const READER: &str = r#"{
  "login": "grafana", "tenant": "acme", "granted_by": "ann@acme", "granted_at": "2026-01-31T12:00:00Z"
}"#;

pub(super) const READERS: &str = r#"{
  "items": [
    { "login": "grafana", "tenant": "acme", "granted_by": "ann@acme", "granted_at": "2026-01-31T12:00:00Z" }
  ]
}"#;

pub(super) const REPLAYED_EVENT: &str = r#"{
  "specversion": "1.0",
  "id": "order-17-paid",
  "source": "/shop/prod",
  "type": "order.paid",
  "time": "2026-01-31T12:00:00Z",
  "omnilinktenant": "acme",
  "omnilinktopic": "omnilink.events",
  "omnilinkpartition": 3,
  "omnilinkoffset": "1841",
  "entitytype": "order",
  "entityid": "17",
  "data": { "total": 99.5, "currency": "EUR" }
}"#;

pub(super) const ENTITY_STATE: &str = r#"{
  "tenant": "acme",
  "entity_type": "order",
  "external_id": "17",
  "display_name": null,
  "state": { "total": 99.5, "currency": "EUR" },
  "version": 3,
  "last_event_id": "order-17-paid",
  "last_event_at": "2026-01-31T12:00:00Z",
  "deleted_at": null,
  "as_of": "2026-02-01T00:00:00Z"
}"#;

pub(super) const REPLAY_PROGRESS: &str = r#"{
  "status": "done",
  "replay": { "done": 1842, "total": 1842, "events": 1200, "unreadable": 0, "too_large": 0 }
}"#;

pub(super) const LETTERS: &str = r#"{
  "items": [
    {
      "name": "3:17",
      "failed_at": "2026-01-31T12:00:00Z",
      "stage": "admission",
      "code": "invalid_payload",
      "message": "`time` is no RFC 3339 time",
      "topic": "omnilink.ingress",
      "partition": 3,
      "offset": 1841,
      "redriven": 0
    }
  ],
  "next_cursor": "3:17"
}"#;

pub(super) const LETTER: &str = r#"{
  "name": "3:17",
  "failed_at": "2026-01-31T12:00:00Z",
  "stage": "admission",
  "code": "invalid_payload",
  "message": "`time` is no RFC 3339 time",
  "topic": "omnilink.ingress",
  "partition": 3,
  "offset": 1841,
  "redriven": 0,
  "headers": [["content-type", "application/json"], ["trace", { "base64": "/wA=" }]],
  "key": "acme/order/17",
  "value": "{\"id\":\"1\",\"source\":\"/s\",\"type\":\"t\",\"time\":\"yesterday\",\"data\":1}"
}"#;

pub(super) const REDRIVE: &str = r#"{ "names": ["3:17"] }"#;

pub(super) const REDRIVE_PROGRESS: &str = r#"{
  "status": "done",
  "redrive": {
    "done": 1, "total": 1, "redriven": 1, "left_out": 0, "homeless": 0, "truncated": 0, "too_large": 0, "missing": [], "timers": []
  }
}"#;

pub(super) const AUDIT: &str = r#"{
  "items": [{
    "id": "01998a55-0c1e-7b60-9f3b-3a3c8a5b1f00",
    "at": "2026-01-31T12:00:00.123Z",
    "tenant": "acme",
    "principal": "ann",
    "action": "key.created",
    "resource_type": "key",
    "resource_id": "01998a55-0c1d-7b60-9f3b-3a3c8a5b1f00",
    "outcome": "ok",
    "address": "192.0.2.7",
    "user_agent": "curl/8.14.1",
    "detail": { "name": "shop", "principal": "shop" }
  }],
  "next_cursor": "1769860800123000:01998a55-0c1e-7b60-9f3b-3a3c8a5b1f00"
}"#;

pub(super) const REJECTIONS: &str = r#"{
  "items": [{
    "id": "01998a55-0c1e-7b60-9f3b-3a3c8a5b1f00",
    "at": "2026-01-31T12:00:00.123Z",
    "source": "odoo",
    "address": "192.0.2.7",
    "code": "invalid_signature",
    "message": "the signature is not that of the body",
    "body_hash": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    "body_head": "{}",
    "body_encoding": "text"
  }]
}"#;

pub(super) const CLAIM_TASKS: &str =
    r#"{ "tools": ["pay"], "max": 10, "wait_s": 20, "lease_s": 60 }"#;

pub(super) const CLAIMED_TASKS: &str = r#"{
  "tasks": [{
    "task_id": "7dbd6d41-6f85-5f7b-98af-6637f5372c2e:pay:execute:1",
    "lease": "f0e4c2f76c58916ec258f246851bea091d14d4247a2fc3e1",
    "lease_expires_at": "2026-01-31T12:01:00Z",
    "tenant": "acme",
    "run_id": "7dbd6d41-6f85-5f7b-98af-6637f5372c2e",
    "workflow": "expense",
    "step_id": "pay",
    "attempt": 1,
    "kind": "execute",
    "tool": "pay",
    "input": { "amount": 99.5 },
    "idempotency_key": "7dbd6d41-6f85-5f7b-98af-6637f5372c2e:pay:execute",
    "deadline": "2026-01-31T12:05:00Z"
  }]
}"#;

pub(super) const HEARTBEAT: &str = r#"{
  "task_id": "7dbd6d41-6f85-5f7b-98af-6637f5372c2e:pay:execute:1",
  "lease": "f0e4c2f76c58916ec258f246851bea091d14d4247a2fc3e1"
}"#;

pub(super) const EXTENDED_LEASE: &str = r#"{
  "task_id": "7dbd6d41-6f85-5f7b-98af-6637f5372c2e:pay:execute:1",
  "lease_expires_at": "2026-01-31T12:02:00Z",
  "deadline": "2026-01-31T12:05:00Z"
}"#;

pub(super) const COMPLETE_TASK: &str = r#"{
  "task_id": "7dbd6d41-6f85-5f7b-98af-6637f5372c2e:pay:execute:1",
  "lease": "b5bb9d8014a0f9b1d61e21e796d78dccdf1352f23cd32812f4850b878ae4944c",
  "outcome": "succeeded",
  "output": { "transfer": "T-17" }
}"#;

pub(super) const COMPLETED_TASK: &str = r#"{
  "task_id": "7dbd6d41-6f85-5f7b-98af-6637f5372c2e:pay:execute:1",
  "status": "recorded"
}"#;

pub(super) const TOOLS: &str = r#"{
  "items": [{
    "name": "pay", "kind": "payment", "lane": "sensitive", "worker": "http",
    "running": 2, "queued": 0, "held": 1, "hold_reason": "rate_limited", "held_until": "2026-01-31T12:00:05Z",
    "breaker": "closed", "limit": { "concurrency": 4, "used": 2 }
  }]
}"#;

pub(super) const LAG: &str = r#"{
  "items": [
    { "processor": "admission", "partition": 0, "records": 12, "age_s": 0.4 },
    {
      "processor": "admission", "partition": 1, "records": null, "age_s": null,
      "error": "the log is unavailable: the end of `omnilink.ingress`/1 is not known: it has no leader now"
    }
  ]
}"#;

pub(super) const TOPICS: &str = r#"{
  "items": [{ "name": "omnilink.events", "partitions": 8, "cleanup": "keep", "records": 1842 }]
}"#;

pub(super) const CREATE_TOPICS: &str = r#"{ "names": ["shop.copy"], "partitions": 3 }"#;

pub(super) const CREATED_TOPICS: &str = r#"{
  "items": [{ "name": "shop.copy", "partitions": 3, "cleanup": "keep", "records": 0 }]
}"#;

pub(super) const START_REBUILD: &str = r#"{ "projections": ["events", "entities"] }"#;

pub(super) const STARTED_REBUILD: &str = r#"{ "status": "running", "done": 0, "total": 0 }"#;

pub(super) const REBUILD: &str =
    r#"{ "status": "done", "done": 1842, "total": 1842, "paused_ms": 12 }"#;

pub(super) const HEALTH: &str = r#"{ "status": "ok" }"#;

pub(super) const READY: &str = r#"{
  "status": "degraded",
  "parts": {
    "log": { "status": "ok", "detail": "" },
    "postgres": { "status": "degraded", "detail": "not reachable: connection refused" }
  }
}"#;

pub(super) const NOT_READY: &str = r#"{
  "status": "down",
  "parts": { "log": { "status": "down", "detail": "no broker answers" } }
}"#;
