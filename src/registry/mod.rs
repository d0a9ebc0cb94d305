//! The schema registry of others (`schema_registry.url`): Confluent's protocol, read-only.
//!
//! Who asks never waits: a thread of its own fetches what was asked for, with a deadline for each try and pauses that grow, while the
//! partition that needs it stands still (`docs/decisions/0005`). A schema never changes, so it is kept for good, as many as [`KEPT`].

mod client;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use client::{Client, Unfetched};

use crate::{
    backoff::Backoff,
    config::SecretUrl,
    envelope::{
        Invalid,
        foreign::{NoSchema, Schema, Schemas},
    },
    telemetry::metrics::SCHEMA_REGISTRY_FETCHES,
};

/// Schemas in memory, those counted that cannot be used.
const KEPT: usize = 4_096;
/// Ids that are being fetched; who asks for more asks again.
const WANTED: usize = 64;
/// For how long an id that the registry does not know is not asked for again: it may be registered late.
const UNKNOWN_FOR: Duration = Duration::from_secs(30);
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
    Refused(Invalid),
    /// The registry does not know it: asked again after this time.
    Unknown(Invalid, Instant),
}

struct Wanted {
    asked: Instant,
    due: Instant,
    attempt: u32,
    /// Why the last try failed.
    trouble: Option<String>,
}

impl State {
    fn get(&mut self, id: u32, now: Instant) -> Option<Result<Arc<Schema>, NoSchema>> {
        self.uses += 1;
        let known = self.known.get_mut(&id)?;
        known.used = self.uses;
        match &known.answer {
            Answer::Schema(schema) => Some(Ok(Arc::clone(schema))),
            Answer::Refused(why) => Some(Err(NoSchema::Refused(why.clone()))),
            Answer::Unknown(why, until) if now < *until => {
                Some(Err(NoSchema::Refused(why.clone())))
            }
            Answer::Unknown(..) => None,
        }
    }

    /// Notes that an id is wanted; says why it is not there yet.
    fn want(&mut self, id: u32, now: Instant) -> String {
        if !self.wanted.contains_key(&id) && self.wanted.len() < WANTED {
            let wanted = Wanted {
                asked: now,
                due: now,
                attempt: 0,
                trouble: None,
            };
            self.wanted.insert(id, wanted);
        }
        let Some(wanted) = self.wanted.get_mut(&id) else {
            return format!("schema {id} will be asked for behind {WANTED} others");
        };
        wanted.asked = now;
        match &wanted.trouble {
            Some(trouble) => format!("schema {id} cannot be had: {trouble}"),
            None => format!("schema {id} is being asked for"),
        }
    }

    /// The id whose turn it is, and when.
    fn next(&mut self, now: Instant) -> Option<(u32, Instant)> {
        self.wanted
            .retain(|_, wanted| now.duration_since(wanted.asked) < FORGOTTEN);
        let due = self.wanted.iter().map(|(id, wanted)| (*id, wanted.due));
        due.min_by_key(|(_, due)| *due)
    }

    fn settle(&mut self, id: u32, fetched: Result<Schema, Unfetched>, now: Instant) {
        let answer = match fetched {
            Ok(schema) => Answer::Schema(Arc::new(schema)),
            Err(Unfetched::Unusable(why)) => Answer::Refused(why),
            Err(Unfetched::Unknown(why)) => Answer::Unknown(why, now + UNKNOWN_FOR),
            Err(Unfetched::Away(why)) => {
                if let Some(wanted) = self.wanted.get_mut(&id) {
                    let pause = BACKOFF.pause(wanted.attempt);
                    tracing::warn!(id, error = %why, ?pause, "a schema cannot be had from the registry; it is tried again");
                    wanted.due = now + pause;
                    wanted.attempt += 1;
                    wanted.trouble = Some(why);
                }
                return;
            }
        };
        self.wanted.remove(&id);
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
    pub fn start(url: &SecretUrl) -> Result<Self, String> {
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
            .map_err(|e| format!("the runtime cannot be started: {e}"))?;
        std::thread::Builder::new()
            .name("schema-registry".into())
            .stack_size(STACK)
            .spawn(move || {
                runtime.block_on(there.run(&client));
                // A look-up of a name that hangs is not waited for.
                runtime.shutdown_background();
            })
            .map_err(|e| format!("a thread cannot be started: {e}"))?;
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
        let now = Instant::now();
        let mut state = self.shared.state.lock();
        if let Some(answer) = state.get(id, now) {
            return answer;
        }
        let why = state.want(id, now);
        drop(state);
        self.shared.asked.notify_one();
        Err(NoSchema::Waiting(why))
    }
}

impl Shared {
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
                        let fetched = client.schema(id).await;
                        let outcome = match &fetched {
                            Ok(_) => 0,
                            Err(Unfetched::Unknown(_) | Unfetched::Unusable(_)) => 1,
                            Err(Unfetched::Away(_)) => 2,
                        };
                        self.fetched[outcome].increment(1);
                        self.state.lock().settle(id, fetched, Instant::now());
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

    #[test]
    fn what_is_known_stays_until_there_is_too_much_of_it() {
        let mut state = State::default();
        let now = Instant::now();
        let schema = || Ok(Schema::parse("\"int\"", &[]).unwrap());
        for id in 0..KEPT as u32 {
            state.settle(id, schema(), now);
        }
        assert!(state.get(0, now).unwrap().is_ok());
        state.settle(KEPT as u32, schema(), now);
        // The one that was used least lately made room.
        assert!(state.get(0, now).is_some());
        assert!(state.get(1, now).is_none());
        assert_eq!(state.known.len(), KEPT);
    }

    #[test]
    fn an_unknown_id_is_asked_for_again_later() {
        let mut state = State::default();
        let now = Instant::now();
        state.want(7, now);
        let unknown = Unfetched::Unknown(Invalid::payload("no such schema"));
        state.settle(7, Err(unknown), now);
        assert!(matches!(state.get(7, now), Some(Err(NoSchema::Refused(_)))));
        assert!(state.get(7, now + UNKNOWN_FOR).is_none());
    }

    #[test]
    fn what_cannot_be_had_is_tried_less_and_less_often_until_nobody_asks() {
        let mut state = State::default();
        let now = Instant::now();
        for id in 0..2 * WANTED as u32 {
            state.want(id, now);
        }
        assert_eq!(state.wanted.len(), WANTED);
        state.wanted.retain(|id, _| *id == 3);
        for _ in 0..20 {
            state.settle(3, Err(Unfetched::Away("refused".into())), now);
        }
        let (id, due) = state.next(now).unwrap();
        assert_eq!(id, 3);
        assert!(due > now + BACKOFF.most / 3 && due <= now + BACKOFF.most);
        assert!(state.want(3, now).contains("refused"));
        assert!(state.next(now + FORGOTTEN).is_none());
    }
}
