//! Examples of the table of routes. Tests hold them against the schemas.

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
  "created_at": "2026-01-31T12:00:00Z"
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
      "created_at": "2026-01-31T12:00:00Z"
    }
  ],
  "next_cursor": "01998a55-0c1e-7b60-9f3b-3a3c8a5b1f00"
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

pub(super) const LAG: &str = r#"{
  "items": [{ "processor": "admission", "partition": 0, "records": 12, "age_s": 0.4 }]
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
