//! The lookup of a plan, before a language model is asked: the cache by template, the catalogue by example, then both by similarity.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::value::RawValue;

use super::{
    Inner,
    bind::bind,
    entry::Entry,
    examples::{Match, NoMatch},
    goal::Goal,
    vectors::Vector,
};
use crate::{
    api::plans::PlanStage,
    commands::start::{PlanSource, WorkflowVersion},
    plans::{
        cache::{self, Hit, NearMiss, Query, Stage, Verdict},
        template::SlotKind,
    },
    runs::{Json, entry_key},
    workflows::Catalog,
};

/// There are no vectors: only goals with the same words are found.
pub const EMBEDDINGS_UNAVAILABLE: &str = "embeddings_unavailable";
/// The index outside the process does not answer: the node searches in memory.
pub const QDRANT_UNAVAILABLE: &str = "qdrant_unavailable";

/// The number of candidates that the index outside the process gives.
const CANDIDATES: usize = 32;

/// Ids and similarities of entries from the index outside the process, if there is one.
type Candidates<'a> = Option<&'a [(String, f32)]>;

/// What a lookup came to.
#[derive(Default)]
pub(super) struct LookupResult {
    /// The plan.
    pub(super) choice: Option<Choice>,
    /// What each stage decided.
    pub(super) stages: Vec<PlanStage>,
    /// An entry that was not certain enough.
    pub(super) near_miss: Option<NearMiss>,
    /// What was not available.
    pub(super) degraded: Vec<String>,
}

/// A plan that was found.
pub(super) struct Choice {
    pub(super) source: PlanSource,
    pub(super) hash: String,
    pub(super) plan: Json,
    pub(super) workflow: Option<WorkflowVersion>,
    pub(super) tools: BTreeMap<String, Box<RawValue>>,
    /// Those of the workflow.
    pub(super) params: Option<Json>,
    /// The entry of the cache.
    pub(super) entry: Option<Arc<Entry>>,
    pub(super) score: f64,
    /// The steps that need approval.
    pub(super) red: BTreeMap<String, Vec<String>>,
    /// The template under which it is cached again.
    pub(super) template: String,
    /// What speaks for an entry that was found by similarity.
    pub(super) evidence: Option<f64>,
    /// A plan that goals with the same words have been carried out with. Those of an alias were compared by their plans alone.
    pub(super) same_words: bool,
}

impl LookupResult {
    fn stage(&mut self, stage: PlanStage) {
        self.stages.push(stage);
    }
}

impl Inner {
    /// Looks a plan up.
    pub(super) async fn look_up(&self, goal: &Goal) -> LookupResult {
        let catalog = self.catalog.get();
        let mut found = LookupResult::default();
        self.by_template(goal, &catalog, &mut found);
        if found.choice.is_none() {
            self.by_example(goal, &catalog, &mut found);
        }
        if found.choice.is_none() {
            self.by_similarity(goal, &catalog, &mut found).await;
        }
        found
    }

    /// The entry of the goal's own template, or of one that it is an alias of.
    fn by_template(&self, goal: &Goal, catalog: &Arc<Catalog>, found: &mut LookupResult) {
        let (lookup, entry) = self.in_cache(goal, catalog, (None, None));
        // Without a vector nothing else is looked at.
        let stages = lookup.stages.iter().take(1);
        stages.for_each(|stage| found.stage(shown(stage)));
        if let (Some(hit), Some(entry)) = (&lookup.hit, entry) {
            found.choice = self.of_entry(goal, catalog, entry, hit);
        }
    }

    /// The workflow that has the goal's template as an example.
    fn by_example(&self, goal: &Goal, catalog: &Arc<Catalog>, found: &mut LookupResult) {
        let head = self.examples.of(catalog);
        if head.is_empty() {
            found.stage(PlanStage::new("catalog", "skipped").because("no_examples"));
            return;
        }
        let matched = head.exact(goal);
        Self::of_catalog("catalog", goal, catalog, matched, found);
    }

