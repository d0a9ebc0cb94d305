//! The consumer loop that lanes, projections and effects share: it joins a group, polls the assigned partitions, reports its state, and
//! returns how long to back off after a failure. A [`Handler`] processes the records and reacts to assignments.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use rand::{SeedableRng, rngs::StdRng};

use super::progress::LaneProgress;
use crate::{
    base::backoff::{self, Backoff},
    log::{Fetched, Lane, LogError, Polled, Source, Work},
};

/// Longest wait of a poll when no timer is due earlier.
pub(crate) const IDLE: Duration = Duration::from_millis(100);
/// Pauses after failed steps.
pub(crate) const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(50),
    max: Duration::from_secs(1),
};
/// The reported reason for waiting until partitions are assigned.
const JOINING: &str = "its consumer group shares out the partitions";

/// What one step did.
#[derive(Clone, Debug)]
pub enum Step {
    /// It joined its group; partitions are assigned in later steps.
    Joined,
    /// Partitions were assigned, and their state restored.
    Assigned,
    /// Partitions were given up.
    Revoked,
    /// Records were read and timers fired, and their results are committed or in flight. Both are zero if there was nothing to do.
    Processed {
        /// Records read.
        records: usize,
        /// Timers fired.
        timers: usize,
    },
    /// A transaction was aborted because of one of its records or timers: the next steps restore the state and read the records again.
    Aborted,
    /// After an abort the transforms were recreated from the committed state.
    Restored,
    /// It failed for an external reason. The caller must wait for `retry_after` before the next step.
    Failed {
        /// The error that ended it.
        error: LogError,
        /// Grows with each failure until records are processed.
        retry_after: Duration,
    },
}

/// Why a step failed.
pub(crate) enum Fault {
    /// The step is repeated after a pause.
    Retry(LogError),
    /// The input is closed, and the group is joined again after a pause.
    Over(LogError),
}

impl From<LogError> for Fault {
    fn from(error: LogError) -> Self {
        Self::Over(error)
    }
}

/// The decision before a poll.
pub(crate) enum Next {
    /// Poll, and wait for records at most this long.
    Poll(Duration),
    /// The step is done.
    Done(Step),
}

/// Input whose partitions are assigned to the members of a group.
pub(crate) trait Input: Send {
    fn poll(&mut self, wait: Duration, out: &mut Vec<Fetched>) -> Result<Polled, LogError>;
    fn release(&mut self, partitions: &[(usize, u32)]) -> Result<(), LogError>;
}

macro_rules! inputs {
    ($($kind:ident),*) => {$(
        impl Input for dyn $kind {
            fn poll(&mut self, wait: Duration, out: &mut Vec<Fetched>) -> Result<Polled, LogError> {
                $kind::poll(self, wait, out)
            }

            fn release(&mut self, partitions: &[(usize, u32)]) -> Result<(), LogError> {
                $kind::release(self, partitions)
            }
        }
    )*};
}

inputs!(Lane, Source, Work);

/// Partitions, as (index of the topic, partition).
pub(crate) type Partitions = BTreeSet<(usize, u32)>;

/// Processes the input of a [`Consumer`]. An error of the log itself closes the input.
pub(crate) trait Handler {
    type Input: Input + ?Sized;

    /// Joins the group.
    fn join(&mut self) -> Result<Box<Self::Input>, LogError>;

    /// Called before each poll.
    fn next(&mut self, input: &mut Self::Input, assigned: &Partitions) -> Result<Next, Fault>;

    /// Processes the records of a poll, which may be none.
    fn records(
        &mut self,
        input: &mut Self::Input,
        batch: &mut Vec<Fetched>,
        assigned: &Partitions,
    ) -> Result<Step, Fault>;

    /// Called when partitions are assigned.
    fn assigned(
        &mut self,
        input: &mut Self::Input,
        partitions: &[(usize, u32)],
    ) -> Result<(), Fault>;

    /// Called before partitions are released. `lost`: another member owns them already, so nothing can be committed for them.
    fn revoked(
        &mut self,
        input: &mut Self::Input,
        partitions: &[(usize, u32)],
        lost: bool,
    ) -> Result<(), LogError>;

    /// Called when the input was closed: drops uncommitted work.
    fn over(&mut self);

    /// Called before a stop: commits finished work.
    fn stop(&mut self, _input: &mut Self::Input, _assigned: &Partitions) -> Result<(), LogError> {
        Ok(())
    }

    /// The state to report; `None` leaves the last reported state.
    fn state(&self) -> Option<State<'_>> {
        Some(State::Running)
    }
}

