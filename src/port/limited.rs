//! The limits of intake: those of the key, and the policies of the configuration.
//!
//! A request first counts as one of its sender's requests in flight ([`Limiting::enter`]), before its body is read and until it has its
//! answer, except while it only waits. Its items are counted once they are valid and allowed ([`Limiting::take`]). A sender without
//! limits costs two comparisons.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, Ordering},
    },
};

use hyper::{
    HeaderMap,
    header::{HeaderName, HeaderValue},
};
use metrics::Counter;
use parking_lot::{Mutex, RwLock};
use serde_json::{Map, json};

use super::{ingest::answer::Refusal, problem::Problem};
use crate::{
    api::problem::CONCURRENCY_LIMIT_EXCEEDED,
    audit::{self, Audit, Entry},
    base::{
        clock::{Clock, Millis},
        id::Tenant,
    },
    controls::Key,
    limits::{
        self, Ask, Decision, Grants, Kind, Lease, Limiter, MAX_CONCURRENCY, MAX_RPM, OnBackendDown,
        Outcome, Policy, Standing, Subject,
    },
    telemetry::metrics::{LIMITS_DEGRADED, PORT_LIMIT_WARNINGS, PORT_LIMITED},
};

/// The number of senders whose windows are remembered. Beyond it all are forgotten and created again at the next request.
const SENDERS: usize = 16_384;
/// How often a sender that exceeds its limits but is admitted is logged.
const WARN_EVERY_MS: i64 = 3_600_000;
/// How often decisions without Redis are recorded, for each policy.
const RECORD_EVERY_MS: i64 = 60_000;

/// The sender of a request that is limited.
#[derive(Clone, Copy)]
pub(crate) struct Sender<'a> {
    pub(crate) tenant: &'a Tenant,
    /// The id of the key or other sender; it is unique among senders.
    pub(crate) id: &'a str,
    /// The maximum number of items in 60 s; 0 means no limit.
    pub(crate) max_rpm: u32,
    /// The maximum number of requests in flight; 0 means no limit.
    pub(crate) max_concurrency: u32,
    /// Whether these two limits are enforced. Otherwise requests beyond them are admitted with a warning.
    pub(crate) enforced: bool,
}

impl<'a> Sender<'a> {
    pub(crate) fn of(key: &'a Key) -> Self {
        let constraints = &key.scopes.constraints;
        Self {
            tenant: &key.tenant,
            id: &key.id,
            max_rpm: constraints.max_rpm,
            max_concurrency: constraints.max_concurrency,
            enforced: enforces_limits(key),
        }
    }
}

/// Whether the key's own limits are enforced.
fn enforces_limits(key: &Key) -> bool {
    key.enforces_limits
}

/// Applies the limits to requests.
pub(super) struct Limiting {
    limiter: Limiter,
    policies: Vec<Arc<Policy>>,
    clock: Arc<dyn Clock>,
    audit: Audit,
    senders: RwLock<HashMap<Box<str>, Arc<Known>>>,
    /// One entry for each policy that is decided without Redis.
    degraded: Mutex<HashMap<Arc<str>, Recorded>>,
    meters: Meters,
}

/// The windows of a sender.
struct Known {
    tenant: Tenant,
    max_rpm: u32,
    enforced: bool,
    in_flight: Subject,
    by_kind: [OnceLock<Windows>; Kind::ALL.len()],
    /// When the last warning was logged.
    warned_at: AtomicI64,
}

/// The counters for the items of a sender, for one kind of request.
struct Windows {
    refuse: Subject,
    /// Exceeding this one only causes a warning.
    warn: Option<Subject>,
}

/// When it was last recorded that a policy is decided without Redis.
struct Recorded {
    at: Millis,
    /// The number of decisions since then.
    decisions: u64,
}

struct Meters {
    limited_rpm: Counter,
    limited_concurrency: Counter,
    limited_policy: Counter,
    warned_rpm: Counter,
    warned_concurrency: Counter,
    degraded: [(OnBackendDown, Counter); 3],
}

