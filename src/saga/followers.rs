//! Followers: requests that wait for notices about a run, with `Prefer: wait` or for the answer to a control.
//!
//! A request first follows its run and then appends its record, so it misses nothing. The processor publishes notices after the
//! transaction has committed. Followers also know which partitions the processor of this node carries out; what the runs of other
//! partitions answer is read from the log ([`super::Answers`]).

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::mpsc;
use uuid::Uuid;

use super::decide::Refusal;
use crate::{api::runs::RunView, base::clock::Millis};

/// The maximum number of unread notices of a follower. Further ones are dropped, and its wait ends at its deadline.
const QUEUE: usize = 64;

/// A notice about a run.
#[derive(Clone, Debug)]
pub enum Notice {
    /// A record of `commands` was processed.
    Answered {
        /// Its partition in `commands`.
        partition: u32,
        /// Its offset in that partition.
        offset: u64,
        /// The answer to its sender.
        answer: Answer,
    },
    /// The run has ended.
    Ended(Arc<RunView>),
}

/// The answer to a record of `commands`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The run has accepted it.
    Done,
    /// Of the first claim of an attempt: its time runs.
    Started {
        /// When the run gives it up.
        deadline: Millis,
    },
    /// It was about an attempt that is over.
    Ignored,
    /// The run has refused it.
    Refused {
        /// The stable code.
        code: &'static str,
        /// What is wrong, as text for people.
        message: String,
    },
    /// The tenant has no such run, or it ended too long ago.
    UnknownRun,
    /// The answer to a start: the run exists already.
    Duplicate {
        /// Whether the request was the same.
        same: bool,
    },
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        Self::Refused {
            code: refusal.code(),
            message: refusal.to_string(),
        }
    }
}

/// All followers of this node. Cheap to clone.
#[derive(Clone, Default)]
pub struct Followers(Arc<Shared>);

/// A follower's id, and its queue.
type Sender = (u64, mpsc::Sender<Notice>);

#[derive(Default)]
struct Shared {
    by_run: Mutex<HashMap<Uuid, Vec<Sender>>>,
    /// The number of all followers, so that no lock is needed while there are none.
    count: AtomicUsize,
    next: AtomicUsize,
    /// The partitions of `commands` that this node carries out, each as often as it has a transform.
    carried: Mutex<Vec<u32>>,
}

/// This node carries out the runs of a partition of `commands`, as long as this exists.
pub(super) struct Carried {
    partition: u32,
    shared: Arc<Shared>,
}

/// A follower of a run. Dropping it unsubscribes it.
pub struct Follower {
    run: Uuid,
    id: u64,
    shared: Arc<Shared>,
    notices: mpsc::Receiver<Notice>,
}

impl Followers {
    /// Follows a run from now on.
    pub fn follow(&self, run: Uuid) -> Follower {
        let (sender, notices) = mpsc::channel(QUEUE);
        let id = self.0.next.fetch_add(1, Ordering::Relaxed) as u64;
        let mut by_run = self.0.by_run.lock().unwrap_or_else(PoisonError::into_inner);
        by_run.entry(run).or_default().push((id, sender));
        // Under the lock, so that a thread that sees the count also sees the entry.
        self.0.count.fetch_add(1, Ordering::Release);
        drop(by_run);
        Follower {
            run,
            id,
            shared: Arc::clone(&self.0),
            notices,
        }
    }

    /// Whether anybody follows any run.
    pub fn any(&self) -> bool {
        self.0.count.load(Ordering::Acquire) > 0
    }

    /// Whether anybody follows this run.
    pub fn follows(&self, run: &Uuid) -> bool {
        let lock = || self.0.by_run.lock().unwrap_or_else(PoisonError::into_inner);
        self.any() && lock().contains_key(run)
    }

    /// Sends a notice to the followers of a run.
    pub fn publish(&self, run: &Uuid, notice: &Notice) {
        let by_run = self.0.by_run.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, follower) in by_run.get(run).into_iter().flatten() {
            // Full: the follower has stopped reading, and its deadline ends its wait.
            let _ = follower.try_send(notice.clone());
        }
    }

    /// From now on this node carries out the runs of a partition of `commands`.
    pub(super) fn carry(&self, partition: u32) -> Carried {
        let shared = Arc::clone(&self.0);
        shared.carried().push(partition);
        Carried { partition, shared }
    }

    /// Whether this node carries out the runs of a partition of `commands`.
    pub(super) fn carries(&self, partition: u32) -> bool {
        self.0.carried().contains(&partition)
    }
}

impl Shared {
    fn carried(&self) -> MutexGuard<'_, Vec<u32>> {
        self.carried.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        let mut carried = self.shared.carried();
        if let Some(place) = carried.iter().position(|one| *one == self.partition) {
            carried.swap_remove(place);
        }
    }
}

impl Follower {
    /// The next notice. Wait with a deadline: a run may take days.
    pub async fn next(&mut self) -> Option<Notice> {
        self.notices.recv().await
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let lock = self.shared.by_run.lock();
        let mut by_run = lock.unwrap_or_else(PoisonError::into_inner);
        if let Some(followers) = by_run.get_mut(&self.run) {
            followers.retain(|(id, _)| *id != self.id);
            if followers.is_empty() {
                by_run.remove(&self.run);
            }
        }
        self.shared.count.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn followers_get_notices_of_their_run_only() {
        let followers = Followers::default();
        let (mine, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let answered = |offset| Notice::Answered {
            partition: 0,
            offset,
            answer: Answer::Done,
        };
        assert!(!followers.any());
        let mut follower = followers.follow(mine);
        let second = followers.follow(mine);
        assert!(followers.follows(&mine) && !followers.follows(&other));
        followers.publish(&other, &answered(1));
        followers.publish(&mine, &answered(2));
        drop(second);
        let Some(Notice::Answered { offset: 2, .. }) = follower.next().await else {
            panic!("its own");
        };
        drop(follower);
        assert!(!followers.any() && !followers.follows(&mine));
    }
    #[test]
    fn a_partition_is_carried_out_until_its_last_transform_is_dropped() {
        let followers = Followers::default();
        let first = followers.carry(3);
        let second = followers.carry(3);
        let other = followers.carry(4);
        drop((first, other));
        assert!(followers.carries(3) && !followers.carries(4));
        drop(second);
        assert!(!followers.carries(3));
    }
}