/// The state of a handler.
pub(crate) enum State<'a> {
    Running,
    /// It waits for the named condition.
    Waiting(&'a str),
    /// An operator holds it, for this reason.
    Held(&'a str),
}

/// The identity of a consumer.
pub(crate) struct Member {
    /// The processor.
    pub(crate) name: String,
    /// Its input topics.
    pub(crate) topics: Vec<String>,
    /// Receives its reports.
    pub(crate) progress: Arc<LaneProgress>,
}

/// A member of a consumer group and the handler of its input.
pub(crate) struct Consumer<H: Handler> {
    pub(crate) handler: H,
    of: Member,
    /// `None` until the next step joins the group.
    input: Option<Box<H::Input>>,
    assigned: Partitions,
    /// Whether the group has assigned partitions to it, possibly none.
    member: bool,
    batch: Vec<Fetched>,
    /// Failures since the last processed records.
    attempt: u32,
    jitter: StdRng,
}

impl<H: Handler> Consumer<H> {
    /// `seed` determines the jitter of its pauses.
    pub(crate) fn new(of: Member, handler: H, seed: u64) -> Self {
        Self {
            handler,
            of,
            input: None,
            assigned: Partitions::new(),
            member: false,
            batch: Vec::new(),
            attempt: 0,
            jitter: StdRng::seed_from_u64(seed),
        }
    }

    /// Runs one round: joins the group, or polls once (at most for `wait`) and handles the result.
    pub(crate) fn step(&mut self, wait: Duration) -> Step {
        match self.try_step(wait) {
            Ok(step) => step,
            Err(Fault::Retry(error)) => self.retry(error),
            Err(Fault::Over(error)) => self.over(error),
        }
    }

    fn try_step(&mut self, wait: Duration) -> Result<Step, Fault> {
        let Some(mut input) = self.input.take() else {
            self.of.progress.starting(JOINING);
            self.input = Some(self.handler.join()?);
            return Ok(Step::Joined);
        };
        let stepped = self.round(&mut *input, wait);
        if !matches!(stepped, Err(Fault::Over(_))) {
            self.input = Some(input);
        }
        stepped
    }

    fn round(&mut self, input: &mut H::Input, wait: Duration) -> Result<Step, Fault> {
        let wait = match self.handler.next(input, &self.assigned)? {
            Next::Poll(most) => most.min(wait),
            Next::Done(step) => return Ok(step),
        };
        self.batch.clear();
        let step = match input.poll(wait, &mut self.batch)? {
            Polled::Records => match self
                .handler
                .records(input, &mut self.batch, &self.assigned)?
            {
                Step::Aborted => return Ok(Step::Aborted),
                step => {
                    self.attempt = 0;
                    step
                }
            },
            Polled::Assigned(partitions) => {
                self.assign(&partitions);
                self.handler.assigned(input, &partitions)?;
                Step::Assigned
            }
            Polled::Revoked(partitions) => self.revoke(input, &partitions, false)?,
            Polled::Lost(partitions) => self.revoke(input, &partitions, true)?,
        };
        let progress = &self.of.progress;
        match self.handler.state() {
            None => {}
            Some(State::Waiting(what)) => progress.waiting(what),
            Some(State::Held(why)) => progress.held(why),
            Some(State::Running) if !self.member => progress.starting(JOINING),
            // It has opened its partitions, and polled none of them yet.
            Some(State::Running) if matches!(step, Step::Assigned) => {}
            Some(State::Running) => progress.running(),
        }
        Ok(step)
    }

    fn assign(&mut self, partitions: &[(usize, u32)]) {
        self.assigned.extend(partitions);
        self.member = true;
        self.of.progress.assigned(|topic, partition| {
            let mut assigned = self.assigned.iter();
            assigned.any(|(t, p)| self.of.topics[*t] == topic && *p == partition)
        });
    }

    fn revoke(
        &mut self,
        input: &mut H::Input,
        partitions: &[(usize, u32)],
        lost: bool,
    ) -> Result<Step, LogError> {
        self.handler.revoked(input, partitions, lost)?;
        for at in partitions {
            self.assigned.remove(at);
            self.of.progress.revoked(&self.of.topics[at.0], at.1);
        }
        self.member = false;
        self.of.progress.starting(JOINING);
        input.release(partitions)?;
        Ok(Step::Revoked)
    }

    /// Closes the input because of this error.
    pub(crate) fn over(&mut self, error: LogError) -> Step {
        self.input = None;
        self.assigned.clear();
        self.member = false;
        self.handler.over();
        self.retry(error)
    }

    fn retry(&mut self, error: LogError) -> Step {
        let retry_after = BACKOFF.pause_by(self.attempt, &mut self.jitter);
        tracing::warn!(processor = self.of.name, %error, pause = ?retry_after, "a step of the processor failed; retrying");
        self.of.progress.retrying(error.to_string());
        self.attempt += 1;
        Step::Failed { error, retry_after }
    }

    /// Runs steps on the calling thread until `stopping` returns true.
    pub(crate) fn run(mut self, stopping: impl Fn() -> bool) {
        run(&stopping, || self.step(IDLE));
        if let Some(mut input) = self.input.take()
            && let Err(error) = self.handler.stop(&mut *input, &self.assigned)
        {
            tracing::warn!(processor = self.of.name, %error, "work in progress could not be committed at the stop, and will be repeated");
        }
    }
}

/// Runs steps until `stopping` returns true, and backs off after failed steps.
pub(crate) fn run(stopping: impl Fn() -> bool, mut step: impl FnMut() -> Step) {
    while !stopping() {
        if let Step::Failed { retry_after, .. } = step() {
            backoff::sleep(retry_after, &stopping);
        }
    }
}
