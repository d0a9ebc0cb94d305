//! Remembers the records and timers that made a transaction fail, so that they are handled differently when it is repeated.

use std::{any::Any, collections::HashMap};

use bytes::Bytes;

use crate::{
    base::{clock::Millis, panics::panic_message},
    log::{LogError, Unavailable},
    stream::Rejected,
};

/// How often [`Transform::timer_failed`](crate::stream::Transform::timer_failed) may fail for a timer.
const TIMER_FAILURES: u32 = 8;

/// The index of the topic, the partition, the offset.
pub(super) type InputOffset = (usize, u32, u64);

/// The record or timer that made a transaction fail.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Culprit {
    Record(InputOffset),
    Timer(u32, Bytes, Millis),
}

/// Why a transaction failed.
pub(super) enum Failed {
    /// This record panicked or failed after a change of state, or this timer failed.
    Poison(Box<(Culprit, Rejected)>),
    /// A transform failed in `close`: the reason, the number of records and timers in the transaction, and the last of them.
    Close(Box<Rejected>, usize, Option<Culprit>),
    Log(LogError),
}

impl Failed {
    /// The transform waits for this, and has changed its state.
    pub(super) fn waits_for(what: String) -> Self {
        Self::Log(LogError::Unavailable(Unavailable::TransformWaits {
            waits_for: what,
        }))
    }
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

/// How a timer that failed before is handled.
pub(super) enum KnownTimer {
    /// `timer_failed` is called.
    Failed(Rejected),
    /// `timer_failed` failed too often: the timer becomes a dead letter.
    GivenUp(Rejected),
}

/// Failed records and timers, and the state of the search for one that makes `close` fail.
#[derive(Default)]
pub(super) struct Failures {
    /// Failed records and the reasons: they become dead letters when they are read again.
    records: HashMap<InputOffset, Rejected>,
    /// Failed timers by partition and key.
    timers: HashMap<(u32, Bytes), FailedTimer>,
    /// If a transform failed in `close`: the cause is among this many of the next records and timers. 0 if there is none.
    bisected: usize,
    /// Records and timers that were alone in a transaction that failed in `close`; the second time they are the cause. Several partitions
    /// may contribute several, which alternate.
    suspects: Vec<Culprit>,
}

impl Failures {
    /// Records the failure of a record or timer.
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
                // The first failure is the reason; later ones are repetitions.
                failed.failures = if failed.due == due {
                    failed.failures + 1
                } else {
                    1
                };
                failed.due = due;
            }
        }
    }

    /// Records that a transform failed in `close` of a transaction of `items` records and timers, `last` being the last of them. Returns an
    /// error if the failure does not depend on them.
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
                tracing::warn!(%processor, code = %rejected.code, why = %rejected.message, items, "a transaction failed when it was closed; repeating it with half of its records");
                self.bisected = items;
                None
            }
            _ => Some(LogError::Unavailable(Unavailable::TransformNotClosed {
                code: rejected.code,
                message: rejected.message,
            })),
        }
    }

    /// The maximum number of records and timers in the next transaction.
    pub(super) fn batch_limit(&self) -> usize {
        match self.bisected {
            0 => usize::MAX,
            bisected => bisected.div_ceil(2),
        }
    }

    /// Records the commit of a transaction with so many records and timers.
    pub(super) fn committed(&mut self, items: usize) {
        self.bisected = self.bisected.saturating_sub(items);
    }

    /// The reason for which a record failed before.
    pub(super) fn record(&self, at: &InputOffset) -> Option<&Rejected> {
        self.records.get(at)
    }

    /// Forgets failed records before the position of a partition.
    pub(super) fn forget_records(&mut self, (topic, partition, next): InputOffset) {
        let ahead = |at: &InputOffset| (at.0, at.1) != (topic, partition) || at.2 >= next;
        self.records.retain(|at, _| ahead(at));
        self.suspects
            .retain(|suspect| !matches!(suspect, Culprit::Record(at) if !ahead(at)));
    }

    /// How to handle a timer that failed before; `None` if it did not.
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

    /// Forgets the failures of a revoked partition.
    pub(super) fn revoked(&mut self, partition: u32) {
        self.timers.retain(|timer, _| timer.0 != partition);
        self.suspects.retain(|suspect| {
            let (Culprit::Record((_, of, _)) | Culprit::Timer(of, ..)) = suspect;
            *of != partition
        });
    }
}

/// The rejection for a panic.
pub(super) fn panicked(panic: &(dyn Any + Send)) -> Rejected {
    Rejected {
        code: "panic".into(),
        message: panic_message(panic),
        value: None,
        stage: None,
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
