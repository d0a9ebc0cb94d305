//! A stage at work: the transform that runs a topology's steps.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use vrl::value::Value;

use super::{
    carried,
    codec::Codec,
    limiter::{self, Limiter, Verdict, parse_timer},
    message::{Message, Normalised},
};
use crate::topology::{
    plan::{Input, Plan, PlannedStep, Stage},
    syntax::model::{KeyFields, RateLimit, When},
    vrl::{BOUNDS, Machine, Vrl, document::Subject},
};
use crate::{
    base::{
        clock::{Clock, Millis},
        id::{Identity, Tenant},
    },
    controls::SecretKeys,
    envelope::{
        foreign::{ForRedriven, RedrivenRecord, Schemas},
        kafka::unrecognised_avro,
    },
    log::{Fetched, Record, topics::Names},
    state::{Space, StateError, StateStore, Window, WindowOptions},
    stream::{Context, Failure, Origin, Processor, Rejected, Timer, Transform, dlq::redriven},
};

/// In front of the headers of `throttled`.
const THROTTLED: &str = "omnilink.throttled.";
/// Hashes in memory for each partition before they go to disk.
const SEAL_AT: usize = 32_768;

/// Makes the transforms of one stage.
pub(crate) struct StageProcessor {
    stage: Arc<Stage>,
    shared: Arc<Shared>,
}

/// What all partitions of a stage have in common.
#[derive(Clone)]
struct Shared {
    topic: Arc<str>,
    names: Names,
    tenant: Option<Tenant>,
    codec: Codec,
    schemas: Arc<dyn Schemas>,
    clock: Arc<dyn Clock>,
    /// What the marks of redriven records are signed with; without them no mark counts.
    secrets: Option<Arc<SecretKeys>>,
    /// Of each partition, the number of the record that goes on after it waited: where that fails, the transform is made anew, and
    /// this tells which one it was.
    going_on: Arc<Mutex<HashMap<u32, u64>>>,
}

impl Shared {
    /// The same with counts of its own: where lanes on two cores count references to the same thing for each record, they
    /// wait for each other.
    fn apart(&self) -> Self {
        Self {
            topic: Arc::from(&*self.topic),
            names: Names::new(&self.names.prefix),
            ..self.clone()
        }
    }
}

impl StageProcessor {
    pub(crate) fn new(
        plan: &Plan,
        stage: &Arc<Stage>,
        names: &Names,
        schemas: Arc<dyn Schemas>,
        clock: Arc<dyn Clock>,
        secrets: Option<Arc<SecretKeys>>,
    ) -> Self {
        Self {
            stage: Arc::clone(stage),
            shared: Arc::new(Shared {
                topic: Arc::clone(stage.input.topic()),
                names: names.clone(),
                tenant: plan.tenant.clone(),
                codec: plan.codec.clone(),
                schemas,
                clock,
                secrets,
                going_on: Arc::default(),
            }),
        }
    }
}

impl Processor for StageProcessor {
    fn name(&self) -> &str {
        &self.stage.processor
    }

    fn topics(&self) -> Vec<String> {
        vec![self.shared.topic.to_string()]
    }

    fn transform(
        &self,
        space: &Space,
        state: &StateStore,
    ) -> Result<Box<dyn Transform>, StateError> {
        let window = match self.stage.dedupe_window_ms() {
            Some(window_ms) => {
                let options = WindowOptions {
                    window_ms,
                    payload: 0,
                    seal_at: SEAL_AT,
                };
                let window = Window::load(state, space.clone(), options)?;
                // Its changelog is as `run::state_cleanup` says.
                Some(if self.stage.limits().next().is_some() {
                    window.log_deletes()?
                } else {
                    window
                })
            }
            None => None,
        };
        Ok(Box::new(StageTransform {
            stage: Arc::new(Stage::clone(&self.stage)),
            shared: Arc::new(self.shared.apart()),
            sinks: Vec::new(),
            machine: Machine::new(BOUNDS),
            window,
            limiter: Limiter::load(state, space, limiter::BOUNDS)?,
            seen: Vec::new(),
        }))
    }
}

