//! Fetches the key set of an issuer: periodically, and when a token refers to an unknown key. During an outage the last valid set stays
//! in use for a day.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper::{Request, StatusCode, header::ACCEPT};
use parking_lot::RwLock;
use sha2::{Digest, Sha256};
use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
};

use super::key_set::{KeySet, KeySetError};
use crate::{
    base::backoff::Backoff,
    config::Jwks,
    http::{Client, NoRoots, Options, Reach, RequestError},
    telemetry::metrics::JWKS_FETCHES,
};

/// The time limit of a fetch.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The size limit of a set, in bytes.
const MAX_BYTES: usize = 1 << 20;
/// The intervals of all sources.
const TIMES: Times = Times {
    refresh: Duration::from_mins(5),
    unknown_key_interval: Duration::from_mins(1),
    outage: Duration::from_hours(24),
};
/// Pauses between attempts while fetches fail.
const BACKOFF: Backoff = Backoff {
    first: Duration::from_secs(1),
    max: Duration::from_mins(1),
};

#[derive(Clone, Copy)]
struct Times {
    /// How often a set is fetched; a tenth of it is jitter.
    refresh: Duration,
    /// The minimum time between fetches because of unknown keys.
    unknown_key_interval: Duration,
    /// How long the last valid set stays in use.
    outage: Duration,
}