impl Meters {
    fn new() -> Self {
        let degraded = |mode: OnBackendDown| (mode, LIMITS_DEGRADED.counter(&[mode.name()]));
        Self {
            limited_rpm: PORT_LIMITED.counter(&[MAX_RPM]),
            limited_concurrency: PORT_LIMITED.counter(&[MAX_CONCURRENCY]),
            limited_policy: PORT_LIMITED.counter(&["policy"]),
            warned_rpm: PORT_LIMIT_WARNINGS.counter(&[MAX_RPM]),
            warned_concurrency: PORT_LIMIT_WARNINGS.counter(&[MAX_CONCURRENCY]),
            degraded: [
                degraded(OnBackendDown::Open),
                degraded(OnBackendDown::Closed),
                degraded(OnBackendDown::Local),
            ],
        }
    }
}

/// Which items of a request are admitted.
#[derive(Debug)]
pub(crate) enum Rated {
    /// All of them, and no limit is reported.
    All,
    /// The first ones or all of them, and the tightest limit afterwards.
    Counted(Grants, Arc<Standing>),
    /// None: Redis is unavailable, and this policy admits nothing without it.
    Unavailable(Arc<str>),
}

impl Rated {
    /// For each item, in order, the reason for its refusal; `None` if it is admitted.
    pub(crate) fn refusals(&self) -> impl Iterator<Item = Option<Refusal>> + '_ {
        let mut passes = match self {
            Self::Counted(grants, _) => Some(grants.each()),
            Self::All | Self::Unavailable(_) => None,
        };
        std::iter::from_fn(move || {
            Some(match self {
                Self::All => None,
                Self::Counted(_, standing) => {
                    let passes = passes.as_mut()?.next()?;
                    (!passes).then(|| Refusal::limited(standing))
                }
                Self::Unavailable(policy) => Some(Refusal::limiter_unavailable(policy)),
            })
        })
    }

    /// Adds the tightest limit to an answer that accepts items: `RateLimit-Policy` and `RateLimit`.
    pub(crate) fn headers(&self, headers: &mut HeaderMap) {
        let Self::Counted(_, standing) = self else {
            return;
        };
        for (name, value) in limits::rate_headers(standing) {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
    }
}

impl Limiting {
    pub(super) fn new(
        limiter: Limiter,
        policies: Vec<Arc<Policy>>,
        clock: Arc<dyn Clock>,
        audit: Audit,
    ) -> Self {
        Self {
            limiter,
            policies,
            clock,
            audit,
            senders: RwLock::default(),
            degraded: Mutex::default(),
            meters: Meters::new(),
        }
    }

    /// Counts a request of the sender as in flight until the lease is dropped. The error is a 429.
    pub(crate) async fn enter(&self, sender: Sender<'_>) -> Result<Option<Lease>, Problem> {
        if sender.max_concurrency == 0 {
            return Ok(None);
        }
        let known = self.known(sender);
        let ask = Ask::enter(&known.in_flight, sender.max_concurrency);
        let decision = self.limiter.take(&ask).await;
        self.record_degraded(&decision);
        match (decision.outcome, decision.tightest) {
            (Outcome::Granted { lease, .. }, _) => Ok(lease),
            (_, Some(standing)) if sender.enforced => {
                self.meters.limited_concurrency.increment(1);
                let detail = format!(
                    "{} requests of this key are in flight, as many as its `max_concurrency` allows",
                    standing.limit
                );
                Err(Problem::over(
                    &CONCURRENCY_LIMIT_EXCEEDED,
                    detail,
                    &standing,
                ))
            }
            _ => {
                self.meters.warned_concurrency.increment(1);
                self.warn(sender, &known, MAX_CONCURRENCY);
                Ok(None)
            }
        }
    }

