//! Triggers: an admitted event starts the workflows that name its type, in its own transaction.
//!
//! The identity of the run is `["trigger", tenant, workflow, source, id]`: whatever is admitted again, or redriven, starts nothing twice.
//! A trigger that fails leaves the event admitted and becomes a dead letter of the stage `trigger.{workflow}`; redriven, it runs alone.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use serde_json::value::RawValue;

use super::{
    refused::{Refused, position},
    start_records::StartRecords,
};
use crate::{
    base::{clock::Millis, hex::hex},
    commands::{
        Command, depth,
        start::{
            self, AboutEntity, Constraints, PARAMS_MAX, RECORD_MAX, Request, Start, Trace, VERSION,
        },
    },
    envelope::{BodyHash, Data, Event},
    log::Fetched,
    runs::read_value,
    stream::{Context, Rejected, dlq::redriven},
    telemetry::metrics::TRIGGERS,
    topology::{BOUNDS, Machine, OverEvent},
    workflows::{Current, EventTrigger, ToStart, Triggers},
};

/// An event that is admitted.
pub(super) struct Cause<'a> {
    pub(super) event: &'a Event<'a>,
    /// The record that it was read from.
    pub(super) input: &'a Fetched,
    /// The value of that record.
    pub(super) record: &'a Bytes,
    /// Its own bytes, if the record holds a batch.
    pub(super) item: Option<&'a [u8]>,
    /// How many triggers in a row led to it.
    pub(super) depth: u32,
}

/// The triggers, for the events of one lane.
pub(super) struct Firing {
    current: Current,
    /// Those of the open transaction.
    triggers: Option<Arc<Triggers>>,
    audit: Arc<str>,
    machine: Machine,
    started: u64,
    failed: u64,
    counters: Arc<Counters>,
}

/// Counters of what became of triggers.
pub(super) struct Counters {
    started: metrics::Counter,
    failed: metrics::Counter,
}

impl Default for Counters {
    fn default() -> Self {
        let outcome = |outcome| TRIGGERS.counter(&["event", outcome]);
        Self {
            started: outcome("started"),
            failed: outcome("failed"),
        }
    }
}

impl Firing {
    pub(super) fn new(current: Current, audit: Arc<str>, counters: Arc<Counters>) -> Self {
        Self {
            current,
            triggers: None,
            audit,
            machine: Machine::new(BOUNDS),
            started: 0,
            failed: 0,
            counters,
        }
    }

    /// Called at the end of a transaction: the next one fires the triggers that are in force then.
    pub(super) fn close(&mut self) {
        self.triggers = None;
        self.counters
            .started
            .increment(std::mem::take(&mut self.started));
        self.counters
            .failed
            .increment(std::mem::take(&mut self.failed));
    }

    /// Starts what the event starts; of these workflows `only` one, for a trigger that is redriven.
    pub(super) fn fire(
        &mut self,
        cause: &Cause<'_>,
        only: Option<&str>,
        records: &mut StartRecords,
        cx: &mut Context<'_>,
    ) {
        let triggers = self.triggers.get_or_insert_with(|| self.current.triggers());
        if triggers.ignores_events() && only.is_none() {
            return;
        }
        let triggers = Arc::clone(triggers);
        let mut named = triggers.of_event(&cause.event.kind);
        if let Some(only) = only {
            named.retain(|name, _| *name == only);
            if named.is_empty() {
                let message = format!(
                    "no trigger of a workflow `{only}` names events of the type `{}`",
                    cause.event.kind
                );
                self.reject(only, cause, Rejected::new("unknown_trigger", message), cx);
            }
        }
        for (name, (to_start, triggers)) in named {
            let fired = self
                .start(cause, to_start, &triggers, cx.now())
                .and_then(|command| command.map(|c| records.append(&c, cx)).transpose());
            match fired {
                Ok(Some(())) => self.started += 1,
                Ok(None) => {}
                Err(rejected) => self.reject(name, cause, rejected, cx),
            }
        }
    }

    /// Writes a dead letter, and an entry of the audit log.
    fn reject(&mut self, name: &str, cause: &Cause<'_>, why: Rejected, cx: &mut Context<'_>) {
        self.failed += 1;
        let run_id = start::run_id(&identity(name, cause.event)).to_string();
        let refused = Refused {
            event: cause.event,
            kind: Request::Workflow.name(),
            principal: &principal(name),
            run_id: Some(&run_id),
        };
        // An entry is small, and always has a form.
        if let Ok(entry) = refused.record(&position(cause.input), &why, cx.now()) {
            cx.emit(&self.audit, entry);
        }
        cx.reject(Rejected {
            stage: Some(format!("{}{name}", redriven::TRIGGER).into()),
            value: cause.item.map(Bytes::copy_from_slice),
            ..why
        });
    }

