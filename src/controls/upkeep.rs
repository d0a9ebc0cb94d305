//! What the reading thread writes: records without a version get one, once; and the record that counts is written again after
//! one that was refused, for compaction keeps the last of a name whatever it says.

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

/// Records of one pass.
const MOST: usize = 500;
/// All nodes see a refused record at the same time: each waits up to this long, for one of them is enough.
const SPREAD: Duration = Duration::from_secs(2);
/// How often revocations are looked for that have outlived their key, and how long they outlive it: more than clocks differ.
const CLEANING: Duration = Duration::from_hours(1);
const OUTLIVE_MS: i64 = 24 * 3600 * 1000;
/// Between tries when the log does not take them.
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(500),
    max: Duration::from_mins(1),
};
/// Who writes these records.
const PRINCIPAL: &str = "omnilink";

/// What is under way.
pub(super) struct Upkeep {
    appended: Option<Acknowledged>,
    /// What was written lies below this offset: until it is read back, it would be written again.
    written: u64,
    /// Nothing is begun before.
    not_before: Option<Instant>,
    attempt: u32,
    /// When a refused record is followed by the one that counts.
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
            clean_at: Instant::now() + CLEANING,
        }
    }
}

impl Upkeep {
    /// To be called when the topic has been read to its end. Never waits: the thread has to go on reading.
    pub(super) fn run(&mut self, controls: &Controls) {
        if !self.settled() || *controls.read.borrow() < self.written {
            return;
        }
        let records = match self.wanted(controls) {
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

    /// Whether the last records are written, and it is time for more.
    fn settled(&mut self) -> bool {
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
        tracing::warn!(why, "`controls` cannot be kept up; trying again");
        self.not_before = Some(Instant::now() + BACKOFF.pause(self.attempt));
        self.attempt += 1;
    }

    fn wanted(&mut self, controls: &Controls) -> Result<Vec<Record>, ControlsError> {
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
                .get_or_insert_with(|| Instant::now() + SPREAD.mul_f64(rand::random()));
            if at <= Instant::now() {
                self.repair_at = None;
                // Whoever writes bad records again and again is not answered at the same rate.
                self.not_before = Some(Instant::now() + Duration::from_secs(1));
                return Ok(repairs);
            }
        }
        if self.clean_at > Instant::now() {
            return Ok(Vec::new());
        }
        self.clean_at = Instant::now() + CLEANING;
        let outlived = Millis(now.0 - OUTLIVE_MS);
        let names = controls.versions.lock().outlived(outlived, MOST);
        let tombstone = |name: Box<str>| valued(&name, None);
        Ok(names.into_iter().map(tombstone).collect())
    }
}

impl Controls {
    /// Records without a version, with one; when there are none any more, the record that says so.
    fn upgrade(&self, now: Millis) -> Result<Vec<Record>, ControlsError> {
        let (old, upgraded) = {
            let versions = self.versions.lock();
            (versions.without_version(MOST), versions.is_upgraded())
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
            // It opened when it was read.
            let Ok(opened) = self.open(&name, &value) else {
                continue;
            };
            let control = &opened.control;
            let body: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(&control.body)
                    .map_err(|e| ControlsError::Encode(e.to_string()))?;
            let thing = (&*control.tenant, &*control.kind, &*control.name);
            let by = (&*control.principal, Millis(control.at / 1000));
            records.push(self.sealed(
                thing,
                by,
                &Versioned { version: 1, body },
                &opened.secret,
            )?);
        }
        Ok(records)
    }

    /// What is to be the last record of its name again.
    fn repairs(&self, now: Millis) -> Result<Vec<Record>, ControlsError> {
        let (due, upgrade) = {
            let versions = self.versions.lock();
            (versions.due(MOST), versions.hidden_upgrade())
        };
        let mut records = Vec::with_capacity(due.len() + 1);
        if let Some(value) = upgrade {
            let (tenant, kind, name) = record::UPGRADE;
            records.push(valued(&Control::key(tenant, kind, name), Some(value)));
        }
        for (name, due) in due {
            let record = match due {
                Due::Again(value) => valued(&name, Some(value)),
                Due::Revoke {
                    version,
                    expires_at,
                } => {
                    let Some(thing) = record::parse_key(&name) else {
                        continue;
                    };
                    let body = Revocation {
                        revoked_at: now.0,
                        expires_at: expires_at.map(|at| at.0),
                    };
                    self.sealed(thing, (PRINCIPAL, now), &Versioned { version, body }, &[])?
                }
            };
            records.push(record);
        }
        Ok(records)
    }
}

fn valued(name: &str, value: Option<Bytes>) -> Record {
    Record {
        key: Some(Bytes::copy_from_slice(name.as_bytes())),
        value,
        headers: Vec::new(),
    }
}
