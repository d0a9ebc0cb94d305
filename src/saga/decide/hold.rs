//! Held calls: a control, a limit or an open circuit breaker does not let them be sent now.

use super::{Hold, Turn};
use crate::{
    base::clock::Millis,
    plans::Tool,
    runs::{CallKind, Event},
    saga::{
        compiled::{CompiledPlan, CompiledStep},
        run::{Phase, UndoPhase},
    },
};

/// How long a call is held if the report has no end.
const HOLD_MS: u64 = 1_000;

impl Turn<'_> {
    /// Why a call of this tool may not be sent now; `None`: it may. `until` is later than now, so that a hold cannot wake the run at once.
    pub(super) fn hold_of(&self, tool: &Tool) -> Option<Hold> {
        let mut hold = (self.env.hold)(tool)?;
        if let Some(until) = &mut hold.until {
            *until = (*until).max(self.after(1));
        }
        Some(hold)
    }

    /// Holds a call until `hold` ends.
    pub(super) fn hold(&mut self, step: &CompiledStep, kind: CallKind, hold: Hold) {
        self.emit(Event::StepHeld {
            step_id: step.id.clone(),
            kind,
            reason: hold.reason,
            until: hold.until,
            maybe_called: false,
        });
    }

    /// Releases calls whose holds have ended, or holds them again if there is a new reason.
    pub(super) fn release(&mut self, plan: &CompiledPlan) {
        for (index, step) in plan.steps.iter().enumerate() {
            let state = &self.run.steps[index];
            let (kind, tool, due) = if state.phase == Phase::Held && self.run.ending.is_none() {
                (CallKind::Execute, &step.tool, state.due)
            } else if state.undo.phase == UndoPhase::Held
                && let Some(compensation) = &step.compensation
            {
                (CallKind::Compensate, &compensation.tool, state.undo.due)
            } else {
                continue;
            };
            if due.is_some_and(|due| due > self.env.now) {
                continue;
            }
            match self.hold_of(tool) {
                None => self.emit(Event::StepReleased {
                    step_id: step.id.clone(),
                    kind,
                }),
                Some(hold) if hold.until != due => self.hold(step, kind, hold),
                Some(_) => {}
            }
        }
    }

    /// A worker or effect reports that it did not make a call. A hold without an end gets one, because nothing would release it: only
    /// holds by controls have none.
    pub(super) fn held(
        &mut self,
        (id, kind, attempt): (&str, CallKind, u32),
        hold: Hold,
        maybe_called: bool,
    ) {
        let plan = self.plan();
        let index = plan.index(id).filter(|_| self.run.end.is_none());
        let current = index.filter(|index| {
            let state = &self.run.steps[*index];
            match kind {
                CallKind::Execute => {
                    state.phase == Phase::Running
                        && state.attempt == attempt
                        && Self::builtin(&plan.steps[*index]).is_none()
                }
                CallKind::Compensate => {
                    state.undo.phase == UndoPhase::Running && state.undo.attempt == attempt
                }
            }
        });
        match current {
            Some(index) => self.emit(Event::StepHeld {
                step_id: plan.steps[index].id.clone(),
                kind,
                reason: hold.reason,
                until: Some(hold.until.unwrap_or_else(|| self.after(HOLD_MS))),
                maybe_called,
            }),
            None => self.effects.ignored = true,
        }
    }

    /// The time `ms` milliseconds from now.
    pub(super) fn after(&self, ms: u64) -> Millis {
        Millis(self.env.now.0.saturating_add_unsigned(ms))
    }
}
