//! The catalogue: workflows whose examples match a goal, word for word or as vectors.
//!
//! The second is a few-shot head: the nearest example of all decides, if nothing speaks against it. What speaks for a workflow is
//! measured as for cached plans ([`Evidence`]): how near its example is, how far the nearest example of another workflow, how many of
//! its own examples are near, and words that only one of both has. Beyond that the deterministic gates of cached plans apply.

use std::{
    cmp::Ordering,
    collections::BTreeSet,
    sync::{Arc, Weak},
};

use parking_lot::RwLock;

use super::{
    goal::Goal,
    vectors::{NoVectors, Vector, Vectors, similarity as cosine},
};
use crate::{
    plans::{
        cache::{Evidence, Gate, Profile, SIMILARITY_MIN, check_gates, unexplained},
        template::Template,
    },
    workflows::{Catalog, Workflow},
};

/// The least logit of the probability that the workflow is right: 98 %.
const LOGIT_MIN: f64 = 3.9;
/// A workflow has several examples, so that one may be a little less near than the goal of a cached plan (`plans.threshold`).
const ALLOWANCE: f64 = 0.1;
/// An example of the same workflow that is almost as near as the nearest one supports it.
const SUPPORT: f64 = 0.1;

/// The examples of the current catalog.
#[derive(Default)]
pub(super) struct Examples {
    current: RwLock<Option<Arc<Head>>>,
    embedding: tokio::sync::Mutex<()>,
}

/// The examples of a catalog.
pub(super) struct Head {
    catalog: Weak<Catalog>,
    examples: Vec<Example>,
    /// Whether they have vectors.
    embedded: bool,
}

struct Example {
    workflow: Arc<Workflow>,
    template: Template,
    profile: Profile,
    vector: Option<Vector>,
}

/// A workflow that matches a goal.
pub(super) struct Match {
    pub(super) workflow: Arc<Workflow>,
    /// The similarity of the goal and the example.
    pub(super) score: f64,
}

/// No workflow matches.
pub(super) struct NoMatch {
    /// A stable code.
    pub(super) reason: &'static str,
    /// The most similar workflow, with its similarity.
    pub(super) nearest: Option<(String, f64)>,
}

impl NoMatch {
    const fn because(reason: &'static str) -> Self {
        Self {
            reason,
            nearest: None,
        }
    }
}

impl Examples {
    /// The examples of a catalog.
    pub(super) fn of(&self, catalog: &Arc<Catalog>) -> Arc<Head> {
        if let Some(head) = &*self.current.read()
            && head.is_of(catalog)
        {
            return Arc::clone(head);
        }
        let head = Arc::new(Head::new(catalog));
        *self.current.write() = Some(Arc::clone(&head));
        head
    }

    /// The examples of a catalog, with vectors.
    pub(super) async fn embedded(
        &self,
        catalog: &Arc<Catalog>,
        vectors: &Vectors,
    ) -> Result<Arc<Head>, NoVectors> {
        let head = self.of(catalog);
        if head.embedded || head.examples.is_empty() {
            return Ok(head);
        }
        let _one_at_a_time = self.embedding.lock().await;
        let head = self.of(catalog);
        if head.embedded {
            return Ok(head);
        }
        let texts = head.examples.iter().map(|e| e.template.text.as_str());
        let texts: Vec<&str> = texts.collect();
        let of_texts = vectors.of(&texts).await?;
        let examples = head.examples.iter().zip(of_texts);
        let examples = examples.map(|(example, vector)| Example {
            workflow: Arc::clone(&example.workflow),
            template: example.template.clone(),
            profile: example.profile.clone(),
            vector: Some(vector),
        });
        let head = Arc::new(Head {
            catalog: Arc::downgrade(catalog),
            examples: examples.collect(),
            embedded: true,
        });
        *self.current.write() = Some(Arc::clone(&head));
        Ok(head)
    }
}

impl Head {
    fn new(catalog: &Arc<Catalog>) -> Self {
        let names: BTreeSet<&str> = catalog.workflows().map(|w| w.name.as_str()).collect();
        let current = names
            .into_iter()
            .filter_map(|name| catalog.workflow(name, None));
        let examples = current.flat_map(|workflow| {
            workflow.examples.iter().map(|template| Example {
                workflow: Arc::clone(workflow),
                profile: Profile::new(&template.text),
                template: template.clone(),
                vector: None,
            })
        });
        Self {
            catalog: Arc::downgrade(catalog),
            examples: examples.collect(),
            embedded: false,
        }
    }

