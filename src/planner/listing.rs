//! Cached plans as people see them.

use std::{cmp::Reverse, sync::Arc};

use super::{Inner, Planner, entry::Entry};
use crate::{
    api::{
        plans::{CachedPlanView, WholeCachedPlan},
        runs::WorkflowView,
    },
    base::clock::Millis,
    runs::entry_key,
    workflows::Catalog,
};

/// The place of an entry in a list: when it was written, and its id.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place(i64, String);

impl Place {
    /// Reads a cursor.
    pub fn read(text: &str) -> Option<Self> {
        let (at, id) = text.split_once('.')?;
        Some(Self(at.parse().ok()?, id.to_owned()))
    }
}

/// As a cursor.
impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

impl Planner {
    /// The cached plans of a tenant after a place, at most `limit`, newest first; and the place to continue at, if there are more.
    pub fn plans(
        &self,
        tenant: &str,
        after: Option<&Place>,
        limit: usize,
    ) -> (Vec<CachedPlanView>, Option<Place>) {
        let inner = &self.0;
        let (catalog, now) = (inner.catalog.get(), inner.clock.now());
        let mut entries = inner.entries(tenant, now);
        entries.sort_unstable_by_key(|(place, _)| Reverse(place.clone()));
        let entries = entries
            .into_iter()
            .filter(|(place, _)| after.is_none_or(|after| place < after));
        let mut page: Vec<_> = entries.take(limit.saturating_add(1)).collect();
        let more = page.len() > limit;
        page.truncate(limit);
        let next = page.last().map(|(place, _)| place.clone());
        let views = page.iter().map(|(_, entry)| inner.view(entry, &catalog));
        (views.collect(), next.filter(|_| more))
    }

    /// A cached plan.
    pub fn cached_plan(&self, tenant: &str, id: &str) -> Option<WholeCachedPlan> {
        let inner = &self.0;
        let reading = inner.table.cache();
        let entry = Arc::clone(&reading.cache().get(tenant, id)?.payload);
        let labels = reading.labels(&entry_key(tenant, id));
        drop(reading);
        if !inner.is_valid(&entry, inner.clock.now()) {
            return None;
        }
        Some(WholeCachedPlan {
            summary: inner.view(&entry, &inner.catalog.get()),
            plan: entry.cached.plan.clone(),
            tools: entry.cached.tools.clone(),
            slots: entry.cached.slots.clone(),
            labels,
        })
    }
}

impl Inner {
    fn entries(&self, tenant: &str, now: Millis) -> Vec<(Place, Arc<Entry>)> {
        let reading = self.table.cache();
        let entries = reading.cache().entries(tenant);
        let entries = entries.filter(|(_, entry)| self.is_valid(&entry.payload, now));
        let placed = entries.map(|(id, entry)| {
            let place = Place(entry.at, id.to_owned());
            (place, Arc::clone(&entry.payload))
        });
        placed.collect()
    }

    fn is_valid(&self, entry: &Entry, now: Millis) -> bool {
        entry.at.0.saturating_add(self.table.ttl_ms()) > now.0
    }

    fn view(&self, entry: &Entry, catalog: &Arc<Catalog>) -> CachedPlanView {
        CachedPlanView {
            id: entry.id.clone(),
            template: entry.template.clone(),
            source: entry.cached.source.clone(),
            workflow: entry.cached.workflow.as_ref().map(|of| WorkflowView {
                name: of.name.clone(),
                version: of.version.clone(),
            }),
            hash: entry.cached.hash.clone(),
            run_id: entry.cached.run_id.clone(),
            invalid: entry.ready(catalog, &self.bounds).err(),
            created_at: entry.at,
            expires_at: Millis(entry.at.0.saturating_add(self.table.ttl_ms())),
        }
    }
}