    /// The start of a workflow by the first of its triggers that takes the event; `None`: none does.
    fn start(
        &mut self,
        cause: &Cause<'_>,
        to_start: &ToStart,
        triggers: &[&EventTrigger],
        now: Millis,
    ) -> Result<Option<Command>, Rejected> {
        let mut over = OverEvent::new(&mut self.machine, cause.event, cause.record);
        let mut taken = None;
        for trigger in triggers {
            let takes = match &trigger.when {
                Some(when) => over.holds(when)?,
                None => true,
            };
            if takes {
                taken = Some(trigger);
                break;
            }
        }
        let Some(trigger) = taken else {
            return Ok(None);
        };
        // Only what would start goes too far.
        if cause.depth >= depth::MAX {
            let message = format!(
                "{} triggers in a row led to this event: workflows and events cause each other",
                cause.depth
            );
            return Err(Rejected::new("trigger_loop", message));
        }
        let params = match &trigger.params {
            Some(program) => Some(raw(over.map(program)?)?),
            None => data(cause.event)?,
        };
        command(cause, to_start, params, now).map(Some)
    }
}

/// The data of the event as params; `None`: it has none.
fn data(event: &Event<'_>) -> Result<Option<Box<RawValue>>, Rejected> {
    match &event.data {
        Data::Absent => Ok(None),
        Data::Json(text) => raw(text.as_bytes().to_vec()).map(Some),
        Data::Binary(_) => Err(invalid("the data of the event is not JSON")),
    }
}

fn raw(json: Vec<u8>) -> Result<Box<RawValue>, Rejected> {
    let text = String::from_utf8(json).map_err(|e| invalid(e.to_string()))?;
    RawValue::from_string(text).map_err(|e| invalid(e.to_string()))
}

fn invalid(message: impl Into<String>) -> Rejected {
    Rejected::new("invalid_payload", message)
}

/// What names the run of a workflow that an event starts.
fn identity(workflow: &str, event: &Event<'_>) -> Vec<String> {
    let tenant = event.tenant.as_str();
    let identity = ["trigger", tenant, workflow, &event.source, &event.id];
    identity.map(str::to_owned).to_vec()
}

fn principal(workflow: &str) -> String {
    format!("trigger:{workflow}")
}

/// The start record.
fn command(
    cause: &Cause<'_>,
    to_start: &ToStart,
    params: Option<Box<RawValue>>,
    now: Millis,
) -> Result<Command, Rejected> {
    let Cause { event, .. } = cause;
    let name = &to_start.workflow.name;
    check(to_start, params.as_deref())?;
    let identity = identity(name, event);
    let run_id = start::run_id(&identity).to_string();
    let resolved = to_start.resolved.clone();
    let trace = Trace::of(event);
    let start = Start {
        version: VERSION,
        identity,
        body_hash: body_hash(event)?,
        request: Request::Workflow,
        kind: event.kind.to_string(),
        id: event.id.to_string(),
        source: event.source.to_string(),
        received_at: micros(cause.input.timestamp),
        run_at: None,
        params,
        workflow: resolved.workflow,
        plan: resolved.plan,
        tools: resolved.tools,
        goal: None,
        guardian: None,
        sealed: None,
        context: None,
        adapter: None,
        entity: AboutEntity::of(event),
        correlation_id: event.correlation_id.as_deref().map(str::to_owned),
        causation_id: Some(event.id.to_string()),
        approval_required: false,
        constraints: Constraints::default(),
        depth: cause.depth + 1,
        from_ingress: false,
        retry: None,
        slots: BTreeMap::new(),
        found: None,
    };
    let body = start.encode().map_err(|_| {
        let message = format!("a start with its plan and tools may have {RECORD_MAX} bytes");
        Rejected::new("payload_too_large", message)
    })?;
    Ok(Command {
        tenant: event.tenant.to_string(),
        run_id,
        kind: start::KIND.to_owned(),
        at: micros(now),
        principal: principal(name),
        on_behalf_of: None,
        traceparent: trace.traceparent,
        tracestate: trace.tracestate,
        body,
    })
}

/// Whether the params are an object, not too large, and what the workflow's schema asks for.
fn check(to_start: &ToStart, params: Option<&RawValue>) -> Result<(), Rejected> {
    let text = params.map_or("{}", RawValue::get);
    if text.len() > PARAMS_MAX {
        let message = format!("`params` may have {PARAMS_MAX} bytes");
        return Err(Rejected::new("payload_too_large", message));
    }
    let value = read_value(text.as_bytes()).map_err(|e| invalid(format!("`params`: {e}")))?;
    if !value.is_object() {
        return Err(invalid("`params` must be an object"));
    }
    let checked = to_start.workflow.params.check(&value);
    checked.map_err(|wrong| invalid(format!("`/params{}`: {}", wrong.at, wrong.message)))
}

/// A hash of what the event says: with the same identity and another hash it is another event.
fn body_hash(event: &Event<'_>) -> Result<String, Rejected> {
    let kind = serde_json::to_string(&event.kind).map_err(|e| invalid(e.to_string()))?;
    let data = match &event.data {
        Data::Absent => None,
        Data::Json(text) => Some(text.as_ref().to_owned()),
        Data::Binary(bytes) => Some(format!("\"{}\"", hex(bytes))),
    };
    let text = format!("[{kind},{}]", data.as_deref().unwrap_or("null"));
    let hash = BodyHash::of_text(text.as_bytes()).map_err(|e| invalid(e.to_string()))?;
    Ok(hex(&hash.stored()))
}

fn micros(at: Millis) -> i64 {
    at.0.saturating_mul(1000)
}
