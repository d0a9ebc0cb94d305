//! Identities that all nodes share through Redis: which ones another node has in flight or has seen.
//!
//! `{prefix}idempotency:{identity}` holds a state (`f` in flight, `d` durable), the body's hash, the time of its reservation, and the
//! request that made it. An identity in flight is deleted when its append failed or never began, so that any body is accepted for it
//! again; if its node has died, another node takes it over after [`REWRITE_AFTER`]. Without Redis each node relies on its own window, and
//! admission still accepts each event only once.

mod firsts;

use std::{sync::Arc, time::Duration};

use redis::RedisError;
use tokio::{sync::oneshot, time::Instant};

use super::idempotency::{REWRITE_AFTER, Verdict};
use crate::{
    base::{backoff::Backoff, clock::Millis, id::Identity},
    config::SecretUrl,
    envelope::BodyHash,
    redis_connection::{KeptOpen, Ping, RedisConnection, Timing},
    telemetry::PartStatus,
};

/// The time limit for an answer of Redis; after it the request continues without Redis.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(250);
const TIMING: Timing = Timing {
    connect: Duration::from_secs(2),
    pause: Backoff {
        first: Duration::from_millis(500),
        max: Duration::from_millis(500),
    },
    check: Duration::from_secs(1),
};

const IN_FLIGHT: u8 = b'f';
const DURABLE: u8 = b'd';

/// Compare and set: replaces the value if it is the expected one, else returns the current value.
const TAKE_OVER: &str = "local there = redis.call('GET', KEYS[1]) \
    if there and there ~= ARGV[1] then return there end \
    redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) \
    return false";
/// Deletes the value if it is the expected one.
const RELEASE: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end \
    return 0";

/// The other nodes, reached through Redis. Dropping it closes the connection.
pub struct Nodes {
    shared: Arc<Shared>,
    _open: KeptOpen,
}

struct Shared {
    redis: RedisConnection,
    prefix: String,
    window: Duration,
}

impl Nodes {
    /// Connects in the background, and reconnects whenever the connection is lost. The error describes what is wrong with the URL.
    pub fn start(url: &SecretUrl, prefix: &str, window: Duration) -> Result<Self, RedisError> {
        let (redis, open) = RedisConnection::open(url, TIMING, Ping)?;
        let shared = Arc::new(Shared {
            redis,
            prefix: format!("{prefix}idempotency:"),
            window,
        });
        Ok(Self {
            shared,
            _open: open,
        })
    }

    /// Reports the status for `/readyz`.
    pub fn probe(&self) -> impl Fn() -> PartStatus + Send + Sync + 'static {
        let redis = self.shared.redis.clone();
        move || match redis.trouble() {
            None => PartStatus::ok(""),
            Some(trouble) => {
                PartStatus::degraded(format!("each node relies on its own window: {trouble}"))
            }
        }
    }

    /// Checks identities that are new on this node, in order, and reserves those that are new everywhere.
    pub(crate) async fn reserve(
        &self,
        ids: Vec<(Identity, BodyHash)>,
        now: Millis,
    ) -> (Reservation, Vec<Verdict>) {
        // The reservation is created before Redis is asked, so that nothing stays reserved if the client hangs up meanwhile.
        let mut mine = Reservation::new(&self.shared, ids, now);
        let verdicts = mine.take().await;
        mine.keep(&verdicts);
        (mine, verdicts)
    }
}

/// Identities that this node has marked as in flight. When this is dropped, they are free for any body again.
pub(crate) struct Reservation {
    shared: Arc<Shared>,
    ids: Vec<(Identity, BodyHash)>,
    now: Millis,
    /// Distinguishes this reservation from those of other nodes and requests.
    nonce: u64,
}

impl Reservation {
    fn new(shared: &Arc<Shared>, ids: Vec<(Identity, BodyHash)>, now: Millis) -> Self {
        Self {
            shared: Arc::clone(shared),
            ids,
            now,
            nonce: rand::random(),
        }
    }

