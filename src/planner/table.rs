//! What this node has read of the topic `plans`: the cache, and the labels as people see them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use parking_lot::{RwLock, RwLockReadGuard, RwLockUpgradableReadGuard};
use serde_json::Value;
use tokio::sync::watch;

use super::{bounds::Bounds, entry::Entry, goal::References, vectors::Vector};
use crate::{
    api::plans::PlanLabelView,
    base::clock::Millis,
    config::Plans,
    plans::{
        cache::{Cache, CacheRecord, EntryRecord, LabelRecord, Settings},
        jcs,
        shape::shape,
        template::example,
    },
    runs::{ENTRY, LABEL, PlanLabel, PlanRecord, entry_key},
    workflows::Catalog,
};

/// How long a record stays on the topic after it has expired, in milliseconds: a node whose clock is behind may still use it.
const KEPT_MS: i64 = 60 * 60 * 1000;

/// The name of an entry: its tenant and its id.
pub(super) type Name = (String, String);

/// The table.
pub(super) struct Table {
    ttl_ms: i64,
    state: RwLock<State>,
    /// Whether the topic was read to its end.
    read: watch::Sender<bool>,
}

struct State {
    cache: Cache<Entry>,
    /// When each record was written, by its key.
    records: HashMap<String, i64>,
    /// The labels of each entry, by the key of the entry, then by their own.
    labels: HashMap<String, BTreeMap<String, Label>>,
    /// The templates of entries without a vector.
    without_vector: BTreeMap<Name, String>,
    /// Entries for the index outside the process, and ids that were removed.
    unindexed: BTreeSet<Name>,
    removed: BTreeSet<String>,
    /// Vectors of entries, for that index. Empty without such an index.
    vectors: HashMap<Name, Vector>,
    indexed_outside: bool,
}

/// A label of an entry.
struct Label {
    /// The form of the other goal's template that is compared.
    key: String,
    /// The hash of the plan that it is about; `None`: whatever it is.
    hash: Option<String>,
    view: PlanLabelView,
}

/// The entries that an index outside the process does not have yet, and the ids of those that it should not have any more.
#[derive(Default)]
pub(super) struct Unindexed {
    pub(super) entries: Vec<(Name, Vector)>,
    pub(super) removed: Vec<String>,
}

impl Table {
    /// An empty table. `indexed_outside`: an index outside the process follows it.
    pub(super) fn new(plans: Plans, indexed_outside: bool) -> Self {
        let ttl_ms = i64::try_from(plans.ttl.as_millis()).unwrap_or(i64::MAX);
        Self {
            ttl_ms,
            state: RwLock::new(State::new(plans.threshold, ttl_ms, indexed_outside)),
            read: watch::Sender::new(false),
        }
    }

    /// Forgets all: the topic is read from its start.
    pub(super) fn reset(&self, threshold: f64) {
        let mut state = self.state.write();
        let indexed_outside = state.indexed_outside;
        *state = State::new(threshold, self.ttl_ms, indexed_outside);
    }

