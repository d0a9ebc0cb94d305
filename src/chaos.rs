//! Bugs planted on purpose: with the feature `chaos`, `OMNILINK_CHAOS_BUG` names one, and `scripts/chaos --bug all`
//! shows that each is found. Without the feature nothing of them is in the binary.

use std::time::Duration;

/// A promise that is broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// An append is acknowledged before it is durable.
    AnswerBeforeDurable,
    /// A lane commits its outputs in one transaction, state and positions in another.
    NoTransaction,
    /// Admission forgets what it has seen.
    NoDedupe,
    /// The projector commits its position first, then the rows.
    OffsetBeforeRows,
    /// An owner that was replaced may still commit.
    ZombieNotFenced,
    /// Dead letters are dropped.
    LossyDlq,
    /// A lane's state is restored to before the end of its changelog.
    RestoreEndsEarly,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::AnswerBeforeDurable,
        Self::NoTransaction,
        Self::NoDedupe,
        Self::OffsetBeforeRows,
        Self::ZombieNotFenced,
        Self::LossyDlq,
        Self::RestoreEndsEarly,
    ];

    /// What `OMNILINK_CHAOS_BUG` calls it.
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

/// Whether this bug is switched on.
///
/// # Panics
/// When `OMNILINK_CHAOS_BUG` names no bug: a run that looks for a bug must not pass for a typing error.
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

/// Whether this bug is switched on: never, without the feature.
#[cfg(not(feature = "chaos"))]
pub const fn planted(_: Bug) -> bool {
    false
}

/// How long a bug stays open, so that a kill hits it there.
pub const PAUSE: Duration = Duration::from_millis(600);

/// Waits for that long, on a thread that may block.
pub fn pause() {
    std::thread::sleep(PAUSE);
}
