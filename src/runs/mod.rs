//! The records of runs: the history on the topic `runs`, and the calls of steps on the topic `steps`. The inputs of runs are in
//! [`crate::commands`].
//!
//! | file | holds |
//! |---|---|
//! | `error` | why a call failed |
//! | `guardian` | what the guardian found in a goal |
//! | `event` | the events of a run, one type for each kind of record |
//! | `history` | a record of `runs` |
//! | `step` | a record of `steps` |
//! | `plan_request` | a record of `goals` |
//! | `plan_record` | a record of `plans` |
//! | `status` | the statuses that readers see |
//! | `retry` | what a run takes over from the run that it retries |
//! | `json` | JSON that is passed on as text |

mod error;
mod event;
mod guardian;
mod history;
mod json;
mod plan_record;
mod plan_request;
mod retry;
mod status;
mod step;

pub use self::{
    error::StepError,
    event::{
        ApprovalKind, ApprovalRequest, CallKind, CompensationResult, Decided, Decision, Event,
        Found, INJECTION_SUSPECTED, PlanReady, RiskLane, RunError, Started, WorkflowVersion, given,
    },
    guardian::{GuardianReport, GuardianVerdict, placeholders},
    history::RunRecord,
    json::{DEPTH_MAX, Json, Unreadable, depth, json_text, present, present_text, read_value},
    plan_record::{
        CachedPlan, ENTRY, LABEL, PlanLabel, PlanRecord, entry_id, entry_key, label_key,
    },
    plan_request::{PlanInputs, PlanRequest},
    retry::{Reused, Undo},
    status::{RunStatus, StepStatus},
    step::{CallKindName, StepCommand, TaskState, TaskStateName, idempotency_key, task_id},
};
