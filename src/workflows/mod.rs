//! Workflows and tools: the files of `workflows_dir` and `tools_dir`, read and checked together, and the catalog that requests
//! are checked against (`docs/workflows.md`).
//!
//! | file | holds |
//! |---|---|
//! | `source` | one YAML file: its JSON, and the positions of its values for error messages |
//! | `tool`, `workflow`, `workflow_file`, `trigger` | the contents of each kind of file, and parsing it |
//! | `schema`, `schedule` | JSON Schemas; the times of cron expressions |
//! | `catalog` | all workflows and tools, and looking them up |
//! | `resolved` | the copies of workflow, plan and tools that a start record contains |
//! | `triggers` | which workflows are started by events and times |
//! | `check` | reads all files and checks them together |
//! | `current` | the catalog in force, replaced as a whole |

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
