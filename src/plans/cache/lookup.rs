//! A look-up: what it asks, what it answers, and its stages.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    Settings,
    belief::{Belief, Tally},
    dot::lanes,
    evidence::Evidence,
    gates::{self, Closed, Gate, Profile},
    index::VectorIndex,
    metric::cosine,
    tenant::{Entry, Known, Tenant},
};

/// Neighbours that are looked at.
const NEIGHBOURS: usize = 32;
/// Plans with one entry whose vectors are compared in the coordinates of the metric.
const SINGLES: usize = 8;
/// The similarity that every hit has, whatever was learned, unless `plans.threshold` asks for less. Far below the base threshold: on the
/// develop split of CLINC150 0.6 takes 2.9 points of the right hits, with 0.39 % of all hits wrong instead of 0.48 %.
pub const SIMILARITY_MIN: f64 = 0.5;
/// Lowest similarity of a near miss: below it there is nothing to learn.
const NEAR: f64 = 0.5;
/// Labels of a plan that must agree, or other entries that it must have, before a similarity below the base threshold can be enough.
const LEARNED: usize = 3;
/// Added to the base threshold, and divided out of the error bound, for plans with steps of lane RED.
const RED_MORE: f64 = 0.05;
const RED_ERROR: f64 = 10.0;
/// How much more than the bound of all hits the error of a hit at the threshold may be. Most hits are far above it, and their error falls
/// by e with each unit of evidence: on val of CLINC150 the average over hits is a tenth of the error at the lower end of the band there.
const MARGIN: f64 = 10.0;
/// Stages about single candidates that are recorded.
const STAGES_MAX: usize = 8;

/// A goal that needs a plan.
pub struct Query<'a, P> {
    /// The tenant of the goal.
    pub tenant: &'a str,
    /// The form of its template that is compared (`Template::key`).
    pub key: &'a str,
    /// The text of its template.
    pub text: &'a str,
    /// The values of its slots, by name (`Template::values`).
    pub slots: &'a BTreeMap<String, Value>,
    /// The vector of the template. `None`: there is no model, and only templates and aliases are compared.
    pub vector: Option<&'a [f32]>,
    /// Candidates of an index outside the process, instead of the cache's own: ids of entries, with their similarity.
    pub candidates: Option<&'a [(String, f32)]>,
    /// The time, in milliseconds since the Unix epoch.
    pub now: i64,
    /// Whether an entry may be used: not if a tool or the workflow of its plan has changed. The error is a stable code.
    pub allowed: &'a dyn Fn(&str, &P) -> Result<(), &'static str>,
}

/// The answer to a [`Query`].
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Lookup {
    /// The entry whose plan serves the goal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hit: Option<Hit>,
    /// What each stage decided.
    pub stages: Vec<Stage>,
    /// The candidate that was not certain enough. A planner's plan for the goal says whether it was right: that is a label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub near_miss: Option<NearMiss>,
}

/// A hit.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Hit {
    /// The id of the entry.
    pub entry: String,
    /// The similarity of the two goals; 1 for the same template.
    pub score: f64,
    /// Whether the template is not that of the entry, but of an alias.
    pub alias: bool,
    /// The evidence, for a label about this hit. `None` for templates and aliases.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<f64>,
}

/// A candidate that was not certain enough.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct NearMiss {
    /// The id of the entry.
    pub entry: String,
    /// The similarity of the two goals.
    pub score: f64,
    /// The evidence, for the label.
    pub evidence: f64,
}

/// The verdict of a stage.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The goal gets this entry.
    Hit,
    /// Nothing was found.
    Miss,
    /// The next stage decides.
    Pass,
    /// This candidate is out.
    Refused,
    /// The stage was left out.
    Skipped,
}

/// What a stage decided.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Stage {
    /// `template`, `search`, `gates` or `threshold`.
    pub name: &'static str,
    /// The entry that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
    /// `search` and `gates`: the similarity. `threshold`: the lowest probability of being right within the band.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// What the stage decided.
    pub verdict: Verdict,
    /// A stable code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
}

/// An entry near the goal.
struct Candidate<'a, P> {
    known: &'a Known<P>,
    entry: &'a Entry<P>,
    similarity: f64,
    closed: Closed,
    /// The similarity of the goal and the mean of the entries with its plan, in the coordinates of the metric.
    mean: Option<f64>,
    /// How many entries these are.
    members: usize,
    /// Why its plan cannot serve the goal.
    refused: Option<Refusal>,
}

