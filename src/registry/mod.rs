//! An external schema registry (`schema_registry.url`): Confluent's protocol, read-only.
//!
//! Lookups never block: a background thread fetches the requested schemas, with a timeout for each attempt and exponential backoff,
//! while the partition that needs the schema is paused (`docs/decisions/0005`). A schema never changes, so it is cached until the
//! cache is full ([`MAX_CACHED`], least recently used first). A refusal (an unknown id, an unusable schema) may be fixed at any time:
//! an unknown id is queried again after pauses that grow up to [`UNKNOWN_RETRY_MAX`], and every refusal is queried again for a record
//! that was redriven from the dead-letter queue.

mod client;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use client::{Client, FetchError, RegistryError, Unavailable};

use crate::{
    base::{
        backoff::Backoff,
        clock::{Clock, Millis, SystemClock},
    },
    config::SecretUrl,
    envelope::{
        Invalid,
        foreign::{RedrivenRecord, Schema, SchemaError, Schemas},
    },
    telemetry::metrics::SCHEMA_REGISTRY_FETCHES,
};

/// The most answers in memory, refusals included.
const MAX_CACHED: usize = 4_096;
/// The most ids that are being fetched at a time; callers ask for further ids again later.
const MAX_PENDING: usize = 64;
/// The first pause before an unknown id is queried again: it may be registered a little late.
const UNKNOWN_RETRY_FIRST: Duration = Duration::from_secs(1);
/// The longest pause between queries for an id that stays unknown.
const UNKNOWN_RETRY_MAX: Duration = Duration::from_secs(30);
/// The minimum pause between two queries for one id, however many redriven records need it.
const REQUERY_PAUSE: Duration = Duration::from_millis(100);
/// The assumed maximum skew between the clock that timestamps records and this node's: a refusal queried that much later than a record
/// was redriven applies to the record.
const CLOCK_SKEW_MS: i64 = 5_000;
/// The most redriven records that are tracked for one id.
const MAX_REDRIVEN: usize = 4_096;
/// An id that no caller has requested for this long is no longer fetched.
const FORGET_AFTER: Duration = Duration::from_mins(1);
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(200),
    max: Duration::from_secs(5),
};
/// The stack of the thread: parsing recurses over schemas that reference each other.
const STACK_BYTES: usize = 16 << 20;

/// A schema registry with a cache of its answers. Dropping it stops its thread.
pub struct Registry {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    requested: Notify,
    stop: CancellationToken,
    /// By outcome: ok, refused, away.
    fetches: [metrics::Counter; 3],
}

#[derive(Default)]
struct State {
    cache: HashMap<u32, Cached>,
    pending: HashMap<u32, Pending>,
    /// A logical clock of cache uses, for evicting the least recently used answer.
    uses: u64,
}

struct Cached {
    answer: Answer,
    last_used: u64,
}

enum Answer {
    Schema(Arc<Schema>),
    Refused(Refusal),
}

/// The id is unknown to the registry, or its schema cannot be used.
struct Refusal {
    reason: Invalid,
    /// When the registry was queried, by this node's clock.
    queried_at: Millis,
    /// When it is queried again. `None`: only for redriven records, because an unusable schema stays unusable until someone acts.
    retry_at: Option<Instant>,
    /// How many refusals in a row preceded this one.
    repeats: u32,
    /// Redriven records that this refusal answers: they were waiting when the query was sent.
    answers: HashSet<u64>,
}

#[derive(Default)]
struct Pending {
    /// When a caller last requested the id.
    requested_at: Option<Instant>,
    /// When the registry may be queried; `None`: at once.
    due: Option<Instant>,
    attempt: u32,
    /// Why the last attempt failed.
    last_error: Option<String>,
    /// Redriven records that wait for an answer.
    redriven: HashSet<u64>,
}

/// A query in flight.
struct Query {
    id: u32,
    /// When it was sent, by this node's clock.
    sent_at: Millis,
    /// The redriven records that were waiting when it was sent.
    redriven: HashSet<u64>,
}

impl State {
    fn get(&mut self, id: u32, now: Instant) -> Option<Result<Arc<Schema>, SchemaError>> {
        match self.cached(id)? {
            Answer::Schema(schema) => Some(Ok(Arc::clone(schema))),
            Answer::Refused(refusal) if refusal.retry_at.is_some_and(|at| at <= now) => None,
            Answer::Refused(refusal) => Some(Err(SchemaError::Refused(refusal.reason.clone()))),
        }
    }

