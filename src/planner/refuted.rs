//! What a person's feedback says about a plan that was made for another goal.

use super::Planner;
use crate::{
    plans::template::example,
    runs::{LABEL, PlanLabel, PlanRecord, entry_id, entry_key},
};

/// The plan of a run that came from a cached entry, and was wrong.
#[derive(Clone, Copy, Debug)]
pub struct WrongHit<'a> {
    /// The id of the entry.
    pub entry: &'a str,
    /// The template of the entry, if it is known.
    pub entry_template: Option<&'a str>,
    /// The hash of the plan.
    pub hash: Option<&'a str>,
    /// The template of the goal.
    pub template: &'a str,
    /// How similar the goals are; 1 for aliases.
    pub score: f64,
    /// What spoke for the entry.
    pub evidence: Option<f64>,
}

impl Planner {
    /// The label that says that the plan does not fit the goal: it takes the place of the one that made the goal an alias, and outlasts the
    /// entry. `None`: the entry is that of the goal itself.
    pub fn refuted(&self, tenant: &str, hit: &WrongHit<'_>) -> Option<PlanRecord> {
        let own = match hit.entry_template {
            Some(template) => example(template).key() == example(hit.template).key(),
            None => entry_id(tenant, hit.template) == hit.entry,
        };
        if own {
            return None;
        }
        let inner = &self.0;
        let labels = inner.table.cache().labels(&entry_key(tenant, hit.entry));
        let alias = labels.iter().find(|label| label.template == hit.template);
        let label = PlanLabel {
            // An alias has no similarity of its own: that of the comparison counts.
            score: alias.map_or(hit.score, |label| label.score),
            evidence: hit.evidence,
            hash: hit.hash.map(str::to_owned),
            agrees: false,
        };
        Some(PlanRecord {
            tenant: tenant.to_owned(),
            entry: hit.entry.to_owned(),
            kind: LABEL.to_owned(),
            template: hit.template.to_owned(),
            at: inner.clock.now().0,
            body: serde_json::to_string(&label).ok()?,
        })
    }
}
