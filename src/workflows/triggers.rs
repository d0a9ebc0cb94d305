//! The triggers of all workflows, and looking them up by event type.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{
    catalog::Catalog,
    resolved::Resolved,
    trigger::{CronTrigger, EventTrigger, Trigger},
    workflow::Workflow,
};

/// A workflow with triggers.
#[derive(Debug)]
pub struct ToStart {
    /// The workflow, in its highest version.
    pub workflow: Arc<Workflow>,
    /// What its start records contain.
    pub resolved: Resolved,
}

/// The index of a trigger's workflow in [`Triggers::workflows`], and of the trigger in the workflow.
type Place = (usize, usize);

/// The triggers of all workflows, by event type.
#[derive(Debug, Default)]
pub struct Triggers {
    workflows: Vec<ToStart>,
    exact: HashMap<String, Vec<Place>>,
    /// By prefix of the type.
    prefixes: HashMap<String, Vec<Place>>,
    /// The distinct lengths of the prefixes.
    lengths: Vec<usize>,
}

impl Triggers {
    /// The triggers of a catalog. Of each workflow only the version counts that a request without a version would start.
    pub(super) fn of(catalog: &Catalog) -> Self {
        let mut names: Vec<_> = catalog.workflows().map(|w| w.name.as_str()).collect();
        names.dedup();
        let mut triggers = Self::default();
        for name in names {
            let Some(workflow) = catalog.workflow(name, None) else {
                continue;
            };
            if workflow.triggers.is_empty() {
                continue;
            }
            let resolved = catalog.to_run(workflow);
            let at = triggers.workflows.len();
            for (n, trigger) in workflow.triggers.iter().enumerate() {
                if let Trigger::Event(trigger) = trigger {
                    let (map, key) = match trigger.pattern.strip_suffix('*') {
                        Some(prefix) => (&mut triggers.prefixes, prefix),
                        None => (&mut triggers.exact, &*trigger.pattern),
                    };
                    map.entry(key.to_owned()).or_default().push((at, n));
                }
            }
            triggers.workflows.push(ToStart {
                workflow: Arc::clone(workflow),
                resolved,
            });
        }
        triggers.lengths = triggers.prefixes.keys().map(String::len).collect();
        triggers.lengths.sort_unstable();
        triggers.lengths.dedup();
        triggers
    }

    /// Whether no workflow has an event trigger.
    pub fn ignores_events(&self) -> bool {
        self.exact.is_empty() && self.prefixes.is_empty()
    }

    /// The workflows with triggers for this event type, by name, each with these triggers in file order.
    pub fn of_event(&self, kind: &str) -> BTreeMap<&str, (&ToStart, Vec<&EventTrigger>)> {
        let exact = self.exact.get(kind).into_iter();
        let prefixes = self.lengths.iter().filter_map(|length| kind.get(..*length));
        let prefixes = prefixes.filter_map(|prefix| self.prefixes.get(prefix));
        let mut places: Vec<Place> = exact.chain(prefixes).flatten().copied().collect();
        places.sort_unstable();
        let mut found = BTreeMap::new();
        for (at, n) in places {
            let to_start = &self.workflows[at];
            if let Trigger::Event(trigger) = &to_start.workflow.triggers[n] {
                let (_, triggers) = found
                    .entry(to_start.workflow.name.as_str())
                    .or_insert_with(|| (to_start, Vec::new()));
                triggers.push(trigger);
            }
        }
        found
    }

    /// All triggers, with their workflows.
    pub fn all(&self) -> impl Iterator<Item = (&ToStart, &Trigger)> {
        self.workflows.iter().flat_map(|to_start| {
            let triggers = to_start.workflow.triggers.iter();
            triggers.map(move |trigger| (to_start, trigger))
        })
    }

    /// All cron triggers, with their workflows.
    pub fn of_times(&self) -> impl Iterator<Item = (&ToStart, &CronTrigger)> {
        self.all().filter_map(|(to_start, trigger)| match trigger {
            Trigger::Cron(trigger) => Some((to_start, &**trigger)),
            Trigger::Event(_) => None,
        })
    }
}
