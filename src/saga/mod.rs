//! Sagas: durable runs of plans. For each input ([`Input`]) a run decides on events ([`decide`]) and applies them to its state
//! ([`Run::evolve`]). The core is pure: no clock, no log, no client library.
//!
//! | file | holds |
//! |---|---|
//! | `compiled` | a plan that is ready to run |
//! | `run`, `evolve` | the state, and how events change it |
//! | `goal`, `planning` | the part of the state that only a goal has, and how events change it |
//! | `stand_still` | deadlines that stand still while a control is in force |
//! | `decide/` | how a run reacts to an input |
//! | `risk` | the risk lanes |
//! | `bugs` | bugs that tests plant |
//! | `inspect` | read access to a run's state |
//! | `snapshot` | a run as it is stored |
//! | `process/` | the processor, which runs the core on the engine |
//! | `followers` | requests that wait for notices about a run |
//! | `answers` | what runs of other nodes answer to controls and decisions, from the log |
//! | `tail` | reading partitions from their ends while somebody needs them |

mod answers;
mod bugs;
mod compiled;
mod decide;
mod evolve;
mod followers;
mod goal;
mod inspect;
mod planning;
mod process;
mod risk;
mod run;
mod snapshot;
mod stand_still;
mod tail;
#[cfg(test)]
mod tests;

pub use answers::{Answers, Listening};
#[cfg(feature = "chaos")]
pub use bugs::{Bug, plant};
pub use compiled::{Compensation, CompiledPlan, CompiledStep, Defaults, RetryPolicy, UnknownTool};
pub use decide::{
    CallResult, Effects, Env, Hold, Input, NewPlan, Outcome, Refusal, Unplanned, decide, start,
    start_goal,
};
pub use followers::{Answer, Follower, Followers, Notice};
pub use inspect::{Claimable, CompensationState, Execution};
#[cfg(feature = "chaos")]
pub use process::StoredRuns;
pub use process::{IDENTITY_MS, NAME, Sagas, Settings};
pub use risk::{Risk, judge};
pub use run::Run;
pub use snapshot::{Snapshot, StepText, TextKey};
