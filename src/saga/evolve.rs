//! How events change a run. Nothing is decided here: the same events give the same state, whenever they are applied.

use std::sync::Arc;

use super::run::{End, EndKind, Ending, Phase, Run, StepState, UndoPhase};
use crate::base::clock::Millis;
use crate::runs::{ApprovalKind, CallKind, Decided, Decision, Event, StepError};

impl Run {
    /// Applies the next record of the history, written at `at`.
    pub fn evolve(&mut self, event: &Event, at: Millis) {
        self.seq += 1;
        match event {
            Event::RunStarted(started) => self.started = Arc::new((**started).clone()),
            Event::ApprovalRequested(request) | Event::IncidentOpened(request) => {
                let seq = self.seq;
                if let Some(step) = self.step_mut(request.step_id.as_deref()) {
                    step.due = None;
                    step.phase = if matches!(event, Event::IncidentOpened(_)) {
                        Phase::Incident(seq)
                    } else {
                        step.input = Some(request.input.clone());
                        Phase::Approval(seq)
                    };
                }
                self.approvals.insert(seq, (**request).clone());
            }
            Event::ApprovalDecided(decided) | Event::IncidentDecided(decided) => {
                self.decided(decided);
            }
            Event::StepScheduled {
                step_id,
                attempt,
                input,
                deadline,
            } => {
                self.begin(at);
                if let Some(step) = self.step_mut(Some(step_id)) {
                    step.phase = Phase::Running;
                    step.attempt = *attempt;
                    step.input = Some(input.clone());
                    step.due = Some(*deadline);
                    step.first_at.get_or_insert(at);
                }
            }
            Event::StepStarted {
                step_id, deadline, ..
            } => {
                if let Some(step) = self.step_mut(Some(step_id)) {
                    step.due = Some(*deadline);
                }
            }
            Event::StepHeld {
                step_id,
                kind,
                until,
                ..
            } => {
                if let Some(step) = self.step_mut(Some(step_id)) {
                    match kind {
                        CallKind::Execute => {
                            // What is held by its worker consumes no attempt.
                            if step.phase == Phase::Running {
                                step.attempt -= 1;
                            }
                            step.phase = Phase::Held;
                            step.due = *until;
                        }
                        CallKind::Compensate => {
                            if step.undo.phase == UndoPhase::Running {
                                step.undo.attempt -= 1;
                            }
                            step.undo.phase = UndoPhase::Held;
                            step.undo.due = *until;
                        }
                    }
                }
            }
            Event::StepReleased { step_id, kind } => {
                if let Some(step) = self.step_mut(Some(step_id)) {
                    match kind {
                        CallKind::Execute => {
                            step.phase = Phase::Pending;
                            step.due = None;
                        }
                        CallKind::Compensate => {
                            step.undo.phase = UndoPhase::Pending;
                            step.undo.due = None;
                        }
                    }
                }
            }
            Event::StepSucceeded {
                step_id,
                output,
                signal,
                ..
            } => {
                if let Some(queue) = signal.as_ref().and_then(|name| self.signals.get_mut(name)) {
                    queue.pop_front();
                }
                let ended = self.end_step((step_id, at), Phase::Succeeded, |step| {
                    step.output = Some(output.clone());
                });
                self.effective.extend(ended);
            }
            Event::StepFailed {
                step_id,
                error,
                compensate,
                ..
            } => {
                let ended = self.end_step((step_id, at), Phase::Failed, |step| {
                    step.error = Some(error.clone());
                });
                if *compensate {
                    self.effective.extend(ended);
                }
                self.fail(ended, error);
            }
            Event::StepUnknown { step_id, error, .. } => {
                let ended = self.end_step((step_id, at), Phase::Unknown, |step| {
                    step.error = Some(error.clone());
                });
                self.effective.extend(ended);
                self.fail(ended, error);
            }
            Event::StepRetryScheduled {
                step_id,
                kind,
                due,
                error,
                answered,
                ..
            } => {
                if let Some(step) = self.step_mut(Some(step_id)) {
                    match kind {
                        CallKind::Execute => {
                            step.phase = Phase::Retry;
                            step.due = Some(*due);
                            step.error = Some(error.clone());
                            step.unanswered |= !answered;
                        }
                        CallKind::Compensate => {
                            step.undo.phase = UndoPhase::Retry;
                            step.undo.due = Some(*due);
                            step.undo.error = Some(error.clone());
                        }
                    }
                }
            }
            Event::StepSkipped { step_id, output } => {
                self.begin(at);
                self.end_step((step_id, at), Phase::Skipped, |step| {
                    step.output.clone_from(output);
                });
            }
            Event::StepCancelled { step_id } => {
                self.end_step((step_id, at), Phase::Cancelled, |_| {});
            }
            Event::SignalReceived { name, data } => {
                let queue = self.signals.entry(name.clone()).or_default();
                queue.push_back(data.clone());
            }
            Event::CompensationStarted => self.compensating = true,
            Event::CompensationScheduled {
                step_id,
                attempt,
                input,
                deadline,
            } => {
                if let Some(step) = self.step_mut(Some(step_id)) {
                    step.undo.phase = UndoPhase::Running;
                    step.undo.attempt = *attempt;
                    step.undo.input = Some(input.clone());
                    step.undo.due = Some(*deadline);
                }
            }
            Event::CompensationSucceeded { step_id, .. } => {
                if let Some(step) = self.step_mut(Some(step_id)) {
                    step.undo.phase = UndoPhase::Succeeded;
                    step.undo.due = None;
                    step.undo.error = None;
                }
            }
            Event::CompensationFailed { step_id, error, .. } => {
                if let Some(step) = self.step_mut(Some(step_id)) {
                    step.undo.phase = UndoPhase::Failed;
                    step.undo.due = None;
                    step.undo.error = Some(error.clone());
                }
            }
            Event::CancelRequested {
                reason,
                compensate,
                failure,
                ..
            } => {
                let (kind, error) = if let Some(error) = failure {
                    (EndKind::Failed, error.clone())
                } else {
                    let message = reason.clone().unwrap_or_default();
                    (EndKind::Cancelled, StepError::new("cancelled", message))
                };
                // Cancel ends a pause.
                self.paused_at = None;
                self.ending.get_or_insert(Ending {
                    kind,
                    step: None,
                    error,
                    compensate: *compensate,
                });
            }
            Event::Paused { .. } => self.paused_at = Some(at),
            Event::Resumed { paused_ms, .. } => {
                self.paused_at = None;
                self.postpone(*paused_ms);
            }
            Event::PlanReady(_) | Event::Refused { .. } => {}
            Event::RunSucceeded { output } => self.end = Some(End::Succeeded(output.clone())),
            Event::RunFailed { error } => self.end = Some(End::Failed((**error).clone())),
            Event::RunDenied { error } => self.end = Some(End::Denied((**error).clone())),
            Event::RunCancelled { error } => self.end = Some(End::Cancelled((**error).clone())),
        }
    }

