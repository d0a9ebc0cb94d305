//! Identities in flight, and identities seen within the window. They decide whether an event is new, a duplicate, a mismatch (the same
//! identity with another body), or in flight.
//!
//! An identity is in flight from its reservation until it is known whether its record is durable. It is added to the window before its
//! record is passed to the log (on the embedded log in the same commit), so there is no moment when it is in neither.
//!
//! Most lookups are answered from memory. A lookup that needs the disk is done without any lock and does not block the threads that serve
//! other requests; afterwards memory is checked again.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};

use crate::{
    base::{
        clock::Millis,
        id::{Identity, IdentityMap},
    },
    envelope::{BodyHash, StoredHash},
    state::{Changes, Located, Page, Space, StateError, StateStore, Window, WindowOptions},
};

/// After an event was in flight for this long, the same event is appended again under the same id, because the node that wrote it first
/// may have died.
pub(crate) const REWRITE_AFTER: Duration = Duration::from_secs(10);
/// The maximum number of identities in flight.
const IN_FLIGHT_MAX: usize = 65_536;
/// The number of identities in memory before they are written to disk as a sorted run; a map of 2^18 slots holds little more.
const SEAL_AT: usize = 220_000;
const SHARDS: usize = 64;

/// What is known about an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Never seen; it is now reserved.
    New,
    /// Seen with the same body.
    Duplicate,
    /// Seen with another body.
    Mismatch,
    /// The same event is being appended.
    InFlight,
    /// Too many identities are in flight.
    Full,
}

/// The identities in flight, and those seen.
pub(crate) struct Seen {
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

enum Judged {
    Verdict(Verdict),
    /// The answer depends on these pages, at least one of which was not read yet.
    OnDisk(Vec<Page>),
}

fn compare(seen: StoredHash, body: BodyHash) -> Verdict {
    if body.matches(&seen) {
        Verdict::Duplicate
    } else {
        Verdict::Mismatch
    }
}

fn find(pages: &[Page], id: &Identity) -> Result<Option<StoredHash>, StateError> {
    for page in pages {
        if let Some(seen) = page.find(id)? {
            return Ok(Some(seen));
        }
    }
    Ok(None)
}

/// Runs work that may wait for the disk, while other threads take over this thread's tasks.
fn blocking<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        // There is no other worker thread, or this is not a task.
        _ => work(),
    }
}

fn space() -> Space {
    Space::new("port", 0)
}

impl Seen {
    /// Restores the window.
    pub(crate) fn open(store: StateStore, window: Duration) -> Result<Self, StateError> {
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
        // The map itself uses the first bytes.
        self.shards[usize::from(id.0[15]) % SHARDS].lock()
    }

    /// Checks an identity, and reserves it if it is new.
    pub(crate) fn reserve(
        &self,
        id: Identity,
        body: BodyHash,
        now: Millis,
    ) -> Result<Verdict, StateError> {
        let mut read: Vec<Page> = Vec::new();
        loop {
            let mut pages = match self.judge(id, body, now, &read) {
                Judged::Verdict(verdict) => return Ok(verdict),
                Judged::OnDisk(pages) => pages,
            };
            pages.retain(|page| !read.iter().any(|known| known.is(page)));
            if let Some(seen) = blocking(|| find(&pages, &id))? {
                return Ok(compare(seen, body));
            }
            read.append(&mut pages);
        }
    }