    fn value(&self, body: &BodyHash) -> [u8; VALUE] {
        value(IN_FLIGHT, body, self.now, self.nonce)
    }

    async fn take(&self) -> Vec<Verdict> {
        let mut pipe = redis::pipe();
        for (id, body) in &self.ids {
            pipe.cmd("SET")
                .arg(self.shared.key(id))
                .arg(&self.value(body)[..])
                .arg("NX")
                .arg("GET")
                .arg("PX")
                .arg(self.shared.window_ms());
        }
        let found = self.shared.ask::<Vec<Option<Vec<u8>>>>(&pipe).await;
        let Some(found) = found.filter(|found| found.len() == self.ids.len()) else {
            return vec![Verdict::New; self.ids.len()];
        };
        let mut verdicts = Vec::with_capacity(found.len());
        for ((id, body), found) in self.ids.iter().zip(found) {
            let Some(found) = found else {
                verdicts.push(Verdict::New);
                continue;
            };
            verdicts.push(match judge(&found, body, self.now) {
                Judged::Verdict(verdict) => verdict,
                Judged::Abandoned => self.take_over(id, body, &found).await,
            });
        }
        verdicts
    }

    /// Takes over an identity that was in flight for too long, whatever its body: the node that reserved it is gone. If several nodes
    /// find it, only one takes it over.
    async fn take_over(&self, id: &Identity, body: &BodyHash, found: &[u8]) -> Verdict {
        let mut pipe = redis::pipe();
        pipe.cmd("EVAL")
            .arg(TAKE_OVER)
            .arg(1)
            .arg(self.shared.key(id))
            .arg(found)
            .arg(&self.value(body)[..])
            .arg(self.shared.window_ms());
        // Without an answer the node continues as without Redis.
        let answer = self.shared.ask::<Vec<Option<Vec<u8>>>>(&pipe).await;
        let now_there = answer.and_then(|answer| answer.into_iter().next().flatten());
        match now_there.map(|found| judge(&found, body, self.now)) {
            Some(Judged::Verdict(verdict)) => verdict,
            Some(Judged::Abandoned) | None => Verdict::New,
        }
    }

    fn keep(&mut self, verdicts: &[Verdict]) {
        let mut index = 0;
        self.ids.retain(|_| {
            index += 1;
            verdicts.get(index - 1) == Some(&Verdict::New)
        });
    }

    /// Reports to the other nodes how the append ended: the events are durable, or free again. If no result arrives because the process
    /// ends first, they stay in flight until another node takes them over.
    pub(crate) fn settle(mut self, ended: oneshot::Receiver<bool>) {
        tokio::spawn(async move {
            match ended.await {
                Ok(true) => self.confirm().await,
                Ok(false) => return,
                Err(_) => {}
            }
            self.ids.clear();
        });
    }

    async fn confirm(&self) {
        let mut pipe = redis::pipe();
        for (id, body) in &self.ids {
            pipe.cmd("SET")
                .arg(self.shared.key(id))
                .arg(&value(DURABLE, body, self.now, self.nonce)[..])
                .arg("PX")
                .arg(self.shared.window_ms())
                .ignore();
        }
        // Without an answer the identity stays in flight there, and the event may be appended again; admission accepts it only once.
        let _: Option<()> = self.shared.ask(&pipe).await;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let ids = std::mem::take(&mut self.ids);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        if ids.is_empty() {
            return;
        }
        let marks: Vec<_> = ids
            .iter()
            .map(|(id, body)| (self.shared.key(id), self.value(body)))
            .collect();
        let shared = Arc::clone(&self.shared);
        runtime.spawn(async move {
            let mut pipe = redis::pipe();
            for (key, mark) in &marks {
                pipe.cmd("EVAL")
                    .arg(RELEASE)
                    .arg(1)
                    .arg(key)
                    .arg(&mark[..])
                    .ignore();
            }
            // Without an answer the identities stay in flight until another node takes them over.
            let _: Option<()> = shared.ask(&pipe).await;
        });
    }
}

