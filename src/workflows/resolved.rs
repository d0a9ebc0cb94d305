//! What a start record copies from the catalog: the workflow, its plan and the definitions of its tools.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::{catalog::Catalog, workflow::Workflow};
use crate::{
    commands::start::{PlanSource, Planned, WorkflowVersion},
    plans::{OnExhausted, Plan},
};

/// The part of a start record that says what is to be run.
#[derive(Clone, Debug, Default)]
pub struct Resolved {
    /// The workflow, if the run is one.
    pub workflow: Option<WorkflowVersion>,
    /// The plan; a goal does not have one yet.
    pub plan: Option<Planned>,
    /// The definitions of the tools that the plan calls, without secrets.
    pub tools: BTreeMap<String, Box<RawValue>>,
}

impl Workflow {
    /// What a run remembers of its workflow.
    pub fn to_version(&self) -> WorkflowVersion {
        WorkflowVersion {
            name: self.name.clone(),
            version: self.version.to_string(),
            hold: self.on_exhausted == Some(OnExhausted::Hold),
        }
    }
}

impl Catalog {
    /// What a run of a workflow copies.
    pub fn to_run(&self, workflow: &Workflow) -> Resolved {
        Resolved {
            workflow: Some(workflow.to_version()),
            plan: Some(Planned {
                source: PlanSource::Workflow,
                hash: workflow.hash.clone(),
                steps: workflow.plan.clone(),
            }),
            tools: self.definitions(&workflow.steps),
        }
    }

    /// The definitions of the tools that a plan calls, without builtin tools.
    pub fn definitions(&self, plan: &Plan) -> BTreeMap<String, Box<RawValue>> {
        let called = self.called(plan);
        called
            .filter_map(|tool| Some((tool.tool.name.clone(), tool.kept.clone()?)))
            .collect()
    }
}