/// Why a key set could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No request can be built from the URL, although the configuration was checked.
    #[error("the request is invalid: {0}")]
    Request(#[from] hyper::http::Error),
    /// There was no answer.
    #[error(transparent)]
    Http(#[from] RequestError),
    /// The answer was not 200.
    #[error("it answered {0}")]
    Status(StatusCode),
    /// The file cannot be read.
    #[error("it cannot be read: {0}")]
    File(#[from] std::io::Error),
    /// The file is too large for a key set.
    #[error("it has more than {MAX_BYTES} bytes")]
    TooLarge,
    /// The content is not a usable key set.
    #[error(transparent)]
    KeySet(#[from] KeySetError),
}

/// The key set of an issuer, and the task that fetches it. Dropping this ends the task.
pub(super) struct Source {
    shared: Arc<Shared>,
    task: AbortHandle,
}

struct Shared {
    jwks: Jwks,
    http: Client,
    times: Times,
    state: RwLock<State>,
    /// Notified when a token refers to an unknown key.
    requested: Notify,
    /// The number of fetches that have ended.
    ended: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    current: Option<CurrentSet>,
    /// Why the last fetch failed.
    error: Option<String>,
    /// Whether a fetch is in progress.
    fetching: bool,
    /// When a fetch was last requested because of an unknown key.
    requested_at: Option<Instant>,
}

struct CurrentSet {
    set: Arc<KeySet>,
    /// The SHA-256 of the text.
    hash: [u8; 32],
    /// Incremented when the text changes.
    generation: u64,
    fetched_at: Instant,
}

impl Drop for Source {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Source {
    /// Starts fetching, on the current runtime.
    pub(super) fn start(jwks: &Jwks) -> Result<Self, NoRoots> {
        Self::start_with(jwks, TIMES)
    }

    fn start_with(jwks: &Jwks, times: Times) -> Result<Self, NoRoots> {
        let shared = Arc::new(Shared {
            jwks: jwks.clone(),
            http: client(jwks)?,
            times,
            state: RwLock::new(State {
                fetching: true,
                ..State::default()
            }),
            requested: Notify::new(),
            ended: watch::Sender::new(0),
        });
        let task = tokio::spawn(Arc::clone(&shared).run()).abort_handle();
        Ok(Self { shared, task })
    }

    /// The set in use and its generation.
    pub(super) fn current(&self) -> Option<(Arc<KeySet>, u64)> {
        let state = self.shared.state.read();
        let good = self.shared.serving(&state)?;
        Some((Arc::clone(&good.set), good.generation))
    }

    /// The generation of the set in use.
    pub(super) fn generation(&self) -> Option<u64> {
        let state = self.shared.state.read();
        self.shared.serving(&state).map(|good| good.generation)
    }

    /// Called when a token refers to an unknown key: waits for the fetch in progress, or for a new one. Returns false if there was one
    /// for this reason shortly before.
    pub(super) async fn fetch_again(&self) -> bool {
        let shared = &self.shared;
        let mut ended = shared.ended.subscribe();
        {
            let mut state = shared.state.write();
            if !state.fetching {
                let recently = |at: Instant| at.elapsed() < shared.times.unknown_key_interval;
                if state.requested_at.is_some_and(recently) {
                    return false;
                }
                state.requested_at = Some(Instant::now());
                state.fetching = true;
                shared.requested.notify_one();
            }
        }
        tokio::time::timeout(2 * TIMEOUT, ended.changed())
            .await
            .is_ok()
    }

    /// The last error, and whether a set is in use nevertheless.
    pub(super) fn trouble(&self) -> Option<(String, bool)> {
        let state = self.shared.state.read();
        let serves = self.shared.serving(&state).is_some();
        match &state.error {
            Some(error) => Some((error.clone(), serves)),
            None if serves => None,
            None => Some(("its key set is being fetched".into(), true)),
        }
    }
}

impl Shared {
    async fn run(self: Arc<Self>) {
        let mut failures = 0;
        loop {
            self.state.write().fetching = true;
            let fetched = fetch(&self.http, &self.jwks).await;
            let result = if fetched.is_ok() { "ok" } else { "failed" };
            JWKS_FETCHES.counter(&[result]).increment(1);
            let pause = match &fetched {
                Ok(_) => {
                    failures = 0;
                    self.times
                        .refresh
                        .mul_f64(1.0 - rand::random::<f64>() / 10.0)
                }
                Err(error) => {
                    tracing::warn!(%error, jwks = String::from(self.jwks.clone()), "a key set cannot be fetched; trying again");
                    failures += 1;
                    BACKOFF.pause(failures - 1)
                }
            };
            self.keep(fetched);
            self.ended.send_modify(|count| *count += 1);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.requested.notified() => {}
            }
        }
    }

    fn keep(&self, fetched: Result<(KeySet, [u8; 32]), FetchError>) {
        let mut state = self.state.write();
        state.fetching = false;
        match fetched {
            Err(error) => state.error = Some(error.to_string()),
            Ok((set, hash)) => {
                state.error = None;
                let before = state.current.take();
                let generation = match &before {
                    Some(good) if good.hash == hash => good.generation,
                    Some(good) => good.generation + 1,
                    None => 0,
                };
                state.current = Some(CurrentSet {
                    set: Arc::new(set),
                    hash,
                    generation,
                    fetched_at: Instant::now(),
                });
            }
        }
    }

    fn serving<'s>(&self, state: &'s State) -> Option<&'s CurrentSet> {
        let good = state.current.as_ref()?;
        (good.fetched_at.elapsed() < self.times.outage).then_some(good)
    }
}

/// A configured server is allowed to have a private address.
fn client(jwks: &Jwks) -> Result<Client, NoRoots> {
    let client = Client::new(Options {
        connect_timeout: TIMEOUT / 2,
        timeout: TIMEOUT,
        max_body_bytes: MAX_BYTES,
        reach: Reach::Configured,
    });
    if matches!(jwks, Jwks::Url(url) if url.starts_with("https:")) {
        client.check_tls()?;
    }
    Ok(client)
}

async fn fetch(http: &Client, jwks: &Jwks) -> Result<(KeySet, [u8; 32]), FetchError> {
    let text = match jwks {
        Jwks::Url(url) => {
            let request =
                Request::get(url).header(ACCEPT, "application/json, application/jwk-set+json");
            let response = http.send(request.body(Bytes::new())?).await?;
            if response.status() != StatusCode::OK {
                return Err(FetchError::Status(response.status()));
            }
            response.into_body()
        }
        Jwks::File(path) => {
            if tokio::fs::metadata(path).await?.len() > MAX_BYTES as u64 {
                return Err(FetchError::TooLarge);
            }
            tokio::fs::read(path).await?.into()
        }
    };
    Ok((KeySet::parse(&text)?, Sha256::digest(&text).into()))
}

/// Whether a key set can be fetched.
pub async fn probe(jwks: &Jwks) -> Result<(), FetchError> {
    let client = client(jwks).map_err(RequestError::NoRoots)?;
    fetch(&client, jwks).await.map(drop)
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use jsonwebtoken::Algorithm;

    use super::*;

    fn set_of(ids: &[&str]) -> String {
        let key = |id: &&str| {
            let x = URL_SAFE_NO_PAD.encode([7; 32]);
            format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}","kid":"{id}"}}"#)
        };
        format!(
            r#"{{"keys":[{}]}}"#,
            ids.iter().map(key).collect::<Vec<_>>().join(",")
        )
    }

    fn has(source: &Source, id: &str) -> bool {
        let current = source.current();
        current.is_some_and(|(set, _)| set.find(Some(id), Algorithm::EdDSA).is_some())
    }

    #[tokio::test]
    async fn the_last_good_set_serves_an_outage_and_unknown_keys_fetch_it_at_most_so_often() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys.json");
        std::fs::write(&file, set_of(&["one"])).unwrap();
        let times = Times {
            refresh: Duration::from_hours(1),
            unknown_key_interval: Duration::from_millis(300),
            outage: Duration::from_secs(2),
        };
        let source = Source::start_with(&Jwks::File(file.clone()), times).unwrap();
        // The first fetch is in progress.
        assert!(source.fetch_again().await);
        assert!(has(&source, "one") && source.trouble().is_none());
        let before = source.generation();

        std::fs::write(&file, set_of(&["one", "two"])).unwrap();
        assert!(source.fetch_again().await);
        assert!(has(&source, "two") && source.generation() > before);
        assert!(!source.fetch_again().await);
        tokio::time::sleep(times.unknown_key_interval).await;
        let before = source.generation();
        assert!(source.fetch_again().await);
        assert_eq!(source.generation(), before);

        std::fs::write(&file, "down for maintenance").unwrap();
        tokio::time::sleep(times.unknown_key_interval).await;
        assert!(source.fetch_again().await);
        let (why, serves) = source.trouble().unwrap();
        assert!(serves && why.contains("not a JSON Web Key Set"), "{why}");
        assert!(has(&source, "two"));
        tokio::time::sleep(times.outage).await;
        assert!(!has(&source, "two") && source.generation().is_none());
        assert!(!source.trouble().unwrap().1);
        // The task retries by itself.
        std::fs::write(&file, set_of(&["three"])).unwrap();
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            if has(&source, "three") {
                return;
            }
        }
        panic!("not fetched again");
    }
}