    /// The cache.
    pub(super) fn cache(&self) -> Reading<'_> {
        Reading(self.state.read())
    }

    /// How long an entry is used.
    pub(super) fn ttl_ms(&self) -> i64 {
        self.ttl_ms
    }

    /// The topic was read to its end.
    pub(super) fn set_read(&self) {
        self.read
            .send_if_modified(|read| !std::mem::replace(read, true));
    }

    /// Waits until the topic was read to its end once, for `limit` at most.
    pub(super) async fn wait_read(&self, limit: Duration) {
        let mut read = self.read.subscribe();
        // Without an answer in time, what was read so far has to do.
        let _ = tokio::time::timeout(limit, read.wait_for(|read| *read)).await;
    }

    /// Takes in a record of the topic.
    pub(super) fn apply(
        &self,
        key: &[u8],
        value: Option<&[u8]>,
        catalog: &Arc<Catalog>,
        bounds: &Bounds,
    ) {
        let Ok(name) = std::str::from_utf8(key) else {
            return;
        };
        let mut state = self.state.write();
        let Some(value) = value else {
            state.forget(name);
            return;
        };
        let Some(record) = PlanRecord::decode(value) else {
            tracing::warn!("a record of `plans` cannot be read, and is left out");
            return;
        };
        match record.kind.as_str() {
            ENTRY => state.put(name, &record, catalog, bounds),
            LABEL => state.label(name, &record),
            // Of a later version.
            _ => {}
        }
    }

    /// Takes entries without a vector, at most `most`, with their templates.
    pub(super) fn take_without_vector(&self, most: usize) -> Vec<(Name, String)> {
        let mut state = self.state.write();
        let waiting = &mut state.without_vector;
        std::iter::from_fn(|| waiting.pop_first())
            .take(most)
            .collect()
    }

    /// Whether entries wait for vectors.
    pub(super) fn needs_vectors(&self) -> bool {
        !self.state.read().without_vector.is_empty()
    }

    /// Sets the vectors of entries.
    pub(super) fn set_vectors(&self, entries: Vec<(Name, String)>, vectors: &[Vector]) {
        let mut state = self.state.write();
        for ((name, _), vector) in entries.into_iter().zip(vectors) {
            if state.cache.set_vector(&name.0, &name.1, vector) && state.indexed_outside {
                state.removed.remove(&name.1);
                state.vectors.insert(name.clone(), Arc::clone(vector));
                state.unindexed.insert(name);
            }
        }
        drop(state);
        self.fit();
    }

    /// Learns anew how vectors are compared, where many have changed. Look-ups wait only while the result is put in.
    fn fit(&self) {
        let state = self.state.upgradable_read();
        let fits = state.cache.fits();
        if !fits.is_empty() {
            let mut state = RwLockUpgradableReadGuard::upgrade(state);
            state.cache.set_fits(fits);
        }
    }

    /// Puts entries back that could not be embedded.
    pub(super) fn put_back(&self, entries: Vec<(Name, String)>) {
        self.state.write().without_vector.extend(entries);
    }

    /// Takes changes for the index outside the process, at most `most` of each kind.
    pub(super) fn take_unindexed(&self, most: usize) -> Unindexed {
        let mut guard = self.state.write();
        let state = &mut *guard;
        let (unindexed, removed) = (&mut state.unindexed, &mut state.removed);
        let names = std::iter::from_fn(|| unindexed.pop_first()).take(most);
        let entries = names.filter_map(|name| {
            let vector = state.vectors.get(&name).map(Arc::clone)?;
            Some((name, vector))
        });
        Unindexed {
            entries: entries.collect(),
            removed: std::iter::from_fn(|| removed.pop_first())
                .take(most)
                .collect(),
        }
    }

    /// Everything is to be indexed outside the process again.
    pub(super) fn index_all(&self) {
        let mut state = self.state.write();
        state.unindexed = state.vectors.keys().cloned().collect();
    }

    /// Forgets what has expired, and returns the keys of records that the topic need not keep.
    pub(super) fn expire(&self, now: Millis) -> Vec<String> {
        let mut guard = self.state.write();
        let state = &mut *guard;
        state.cache.expire(now.0);
        let before = now.0.saturating_sub(self.ttl_ms.saturating_add(KEPT_MS));
        let records = &state.records;
        let fresh = |key: &str| records.get(key).is_some_and(|at| *at >= before);
        // A label is kept as long as its entry.
        let old = |key: &&String| !fresh(key) && !entry_of(key).is_some_and(fresh);
        let old: Vec<String> = records.keys().filter(old).cloned().collect();
        for key in &old {
            state.forget(key);
        }
        drop(guard);
        self.fit();
        old
    }
}

/// The table while nobody changes it.
pub(super) struct Reading<'a>(RwLockReadGuard<'a, State>);

