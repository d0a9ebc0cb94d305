//! The transform that runs the steps of a stage.

mod limits;
mod read;
mod steps;

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

use super::{
    carried,
    codec::Codec,
    limiter::{self, Limiter},
};
use crate::topology::{
    plan::{Input, Plan, Stage},
    vrl::{BOUNDS, Machine},
};
use crate::{
    base::{
        clock::{Clock, Millis},
        id::{Identity, Tenant},
    },
    controls::{Controls, SecretKeys},
    envelope::foreign::Schemas,
    log::{Fetched, topics::Names},
    state::{Space, StateError, StateStore, Window, WindowOptions},
    stream::{Context, Failure, Origin, Processor, Rejected, Timer, Transform, dlq::redriven},
};

/// Hashes in memory for each partition before they go to disk.
const SEAL_AT: usize = 32_768;

/// Makes the transforms of one stage.
pub(crate) struct StageProcessor {
    stage: Arc<Stage>,
    shared: Arc<Shared>,
    /// Whose kill switch holds it.
    controls: Option<Arc<Controls>>,
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
    /// The keys that sign the marks of redriven records; without them no mark counts.
    secrets: Option<Arc<SecretKeys>>,
    /// The number of the record that each partition releases after it waited: where that fails, the transform is made anew, and
    /// this tells which record it was.
    releasing: Arc<Mutex<HashMap<u32, u64>>>,
}

impl Shared {
    /// A copy with reference counts of its own: lanes on two cores that count references to the same value for each record slow each
    /// other down.
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
                releasing: Arc::default(),
            }),
            controls: None,
        }
    }

    /// Held by the kill switch of these controls.
    pub(crate) fn with_controls(mut self, controls: Option<Arc<Controls>>) -> Self {
        self.controls = controls;
        self
    }
}

impl Processor for StageProcessor {
    fn name(&self) -> &str {
        &self.stage.processor
    }

    fn topics(&self) -> Vec<String> {
        vec![self.shared.topic.to_string()]
    }

    fn held(&self) -> Option<String> {
        self.controls.as_ref()?.processing_held()
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
    /// What the current record adds to the window after its last step: a rejected one may be sent again.
    seen: Vec<Identity>,
}

impl Transform for StageTransform {
    fn process(&mut self, input: &Fetched, cx: &mut Context<'_>) -> Result<(), Failure> {
        if matches!(self.stage.input, Input::Events(_))
            && !redriven::concerns(&input.record, &self.stage.processor)
        {
            return Ok(());
        }
        // A foreign producer's clock may be wrong: a time in the future must not empty a window.
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
        self.shared.releasing.lock().remove(&cx.partition());
        self.release(timer, None, cx)
    }

    fn timer_failed(
        &mut self,
        timer: Timer<'_>,
        rejected: Rejected,
        cx: &mut Context<'_>,
    ) -> Result<(), Failure> {
        let failed = self.shared.releasing.lock().remove(&cx.partition());
        // The record is the cause; those after it follow with the next timer.
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