#[derive(Clone, Copy, PartialEq)]
enum Refusal {
    Gate(Gate),
    Fixed,
}

impl<P> Candidate<'_, P> {
    fn open(&self) -> bool {
        self.refused.is_none()
    }

    fn has_plan_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.entry.shape, &other.entry.shape)
    }

    /// Whether `other` is for the same with other slots.
    fn is_variant(&self, other: &Self) -> bool {
        other.closed.has(Gate::Slots)
            && !self.entry.family.is_empty()
            && self.entry.family == other.entry.family
    }
}

/// Looks a goal up among the entries of its tenant.
pub(super) fn lookup<P>(tenant: &Tenant<P>, query: &Query<'_, P>, settings: &Settings) -> Lookup {
    let mut lookup = Lookup::default();
    if exact(tenant, query, settings, &mut lookup) {
        return lookup;
    }
    let near = neighbours(tenant, query, settings, &mut lookup);
    if let Some((candidate, evidence)) = best(&near, query) {
        decide(tenant, candidate, &evidence, settings, &mut lookup);
    }
    lookup
}

/// The best candidate, and what speaks for it.
pub(super) fn evidence_of<P>(
    tenant: &Tenant<P>,
    query: &Query<'_, P>,
    settings: &Settings,
) -> Option<(String, Evidence)> {
    let near = neighbours(tenant, query, settings, &mut Lookup::default());
    best(&near, query).map(|(candidate, evidence)| (candidate.known.id.clone(), evidence))
}

/// The candidate that most speaks for, of those that the gates leave.
fn best<'n, 'a, P>(
    near: &'n [Candidate<'a, P>],
    query: &Query<'_, P>,
) -> Option<(&'n Candidate<'a, P>, Evidence)> {
    let profile = Profile::new(query.text);
    let mut open: Vec<&Candidate<'a, P>> = Vec::new();
    // The nearest of each plan.
    for candidate in near.iter().filter(|candidate| candidate.open()) {
        if !open.iter().any(|other| other.has_plan_of(candidate)) {
            open.push(candidate);
        }
    }
    let weighed = open.into_iter();
    let weighed = weighed.map(|candidate| (candidate, evidence(near, candidate, &profile)));
    weighed.max_by(|(_, one), (_, other)| one.logit().total_cmp(&other.logit()))
}

impl<P> Query<'_, P> {
    /// Why an entry cannot be used at all.
    fn refusal(&self, id: &str, entry: &Entry<P>, settings: &Settings) -> Option<&'static str> {
        if entry.at.saturating_add(settings.ttl_ms) <= self.now {
            return Some("expired");
        }
        (self.allowed)(id, &entry.payload).err()
    }

    /// Whether the slots that the plan does not read have the values that are written in it.
    fn has_fixed(&self, entry: &Entry<P>) -> bool {
        entry.fixed.iter().all(|(name, value)| {
            let own = self.slots.get(name);
            own.is_some_and(|own| same_value(own, value))
        })
    }
}

/// Whether two values of slots are equal. The member `number` says again what `value` says, and may be missing.
fn same_value(one: &Value, other: &Value) -> bool {
    let (Value::Object(a), Value::Object(b)) = (one, other) else {
        return one == other;
    };
    let in_both = |a: &Map<String, Value>, b: &Map<String, Value>| {
        let mut members = a.iter().filter(|(name, _)| *name != "number");
        members.all(|(name, value)| b.get(name) == Some(value))
    };
    in_both(a, b) && in_both(b, a)
}

/// The first stage: the same template.
fn exact<P>(
    tenant: &Tenant<P>,
    query: &Query<'_, P>,
    settings: &Settings,
    lookup: &mut Lookup,
) -> bool {
    let mut reason = None;
    // Entries of the template itself come before those that have it as an alias.
    let slots = tenant
        .with_key(query.key)
        .iter()
        .filter_map(|slot| tenant.get(*slot));
    let found = slots.filter_map(|known| Some((known, known.entry.as_ref()?)));
    let mut found: Vec<_> = found
        .map(|(known, entry)| (entry.key != query.key, known, entry))
        .collect();
    found.sort_by_key(|(alias, _, entry)| (*alias, -entry.at));
    for (alias, known, entry) in found {
        let refusal = query.refusal(&known.id, entry, settings);
        let refusal = refusal.or_else(|| (!query.has_fixed(entry)).then_some("fixed_values"));
        if refusal.is_some() {
            reason = refusal;
            continue;
        }
        lookup.stages.push(Stage {
            name: "template",
            entry: Some(known.id.clone()),
            score: Some(1.0),
            verdict: Verdict::Hit,
            reason: alias.then_some("alias"),
        });
        lookup.hit = Some(Hit {
            entry: known.id.clone(),
            score: 1.0,
            alias,
            evidence: None,
        });
        return true;
    }
    lookup.stages.push(Stage {
        name: "template",
        entry: None,
        score: None,
        verdict: Verdict::Miss,
        reason,
    });
    false
}

