//! The cache of plans: finds the plan that an earlier goal was carried out with, for a goal that means the same.
//!
//! Pure: no I/O, no clock. It is fed with the records of the topic `plans` ([`Cache::apply`]) and can be rebuilt from them. A wrong plan
//! is worse than none, so what is not certain is a miss. `docs/plan-cache.md` describes the method.
//!
//! | file | holds |
//! |---|---|
//! | `record` | what the records say |
//! | `tenant` | the entries of a tenant, and what is derived from them |
//! | `index`, `bytes`, `dot` | the nearest vectors |
//! | `metric` | how a tenant's vectors are compared with the means of plans |
//! | `lookup` | the stages of a look-up |
//! | `gates` | what must be equal in two templates |
//! | `evidence`, `belief` | how certain it is that a plan is right, and what labels teach about it |

mod belief;
mod bytes;
mod dot;
mod evidence;
mod gates;
mod index;
mod lookup;
mod metric;
mod record;
mod tenant;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use self::tenant::{Fitted, Tenant};
pub use self::{
    belief::{Belief, Tally, logistic, logit},
    dot::DIMENSIONS,
    evidence::Evidence,
    gates::{Closed, Gate, Profile, check as check_gates, same_phrases, unexplained},
    index::{Exact, VectorIndex},
    lookup::{Hit, Lookup, NearMiss, Query, SIMILARITY_MIN, Stage, Verdict},
    record::{CacheRecord, EntryRecord, LabelRecord},
    tenant::Entry,
};

/// Settings of the cache.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Settings {
    /// How long an entry can be used, in milliseconds.
    pub ttl_ms: i64,
    /// The similarity that a hit has at least, unless labels have taught otherwise: then [`SIMILARITY_MIN`].
    pub threshold: f64,
    /// The error bound δ: how likely a hit may be wrong at most.
    pub max_error: f64,
    /// Entries of a tenant. The oldest are dropped first.
    pub entries: usize,
    /// Labels of an entry. The oldest are dropped first.
    pub labels: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ttl_ms: 24 * 60 * 60 * 1_000,
            threshold: 0.85,
            max_error: 0.005,
            entries: 50_000,
            labels: 64,
        }
    }
}

/// The cached plans of all tenants. `P` is what the caller keeps with an entry.
pub struct Cache<P> {
    settings: Settings,
    tenants: HashMap<String, Tenant<P>>,
}

/// How the vectors of some tenants are to be compared ([`Cache::fits`]).
pub struct Fits(Vec<(String, Fitted)>);

impl Fits {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<P> Cache<P> {
    /// An empty cache.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            tenants: HashMap::new(),
        }
    }

    /// Takes in a record of `plans` by its key. `None` is a tombstone. A key that is none of `plans` is ignored.
    pub fn apply(&mut self, key: &[u8], record: Option<CacheRecord<P>>) {
        let Some((name, id, other)) = record::parts(key) else {
            return;
        };
        match (record, other) {
            (Some(CacheRecord::Entry(record)), None) => {
                let tenant = self.tenants.entry(name.to_owned()).or_default();
                tenant.put(id, record, &self.settings);
            }
            (Some(CacheRecord::Label(record)), Some(other)) => {
                let tenant = self.tenants.entry(name.to_owned()).or_default();
                tenant.label(id, other, record, &self.settings);
            }
            (Some(_), _) => {}
            (None, other) => {
                let Some(tenant) = self.tenants.get_mut(name) else {
                    return;
                };
                match other {
                    None => tenant.forget(id),
                    Some(other) => tenant.forget_label(id, other),
                }
                if tenant.is_empty() {
                    self.tenants.remove(name);
                }
            }
        }
    }

    /// Sets the vector of an entry's template, of length 1. `false`: there is no such entry.
    pub fn set_vector(&mut self, tenant: &str, entry: &str, vector: &[f32]) -> bool {
        let Some(tenant) = self.tenants.get_mut(tenant) else {
            return false;
        };
        let slot = tenant
            .slot(entry)
            .filter(|slot| tenant.get(*slot).is_some_and(|known| known.entry.is_some()));
        if let Some(slot) = slot {
            tenant.set_vector(slot, Some(vector));
        }
        slot.is_some()
    }

    /// Looks a goal up.
    pub fn lookup(&self, query: &Query<'_, P>) -> Lookup {
        match self.tenants.get(query.tenant) {
            Some(tenant) => lookup::lookup(tenant, query, &self.settings),
            None => lookup::lookup(&Tenant::default(), query, &self.settings),
        }
    }

    /// The candidate that the last stage of a look-up would decide about, and what speaks for it. `None`: no gate is open. For fitting
    /// the weights of [`Evidence`].
    pub fn evidence(&self, query: &Query<'_, P>) -> Option<(String, Evidence)> {
        lookup::evidence_of(self.tenants.get(query.tenant)?, query, &self.settings)
    }

    /// An entry by its id.
    pub fn get(&self, tenant: &str, entry: &str) -> Option<&Entry<P>> {
        let tenant = self.tenants.get(tenant)?;
        tenant.get(tenant.slot(entry)?)?.entry.as_ref()
    }

    /// The labels of an entry that agree, and those that do not.
    pub fn labels(&self, tenant: &str, entry: &str) -> (u32, u32) {
        let tenant = self.tenants.get(tenant);
        let known = tenant.and_then(|tenant| tenant.get(tenant.slot(entry)?));
        known.map_or((0, 0), |known| {
            (known.tally.agreed(), known.tally.disagreed())
        })
    }

    /// The ids and entries of a tenant, expired ones included, in no order.
    pub fn entries(&self, tenant: &str) -> impl Iterator<Item = (&str, &Entry<P>)> {
        self.tenants
            .get(tenant)
            .into_iter()
            .flat_map(Tenant::entries)
    }

    /// Learns anew how the vectors of tenants are compared whose entries have changed much: computes [`Cache::fits`] and takes them in.
    /// Without this they are compared as before.
    pub fn fit(&mut self) {
        let fits = self.fits();
        self.set_fits(fits);
    }

    /// What [`Cache::fit`] changes. It takes tens of milliseconds for each of these tenants, and look-ups can go on meanwhile.
    pub fn fits(&self) -> Fits {
        let tenants = self.tenants.iter();
        let fits = tenants.filter_map(|(name, tenant)| Some((name.clone(), tenant.fitted()?)));
        Fits(fits.collect())
    }

    /// Takes in what [`Cache::fits`] returned. Nothing may have changed since.
    pub fn set_fits(&mut self, fits: Fits) {
        for (name, fitted) in fits.0 {
            if let Some(tenant) = self.tenants.get_mut(&name) {
                tenant.set_fitted(fitted);
            }
        }
    }

    /// Frees the memory of what has expired.
    pub fn expire(&mut self, now: i64) {
        for tenant in self.tenants.values_mut() {
            tenant.expire(now.saturating_sub(self.settings.ttl_ms));
        }
        self.tenants.retain(|_, tenant| !tenant.is_empty());
    }
}
