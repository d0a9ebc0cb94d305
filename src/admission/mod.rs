//! Admission: each record on `ingress` becomes an event on `events`, once.
//!
//! It reads whatever producers send, forwards records that are on another partition than that of their key, drops those whose identity it
//! has seen within the dedupe window, and appends the rest to `events`. The same identity always has the same key, hence the same partition
//! and the same window.
//!
//! An admitted event starts the workflows whose triggers name its type ([`triggers`]). Kafka producers may also send starts ([`starts`]):
//! they become start records on `commands`, in whichever partition they are, because the run's partition drops repetitions.

mod refused;
mod start_records;
mod starts;
mod triggers;

use std::sync::Arc;

use bytes::Bytes;

use self::{
    refused::Refused,
    start_records::StartRecords,
    triggers::{Cause, Firing},
};
use crate::{
    base::id::Identity,
    chaos::{Bug, planted},
    commands::{depth, start::run_id},
    config::GuardianSettings,
    controls::{Controls, SecretKeys},
    envelope::{
        Event, Invalid, ParsedStart, avro,
        foreign::{ForRedriven, NoRegistry, RedrivenRecord, Schemas},
        kafka::{Content, Inbound, read, unrecognised_avro},
    },
    event_schemas::EventSchemas,
    log::{Fetched, Record, partition_for, topics::Names},
    starts::{Guardian, KAFKA},
    state::{Space, StateError, StateStore, Window, WindowOptions},
    stream::{Context, Failure, Processor, Rejected, Transform, dlq::redriven},
    telemetry::metrics::ADMISSION_RECORDS,
    workflows::{Catalog, Current},
};

/// The processor's name.
pub const NAME: &str = "admission";
/// Hashes in memory for each partition before they go to disk: a map of 2^15 slots takes few more.
const SEAL_AT: usize = 27_000;

/// The processor.
pub struct Admission {
    names: Names,
    partitions: u32,
    window: WindowOptions,
    /// Whether only OmniLink's own port writes `ingress`, which has checked every field already.
    trusted: bool,
    secrets: Option<Arc<SecretKeys>>,
    guardian: GuardianSettings,
    controls: Option<Arc<Controls>>,
    schemas: Arc<dyn Schemas>,
    event_schemas: Arc<EventSchemas>,
    workflows: Current,
    counters: Arc<Counters>,
    triggered: Arc<triggers::Counters>,
}

/// Counters of what became of records.
pub struct Counters {
    admitted: metrics::Counter,
    duplicates: metrics::Counter,
    passed_on: metrics::Counter,
    started: metrics::Counter,
}

impl Admission {
    /// Admission between `ingress` and `events`, which have `partitions` partitions.
    /// `trusted`: nobody but OmniLink's own port can write there (the embedded log), so own records are not checked again.
    pub fn new(names: &Names, partitions: u32, dedupe_window_ms: i64, trusted: bool) -> Self {
        let outcome = |outcome| ADMISSION_RECORDS.counter(&[outcome]);
        Self {
            names: names.clone(),
            partitions,
            window: WindowOptions {
                window_ms: dedupe_window_ms,
                payload: 0,
                seal_at: SEAL_AT,
            },
            trusted,
            secrets: None,
            guardian: GuardianSettings::default(),
            controls: None,
            schemas: Arc::new(NoRegistry),
            event_schemas: Arc::default(),
            workflows: Current::default(),
            triggered: Arc::default(),
            counters: Arc::new(Counters {
                admitted: outcome("admitted"),
                duplicates: outcome("duplicate"),
                passed_on: outcome("passed_on"),
                started: outcome("started"),
            }),
        }
    }

    /// With the keys that sign marks of redriven records and seal the personal data of goals: without them no mark counts, and goals are
    /// refused.
    #[must_use]
    pub fn with_secrets(mut self, secrets: Arc<SecretKeys>) -> Self {
        self.secrets = Some(secrets);
        self
    }

    /// With these settings of the guardian of goals.
    #[must_use]
    pub fn with_guardian(mut self, settings: GuardianSettings) -> Self {
        self.guardian = settings;
        self
    }

    /// Held by these emergency controls: by the kill switch, and while `events` is disabled.
    #[must_use]
    pub fn with_controls(mut self, controls: Arc<Controls>) -> Self {
        self.controls = Some(controls);
        self
    }

    /// With the schemas of foreign Avro: without them its ids are unknown.
    #[must_use]
    pub fn with_schemas(mut self, schemas: Arc<dyn Schemas>) -> Self {
        self.schemas = schemas;
        self
    }

    /// With the schemas that the data of events must fit. Events of the port are checked again: topologies and Kafka producers write
    /// to `ingress` too, and an event whose type has no schema costs a look-up.
    #[must_use]
    pub fn with_event_schemas(mut self, event_schemas: Arc<EventSchemas>) -> Self {
        self.event_schemas = event_schemas;
        self
    }

    /// With the workflows that events and producers start.
    #[must_use]
    pub fn with_workflows(mut self, workflows: Current) -> Self {
        self.workflows = workflows;
        self
    }
}