    fn step_mut(&mut self, id: Option<&str>) -> Option<&mut StepState> {
        let index = self.plan.0.index(id?)?;
        self.steps.get_mut(index)
    }

    /// The run leaves `queued`.
    fn begin(&mut self, at: Millis) {
        if self.begun_at.is_none() {
            self.begun_at = Some(at);
            let timeout = self.plan.0.timeout_ms;
            self.deadline = Some(Millis(at.0.saturating_add_unsigned(timeout)));
        }
    }

    /// Sets the final phase of a step; returns its index unless it counts among the effective ones already.
    fn end_step(
        &mut self,
        (id, at): (&str, Millis),
        phase: Phase,
        change: impl FnOnce(&mut StepState),
    ) -> Option<usize> {
        let index = self.plan.0.index(id)?;
        let step = self.steps.get_mut(index)?;
        step.phase = phase;
        step.due = None;
        step.finished_at = Some(at);
        change(step);
        (!self.effective.contains(&index)).then_some(index)
    }

    fn fail(&mut self, step: Option<usize>, error: &StepError) {
        self.ending.get_or_insert_with(|| Ending {
            kind: EndKind::Failed,
            step,
            error: error.clone(),
            compensate: true,
        });
    }

    fn decided(&mut self, decided: &Decided) {
        let Some(request) = self.approvals.remove(&decided.approval) else {
            return;
        };
        let index = request
            .step_id
            .as_deref()
            .and_then(|id| self.plan.0.index(id));
        let step = index.and_then(|index| self.steps.get_mut(index));
        match decided.decision {
            Decision::Approved => {
                self.approved |= request.kind == ApprovalKind::Run;
                if let Some(step) = step {
                    step.phase = Phase::Pending;
                    step.approved = true;
                    if let Some(input) = &decided.value {
                        step.input = Some(input.clone());
                    }
                }
            }
            Decision::Retry => {
                if let Some(step) = step {
                    step.phase = Phase::Pending;
                    step.forgiven = step.attempt;
                    step.first_at = None;
                }
            }
            // The event that ends the step follows.
            Decision::Skip | Decision::Fail => {}
            Decision::Expired if request.kind == ApprovalKind::Incident => {}
            Decision::Denied | Decision::Expired => {
                let (code, message) = if decided.decision == Decision::Denied {
                    let reason = decided.reason.clone();
                    (
                        "denied",
                        reason.unwrap_or_else(|| "a person denied it".into()),
                    )
                } else {
                    ("approval_expired", "nobody decided in time".into())
                };
                if let Some(step) = step {
                    step.phase = Phase::Cancelled;
                }
                self.ending.get_or_insert(Ending {
                    kind: EndKind::Denied,
                    step: index,
                    error: StepError::new(code, message),
                    compensate: true,
                });
            }
        }
    }

    /// Moves all deadlines, which stood still for so long.
    fn postpone(&mut self, ms: i64) {
        let later = |due: &mut Option<Millis>| {
            if let Some(due) = due {
                due.0 = due.0.saturating_add(ms);
            }
        };
        later(&mut self.deadline);
        for step in &mut self.steps {
            later(&mut step.due);
            later(&mut step.undo.due);
            later(&mut step.first_at);
        }
        for approval in self.approvals.values_mut() {
            approval.expires_at.0 = approval.expires_at.0.saturating_add(ms);
        }
    }
}
