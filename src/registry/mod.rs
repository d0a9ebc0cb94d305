//! The schema registry of others (`schema_registry.url`): Confluent's protocol, read-only.
//!
//! Who asks never waits: a thread of its own fetches what was asked for, with a deadline for each try and pauses that grow, while the
//! partition that needs it stands still (`docs/decisions/0005`). A schema never changes, so it is kept for good, as many as [`KEPT`].
//! What a registry does not know, or what cannot be used, may be mended any time: that is asked for again, after pauses that grow
//! up to [`UNKNOWN_MOST`], and at once for a record that went back from the dead-letter queue.

mod client;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use client::{Client, RegistryError, Unavailable, Unfetched};

use crate::{
    base::{
        backoff::Backoff,
        clock::{Clock, Millis, SystemClock},
    },
    config::SecretUrl,
    envelope::{
        Invalid,
        foreign::{NoSchema, RedrivenAt, Schema, Schemas},
    },
    telemetry::metrics::SCHEMA_REGISTRY_FETCHES,
};

/// Schemas in memory, those counted that cannot be used.
const KEPT: usize = 4_096;
/// Ids that are being fetched; who asks for more asks again.
const WANTED: usize = 64;
/// For how long an id that the registry does not know is not asked for again, at first: it may be registered a little late.
const UNKNOWN_FIRST: Duration = Duration::from_secs(1);
/// And at most, where it stays unknown.
const UNKNOWN_MOST: Duration = Duration::from_secs(30);
/// The least time between two questions for one id, however many records go back with it.
const AGAIN: Duration = Duration::from_millis(100);
/// How far the clock that stamps records may be from this node's: a refusal that was asked for so much later than a record went back
/// counts for it.
const SKEW_MS: i64 = 5_000;
/// Records that went back, and were answered but did not come for the answer yet.
const ANSWERED: usize = 4_096;
/// What nobody has asked for during this time is fetched no more.
const FORGOTTEN: Duration = Duration::from_mins(1);
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(200),
    most: Duration::from_secs(5),
};
/// Parsing recurses over schemas that name each other.
const STACK: usize = 16 << 20;

/// A registry, with what was fetched from it. Dropping it ends its thread.
pub struct Registry {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    asked: Notify,
    stop: CancellationToken,
    fetched: [metrics::Counter; 3],
}

#[derive(Default)]
struct State {
    known: HashMap<u32, Known>,
    wanted: HashMap<u32, Wanted>,
    /// Counts uses, to find what was used least lately.
    uses: u64,
}

struct Known {
    answer: Answer,
    used: u64,
}

enum Answer {
    Schema(Arc<Schema>),
    Refused(Refusal),
}

/// The registry does not know it, or it cannot be used.
struct Refusal {
    why: Invalid,
    /// When the registry was asked, by this machine's clock.
    asked: Millis,
    /// Asked again after this time; `None`: only for records that go back. What cannot be used does not become better by itself.
    until: Option<Instant>,
    /// How often the answer was the same.
    times: u32,
    /// Records that went back before the registry was asked, and shall have this answer.
    answered: HashSet<u64>,
}

#[derive(Default)]
struct Wanted {
    asked: Option<Instant>,
    due: Option<Instant>,
    attempt: u32,
    /// Why the last try failed.
    trouble: Option<String>,
    /// Records that went back and wait for an answer.
    went_back: HashSet<u64>,
}

/// A question that is on its way to the registry.
struct Question {
    id: u32,
    asked: Millis,
    /// Those that had gone back by then.
    went_back: HashSet<u64>,
}

impl State {
    fn get(&mut self, id: u32, now: Instant) -> Option<Result<Arc<Schema>, NoSchema>> {
        match self.known(id)? {
            Answer::Schema(schema) => Some(Ok(Arc::clone(schema))),
            Answer::Refused(refusal) if refusal.until.is_some_and(|until| until <= now) => None,
            Answer::Refused(refusal) => Some(Err(NoSchema::Refused(refusal.why.clone()))),
        }
    }