impl Reading<'_> {
    pub(super) fn cache(&self) -> &Cache<Entry> {
        &self.0.cache
    }

    /// Whether a tenant has no entries.
    pub(super) fn is_empty(&self, tenant: &str) -> bool {
        self.0.cache.entries(tenant).next().is_none()
    }

    /// The labels of an entry by its key ([`crate::runs::entry_key`]), the newest first.
    pub(super) fn labels(&self, key: &str) -> Vec<PlanLabelView> {
        let labels = self.0.labels.get(key);
        let mut labels: Vec<_> = labels
            .into_iter()
            .flat_map(BTreeMap::values)
            .map(|label| label.view.clone())
            .collect();
        labels.sort_by_key(|label| std::cmp::Reverse(label.at));
        labels
    }

    /// Whether it is known that a plan of an entry, by the key of the entry, does not fit goals with a template ([`crate::plans::template::Template::key`]).
    pub(super) fn disagrees(&self, entry: &str, hash: &str, template: &str) -> bool {
        let mut labels = self
            .0
            .labels
            .get(entry)
            .into_iter()
            .flat_map(BTreeMap::values);
        labels.any(|label| {
            let of_plan = label
                .hash
                .as_deref()
                .is_none_or(|of_label| of_label == hash);
            !label.view.agrees && of_plan && label.key == template
        })
    }

    /// Whether there is an entry.
    pub(super) fn knows(&self, tenant: &str, entry: &str) -> bool {
        self.0.records.contains_key(&entry_key(tenant, entry))
    }
}

impl State {
    fn new(threshold: f64, ttl_ms: i64, indexed_outside: bool) -> Self {
        Self {
            cache: Cache::new(Settings {
                ttl_ms,
                threshold,
                ..Settings::default()
            }),
            records: HashMap::new(),
            labels: HashMap::new(),
            without_vector: BTreeMap::new(),
            unindexed: BTreeSet::new(),
            removed: BTreeSet::new(),
            vectors: HashMap::new(),
            indexed_outside,
        }
    }

    fn put(&mut self, key: &str, record: &PlanRecord, catalog: &Arc<Catalog>, bounds: &Bounds) {
        let Some(entry) = Entry::of_record(record) else {
            tracing::warn!(
                entry = record.entry,
                "a cached plan cannot be read, and is left out"
            );
            return;
        };
        let (tenant, id) = (&record.tenant, &record.entry);
        let known = self.cache.get(tenant, id);
        let embedded = known.is_some_and(|known| known.template == entry.template);
        let of_cache = EntryRecord {
            template: entry.template.clone(),
            key: example(&entry.template).key(),
            at: record.at,
            hash: entry.cached.hash.clone(),
            shape: shape_of(&entry.plan, &entry.cached.slots),
            family: tools_of(&entry.plan),
            red: entry.is_red(catalog, bounds),
            fixed: entry.fixed(),
            vector: None,
            payload: Arc::new(entry),
        };
        self.cache
            .apply(key.as_bytes(), Some(CacheRecord::Entry(of_cache)));
        self.records.insert(key.to_owned(), record.at);
        if !embedded {
            let name = (tenant.clone(), id.clone());
            self.without_vector.insert(name, record.template.clone());
        }
    }

    fn label(&mut self, key: &str, record: &PlanRecord) {
        let label: PlanLabel = match serde_json::from_str(&record.body) {
            Ok(label) => label,
            Err(error) => {
                tracing::warn!(entry = record.entry, %error, "a label of a cached plan cannot be read, and is left out");
                return;
            }
        };
        let other = example(&record.template).key();
        let of_cache = LabelRecord {
            key: other.clone(),
            at: record.at,
            score: label.score,
            evidence: label.evidence,
            hash: label.hash.clone(),
            agrees: label.agrees,
        };
        self.cache
            .apply(key.as_bytes(), Some(CacheRecord::Label(of_cache)));
        self.records.insert(key.to_owned(), record.at);
        let Some(entry) = entry_of(key) else {
            return;
        };
        let view = PlanLabelView {
            template: record.template.clone(),
            score: label.score,
            agrees: label.agrees,
            at: Millis(record.at),
        };
        let labels = self.labels.entry(entry.to_owned()).or_default();
        let label = Label {
            key: other,
            hash: label.hash,
            view,
        };
        labels.insert(key.to_owned(), label);
    }

