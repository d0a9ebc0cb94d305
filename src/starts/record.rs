//! Builds the start record of a checked request.

use std::collections::BTreeMap;

use super::{
    fault::too_large,
    fields::{StartFields, StartTarget},
};
use crate::{
    base::{clock::Millis, hex::hex},
    commands::{
        Command,
        start::{
            self, AboutEntity, AllowedWorkflow, Constraints, RECORD_MAX, Request, Start, Trace,
        },
    },
    controls::Key,
    envelope::{BodyHash, Event, Invalid, StartKind},
    workflows::Resolved,
};

/// The principal of starts that Kafka producers send.
pub const KAFKA: &str = "kafka";

/// The parts of a start record.
pub struct Checked<'a> {
    /// What it starts.
    pub kind: StartKind,
    /// What names the run.
    pub identity: Vec<String>,
    /// The key of the request. `None`: a Kafka producer sent it to `ingress`.
    pub key: Option<&'a Key>,
    /// Its attributes.
    pub event: &'a Event<'a>,
    /// The hash of its envelope.
    pub body_hash: BodyHash,
    /// Its members.
    pub fields: StartFields,
    /// What it runs.
    pub resolved: Resolved,
    /// When it was received.
    pub received: Millis,
    /// When its record is written.
    pub now: Millis,
}

