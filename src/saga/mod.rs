//! Sagas: durable runs of plans. A run is told things ([`Input`]); it decides what happens ([`decide`]) and becomes what has happened
//! ([`Run::evolve`]). This room's core is pure: no clock, no log, no client library.
//!
//! | file | holds |
//! |---|---|
//! | `compiled` | a plan that is ready to run |
//! | `event` | the records of a run's history |
//! | `run`, `evolve` | the state, and how events change it |
//! | `decide/` | what a run does about an input |
//! | `risk` | the risk lanes |

mod compiled;
mod decide;
mod event;
mod evolve;
mod json;
mod risk;
mod run;
#[cfg(test)]
mod tests;

pub use compiled::{Compensation, CompiledPlan, CompiledStep, RetryPolicy, UnknownTool};
pub use decide::{CallResult, Effects, Env, Hold, Input, Outcome, Refusal, decide, start};
pub use event::{
    ApprovalKind, ApprovalRequest, CallKind, CompensationResult, Decided, Decision, Event,
    RiskLane, RunError, Started, StepError,
};
pub use json::Json;
pub use risk::{Risk, judge};
pub use run::{Run, RunStatus};
