//! Examples for the routes that read runs.

pub(super) const RUNS: &str = r#"{
  "items": [{
    "run_id": "7dbd6d41-6f85-5f7b-98af-6637f5372c2e",
    "tenant": "acme",
    "status": "running",
    "workflow": { "name": "expense.pay", "version": "1.2.0" },
    "trigger": "request",
    "principal": "erp",
    "created_at": "2026-01-31T12:00:00Z",
    "updated_at": "2026-01-31T12:00:00.25Z"
  }]
}"#;

pub(super) const RUN: &str = r#"{
  "run_id": "7dbd6d41-6f85-5f7b-98af-6637f5372c2e",
  "tenant": "acme",
  "status": "failed",
  "workflow": { "name": "expense.pay", "version": "1.2.0" },
  "params": { "expense": "17", "amount": 99.5 },
  "plan": {
    "hash": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "source": "workflow",
    "steps": [
      { "id": "reserve", "tool": "budget.reserve", "input": { "amount": "{{ params.amount }}" } },
      { "id": "pay", "tool": "bank.pay", "depends_on": ["reserve"], "input": { "amount": "{{ params.amount }}" } }
    ]
  },
  "steps": [
    {
      "id": "reserve",
      "tool": "budget.reserve",
      "status": "compensated",
      "attempts": 1,
      "output": { "reservation": "r-4" },
      "started_at": "2026-01-31T12:00:00Z",
      "finished_at": "2026-01-31T12:00:00.1Z",
      "compensation": { "status": "succeeded", "attempts": 1 }
    },
    {
      "id": "pay",
      "tool": "bank.pay",
      "status": "failed",
      "attempts": 1,
      "error": { "code": "http_422", "message": "no such account" },
      "started_at": "2026-01-31T12:00:00.1Z",
      "finished_at": "2026-01-31T12:00:00.2Z"
    }
  ],
  "approvals": [],
  "error": {
    "failed_step_id": "pay",
    "code": "http_422",
    "message": "no such account",
    "compensation_results": [{ "step_id": "reserve", "success": true }]
  },
  "principal": "erp",
  "created_at": "2026-01-31T12:00:00Z",
  "updated_at": "2026-01-31T12:00:00.3Z",
  "finished_at": "2026-01-31T12:00:00.3Z"
}"#;

pub(super) const RUNNING_RUN: &str = r#"{
  "run_id": "7dbd6d41-6f85-5f7b-98af-6637f5372c2e",
  "tenant": "acme",
  "status": "running",
  "params": {},
  "steps": [],
  "approvals": [],
  "principal": "erp",
  "created_at": "2026-01-31T12:00:00Z",
  "updated_at": "2026-01-31T12:00:00Z"
}"#;

pub(super) const RUN_EVENTS: &str = r#"{
  "items": [{
    "run_id": "7dbd6d41-6f85-5f7b-98af-6637f5372c2e",
    "seq": 3,
    "type": "step_scheduled",
    "at": "2026-01-31T12:00:00Z",
    "causation": "start:3:1042",
    "step_id": "reserve",
    "attempt": 1,
    "input": { "amount": 99.5 },
    "deadline": "2026-01-31T12:05:00Z"
  }],
  "next_cursor": "3"
}"#;

pub(super) const APPROVALS: &str = r#"{
  "items": [{
    "id": "7dbd6d41-6f85-5f7b-98af-6637f5372c2e.3",
    "run_id": "7dbd6d41-6f85-5f7b-98af-6637f5372c2e",
    "step_id": "pay",
    "kind": "step",
    "lane": "RED",
    "risk_score": 0.8,
    "reasons": ["sensitive_tool"],
    "input": { "amount": 99500 },
    "input_hash": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "status": "pending",
    "requested_at": "2026-01-31T12:00:00Z",
    "expires_at": "2026-02-01T12:00:00Z"
  }]
}"#;

pub(super) const CONTROL_RUNS: &str = r#"{
  "action": "cancel", "filter": { "workflow": "expense.pay", "until": "2026-01-24T00:00:00Z" }, "reason": "stale"
}"#;

pub(super) const RUNS_CONTROLLED: &str = r#"{
  "status": "done", "matched": 12, "done": 11, "skipped": 1, "failed": 0, "codes": { "run_ended": 1 }
}"#;