    /// As [`Self::get`], for a record that went back: a refusal counts only if it was asked for since.
    fn get_again(
        &mut self,
        id: u32,
        went_back: RedrivenAt,
    ) -> Option<Result<Arc<Schema>, NoSchema>> {
        match self.known(id)? {
            Answer::Schema(schema) => Some(Ok(Arc::clone(schema))),
            Answer::Refused(refusal) => {
                let since = refusal.asked.0 >= went_back.at.0.saturating_add(SKEW_MS);
                let counts = refusal.answered.remove(&went_back.record) || since;
                counts.then(|| Err(NoSchema::Refused(refusal.why.clone())))
            }
        }
    }

    fn known(&mut self, id: u32) -> Option<&mut Answer> {
        self.uses += 1;
        let known = self.known.get_mut(&id)?;
        known.used = self.uses;
        Some(&mut known.answer)
    }

    /// Notes that an id is wanted; says why it is not there yet.
    fn want(&mut self, id: u32, went_back: Option<RedrivenAt>, now: Instant) -> String {
        if !self.wanted.contains_key(&id) {
            if self.wanted.len() >= WANTED {
                return format!("schema {id} will be asked for behind {WANTED} others");
            }
            self.wanted.insert(id, Wanted::default());
        }
        let wanted = self.wanted.entry(id).or_default();
        wanted.asked = Some(now);
        if let Some(went_back) = went_back
            && wanted.went_back.len() < ANSWERED
        {
            wanted.went_back.insert(went_back.record);
        }
        match &wanted.trouble {
            Some(trouble) => format!("schema {id} cannot be had: {trouble}"),
            None => format!("schema {id} is being asked for"),
        }
    }

    /// The id whose turn it is, and when.
    fn next(&mut self, now: Instant) -> Option<(u32, Instant)> {
        self.wanted.retain(|_, wanted| {
            wanted
                .asked
                .is_some_and(|asked| now.duration_since(asked) < FORGOTTEN)
        });
        let wanted = self.wanted.iter();
        let due = wanted.map(|(id, wanted)| (*id, wanted.due.unwrap_or(now)));
        due.min_by_key(|(_, due)| *due)
    }

    /// The question for an id, as it goes out.
    fn ask(&mut self, id: u32, asked: Millis) -> Question {
        let wanted = self.wanted.get_mut(&id);
        let went_back = wanted.map(|wanted| std::mem::take(&mut wanted.went_back));
        Question {
            id,
            asked,
            went_back: went_back.unwrap_or_default(),
        }
    }

    fn settle(&mut self, question: Question, fetched: Result<Schema, Unfetched>, now: Instant) {
        let Question {
            id,
            asked,
            went_back,
        } = question;
        let (why, comes_late) = match fetched {
            Ok(schema) => {
                self.wanted.remove(&id);
                return self.keep(id, Answer::Schema(Arc::new(schema)));
            }
            Err(Unfetched::Unusable(why)) => (why, false),
            Err(Unfetched::Unknown(why)) => (why, true),
            Err(Unfetched::Unavailable(why)) => {
                if let Some(wanted) = self.wanted.get_mut(&id) {
                    let pause = BACKOFF.pause(wanted.attempt);
                    tracing::warn!(id, error = %why, ?pause, "a schema cannot be had from the registry; it is tried again");
                    wanted.due = Some(now + pause);
                    wanted.attempt += 1;
                    wanted.trouble = Some(why.to_string());
                    wanted.went_back.extend(went_back);
                }
                return;
            }
        };
        // Those that came while it was being asked for may have gone back after the registry looked.
        match self.wanted.get_mut(&id) {
            Some(wanted) if !wanted.went_back.is_empty() => {
                wanted.due = Some(now + AGAIN);
                wanted.trouble = None;
            }
            _ => {
                self.wanted.remove(&id);
            }
        }
        let mut refusal = Refusal {
            why,
            asked,
            until: None,
            times: 0,
            answered: went_back,
        };
        if let Some(Answer::Refused(before)) = self.known(id) {
            refusal.times = before.times.saturating_add(1);
            refusal.answered.extend(before.answered.drain());
            if refusal.answered.len() > ANSWERED {
                // They ask again.
                refusal.answered.clear();
            }
        }
        if comes_late {
            let pause = UNKNOWN_FIRST * (1 << refusal.times.min(5));
            refusal.until = Some(now + pause.min(UNKNOWN_MOST));
        }
        self.keep(id, Answer::Refused(refusal));
    }

