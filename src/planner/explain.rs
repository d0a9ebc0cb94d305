//! What becomes of a goal, for people: the stages of a lookup, without a run and without language models.

use super::{NAME, Planner, goal::Goal, lookup::LookupResult};
use crate::{
    api::{
        plans::{DENIED, ExplainedGoal, GuardianView, PlanStage},
        runs::WorkflowView,
    },
    controls::Emergency,
    runs::PlanInputs,
};

impl Planner {
    /// Looks a goal up, as if it were planned now under these controls. `goal` and `inputs` have placeholders instead of personal data;
    /// `guardian`: what the guardian said about them.
    pub async fn explain(
        &self,
        tenant: &str,
        goal: &str,
        inputs: PlanInputs,
        guardian: GuardianView,
        controls: &Emergency,
    ) -> ExplainedGoal {
        let inner = &self.0;
        let goal = Goal::new(tenant, goal, inputs).under(controls);
        let disabled = controls.disabled(NAME);
        let planned = guardian.verdict != DENIED && disabled.is_none();
        let mut found = if planned {
            inner.look_up(&goal).await
        } else {
            LookupResult::default()
        };
        let mut explained = ExplainedGoal {
            goal: goal.text.clone(),
            template: goal.template.text.clone(),
            slots: goal.slots.clone(),
            guardian,
            stages: Vec::new(),
            source: None,
            entry: None,
            entry_template: None,
            workflow: None,
            score: None,
            plan: None,
            params: None,
            degraded: Vec::new(),
        };
        if let Some(choice) = found.choice {
            explained.source = Some(choice.source.name());
            explained.workflow = choice.workflow.map(|of| WorkflowView {
                name: of.name,
                version: of.version,
            });
            if let Some(entry) = &choice.entry {
                explained.entry = Some(entry.id.clone());
                explained.entry_template = Some(entry.template.clone());
            }
            explained.score = Some(choice.score);
            explained.plan = Some(choice.plan);
            explained.params = choice.params;
        } else if let Some(why) = disabled {
            let why = format!("the feature `{NAME}` is disabled: {why}");
            found
                .stages
                .push(PlanStage::new(NAME, "skipped").because(why));
        } else if planned {
            let stage = if let Some(why) = inner.not_asked(&goal) {
                PlanStage::new("llm", "skipped").because(why)
            } else {
                explained.source = Some("llm");
                let names = inner.models.names().join(", then ");
                PlanStage::new("llm", "would_be_asked").because(names)
            };
            found.stages.push(stage);
        }
        explained.stages = found.stages;
        explained.degraded = found.degraded;
        explained.degraded.sort_unstable();
        explained.degraded.dedup();
        explained
    }
}