    fn is_of(&self, catalog: &Arc<Catalog>) -> bool {
        std::ptr::eq(self.catalog.as_ptr(), Arc::as_ptr(catalog))
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.examples.is_empty()
    }

    /// The workflow that has the goal's template as an example.
    pub(super) fn exact(&self, goal: &Goal) -> Result<Match, NoMatch> {
        let mut found: Option<&Example> = None;
        let mut not_allowed = false;
        let fits = |example: &&Example| goal.template.matches(&example.template).is_some();
        for example in self.examples.iter().filter(fits) {
            if !example.allowed(goal) {
                not_allowed = true;
            } else if found.is_some_and(|other| other.workflow.name != example.workflow.name) {
                return Err(NoMatch::because("ambiguous"));
            } else {
                found = Some(example);
            }
        }
        let workflow = found.map(|example| Arc::clone(&example.workflow));
        let reason = if not_allowed {
            "workflow_not_allowed"
        } else {
            "no_example"
        };
        let workflow = workflow.ok_or(NoMatch::because(reason))?;
        Ok(Match {
            workflow,
            score: 1.0,
        })
    }

    /// The workflow whose examples are certainly nearest.
    pub(super) fn similar(
        &self,
        goal: &Goal,
        vector: &[f32],
        threshold: f64,
    ) -> Result<Match, NoMatch> {
        let of_goal = Profile::new(&goal.template.text);
        let scored = self.examples.iter().filter_map(|example| {
            let score = f64::from(cosine(vector, example.vector.as_deref()?));
            Some((example, score))
        });
        let mut scored: Vec<_> = scored.collect();
        scored.sort_by(|(_, a), (_, b)| b.partial_cmp(a).unwrap_or(Ordering::Equal));
        let Some((nearest, score)) = scored.first().copied() else {
            return Err(NoMatch::because("no_example"));
        };
        let no = |reason| {
            let nearest = Some((nearest.workflow.name.clone(), score));
            Err(NoMatch { reason, nearest })
        };
        if !nearest.allowed(goal) {
            return no("workflow_not_allowed");
        }
        let least = threshold - ALLOWANCE;
        if threshold >= 1.0 || score < least {
            return no("below_threshold");
        }
        let own = |example: &Example| example.workflow.name == nearest.workflow.name;
        let near = scored.iter().filter(|(_, other)| *other >= score - SUPPORT);
        let (supporting, opposing): (Vec<(&Example, f64)>, Vec<_>) =
            near.copied().partition(|(example, _)| own(example));
        // Examples of a workflow use different verbs: one that the goal fits is enough.
        let fits =
            |(example, _): &&(&Example, f64)| check_gates(&of_goal, &example.profile).is_empty();
        let Some((fitting, similarity)) = supporting.iter().find(fits).copied() else {
            let gate = check_gates(&of_goal, &nearest.profile).first();
            return no(gate.map_or("gates", Gate::name));
        };
        if similarity < least.min(SIMILARITY_MIN) {
            return no("below_threshold");
        }
        let like: Vec<_> = supporting.iter().map(|(e, _)| &e.profile).collect();
        let competitor = scored.iter().find(|(example, _)| !own(example));
        let evidence = Evidence {
            similarity,
            competitor: competitor.map(|(_, score)| *score),
            support: (supporting.len() - 1).saturating_sub(opposing.len()),
            unknown_words: unexplained(&of_goal, &like),
            missing_words: unexplained(&fitting.profile, &[&of_goal]),
            ..Evidence::of_similarity(similarity)
        };
        if evidence.logit_of_neighbours() < LOGIT_MIN {
            return no("uncertain");
        }
        Ok(Match {
            workflow: Arc::clone(&nearest.workflow),
            score: similarity,
        })
    }
}

impl Example {
    fn allowed(&self, goal: &Goal) -> bool {
        goal.allows(&self.workflow.name, &self.workflow.version.to_string())
    }
}
