//! A look-up: what it asks, what it answers, and its stages.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    Settings,
    belief::{Belief, Tally},
    evidence::Evidence,
    gates::{self, Gate, Profile},
    tenant::{Entry, Known, Tenant},
};

/// Neighbours that are looked at.
const NEIGHBOURS: usize = 16;
/// Lowest similarity of a near miss: below it there is nothing to learn.
const NEAR: f64 = 0.5;
/// Labels of a plan that must agree before a similarity below the base threshold can be enough.
const LEARNED: u32 = 3;
/// Added to the base threshold, and divided out of the error bound, for plans with steps of lane RED.
const RED_MORE: f64 = 0.05;
const RED_ERROR: f64 = 10.0;
/// Stages about single candidates that are recorded.
const STAGES_MAX: usize = 8;

/// A goal that needs a plan.
pub struct Query<'a, P> {
    /// Whose goal it is.
    pub tenant: &'a str,
    /// The form of its template that is compared (`Template::key`).
    pub key: &'a str,
    /// Its template.
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
    /// The verdict.
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
    let open = near
        .iter()
        .enumerate()
        .filter(|(_, candidate)| candidate.open());
    let weighed = open.map(|(at, candidate)| (candidate, evidence(near, at, &profile)));
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
        let gate = gates::check(&profile, &entry.profile)
            .err()
            .map(Refusal::Gate);
        near.push(Candidate {
            known,
            entry,
            similarity: f64::from(similarity),
            refused: gate.or_else(|| (!query.has_fixed(entry)).then_some(Refusal::Fixed)),
        });
    }
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

/// What speaks for the candidate at `at`.
fn evidence<P>(near: &[Candidate<'_, P>], at: usize, profile: &Profile) -> Evidence {
    let candidate = &near[at];
    let same = |other: &&Candidate<'_, P>| other.entry.shape == candidate.entry.shape;
    // The opposite of a goal is near it, but no competitor.
    let is_competitor = |other: &&Candidate<'_, P>| !matches!(other.refused, Some(Refusal::Gate(gate)) if gate.is_reversal());
    let others = near.iter().filter(|other| !same(other));
    let competitors = others.filter(is_competitor);
    let opponents = competitors.clone().count();
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
        (settings.threshold, settings.max_error)
    };
    let learned = !entry.red && of_plan.agreed() >= LEARNED;
    let reason = if candidate.similarity < base && !learned {
        Some("below_threshold")
    } else if belief.at_least < 1.0 - max_error {
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
