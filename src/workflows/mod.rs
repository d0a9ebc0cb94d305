//! Workflows and tools: the files of `workflows_dir` and `tools_dir`, read and checked together, and the catalog that requests
//! are checked against (`docs/workflows.md`).
//!
//! | file | holds |
//! |---|---|
//! | `source` | one YAML file: its JSON, and the places of its values for what is wrong with them |
//! | `tool`, `workflow`, `workflow_file`, `trigger` | what each kind of file holds, and reading it |
//! | `schema`, `schedule` | JSON Schemas; the times of cron expressions |
//! | `catalog` | all of them, and looking them up |
//! | `resolved` | what a start takes along of them |
//! | `triggers` | which workflows events and times start |
//! | `check` | reads all files and checks them together |
//! | `current` | the catalog that is in force, exchanged as a whole |

mod catalog;
mod check;
mod current;
mod resolved;
mod schedule;
mod schema;
mod source;
mod tool;
mod trigger;
mod triggers;
mod workflow;
mod workflow_file;

pub use self::{
    catalog::Catalog,
    check::{Checked, FileKind, check, check_texts, find, kind_of},
    current::Current,
    resolved::Resolved,
    schedule::Schedule,
    schema::{Mismatch, Schema},
    tool::Definition,
    trigger::{CatchUp, CronTrigger, EventTrigger, Trigger},
    triggers::{ToStart, Triggers},
    workflow::Workflow,
};
