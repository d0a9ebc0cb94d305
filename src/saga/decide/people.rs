//! What people and other systems say to a run: decisions, cancel, pause, resume, signals.

use std::collections::VecDeque;

use super::{Input, Refusal, Turn};
use crate::runs::{ApprovalKind, Decided, Decision, Event, Json, StepError};
use crate::{
    plans::Builtin,
    saga::{
        compiled::CompiledStep,
        run::{Phase, SIGNALS_MAX},
    },
};

impl Turn<'_> {
    pub(super) fn person(&mut self, input: Input) {
        let (what, by) = match &input {
            Input::Cancel { by, .. } => ("cancel", by.clone()),
            Input::Pause { by } => ("pause", by.clone()),
            Input::Resume { by } => ("resume", by.clone()),
            Input::Signal { by, .. } => ("signal", by.clone()),
            Input::Decision { by, .. } => ("decision", by.clone()),
            _ => return,
        };
        let Err(refusal) = self.obey(input) else {
            return;
        };
        self.effects.refused = Some(refusal);
        // Nothing follows the last record.
        if refusal != Refusal::Ended {
            self.emit(Event::Refused {
                what: what.into(),
                by,
                code: refusal.code().into(),
            });
        }
    }

    fn obey(&mut self, input: Input) -> Result<(), Refusal> {
        if self.run.end.is_some() {
            return Err(Refusal::Ended);
        }
        match input {
            Input::Cancel {
                by,
                reason,
                compensate,
            } => {
                if self.run.compensating {
                    return Err(Refusal::Compensating);
                }
                if self.run.ending.is_some() {
                    return Err(Refusal::Cancelling);
                }
                self.end_pause(&by);
                self.emit(Event::CancelRequested {
                    by,
                    reason,
                    compensate,
                    failure: None,
                });
            }
            Input::Pause { by } => {
                if self.run.paused_at.is_some() {
                    return Err(Refusal::Paused);
                }
                self.emit(Event::Paused { by });
            }
            Input::Resume { by } => {
                if self.run.paused_at.is_none() {
                    return Err(Refusal::NotPaused);
                }
                self.end_pause(&by);
            }
            Input::Signal { name, data, .. } => self.signal(name, data)?,
            input => self.decision(input)?,
        }
        Ok(())
    }

    /// Deadlines go on from where they stood still.
    fn end_pause(&mut self, by: &str) {
        if let Some(since) = self.run.paused_at {
            self.emit(Event::Resumed {
                by: by.to_owned(),
                paused_ms: (self.env.now.0 - since.0).max(0),
            });
        }
    }

    fn signal(&mut self, name: String, data: Json) -> Result<(), Refusal> {
        let kept: usize = self.run.signals.values().map(VecDeque::len).sum();
        if kept >= SIGNALS_MAX {
            return Err(Refusal::SignalsFull);
        }
        self.emit(Event::SignalReceived { name, data });
        let plan = self.plan();
        for (index, step) in plan.steps.iter().enumerate() {
            let running = self.run.steps[index].phase == Phase::Running;
            if running && Self::builtin(step) == Some(Builtin::Wait) {
                self.take_signal(index, step);
            }
        }
        Ok(())
    }

    fn decision(&mut self, input: Input) -> Result<(), Refusal> {
        let Input::Decision {
            approval,
            decision,
            by,
            on_behalf_of,
            reason,
            input_hash,
            value,
        } = input
        else {
            return Ok(());
        };
        let request = self.run.approvals.get(&approval).ok_or(Refusal::NotOpen)?;
        let kind = request.kind;
        let fits = match decision {
            Decision::Approved | Decision::Denied => kind != ApprovalKind::Incident,
            Decision::Retry | Decision::Skip | Decision::Fail => kind == ApprovalKind::Incident,
            Decision::Expired => false,
        };
        if !fits {
            return Err(Refusal::NoSuchDecision);
        }
        if input_hash.is_some_and(|hash| hash != request.input_hash) {
            return Err(Refusal::InputChanged);
        }
        // An incident is work, not permission.
        if kind != ApprovalKind::Incident {
            let started = &self.run.started;
            let asked = [Some(&started.principal), started.on_behalf_of.as_ref()];
            let decides = [Some(&by), on_behalf_of.as_ref()];
            let same = |one: &String| decides.into_iter().flatten().any(|two| two == one);
            if asked.into_iter().flatten().any(same) {
                return Err(Refusal::SelfApproval);
            }
        }
        let decided = Box::new(Decided {
            approval,
            decision,
            by,
            reason,
            value,
        });
        match kind {
            ApprovalKind::Incident => self.decide_incident(decided),
            ApprovalKind::Step | ApprovalKind::Run => self.emit(Event::ApprovalDecided(decided)),
        }
        Ok(())
    }

    /// Ends the step of an incident as was decided; a retry begins it again.
    pub(super) fn decide_incident(&mut self, decided: Box<Decided>) {
        let plan = self.plan();
        let request = self.run.approvals.get(&decided.approval).cloned();
        let (decision, value) = (decided.decision, decided.value.clone());
        self.emit(Event::IncidentDecided(decided));
        let id = request.and_then(|request| request.step_id);
        let Some(index) = id.as_deref().and_then(|id| plan.index(id)) else {
            return;
        };
        let step = &plan.steps[index];
        match decision {
            Decision::Skip => self.emit(Event::StepSkipped {
                step_id: step.id.clone(),
                output: Some(value.unwrap_or_else(Json::null)),
            }),
            Decision::Fail | Decision::Expired => self.end_incident(index, step),
            _ => {}
        }
    }

    /// The run ends otherwise while an incident is open.
    pub(super) fn close_incident(&mut self, index: usize, step: &CompiledStep, approval: u64) {
        self.emit(Event::IncidentDecided(Box::new(Decided {
            approval,
            decision: Decision::Fail,
            by: "omnilink".into(),
            reason: Some("the run ends".into()),
            value: None,
        })));
        self.end_incident(index, step);
    }

    fn end_incident(&mut self, index: usize, step: &CompiledStep) {
        let state = &self.run.steps[index];
        let (attempt, unanswered) = (state.attempt, state.unanswered);
        let none = || StepError::new("incident", "a person decided that the step has failed");
        let error = state.error.clone().unwrap_or_else(none);
        if unanswered {
            self.emit(Event::StepUnknown {
                step_id: step.id.clone(),
                attempt,
                error,
            });
        } else {
            self.fail_step(index, step, error, false);
        }
    }
}
