//! Controls from people and other systems: decisions, cancel, pause, resume, signals.

use super::{Input, Refusal, Turn, attempt::awaited};
use crate::runs::{ApprovalKind, Decided, Decision, Event, Json};
use crate::{
    plans::{Builtin, RENDERED_MAX, jcs},
    saga::{
        compiled::CompiledStep,
        run::{EndKind, Phase, SIGNAL_BYTES_MAX, SIGNALS_MAX},
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
        let Err(refusal) = self.apply(input) else {
            return;
        };
        self.effects.refused = Some(refusal);
        // An ended run gets no more records.
        if refusal != Refusal::Ended {
            self.emit(Event::Refused {
                what: what.into(),
                by,
                code: refusal.code().into(),
            });
        }
    }

    fn apply(&mut self, input: Input) -> Result<(), Refusal> {
        if self.repeats_decision(&input) {
            return Ok(());
        }
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
                if let Some(ending) = &self.run.ending {
                    if ending.kind == EndKind::Cancelled {
                        return Err(Refusal::Cancelling);
                    }
                    // A failure or denial of a paused run takes effect only when it is resumed.
                    if self.run.paused_at.is_none() {
                        return Err(Refusal::Ending);
                    }
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

    /// Ends a pause, if there is one: all deadlines move by its length.
    fn end_pause(&mut self, by: &str) {
        if let Some(since) = self.run.paused_at {
            self.emit(Event::Resumed {
                by: by.to_owned(),
                paused_ms: (self.env.now.0 - since.0).max(0),
            });
        }
    }

    fn signal(&mut self, name: String, data: Json) -> Result<(), Refusal> {
        let plan = self.plan();
        let waits = |(index, step): &(usize, &CompiledStep)| {
            let state = &self.run.steps[*index];
            state.phase == Phase::Running
                && Self::builtin(step) == Some(Builtin::Wait)
                && awaited(state.input.as_ref()).contains(&name)
        };
        let waiting = plan.steps.iter().enumerate().find(waits);
        let kept = self.run.signals.iter();
        let bytes: usize = kept.map(|signal| signal.data.text().len()).sum();
        let full =
            self.run.signals.len() >= SIGNALS_MAX || bytes + data.text().len() > SIGNAL_BYTES_MAX;
        if waiting.is_none() && full {
            return Err(Refusal::SignalsFull);
        }
        self.emit(Event::SignalReceived { name, data });
        if let Some((index, step)) = waiting {
            self.take_signal(index, step);
        }
        Ok(())
    }

    /// Whether the input repeats a decision that the same person made before, with the same value, which changes nothing.
    fn repeats_decision(&self, input: &Input) -> bool {
        let Input::Decision {
            approval,
            decision,
            by,
            value,
            plan,
            ..
        } = input
        else {
            return false;
        };
        let before = self.run.decided.get(approval);
        before.is_some_and(|(made, who)| made == decision && who == by) && {
            let value = value.as_ref().map(|value| jcs::hash(&value.value()));
            let plan = plan.as_ref().and_then(|plan| plan.as_ref().ok());
            let given = value.or_else(|| plan.map(|plan| plan.ready.hash.clone()));
            self.run.decided_values.get(approval) == given.as_ref()
        }
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
            plan,
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
        let plans = kind == ApprovalKind::Plan && decision == Decision::Approved;
        if !fits || (plan.is_some() && !plans) {
            return Err(Refusal::NoSuchDecision);
        }
        if input_hash.is_some_and(|hash| hash != request.input_hash) {
            return Err(Refusal::InputChanged);
        }
        // Incidents and plans are work, not permission, so the requester may decide them.
        if !matches!(kind, ApprovalKind::Incident | ApprovalKind::Plan) {
            let started = &self.run.started;
            let asked = [Some(&started.principal), started.on_behalf_of.as_ref()];
            let decides = [Some(&by), on_behalf_of.as_ref()];
            let same = |one: &String| decides.into_iter().flatten().any(|two| two == one);
            if asked.into_iter().flatten().any(same) {
                return Err(Refusal::SelfApproval);
            }
        }
        self.check_value(request.step_id.as_deref(), decision, value.as_ref())?;
        let plan = plan.transpose()?;
        if plans && plan.is_none() {
            return Err(Refusal::PlanRequired);
        }
        let decided = Box::new(Decided {
            approval,
            decision,
            by,
            reason,
            value,
            plan_hash: plan.as_ref().map(|plan| plan.ready.hash.clone()),
        });
        match kind {
            ApprovalKind::Incident => self.decide_incident(decided),
            ApprovalKind::Step | ApprovalKind::Run | ApprovalKind::Plan => {
                self.emit(Event::ApprovalDecided(decided));
            }
        }
        if let Some(plan) = plan {
            self.take_plan(*plan);
        }
        Ok(())
    }

    /// Checks the value of a decision: a changed input, or the output of a skipped step.
    fn check_value(
        &self,
        step: Option<&str>,
        decision: Decision,
        value: Option<&Json>,
    ) -> Result<(), Refusal> {
        let Some(value) = value else {
            return Ok(());
        };
        let plan = self.run.plan();
        let step = step.and_then(|id| plan.index(id));
        match (step.map(|index| &plan.steps[index]), decision) {
            (Some(step), Decision::Approved) => {
                if value.text().len() > RENDERED_MAX || step.check_input(&value.value()).is_err() {
                    return Err(Refusal::InvalidInput);
                }
                Ok(())
            }
            (Some(_), Decision::Skip) => self
                .check_output_size(value)
                .map_err(|_| Refusal::OutputTooLarge),
            _ => Err(Refusal::NoSuchDecision),
        }
    }

    /// Applies the decision of an incident: ends its step, or lets it be attempted again.
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
            Decision::Fail | Decision::Expired => self.end_attempts(index, step),
            _ => {}
        }
    }

    /// Closes an open incident because the run ends.
    pub(super) fn close_incident(&mut self, index: usize, step: &CompiledStep, approval: u64) {
        self.emit(Event::IncidentDecided(Box::new(Decided {
            approval,
            decision: Decision::Fail,
            by: "omnilink".into(),
            reason: Some("the run ends".into()),
            value: None,
            plan_hash: None,
        })));
        self.end_attempts(index, step);
    }
}
