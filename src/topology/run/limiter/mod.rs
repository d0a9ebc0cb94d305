//! `rate_limit`: a sliding window for each key in the keyed state, and the records that wait for it, first in, first out.
//!
//! | row | holds |
//! |---|---|
//! | `l` id(16) | one key: its admissions, which records wait, and when its timer is due |
//! | `q` id(16) number(8) | a record that waits |
//! | `j` number(8) | the admissions of a transaction that the keys' rows do not reflect yet ([`journal`]) |
//!
//! The timer of a key (`policy 0x00 id`) admits what waits, and drops the row when nothing in it counts any more.
//!
//! # Which time counts
//!
//! With `over: reject` it is the time at which the record was appended to the limiter's input: a lane that was away turns nothing
//! away that came in time.
//!
//! With `over: defer` it is the time at which the record leaves, whether it waited or not: no window of the times at which records
//! leave has more than the limit, however long the lane was away. A record leaves at some time between the transaction's
//! [`Context::now`] and its commit. It is counted at the former, and in memory at the latter once that is known
//! ([`Limiter::committed`]). Rows read back from the store do not say how long the commit of the newest admissions took:
//! they count as late as they may have left, which is [`LEAVING`] before the partition was opened, or the longest commit since.

mod journal;
#[cfg(test)]
mod tests;

use bytes::Bytes;

use self::journal::{Entry, Journal};
use crate::topology::syntax::model::{Over, RateLimit};
use crate::{
    base::{
        clock::Millis,
        id::{Identity, IdentityMap},
    },
    limits::{Limit, Times},
    state::{Space, StateError, StateStore},
    stream::{Context, Rejected, transform::row as stored_row},
};

/// Records of one key that may wait.
pub(crate) const MOST_WAITING: u64 = 1000;
/// Records of one key that one firing admits: the rest follows in the next transaction.
const AT_ONCE: usize = 100;
/// And bytes of these.
const AT_ONCE_BYTES: usize = 8 << 20;
/// How long a transaction of an earlier owner may have gone on: the log ends it then.
const LEAVING: i64 = 10_000;
/// What a key weighs in memory, in admissions.
const KEY: usize = 8;

/// How much a partition keeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Admissions of a transaction that are worth a row in the journal.
    worth: usize,
    /// Admissions in the journal.
    journal: usize,
    /// Admissions of the keys in memory that were used recently ([`Keys`]).
    recent: usize,
}

pub(crate) const BOUNDS: Bounds = Bounds {
    worth: 64,
    journal: 32_768,
    recent: 1 << 18,
};

/// What becomes of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Pass,
    /// It waits in the state.
    Deferred,
    /// It is over the limit; there may be room at this time.
    Throttled(Millis),
}

/// One key.
#[derive(Clone, Default)]
struct Slot {
    times: Times,
    /// The number of the first record that waits, and of the next.
    head: u64,
    tail: u64,
    /// When its timer is due: there is one as long as an admission counts.
    timer: Option<Millis>,
    changed: bool,
    /// The journal before this number is reflected by its row.
    reflects: u64,
    /// The journal from this number on has nothing of it.
    noted: u64,
    /// The newest admissions that belong to the open transaction and leave with it.
    leaving: u32,
    /// It was read back from the store: its newest admissions may have left later than it says.
    read_back: bool,
}

/// The keys of one partition. What is in memory follows from the state: it is made anew after an abort.
pub(crate) struct Limiter {
    bounds: Bounds,
    keys: Keys,
    journal: Journal,
    /// Admissions of the open transaction.
    admitted: Vec<Entry>,
    /// Keys of which it changed more than that.
    changed: Vec<Identity>,
    /// Keys with admissions that leave with the open transaction, and when it began.
    leaving: Vec<Identity>,
    began: Millis,
    commits: Commits,
}

/// How long it takes from a transaction's time until all of it has left.
#[derive(Clone, Copy, Default)]
struct Commits {
    /// When this limiter's first transaction began: rows with earlier times are of another life.
    opened: Option<Millis>,
    last: i64,
    longest: i64,
}

impl Commits {
    /// The latest time at which what was counted at `at`, and then read back from the store, may have left.
    fn latest(&self, at: Millis, now: Millis) -> Millis {
        let opened = self.opened.unwrap_or(now);
        let (most, end) = if at < opened {
            (LEAVING, opened)
        } else {
            (self.longest, now)
        };
        Millis(at.0.saturating_add(most)).min(end).max(at)
    }
}