    fn forget(&mut self, key: &str) {
        self.cache.apply(key.as_bytes(), None);
        self.records.remove(key);
        if let Some(entry) = entry_of(key) {
            if let Some(labels) = self.labels.get_mut(entry) {
                labels.remove(key);
                if labels.is_empty() {
                    self.labels.remove(entry);
                }
            }
        } else if let Some((tenant, id)) = key.split_once(SEPARATOR) {
            let name = (tenant.to_owned(), id.to_owned());
            self.without_vector.remove(&name);
            if self.vectors.remove(&name).is_some() {
                self.removed.insert(name.1);
            }
        }
    }
}

/// The shape of a plan, as text that is compared. A placeholder in it is the slot of its name, also where the slots do not have it: cached plans
/// come without personal data.
pub(super) fn shape_of(plan: &Value, slots: &BTreeMap<String, Value>) -> String {
    let mut slots = slots.clone();
    for placeholder in References::of(plan).placeholders() {
        if !slots.values().any(|value| value == placeholder) {
            let name = placeholder.trim_matches(['{', '}']);
            slots
                .entry(name.to_owned())
                .or_insert_with(|| placeholder.into());
        }
    }
    jcs::canonical(&shape(plan, &slots))
}

/// The tools of a plan's steps, sorted.
fn tools_of(plan: &Value) -> String {
    let steps = plan.get("steps").and_then(Value::as_array);
    let steps = steps.into_iter().flatten();
    let mut tools: Vec<_> = steps
        .filter_map(|step| step.get("tool")?.as_str())
        .collect();
    tools.sort_unstable();
    tools.join(" ")
}

/// Between the parts of a key.
const SEPARATOR: char = '\u{1f}';

/// The key of the entry of a label; `None`: it is the key of an entry.
fn entry_of(key: &str) -> Option<&str> {
    let mut separators = key.match_indices(SEPARATOR).skip(1);
    separators.next().map(|(at, _)| &key[..at])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plans::cache::DIMENSIONS;

    #[test]
    fn a_placeholder_and_the_slot_of_its_name_have_the_same_shape() {
        let mail =
            |to: &str| json!({ "steps": [{ "id": "a", "tool": "mail", "input": { "to": to } }] });
        let known = BTreeMap::from([("EMAIL_1".to_owned(), json!("{EMAIL_1}"))]);
        let of_model = shape_of(&mail("{{ slots.EMAIL_1 }}"), &known);
        assert_eq!(shape_of(&mail("{EMAIL_1}"), &known), of_model);
        // Cached plans do not have it.
        assert_eq!(shape_of(&mail("{EMAIL_1}"), &BTreeMap::new()), of_model);
        assert_ne!(shape_of(&mail("{EMAIL_2}"), &BTreeMap::new()), of_model);
    }

    #[test]
    fn how_vectors_are_compared_is_learned_when_they_come() {
        let table = Table::new(Plans::default(), false);
        let plan = json!({ "steps": [{ "id": "a", "tool": "mail", "input": {} }] });
        let body = json!({ "run_id": "r", "plan": plan, "hash": "h", "source": "llm" });
        for n in 0..100 {
            let record = PlanRecord {
                tenant: "acme".into(),
                entry: n.to_string(),
                kind: ENTRY.into(),
                template: "Mail it".into(),
                at: 0,
                body: body.to_string(),
            };
            let value = record.encode().unwrap().value.unwrap();
            let key = entry_key("acme", &n.to_string());
            table.apply(
                key.as_bytes(),
                Some(&value),
                &Arc::default(),
                &Bounds::default(),
            );
        }
        let entries = table.take_without_vector(100);
        assert_eq!(entries.len(), 100);
        let vector = |n: usize| {
            let mut vector = [0.0; DIMENSIONS];
            (vector[0], vector[1]) = (0.8, [0.6, -0.6][n % 2]);
            Vector::from(vector)
        };
        let vectors: Vec<Vector> = (0..100).map(vector).collect();
        {
            let mut state = table.state.write();
            for ((name, _), vector) in entries.iter().zip(&vectors) {
                state.cache.set_vector(&name.0, &name.1, vector);
            }
        }
        assert!(!table.cache().cache().fits().is_empty());
        table.set_vectors(entries, &vectors);
        assert!(table.cache().cache().fits().is_empty());
    }
}