impl Processor for Admission {
    fn name(&self) -> &'static str {
        NAME
    }

    fn topics(&self) -> Vec<String> {
        vec![self.names.ingress.to_string()]
    }

    fn held(&self) -> Option<String> {
        self.controls.as_ref()?.admission_held()
    }

    fn transform(
        &self,
        space: &Space,
        state: &StateStore,
    ) -> Result<Box<dyn Transform>, StateError> {
        Ok(Box::new(Admit {
            window: Window::load(state, space.clone(), self.window)?,
            names: self.names.clone(),
            partitions: self.partitions,
            trusted: self.trusted,
            secrets: self.secrets.clone(),
            guardian: self
                .secrets
                .clone()
                .map(|secrets| Guardian::new(&self.guardian, secrets)),
            schemas: Arc::clone(&self.schemas),
            event_schemas: Arc::clone(&self.event_schemas),
            counters: Arc::clone(&self.counters),
            firing: Firing::new(
                self.workflows.clone(),
                Arc::clone(&self.names.audit),
                Arc::clone(&self.triggered),
            ),
            records: StartRecords::new(Arc::clone(&self.names.commands)),
            workflows: self.workflows.clone(),
            catalog: None,
            outcomes: Outcomes::default(),
        }))
    }
}

struct Admit {
    window: Window,
    names: Names,
    partitions: u32,
    trusted: bool,
    secrets: Option<Arc<SecretKeys>>,
    /// The guardian of goals.
    guardian: Option<Guardian>,
    schemas: Arc<dyn Schemas>,
    event_schemas: Arc<EventSchemas>,
    counters: Arc<Counters>,
    firing: Firing,
    records: StartRecords,
    workflows: Current,
    /// The workflows and tools of the open transaction, once a start needs them.
    catalog: Option<Arc<Catalog>>,
    /// What became of the records of the open transaction.
    outcomes: Outcomes,
}

/// Records of one transaction: admitted, duplicates, passed on, starts that were taken in.
#[derive(Clone, Copy, Default)]
struct Outcomes {
    admitted: u64,
    duplicates: u64,
    passed_on: u64,
    started: u64,
}

impl Transform for Admit {
    fn process(&mut self, input: &Fetched, cx: &mut Context<'_>) -> Result<(), Failure> {
        self.records.next_record();
        if self.trusted
            && let Some(value) = input.record.value.as_deref()
        {
            let event = avro::decode_ingress(value)?;
            let write = |out: &mut Vec<u8>| avro::events_from_ingress(value, input.timestamp, out);
            return self.admit((&event, None), input, cx, write);
        }
        let again = self.redriven(&input.record).map(|_| ForRedriven {
            schemas: &*self.schemas,
            redriven: RedrivenRecord::of(&self.names.ingress, input),
        });
        let schemas = again.as_ref().map_or(&*self.schemas, |again| again as _);
        match read(&input.record, input.timestamp, schemas)? {
            Inbound::Own(own) => {
                let write = |out: &mut Vec<u8>| own.events_record(input.timestamp, out);
                self.admit((&own.event, None), input, cx, write)
            }
            Inbound::One(content) => self.take(&content, None, input, cx),
            Inbound::Foreign(_) => Err(unrecognised_avro().into()),
            Inbound::Batch(items) => {
                for (raw, item) in items {
                    let done = item
                        .map_err(Failure::from)
                        .and_then(|content| self.take(&content, Some(raw), input, cx));
                    match done {
                        Ok(()) => {}
                        Err(Failure::Rejected(rejected)) => cx.reject(Rejected {
                            value: Some(Bytes::copy_from_slice(raw)),
                            ..rejected
                        }),
                        Err(stalled) => return Err(stalled),
                    }
                }
                Ok(())
            }
        }
    }

    fn close(&mut self, cx: &mut Context<'_>) -> Result<(), Failure> {
        cx.add_changes(self.window.take_changes());
        self.firing.close();
        self.catalog = None;
        // A transaction that is made again begins with a new transform, so nothing counts twice.
        let outcomes = std::mem::take(&mut self.outcomes);
        self.counters.admitted.increment(outcomes.admitted);
        self.counters.duplicates.increment(outcomes.duplicates);
        self.counters.passed_on.increment(outcomes.passed_on);
        self.counters.started.increment(outcomes.started);
        Ok(())
    }
}

impl Admit {
    /// How often the record came back from the dead-letter queue; `None`: never, or its mark is not genuine.
    fn redriven(&self, record: &Record) -> Option<u32> {
        // Nearly every record has no mark.
        redriven::claimed(record)?;
        redriven::count(self.secrets.as_ref()?, &self.names.ingress, record)
    }

