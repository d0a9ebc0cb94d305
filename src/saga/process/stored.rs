//! Runs of keyed state: reading one into memory, and writing those that a transaction has changed.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{
    begin,
    rows::{HELD, Mark, RUNS, RunKey, STARTS, StartRow, TEXTS, TextRow},
    run_cache::{CachedRun, waits_for_controls},
    stub::stub,
    transform::Runs,
};
use crate::{
    base::id::Identity,
    commands::Command,
    runs::RunStatus,
    saga::Snapshot,
    stream::{Context, Failure, Rejected},
};

impl Runs {
    /// Loads a run into memory; false if it does not exist or has ended.
    pub(super) fn load(&mut self, key: RunKey, cx: &mut Context<'_>) -> Result<bool, Failure> {
        if self.cache.get(&key).is_some() {
            return Ok(true);
        }
        let Some(mut snapshot) = cx.get(&RUNS, &key)? else {
            return Ok(false);
        };
        let damaged = |what: &str| Rejected::new("invalid_state", format!("the run's {what}"));
        let start = cx.get(&STARTS, &key)?;
        let start = start.ok_or_else(|| damaged("start record is missing"))?;
        let begun = begin::read(&start.0, &self.plans)?;
        let mut large = BTreeMap::new();
        for text in snapshot.large().to_vec() {
            let row = cx.get(&TEXTS, &(key, text.step, text.text as u8))?;
            let TextRow(json) = row.ok_or_else(|| damaged("text of a step is missing"))?;
            snapshot.put_back(text, json.clone());
            large.insert(text, json);
        }
        let (updated_at, timer) = (snapshot.updated_at(), snapshot.timer());
        let compiled = begun.plan.map(|plan| plan.compiled);
        let run = snapshot
            .restore(compiled, Arc::new(begun.started), begun.slots)
            .ok_or_else(|| damaged("plan has another number of steps"))?;
        let live = CachedRun {
            held: waits_for_controls(&run, &begun.about),
            about: begun.about,
            run,
            body_hash: begun.body_hash,
            updated_at,
            timer,
            large,
            unstored: None,
            stored: true,
            changed: false,
            decided: Vec::new(),
        };
        self.cache.insert(key, live);
        Ok(true)
    }

    /// The stored start of a run in memory.
    pub(super) fn start_record(
        &mut self,
        key: RunKey,
        cx: &mut Context<'_>,
    ) -> Result<Command, Failure> {
        let live = self.cache.get(&key);
        if let Some(command) = live.and_then(|live| live.unstored.as_deref()) {
            return Ok(command.clone());
        }
        let row = cx.get(&STARTS, &key)?;
        let row =
            row.ok_or_else(|| Rejected::new("invalid_state", "the run's start is missing"))?;
        Ok(row.0)
    }

    pub(super) fn store_changed(&mut self, cx: &mut Context<'_>) {
        for key in std::mem::take(&mut self.changed) {
            self.store(key, cx);
        }
    }

    /// Writes the row of a run that the transaction has changed, and sets its timer.
    fn store(&mut self, key: RunKey, cx: &mut Context<'_>) {
        let Some(live) = self.cache.get(&key) else {
            return;
        };
        live.changed = false;
        let timer_key = || Bytes::copy_from_slice(&key);
        if live.run.has_ended() {
            if let Some(due) = live.timer {
                cx.cancel_timer(timer_key(), due);
            }
            if live.held {
                cx.delete(&HELD, &key);
            }
            if live.stored {
                cx.delete(&RUNS, &key);
                cx.delete(&STARTS, &key);
                for text in live.large.keys() {
                    cx.delete(&TEXTS, &(key, text.step, text.text as u8));
                }
            }
            let stub = stub(live.about.tenant.as_str(), &live.body_hash);
            self.ended.insert(Identity(key), stub, cx.now());
            self.cache.remove(&key);
            return;
        }
        let held = waits_for_controls(&live.run, &live.about);
        if held != live.held {
            live.held = held;
            if held {
                cx.put(&HELD, &key, &Mark);
            } else {
                cx.delete(&HELD, &key);
            }
        }
        // A timer that fires too early is harmless and is set again then. It must be moved only to an earlier time.
        let queued = live.run.status() == RunStatus::Queued;
        if let Some(due) = live.run.next_due()
            && live.timer.is_none_or(|timer| due < timer)
            // Its time has come, and a control keeps it queued.
            && !(held && queued && due <= cx.now())
        {
            if let Some(before) = live.timer {
                cx.cancel_timer(timer_key(), before);
            }
            cx.set_timer(timer_key(), due);
            live.timer = Some(due);
        }
        if let Some(command) = live.unstored.take() {
            cx.put(&STARTS, &key, &StartRow(*command));
        }
        let mut snapshot = Snapshot::of(&live.run, live.updated_at, live.timer);
        for (text, json) in snapshot.take_large() {
            // Only a person's decision changes a stored text.
            if live.large.get(&text).is_some_and(|stored| stored.is(&json)) {
                continue;
            }
            live.large.insert(text, json.clone());
            cx.put(&TEXTS, &(key, text.step, text.text as u8), &TextRow(json));
        }
        cx.put(&RUNS, &key, &snapshot);
        live.stored = true;
    }
}
