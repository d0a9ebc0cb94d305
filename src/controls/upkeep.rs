//! Records that the reading thread writes: it adds versions to records without one, once; and it writes the current record
//! of a name again after a refused one, because compaction keeps the last record of a name, whatever it contains.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    Controls, ControlsError,
    record::{self, Control, Revocation, Upgrade, Versioned},
    versions::Due,
};
use crate::{
    base::{
        backoff::Backoff,
        clock::{Clock, Millis, SystemClock},
    },
    log::{Acknowledged, Append, Record},
};

/// Records written in one pass.
const BATCH: usize = 500;
/// All nodes see a refused record at the same time: each waits a random time up to this, so that usually one writes.
const MAX_REPAIR_DELAY: Duration = Duration::from_secs(2);
/// How often revocations of expired keys are removed.
const CLEANUP_INTERVAL: Duration = Duration::from_hours(1);
/// How long such a revocation is kept after the expiry: longer than clocks can differ.
const CLEANUP_DELAY_MS: i64 = 24 * 3600 * 1000;
/// Pauses between attempts while appends fail.
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(500),
    max: Duration::from_mins(1),
};
/// The principal of these records.
const PRINCIPAL: &str = "omnilink";

/// State of the writes in progress.
pub(super) struct Upkeep {
    appended: Option<Acknowledged>,
    /// The offset after the last written record: nothing is written until it has been read back.
    written: u64,
    /// Nothing is written before this time.
    not_before: Option<Instant>,
    attempt: u32,
    /// When the current record is written again after a refused one.
    repair_at: Option<Instant>,
    clean_at: Instant,
}

impl Default for Upkeep {
    fn default() -> Self {
        Self {
            appended: None,
            written: 0,
            not_before: None,
            attempt: 0,
            repair_at: None,
            clean_at: Instant::now() + CLEANUP_INTERVAL,
        }
    }
}

impl Upkeep {
    /// Called when the topic has been read to its end. Never blocks: the thread has to keep reading.
    pub(super) fn run(&mut self, controls: &Controls) {
        if !self.ready() || *controls.read.borrow() < self.written {
            return;
        }
        let records = match self.due(controls) {
            Ok(records) => records,
            Err(error) => {
                self.failed(&error.to_string());
                return;
            }
        };
        if records.is_empty() {
            return;
        }
        let append = |record| Append {
            topic: Arc::clone(&controls.topic),
            record,
        };
        let records = records.into_iter().map(append).collect();
        self.appended = Some(controls.log.append(records, None));
    }

    /// Whether the last write is complete and the next may begin.
    fn ready(&mut self) -> bool {
        if let Some(appended) = &mut self.appended {
            let result = match appended.try_recv() {
                Err(tokio::sync::oneshot::error::TryRecvError::Empty) => return false,
                Err(_) => Err("the log is closing".to_owned()),
                Ok(result) => result.map_err(|error| error.to_string()),
            };
            self.appended = None;
            match result {
                Ok(positions) => {
                    self.attempt = 0;
                    self.written = positions.last().map_or(0, |last| last.offset + 1);
                }
                Err(why) => self.failed(&why),
            }
        }
        self.not_before.is_none_or(|at| at <= Instant::now())
    }

    fn failed(&mut self, why: &str) {
        tracing::warn!(why, "maintenance of `controls` failed; retrying");
        self.not_before = Some(Instant::now() + BACKOFF.pause(self.attempt));
        self.attempt += 1;
    }

    fn due(&mut self, controls: &Controls) -> Result<Vec<Record>, ControlsError> {
        let now = SystemClock.now();
        let upgrade = controls.upgrade(now)?;
        if !upgrade.is_empty() {
            return Ok(upgrade);
        }
        let repairs = controls.repairs(now)?;
        if repairs.is_empty() {
            self.repair_at = None;
        } else {
            let at = *self
                .repair_at
                .get_or_insert_with(|| Instant::now() + MAX_REPAIR_DELAY.mul_f64(rand::random()));
            if at <= Instant::now() {
                self.repair_at = None;
                // Limits the rate of repairs when someone keeps writing bad records.
                self.not_before = Some(Instant::now() + Duration::from_secs(1));
                return Ok(repairs);
            }
        }
        if self.clean_at > Instant::now() {
            return Ok(Vec::new());
        }
        self.clean_at = Instant::now() + CLEANUP_INTERVAL;
        let before = Millis(now.0 - CLEANUP_DELAY_MS);
        let names = controls.versions.lock().expired_revocations(before, BATCH);
        let tombstone = |name: Box<str>| record_with(&name, None);
        Ok(names.into_iter().map(tombstone).collect())
    }
}

impl Controls {
    /// Records without a version, with one added; once there are none left, the record that marks the upgrade.
    fn upgrade(&self, now: Millis) -> Result<Vec<Record>, ControlsError> {
        let (old, upgraded) = {
            let versions = self.versions.lock();
            (versions.without_version(BATCH), versions.is_upgraded())
        };
        if old.is_empty() && !upgraded {
            let before = *self.read.borrow();
            let body = Versioned {
                version: 1,
                body: Upgrade { before },
            };
            let record = self.sealed(record::UPGRADE, (PRINCIPAL, now), &body, &[])?;
            return Ok(vec![record]);
        }
        let mut records = Vec::with_capacity(old.len());
        for (name, value) in old {
            // Cannot fail: it was opened when it was read.
            let Ok(opened) = self.open(&name, &value) else {
                continue;
            };
            let control = &opened.control;
            let body: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(&control.body)?;
            let target = (&*control.tenant, &*control.kind, &*control.name);
            let by = (&*control.principal, Millis(control.at / 1000));
            records.push(self.sealed(
                target,
                by,
                &Versioned { version: 1, body },
                &opened.secret,
            )?);
        }
        Ok(records)
    }

    /// Records that must become the last of their name again.
    fn repairs(&self, now: Millis) -> Result<Vec<Record>, ControlsError> {
        let (due, upgrade) = {
            let versions = self.versions.lock();
            (versions.due(BATCH), versions.hidden_upgrade())
        };
        let mut records = Vec::with_capacity(due.len() + 1);
        if let Some(value) = upgrade {
            let (tenant, kind, name) = record::UPGRADE;
            records.push(record_with(&Control::key(tenant, kind, name), Some(value)));
        }
        for (name, due) in due {
            let record = match due {
                Due::Rewrite(value) => record_with(&name, Some(value)),
                Due::Revoke {
                    version,
                    expires_at,
                } => {
                    let Some(target) = record::parse_key(&name) else {
                        continue;
                    };
                    let body = Revocation {
                        revoked_at: now.0,
                        expires_at: expires_at.map(|at| at.0),
                        was: None,
                    };
                    self.sealed(target, (PRINCIPAL, now), &Versioned { version, body }, &[])?
                }
            };
            records.push(record);
        }
        Ok(records)
    }
}

fn record_with(name: &str, value: Option<Bytes>) -> Record {
    Record {
        key: Some(Bytes::copy_from_slice(name.as_bytes())),
        value,
        headers: Vec::new(),
    }
}
