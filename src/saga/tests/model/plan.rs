//! The plans of random runs.

/// The action of a step.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(in crate::saga::tests) enum Action {
    /// A call of a worker.
    Work,
    /// A call of a worker that needs approval because of its risk.
    Risky,
    /// A call of a worker that needs approval because of the requester's API key.
    Listed,
    /// `noop` with this output.
    Noop(i64),
    /// `wait` for this many seconds.
    Sleep(i64),
    /// `wait` for the signal `a`, or (`any`) for the first of `a` and `b`.
    Signal { any: bool, timeout: i64 },
    /// `approve`.
    Approve,
}

impl Action {
    pub(in crate::saga::tests) fn is_work(self) -> bool {
        matches!(self, Self::Work | Self::Risky | Self::Listed)
    }
}

/// The condition of a step.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(in crate::saga::tests) enum Condition {
    Always,
    Never,
    /// If the output of this step, on which it depends, is more than 1.
    Output(usize),
}

/// A step of a plan.
#[derive(Clone, Debug)]
pub(in crate::saga::tests) struct Step {
    pub(in crate::saga::tests) does: Action,
    pub(in crate::saga::tests) on: Vec<usize>,
    pub(in crate::saga::tests) when: Condition,
    pub(in crate::saga::tests) compensated: bool,
    pub(in crate::saga::tests) incident: bool,
    pub(in crate::saga::tests) attempts: u32,
    pub(in crate::saga::tests) deadline: Option<i64>,
    /// The result of an earlier run, which is reused.
    pub(in crate::saga::tests) reused: Option<Reused>,
}

/// The result of a step in an earlier run.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(in crate::saga::tests) enum Reused {
    /// It succeeded, with this output.
    Succeeded(i64),
    /// A person skipped it, with this output.
    Skipped(i64),
}

/// The plan and settings of a run.
#[derive(Clone, Debug)]
pub(in crate::saga::tests) struct Plan {
    pub(in crate::saga::tests) steps: Vec<Step>,
    pub(in crate::saga::tests) timeout: i64,
    pub(in crate::saga::tests) run_at: Option<i64>,
    pub(in crate::saga::tests) approve: bool,
    /// The run is that of a goal: a planner or a person gives its plan. How planners answer once nothing else happens.
    pub(in crate::saga::tests) goal: Option<Planner>,
    /// The run only retries compensations that failed in an earlier run.
    pub(in crate::saga::tests) undoes: bool,
}

/// A planner, once nothing else happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::saga::tests) enum Planner {
    /// It gives the plan.
    Plans,
    /// It has none.
    Fails,
    /// It never answers.
    Silent,
}

impl Plan {
    /// The steps whose compensations are retried, if the run only does that, in the order in which they ended.
    pub(in crate::saga::tests) fn undone(&self) -> Vec<usize> {
        let all = 0..self.steps.len();
        all.filter(|index| self.undoes && self.steps[*index].compensated)
            .collect()
    }
}
