//! Workflows and tools: the files of `workflows_dir` and `tools_dir`, read and checked together, and the catalog that requests
//! are checked against (`docs/workflows.md`).
//!
//! | file | holds |
//! |---|---|
//! | `source` | one YAML file: its JSON, and the places of its values for what is wrong with them |
//! | `tool`, `workflow`, `workflow_file`, `trigger` | what each kind of file holds, and reading it |
//! | `schema` | JSON Schemas |
//! | `catalog` | all of them, and looking them up |
//! | `check` | reads all files and checks them together |
//! | `current` | the catalog that is in force, exchanged as a whole |

mod catalog;
mod check;
mod current;
mod schema;
mod source;
mod tool;
mod trigger;
mod workflow;
mod workflow_file;

pub use self::{
    catalog::Catalog,
    check::{Checked, FileKind, check, check_texts, find, kind_of},
    current::Current,
    schema::{Mismatch, Schema},
    tool::Definition,
    trigger::{CatchUp, Trigger},
    workflow::Workflow,
};
