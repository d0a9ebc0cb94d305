//! The entries of a tenant.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use serde_json::Value;

use super::{
    Settings,
    belief::Tally,
    dot::{DIMENSIONS, Lane, lanes},
    evidence::Evidence,
    gates::Profile,
    index::{Exact, VectorIndex},
    metric::{Metric, White},
    record::{EntryRecord, LabelRecord},
};

/// A cached plan.
#[derive(Debug)]
pub struct Entry<P> {
    /// The template of its goal.
    pub template: String,
    /// When it was written last, in milliseconds since the Unix epoch.
    pub at: i64,
    /// The hash of its plan.
    pub hash: String,
    /// The shape of its plan.
    pub shape: Arc<str>,
    /// What its plan does, whatever the slots.
    pub family: Arc<str>,
    /// Whether its plan has steps of lane RED.
    pub red: bool,
    /// The payload of its record.
    pub payload: Arc<P>,
    pub(super) key: String,
    pub(super) fixed: BTreeMap<String, Value>,
    pub(super) profile: Profile,
}

/// A label of an entry.
#[derive(Debug)]
struct Label {
    /// The last part of the key of its record.
    other: String,
    key: String,
    at: i64,
    evidence: f64,
    hash: Option<String>,
    agrees: bool,
}

/// What is known under the id of an entry. Labels may come before their entry.
#[derive(Debug)]
pub(super) struct Known<P> {
    pub(super) id: String,
    pub(super) entry: Option<Entry<P>>,
    labels: Vec<Label>,
    /// Of the labels that count.
    pub(super) tally: Tally,
    /// When it changed last; the oldest is forgotten first.
    at: i64,
}

/// All entries of a tenant.
pub(super) struct Tenant<P> {
    slots: Vec<Option<Known<P>>>,
    free: Vec<u32>,
    by_id: HashMap<String, u32>,
    /// Entries by template, and by the templates of their aliases.
    by_key: HashMap<String, Vec<u32>>,
    oldest: BTreeSet<(i64, u32)>,
    pub(super) index: Exact,
    pub(super) metric: Metric,
    /// Entries with a vector, and plans of at least one of them.
    vectors: (usize, usize),
    /// The labels of all entries, and of those with the same shape.
    pub(super) tally: Tally,
    pub(super) shapes: HashMap<Arc<str>, Shape>,
}

/// A metric that was fitted anew, and the means in its coordinates.
pub(super) struct Fitted {
    metric: Metric,
    means: Vec<(Arc<str>, Option<Box<White>>)>,
}

/// Entries with plans of the same shape.
#[derive(Default)]
pub(super) struct Shape {
    entries: usize,
    pub(super) tally: Tally,
    pub(super) mean: Mean,
}

/// The mean of the vectors of a shape.
#[derive(Default)]
pub(super) struct Mean {
    /// How many there are.
    pub(super) count: usize,
    sum: Vec<f32>,
    /// In the coordinates of the tenant's metric. `None`: there is one vector at most.
    pub(super) white: Option<Box<White>>,
}

impl Mean {
    fn add(&mut self, vector: &[Lane], sign: f32) {
        self.sum.resize(DIMENSIONS, 0.0);
        let vector = vector.iter().flat_map(|lane| lane.0);
        self.sum
            .iter_mut()
            .zip(vector)
            .for_each(|(sum, x)| *sum += sign * x);
    }

    /// In the coordinates of a metric.
    fn whitened(&self, metric: &Metric) -> Option<Box<White>> {
        (self.count > 1).then(|| Box::new(metric.white(&lanes(&self.sum))))
    }
}

impl<P> Known<P> {
    /// The labels that are about the plan of the entry.
    fn counting(&self) -> impl Iterator<Item = &Label> {
        let hash = self.entry.as_ref().map(|entry| entry.hash.as_str());
        self.labels
            .iter()
            .filter(move |label| match (&label.hash, hash) {
                (_, None) => false,
                (None, _) => true,
                (Some(of_label), Some(hash)) => of_label == hash,
            })
    }

    /// The templates whose goals get this entry without a comparison.
    fn keys(&self) -> Vec<String> {
        let aliases = self
            .counting()
            .filter(|label| label.agrees)
            .map(|label| &label.key);
        let own = self.entry.iter().map(|entry| &entry.key);
        let mut keys: Vec<String> = own.chain(aliases).cloned().collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }
}

impl<P> Default for Tenant<P> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_id: HashMap::new(),
            by_key: HashMap::new(),
            oldest: BTreeSet::new(),
            index: Exact::default(),
            metric: Metric::default(),
            vectors: (0, 0),
            tally: Tally::default(),
            shapes: HashMap::new(),
        }
    }
}