/// Keys in memory: those used recently, and older ones, which are dropped when the recent ones have become many.
#[derive(Default)]
struct Keys {
    recent: IdentityMap<Slot>,
    weight: usize,
    older: IdentityMap<Slot>,
}

fn row(letter: u8, id: &Identity) -> Vec<u8> {
    let mut row = Vec::with_capacity(25);
    row.push(letter);
    row.extend_from_slice(&id.0);
    row
}

fn waiting(id: &Identity, number: u64) -> Vec<u8> {
    let mut row = row(b'q', id);
    row.extend_from_slice(&number.to_be_bytes());
    row
}

fn timer_key(policy: &str, id: &Identity) -> Bytes {
    let mut key = Vec::with_capacity(policy.len() + 17);
    key.extend_from_slice(policy.as_bytes());
    key.push(0);
    key.extend_from_slice(&id.0);
    key.into()
}

/// The policy and the key of a timer.
pub(crate) fn parse_timer(key: &[u8]) -> Option<(&str, Identity)> {
    let at = key.len().checked_sub(17)?;
    let (policy, rest) = key.split_at(at);
    let id = rest.strip_prefix(&[0])?.try_into().ok()?;
    Some((std::str::from_utf8(policy).ok()?, Identity(id)))
}

impl RateLimit {
    pub(crate) fn as_limit(&self) -> Limit {
        Limit {
            limit: self.limit,
            window_ms: self.window_ms,
        }
    }
}

impl Keys {
    /// A key's slot; `stored` reads its row.
    fn slot(
        &mut self,
        id: Identity,
        stored: impl FnOnce(&[u8]) -> Result<Option<Bytes>, StateError>,
    ) -> Result<&mut Slot, StateError> {
        use std::collections::hash_map::Entry;
        match self.recent.entry(id) {
            Entry::Occupied(slot) => Ok(slot.into_mut()),
            Entry::Vacant(vacant) => {
                let slot = if let Some(slot) = self.older.remove(&id) {
                    slot
                } else if let Some(bytes) = stored(&row(b'l', &id))? {
                    Slot::decode(&bytes)?
                } else {
                    Slot::default()
                };
                self.weight += slot.weight();
                Ok(vacant.insert(slot))
            }
        }
    }

    fn in_memory(&mut self, id: &Identity) -> Option<&mut Slot> {
        let late = self.recent.get_mut(id);
        late.or_else(|| self.older.get_mut(id))
    }

    fn age(&mut self, most: usize) {
        if self.weight > most {
            let gone = std::mem::replace(&mut self.older, std::mem::take(&mut self.recent));
            // What the journal has of a key is nowhere else.
            let pending = gone.into_iter().filter(|(_, slot)| slot.is_pending());
            self.recent.extend(pending);
            self.weight = self.recent.values().map(Slot::weight).sum();
        }
    }
}

impl Limiter {
    /// Reads back what the journal has.
    pub(crate) fn load(
        store: &StateStore,
        space: &Space,
        bounds: Bounds,
    ) -> Result<Self, StateError> {
        let mut keys = Keys::default();
        let journal = Journal::load(store, space, bounds.journal, |number, (id, at)| {
            let stored = |key: &[u8]| store.get(space, &stored_row(key));
            let slot = keys.slot(id, stored)?;
            // Without a timer nothing of it counts any more.
            if number >= slot.reflects && slot.timer.is_some() {
                slot.times.add(at);
                slot.noted = number + 1;
                slot.read_back = true;
            }
            Ok(())
        })?;
        Ok(Self {
            bounds,
            keys,
            journal,
            admitted: Vec::new(),
            changed: Vec::new(),
            leaving: Vec::new(),
            began: Millis(0),
            commits: Commits::default(),
        })
    }