    /// Decides from memory, given the pages that were already read without a match.
    fn judge(&self, id: Identity, body: BodyHash, now: Millis, read: &[Page]) -> Judged {
        let mut shard = self.shard(&id);
        if let Some(flight) = shard.get_mut(&id) {
            if !flight.body.is_same(&body) {
                return Judged::Verdict(Verdict::Mismatch);
            }
            if flight.since.elapsed() < REWRITE_AFTER {
                return Judged::Verdict(Verdict::InFlight);
            }
            flight.since = Instant::now();
            return Judged::Verdict(Verdict::New);
        }
        let located = self.window.lock().locate(&id, now);
        match located {
            Located::Here(seen) => return Judged::Verdict(compare(seen, body)),
            Located::OnDisk(pages) if !pages.iter().all(|page| read.iter().any(|r| r.is(page))) => {
                return Judged::OnDisk(pages);
            }
            Located::OnDisk(_) | Located::Nowhere => {}
        }
        if self.count.load(Ordering::Relaxed) >= IN_FLIGHT_MAX {
            return Judged::Verdict(Verdict::Full);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        let since = Instant::now();
        shard.insert(id, Flight { body, since });
        Judged::Verdict(Verdict::New)
    }

    /// Adds reserved identities to the window and passes the change to `append`, which must pass it to the log at once: changes must
    /// reach the log in the order in which they were made.
    pub(crate) fn commit<R>(
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

    /// Ends the flight of these identities: they are in the window, or (after [`Seen::reload`]) unknown again.
    pub(crate) fn settle(&self, ids: &[(Identity, BodyHash)]) {
        for (id, _) in ids {
            if self.shard(id).remove(id).is_some() {
                self.count.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Restores the window after a change did not reach the log. No append may be in progress.
    pub(crate) fn reload(&self) -> Result<(), StateError> {
        let window = Window::load(&self.store, space(), self.options)?;
        *self.window.lock() = window;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(n: u8) -> BodyHash {
        let tenant = crate::base::id::Tenant::new("acme").unwrap();
        let text = format!(r#"{{"id":"1","source":"/s","type":"t","data":{n}}}"#);
        let form = crate::envelope::Form::OmniLink;
        let parsed = crate::envelope::parse_structured(text.as_bytes(), form, &tenant, Millis(1));
        parsed.unwrap().body_hash
    }

    /// A hash that an earlier version stored in the window is compared as that version computed it.
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

    /// Identities on disk are found there without blocking others, and a new identity is recognized however many pages may contain it.
    #[test]
    fn what_is_on_disk_is_read_without_a_lock() {
        let dir = tempfile::tempdir().unwrap();
        let store = StateStore::open(dir.path()).unwrap();
        let now = Millis(1_000_000_000);
        let options = WindowOptions {
            window_ms: 3_600_000,
            payload: size_of::<StoredHash>(),
            seal_at: 32,
        };
        let id = |n: u32| Identity::of("t", &[&n.to_string()]);
        let seen = Seen {
            shards: std::array::from_fn(|_| Mutex::default()),
            count: AtomicUsize::new(0),
            window: Mutex::new(Window::load(&store, space(), options).unwrap()),
            store: store.clone(),
            options,
        };
        for n in 0..2000 {
            let reserved = [(id(n), body(1))];
            assert_eq!(seen.reserve(id(n), body(1), now).unwrap(), Verdict::New);
            seen.commit(&reserved, now, |changes| store.apply(&changes, &[]))
                .unwrap();
            seen.settle(&reserved);
        }
        let on_disk =
            |n: &u32| matches!(seen.window.lock().locate(&id(*n), now), Located::OnDisk(_));
        let old: Vec<u32> = (0..2000).filter(on_disk).collect();
        assert!(old.len() > 500, "{}", old.len());
        let mut rounds = 0;
        for n in &old {
            let Judged::OnDisk(pages) = seen.judge(id(*n), body(1), now, &[]) else {
                panic!("{n} is on disk");
            };
            // Neither lock is held.
            assert!(
                seen.window.try_lock().is_some()
                    && seen.shards.iter().all(|s| s.try_lock().is_some())
            );
            rounds += pages.len();
            assert_eq!(
                seen.reserve(id(*n), body(1), now).unwrap(),
                Verdict::Duplicate
            );
            assert_eq!(
                seen.reserve(id(*n), body(2), now).unwrap(),
                Verdict::Mismatch
            );
        }
        assert!(rounds >= old.len());
        for n in 2000..6000 {
            assert_eq!(seen.reserve(id(n), body(1), now).unwrap(), Verdict::New);
            assert_eq!(
                seen.reserve(id(n), body(1), now).unwrap(),
                Verdict::InFlight
            );
        }
    }
}
