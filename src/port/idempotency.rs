//! What is in flight, over what was seen within the window: an event is new, a duplicate, another body under the same
//! identity, or still being written.
//!
//! An identity is in flight from its reservation until its record's fate is known. It is put into the window
//! before its record is handed to the log, in the same commit on the embedded log, so that it is never in neither.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};

use crate::{
    clock::Millis,
    envelope::{BodyHash, StoredHash},
    id::{Identity, IdentityMap},
    state::{Changes, Space, StateError, StateStore, Window, WindowOptions},
};

/// After this long in flight the same event is appended again, under the same id: whoever wrote it first may be gone.
pub(super) const AGAIN_AFTER: Duration = Duration::from_secs(10);
/// Identities in flight at once.
const MOST: usize = 65_536;
/// Identities in memory before they go to disk as a sorted run: a map of 2^18 slots takes few more.
const SEAL_AT: usize = 220_000;
const SHARDS: usize = 64;

/// What an identity means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Never seen: it is reserved now.
    New,
    /// Seen, with the same body.
    Duplicate,
    /// Seen, with another body.
    Mismatch,
    /// The same event is being written.
    InFlight,
    /// Too much is in flight.
    Full,
}

/// Identities in flight, and those seen.
pub(super) struct Seen {
    shards: [Mutex<Shard>; SHARDS],
    count: AtomicUsize,
    window: Mutex<Window>,
    store: StateStore,
    options: WindowOptions,
}

type Shard = IdentityMap<Flight>;

#[derive(Clone, Copy)]
struct Flight {
    body: BodyHash,
    since: Instant,
}

fn space() -> Space {
    Space::new("port", 0)
}

impl Seen {
    /// Reads the window back.
    pub(super) fn open(store: StateStore, window: Duration) -> Result<Self, StateError> {
        let options = WindowOptions {
            window_ms: window.as_millis() as i64,
            payload: size_of::<StoredHash>(),
            seal_at: SEAL_AT,
        };
        Ok(Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            count: AtomicUsize::new(0),
            window: Mutex::new(Window::load(&store, space(), options)?),
            store,
            options,
        })
    }

    fn shard(&self, id: &Identity) -> MutexGuard<'_, Shard> {
        // The map uses the first bytes.
        self.shards[usize::from(id.0[15]) % SHARDS].lock()
    }

    /// Judges an identity, and reserves it if it is new.
    pub(super) fn reserve(
        &self,
        id: Identity,
        body: BodyHash,
        now: Millis,
    ) -> Result<Verdict, StateError> {
        let mut shard = self.shard(&id);
        if let Some(flight) = shard.get_mut(&id) {
            if !flight.body.is_same(&body) {
                return Ok(Verdict::Mismatch);
            }
            if flight.since.elapsed() < AGAIN_AFTER {
                return Ok(Verdict::InFlight);
            }
            flight.since = Instant::now();
            return Ok(Verdict::New);
        }
        if let Some(seen) = self.window.lock().get(&id, now)? {
            return Ok(if body.matches(&seen) {
                Verdict::Duplicate
            } else {
                Verdict::Mismatch
            });
        }
        if self.count.load(Ordering::Relaxed) >= MOST {
            return Ok(Verdict::Full);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        let since = Instant::now();
        shard.insert(id, Flight { body, since });
        Ok(Verdict::New)
    }

    /// Puts reserved identities into the window and hands its change to `append`, which must pass it on to the log
    /// at once: changes reach the log in the order in which they were made.
    pub(super) fn commit<R>(
        &self,
        ids: &[(Identity, BodyHash)],
        now: Millis,
        append: impl FnOnce(Changes) -> R,
    ) -> R {
        let mut window = self.window.lock();
        for (id, body) in ids {
            window.insert(*id, body.stored(), now);
        }
        append(window.take_changes())
    }

    /// The fate of these is known: they are in the window, or (after [`Seen::reload`]) nowhere.
    pub(super) fn settle(&self, ids: &[(Identity, BodyHash)]) {
        for (id, _) in ids {
            if self.shard(id).remove(id).is_some() {
                self.count.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Reads the window back after a change did not reach the log. Nothing may be under way.
    pub(super) fn reload(&self) -> Result<(), StateError> {
        let window = Window::load(&self.store, space(), self.options)?;
        *self.window.lock() = window;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(n: u8) -> BodyHash {
        let tenant = crate::id::Tenant::new("acme").unwrap();
        let text = format!(r#"{{"id":"1","source":"/s","type":"t","data":{n}}}"#);
        let form = crate::envelope::Form::OmniLink;
        let parsed = crate::envelope::parse_structured(text.as_bytes(), form, &tenant, Millis(1));
        parsed.unwrap().body_hash
    }

    /// What an earlier version has put into the window is compared as it was then.
    #[test]
    fn a_hash_of_version_1_is_known_still() {
        let dir = tempfile::tempdir().unwrap();
        let store = StateStore::open(dir.path()).unwrap();
        let seen = Seen::open(store.clone(), Duration::from_hours(24)).unwrap();
        let (id, now) = (Identity::of("t", &["1"]), Millis(1_000_000_000));
        let mut window = seen.window.lock();
        window.insert(id, body(1).of_all(), now);
        store.apply(&window.take_changes(), &[]).unwrap();
        drop(window);
        assert_eq!(seen.reserve(id, body(1), now).unwrap(), Verdict::Duplicate);
        assert_eq!(seen.reserve(id, body(2), now).unwrap(), Verdict::Mismatch);
    }

    #[test]
    fn from_new_to_in_flight_to_duplicate() {
        let dir = tempfile::tempdir().unwrap();
        let store = StateStore::open(dir.path()).unwrap();
        let seen = Seen::open(store.clone(), Duration::from_hours(24)).unwrap();
        let (id, now) = (Identity::of("t", &["1"]), Millis(1_000_000_000));
        let (a, b) = (body(1), body(2));
        let ask = |body| seen.reserve(id, body, now).unwrap();

        assert_eq!(ask(a), Verdict::New);
        assert_eq!(ask(a), Verdict::InFlight);
        assert_eq!(ask(b), Verdict::Mismatch);
        seen.commit(&[(id, a)], now, |changes| store.apply(&changes, &[]))
            .unwrap();
        assert_eq!(ask(a), Verdict::InFlight);
        seen.settle(&[(id, a)]);
        assert_eq!(ask(a), Verdict::Duplicate);
        assert_eq!(ask(b), Verdict::Mismatch);
        assert_eq!(seen.count.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_did_not_reach_the_log_is_new_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = StateStore::open(dir.path()).unwrap();
        let seen = Seen::open(store, Duration::from_hours(24)).unwrap();
        let (id, now) = (Identity::of("t", &["1"]), Millis(1_000_000_000));
        let a = body(1);
        assert_eq!(seen.reserve(id, a, now).unwrap(), Verdict::New);
        seen.commit(&[(id, a)], now, drop);
        seen.reload().unwrap();
        seen.settle(&[(id, a)]);
        assert_eq!(seen.reserve(id, a, now).unwrap(), Verdict::New);
    }
}
