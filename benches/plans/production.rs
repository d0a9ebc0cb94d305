//! The cache as a node uses it, with a planner that knows the intent of every goal.

use std::{collections::BTreeMap, sync::Arc};

use omnilink::plans::cache::{
    Cache, CacheRecord, EntryRecord, Evidence, LabelRecord, Lookup, Query, Settings, Verdict,
};

use crate::goals::Goal;

const TENANT: &str = "bench";

/// The cache. What it keeps with an entry is the intent.
pub struct Production {
    cache: Cache<String>,
    entries: i64,
}

/// The answer to a goal.
pub struct Answer {
    pub lookup: Lookup,
    /// The intent whose plan the goal gets.
    pub intent: Option<String>,
    /// The intent of the candidate that came to the last stage, and how certain it is, unless it is below the base threshold.
    pub candidate: Option<(String, f64)>,
}

impl Production {
    pub fn new(settings: Settings) -> Self {
        Self {
            cache: Cache::new(settings),
            entries: 0,
        }
    }

    fn with_query<T>(goal: &Goal, ask: impl FnOnce(&Query<'_, String>) -> T) -> T {
        ask(&Query {
            tenant: TENANT,
            key: &goal.key,
            text: &goal.text,
            slots: &goal.slots,
            vector: Some(&goal.vector),
            candidates: None,
            now: 1,
            allowed: &|_, _| Ok(()),
        })
    }

    pub fn ask(&self, goal: &Goal) -> Answer {
        let lookup = Self::with_query(goal, |query| self.cache.lookup(query));
        let intent = |id: &str| {
            self.cache
                .get(TENANT, id)
                .map(|entry| entry.payload.as_ref().clone())
        };
        let last = lookup.stages.last();
        let last =
            last.filter(|stage| stage.verdict == Verdict::Hit || stage.reason == Some("uncertain"));
        let candidate =
            last.and_then(|stage| Some((intent(stage.entry.as_deref()?)?, stage.score?)));
        Answer {
            intent: lookup.hit.as_ref().and_then(|hit| intent(&hit.entry)),
            candidate,
            lookup,
        }
    }

    /// The best candidate: whether it has this intent, and what speaks for it.
    pub fn evidence(&self, goal: &Goal, intent: &str) -> Option<(bool, Evidence)> {
        let (id, evidence) = Self::with_query(goal, |query| self.cache.evidence(query))?;
        let entry = self.cache.get(TENANT, &id)?;
        Some((*entry.payload == intent, evidence))
    }

    /// The planner makes a plan, and the run succeeds: the plan is cached, and compared with that of the near miss.
    pub fn plan(&mut self, goal: &Goal, intent: &str, lookup: &Lookup) {
        let shape = format!("{intent} {:?}", goal.kinds);
        if let Some(near) = &lookup.near_miss {
            let agrees = self
                .cache
                .get(TENANT, &near.entry)
                .is_some_and(|entry| *entry.shape == *shape);
            let label = LabelRecord {
                key: goal.key.clone(),
                at: self.entries,
                score: near.score,
                evidence: Some(near.evidence),
                hash: None,
                agrees,
            };
            let key = format!("{TENANT}\u{1f}{}\u{1f}{}", near.entry, goal.key);
            self.cache
                .apply(key.as_bytes(), Some(CacheRecord::Label(label)));
        }
        self.entries += 1;
        let entry = EntryRecord {
            template: goal.text.clone(),
            key: goal.key.clone(),
            at: self.entries,
            hash: shape.clone(),
            shape,
            // An oracle: plans of an intent use the same tools.
            family: intent.to_owned(),
            red: false,
            fixed: BTreeMap::new(),
            vector: Some(goal.vector.clone()),
            payload: Arc::new(intent.to_owned()),
        };
        let key = format!("{TENANT}\u{1f}{}", goal.key);
        self.cache
            .apply(key.as_bytes(), Some(CacheRecord::Entry(entry)));
        self.cache.fit();
    }

    /// One goal from beginning to end.
    pub fn serve(&mut self, goal: &Goal, intent: &str) -> Answer {
        let answer = self.ask(goal);
        if answer.intent.is_none() {
            self.plan(goal, intent, &answer.lookup);
        }
        answer
    }
}