struct StageTransform {
    stage: Arc<Stage>,
    shared: Arc<Shared>,
    /// Names of topics that it has written to.
    sinks: Vec<Arc<str>>,
    machine: Machine,
    window: Option<Window>,
    limiter: Limiter,
    /// What the record in hand adds to the window once it is through: a rejected one may be sent again.
    seen: Vec<Identity>,
}

impl Transform for StageTransform {
    fn process(&mut self, input: &Fetched, cx: &mut Context<'_>) -> Result<(), Failure> {
        if matches!(self.stage.input, Input::Events(_))
            && !redriven::concerns(&input.record, &self.stage.processor)
        {
            return Ok(());
        }
        // A foreign producer's clock may be anywhere; what it has not reached yet does not empty a window.
        let at = match self.stage.input {
            Input::Foreign(_) if input.timestamp.0 <= 0 => self.shared.clock.now(),
            Input::Foreign(_) => input.timestamp.min(self.shared.clock.now()),
            _ => input.timestamp,
        };
        let origin = Arc::new(Origin {
            topic: Arc::clone(&self.shared.topic),
            record: input.clone(),
        });
        let (messages, first) = match self.read(&origin) {
            Ok(read) => read,
            Err(Failure::Rejected(rejected)) => {
                let origin = self.origin(input).unwrap_or_else(|| Origin::clone(&origin));
                cx.reject_origin(origin, rejected);
                return Ok(());
            }
            Err(later) => return Err(later),
        };
        for message in messages {
            match message {
                Ok(message) => self.run(first, message, at, cx)?,
                Err(rejected) => cx.reject(rejected),
            }
        }
        Ok(())
    }

    fn fire(&mut self, timer: Timer<'_>, cx: &mut Context<'_>) -> Result<(), Failure> {
        self.shared.going_on.lock().remove(&cx.partition());
        Ok(self.release(timer, None, cx)?)
    }

    fn timer_failed(
        &mut self,
        timer: Timer<'_>,
        rejected: Rejected,
        cx: &mut Context<'_>,
    ) -> Result<(), Failure> {
        let failed = self.shared.going_on.lock().remove(&cx.partition());
        // The record is to blame, and those behind it follow with the next timer.
        if let Some(number) = failed {
            self.release(timer, Some(&(number, rejected)), cx)?;
        } else {
            cx.reject_timer(timer, rejected);
        }
        Ok(())
    }

    fn close(&mut self, cx: &mut Context<'_>) -> Result<(), Failure> {
        self.limiter.close(cx);
        if let Some(window) = &mut self.window {
            cx.add_changes(window.take_changes());
        }
        Ok(())
    }

    fn committed(&mut self, now: Millis) {
        self.limiter.committed(now);
    }

    fn origin(&self, input: &Fetched) -> Option<Origin> {
        match self.stage.input {
            Input::Rekeyed(_) => carried::origin(input.record.value.as_ref()?),
            _ => None,
        }
    }
}

type Read = (Vec<Result<Message, Rejected>>, usize);

