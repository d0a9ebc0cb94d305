//! The loop that lanes, projections and effects share: it joins a group, polls what is assigned, reports how it is, and says how long
//! to back off when it fails. What is done with records and partitions is its [`Handler`]'s.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use rand::{SeedableRng, rngs::StdRng};

use super::progress::LaneProgress;
use crate::{
    base::backoff::{self, Backoff},
    log::{Fetched, Lane, LogError, Polled, Source, Work},
};

/// How long a poll waits when there is nothing to do.
pub(crate) const IDLE: Duration = Duration::from_millis(100);
/// Pauses of whoever consumes, when it fails.
pub(crate) const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(50),
    max: Duration::from_secs(1),
};
/// What is waited for before there are partitions.
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
    /// So many records were read and timers fired, and what came of them is committed or on its way. Zero of both: there was nothing
    /// to do.
    Processed {
        /// Records.
        records: usize,
        /// Timers.
        timers: usize,
    },
    /// A transaction was aborted for what it was given: the next steps restore the state, and read the records again.
    Aborted,
    /// After an abort the transforms were made anew from the committed state.
    Restored,
    /// It failed for a reason outside. Before the next step the caller is to let `retry_after` pass.
    Failed {
        /// Why.
        error: LogError,
        /// It grows until records are processed.
        retry_after: Duration,
    },
}

/// Why a step did not succeed.
pub(crate) enum Fault {
    /// After a pause it goes on.
    Retry(LogError),
    /// The input is over: after a pause the group is joined again.
    Over(LogError),
}

impl From<LogError> for Fault {
    fn from(error: LogError) -> Self {
        Self::Over(error)
    }
}

/// What is to be done before a poll.
pub(crate) enum Next {
    /// To poll, and to wait for this long at most.
    Poll(Duration),
    /// The step is done.
    Done(Step),
}

/// Input that is shared out among the members of a group.
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

/// Partitions: topic index, number.
pub(crate) type Partitions = BTreeSet<(usize, u32)>;

/// What is done with the input. An error of the log itself ends the input.
pub(crate) trait Handler {
    type Input: Input + ?Sized;

    /// Joins the group.
    fn join(&mut self) -> Result<Box<Self::Input>, LogError>;

    /// Called before each poll.
    fn next(&mut self, input: &mut Self::Input, assigned: &Partitions) -> Result<Next, Fault>;

    /// A poll gave these records, or none.
    fn records(
        &mut self,
        input: &mut Self::Input,
        batch: &mut Vec<Fetched>,
        assigned: &Partitions,
    ) -> Result<Step, Fault>;

    /// These partitions are ours from now on.
    fn assigned(
        &mut self,
        input: &mut Self::Input,
        partitions: &[(usize, u32)],
    ) -> Result<(), Fault>;

    /// These partitions are to be released. `lost`: another owner has them already, and nothing can be committed for them.
    fn revoked(
        &mut self,
        input: &mut Self::Input,
        partitions: &[(usize, u32)],
        lost: bool,
    ) -> Result<(), LogError>;

    /// The input is gone: drops what is not committed.
    fn over(&mut self);

    /// It is asked to stop: commits what is in hand.
    fn stop(&mut self, _input: &mut Self::Input, _assigned: &Partitions) -> Result<(), LogError> {
        Ok(())
    }

    /// How it is, as far as that is up to it; `None`: as it was last reported.
    fn state(&self) -> Option<State<'_>> {
        Some(State::Running)
    }
}

/// How a handler is.
pub(crate) enum State<'a> {
    Running,
    /// It waits for this.
    Waiting(&'a str),
    /// An operator holds it, for this reason.
    Held(&'a str),
}

/// Who consumes.
pub(crate) struct Member {
    /// The processor.
    pub(crate) name: String,
    /// Its input topics.
    pub(crate) topics: Vec<String>,
    /// Where it reports how it is.
    pub(crate) progress: Arc<LaneProgress>,
}

/// A member of a group, and what it does with its input.
pub(crate) struct Consumer<H: Handler> {
    pub(crate) handler: H,
    of: Member,
    /// `None`: the next step joins.
    input: Option<Box<H::Input>>,
    assigned: Partitions,
    /// The group has given it a share, be it an empty one.
    member: bool,
    batch: Vec<Fetched>,
    /// Failures since records were processed.
    attempt: u32,
    jitter: StdRng,
}

impl<H: Handler> Consumer<H> {
    /// The jitter of its pauses follows from `seed`.
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

    /// Does one round: joins the group, or polls once, for `wait` at most, and handles what came of it.
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
            Some(State::Running) if self.member => progress.running(),
            Some(State::Running) => progress.starting(JOINING),
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

    /// The input is over for this reason.
    pub(crate) fn over(&mut self, error: LogError) -> Step {
        self.input = None;
        self.assigned.clear();
        self.member = false;
        self.handler.over();
        self.retry(error)
    }

    fn retry(&mut self, error: LogError) -> Step {
        let retry_after = BACKOFF.pause_by(self.attempt, &mut self.jitter);
        tracing::warn!(processor = self.of.name, %error, pause = ?retry_after, "the processor stalls and tries again");
        self.of.progress.retrying(error.to_string());
        self.attempt += 1;
        Step::Failed { error, retry_after }
    }

    /// Steps until it is asked to stop, on the thread that calls.
    pub(crate) fn run(mut self, stopping: impl Fn() -> bool) {
        run(&stopping, || self.step(IDLE));
        if let Some(mut input) = self.input.take()
            && let Err(error) = self.handler.stop(&mut *input, &self.assigned)
        {
            tracing::warn!(processor = self.of.name, %error, "what was in hand is not committed, and is done again");
        }
    }
}

/// Steps until it is asked to stop, and rests where a step failed.
pub(crate) fn run(stopping: impl Fn() -> bool, mut step: impl FnMut() -> Step) {
    while !stopping() {
        if let Step::Failed { retry_after, .. } = step() {
            backoff::sleep(retry_after, &stopping);
        }
    }
}
