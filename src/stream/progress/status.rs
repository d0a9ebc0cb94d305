//! The state that a lane reports, and the status that is shown.

/// The reported state of a lane.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LaneState {
    /// It joins its group or restores its state.
    Starting {
        /// What it waits for, as readable text.
        what: String,
    },
    /// It works, or is idle without records.
    Running,
    /// It waits for a named condition.
    Waiting {
        /// What it waits for, as readable text.
        what: String,
    },
    /// An operator holds it.
    Held {
        /// The reason, as readable text.
        why: String,
    },
    /// It failed and retries.
    Retrying {
        /// The error.
        error: String,
    },
}

/// The status of a processor or of one of its lanes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ProcessorStatus {
    /// It processes records, or waits for new ones.
    Running,
    /// It waits for a named condition: a schema registry, Postgres, partitions.
    Waiting(String),
    /// An operator holds it, for this reason.
    Held(String),
    /// It failed and retries.
    Retrying(String),
    /// Records wait, and no position has moved for [`STALLED_AFTER`](super::STALLED_AFTER): the reason, if known.
    Stalled(String),
}

impl ProcessorStatus {
    /// Readable text; `None` if it works.
    pub fn detail(&self) -> Option<String> {
        match self {
            Self::Running => None,
            Self::Waiting(what) => Some(format!("waiting: {what}")),
            Self::Held(why) => Some(format!("held: {why}")),
            Self::Retrying(error) => Some(format!("retrying: {error}")),
            Self::Stalled(why) => Some(format!("stalled: {why}")),
        }
    }
}