impl StageTransform {
    /// The messages of a record, and the first step that is left to do.
    fn read(&mut self, origin: &Arc<Origin>) -> Result<Read, Failure> {
        let stage = Arc::clone(&self.stage);
        let shared = Arc::clone(&self.shared);
        let tenant = shared.tenant.as_ref();
        let times = self.redriven(origin);
        let again = (times > 0).then(|| ForRedriven {
            schemas: &*shared.schemas,
            redriven: RedrivenRecord::of(&origin.topic, &origin.record),
        });
        let schemas = again.as_ref().map_or(&*shared.schemas, |again| again as _);
        let (mut messages, first) = match (&stage.input, stage.steps.first()) {
            (Input::Rekeyed(_), _) => {
                let value = origin.record.record.value.clone().unwrap_or_default();
                return Ok((vec![Ok(carried::decode(&value)?)], 0));
            }
            (Input::Events(_), _) => (vec![Message::of_events(origin)], 0),
            (Input::Foreign(_), Some(PlannedStep::Normalise(map))) => {
                let read = match (Message::normalised(origin, tenant, schemas), map) {
                    (Ok(Normalised::Events(events)), _) => events,
                    (Ok(Normalised::Json(json)), Some(map)) => {
                        let message = Message::of_json(json, origin, tenant)?;
                        vec![self.mapped(map, message)]
                    }
                    (Ok(Normalised::Json(_)), None) => return Err(unrecognised_avro().into()),
                    (Err(Failure::Rejected(rejected)), Some(map))
                        if rejected.code == "unrecognised_payload" =>
                    {
                        let messages = Message::decode(origin, &shared.codec, tenant, schemas)?;
                        messages
                            .into_iter()
                            .map(|message| self.map_part(map, message?))
                            .collect()
                    }
                    (Err(failure), _) => return Err(failure),
                };
                (read, 1)
            }
            (Input::Foreign(_), _) => (Message::decode(origin, &shared.codec, tenant, schemas)?, 0),
        };
        for message in &mut messages {
            if let Some(key) = &stage.keyed_by {
                keyed_by(message, key);
            }
            if let Ok(message) = message {
                message.redriven = times;
            }
        }
        Ok((messages, first))
    }

    /// How often a record of the source came back from the dead-letter queue; 0: never, or so says nobody who may.
    fn redriven(&self, origin: &Origin) -> u32 {
        let record = &origin.record.record;
        let genuine = |secrets: &Arc<SecretKeys>| redriven::count(secrets, &origin.topic, record);
        // Nearly every record has none.
        redriven::claimed(record)
            .and(self.shared.secrets.as_ref())
            .and_then(genuine)
            .unwrap_or(0)
    }

    /// The steps from one on. What a record does wrong is the record's: it goes to the dead letters.
    fn run(
        &mut self,
        from: usize,
        message: Message,
        at: Millis,
        cx: &mut Context<'_>,
    ) -> Result<(), StateError> {
        self.seen.clear();
        let origin = Arc::clone(&message.origin);
        match self.steps(from, message, at, cx) {
            Ok(()) => {
                if let Some(window) = &mut self.window {
                    for identity in self.seen.drain(..) {
                        window.insert(identity, [0; 16], at);
                    }
                }
                Ok(())
            }
            Err(Failure::Rejected(rejected)) => {
                cx.reject_origin(Arc::unwrap_or_clone(origin), rejected);
                Ok(())
            }
            Err(Failure::State(error)) => Err(error),
            // No step asks for anything: what a record needs was at hand when it was read.
            Err(Failure::Waiting(why)) => Err(StateError::Other(why)),
        }
    }