impl<P> Tenant<P> {
    pub(super) fn get(&self, slot: u32) -> Option<&Known<P>> {
        self.slots.get(slot as usize)?.as_ref()
    }

    pub(super) fn slot(&self, id: &str) -> Option<u32> {
        self.by_id.get(id).copied()
    }

    /// Entries of this template, or with an alias of it.
    pub(super) fn with_key(&self, key: &str) -> &[u32] {
        self.by_key.get(key).map_or(&[], Vec::as_slice)
    }

    /// Everything that has an entry.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&str, &Entry<P>)> {
        let known = self.slots.iter().flatten();
        known.filter_map(|known| Some((known.id.as_str(), known.entry.as_ref()?)))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Takes the keys and labels of a slot out of what is derived from them.
    fn withdraw(&mut self, slot: u32) {
        let Some(known) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) else {
            return;
        };
        for key in known.keys() {
            if let Some(slots) = self.by_key.get_mut(&key) {
                slots.retain(|other| *other != slot);
                if slots.is_empty() {
                    self.by_key.remove(&key);
                }
            }
        }
        self.oldest.remove(&(known.at, slot));
        known.tally = Tally::default();
        let Some(entry) = &known.entry else {
            return;
        };
        let Some(shape) = self.shapes.get_mut(&entry.shape) else {
            return;
        };
        for label in known.counting() {
            shape.tally.remove(label.evidence, label.agrees);
            self.tally.remove(label.evidence, label.agrees);
        }
        shape.entries -= 1;
        if shape.entries == 0 {
            self.shapes.remove(&entry.shape);
        }
    }

    /// Adds the keys and labels of a slot to what is derived from them. A slot without anything is freed.
    fn settle(&mut self, slot: u32) {
        let Some(known) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) else {
            return;
        };
        if known.entry.is_none() && known.labels.is_empty() {
            self.by_id.remove(&known.id);
            self.slots[slot as usize] = None;
            self.free.push(slot);
            return;
        }
        for key in known.keys() {
            self.by_key.entry(key).or_default().push(slot);
        }
        self.oldest.insert((known.at, slot));
        let mut tally = Tally::default();
        if let Some(entry) = &known.entry {
            let shape = self.shapes.entry(entry.shape.clone()).or_default();
            shape.entries += 1;
            for label in known.counting() {
                shape.tally.add(label.evidence, label.agrees);
                self.tally.add(label.evidence, label.agrees);
                tally.add(label.evidence, label.agrees);
            }
        }
        known.tally = tally;
    }

    /// Sets or removes the vector of a slot.
    pub(super) fn set_vector(&mut self, slot: u32, vector: Option<&[f32]>) {
        self.count_vector(slot, false);
        match vector {
            Some(vector) => self.index.insert(slot, vector),
            None => self.index.remove(slot),
        }
        self.count_vector(slot, true);
    }

    /// Counts the vector of a slot in the mean of its shape, or takes it out.
    fn count_vector(&mut self, slot: u32, counts: bool) {
        let known = self.slots.get(slot as usize).and_then(Option::as_ref);
        let entry = known.and_then(|known| known.entry.as_ref());
        let Some((entry, vector)) = entry.zip(self.index.vector(slot)) else {
            return;
        };
        let Some(shape) = self.shapes.get_mut(&entry.shape) else {
            return;
        };
        let mean = &mut shape.mean;
        let (entries, plans) = &mut self.vectors;
        if counts {
            mean.add(vector, 1.0);
            mean.count += 1;
            *entries += 1;
            *plans += usize::from(mean.count == 1);
        } else {
            mean.add(vector, -1.0);
            mean.count -= 1;
            if mean.count == 0 {
                mean.sum.clear();
            }
            *entries -= 1;
            *plans -= usize::from(mean.count == 0);
        }
        mean.white = mean.whitened(&self.metric);
    }

    /// The metric fitted anew, and all means in its coordinates. `None`: the entries have not changed much.
    pub(super) fn fitted(&self) -> Option<Fitted> {
        let (entries, plans) = self.vectors;
        if !self.metric.is_due(entries - plans) {
            return None;
        }
        let slots = self.slots.iter().enumerate();
        let known =
            slots.filter_map(|(slot, known)| Some((slot as u32, known.as_ref()?.entry.as_ref()?)));
        let differences = known.filter_map(|(slot, entry)| {
            let mean = &self.shapes.get(&entry.shape)?.mean;
            let vector = self.index.vector(slot)?;
            (mean.count > 1).then_some((vector, &mean.sum[..], mean.count))
        });
        let metric = Metric::fit(entries - plans, differences);
        let means = self.shapes.iter();
        let means = means.map(|(shape, of)| (shape.clone(), of.mean.whitened(&metric)));
        Some(Fitted {
            means: means.collect(),
            metric,
        })
    }

    /// Takes in what [`Tenant::fitted`] returned. Nothing has changed since.
    pub(super) fn set_fitted(&mut self, fitted: Fitted) {
        self.metric = fitted.metric;
        for (shape, white) in fitted.means {
            if let Some(shape) = self.shapes.get_mut(&shape) {
                shape.mean.white = white;
            }
        }
    }

    /// Changes what is known under an id, which may be new.
    fn change(&mut self, id: &str, change: impl FnOnce(&mut Known<P>)) -> u32 {
        let slot = self.slot(id).unwrap_or_else(|| {
            let known = Known {
                id: id.to_owned(),
                entry: None,
                labels: Vec::new(),
                tally: Tally::default(),
                at: i64::MIN,
            };
            let slot = self.free.pop().unwrap_or(self.slots.len() as u32);
            if slot as usize == self.slots.len() {
                self.slots.push(Some(known));
            } else {
                self.slots[slot as usize] = Some(known);
            }
            self.by_id.insert(id.to_owned(), slot);
            slot
        });
        self.count_vector(slot, false);
        self.withdraw(slot);
        if let Some(known) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) {
            change(known);
        }
        self.settle(slot);
        self.count_vector(slot, true);
        slot
    }

    pub(super) fn put(&mut self, id: &str, record: EntryRecord<P>, settings: &Settings) {
        let same_shape = self.shapes.get_key_value(record.shape.as_str());
        let shape =
            same_shape.map_or_else(|| record.shape.as_str().into(), |(shape, _)| shape.clone());
        let old = self
            .slot(id)
            .and_then(|slot| self.get(slot)?.entry.as_ref());
        let other_template = old.is_some_and(|old| old.template != record.template);
        let entry = Entry {
            profile: Profile::new(&record.template),
            template: record.template,
            key: record.key,
            at: record.at,
            hash: record.hash,
            shape,
            family: record.family.into(),
            red: record.red,
            fixed: record.fixed,
            payload: record.payload,
        };
        let slot = self.change(id, |known| {
            known.at = entry.at;
            known.entry = Some(entry);
        });
        if let Some(vector) = record.vector {
            self.set_vector(slot, Some(&vector));
        } else if other_template {
            self.set_vector(slot, None);
        }
        self.bound(settings);
    }

    pub(super) fn label(
        &mut self,
        id: &str,
        other: &str,
        record: LabelRecord,
        settings: &Settings,
    ) {
        let evidence = record
            .evidence
            .unwrap_or_else(|| Evidence::of_similarity(record.score).logit());
        let label = Label {
            other: other.to_owned(),
            key: record.key,
            at: record.at,
            evidence,
            hash: record.hash,
            agrees: record.agrees,
        };
        self.change(id, |known| {
            known.at = known.at.max(label.at);
            known.labels.retain(|old| old.other != label.other);
            let place = known.labels.partition_point(|old| old.at <= label.at);
            known.labels.insert(place, label);
            if known.labels.len() > settings.labels {
                known.labels.remove(0);
            }
        });
        self.bound(settings);
    }

    /// Forgets an entry. Its labels stay, because their records do.
    pub(super) fn forget(&mut self, id: &str) {
        let Some(slot) = self.slot(id) else {
            return;
        };
        self.set_vector(slot, None);
        self.change(id, |known| known.entry = None);
    }

    pub(super) fn forget_label(&mut self, id: &str, other: &str) {
        if self.slot(id).is_some() {
            self.change(id, |known| {
                known.labels.retain(|label| label.other != other);
            });
        }
    }

    /// Removes all that is older than `at`.
    pub(super) fn expire(&mut self, at: i64) {
        while let Some(&(oldest, slot)) = self.oldest.first().filter(|(oldest, _)| *oldest < at) {
            debug_assert!(oldest < at);
            self.remove(slot);
        }
    }

    fn bound(&mut self, settings: &Settings) {
        while self.by_id.len() > settings.entries {
            let Some(&(_, slot)) = self.oldest.first() else {
                return;
            };
            self.remove(slot);
        }
    }

    /// Removes a slot with its labels.
    fn remove(&mut self, slot: u32) {
        self.set_vector(slot, None);
        self.withdraw(slot);
        if let Some(known) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) {
            known.entry = None;
            known.labels.clear();
        }
        self.settle(slot);
    }
}