/// The second and the third stage: near entries, and which of them the gates leave.
fn neighbours<'a, P>(
    tenant: &'a Tenant<P>,
    query: &Query<'_, P>,
    settings: &Settings,
    lookup: &mut Lookup,
) -> Vec<Candidate<'a, P>> {
    let mut search = |score: Option<f64>, verdict, reason| {
        lookup.stages.push(Stage {
            name: "search",
            entry: None,
            score,
            verdict,
            reason,
        });
    };
    let Some(vector) = query.vector else {
        search(None, Verdict::Skipped, Some("no_vector"));
        return Vec::new();
    };
    let found = match query.candidates {
        None => tenant.index.search(vector, NEIGHBOURS),
        Some(candidates) => {
            // An outside index may still have entries that are not known any more.
            let known = |id: &str| {
                let slot = tenant.slot(id)?;
                tenant.get(slot)?.entry.as_ref().map(|_| slot)
            };
            let slots = candidates.iter();
            let slots = slots.filter_map(|(id, score)| Some((known(id)?, *score)));
            let slots = slots.take(NEIGHBOURS);
            let own = |slot, score| (slot, tenant.index.similarity(slot, vector).unwrap_or(score));
            let mut found: Vec<_> = slots.map(|(slot, score)| own(slot, score)).collect();
            found.sort_by(|(_, one), (_, other)| other.total_cmp(one));
            found
        }
    };
    let profile = Profile::new(query.text);
    let mut near = Vec::with_capacity(found.len());
    for (slot, similarity) in found {
        let Some((known, entry)) = tenant
            .get(slot)
            .and_then(|known| Some((known, known.entry.as_ref()?)))
        else {
            continue;
        };
        if query.refusal(&known.id, entry, settings).is_some() {
            continue;
        }
        near.push(Candidate {
            known,
            entry,
            similarity: f64::from(similarity),
            closed: gates::check(&profile, &entry.profile),
            mean: None,
            members: 1,
            refused: None,
        });
    }
    refuse(&mut near, query);
    compare_means(tenant, &mut near, vector);
    let nearest = near.first().map(|candidate| candidate.similarity);
    search(
        nearest,
        if near.is_empty() {
            Verdict::Miss
        } else {
            Verdict::Pass
        },
        None,
    );
    for candidate in near.iter().take(STAGES_MAX) {
        let reason = candidate.refused.map(|refusal| match refusal {
            Refusal::Gate(gate) => gate.name(),
            Refusal::Fixed => "fixed_values",
        });
        lookup.stages.push(Stage {
            name: "gates",
            entry: Some(candidate.known.id.clone()),
            score: Some(candidate.similarity),
            verdict: if reason.is_some() {
                Verdict::Refused
            } else {
                Verdict::Pass
            },
            reason,
        });
    }
    near
}

