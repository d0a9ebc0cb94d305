//! A workflow.

use std::{collections::BTreeMap, fmt, sync::Arc};

use semver::Version;
use serde_json::Value;

use super::{schema::Schema, trigger::Trigger};
use crate::plans::{OnExhausted, Plan, Template};

/// One version of a workflow.
pub struct Workflow {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: Version,
    /// What it does.
    pub description: String,
    /// The type of the commands that start it.
    pub command: Option<String>,
    /// Goals that it fulfils, such as `Book flight to {LOCATION} {DATE}`.
    pub examples: Vec<String>,
    /// How params are made of the slots of a goal.
    pub bind: BTreeMap<String, Template>,
    /// What its params must be.
    pub params: Schema,
    /// The plan as given: what a run keeps, and what is hashed.
    pub plan: Value,
    /// The plan, read.
    pub steps: Arc<Plan>,
    /// The SHA-256 of the plan's canonical form, in hexadecimal digits.
    pub hash: String,
    /// What starts it beside requests.
    pub triggers: Vec<Trigger>,
    /// What happens when all attempts of a step are used up, unless the step or its tool says otherwise.
    pub on_exhausted: Option<OnExhausted>,
}

impl fmt::Debug for Workflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Workflow({} {})", self.name, self.version)
    }
}