    fn keep(&mut self, id: u32, answer: Answer) {
        let full = self.known.len() >= KEPT && !self.known.contains_key(&id);
        let least = self.known.iter().min_by_key(|(_, known)| known.used);
        if let Some(least) = least.map(|(id, _)| *id).filter(|_| full) {
            self.known.remove(&least);
        }
        self.uses += 1;
        let used = self.uses;
        self.known.insert(id, Known { answer, used });
    }
}

impl Registry {
    /// Starts to fetch what is asked for. The URL must be one of `http://` or `https://`.
    pub fn start(url: &SecretUrl) -> Result<Self, RegistryError> {
        let client = Client::new(url)?;
        let counter = |outcome| SCHEMA_REGISTRY_FETCHES.counter(&[outcome]);
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            asked: Notify::new(),
            stop: CancellationToken::new(),
            fetched: ["ok", "refused", "away"].map(counter),
        });
        let there = Arc::clone(&shared);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(RegistryError::Start)?;
        std::thread::Builder::new()
            .name("schema-registry".into())
            .stack_size(STACK)
            .spawn(move || {
                runtime.block_on(there.run(&client));
                // A look-up of a name that hangs is not waited for.
                runtime.shutdown_background();
            })
            .map_err(RegistryError::Start)?;
        Ok(Self { shared })
    }

    /// What is wrong with it, as far as anything is waited for.
    pub fn trouble(&self) -> Option<String> {
        let mut state = self.shared.state.lock();
        state.next(Instant::now());
        let mut troubles = state.wanted.values().filter_map(|w| w.trouble.clone());
        troubles.next()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

impl Schemas for Registry {
    fn get(&self, id: u32) -> Result<Arc<Schema>, NoSchema> {
        self.shared.asked_for(id, None)
    }

    fn get_again(&self, id: u32, went_back: RedrivenAt) -> Result<Arc<Schema>, NoSchema> {
        self.shared.asked_for(id, Some(went_back))
    }
}

impl Shared {
    fn asked_for(&self, id: u32, went_back: Option<RedrivenAt>) -> Result<Arc<Schema>, NoSchema> {
        let now = Instant::now();
        let mut state = self.state.lock();
        let known = match went_back {
            None => state.get(id, now),
            Some(went_back) => state.get_again(id, went_back),
        };
        if let Some(answer) = known {
            return answer;
        }
        let why = state.want(id, went_back, now);
        drop(state);
        self.asked.notify_one();
        Err(NoSchema::Waiting(why))
    }

    /// Fetches what is wanted, one after another, until it is stopped.
    async fn run(&self, client: &Client) {
        let work = async {
            loop {
                let next = self.state.lock().next(Instant::now());
                match next {
                    None => self.asked.notified().await,
                    Some((_, due)) if due > Instant::now() => {
                        tokio::select! {
                            () = tokio::time::sleep_until(due.into()) => {}
                            () = self.asked.notified() => {}
                        }
                    }
                    Some((id, _)) => {
                        let question = self.state.lock().ask(id, SystemClock.now());
                        let fetched = client.schema(id).await;
                        let outcome = match &fetched {
                            Ok(_) => 0,
                            Err(Unfetched::Unknown(_) | Unfetched::Unusable(_)) => 1,
                            Err(Unfetched::Unavailable(_)) => 2,
                        };
                        self.fetched[outcome].increment(1);
                        self.state.lock().settle(question, fetched, Instant::now());
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

    fn unknown() -> Result<Schema, Unfetched> {
        Err(Unfetched::Unknown(Invalid::payload("no such schema")))
    }

    fn is_refused(answer: Option<Result<Arc<Schema>, NoSchema>>) -> bool {
        answer.is_some_and(|answer| matches!(answer, Err(NoSchema::Refused(_))))
    }

    impl State {
        fn answered(&mut self, id: u32, fetched: Result<Schema, Unfetched>, at: Millis) {
            let question = self.ask(id, at);
            self.settle(question, fetched, Instant::now());
        }
    }

    #[test]
    fn what_is_known_stays_until_there_is_too_much_of_it() {
        let mut state = State::default();
        let now = Instant::now();
        for id in 0..KEPT as u32 {
            state.answered(id, Ok(schema()), Millis(0));
        }
        assert!(state.get(0, now).unwrap().is_ok());
        state.answered(KEPT as u32, Ok(schema()), Millis(0));
        // The one that was used least lately made room.
        assert!(state.get(0, now).is_some());
        assert!(state.get(1, now).is_none());
        assert_eq!(state.known.len(), KEPT);
    }

    #[test]
    fn an_unknown_id_is_asked_for_again_later_and_later() {
        let mut state = State::default();
        let mut now = Instant::now();
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            state.want(7, None, now);
            let question = state.ask(7, Millis(0));
            state.settle(question, unknown(), now);
            let almost = Duration::from_millis(seconds * 1_000 - 1);
            assert!(is_refused(state.get(7, now + almost)), "{seconds}");
            now += Duration::from_secs(seconds);
            assert!(state.get(7, now).is_none(), "{seconds}");
        }
        // What cannot be used is not: no time makes it better.
        let unusable = Err(Unfetched::Unusable(Invalid::payload("Protobuf")));
        state.answered(8, unusable, Millis(0));
        assert!(is_refused(state.get(8, now + 100 * UNKNOWN_MOST)));
    }

    #[test]
    fn a_record_that_went_back_is_not_answered_from_memory() {
        let mut state = State::default();
        let now = Instant::now();
        let at = Millis(1_000_000);
        let went_back = |record| RedrivenAt { at, record };
        let unusable = || Err(Unfetched::Unusable(Invalid::payload("Protobuf")));
        for refused in [unknown, unusable] {
            state.want(7, None, now);
            state.answered(7, refused(), Millis(at.0 + 100));
            // However short before it was asked: clocks are not the same.
            assert!(state.get_again(7, went_back(1)).is_none());
            state.want(7, Some(went_back(1)), now);
            let question = state.ask(7, Millis(at.0 + 200));
            // This one comes while it is being asked for: it is asked for once more.
            assert!(state.get_again(7, went_back(2)).is_none());
            state.want(7, Some(went_back(2)), now);
            state.settle(question, refused(), now);
            assert!(is_refused(state.get_again(7, went_back(1))));
            assert!(state.get_again(7, went_back(2)).is_none());
            assert_eq!(state.next(now), Some((7, now + AGAIN)));
            state.answered(7, refused(), Millis(at.0 + 300));
            assert!(is_refused(state.get_again(7, went_back(2))));
            // An answer serves each record once, if there is nothing else to tell that it is newer.
            assert!(state.get_again(7, went_back(2)).is_none());
            state.want(7, None, now);
            state.answered(7, refused(), Millis(at.0 + SKEW_MS));
            assert!(is_refused(state.get_again(7, went_back(3))));
        }
        state.want(7, Some(went_back(4)), now);
        state.answered(7, Ok(schema()), at);
        assert!(state.get_again(7, went_back(4)).unwrap().is_ok());
    }

    #[test]
    fn what_cannot_be_had_is_tried_less_and_less_often_until_nobody_asks() {
        let mut state = State::default();
        let now = Instant::now();
        for id in 0..2 * WANTED as u32 {
            state.want(id, None, now);
        }
        assert_eq!(state.wanted.len(), WANTED);
        state.wanted.retain(|id, _| *id == 3);
        let went_back = RedrivenAt {
            at: Millis(0),
            record: 1,
        };
        state.want(3, Some(went_back), now);
        for _ in 0..20 {
            let question = state.ask(3, Millis(0));
            state.settle(
                question,
                Err(Unfetched::Unavailable(Unavailable::late())),
                now,
            );
        }
        let (id, due) = state.next(now).unwrap();
        assert_eq!(id, 3);
        assert!(due > now + BACKOFF.most / 3 && due <= now + BACKOFF.most);
        assert!(state.want(3, None, now).contains("did not answer"));
        // It is remembered for whom it is asked.
        assert_eq!(state.wanted[&3].went_back.len(), 1);
        assert!(state.next(now + FORGOTTEN).is_none());
    }
}