    /// Counts items, in order, by their types. `address` returns the client's address and is only called if a policy counts by it.
    pub(crate) async fn take<'t>(
        &self,
        sender: Sender<'_>,
        kind: Kind,
        address: impl FnOnce() -> IpAddr,
        types: impl Iterator<Item = &'t str> + Clone,
    ) -> Rated {
        if sender.max_rpm == 0 && self.policies.is_empty() {
            return Rated::All;
        }
        let known = self.known(sender);
        let windows = self.windows(sender, &known, kind);
        if let Some(subject) = &windows.warn {
            let ask = Ask::items(subject, || IpAddr::from([0; 4]), types.clone());
            let decision = self.limiter.take(&ask).await;
            self.record_degraded(&decision);
            let over = refused(&decision.outcome);
            if over > 0 {
                self.meters.warned_rpm.increment(over);
                self.warn(sender, &known, MAX_RPM);
            }
        }
        if windows.refuse.is_unlimited() {
            return Rated::All;
        }
        let ask = Ask::items(&windows.refuse, address, types);
        let decision = self.limiter.take(&ask).await;
        self.record_degraded(&decision);
        let standing = decision.tightest;
        let over = refused(&decision.outcome);
        if over > 0 {
            let of_key = standing.as_ref().is_some_and(|s| &*s.policy == MAX_RPM);
            let meters = &self.meters;
            let counter = if of_key {
                &meters.limited_rpm
            } else {
                &meters.limited_policy
            };
            counter.increment(over);
        }
        match (decision.outcome, standing) {
            (Outcome::Granted { grants, .. }, Some(standing)) => {
                Rated::Counted(grants, Arc::new(standing))
            }
            (Outcome::Unavailable(policy), _) => Rated::Unavailable(policy),
            // Nothing is limited now. Nothing here can be busy, because no concurrency was requested.
            (Outcome::Granted { .. } | Outcome::Busy, _) => Rated::All,
        }
    }

    fn known(&self, sender: Sender<'_>) -> Arc<Known> {
        let same = |known: &&Arc<Known>| {
            known.max_rpm == sender.max_rpm
                && known.enforced == sender.enforced
                && known.tenant == *sender.tenant
        };
        if let Some(known) = self.senders.read().get(sender.id).filter(same) {
            return Arc::clone(known);
        }
        let known = Arc::new(Known {
            tenant: sender.tenant.clone(),
            max_rpm: sender.max_rpm,
            enforced: sender.enforced,
            in_flight: Subject::new(sender.tenant, sender.id, Kind::Events, &[]),
            by_kind: Default::default(),
            warned_at: AtomicI64::new(i64::MIN),
        });
        let mut senders = self.senders.write();
        if senders.len() >= SENDERS {
            senders.clear();
        }
        senders.insert(sender.id.into(), Arc::clone(&known));
        known
    }

    fn windows<'k>(&self, sender: Sender<'_>, known: &'k Known, kind: Kind) -> &'k Windows {
        known.by_kind[kind as usize].get_or_init(|| {
            let subject =
                |policies: &[Arc<Policy>]| Subject::new(sender.tenant, sender.id, kind, policies);
            let own = Policy::of_key(sender.max_rpm).map(Arc::new);
            if sender.enforced {
                let all: Vec<_> = own
                    .into_iter()
                    .chain(self.policies.iter().cloned())
                    .collect();
                let refuse = subject(&all);
                return Windows { refuse, warn: None };
            }
            Windows {
                refuse: subject(&self.policies),
                warn: own.map(|own| subject(&[own])),
            }
        })
    }

    /// Warns about a sender that exceeds one of its limits, which are not enforced.
    fn warn(&self, sender: Sender<'_>, known: &Known, limit: &'static str) {
        let now = self.clock.now().0;
        let before = known.warned_at.load(Ordering::Relaxed);
        if now.saturating_sub(before) < WARN_EVERY_MS {
            return;
        }
        let swapped =
            known
                .warned_at
                .compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed);
        if swapped.is_ok() {
            tracing::warn!(
                tenant = sender.tenant.as_str(),
                key = sender.id,
                limit,
                "a key exceeds its limit and is still admitted, because it was created before limits were enforced; rotate or change \
                 it to enforce them"
            );
        }
    }

    /// Counts a decision made without Redis, and records it in the audit log.
    fn record_degraded(&self, decision: &Decision) {
        if decision.degraded.is_empty() {
            return;
        }
        let now = self.clock.now();
        for (policy, mode) in &decision.degraded {
            let counter = self.meters.degraded.iter().find(|(of, _)| of == mode);
            if let Some((_, counter)) = counter {
                counter.increment(1);
            }
            let decisions = {
                let mut recorded = self.degraded.lock();
                let last = recorded.entry(Arc::clone(policy)).or_insert(Recorded {
                    at: Millis(i64::MIN),
                    decisions: 0,
                });
                last.decisions += 1;
                if now.0.saturating_sub(last.at.0) < RECORD_EVERY_MS {
                    continue;
                }
                last.at = now;
                std::mem::take(&mut last.decisions)
            };
            let mut detail = Map::new();
            detail.insert("on_backend_down".into(), json!(mode.name()));
            detail.insert("decisions".into(), json!(decisions));
            detail.insert("nodes".into(), json!(self.limiter.nodes()));
            let outcome = match mode {
                OnBackendDown::Closed => audit::Outcome::Denied,
                OnBackendDown::Open | OnBackendDown::Local => audit::Outcome::Ok,
            };
            let entry = Entry::new(None, "limit.degraded", outcome, now);
            self.audit
                .record(entry.resource("limit", policy).detail(detail));
        }
    }
}

