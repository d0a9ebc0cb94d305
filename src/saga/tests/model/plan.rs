//! The plans of random runs.

/// What a step does.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(in crate::saga::tests) enum Does {
    /// A worker does it.
    Work,
    /// The same, once a person has approved it.
    Risky,
    /// The same, because of the key of whoever asked for the run.
    Listed,
    /// Its output is a number.
    Noop(i64),
    /// It waits for so long.
    Sleep(i64),
    /// It waits for the signal `a`; or for the first of `a` and `b`.
    Signal { any: bool, timeout: i64 },
    /// A person approves.
    Approve,
}

impl Does {
    pub(in crate::saga::tests) fn is_work(self) -> bool {
        matches!(self, Self::Work | Self::Risky | Self::Listed)
    }
}

/// Under which condition a step runs.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(in crate::saga::tests) enum If {
    Always,
    Never,
    /// If the output of this step, on which it depends, is more than 1.
    Output(usize),
}

/// A step of a plan.
#[derive(Clone, Debug)]
pub(in crate::saga::tests) struct Step {
    pub(in crate::saga::tests) does: Does,
    pub(in crate::saga::tests) on: Vec<usize>,
    pub(in crate::saga::tests) when: If,
    pub(in crate::saga::tests) compensated: bool,
    pub(in crate::saga::tests) incident: bool,
    pub(in crate::saga::tests) attempts: u32,
    pub(in crate::saga::tests) deadline: Option<i64>,
    /// An earlier run has carried it out.
    pub(in crate::saga::tests) reused: Option<Reused>,
}

/// What an earlier run has done about a step.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(in crate::saga::tests) enum Reused {
    /// It has succeeded, with this output.
    Succeeded(i64),
    /// A person has skipped it, with this output.
    Skipped(i64),
}

/// A run that is asked for.
#[derive(Clone, Debug)]
pub(in crate::saga::tests) struct Plan {
    pub(in crate::saga::tests) steps: Vec<Step>,
    pub(in crate::saga::tests) timeout: i64,
    pub(in crate::saga::tests) run_at: Option<i64>,
    pub(in crate::saga::tests) approve: bool,
    /// Its compensations have failed in an earlier run, and that is all there is to do.
    pub(in crate::saga::tests) undoes: bool,
}

impl Plan {
    /// The steps that a run undoes that does nothing else, the first one that ended first.
    pub(in crate::saga::tests) fn undone(&self) -> Vec<usize> {
        let all = 0..self.steps.len();
        all.filter(|index| self.undoes && self.steps[*index].compensated)
            .collect()
    }
}