    fn steps(
        &mut self,
        from: usize,
        mut message: Message,
        at: Millis,
        cx: &mut Context<'_>,
    ) -> Result<(), Failure> {
        let stage = Arc::clone(&self.stage);
        for step in stage.steps.iter().skip(from) {
            match step {
                // Done when it was read.
                PlannedStep::Normalise(_) => {}
                PlannedStep::Map(vrl) => self.map(vrl, &mut message)?,
                PlannedStep::Filter(vrl) => {
                    if !self.holds(vrl, &mut message)? {
                        return Ok(());
                    }
                }
                PlannedStep::SetKey(fields) => message.set_key(fields)?,
                PlannedStep::Dedupe { .. } => {
                    let identity = message.identity("dedupe", &stage.processor);
                    // What was redriven passes, once each time: a step behind this one may have refused it.
                    let known_by = match message.redriven {
                        0 => identity,
                        times => redriven::identity(&identity, times),
                    };
                    if let Some(window) = &self.window
                        && window.get(&known_by, at)?.is_some()
                    {
                        return Ok(());
                    }
                    self.seen.push(identity);
                    if known_by != identity {
                        self.seen.push(known_by);
                    }
                }
                PlannedStep::RateLimit(limit) => {
                    let id = message.identity("rate_limit", &limit.policy.value);
                    let verdict: Result<Verdict, Failure> =
                        self.limiter.judge(id, limit, at, cx, || {
                            carried::encode(&message).map_err(Failure::from)
                        });
                    match verdict? {
                        Verdict::Pass => {}
                        Verdict::Deferred => return Ok(()),
                        Verdict::Throttled(retry_at) => {
                            self.throttle(&message, limit, retry_at, cx)?;
                            return Ok(());
                        }
                    }
                }
                PlannedStep::Route(rules) => {
                    for rule in rules {
                        let takes = match &rule.when {
                            When::Always => true,
                            When::Holds(vrl) => self.holds(vrl, &mut message)?,
                            When::Broken => false,
                        };
                        if takes {
                            return self.send(&rule.to.value, &message, cx);
                        }
                    }
                    return Ok(());
                }
            }
        }
        if let Some(topic) = &stage.rekey_to {
            let record = Record {
                key: Some(message.key_values.array().clone()),
                value: Some(carried::encode(&message)?),
                headers: Vec::new(),
            };
            cx.try_emit(self.sink(topic), record)?;
        }
        Ok(())
    }

    /// A topic's name, as this transform has it.
    fn sink(&mut self, topic: &str) -> &Arc<str> {
        let known = self.sinks.iter().position(|sink| **sink == *topic);
        let at = known.unwrap_or_else(|| {
            self.sinks.push(topic.into());
            self.sinks.len() - 1
        });
        &self.sinks[at]
    }

    fn send(&mut self, to: &str, message: &Message, cx: &mut Context<'_>) -> Result<(), Failure> {
        match to {
            "drop" => {}
            "ingress" => {
                let record = message.to_ingress()?;
                cx.try_emit(&self.shared.names.ingress, record)?;
            }
            foreign => {
                let record = message.to_foreign(&self.shared.codec)?;
                cx.try_emit(self.sink(foreign), record)?;
            }
        }
        Ok(())
    }

    fn map(&mut self, vrl: &Vrl, message: &mut Message) -> Result<(), Rejected> {
        let binary = vrl.reads_metadata && message.has_binary_metadata();
        let replaced = if binary { message.replaced()? } else { 0 };
        let mut subject = subject(message, vrl);
        self.machine.run(vrl, &mut subject)?;
        if vrl.sets_metadata {
            message.set_metadata(&subject.metadata)?;
        }
        message.document = subject.document;
        message.raw = None;
        if binary {
            message.check_replaced(replaced)?;
        }
        Ok(())
    }

    fn mapped(&mut self, vrl: &Vrl, mut message: Message) -> Result<Message, Rejected> {
        self.map(vrl, &mut message).map(|()| message)
    }

    /// As [`Self::mapped`]: of a record with several parts, the part that it fails for goes to the dead letters.
    fn map_part(&mut self, vrl: &Vrl, message: Message) -> Result<Message, Rejected> {
        let value = message.origin.record.record.value.clone();
        self.mapped(vrl, message)
            .map_err(|rejected| Rejected { value, ..rejected })
    }

    /// Whether a condition holds. It changes nothing.
    fn holds(&mut self, vrl: &Vrl, message: &mut Message) -> Result<bool, Rejected> {
        let mut subject = subject(message, vrl);
        let result = self.machine.run(vrl, &mut subject);
        message.document = subject.document;
        // The check has made sure that it is one.
        Ok(matches!(result?, Value::Boolean(true)))
    }