/// The number of items that a decision refuses.
fn refused(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Granted { grants, .. } => u64::from(grants.requested() - grants.count()),
        Outcome::Busy | Outcome::Unavailable(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{base::clock::SystemClock, log::memory::MemoryLog};

    async fn passed(limiting: &Limiting, sender: Sender<'_>, count: usize) -> usize {
        let types = std::iter::repeat_n("t", count);
        let address = || IpAddr::from([127, 0, 0, 1]);
        let rated = limiting.take(sender, Kind::Events, address, types).await;
        let refusals = rated.refusals().take(count);
        refusals.filter(Option::is_none).count()
    }

    /// Requests beyond the limits of a key that only warns are admitted; policies still apply to it.
    #[tokio::test]
    async fn a_key_that_is_older_than_limits_is_warned_of() {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let policy = Policy {
            name: "tenant".into(),
            limit: 7,
            per: limits::Per::Tenant,
            ..Policy::of_key(1).unwrap()
        };
        let log = Arc::new(MemoryLog::new(Arc::clone(&clock)));
        let (audit, _writer) = Audit::start(log, "audit".into());
        let limiter = Limiter::in_memory(Arc::clone(&clock));
        let limiting = Limiting::new(limiter, vec![Arc::new(policy)], clock, audit);
        let tenant = Tenant::new("acme").unwrap();
        let old = Sender {
            tenant: &tenant,
            id: "k1",
            max_rpm: 3,
            max_concurrency: 1,
            enforced: false,
        };
        let warned = |limiting: &Limiting| {
            let known = limiting.known(old);
            known.warned_at.load(Ordering::Relaxed)
        };
        assert_eq!(passed(&limiting, old, 3).await, 3);
        assert_eq!(warned(&limiting), i64::MIN);
        assert_eq!(passed(&limiting, old, 1).await, 1);
        let at = warned(&limiting);
        assert!(at > 0);
        assert_eq!(passed(&limiting, old, 9).await, 3);
        // There is one warning an hour.
        assert_eq!(warned(&limiting), at);
        let first = limiting.enter(old).await.unwrap();
        assert!(first.is_some());
        assert!(limiting.enter(old).await.unwrap().is_none());
        drop(first);

        // After a change of the key its limits are enforced.
        let changed = Sender {
            id: "k2",
            enforced: true,
            tenant: &Tenant::new("other").unwrap(),
            ..old
        };
        assert_eq!(passed(&limiting, changed, 9).await, 3);
        let held = limiting.enter(changed).await.unwrap();
        assert!(limiting.enter(changed).await.is_err());
        drop(held);
        assert!(limiting.enter(changed).await.unwrap().is_some());
    }
}
