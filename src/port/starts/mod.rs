//! Starts of runs: `POST /v1/commands`, `/v1/workflows`, `/v1/goals`, `/v1/tasks`, and the agents' routes.
//!
//! | file | holds |
//! |---|---|
//! | `post` | a request to the first four: one start or a batch |
//! | `agent` | the agents' routes |
//! | `fields` | the members of an envelope, checked one by one |
//! | `permit` | what the key is allowed to do |
//! | `resolve` | workflow, plan and tools; params against schemas |
//! | `record` | the start record |
//! | `judge` | all of these checks in the order of the contract |
//! | `past`, `again` | repeating a run: what the earlier run has done, and the start record built from it |
//! | `append`, `taken` | the last step, and the outcome of a start |
//! | `wait` | `Prefer: wait` |
//! | `refusal`, `answer` | why a start is refused, and the HTTP answer |
//!
//! Checks in this order: length, controls, key, media type, concurrency, body, fields (the idempotency key among them), permissions,
//! `act_as`, disabled features, allowlists, unknown workflow, schema, rate, append.

pub(crate) mod again;
pub(crate) mod agent;
mod answer;
mod append;
mod fields;
mod judge;
pub(crate) mod past;
mod permit;
pub(crate) mod post;
mod record;
mod refusal;
mod resolve;
mod taken;
pub(crate) mod wait;
