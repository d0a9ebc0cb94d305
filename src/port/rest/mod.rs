//! All routes except `POST /v1/events` and webhooks, served by axum.
//!
//! | file | holds |
//! |---|---|
//! | `routes` | the router: a handler for each line of the table in [`crate::api`] |
//! | `caller`, `request` | extractors: the key and its permission, bodies, query strings |
//! | `stream`, `slots` | answers that are sent while they are produced, and the limit on concurrent replays |
//! | `wait` | finding a run, and waiting for its end |
//! | `claims`, `claim_waits` | handing out tasks, and claims that wait for tasks |
//! | `claimed_values`, `approval_values` | the values of placeholders in tasks and in approvals |
//! | `personal` | placeholders instead of values in what people send to runs |
//! | the others | handlers |

mod approval_values;
pub(crate) mod audit;
pub(crate) mod caller;
pub(crate) mod claim_waits;
mod claimed_values;
mod claims;
pub(crate) mod controls;
pub(crate) mod docs;
mod feedback;
pub(crate) mod integrations;
pub(crate) mod keys;
pub(crate) mod letters;
pub(crate) mod node;
pub(crate) mod personal;
mod plans;
pub(crate) mod readers;
pub(crate) mod rebuild;
pub(crate) mod replay;
pub(crate) mod request;
pub(crate) mod routes;
pub(crate) mod run_events;
pub(crate) mod runs;
pub(crate) mod schemas;
pub(crate) mod slots;
pub(crate) mod stream;
pub(crate) mod tasks;
pub(crate) mod tool_states;
pub(crate) mod tools;
pub(crate) mod wait;