/// Sets what refuses each candidate. Plans without RED steps learn from all their entries what they do not depend on.
fn refuse<P>(near: &mut [Candidate<'_, P>], query: &Query<'_, P>) {
    for at in 0..near.len() {
        let candidate = &near[at];
        let mut closed = candidate.closed;
        if !candidate.entry.red {
            let same = near.iter().filter(|other| other.has_plan_of(candidate));
            closed = closed.together_with(same.map(|other| other.closed));
        }
        let fixed = !query.has_fixed(candidate.entry);
        near[at].refused = match closed.first() {
            Some(gate) => Some(Refusal::Gate(gate)),
            None => fixed.then_some(Refusal::Fixed),
        };
    }
}

/// Compares the goal with the means of the candidates' plans.
fn compare_means<P>(tenant: &Tenant<P>, near: &mut [Candidate<'_, P>], vector: &[f32]) {
    let goal = tenant.metric.white(&lanes(vector));
    let mut singles = 0;
    for at in 0..near.len() {
        let candidate = &near[at];
        let earlier = near[..at].iter().find(|other| other.has_plan_of(candidate));
        let (mean, members) = if let Some(earlier) = earlier {
            (earlier.mean, earlier.members)
        } else {
            let mean = tenant.shapes.get(&candidate.entry.shape);
            let mean = mean.map(|shape| &shape.mean);
            let mut single = || {
                let slot = tenant.slot(&candidate.known.id)?;
                let own = tenant.index.vector(slot)?.try_into().ok()?;
                singles += 1;
                (singles <= SINGLES).then(|| tenant.metric.white(own))
            };
            let white = mean.and_then(|mean| mean.white.as_deref());
            let similarity = match white {
                Some(white) => Some(cosine(white, &goal)),
                None => single().map(|white| cosine(&white, &goal)),
            };
            (similarity, mean.map_or(1, |mean| mean.count.max(1)))
        };
        (near[at].mean, near[at].members) = (mean, members);
    }
}

/// What speaks for a candidate.
fn evidence<P>(
    near: &[Candidate<'_, P>],
    candidate: &Candidate<'_, P>,
    profile: &Profile,
) -> Evidence {
    let same = |other: &&Candidate<'_, P>| other.has_plan_of(candidate);
    // The opposite of a goal is near it, but no competitor.
    let is_competitor =
        |other: &&Candidate<'_, P>| !other.closed.is_reversal() && !candidate.is_variant(other);
    let others = near.iter().filter(|other| !same(other));
    let competitors = others.filter(is_competitor);
    let opponents = competitors.clone().count();
    let mean_competitor = competitors
        .clone()
        .filter_map(|other| other.mean)
        .reduce(f64::max);
    let competitor = competitors.map(|other| other.similarity).reduce(f64::max);
    let like: Vec<_> = near
        .iter()
        .filter(same)
        .map(|other| &other.entry.profile)
        .collect();
    Evidence {
        similarity: candidate.similarity,
        competitor,
        support: (like.len() - 1).saturating_sub(opponents),
        unknown_words: gates::unexplained(profile, &like),
        missing_words: gates::unexplained(&candidate.entry.profile, &[profile]),
        same_phrases: gates::same_phrases(profile, &candidate.entry.profile),
        mean: candidate.mean.unwrap_or(candidate.similarity),
        mean_competitor,
        members: candidate.members,
    }
}

/// The last stage: whether the candidate is certain enough.
fn decide<P>(
    tenant: &Tenant<P>,
    candidate: &Candidate<'_, P>,
    evidence: &Evidence,
    settings: &Settings,
    lookup: &mut Lookup,
) {
    let none = Tally::default();
    let entry = candidate.entry;
    let of_plan = tenant
        .shapes
        .get(&entry.shape)
        .map_or(&none, |shape| &shape.tally);
    let logit = evidence.logit();
    let belief = Belief::new(logit, &tenant.tally, of_plan, &candidate.known.tally);
    let (base, max_error) = if entry.red {
        (
            settings.threshold + RED_MORE,
            settings.max_error / RED_ERROR,
        )
    } else {
        (settings.threshold, settings.max_error * MARGIN)
    };
    let learned = of_plan.agreed() as usize >= LEARNED || evidence.members > LEARNED;
    let learned = !entry.red && learned;
    // One entry alone says nothing about which words its plan depends on.
    let alone = evidence.members == 1 && !evidence.same_phrases && !learned;
    let least = if learned {
        base.min(SIMILARITY_MIN)
    } else {
        base
    };
    // `plans.threshold` 1 leaves the same words alone. Of texts that differ in case only, the similarity is 1, too.
    let reason = if settings.threshold >= 1.0 || candidate.similarity < least {
        Some("below_threshold")
    } else if alone || belief.at_least < 1.0 - max_error {
        Some("uncertain")
    } else {
        None
    };
    let id = &candidate.known.id;
    lookup.stages.push(Stage {
        name: "threshold",
        entry: Some(id.clone()),
        score: Some(belief.at_least),
        verdict: if reason.is_some() {
            Verdict::Miss
        } else {
            Verdict::Hit
        },
        reason,
    });
    if reason.is_none() {
        lookup.hit = Some(Hit {
            entry: id.clone(),
            score: candidate.similarity,
            alias: false,
            evidence: Some(logit),
        });
    } else if candidate.similarity >= NEAR {
        lookup.near_miss = Some(NearMiss {
            entry: id.clone(),
            score: candidate.similarity,
            evidence: logit,
        });
    }
}