impl Shared {
    fn key(&self, id: &Identity) -> String {
        format!("{}{id}", self.prefix)
    }

    fn window_ms(&self) -> u64 {
        self.window.as_millis() as u64
    }

    async fn ask<T: redis::FromRedisValue>(&self, pipe: &redis::Pipeline) -> Option<T> {
        self.redis
            .pipeline(pipe, Instant::now() + ANSWER_TIMEOUT)
            .await
    }
}

/// State, hash, time, and nonce. Nodes of the previous version do not write the nonce, and ignore it.
const VALUE: usize = 1 + 16 + 8 + 8;

fn value(state: u8, body: &BodyHash, now: Millis, nonce: u64) -> [u8; VALUE] {
    let mut value = [0; VALUE];
    value[0] = state;
    value[1..17].copy_from_slice(&body.stored());
    value[17..25].copy_from_slice(&now.0.to_be_bytes());
    value[25..].copy_from_slice(&nonce.to_be_bytes());
    value
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Judged {
    Verdict(Verdict),
    /// In flight for so long that the node that wrote it is gone.
    Abandoned,
}

/// Interprets an existing value. A value that cannot be parsed is of a later version; then this node relies on its own window.
fn judge(found: &[u8], body: &BodyHash, now: Millis) -> Judged {
    let Some((state, rest)) = found.split_first() else {
        return Judged::Verdict(Verdict::New);
    };
    let (Some((seen, since)), Some(_)) = (rest.split_first_chunk::<16>(), rest.get(..24)) else {
        return Judged::Verdict(Verdict::New);
    };
    let since = since
        .first_chunk()
        .map_or(0, |bytes| i64::from_be_bytes(*bytes));
    let fresh = now.0 - since < REWRITE_AFTER.as_millis() as i64;
    let same = body.matches(seen);
    Judged::Verdict(match *state {
        IN_FLIGHT if !fresh => return Judged::Abandoned,
        IN_FLIGHT if same => Verdict::InFlight,
        DURABLE if same => Verdict::Duplicate,
        IN_FLIGHT | DURABLE => Verdict::Mismatch,
        _ => Verdict::New,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_durable_or_under_way_stands_in_the_way() {
        let body = |n: u8| {
            let tenant = crate::base::id::Tenant::new("acme").unwrap();
            let text = format!(r#"{{"id":"1","source":"/s","type":"t","data":{n}}}"#);
            let form = crate::envelope::Form::OmniLink;
            crate::envelope::parse_structured(text.as_bytes(), form, &tenant, Millis(1))
                .unwrap()
                .body_hash
        };
        let (mine, other) = (body(1), body(2));
        let at = Millis(1_000_000);
        let late = Millis(at.0 + REWRITE_AFTER.as_millis() as i64);
        let cases = [
            (DURABLE, mine, late, Judged::Verdict(Verdict::Duplicate)),
            (DURABLE, other, late, Judged::Verdict(Verdict::Mismatch)),
            (IN_FLIGHT, mine, at, Judged::Verdict(Verdict::InFlight)),
            (IN_FLIGHT, other, at, Judged::Verdict(Verdict::Mismatch)),
            (IN_FLIGHT, mine, late, Judged::Abandoned),
            (IN_FLIGHT, other, late, Judged::Abandoned),
            (b'?', other, at, Judged::Verdict(Verdict::New)),
        ];
        for (state, body, now, expected) in cases {
            let there = value(state, &body, at, 7);
            assert_eq!(judge(&there, &mine, now), expected);
            // The format of the previous version.
            assert_eq!(judge(&there[..25], &mine, now), expected);
        }
        assert_eq!(judge(&[], &mine, at), Judged::Verdict(Verdict::New));
        assert_eq!(
            judge(&[DURABLE; 20], &mine, at),
            Judged::Verdict(Verdict::New)
        );
    }
}
