//! Triggers: an admitted event starts the workflows that name its type, in its own transaction.
//!
//! The identity of the run is `["trigger", tenant, workflow, source, id]`: whatever is admitted again, or redriven, starts nothing twice.
//! A trigger that fails leaves the event admitted and becomes a dead letter of the stage `trigger.{workflow}`; redriven, it runs alone.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::{
    base::{clock::Millis, hex::hex},
    commands::{
        Command, depth,
        start::{
            self, AboutEntity, Constraints, PARAMS_MAX, RECORD_MAX, Request, Start, Trace, VERSION,
        },
    },
    envelope::{BodyHash, Data, Event},
    log::record_size,
    runs::read_value,
    stream::{Context, Rejected, dlq::redriven},
    telemetry::metrics::TRIGGERS,
    topology::{BOUNDS, Machine, OverEvent},
    workflows::{Current, EventTrigger, ToStart, Triggers},
};

/// The most bytes of starts that one record leads to: a batch has many events.
const STARTS_MAX: usize = 64 << 20;

/// An event that is admitted.
pub(super) struct Cause<'a> {
    pub(super) event: &'a Event<'a>,
    /// The value of the record that it was read from.
    pub(super) record: &'a Bytes,
    /// Its own bytes, if the record holds a batch.
    pub(super) item: Option<&'a [u8]>,
    /// How many triggers in a row led to it.
    pub(super) depth: u32,
    /// When it came.
    pub(super) received: Millis,
}

/// The triggers, for the events of one lane.
pub(super) struct Firing {
    current: Current,
    /// Those of the open transaction.
    triggers: Option<Arc<Triggers>>,
    commands: Arc<str>,
    machine: Machine,
    /// Bytes of the starts of the record in hand.
    bytes: usize,
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
    pub(super) fn new(current: Current, commands: Arc<str>, counters: Arc<Counters>) -> Self {
        Self {
            current,
            triggers: None,
            commands,
            machine: Machine::new(BOUNDS),
            bytes: 0,
            started: 0,
            failed: 0,
            counters,
        }
    }

    /// Called for each record, before its events.
    pub(super) fn next_record(&mut self) {
        self.bytes = 0;
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
    pub(super) fn fire(&mut self, cause: &Cause<'_>, only: Option<&str>, cx: &mut Context<'_>) {
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
                .and_then(|command| command.map_or(Ok(false), |command| self.emit(&command, cx)));
            match fired {
                Ok(true) => self.started += 1,
                Ok(false) => {}
                Err(rejected) => self.reject(name, cause, rejected, cx),
            }
        }
    }

    fn reject(&mut self, name: &str, cause: &Cause<'_>, why: Rejected, cx: &mut Context<'_>) {
        self.failed += 1;
        cx.reject(Rejected {
            stage: Some(format!("{}{name}", redriven::TRIGGER).into()),
            value: cause.item.map(Bytes::copy_from_slice),
            ..why
        });
    }

    fn emit(&mut self, command: &Command, cx: &mut Context<'_>) -> Result<bool, Rejected> {
        let record = command
            .encode()
            .map_err(|e| Rejected::new("invalid_payload", e.to_string()))?;
        let size = record_size(&record);
        if self.bytes + size > STARTS_MAX {
            let message = format!("a record may lead to {STARTS_MAX} bytes of starts");
            return Err(Rejected::new("record_too_large", message));
        }
        cx.try_emit(&self.commands, record)?;
        self.bytes += size;
        Ok(true)
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
    let tenant = event.tenant.as_str();
    let identity = ["trigger", tenant, name, &event.source, &event.id];
    let identity = identity.map(str::to_owned).to_vec();
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
        received_at: micros(cause.received),
        run_at: None,
        params,
        workflow: resolved.workflow,
        plan: resolved.plan,
        tools: resolved.tools,
        goal: None,
        context: None,
        adapter: None,
        entity: AboutEntity::of(event),
        correlation_id: event.correlation_id.as_deref().map(str::to_owned),
        causation_id: Some(event.id.to_string()),
        approval_required: false,
        constraints: Constraints::default(),
        depth: cause.depth + 1,
        retry: None,
    };
    let body = start.encode().map_err(|_| {
        let message = format!("a start with its plan and tools may have {RECORD_MAX} bytes");
        Rejected::new("payload_too_large", message)
    })?;
    Ok(Command {
        tenant: tenant.to_owned(),
        run_id,
        kind: start::KIND.to_owned(),
        at: micros(now),
        principal: format!("trigger:{name}"),
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
