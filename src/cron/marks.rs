//! Marks: up to which time a schedule was started. Records of the compacted topic `state.cron`, one for each expression of a workflow.

use std::{collections::HashMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    base::clock::Millis,
    log::{FollowedTopic, Log, LogError, Record, read_ranges},
    workflows::CronTrigger,
};

/// The key of a mark: tenant, workflow, and the expression with its zone. So a changed expression has a new mark.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub(super) struct MarkKey(String, String, String);

/// The value of a record.
#[derive(Serialize, Deserialize)]
struct Mark {
    /// All times up to this one were started, or skipped for good.
    until: Millis,
}

impl MarkKey {
    pub(super) fn of(workflow: &str, trigger: &CronTrigger) -> Self {
        Self(
            trigger.tenant.to_string(),
            workflow.to_owned(),
            trigger.schedule.name().to_owned(),
        )
    }

    /// The record that holds a mark.
    pub(super) fn record(&self, until: Millis) -> Result<Record, serde_json::Error> {
        Ok(Record {
            key: Some(serde_json::to_vec(self)?.into()),
            value: Some(serde_json::to_vec(&Mark { until })?.into()),
            headers: Vec::new(),
        })
    }
}

/// The marks that this node knows.
pub(super) struct Marks {
    log: Arc<dyn Log>,
    topic: Arc<str>,
    followed: FollowedTopic,
    /// The next offset to read.
    next: u64,
    known: HashMap<MarkKey, Millis>,
}

impl Marks {
    pub(super) fn new(log: Arc<dyn Log>, topic: Arc<str>) -> Self {
        Self {
            followed: FollowedTopic::new("cron", &topic),
            log,
            topic,
            next: 0,
            known: HashMap::new(),
        }
    }

    /// The mark of a schedule.
    pub(super) fn get(&self, key: &MarkKey) -> Option<Millis> {
        self.known.get(key).copied()
    }

    /// Sets a mark, unless the known one is later: another node may be ahead.
    pub(super) fn set(&mut self, key: MarkKey, until: Millis) {
        let known = self.known.entry(key).or_insert(until);
        *known = until.max(*known);
    }

    /// Reads the marks that other nodes have written since the last call.
    pub(super) fn read(&mut self) -> Result<(), LogError> {
        // What is known stays: it was started.
        if self.followed.is_recreated(&*self.log)? {
            self.next = 0;
        }
        let range = self.log.offset_range(&self.topic, 0)?;
        if range.end < self.next {
            tracing::error!(
                end = range.end,
                read = self.next,
                "`state.cron` is shorter than what was read of it: it was recreated or truncated, and is read from its start"
            );
            self.next = 0;
        }
        let from = self.next.max(range.start);
        if from >= range.end {
            return Ok(());
        }
        let mut reader = self.log.reader(&self.topic)?;
        let mut read = Vec::new();
        read_ranges(&mut *reader, &[(0, from, range.end)], |fetched| {
            let Record { key, value, .. } = fetched.record;
            let key = serde_json::from_slice(&key.unwrap_or_default());
            let mark = serde_json::from_slice::<Mark>(&value.unwrap_or_default());
            // Records that cannot be parsed are from a later version, or not OmniLink's.
            if let (Ok(key), Ok(mark)) = (key, mark) {
                read.push((key, mark.until));
            }
            Ok(())
        })?;
        for (key, until) in read {
            self.set(key, until);
        }
        self.next = range.end;
        Ok(())
    }
}