    /// Judges a record that was appended at `appended`; `record` is what is kept of it should it wait.
    pub(crate) fn judge<E: From<StateError> + From<Rejected>>(
        &mut self,
        id: Identity,
        limit: &RateLimit,
        appended: Millis,
        cx: &mut Context<'_>,
        record: impl FnOnce() -> Result<Bytes, E>,
    ) -> Result<Verdict, E> {
        let sliding = limit.as_limit();
        self.begin(cx.now());
        let slot = self.keys.slot(id, |key| cx.get(key))?;
        let now = match limit.over {
            Over::Reject => appended,
            Over::Defer => cx.now(),
        };
        slot.put_off(limit, now, &self.commits);
        let refused = if slot.head == slot.tail {
            slot.times.admit(sliding, now).err()
        } else {
            // Those who wait come first.
            Some(slot.times.next_free(sliding).unwrap_or(now).max(now))
        };
        let Some(at) = refused else {
            if limit.over == Over::Defer {
                slot.leaves(id, &mut self.leaving);
            }
            if slot.timer.is_none() {
                slot.change(id, &mut self.changed);
                slot.set_timer(slot.times.empty_at(sliding), limit, &id, cx);
            } else if let Some(at) = slot.times.newest() {
                self.admitted.push((id, at));
            }
            self.keys.weight += 1;
            return Ok(Verdict::Pass);
        };
        if limit.over == Over::Reject || slot.tail - slot.head >= MOST_WAITING {
            return Ok(Verdict::Throttled(at));
        }
        cx.try_put(&waiting(&id, slot.tail), record()?)?;
        slot.tail += 1;
        slot.change(id, &mut self.changed);
        let due = slot.after_commit(at, &self.commits);
        if slot.timer.is_none_or(|timer| timer > due) {
            slot.set_timer(Some(due), limit, &id, cx);
        }
        Ok(Verdict::Deferred)
    }

    /// A key's timer has fired: the records that may go on now, in order, with their numbers. `last`: none behind this number.
    pub(crate) fn fire(
        &mut self,
        id: Identity,
        limit: &RateLimit,
        now: Millis,
        last: Option<u64>,
        cx: &mut Context<'_>,
    ) -> Result<Vec<(u64, Bytes)>, StateError> {
        let sliding = limit.as_limit();
        self.begin(now);
        let slot = self.keys.slot(id, |key| cx.get(key))?;
        slot.put_off(limit, now, &self.commits);
        slot.timer = None;
        slot.change(id, &mut self.changed);
        let (mut admitted, mut bytes) = (Vec::new(), 0);
        while slot.head < slot.tail
            && admitted.len() < AT_ONCE
            && bytes < AT_ONCE_BYTES
            && last.is_none_or(|last| slot.head <= last)
            && slot.times.admit(sliding, now).is_ok()
        {
            slot.leaves(id, &mut self.leaving);
            let (number, key) = (slot.head, waiting(&id, slot.head));
            slot.head += 1;
            if let Some(record) = cx.get(&key)? {
                cx.delete(&key);
                bytes += record.len();
                admitted.push((number, record));
            }
        }
        let due = if slot.head < slot.tail {
            let free = slot.times.next_free(sliding).filter(|at| *at > now);
            Some(free.map_or(now, |at| slot.after_commit(at, &self.commits)))
        } else {
            slot.times.empty_at(sliding).filter(|at| *at > now)
        };
        if due.is_none() {
            slot.times = Times::default();
            slot.leaving = 0;
        }
        slot.set_timer(due, limit, &id, cx);
        self.keys.weight += admitted.len();
        Ok(admitted)
    }

    fn begin(&mut self, now: Millis) {
        self.began = now;
        self.commits.opened.get_or_insert(now);
    }

    /// The transaction was committed: what it admitted had left by `now`.
    pub(crate) fn committed(&mut self, now: Millis) {
        if self.leaving.is_empty() {
            return;
        }
        self.commits.last = now.0.saturating_sub(self.began.0).max(0);
        self.commits.longest = self.commits.longest.max(self.commits.last);
        for id in self.leaving.drain(..) {
            if let Some(slot) = self.keys.in_memory(&id) {
                let count = std::mem::take(&mut slot.leaving);
                slot.times.put_off(count as usize, now);
            }
        }
    }

    /// Takes all that waits under a policy that is there no more.
    pub(crate) fn give_up(
        &mut self,
        id: Identity,
        cx: &mut Context<'_>,
    ) -> Result<Vec<Bytes>, StateError> {
        let slot = self.keys.slot(id, |key| cx.get(key))?;
        slot.change(id, &mut self.changed);
        let mut left = Vec::new();
        while slot.head < slot.tail {
            let key = waiting(&id, slot.head);
            slot.head += 1;
            if let Some(record) = cx.get(&key)? {
                cx.delete(&key);
                left.push(record);
            }
        }
        *slot = Slot {
            changed: true,
            ..Slot::default()
        };
        Ok(left)
    }