    /// Like [`Self::get`], for a redriven record: a refusal applies only if the registry was queried after the redrive.
    fn get_for_redriven(
        &mut self,
        id: u32,
        redriven: RedrivenRecord,
    ) -> Option<Result<Arc<Schema>, SchemaError>> {
        match self.cached(id)? {
            Answer::Schema(schema) => Some(Ok(Arc::clone(schema))),
            Answer::Refused(refusal) => {
                let is_newer =
                    refusal.queried_at.0 >= redriven.appended_at.0.saturating_add(CLOCK_SKEW_MS);
                let applies = refusal.answers.remove(&redriven.hash) || is_newer;
                applies.then(|| Err(SchemaError::Refused(refusal.reason.clone())))
            }
        }
    }

    fn cached(&mut self, id: u32) -> Option<&mut Answer> {
        self.uses += 1;
        let cached = self.cache.get_mut(&id)?;
        cached.last_used = self.uses;
        Some(&mut cached.answer)
    }

    /// Records that an id is needed. Returns why the schema is not there yet, for the status of the processor that waits.
    fn request(&mut self, id: u32, redriven: Option<RedrivenRecord>, now: Instant) -> String {
        if !self.pending.contains_key(&id) {
            if self.pending.len() >= MAX_PENDING {
                return format!("schema {id} waits for {MAX_PENDING} others to be fetched");
            }
            self.pending.insert(id, Pending::default());
        }
        let pending = self.pending.entry(id).or_default();
        pending.requested_at = Some(now);
        if let Some(redriven) = redriven
            && pending.redriven.len() < MAX_REDRIVEN
        {
            pending.redriven.insert(redriven.hash);
        }
        match &pending.last_error {
            Some(error) => format!("schema {id} cannot be fetched: {error}"),
            None => format!("schema {id} is being fetched"),
        }
    }

    /// The id to query next, and when. Forgets ids that are no longer requested.
    fn next_due(&mut self, now: Instant) -> Option<(u32, Instant)> {
        self.pending.retain(|_, pending| {
            pending
                .requested_at
                .is_some_and(|at| now.duration_since(at) < FORGET_AFTER)
        });
        let pending = self.pending.iter();
        let due = pending.map(|(id, pending)| (*id, pending.due.unwrap_or(now)));
        due.min_by_key(|(_, due)| *due)
    }

    fn start_query(&mut self, id: u32, sent_at: Millis) -> Query {
        let pending = self.pending.get_mut(&id);
        let redriven = pending.map(|pending| std::mem::take(&mut pending.redriven));
        Query {
            id,
            sent_at,
            redriven: redriven.unwrap_or_default(),
        }
    }

    fn finish_query(&mut self, query: Query, fetched: Result<Schema, FetchError>, now: Instant) {
        let Query {
            id,
            sent_at,
            redriven,
        } = query;
        let (reason, may_be_registered) = match fetched {
            Ok(schema) => {
                self.pending.remove(&id);
                return self.insert(id, Answer::Schema(Arc::new(schema)));
            }
            Err(FetchError::Unusable(reason)) => (reason, false),
            Err(FetchError::Unknown(reason)) => (reason, true),
            Err(FetchError::Unavailable(error)) => {
                if let Some(pending) = self.pending.get_mut(&id) {
                    let pause = BACKOFF.pause(pending.attempt);
                    tracing::warn!(id, %error, ?pause, "fetching a schema from the registry failed; retrying");
                    pending.due = Some(now + pause);
                    pending.attempt += 1;
                    pending.last_error = Some(error.to_string());
                    pending.redriven.extend(redriven);
                }
                return;
            }
        };
        // Records that arrived while the query was in flight may have been redriven after the registry answered.
        match self.pending.get_mut(&id) {
            Some(pending) if !pending.redriven.is_empty() => {
                pending.due = Some(now + REQUERY_PAUSE);
                pending.last_error = None;
            }
            _ => {
                self.pending.remove(&id);
            }
        }
        let mut refusal = Refusal {
            reason,
            queried_at: sent_at,
            retry_at: None,
            repeats: 0,
            answers: redriven,
        };
        if let Some(Answer::Refused(previous)) = self.cached(id) {
            refusal.repeats = previous.repeats.saturating_add(1);
            refusal.answers.extend(previous.answers.drain());
            if refusal.answers.len() > MAX_REDRIVEN {
                // These records request the schema again.
                refusal.answers.clear();
            }
        }
        if may_be_registered {
            let pause = UNKNOWN_RETRY_FIRST * (1 << refusal.repeats.min(5));
            refusal.retry_at = Some(now + pause.min(UNKNOWN_RETRY_MAX));
        }
        self.insert(id, Answer::Refused(refusal));
    }

