//! Examples for the routes of cached plans.

pub(super) const PLANS: &str = r#"{
  "items": [{
    "id": "2cf24dba5fb0a30e26e83b2ac5b9e29e",
    "template": "Book flight to {LOCATION} {DATE}",
    "source": "llm",
    "hash": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "run_id": "7dbd6d41-6f85-5f7b-98af-6637f5372c2e",
    "created_at": "2026-01-31T12:00:00Z",
    "expires_at": "2026-02-01T12:00:00Z"
  }]
}"#;

pub(super) const PLAN: &str = r#"{
  "id": "2cf24dba5fb0a30e26e83b2ac5b9e29e",
  "template": "Book flight to {LOCATION} {DATE}",
  "source": "llm",
  "hash": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
  "run_id": "7dbd6d41-6f85-5f7b-98af-6637f5372c2e",
  "created_at": "2026-01-31T12:00:00Z",
  "expires_at": "2026-02-01T12:00:00Z",
  "plan": {
    "steps": [
      { "id": "book", "tool": "flights.book", "input": { "to": "{{ slots.LOCATION }}", "on": "{{ slots.DATE }}" } }
    ]
  },
  "tools": { "flights.book": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae" },
  "slots": { "LOCATION": "Paris", "LOCATION_1": "Paris", "DATE": "2026-02-01", "DATE_1": "2026-02-01" },
  "labels": [
    { "template": "I need a flight to {LOCATION} {DATE}", "score": 0.91, "agrees": true, "at": "2026-01-31T12:05:00Z" }
  ]
}"#;

pub(super) const EXPLAIN: &str = r#"{ "goal": "Book a flight to Oslo next friday" }"#;

pub(super) const EXPLAINED: &str = r#"{
  "goal": "Book a flight to Oslo next friday",
  "template": "Book a flight to {LOCATION} {DATE}",
  "slots": { "LOCATION": "Oslo", "LOCATION_1": "Oslo", "DATE": "2026-02-06", "DATE_1": "2026-02-06" },
  "guardian": { "verdict": "pass", "score": 0.0 },
  "stages": [
    { "stage": "template", "verdict": "miss" },
    { "stage": "catalog", "verdict": "miss" },
    { "stage": "similar", "verdict": "hit", "entry": "2cf24dba5fb0a30e26e83b2ac5b9e29e", "score": 0.97 }
  ],
  "source": "cache",
  "entry": "2cf24dba5fb0a30e26e83b2ac5b9e29e",
  "entry_template": "Book flight to {LOCATION} {DATE}",
  "score": 0.97,
  "plan": {
    "steps": [
      { "id": "book", "tool": "flights.book", "input": { "to": "{{ slots.LOCATION }}", "on": "{{ slots.DATE }}" } }
    ]
  }
}"#;

pub(super) const FEEDBACK: &str = r#"{ "good": false, "reason": "it booked the wrong airport" }"#;

pub(super) const FEEDBACK_GIVEN: &str = r#"{
  "run_id": "7dbd6d41-6f85-5f7b-98af-6637f5372c2e",
  "good": false,
  "source": "cache",
  "forgotten": "2cf24dba5fb0a30e26e83b2ac5b9e29e"
}"#;
