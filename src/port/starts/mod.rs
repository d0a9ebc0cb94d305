//! Starts of runs: `POST /v1/commands`, `/v1/workflows`, `/v1/goals`, `/v1/tasks`, and the agents' routes.
//!
//! | file | holds |
//! |---|---|
//! | `post` | a request to the first four: one start or a batch |
//! | `agent` | the agents' routes |
//! | `permit` | what the key is allowed to do |
//! | `judge` | all checks in the order below; admission shares those of [`crate::starts`] |
//! | `earlier_run`, `retry` | repeating a run: what the earlier run has done, and the start record built from it |
//! | `append`, `outcome` | the last step, and the outcome of a start |
//! | `wait` | `Prefer: wait` |
//! | `refusal`, `answer` | why a start is refused, and the HTTP answer |
//!
//! Checks in this order: length, controls, key, media type, concurrency, body, fields (the idempotency key among them), permissions,
//! `act_as`, disabled features, allowlists, unknown workflow, schema, rate, append.

pub(crate) mod agent;
mod answer;
mod append;
pub(crate) mod earlier_run;
mod judge;
mod outcome;
mod permit;
pub(crate) mod post;
mod refusal;
pub(crate) mod retry;
pub(crate) mod wait;
