//! One version of a workflow, as read from its file.

use std::{collections::BTreeMap, fmt, sync::Arc};

use semver::Version;
use serde_json::value::RawValue;

use super::{schema::Schema, trigger::Trigger};
use crate::plans::{OnExhausted, Plan, Template, template};

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
    /// Examples of goals that it fulfils, such as `Book flight to {LOCATION} {DATE}`.
    pub examples: Vec<template::Template>,
    /// Templates that compute params from the slots of a goal.
    pub bind: BTreeMap<String, Template>,
    /// The schema of its params.
    pub params: Schema,
    /// The plan as written in the file, as compact JSON: start records contain it, and the hash is computed from it.
    pub plan: Box<RawValue>,
    /// The parsed plan.
    pub steps: Arc<Plan>,
    /// The SHA-256 of the plan's canonical form, in hexadecimal digits.
    pub hash: String,
    /// Its triggers, which start it without a request.
    pub triggers: Vec<Trigger>,
    /// What happens when all attempts of a step are used up, unless the step overrides it. It overrides the tool's setting.
    pub on_exhausted: Option<OnExhausted>,
}

impl fmt::Debug for Workflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Workflow({} {})", self.name, self.version)
    }
}
