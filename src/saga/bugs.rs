//! Bugs planted in the core on purpose, at run time: the tests show that each of them is found. They are compiled for tests, and with the
//! feature `chaos`.

/// A bug that breaks a guarantee of the core.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(unreachable_pub, reason = "public with the feature `chaos` alone")]
pub enum Bug {
    /// Compensations run in the order of the steps, instead of in reverse.
    CompensatesForward,
    /// A step whose outcome is unknown is not compensated.
    ForgetsUnknown,
    /// A second result of a step that has succeeded is accepted.
    AcceptsSecondResult,
    /// A paused run schedules steps.
    SchedulesWhilePaused,
    /// One attempt more than the plan allows.
    RetriesBeyondMax,
    /// A compensation that succeeded is called again.
    CompensatesTwice,
    /// No timer is set for the next attempt.
    ForgetsDeadline,
    /// Retries are dispatched although their tool is held.
    DispatchesWhileHeld,
    /// A late success of a step that counts as failed is ignored.
    DropsLateSuccess,
    /// The run ends without waiting for attempts in flight.
    EndsBeforeAttempt,
    /// Steps that an earlier run has carried out are carried out again.
    RepeatsReused,
    /// Steps that an earlier run has carried out are not compensated.
    ForgetsReused,
    /// A deadline takes precedence over a record that waits in the log.
    DeadlineBeforeRecords,
    /// A second plan replaces the first.
    SecondPlanReplaces,
    /// Signals that no step has waited for yet are not stored.
    ForgetsSignals,
    /// Safe mode holds no calls.
    IgnoresSafeMode,
}

#[cfg(any(test, feature = "chaos"))]
impl Bug {
    /// All bugs.
    pub const ALL: [Self; 16] = [
        Self::CompensatesForward,
        Self::ForgetsUnknown,
        Self::AcceptsSecondResult,
        Self::SchedulesWhilePaused,
        Self::RetriesBeyondMax,
        Self::CompensatesTwice,
        Self::ForgetsDeadline,
        Self::DispatchesWhileHeld,
        Self::DropsLateSuccess,
        Self::EndsBeforeAttempt,
        Self::RepeatsReused,
        Self::ForgetsReused,
        Self::DeadlineBeforeRecords,
        Self::SecondPlanReplaces,
        Self::ForgetsSignals,
        Self::IgnoresSafeMode,
    ];
}

/// Whether this bug is planted; never outside tests.
#[cfg(not(any(test, feature = "chaos")))]
pub(super) const fn planted(_: Bug) -> bool {
    false
}

#[cfg(any(test, feature = "chaos"))]
pub use in_tests::plant;
#[cfg(any(test, feature = "chaos"))]
pub(super) use in_tests::planted;

#[cfg(any(test, feature = "chaos"))]
mod in_tests {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Plants a bug in the core, or none, for the runs of this thread.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }

    /// Whether this bug is planted.
    pub(in crate::saga) fn planted(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }
}
