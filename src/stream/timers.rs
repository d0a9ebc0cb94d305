//! Durable timers: rows of the keyed state, ordered by time. Only the nearest ones are in memory, so that timers that are far away, or
//! cancelled before they get near, cost nothing but their rows.
//!
//! | row | holds |
//! |---|---|
//! | `T` time(8) key | a timer; times sort as numbers |
//! | `t` key | a timer of earlier releases, with its time in the value: rewritten by the first transaction |

use std::collections::BTreeSet;

use bytes::Bytes;

use super::writes::Writes;
use crate::{
    base::clock::Millis,
    state::{Space, StateError, StateStore},
};

const ROW: u8 = b'T';
const OLD_ROW: u8 = b't';

/// The number of timers read from the store at a time.
const NEAR: usize = 4_096;

/// The stored form of a time: its bytes sort like the number.
fn ordered(due: Millis) -> [u8; 8] {
    (due.0 as u64 ^ (1 << 63)).to_be_bytes()
}

fn row(due: Millis, key: &[u8]) -> Bytes {
    let mut row = Vec::with_capacity(key.len() + 9);
    row.push(ROW);
    row.extend_from_slice(&ordered(due));
    row.extend_from_slice(key);
    row.into()
}

fn parse(row: &Bytes) -> Option<(Millis, Bytes)> {
    let (due, _) = row.get(1..)?.split_first_chunk::<8>()?;
    let due = (u64::from_be_bytes(*due) ^ (1 << 63)) as i64;
    Some((Millis(due), row.slice(9..)))
}

/// The timers of one partition. The part in memory is derived from the state, and reloaded after an abort.
pub(crate) struct Timers {
    /// All timers before `horizon`, in order, and possibly later ones.
    near: BTreeSet<(Millis, Bytes)>,
    /// Timers from this time on are only in the store; `None` if all are in memory.
    horizon: Option<Millis>,
    /// Rows of earlier releases, to be rewritten.
    old: Vec<(Bytes, Millis)>,
    most: usize,
}

impl Timers {
    pub(crate) fn load(store: &StateStore, space: &Space) -> Result<Self, StateError> {
        Self::load_most(store, space, NEAR)
    }

    fn load_most(store: &StateStore, space: &Space, most: usize) -> Result<Self, StateError> {
        let mut timers = Self {
            near: BTreeSet::new(),
            horizon: Some(Millis(i64::MIN)),
            old: Vec::new(),
            most,
        };
        for entry in store.scan(space, &[OLD_ROW]) {
            let (key, value) = entry?;
            let due = value.as_ref().try_into().map(i64::from_be_bytes);
            let due = due.map_err(|_| StateError::damaged("the row of a timer"))?;
            timers.old.push((key, Millis(due)));
        }
        timers.refill(store, space)?;
        // There are few: topologies had one per key of a rate limit.
        for (key, due) in &timers.old {
            timers.near.insert((*due, key.slice(1..)));
        }
        Ok(timers)
    }

    /// Reads the next timers from the store when those in memory have fired. Called between transactions.
    pub(crate) fn refill(&mut self, store: &StateStore, space: &Space) -> Result<(), StateError> {
        let Some(horizon) = self.horizon else {
            return Ok(());
        };
        if self.near.first().is_some_and(|(due, _)| *due < horizon) {
            return Ok(());
        }
        let mut last = None;
        // Timers of the same time must all be on the same side of the horizon.
        let entries = store.scan_from(space, &[ROW], &ordered(horizon), usize::MAX);
        for (read, entry) in entries.enumerate() {
            let (key, _) = entry?;
            let (due, key) =
                parse(&key).ok_or_else(|| StateError::damaged("the row of a timer"))?;
            if read >= self.most && last != Some(due) {
                self.horizon = Some(due);
                return Ok(());
            }
            last = Some(due);
            self.near.insert((due, key));
        }
        self.horizon = None;
        Ok(())
    }

    /// Rewrites rows of earlier releases; called in the first transaction.
    pub(crate) fn upgrade(&mut self, writes: &mut Writes) {
        for (old, due) in self.old.drain(..) {
            writes.put(row(due, &old[1..]), Bytes::new());
            writes.delete(old);
        }
    }

    pub(crate) fn set(&mut self, key: Bytes, due: Millis, writes: &mut Writes) {
        writes.put(row(due, &key), Bytes::new());
        if self.horizon.is_some_and(|horizon| due >= horizon) {
            return;
        }
        self.near.insert((due, key));
        while self.near.len() > 2 * self.most {
            self.forget_farthest();
        }
    }

    /// Lets a timer fire with those that are due, although it has no row: the next abort forgets it.
    pub(crate) fn fire_now(&mut self, key: &'static [u8], now: Millis) {
        let mut due = self.near.iter().take_while(|(due, _)| *due <= now);
        if !due.any(|(_, known)| known[..] == *key) {
            self.near.insert((now, Bytes::from_static(key)));
        }
    }

