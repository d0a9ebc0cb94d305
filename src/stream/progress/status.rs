//! How a lane says that it is, and how that is shown.

/// What a lane says that it is doing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LaneState {
    /// It is on its way to work: it joins its group, or restores state.
    Starting {
        /// What it waits for, for people.
        what: String,
    },
    /// It works, or would if there were records.
    Running,
    /// It waits for something that it can name.
    Waiting {
        /// What it waits for, for people.
        what: String,
    },
    /// An operator holds it.
    Held {
        /// Why, for people.
        why: String,
    },
    /// It failed and tries again.
    Retrying {
        /// Why it failed.
        error: String,
    },
}

/// How a processor, or one of its lanes, is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ProcessorStatus {
    /// It works.
    Running,
    /// It waits for something that it can name: a schema registry, Postgres, partitions.
    Waiting(String),
    /// An operator holds it, for this reason.
    Held(String),
    /// It failed and tries again.
    Retrying(String),
    /// Records wait, and nothing moved for [`STALLED_AFTER`](super::STALLED_AFTER): why, as far as it is known.
    Stalled(String),
}

impl ProcessorStatus {
    /// For people; `None`: it works.
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
