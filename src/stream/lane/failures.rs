//! What failed a transaction, so that it is told from the rest when it comes again.

use std::{any::Any, collections::HashMap};

use bytes::Bytes;

use crate::{
    base::{clock::Millis, panics::panic_message},
    log::{LogError, Unavailable},
    stream::Rejected,
};

/// Times that a transform may fail to say what becomes of a timer.
const TIMER_FAILURES: u32 = 8;

/// Topic index, partition, offset.
pub(super) type InputOffset = (usize, u32, u64);

/// What a transaction failed for.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Culprit {
    Record(InputOffset),
    Timer(u32, Bytes, Millis),
}

/// Why a batch did not become a transaction.
pub(super) enum Failed {
    /// This record panicked, or failed after it had changed state; or this timer failed.
    Poison(Box<(Culprit, Rejected)>),
    /// A transform failed when it closed. So many records and timers were in the transaction, this one last.
    Close(Box<Rejected>, usize, Option<Culprit>),
    Log(LogError),
}

impl From<LogError> for Failed {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

/// A timer that failed.
struct FailedTimer {
    due: Millis,
    rejected: Rejected,
    failures: u32,
}

/// What becomes of a timer that failed before.
pub(super) enum KnownTimer {
    /// The transform says what becomes of it.
    Failed(Rejected),
    /// It could not say so often enough: the timer is a dead letter.
    GivenUp(Rejected),
}

/// Records and timers that failed, and the search for one that cannot be told from others.
#[derive(Default)]
pub(super) struct Failures {
    /// Records that panicked, and why: they go to the dead-letter queue when they come again.
    records: HashMap<InputOffset, Rejected>,
    /// By partition and key: the transform is asked what becomes of them when they come again.
    timers: HashMap<(u32, Bytes), FailedTimer>,
    /// A transform failed when it closed: among so many records and timers that come next is the one that it fails for. 0: none.
    bisected: usize,
    /// Each was alone in a transaction that failed when it closed: the second time it is to blame. Of several partitions there may be
    /// several in turn.
    suspects: Vec<Culprit>,
}

impl Failures {
    /// Notes what a record or a timer failed for.
    pub(super) fn note(&mut self, processor: &str, culprit: Culprit, rejected: Rejected) {
        match culprit {
            Culprit::Record(at) => {
                self.records.insert(at, rejected);
            }
            Culprit::Timer(partition, key, due) => {
                tracing::warn!(%processor, partition, code = %rejected.code, why = %rejected.message, "a timer failed");
                let known = self.timers.entry((partition, key));
                let failed = known.or_insert(FailedTimer {
                    due,
                    rejected,
                    failures: 0,
                });
                // The first failure is the reason; what follows is about the same.
                failed.failures = if failed.due == due {
                    failed.failures + 1
                } else {
                    1
                };
                failed.due = due;
            }
        }
    }

    /// A transform failed when it closed a transaction of `items` records and timers, `last` the last of them. `Some`: none of
    /// them is to blame.
    pub(super) fn note_close(
        &mut self,
        processor: &str,
        rejected: Rejected,
        items: usize,
        last: Option<Culprit>,
    ) -> Option<LogError> {
        match (items, last) {
            (1, Some(culprit)) => {
                if self.suspects.contains(&culprit) {
                    self.suspects.retain(|suspect| *suspect != culprit);
                    self.note(processor, culprit, rejected);
                } else {
                    self.suspects.push(culprit);
                    self.bisected = 1;
                }
                None
            }
            (2.., _) => {
                tracing::warn!(%processor, code = %rejected.code, why = %rejected.message, items, "a transaction fails when it closes, and is made again with half of it");
                self.bisected = items;
                None
            }
            _ => Some(LogError::Unavailable(Unavailable::Transform(format!(
                "the transform fails when it closes: {}",
                rejected.message
            )))),
        }
    }

    /// The most records and timers of the next transaction.
    pub(super) fn most(&self) -> usize {
        match self.bisected {
            0 => usize::MAX,
            bisected => bisected.div_ceil(2),
        }
    }

    /// A transaction of so many was committed.
    pub(super) fn committed(&mut self, items: usize) {
        self.bisected = self.bisected.saturating_sub(items);
    }

    /// Why a record failed before.
    pub(super) fn record(&self, at: &InputOffset) -> Option<&Rejected> {
        self.records.get(at)
    }

    /// Forgets the records of a partition before its position.
    pub(super) fn forget_records(&mut self, (topic, partition, next): InputOffset) {
        let ahead = |at: &InputOffset| (at.0, at.1) != (topic, partition) || at.2 >= next;
        self.records.retain(|at, _| ahead(at));
        self.suspects
            .retain(|suspect| !matches!(suspect, Culprit::Record(at) if !ahead(at)));
    }

    /// Whether a timer failed before.
    pub(super) fn timer(&self, partition: u32, key: &Bytes, due: Millis) -> Option<KnownTimer> {
        let failed = self.timers.get(&(partition, key.clone()))?;
        if failed.due != due {
            return None;
        }
        let rejected = failed.rejected.clone();
        Some(if failed.failures <= TIMER_FAILURES {
            KnownTimer::Failed(rejected)
        } else {
            KnownTimer::GivenUp(rejected)
        })
    }

    pub(super) fn forget_timer(&mut self, partition: u32, key: Bytes) {
        self.suspects.retain(
            |suspect| !matches!(suspect, Culprit::Timer(p, k, _) if (*p, k) == (partition, &key)),
        );
        self.timers.remove(&(partition, key));
    }

    /// Another lane has the partition now.
    pub(super) fn revoked(&mut self, partition: u32) {
        self.timers.retain(|timer, _| timer.0 != partition);
        self.suspects.retain(|suspect| {
            let (Culprit::Record((_, of, _)) | Culprit::Timer(of, ..)) = suspect;
            *of != partition
        });
    }
}

/// A panic as the failure of what panicked.
pub(super) fn panicked(panic: &(dyn Any + Send)) -> Rejected {
    Rejected {
        code: "panic".into(),
        message: panic_message(panic),
        value: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suspects_that_take_turns_are_both_found() {
        let mut failures = Failures::default();
        let (one, two) = ((0, 0, 7), (0, 1, 9));
        for at in [one, two, one, two] {
            assert!(failures.record(&at).is_none());
            let rejected = Rejected::new("unclosed", "on purpose");
            let culprit = Some(Culprit::Record(at));
            assert!(failures.note_close("p", rejected, 1, culprit).is_none());
        }
        assert!(failures.record(&one).is_some() && failures.record(&two).is_some());
    }
}
