//! The answer to a request: the first stage that has a plan, or why there is none.

use std::{collections::BTreeMap, time::Instant};

use serde_json::{Value, json, value::RawValue};

use super::{
    Inner,
    entry::Entry,
    goal::Goal,
    llm::answer::{Made, check},
    lookup::{Choice, LookupResult},
    second_look::Look,
    table::shape_of,
};
use crate::{
    api::plans::PlanStage,
    commands::{
        plan::{NoPlan, PlanAnswer, VERSION},
        start::{PlanSource, Planned, RECORD_MAX},
    },
    plans::{cache::NearMiss, jcs, shape::generalise},
    runs::{Found, Json, LABEL, PlanLabel, PlanRecord},
    telemetry::metrics::{PLAN_LOOKUPS, PLANNER_DEGRADED, PLANS},
    workflows::Catalog,
};

/// The code of a goal without a plan.
pub(super) const NO_PLAN: &str = "no_plan";
/// The language model of the guardian did not answer.
pub(super) const GUARDIAN_LLM_UNAVAILABLE: &str = "guardian_llm_unavailable";
/// What a person who gives the plan of a flagged goal has to know.
const FLAGGED: &str =
    ". The guardian's language model suspects a prompt injection, or did not answer";
/// A language model did not answer, or its plan was not valid.
const PLANNER_UNAVAILABLE: &str = "planner_unavailable";

/// How long a success does not write an entry again, in milliseconds, and at most this part of its life.
const FRESH_MS: i64 = 60_000;
const TTL_PART: i64 = 64;

/// An answer, and what else was learned.
pub(super) struct Answered {
    pub(super) answer: PlanAnswer,
    /// Whether the plan of a cached entry fits the goal.
    pub(super) label: Option<PlanRecord>,
}

impl Inner {
    /// Plans a goal. `request`: the number of the record `plan_requested`. `until`: language models are asked no longer.
    pub(super) async fn plan(&self, goal: &Goal, request: u64, until: Instant) -> Answered {
        let mut found = self.look_up(goal).await;
        for stage in &found.stages {
            let labels = [&*stage.stage, &*stage.verdict];
            PLAN_LOOKUPS.counter(&labels).increment(1);
        }
        let flagged = self.second_look(goal, &mut found, until).await;
        let evidence = found.choice.as_ref().and_then(|choice| choice.evidence);
        let mut answered = match found.choice.take() {
            Some(choice) => {
                self.saved.saved();
                let fresh = choice
                    .entry
                    .as_ref()
                    .is_some_and(|entry| self.is_fresh(entry));
                let answer = chosen(choice, request, fresh);
                Answered {
                    answer,
                    label: None,
                }
            }
            None => self.by_model(goal, request, &mut found, until).await,
        };
        let answer = &mut answered.answer;
        if flagged {
            if let Some(error) = &mut answer.error {
                error.message.push_str(FLAGGED);
            }
            // What is learned from it would serve goals with the same words without another look.
            (answered.label, answer.found.template) = (None, None);
        }
        answer.found.flagged = flagged;
        answer.found.slots.clone_from(&goal.slots);
        found.degraded.sort_unstable();
        found.degraded.dedup();
        answer.found.degraded = found.degraded;
        let mut lookup = json!({ "template": goal.template.text, "stages": found.stages });
        if let Some(evidence) = evidence {
            lookup["evidence"] = evidence.into();
        }
        answer.found.lookup = Some(Json::of(&lookup));
        if answer.planned.is_some() && size(answer) > RECORD_MAX {
            let message = format!("the plan and its tools have more than {RECORD_MAX} bytes");
            let mut none = no_plan(request, message);
            let found = std::mem::take(&mut answer.found);
            none.found = Found {
                slots: found.slots,
                flagged: found.flagged,
                lookup: found.lookup,
                cost: found.cost,
                degraded: found.degraded,
                ..Found::default()
            };
            (answered.answer, answered.label) = (none, None);
        }
        count(&answered.answer);
        answered
    }

    /// Whether an entry was written recently. Otherwise every hit would write it, and every node would take it in, only for a later end.
    fn is_fresh(&self, entry: &Entry) -> bool {
        let again = FRESH_MS.min(self.table.ttl_ms() / TTL_PART);
        self.clock.now().0.saturating_sub(entry.at.0) < again
    }

    /// Lets the guardian's language model look at the goal. `true`: a person has to approve the run.
    async fn second_look(&self, goal: &Goal, found: &mut LookupResult, until: Instant) -> bool {
        let Some(look) = &self.second_look else {
            return false;
        };
        // Runs of goals with the same words have succeeded, and no model reads this one.
        if found
            .choice
            .as_ref()
            .is_some_and(|choice| choice.same_words)
        {
            return false;
        }
        let mut asked = json!({ "goal": goal.text, "params": goal.params });
        if let Some(context) = &goal.context {
            asked["context"] = context.clone();
        }
        match look.at(&asked, self.models.share(until)).await {
            Look::Passed => false,
            Look::Flagged => true,
            Look::Failed => {
                found.degraded.push(GUARDIAN_LLM_UNAVAILABLE.to_owned());
                true
            }
        }
    }