    /// Removes the timers with the latest time from memory; they remain in the store.
    fn forget_farthest(&mut self) {
        let Some((due, _)) = self.near.pop_last() else {
            return;
        };
        while self.near.last().is_some_and(|(last, _)| *last == due) {
            self.near.pop_last();
        }
        self.horizon = Some(due);
    }

    pub(crate) fn cancel(&mut self, key: &Bytes, due: Millis, writes: &mut Writes) {
        self.near.remove(&(due, key.clone()));
        writes.delete(row(due, key));
    }

    /// When the first timer is due, or the earliest time at which one that is only in the store may be due.
    pub(crate) fn next_due(&self) -> Option<Millis> {
        let near = self.near.first().map(|(due, _)| *due);
        near.into_iter().chain(self.horizon).min()
    }

    /// Removes and returns the first timer due at or before `now`.
    pub(crate) fn take(&mut self, now: Millis, writes: &mut Writes) -> Option<(Millis, Bytes)> {
        let first = self.near.first()?.0;
        if first > now || self.horizon.is_some_and(|horizon| first >= horizon) {
            return None;
        }
        let (due, key) = self.near.pop_first()?;
        writes.delete(row(due, &key));
        Some((due, key))
    }

    /// Reverts [`Self::take`].
    pub(crate) fn put_back(&mut self, key: Bytes, due: Millis, writes: &mut Writes) {
        writes.put(row(due, &key), Bytes::new());
        self.near.insert((due, key));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::state::Changes;

    #[derive(Clone, Debug)]
    enum Op {
        Set(u8, i64),
        Cancel(u8),
        Fire(i64),
        Commit,
        Restart,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (any::<u8>(), 0i64..50).prop_map(|(key, due)| Op::Set(key, due)),
            2 => any::<u8>().prop_map(Op::Cancel),
            2 => (0i64..60).prop_map(Op::Fire),
            2 => Just(Op::Commit),
            1 => Just(Op::Restart),
        ]
    }

    proptest! {
        /// Timers fire once, ordered by time, and never after they were cancelled, independent of how many are in memory.
        #[test]
        fn as_a_map_in_memory(ops in prop::collection::vec(op(), 1..200), most in 1usize..8) {
            let store = StateStore::in_memory();
            let space = Space::new("p", 0);
            let mut timers = Timers::load_most(&store, &space, most).unwrap();
            let mut writes = Writes::default();
            let mut model: BTreeMap<u8, i64> = BTreeMap::new();
            for op in ops {
                match op {
                    Op::Set(key, due) => {
                        let name = Bytes::copy_from_slice(&[key]);
                        if let Some(before) = model.insert(key, due) {
                            timers.cancel(&name, Millis(before), &mut writes);
                        }
                        timers.set(name, Millis(due), &mut writes);
                    }
                    Op::Cancel(key) => {
                        if let Some(due) = model.remove(&key) {
                            let name = Bytes::copy_from_slice(&[key]);
                            timers.cancel(&name, Millis(due), &mut writes);
                        }
                    }
                    Op::Fire(now) => {
                        // A transaction fires only timers in memory; the next one continues.
                        loop {
                            let mut fired = 0;
                            while let Some((due, key)) = timers.take(Millis(now), &mut writes) {
                                fired += 1;
                                prop_assert!(due.0 <= now);
                                prop_assert_eq!(model.remove(&key[0]), Some(due.0));
                                prop_assert!(model.values().all(|other| *other >= due.0));
                            }
                            store.apply(&writes.take(&space), &[]).unwrap();
                            timers.refill(&store, &space).unwrap();
                            if fired == 0 && timers.next_due().is_none_or(|due| due.0 > now) {
                                break;
                            }
                        }
                        prop_assert!(model.values().all(|due| *due > now));
                    }
                    Op::Commit => {
                        store.apply(&writes.take(&space), &[]).unwrap();
                        timers.refill(&store, &space).unwrap();
                    }
                    Op::Restart => {
                        store.apply(&writes.take(&space), &[]).unwrap();
                        timers = Timers::load_most(&store, &space, most).unwrap();
                    }
                }
                prop_assert!(timers.near.len() <= 2 * most + 256);
                if let Some(first) = model.values().min() {
                    prop_assert!(timers.next_due().is_some_and(|due| due.0 <= *first));
                }
            }
        }
    }

    #[test]
    fn timers_of_versions_before_fire_and_are_rewritten() {
        let store = StateStore::in_memory();
        let space = Space::new("p", 0);
        let mut old = Changes::default();
        old.put(&space, "tkey", 70i64.to_be_bytes().to_vec());
        store.apply(&old, &[]).unwrap();
        let mut timers = Timers::load(&store, &space).unwrap();
        let mut writes = Writes::default();
        timers.upgrade(&mut writes);
        store.apply(&writes.take(&space), &[]).unwrap();
        assert_eq!(store.get(&space, b"tkey").unwrap(), None);
        let mut timers = Timers::load(&store, &space).unwrap();
        assert_eq!(
            timers.take(Millis(70), &mut writes),
            Some((Millis(70), "key".into()))
        );
        store.apply(&writes.take(&space), &[]).unwrap();
        assert_eq!(Timers::load(&store, &space).unwrap().next_due(), None);
    }
}
