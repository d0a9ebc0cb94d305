//! A message on its way through the steps of a stage.

use std::sync::Arc;

use vrl::value::Value;

use super::StageTransform;
use crate::topology::{
    plan::PlannedStep,
    run::{carried, limiter::Verdict, message::Message, validation},
    syntax::model::When,
    vrl::{Vrl, document::Subject},
};
use crate::{
    base::clock::Millis,
    log::Record,
    stream::{Context, Failure, Rejected, dlq::redriven},
};

impl StageTransform {
    /// Runs the steps from `from` on. A record that a step rejects goes to the dead letters.
    pub(super) fn run(
        &mut self,
        from: usize,
        message: Message,
        at: Millis,
        cx: &mut Context<'_>,
    ) -> Result<(), Failure> {
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
            Err(later) => Err(later),
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
                // Done when the record was read.
                PlannedStep::Normalise(_) => {}
                PlannedStep::Map(vrl) => self.map(vrl, &mut message)?,
                PlannedStep::Filter(vrl) => {
                    if !self.holds(vrl, &mut message)? {
                        return Ok(());
                    }
                }
                PlannedStep::Validate(validate) => validation::check(validate, &message)?,
                PlannedStep::SetKey(fields) => message.set_key(fields)?,
                PlannedStep::Dedupe { .. } => {
                    let identity = message.identity("dedupe", &stage.processor);
                    // A redriven record passes once each time: a later step may have rejected it.
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

    /// A topic's name, allocated once for this transform.
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

    pub(super) fn mapped(&mut self, vrl: &Vrl, mut message: Message) -> Result<Message, Rejected> {
        self.map(vrl, &mut message).map(|()| message)
    }

    /// As [`Self::mapped`]: if it fails for a part of a record, that part alone goes to the dead letters.
    pub(super) fn map_part(&mut self, vrl: &Vrl, message: Message) -> Result<Message, Rejected> {
        let value = message.origin.record.record.value.clone();
        self.mapped(vrl, message)
            .map_err(|rejected| Rejected { value, ..rejected })
    }

    /// Whether a condition holds; the message stays as it was.
    fn holds(&mut self, vrl: &Vrl, message: &mut Message) -> Result<bool, Rejected> {
        let mut subject = subject(message, vrl);
        let result = self.machine.run(vrl, &mut subject);
        message.document = subject.document;
        // Its type was checked when the file was read.
        Ok(matches!(result?, Value::Boolean(true)))
    }
}

/// Takes the document out of a message for a program; the caller puts it back afterwards.
fn subject<'v>(message: &mut Message, vrl: &'v Vrl) -> Subject<'v> {
    let metadata = if vrl.reads_metadata {
        message.metadata()
    } else {
        Value::Null
    };
    let document = std::mem::replace(&mut message.document, Value::Null.into());
    Subject::new(document, metadata, vrl)
}
