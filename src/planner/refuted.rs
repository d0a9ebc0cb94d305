//! What a person's feedback says about a plan that was made for another goal.

use std::collections::{HashSet, VecDeque};

use parking_lot::Mutex;

use super::Planner;
use crate::{
    plans::template::example,
    runs::{LABEL, PlanLabel, PlanRecord, entry_id, entry_key},
};

/// Runs that are remembered.
const RUNS_MAX: usize = 10_000;

/// The runs whose plans were called wrong, so that each counts once. The oldest make room.
#[derive(Default)]
pub(super) struct Refuted(Mutex<(HashSet<String>, VecDeque<String>)>);

impl Refuted {
    /// Takes a run in. Returns whether it is new.
    fn insert(&self, run: String) -> bool {
        let mut guard = self.0.lock();
        let (known, order) = &mut *guard;
        if !known.insert(run.clone()) {
            return false;
        }
        order.push_back(run);
        if order.len() > RUNS_MAX
            && let Some(oldest) = order.pop_front()
        {
            known.remove(&oldest);
        }
        true
    }
}

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
    /// Whether the plan of a run is called wrong for the first time, as far as this node remembers. Counters are of a node, too.
    pub fn is_refuted_first(&self, tenant: &str, run_id: &str) -> bool {
        self.0.refuted.insert(format!("{tenant}\u{1f}{run_id}"))
    }

    /// Whether an entry has another plan by now than the one with this hash.
    pub fn has_another_plan(&self, tenant: &str, entry: &str, hash: &str) -> bool {
        let reading = self.0.table.cache();
        let entry = reading.cache().get(tenant, entry);
        entry.is_some_and(|entry| entry.hash != hash)
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_new_once_and_few_are_remembered() {
        let refuted = Refuted::default();
        assert!(refuted.insert("first".into()));
        assert!(!refuted.insert("first".into()));
        for run in 0..RUNS_MAX {
            assert!(refuted.insert(run.to_string()));
        }
        assert!(refuted.insert("first".into()));
        assert_eq!(refuted.0.lock().0.len(), RUNS_MAX);
    }
}