    fn insert(&mut self, id: u32, answer: Answer) {
        if self.cache.len() >= MAX_CACHED && !self.cache.contains_key(&id) {
            let oldest = self.cache.iter().min_by_key(|(_, cached)| cached.last_used);
            if let Some(oldest) = oldest.map(|(id, _)| *id) {
                self.cache.remove(&oldest);
            }
        }
        self.uses += 1;
        let last_used = self.uses;
        self.cache.insert(id, Cached { answer, last_used });
    }
}

impl Registry {
    /// Starts the thread that fetches requested schemas. The URL must begin with `http://` or `https://`.
    pub fn start(url: &SecretUrl) -> Result<Self, RegistryError> {
        let client = Client::new(url)?;
        let counter = |outcome| SCHEMA_REGISTRY_FETCHES.counter(&[outcome]);
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            requested: Notify::new(),
            stop: CancellationToken::new(),
            fetches: ["ok", "refused", "away"].map(counter),
        });
        let worker = Arc::clone(&shared);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(RegistryError::Start)?;
        std::thread::Builder::new()
            .name("schema-registry".into())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                runtime.block_on(worker.run(&client));
                // Do not wait for a DNS lookup that hangs.
                runtime.shutdown_background();
            })
            .map_err(RegistryError::Start)?;
        Ok(Self { shared })
    }

    /// Why a schema that is still requested could not be fetched; `None` if no fetch has failed.
    pub fn last_error(&self) -> Option<String> {
        let mut state = self.shared.state.lock();
        // Drops ids that are no longer requested.
        state.next_due(Instant::now());
        state.pending.values().find_map(|p| p.last_error.clone())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

impl Schemas for Registry {
    fn get(&self, id: u32) -> Result<Arc<Schema>, SchemaError> {
        self.shared.get_or_request(id, None)
    }

    fn get_for_redriven(
        &self,
        id: u32,
        redriven: RedrivenRecord,
    ) -> Result<Arc<Schema>, SchemaError> {
        self.shared.get_or_request(id, Some(redriven))
    }
}

impl Shared {
    fn get_or_request(
        &self,
        id: u32,
        redriven: Option<RedrivenRecord>,
    ) -> Result<Arc<Schema>, SchemaError> {
        let now = Instant::now();
        let mut state = self.state.lock();
        let cached = match redriven {
            None => state.get(id, now),
            Some(redriven) => state.get_for_redriven(id, redriven),
        };
        if let Some(answer) = cached {
            return answer;
        }
        let why = state.request(id, redriven, now);
        drop(state);
        self.requested.notify_one();
        Err(SchemaError::Waiting(why))
    }

    /// Fetches pending schemas one after another, until stopped.
    async fn run(&self, client: &Client) {
        let work = async {
            loop {
                let next = self.state.lock().next_due(Instant::now());
                match next {
                    None => self.requested.notified().await,
                    Some((_, due)) if due > Instant::now() => {
                        tokio::select! {
                            () = tokio::time::sleep_until(due.into()) => {}
                            () = self.requested.notified() => {}
                        }
                    }
                    Some((id, _)) => {
                        let query = self.state.lock().start_query(id, SystemClock.now());
                        let fetched = client.schema(id).await;
                        let outcome = match &fetched {
                            Ok(_) => 0,
                            Err(FetchError::Unknown(_) | FetchError::Unusable(_)) => 1,
                            Err(FetchError::Unavailable(_)) => 2,
                        };
                        self.fetches[outcome].increment(1);
                        self.state
                            .lock()
                            .finish_query(query, fetched, Instant::now());
                    }
                }
            }
        };
        tokio::select! {
            () = work => {}
            () = self.stop.cancelled() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> Schema {
        Schema::parse("\"int\"", &[]).unwrap()
    }

    fn unknown() -> Result<Schema, FetchError> {
        Err(FetchError::Unknown(Invalid::payload("no such schema")))
    }

    fn is_refused(answer: Option<Result<Arc<Schema>, SchemaError>>) -> bool {
        answer.is_some_and(|answer| matches!(answer, Err(SchemaError::Refused(_))))
    }

    impl State {
        /// Starts and finishes a query.
        fn fetched(&mut self, id: u32, fetched: Result<Schema, FetchError>, sent_at: Millis) {
            let query = self.start_query(id, sent_at);
            self.finish_query(query, fetched, Instant::now());
        }
    }

    #[test]
    fn the_least_recently_used_answer_is_evicted() {
        let mut state = State::default();
        let now = Instant::now();
        for id in 0..MAX_CACHED as u32 {
            state.fetched(id, Ok(schema()), Millis(0));
        }
        assert!(state.get(0, now).unwrap().is_ok());
        state.fetched(MAX_CACHED as u32, Ok(schema()), Millis(0));
        // Schema 1 is now the least recently used.
        assert!(state.get(0, now).is_some());
        assert!(state.get(1, now).is_none());
        assert_eq!(state.cache.len(), MAX_CACHED);
    }

    #[test]
    fn an_unknown_id_is_queried_again_after_growing_pauses() {
        let mut state = State::default();
        let mut now = Instant::now();
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            state.request(7, None, now);
            let query = state.start_query(7, Millis(0));
            state.finish_query(query, unknown(), now);
            let almost = Duration::from_millis(seconds * 1_000 - 1);
            assert!(is_refused(state.get(7, now + almost)), "{seconds}");
            now += Duration::from_secs(seconds);
            assert!(state.get(7, now).is_none(), "{seconds}");
        }
        // An unusable schema is not queried again, however much time passes.
        let unusable = Err(FetchError::Unusable(Invalid::payload("Protobuf")));
        state.fetched(8, unusable, Millis(0));
        assert!(is_refused(state.get(8, now + 100 * UNKNOWN_RETRY_MAX)));
    }

    #[test]
    fn a_redriven_record_is_not_answered_from_the_cache() {
        let mut state = State::default();
        let now = Instant::now();
        let at = Millis(1_000_000);
        let redriven = |hash| RedrivenRecord {
            appended_at: at,
            hash,
        };
        let unusable = || Err(FetchError::Unusable(Invalid::payload("Protobuf")));
        for refused in [unknown, unusable] {
            state.request(7, None, now);
            state.fetched(7, refused(), Millis(at.0 + 100));
            // A refusal within the clock skew of the redrive does not apply.
            assert!(state.get_for_redriven(7, redriven(1)).is_none());
            state.request(7, Some(redriven(1)), now);
            let query = state.start_query(7, Millis(at.0 + 200));
            // A record that arrives while the query is in flight needs another query.
            assert!(state.get_for_redriven(7, redriven(2)).is_none());
            state.request(7, Some(redriven(2)), now);
            state.finish_query(query, refused(), now);
            assert!(is_refused(state.get_for_redriven(7, redriven(1))));
            assert!(state.get_for_redriven(7, redriven(2)).is_none());
            assert_eq!(state.next_due(now), Some((7, now + REQUERY_PAUSE)));
            state.fetched(7, refused(), Millis(at.0 + 300));
            assert!(is_refused(state.get_for_redriven(7, redriven(2))));
            // Within the clock skew, a refusal answers each record only once.
            assert!(state.get_for_redriven(7, redriven(2)).is_none());
            state.request(7, None, now);
            state.fetched(7, refused(), Millis(at.0 + CLOCK_SKEW_MS));
            assert!(is_refused(state.get_for_redriven(7, redriven(3))));
        }
        state.request(7, Some(redriven(4)), now);
        state.fetched(7, Ok(schema()), at);
        assert!(state.get_for_redriven(7, redriven(4)).unwrap().is_ok());
    }

    #[test]
    fn failed_fetches_are_retried_with_backoff_until_no_longer_requested() {
        let mut state = State::default();
        let now = Instant::now();
        for id in 0..2 * MAX_PENDING as u32 {
            state.request(id, None, now);
        }
        assert_eq!(state.pending.len(), MAX_PENDING);
        state.pending.retain(|id, _| *id == 3);
        let redriven = RedrivenRecord {
            appended_at: Millis(0),
            hash: 1,
        };
        state.request(3, Some(redriven), now);
        for _ in 0..20 {
            let query = state.start_query(3, Millis(0));
            state.finish_query(
                query,
                Err(FetchError::Unavailable(Unavailable::timed_out())),
                now,
            );
        }
        let (id, due) = state.next_due(now).unwrap();
        assert_eq!(id, 3);
        assert!(due > now + BACKOFF.max / 3 && due <= now + BACKOFF.max);
        assert!(state.request(3, None, now).contains("did not answer"));
        // Failed attempts keep the redriven records that wait.
        assert_eq!(state.pending[&3].redriven.len(), 1);
        assert!(state.next_due(now + FORGET_AFTER).is_none());
    }
}
