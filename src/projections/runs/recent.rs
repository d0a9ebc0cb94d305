//! A cache of runs that have not ended, which drops the least recently used ones.

use std::collections::HashMap;

use super::fold::Run;

/// When the runs of a generation have this many steps, a new generation begins, and the older one is dropped. A step takes a few
/// hundred bytes.
const GENERATION: usize = 100_000;

/// Tenant and run.
type Key = (Box<str>, Box<str>);

/// Runs by tenant and id, in two generations: a run that is used moves to the young one.
#[derive(Default)]
pub(super) struct RecentRuns {
    young: HashMap<Key, Run>,
    old: HashMap<Key, Run>,
    /// The number of steps and runs in `young`.
    weight: usize,
}

impl RecentRuns {
    /// Removes a run.
    pub(super) fn take(&mut self, tenant: &str, run_id: &str) -> Option<Run> {
        let key = (tenant.into(), run_id.into());
        if let Some(run) = self.young.remove(&key) {
            self.weight = self.weight.saturating_sub(1 + run.steps.len());
            return Some(run);
        }
        self.old.remove(&key)
    }

    /// Keeps a run, unless it has ended.
    pub(super) fn put(&mut self, (tenant, run_id, run): (&str, &str, Run)) {
        if run.has_ended() {
            return;
        }
        self.weight += 1 + run.steps.len();
        self.young.insert((tenant.into(), run_id.into()), run);
        if self.weight >= GENERATION {
            self.old = std::mem::take(&mut self.young);
            self.weight = 0;
        }
    }

    /// Removes all runs.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