    fn throttle(
        &self,
        message: &Message,
        limit: &RateLimit,
        retry_at: Millis,
        cx: &mut Context<'_>,
    ) -> Result<(), Rejected> {
        let window_s = limit.window_ms as f64 / 1000.0;
        let retry_at = jiff::Timestamp::from_millisecond(retry_at.0).unwrap_or_default();
        let mut record = message.origin.record.record.clone();
        let mut add = |name: &str, value: String| {
            record
                .headers
                .push((format!("{THROTTLED}{name}"), Some(value.into())));
        };
        add("policy", limit.policy.value.clone());
        add("limit", limit.limit.to_string());
        add("window_s", window_s.to_string());
        add("retry_at", retry_at.to_string());
        cx.try_emit(&self.shared.names.throttled, record)
    }

    /// A timer of a limit is due: what waited goes on, but for the record that failed before, which is rejected.
    fn release(
        &mut self,
        timer: Timer<'_>,
        failed: Option<&(u64, Rejected)>,
        cx: &mut Context<'_>,
    ) -> Result<(), StateError> {
        let Some((policy, id)) = parse_timer(timer.key) else {
            return Ok(());
        };
        let stage = Arc::clone(&self.stage);
        let Some((step, limit)) = stage.limits().find(|(_, l)| l.policy.value == policy) else {
            return self.orphaned(policy, id, timer.now, cx);
        };
        let last = failed.map(|(number, _)| *number);
        let going_on = Arc::clone(&self.shared.going_on);
        for (number, record) in self.limiter.fire(id, limit, timer.now, last, cx)? {
            let Some(message) = Self::waited(&record, cx) else {
                continue;
            };
            if let Some((_, rejected)) = failed.filter(|(bad, _)| *bad == number) {
                let origin = Arc::clone(&message.origin);
                cx.reject_origin(Arc::unwrap_or_clone(origin), rejected.clone());
                continue;
            }
            going_on.lock().insert(cx.partition(), number);
            self.run(step + 1, message, timer.now, cx)?;
        }
        going_on.lock().remove(&cx.partition());
        Ok(())
    }

    /// The file has no such policy any more: what waited for it is not lost, but shown in `throttled`.
    fn orphaned(
        &mut self,
        policy: &str,
        id: Identity,
        now: Millis,
        cx: &mut Context<'_>,
    ) -> Result<(), StateError> {
        let gone = RateLimit {
            policy: crate::topology::syntax::fields::Spanned {
                value: policy.to_owned(),
                span: 0..0,
            },
            limit: 0,
            window_ms: 0,
            over: crate::topology::syntax::model::Over::Reject,
        };
        for record in self.limiter.give_up(id, cx)? {
            if let Some(message) = Self::waited(&record, cx)
                && let Err(rejected) = self.throttle(&message, &gone, now, cx)
            {
                cx.reject_origin(Arc::unwrap_or_clone(message.origin), rejected);
            }
        }
        Ok(())
    }

    /// A record that waited; one that cannot be read any more goes to the dead letters as it is.
    fn waited(record: &Bytes, cx: &mut Context<'_>) -> Option<Message> {
        match carried::decode(record) {
            Ok(message) => Some(message),
            Err(rejected) => {
                let origin = Origin {
                    topic: "".into(),
                    record: Fetched {
                        topic: 0,
                        partition: cx.partition(),
                        offset: 0,
                        timestamp: Millis(0),
                        record: Record {
                            key: None,
                            value: Some(record.clone()),
                            headers: Vec::new(),
                        },
                    },
                };
                cx.reject_origin(origin, rejected);
                None
            }
        }
    }
}

/// What a program works on; the message gets its document back afterwards.
fn subject<'v>(message: &mut Message, vrl: &'v Vrl) -> Subject<'v> {
    let metadata = if vrl.reads_metadata {
        message.metadata()
    } else {
        Value::Null
    };
    let document = std::mem::replace(&mut message.document, Value::Null.into());
    Subject::new(document, metadata, vrl)
}

fn keyed_by(message: &mut Result<Message, Rejected>, fields: &KeyFields) {
    if let Ok(one) = message
        && let Err(rejected) = one.keyed_by(fields)
    {
        let value = one.origin.record.record.value.clone();
        *message = Err(Rejected { value, ..rejected });
    }
}
