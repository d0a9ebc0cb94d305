//! The cache's input: what the records of the topic `plans` say.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;

/// A record of `plans`, as the cache needs it.
#[derive(Clone, Debug)]
pub enum CacheRecord<P> {
    /// A plan.
    Entry(EntryRecord<P>),
    /// Whether the plan of an entry fits another goal.
    Label(LabelRecord),
}

/// A plan that a run has carried out successfully.
#[derive(Clone, Debug)]
pub struct EntryRecord<P> {
    /// The template of its goal.
    pub template: String,
    /// The form of the template that is compared (`Template::key`).
    pub key: String,
    /// When it was written, in milliseconds since the Unix epoch: its TTL starts here.
    pub at: i64,
    /// The hash of the plan. Labels of another plan do not count.
    pub hash: String,
    /// The shape of the plan: entries whose plans have the same shape learn from each other's labels.
    pub shape: String,
    /// What the plan does, whatever its slots (the names of its tools or its workflow): an entry of the same family with other slots is
    /// no competitor.
    pub family: String,
    /// Whether the plan has steps of lane RED: a hit needs more certainty.
    pub red: bool,
    /// Slots that the plan does not read, by name (`NUMBER_1`), and their values: they are written in the plan itself, so the plan serves
    /// only goals with the same values.
    pub fixed: BTreeMap<String, Value>,
    /// The vector of the template, if it is known already ([`super::Cache::set_vector`]).
    pub vector: Option<Vec<f32>>,
    /// What the caller keeps with the entry, such as the plan.
    pub payload: Arc<P>,
}

/// Whether the plan of an entry fits another goal.
#[derive(Clone, PartialEq, Debug)]
pub struct LabelRecord {
    /// The form of the other goal's template that is compared. A goal with it is an alias if the label agrees.
    pub key: String,
    /// When it was written, in milliseconds since the Unix epoch.
    pub at: i64,
    /// The similarity of the two goals.
    pub score: f64,
    /// The evidence of the look-up ([`super::NearMiss::evidence`]). `None`: computed from the similarity.
    pub evidence: Option<f64>,
    /// The hash of the entry's plan. `None`: whatever it is.
    pub hash: Option<String>,
    /// Whether the plans have the same shape.
    pub agrees: bool,
}

/// The key of a record: tenant, entry and, for labels, the other goal.
pub(super) fn parts(key: &[u8]) -> Option<(&str, &str, Option<&str>)> {
    let mut parts = std::str::from_utf8(key).ok()?.splitn(3, '\u{1f}');
    Some((parts.next()?, parts.next()?, parts.next()))
}