    async fn by_model(
        &self,
        goal: &Goal,
        request: u64,
        found: &mut LookupResult,
        until: Instant,
    ) -> Answered {
        let catalog = self.catalog.get();
        if let Some(why) = self.not_asked(goal) {
            found
                .stages
                .push(PlanStage::new("llm", "skipped").because(why));
            return Answered {
                answer: Self::none(
                    goal,
                    request,
                    &format!("no language model was asked: {why}"),
                ),
                label: None,
            };
        }
        let asked = self.models.plan(goal, &catalog, until).await;
        self.saved.spent(&asked.cost);
        let cost = asked.cost.shown().map(|cost| Json::of(&cost));
        let why = asked.failed.join("; ");
        if !asked.failed.is_empty() {
            found.degraded.push(PLANNER_UNAVAILABLE.to_owned());
        }
        let verdict = if asked.plan.is_some() { "hit" } else { "miss" };
        let stage = PlanStage::new("llm", verdict);
        found.stages.push(if why.is_empty() {
            stage
        } else {
            stage.because(why.clone())
        });
        let mut answered = match asked.plan {
            Some(made) => self.made(goal, request, made, &catalog, found),
            None => Answered {
                answer: Self::none(goal, request, &why),
                label: None,
            },
        };
        answered.answer.found.cost = cost;
        answered
    }

    /// Why language models are not asked about a goal.
    pub(super) fn not_asked(&self, goal: &Goal) -> Option<&'static str> {
        if self.models.is_empty() {
            return Some("`planner` is not configured");
        }
        let limited = !goal.allowed_workflows.is_empty();
        limited.then_some("the key's `allowed_workflows` allow workflows alone")
    }

    /// The answer with a plan of a language model.
    fn made(
        &self,
        goal: &Goal,
        request: u64,
        made: Made,
        catalog: &Catalog,
        found: &LookupResult,
    ) -> Answered {
        // Another goal with the same template has other values.
        let general = generalise(&made.plan, &goal.slots);
        let fits_others = general.literal.is_empty() && !general.dated && !goal.has_inputs();
        let (made, cacheable) = match check(general.plan, goal, catalog) {
            Ok(general) => (general, fits_others),
            Err(_) => (made, false),
        };
        let near_miss = found.near_miss.as_ref().filter(|_| cacheable);
        let label = near_miss.and_then(|near| self.label(goal, &made.plan, near));
        let tools = catalog.definitions(&made.compiled);
        let hash = jcs::hash(&made.plan);
        let Some(planned) = planned(PlanSource::Llm, hash, &Json::of(&made.plan)) else {
            let answer = Self::none(goal, request, "the plan cannot be written");
            return Answered { answer, label };
        };
        let answer = PlanAnswer {
            planned: Some(planned),
            tools,
            found: Found {
                template: cacheable.then(|| goal.template.text.clone()),
                red: self.bounds.red(&made.plan),
                ..Found::default()
            },
            ..empty(request)
        };
        Answered { answer, label }
    }

    /// What the plan for a goal says about an entry that was not certain enough.
    fn label(&self, goal: &Goal, plan: &Value, near: &NearMiss) -> Option<PlanRecord> {
        let reading = self.table.cache();
        let entry = reading.cache().get(&goal.tenant, &near.entry)?;
        // It reads params where models write slots, so the two can not be compared.
        if entry.payload.cached.workflow.is_some() {
            return None;
        }
        let label = PlanLabel {
            score: near.score,
            evidence: Some(near.evidence),
            hash: Some(entry.hash.clone()),
            agrees: *entry.shape == *shape_of(plan, &goal.slots),
        };
        Some(PlanRecord {
            tenant: goal.tenant.clone(),
            entry: near.entry.clone(),
            kind: LABEL.to_owned(),
            template: goal.template.text.clone(),
            at: self.clock.now().0,
            body: serde_json::to_string(&label).ok()?,
        })
    }

    /// The answer without a plan.
    fn none(goal: &Goal, request: u64, why: &str) -> PlanAnswer {
        let message = format!(
            "neither a cached plan nor an example of a workflow matches the goal, and {why}. Decide the approval with a plan, add an example to a \
             workflow, or configure `planner`"
        );
        let mut none = no_plan(request, message);
        // The plan of a person is cached under it.
        none.found.template = (!goal.has_inputs()).then(|| goal.template.text.clone());
        none
    }
}

/// The answer without a plan.
pub(super) fn no_plan(request: u64, message: String) -> PlanAnswer {
    PlanAnswer {
        error: Some(NoPlan {
            code: NO_PLAN.to_owned(),
            message,
        }),
        ..empty(request)
    }
}

/// The answer with a plan that was found. `fresh`: its entry need not be written again.
fn chosen(choice: Choice, request: u64, fresh: bool) -> PlanAnswer {
    let Some(planned) = planned(choice.source, choice.hash, &choice.plan) else {
        return no_plan(request, "the plan cannot be written".to_owned());
    };
    let entry = choice.entry.as_ref();
    PlanAnswer {
        planned: Some(planned),
        workflow: choice.workflow,
        tools: choice.tools,
        found: Found {
            params: choice.params,
            template: Some(choice.template),
            origin: entry.map(|entry| entry.cached.source.clone()),
            fresh,
            entry: entry.map(|entry| entry.id.clone()),
            score: Some(choice.score),
            red: choice.red,
            ..Found::default()
        },
        ..empty(request)
    }
}

fn planned(source: PlanSource, hash: String, plan: &Json) -> Option<Planned> {
    Some(Planned {
        source,
        hash,
        steps: RawValue::from_string(plan.text().to_owned()).ok()?,
    })
}

fn empty(request: u64) -> PlanAnswer {
    PlanAnswer {
        version: VERSION,
        request,
        planned: None,
        workflow: None,
        tools: BTreeMap::new(),
        found: Found::default(),
        error: None,
    }
}

/// The size of the answer's record, in bytes.
fn size(answer: &PlanAnswer) -> usize {
    serde_json::to_string(answer).map_or(usize::MAX, |text| text.len())
}

fn count(answer: &PlanAnswer) {
    let source = answer.planned.as_ref();
    let source = source.map_or("none", |planned| planned.source.name());
    PLANS.counter(&[source]).increment(1);
    for what in &answer.found.degraded {
        PLANNER_DEGRADED.counter(&[what]).increment(1);
    }
}