    /// Takes in an event or a start; `item` is its own text if it is one of a batch.
    fn take(
        &mut self,
        content: &Content<'_>,
        item: Option<&[u8]>,
        input: &Fetched,
        cx: &mut Context<'_>,
    ) -> Result<(), Failure> {
        match content {
            Content::Event(event) => self.admit((event, item), input, cx, |out| {
                avro::encode_event(event, input.timestamp, out);
                Ok(())
            }),
            Content::Start(start) => self.start(start, item, input, cx),
        }
    }

    /// Starts a run. A start that is refused is a dead letter, and an entry of the audit log.
    fn start(
        &mut self,
        start: &ParsedStart<'_>,
        item: Option<&[u8]>,
        input: &Fetched,
        cx: &mut Context<'_>,
    ) -> Result<(), Failure> {
        let catalog = self.catalog.get_or_insert_with(|| self.workflows.get());
        let identity = starts::identity(start, item.is_some());
        let run_id = identity.as_deref().ok().map(|id| run_id(id).to_string());
        let times = (input.timestamp, cx.now());
        let checks = (&**catalog, self.guardian.as_ref());
        let command = identity.and_then(|id| starts::command(checks, start, id, times));
        let appended = command
            .map_err(Rejected::from)
            .and_then(|command| self.records.append(&command, cx));
        let Err(rejected) = appended else {
            self.outcomes.started += 1;
            return Ok(());
        };
        let refused = Refused {
            event: &start.event,
            kind: start.kind.name(),
            principal: KAFKA,
            run_id: run_id.as_deref(),
        };
        let entry = refused.record(&refused::position(input), &rejected, cx.now())?;
        cx.try_emit(&self.names.audit, entry)?;
        cx.reject(Rejected {
            value: item.map(Bytes::copy_from_slice),
            ..rejected
        });
        Ok(())
    }

    /// Admits an event; `item` is its own text if it is one of a batch.
    fn admit(
        &mut self,
        (event, item): (&Event<'_>, Option<&[u8]>),
        input: &Fetched,
        cx: &mut Context<'_>,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), Invalid>,
    ) -> Result<(), Failure> {
        let redriven = self.redriven(&input.record);
        // Its event was admitted before, and only this trigger failed.
        let trigger = redriven.and_then(|_| redriven::trigger(&input.record));
        if trigger.is_none() {
            // Before it is passed on: a dead letter is the record as it came.
            self.event_schemas.check(event)?;
        }
        let key = Bytes::from(event.record_key());
        if partition_for(&key, self.partitions) != cx.partition() {
            return self.pass_on(event, key, redriven, input, cx);
        }
        let identity = event.identity();
        // A redriven record passes once each time, whether its event was seen before or not.
        let known_by = match (redriven, trigger) {
            (None, _) => identity,
            (Some(count), None) => redriven::identity(&identity, count),
            (Some(count), Some(workflow)) => {
                let of = Identity::of("trigger", &[&identity.to_string(), workflow]);
                redriven::identity(&of, count)
            }
        };
        let seen = self.window.get(&known_by, input.timestamp)?.is_some();
        if seen && !planted(Bug::NoDedupe) {
            self.outcomes.duplicates += 1;
            return Ok(());
        }
        let empty = Bytes::new();
        let cause = Cause {
            event,
            input,
            record: input.record.value.as_ref().unwrap_or(&empty),
            item,
            depth: depth::of(&input.record.headers),
        };
        if trigger.is_some() {
            self.window.insert(known_by, [0; 16], input.timestamp);
            self.firing.fire(&cause, trigger, &mut self.records, cx);
            return Ok(());
        }
        // An event has a field or two more than its record.
        let mut value = Vec::with_capacity(cause.record.len() + 64);
        write(&mut value)?;
        let record = Record {
            key: Some(key),
            value: Some(value.into()),
            headers: depth::carried(&input.record.headers),
        };
        // Before it is remembered: a record that `events` does not take may come again, smaller.
        cx.try_emit_here(&self.names.events, record)?;
        self.window.insert(identity, [0; 16], input.timestamp);
        if known_by != identity {
            self.window.insert(known_by, [0; 16], input.timestamp);
        }
        self.firing.fire(&cause, None, &mut self.records, cx);
        self.counters.admitted.increment(1);
        Ok(())
    }

    /// Sends an event to the partition of its key.
    fn pass_on(
        &mut self,
        event: &Event<'_>,
        key: Bytes,
        redriven: Option<u32>,
        input: &Fetched,
        cx: &mut Context<'_>,
    ) -> Result<(), Failure> {
        let mut value = Vec::with_capacity(512);
        avro::encode_ingress(event, &mut value);
        let mut record = Record {
            key: Some(key),
            value: Some(value.into()),
            headers: depth::carried(&input.record.headers),
        };
        if let (Some(count), Some(secrets)) = (redriven, &self.secrets) {
            if let Some(workflow) = redriven::trigger(&input.record) {
                redriven::address(&mut record, &format!("{}{workflow}", redriven::TRIGGER));
            }
            redriven::mark(secrets, &self.names.ingress, &mut record, count);
        }
        cx.try_emit(&self.names.ingress, record)?;
        self.outcomes.passed_on += 1;
        Ok(())
    }
}