impl Checked<'_> {
    /// Encodes the record for `commands`.
    pub fn record(self) -> Result<Command, Invalid> {
        let Self {
            kind,
            identity,
            key,
            event,
            body_hash,
            fields,
            resolved,
            received,
            now,
        } = self;
        let run_id = start::run_id(&identity).to_string();
        let text = |text: &Option<std::borrow::Cow<'_, str>>| text.as_deref().map(str::to_owned);
        let constraints = key.map(|key| &key.scopes.constraints);
        let goal = match fields.what {
            StartTarget::Goal(goal) => Some(goal),
            _ => None,
        };
        // Only for a goal it is not known yet what will run.
        let allowed = constraints.filter(|_| goal.is_some());
        let allowed = allowed.map_or(&[][..], |constraints| &constraints.allowed_workflows[..]);
        let allowed = allowed.iter().map(|one| AllowedWorkflow {
            name: one.name.clone(),
            version: one.version.clone(),
        });
        let start = Start {
            version: start::VERSION,
            identity,
            body_hash: hex(&body_hash.stored()),
            request: match kind {
                StartKind::Command => Request::Command,
                StartKind::Workflow => Request::Workflow,
                StartKind::Goal => Request::Goal,
                StartKind::Task => Request::Task,
            },
            kind: event.kind.to_string(),
            id: event.id.to_string(),
            source: event.source.to_string(),
            received_at: received.0.saturating_mul(1000),
            run_at: fields.run_at,
            params: fields.params,
            workflow: resolved.workflow,
            plan: resolved.plan,
            tools: resolved.tools,
            goal,
            guardian: None,
            sealed: None,
            context: fields.context,
            adapter: fields.adapter,
            entity: AboutEntity::of(event),
            correlation_id: text(&event.correlation_id),
            causation_id: text(&event.causation_id),
            approval_required: fields.approval_required,
            constraints: Constraints {
                approvals_required_for: constraints
                    .map(|constraints| constraints.approvals_required_for.clone())
                    .unwrap_or_default(),
                allowed_workflows: allowed.collect(),
            },
            depth: 0,
            from_ingress: key.is_none(),
            retry: None,
            slots: BTreeMap::new(),
            found: None,
        };
        let body = start
            .encode()
            .map_err(|_| too_large("a start with its plan and tools", RECORD_MAX))?;
        let trace = Trace::of(event);
        Ok(Command {
            tenant: event.tenant.to_string(),
            run_id,
            kind: start::KIND.to_owned(),
            at: now.0.saturating_mul(1000),
            principal: key.map_or(KAFKA, |key| key.principal.as_str()).to_owned(),
            on_behalf_of: fields.on_behalf_of,
            traceparent: trace.traceparent,
            tracestate: trace.tracestate,
            body,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        base::id::Tenant,
        controls::{KeyKind, NewKey, Scopes},
        envelope::{Form, StartReceipt, parse_starts},
        starts::{Named, resolve},
        workflows::{Catalog, check_texts},
    };

    const NOW: Millis = Millis(1_700_000_000_000);

    fn catalog() -> Catalog {
        let tool = "name: pay\nworker: { http: { url: 'http://h/x', secret: 'env:SECRET' } }\ncompensate: { tool: undo }\n";
        let undo = "name: undo\nworker: { claim: {} }\n";
        let workflow = "name: w\nversion: '1.2.0'\ncommand: c.pay\non_exhausted: hold\nplan: { steps: [ { id: s, tool: pay } ] }\n";
        let file = |name: &str, text: &str| (name.to_owned(), Ok(text.to_owned()));
        let checked = check_texts([file("t", tool), file("u", undo)], [file("w", workflow)]);
        checked.catalog.unwrap()
    }

    fn key() -> Key {
        let mut scopes = Scopes::all();
        scopes.constraints.approvals_required_for = vec!["c.pay".into()];
        let new = NewKey {
            tenant: Tenant::new("acme").unwrap(),
            name: "n".into(),
            principal: "ann".into(),
            kind: KeyKind::Person,
            scopes,
            expires_at: None,
        };
        Key::new("1".into(), new, (*b"abcdefgh", [0; 32]), Millis(0))
    }

    fn record(kind: StartKind, body: &Value) -> Command {
        let (catalog, key) = (catalog(), key());
        let body = body.to_string();
        let receipt = StartReceipt {
            kind,
            tenant: &key.tenant,
            received: NOW,
        };
        let (mut items, _) = parse_starts(body.as_bytes(), Form::OmniLink, 1, receipt).unwrap();
        let parsed = items.remove(0).parsed.unwrap();
        let fields = StartFields::read(&parsed, NOW).unwrap();
        let named = Named::of(&catalog, &parsed.event, &fields);
        let resolved = resolve(&catalog, &parsed.event, &fields, &named).unwrap();
        let checked = Checked {
            kind,
            identity: ["run", "acme", "k"].map(str::to_owned).to_vec(),
            key: Some(&key),
            event: &parsed.event,
            body_hash: parsed.body_hash,
            fields,
            resolved,
            received: NOW,
            now: NOW,
        };
        checked.record().unwrap()
    }

    #[test]
    fn a_record_has_all_that_a_run_needs_and_no_secret() {
        let command = record(
            StartKind::Command,
            &json!({
                "id": "1", "source": "/s/prod", "type": "c.pay", "params": { "a": 1 }, "target": { "system": "odoo" },
                "policy": { "approval": "required" }, "run_at": "2023-11-15T00:00:00Z", "on_behalf_of": "bob",
                "entity": { "type": "expense", "external_id": "7" }, "correlationid": "c",
                "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
            }),
        );
        assert_eq!(command.tenant, "acme");
        assert_eq!(command.kind, "start");
        assert_eq!(command.principal, "ann");
        assert_eq!(command.on_behalf_of.as_deref(), Some("bob"));
        assert!(command.traceparent.as_ref().unwrap().starts_with("00-0af7"));
        assert_eq!(
            command.run_id,
            start::run_id(&["run", "acme", "k"]).to_string()
        );
        assert!(!command.body.contains("SECRET"), "{}", command.body);
        let mut body: Value = serde_json::from_str(&command.body).unwrap();
        let hash = body["body_hash"].take();
        assert_eq!(hash.as_str().unwrap().len(), 32);
        let plan = json!({ "steps": [{ "id": "s", "tool": "pay" }] });
        let expected = json!({
            "version": 1, "identity": ["run", "acme", "k"], "body_hash": null, "request": "command", "type": "c.pay", "id": "1",
            "source": "/s/prod", "received_at": 1_700_000_000_000_000_i64, "run_at": 1_700_006_400_000_000_i64, "params": { "a": 1 },
            "workflow": { "name": "w", "version": "1.2.0", "hold": true },
            "plan": { "source": "workflow", "hash": crate::plans::jcs::hash(&plan), "steps": plan },
            "tools": {
                "pay": { "name": "pay", "worker": { "http": { "url": "http://h/x" } }, "compensate": { "tool": "undo" } },
                "undo": { "name": "undo", "worker": { "claim": {} } }
            },
            "adapter": "odoo", "entity": { "type": "expense", "external_id": "7" }, "correlation_id": "c", "approval_required": true,
            "constraints": { "approvals_required_for": ["c.pay"] }
        });
        assert_eq!(body, expected);
        assert!(Start::decode(&command).is_some());
    }

    #[test]
    fn the_hash_of_the_body_leaves_out_what_a_retry_changes() {
        let hash = |id: &str, time: &str, amount: u32| {
            let body = json!({ "id": id, "time": time, "source": "/s", "type": "g", "goal": "x", "params": { "a": amount } });
            Start::decode(&record(StartKind::Goal, &body))
                .unwrap()
                .body_hash
        };
        let first = hash("1", "2026-01-01T00:00:00Z", 1);
        assert_eq!(first, hash("2", "2026-01-02T00:00:00Z", 1));
        assert_ne!(first, hash("1", "2026-01-01T00:00:00Z", 2));
    }

    #[test]
    fn the_input_of_a_task_is_no_expression() {
        let body = json!({ "id": "1", "source": "/s", "type": "noop", "params": "{{ params.x }}" });
        let start = Start::decode(&record(StartKind::Task, &body)).unwrap();
        assert_eq!(start.params.unwrap().get(), r#""{{ params.x }}""#);
        let plan: Value = serde_json::from_str(start.plan.unwrap().steps.get()).unwrap();
        assert_eq!(plan["steps"][0]["input"], "{{ params }}");
        assert!(start.tools.is_empty());
    }
}