    /// The entry, or else the workflow, whose goals are certainly similar.
    async fn by_similarity(&self, goal: &Goal, catalog: &Arc<Catalog>, found: &mut LookupResult) {
        let has_examples = !self.examples.of(catalog).is_empty();
        let any = has_examples || !self.table.cache().is_empty(&goal.tenant);
        if !any {
            found.stage(PlanStage::new("search", "skipped").because("nothing_to_compare_with"));
            return;
        }
        let vector = match self.vectors.one(&goal.template.text).await {
            Ok(vector) => vector,
            Err(error) => {
                found.degraded.push(EMBEDDINGS_UNAVAILABLE.to_owned());
                found.stage(PlanStage::new("search", "skipped").because(error.to_string()));
                return;
            }
        };
        let outside = self.outside(goal, &vector, found).await;
        let (lookup, entry) = self.in_cache(goal, catalog, (Some(&vector), outside.as_deref()));
        let stages = lookup.stages.iter().skip(1);
        stages.for_each(|stage| found.stage(shown(stage)));
        if let (Some(hit), Some(entry)) = (&lookup.hit, entry) {
            found.choice = self.of_entry(goal, catalog, entry, hit);
        }
        found.near_miss = lookup.near_miss;
        if found.choice.is_some() || !has_examples {
            return;
        }
        match self.examples.embedded(catalog, &self.vectors).await {
            Ok(head) => {
                let matched = head.similar(goal, &vector, self.plans.threshold);
                Self::of_catalog("catalog_similar", goal, catalog, matched, found);
            }
            Err(error) => {
                found.degraded.push(EMBEDDINGS_UNAVAILABLE.to_owned());
                found
                    .stage(PlanStage::new("catalog_similar", "skipped").because(error.to_string()));
            }
        }
    }

    /// The candidates of the index outside the process; `None`: there is none now, and the node searches in memory.
    async fn outside(
        &self,
        goal: &Goal,
        vector: &Vector,
        found: &mut LookupResult,
    ) -> Option<Vec<(String, f32)>> {
        let qdrant = self.qdrant.as_ref()?;
        let near = if qdrant.is_complete() {
            qdrant.search(&goal.tenant, vector, CANDIDATES).await.ok()
        } else {
            None
        };
        let Some(near) = near else {
            found.degraded.push(QDRANT_UNAVAILABLE.to_owned());
            return None;
        };
        Some(
            near.into_iter()
                .map(|near| (near.entry, near.score))
                .collect(),
        )
    }

