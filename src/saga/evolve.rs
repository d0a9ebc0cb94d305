//! Applies events to a run. Makes no decisions: the same events always give the same state.

use super::bugs::{Bug, planted};
use super::run::{
    End, EndKind, Ending, KeptSignal, OUTCOME_UNKNOWN, Phase, Run, StepState, UndoPhase,
};
use crate::base::clock::Millis;
use crate::runs::{ApprovalKind, ApprovalRequest, CallKind, Decided, Decision, Event, StepError};

impl Run {
    /// Applies the next record of the history, written at `at`.
    pub fn evolve(&mut self, event: &Event, at: Millis) {
        self.seq += 1;
        match event {
            Event::ApprovalRequested(request) | Event::IncidentOpened(request) => {
                let seq = self.seq;
                self.begin(at);
                if request.kind == ApprovalKind::Plan {
                    // An answer to the request comes too late.
                    self.goal.close_request();
                    self.goal.flagged |= request.suspects_injection();
                }
                let mut request = (**request).clone();
                request.expires_at = self.on_run_clock(request.expires_at, at);
                if let Some(step) = self.step_mut(request.step_id.as_deref()) {
                    step.due = None;
                    if request.kind == ApprovalKind::Incident {
                        step.phase = Phase::Incident(seq);
                        step.fail_for(&request);
                    } else {
                        step.phase = Phase::Approval(seq);
                        step.input = Some(request.input.clone());
                    }
                }
                self.approvals.insert(seq, request);
            }
            Event::ApprovalDecided(decided) | Event::IncidentDecided(decided) => {
                self.decided(decided, at);
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
                    step.claimed = false;
                    step.first_at.get_or_insert(at);
                    step.started_at.get_or_insert(at);
                }
            }
            Event::StepStarted {
                step_id,
                kind,
                deadline,
                ..
            } => {
                let due = self.on_run_clock(*deadline, at);
                if let Some(step) = self.step_mut(Some(step_id)) {
                    let (step_due, claimed) = match kind {
                        CallKind::Execute => (&mut step.due, &mut step.claimed),
                        CallKind::Compensate => (&mut step.undo.due, &mut step.undo.claimed),
                    };
                    *step_due = Some(due);
                    *claimed = true;
                }
            }
            Event::StepHeld {
                step_id,
                kind,
                until,
                maybe_called,
                ..
            } => {
                let due = until.map(|until| self.on_run_clock(until, at));
                let since = self.on_run_clock(at, at);
                if let Some(step) = self.step_mut(Some(step_id)) {
                    match kind {
                        CallKind::Execute => {
                            // A call that was not made uses up no attempt.
                            if step.phase == Phase::Running {
                                step.attempt -= 1;
                                // It may have been made before, with an effect.
                                step.unanswered |= maybe_called;
                            }
                            step.phase = Phase::Held;
                            step.due = due;
                            step.held_at.get_or_insert(since);
                        }
                        CallKind::Compensate => {
                            if step.undo.phase == UndoPhase::Running {
                                step.undo.attempt -= 1;
                            }
                            step.undo.phase = UndoPhase::Held;
                            step.undo.due = due;
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
                            // Its deadline stood still while it was held.
                            if let (Some(since), Some(first)) =
                                (step.held_at.take(), &mut step.first_at)
                            {
                                first.0 = first.0.saturating_add(at.0 - since.0);
                            }
                        }
                        // `Retry`, not `Pending`: it has begun, so it comes before other compensations.
                        CallKind::Compensate => {
                            step.undo.phase = UndoPhase::Retry;
                            step.undo.due = Some(at);
                        }
                    }
                }
            }
            Event::StepSucceeded {
                step_id,
                attempt,
                output,
                signal,
                reused,
                ..
            } => {
                if let Some(name) = signal
                    && let Some(at) = self.signals.iter().position(|kept| kept.name == *name)
                {
                    self.signals.remove(at);
                }
                self.outputs += output.text().len();
                let ended = self.end_step((step_id, at), Phase::Succeeded, |step| {
                    step.output = Some(output.clone());
                    step.error = None;
                    // Higher if the call was held after it was sent.
                    step.attempt = step.attempt.max(*attempt);
                });
                if !(*reused && planted(Bug::ForgetsReused)) {
                    self.effective.extend(ended);
                }
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
                if !planted(Bug::ForgetsUnknown) {
                    self.effective.extend(ended);
                }
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
                let due = self.on_run_clock(*due, at);
                if let Some(step) = self.step_mut(Some(step_id)) {
                    match kind {
                        CallKind::Execute => {
                            step.phase = Phase::Retry;
                            step.due = Some(due);
                            step.error = Some(error.clone());
                            step.unanswered |= !answered;
                        }
                        CallKind::Compensate => {
                            step.undo.phase = UndoPhase::Retry;
                            step.undo.due = Some(due);
                            step.undo.error = Some(error.clone());
                        }
                    }
                }
            }
            Event::StepSkipped { step_id, output } => {
                self.begin(at);
                self.outputs += output.as_ref().map_or(0, |output| output.text().len());
                let mut unanswered = false;
                let ended = self.end_step((step_id, at), Phase::Skipped, |step| {
                    unanswered = step.unanswered;
                    step.output.clone_from(output);
                });
                // An attempt may have had an effect.
                self.effective.extend(ended.filter(|_| unanswered));
            }
            Event::StepCancelled { step_id } => {
                self.end_step((step_id, at), Phase::Cancelled, |_| {});
            }
            Event::SignalReceived { name, data } => {
                self.signals.push_back(KeptSignal {
                    name: name.clone(),
                    data: data.clone(),
                });
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
                    step.undo.claimed = false;
                }
            }
            Event::CompensationSucceeded { step_id, attempt } => {
                self.end_undo(step_id, None);
                if let Some(step) = self.step_mut(Some(step_id)) {
                    step.undo.attempt = step.undo.attempt.max(*attempt);
                }
            }
            Event::CompensationFailed { step_id, error, .. } => {
                self.end_undo(step_id, Some(error));
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
                self.ending = Some(Ending {
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
            Event::RunHeld { since, .. } => self.held_since = Some(*since),
            Event::RunReleased { held_ms } => {
                self.held_since = None;
                self.postpone_waiting(*held_ms);
            }
            Event::GuardianChecked(report) => self.guardian_checked(report),
            Event::PlanRequested => self.plan_requested(at),
            Event::PlanReady(ready) => self.plan_is_ready(ready, at),
            // A run is constructed with its start.
            Event::RunStarted(_) | Event::Refused { .. } => {}
            Event::RunSucceeded { output } => self.end = Some(End::Succeeded(output.clone())),
            Event::RunFailed { error } => self.end = Some(End::Failed((**error).clone())),
            Event::RunDenied { error } => self.end = Some(End::Denied((**error).clone())),
            Event::RunCancelled { error } => self.end = Some(End::Cancelled((**error).clone())),
        }
        let begins = matches!(event, Event::StepHeld { .. } | Event::RunHeld { .. });
        if begins || self.still_since.is_some() {
            self.count_still(self.on_run_clock(at, at));
        }
    }

    fn step_mut(&mut self, id: Option<&str>) -> Option<&mut StepState> {
        let index = self.plan.0.index(id?)?;
        self.steps.get_mut(index)
    }

    /// The run leaves `queued`.
    pub(super) fn begin(&mut self, at: Millis) {
        if self.begun_at.is_none() {
            self.begun_at = Some(at);
            let timeout = self.plan.0.timeout_ms;
            self.deadline = Some(Millis(at.0.saturating_add_unsigned(timeout)));
            self.still_since = self.still_since.map(|_| at);
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
        // A late success of a step whose outcome was unknown is counted already.
        let ended = matches!(step.phase, Phase::Failed | Phase::Unknown);
        step.phase = phase;
        step.due = None;
        step.held_at = None;
        step.finished_at = Some(at);
        change(step);
        (!ended || !self.effective.contains(&index)).then_some(index)
    }

    fn end_undo(&mut self, id: &str, error: Option<&StepError>) {
        let Some(index) = self.plan.0.index(id) else {
            return;
        };
        let undo = &mut self.steps[index].undo;
        undo.phase = match error {
            None => UndoPhase::Succeeded,
            Some(_) => UndoPhase::Failed,
        };
        undo.due = None;
        undo.error = error.cloned();
        self.undone.push(index);
    }

    /// Converts a due time in a record written at `at`: during a pause the run's clock stands still, so the time since the pause
    /// began is subtracted.
    pub(super) fn on_run_clock(&self, due: Millis, at: Millis) -> Millis {
        match self.paused_at {
            Some(since) => Millis(due.0.saturating_sub(at.0 - since.0)),
            None => due,
        }
    }

    fn fail(&mut self, step: Option<usize>, error: &StepError) {
        self.ending.get_or_insert_with(|| Ending {
            kind: EndKind::Failed,
            step,
            error: error.clone(),
            compensate: true,
        });
    }

    fn decided(&mut self, decided: &Decided, at: Millis) {
        let Some(request) = self.approvals.remove(&decided.approval) else {
            return;
        };
        let decision = (decided.decision, decided.by.clone());
        self.decided.insert(decided.approval, decision);
        if let Some(hash) = decided.given() {
            self.decided_values.insert(decided.approval, hash);
        }
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
                    step.accepted = Some(request.reasons);
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
                    step.due = None;
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
                    step.finished_at = Some(at);
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

    /// Moves all deadlines by the length of a pause.
    fn postpone(&mut self, ms: i64) {
        let later = |due: &mut Option<Millis>| {
            if let Some(due) = due {
                due.0 = due.0.saturating_add(ms);
            }
        };
        later(&mut self.deadline);
        later(&mut self.held_since);
        later(&mut self.still_since);
        later(&mut self.goal.due);
        for step in &mut self.steps {
            later(&mut step.due);
            later(&mut step.undo.due);
            later(&mut step.first_at);
            later(&mut step.held_at);
        }
        for approval in self.approvals.values_mut() {
            approval.expires_at.0 = approval.expires_at.0.saturating_add(ms);
        }
    }
}

impl StepState {
    /// Sets the error of the last attempt from an incident.
    fn fail_for(&mut self, incident: &ApprovalRequest) {
        let code = incident.reasons.first().cloned().unwrap_or_default();
        let message = incident.message.clone().unwrap_or_default();
        self.error = Some(StepError::new(code, message));
        let unknown = |reason: &String| reason == OUTCOME_UNKNOWN;
        self.unanswered |= incident.reasons.iter().any(unknown);
    }
}
