//! Bugs planted on purpose: with the feature `chaos`, `OMNILINK_CHAOS_BUG` enables one, and `scripts/chaos --bug all`
//! shows that each is found. `OMNILINK_CHAOS_LOST_ANSWERS` is no bug, but a fault: one in so many answers of Kafka is lost. Without the feature
//! they are not in the binary.

use std::time::Duration;

/// A bug that breaks a guarantee.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// Appends are acknowledged before they are durable.
    AnswerBeforeDurable,
    /// A lane commits outputs in one transaction, state and positions in another.
    NoTransaction,
    /// Admission does not remember event identities.
    NoDedupe,
    /// The projector commits its position first, then the rows.
    OffsetBeforeRows,
    /// A lane that lost its partitions can still commit.
    ZombieNotFenced,
    /// Dead letters are dropped.
    LossyDlq,
    /// A restore of a lane's state stops before the end of its changelog.
    RestoreEndsEarly,
}

impl Bug {
    /// All bugs.
    pub const ALL: [Self; 7] = [
        Self::AnswerBeforeDurable,
        Self::NoTransaction,
        Self::NoDedupe,
        Self::OffsetBeforeRows,
        Self::ZombieNotFenced,
        Self::LossyDlq,
        Self::RestoreEndsEarly,
    ];

    /// Its name in `OMNILINK_CHAOS_BUG`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AnswerBeforeDurable => "answer-before-durable",
            Self::NoTransaction => "no-transaction",
            Self::NoDedupe => "no-dedupe",
            Self::OffsetBeforeRows => "offset-before-rows",
            Self::ZombieNotFenced => "zombie-not-fenced",
            Self::LossyDlq => "lossy-dlq",
            Self::RestoreEndsEarly => "restore-ends-early",
        }
    }
}

/// Whether this bug is enabled.
///
/// # Panics
/// If `OMNILINK_CHAOS_BUG` is not the name of a bug: a run that looks for a bug must not pass because of a typo.
#[cfg(feature = "chaos")]
pub fn planted(bug: Bug) -> bool {
    static PLANTED: std::sync::OnceLock<Option<Bug>> = std::sync::OnceLock::new();
    let planted = PLANTED.get_or_init(|| {
        let name = std::env::var("OMNILINK_CHAOS_BUG").unwrap_or_default();
        if name.is_empty() {
            return None;
        }
        let bug = Bug::ALL.into_iter().find(|bug| bug.name() == name);
        assert!(
            bug.is_some(),
            "OMNILINK_CHAOS_BUG: there is no bug `{name}`"
        );
        tracing::warn!(name, "a bug is planted");
        bug
    });
    *planted == Some(bug)
}

/// Always false without the feature `chaos`.
#[cfg(not(feature = "chaos"))]
pub const fn planted(_: Bug) -> bool {
    false
}

/// Whether an answer of Kafka is to be lost: its connection ends, though the broker did what it was asked.
#[cfg(feature = "chaos")]
pub fn loses_answer() -> bool {
    use std::sync::atomic::{AtomicU64, Ordering};
    static ONE_IN: std::sync::OnceLock<Option<u64>> = std::sync::OnceLock::new();
    static ANSWERS: AtomicU64 = AtomicU64::new(0);
    let one_in = ONE_IN.get_or_init(|| {
        let text = std::env::var("OMNILINK_CHAOS_LOST_ANSWERS").ok()?;
        text.parse().ok()
    });
    one_in.is_some_and(|one_in| {
        ANSWERS
            .fetch_add(1, Ordering::Relaxed)
            .is_multiple_of(one_in.max(1))
    })
}

/// Always false without the feature `chaos`.
#[cfg(not(feature = "chaos"))]
pub const fn loses_answer() -> bool {
    false
}

/// How long a bug's window stays open, so that a kill is likely to hit it.
pub const PAUSE: Duration = Duration::from_millis(600);

/// Blocks the thread for [`PAUSE`].
pub fn pause() {
    std::thread::sleep(PAUSE);
}