    /// Notes the transaction's admissions, and has keys written of which the journal knows for long.
    fn note(&mut self, cx: &mut Context<'_>) {
        if self.admitted.len() < self.bounds.worth {
            for (id, _) in self.admitted.drain(..) {
                if let Some(slot) = self.keys.in_memory(&id) {
                    slot.change(id, &mut self.changed);
                }
            }
        }
        self.journal.add(&self.admitted, cx);
        for (id, _) in self.admitted.drain(..) {
            if let Some(slot) = self.keys.in_memory(&id) {
                slot.noted = self.journal.next();
            }
        }
        while let Some((number, keys)) = self.journal.fold(cx) {
            for id in keys {
                let Some(slot) = self.keys.in_memory(&id) else {
                    continue;
                };
                if slot.is_pending() && slot.reflects <= number {
                    slot.change(id, &mut self.changed);
                }
            }
        }
    }

    /// Writes the keys that changed: one row each, however many records there were.
    pub(crate) fn close(&mut self, cx: &mut Context<'_>) {
        self.note(cx);
        for id in self.changed.drain(..) {
            let Some(slot) = self.keys.in_memory(&id) else {
                continue;
            };
            slot.changed = false;
            slot.reflects = self.journal.next();
            let row = row(b'l', &id);
            if slot.times.is_empty() && slot.head == slot.tail {
                cx.delete(&row);
            } else {
                cx.put(&row, slot.encode());
            }
        }
        self.keys.age(self.bounds.recent);
    }
}

impl Slot {
    fn weight(&self) -> usize {
        KEY + self.times.len()
    }

    /// One more is admitted in the open transaction, and leaves with it.
    fn leaves(&mut self, id: Identity, leaving: &mut Vec<Identity>) {
        if self.leaving == 0 {
            leaving.push(id);
        }
        self.leaving += 1;
    }

    /// What was read back counts as late as it may have left.
    fn put_off(&mut self, limit: &RateLimit, now: Millis, commits: &Commits) {
        if std::mem::take(&mut self.read_back)
            && limit.over == Over::Defer
            && let Some(newest) = self.times.newest()
        {
            let count = self.times.newest_count();
            self.times.put_off(count, commits.latest(newest, now));
        }
    }

    /// A time that follows from what was admitted at the open transaction's time, which leaves a little later.
    fn after_commit(&self, at: Millis, commits: &Commits) -> Millis {
        match self.leaving {
            0 => at,
            _ => Millis(at.0.saturating_add(commits.last)),
        }
    }

    /// The journal has something that its row does not reflect.
    fn is_pending(&self) -> bool {
        self.noted > self.reflects
    }

    /// It is written when the transaction closes.
    fn change(&mut self, id: Identity, changed: &mut Vec<Identity>) {
        if !std::mem::replace(&mut self.changed, true) {
            changed.push(id);
        }
    }

    fn set_timer(
        &mut self,
        due: Option<Millis>,
        limit: &RateLimit,
        id: &Identity,
        cx: &mut Context<'_>,
    ) {
        let key = timer_key(&limit.policy.value, id);
        if let Some(before) = self.timer.take_if(|before| Some(*before) != due) {
            cx.cancel_timer(key.clone(), before);
        }
        self.timer = due;
        if let Some(due) = due {
            cx.set_timer(key, due);
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32 + self.times.len() * 2);
        for number in [self.head, self.tail] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        let timer = self.timer.map_or(i64::MIN, |at| at.0);
        out.extend_from_slice(&timer.to_be_bytes());
        self.times.encode(&mut out);
        out.extend_from_slice(&self.reflects.to_be_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        let damaged = || StateError::damaged("a row of a rate limit");
        let mut rest = bytes;
        let mut number = || -> Result<[u8; 8], StateError> {
            let (first, more) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
            rest = more;
            Ok(*first)
        };
        let (head, tail) = (u64::from_be_bytes(number()?), u64::from_be_bytes(number()?));
        let timer = i64::from_be_bytes(number()?);
        let times = Times::decode(&mut rest).map_err(|_| damaged())?;
        // Rows from before there was a journal end here.
        let reflects = rest
            .first_chunk()
            .map_or(0, |bytes| u64::from_be_bytes(*bytes));
        Ok(Self {
            head,
            tail,
            timer: (timer != i64::MIN).then_some(Millis(timer)),
            times,
            changed: false,
            reflects,
            noted: 0,
            leaving: 0,
            read_back: true,
        })
    }
}