    /// Looks into the cache, by template and, with a vector, by similarity.
    fn in_cache(
        &self,
        goal: &Goal,
        catalog: &Arc<Catalog>,
        (vector, candidates): (Option<&Vector>, Candidates<'_>),
    ) -> (cache::Lookup, Option<Arc<Entry>>) {
        let key = goal.template.key();
        let allowed = |_: &str, entry: &Entry| {
            let ready = entry.ready(catalog, &self.bounds)?;
            entry.serves(goal)?;
            match &ready.workflow {
                Some((workflow, _)) if bind(workflow, goal).is_err() => Err("params_do_not_fit"),
                _ => Ok(()),
            }
        };
        let query = Query {
            tenant: &goal.tenant,
            key: &key,
            text: &goal.template.text,
            slots: &goal.slots,
            vector: vector.map(|vector| &vector[..]),
            candidates,
            now: self.clock.now().0,
            allowed: &allowed,
        };
        let reading = self.table.cache();
        let mut lookup = reading.cache().lookup(&query);
        let hit = lookup.hit.as_ref();
        let disagrees = hit.is_some_and(|hit| {
            let name = entry_key(&goal.tenant, &hit.entry);
            let entry = reading.cache().get(&goal.tenant, &hit.entry);
            entry.is_some_and(|entry| reading.disagrees(&name, &entry.hash, &key))
        });
        if disagrees {
            // Somebody has said so, or the plan of a model has. It stays a competitor of others.
            lookup.hit = None;
            if let Some(stage) = lookup.stages.last_mut() {
                (stage.verdict, stage.reason) = (Verdict::Refused, Some("label_disagrees"));
            }
            return (lookup, None);
        }
        let entry = hit.and_then(|hit| reading.cache().get(&goal.tenant, &hit.entry));
        let entry = entry.map(|entry| Arc::clone(&entry.payload));
        (lookup, entry)
    }

    /// The plan of an entry that may be used.
    fn of_entry(
        &self,
        goal: &Goal,
        catalog: &Arc<Catalog>,
        entry: Arc<Entry>,
        hit: &Hit,
    ) -> Option<Choice> {
        let ready = entry.ready(catalog, &self.bounds).ok()?;
        let (workflow, params) = match &ready.workflow {
            None => (None, None),
            Some((workflow, version)) => (Some(version.clone()), Some(bind(workflow, goal).ok()?)),
        };
        Some(Choice {
            source: PlanSource::Cache,
            hash: entry.cached.hash.clone(),
            plan: entry.cached.plan.clone(),
            workflow,
            tools: ready.tools.clone(),
            params,
            score: hit.score,
            red: ready.red.clone(),
            template: entry.template.clone(),
            evidence: hit.evidence,
            same_words: hit.evidence.is_none() && !hit.alias && !has_free_text(goal),
            entry: Some(entry),
        })
    }

    /// The plan of a workflow that matches.
    fn of_catalog(
        stage: &str,
        goal: &Goal,
        catalog: &Catalog,
        matched: Result<Match, NoMatch>,
        found: &mut LookupResult,
    ) {
        let Match { workflow, score } = match matched {
            Ok(matched) => matched,
            Err(NoMatch { reason, nearest }) => {
                let mut shown = PlanStage::new(stage, "miss").because(reason);
                if let Some((workflow, score)) = nearest {
                    (shown.workflow, shown.score) = (Some(workflow), Some(score));
                }
                found.stage(shown);
                return;
            }
        };
        let mut shown = PlanStage::new(stage, "hit");
        (shown.workflow, shown.score) = (Some(workflow.name.clone()), Some(score));
        let disabled = goal.disabled_workflows.contains(&workflow.name);
        let bound = if disabled {
            Err("workflow_disabled".to_owned())
        } else {
            bind(&workflow, goal).map_err(|error| error.to_string())
        };
        match bound {
            Ok(params) => {
                found.choice = Some(Choice {
                    source: PlanSource::Catalog,
                    hash: workflow.hash.clone(),
                    plan: Json::of_raw(workflow.plan.clone()),
                    workflow: Some(workflow.to_version()),
                    tools: catalog.definitions(&workflow.steps),
                    params: Some(params),
                    entry: None,
                    score,
                    red: BTreeMap::new(),
                    template: goal.template.text.clone(),
                    evidence: None,
                    same_words: false,
                });
            }
            Err(why) => {
                "refused".clone_into(&mut shown.verdict);
                shown.reason = Some(why);
            }
        }
        found.stage(shown);
    }
}

/// Whether a slot of the goal may hold any text.
fn has_free_text(goal: &Goal) -> bool {
    let mut slots = goal.template.slots.iter();
    slots.any(|slot| slot.kind == SlotKind::Quoted)
}

fn shown(stage: &Stage) -> PlanStage {
    let verdict = match stage.verdict {
        Verdict::Hit => "hit",
        Verdict::Miss => "miss",
        Verdict::Pass => "pass",
        Verdict::Refused => "refused",
        Verdict::Skipped => "skipped",
    };
    PlanStage {
        entry: stage.entry.clone(),
        score: stage.score,
        reason: stage.reason.map(str::to_owned),
        ..PlanStage::new(stage.name, verdict)
    }
}
