//! The contract of the HTTP port: the types of requests and answers, the errors, and one table of routes.
//!
//! [`ROUTES`] lists for each route its method, path, permission, parameters, request, answers and errors. The port mounts its handlers by
//! [`Operation`], which has one variant for each line of the table, so that no route exists without a line. The document at
//! `/openapi.json` and the page `docs/api.md` are also generated from the table.
//!
//! JSON Schemas are derived from the types by `schemars`, which generates the dialect of OpenAPI 3.1 (JSON Schema 2020-12) and reads
//! serde's attributes, so that a schema cannot contradict serde. Reports that the command line also prints without a node (lag, topics,
//! dead letters, progress of a replay) are defined in the modules that produce them, with their schemas.
//! Scopes are stored in the same form as they are sent, so they are defined in `controls`.
//!
//! | file | holds |
//! |---|---|
//! | `problem` | every error code with its status and meaning; problem details |
//! | `route` | what a line of the table consists of |
//! | `routes`, `examples`, `run_examples`, `plan_examples` | the table |
//! | `openapi`, `reference` | the OpenAPI document and `docs/api.md`, made from the table |
//! | the others | the types of some routes |

pub mod audit;
pub mod controls;
pub mod events;
mod examples;
pub mod health;
pub mod integrations;
pub mod keys;
pub mod letters;
pub mod list;
mod openapi;
mod plan_examples;
pub mod plans;
pub mod problem;
pub mod readers;
pub mod rebuild;
mod reference;
pub mod registry;
pub mod replay;
pub mod route;
mod routes;
pub mod run_batches;
pub mod run_controls;
mod run_examples;
pub mod run_reads;
pub mod runs;
pub mod starts;
pub mod tasks;
pub mod time;
pub mod tools;
pub mod topics;

pub use openapi::document;
pub use reference::page;
pub use route::{Access, Gate, Method, Route};
pub use routes::{Operation, ROUTES};
