//! Decides what a request may take: in Redis if all nodes share the limits, in memory if a node is alone or Redis is down.

use std::{sync::Arc, time::Duration};

use redis::RedisError;
use tokio::time::Instant;

use super::{
    ask::{Ask, Grants, Group, Room, Rooms, Run, Standing, Verdict},
    memory::{Bounds, Memory},
    plan::Plan,
    policy::{Degraded, MAX_CONCURRENCY, OnBackendDown},
    shared::{Backend, Shared},
};
use crate::{
    base::clock::{Clock, Millis},
    config::SecretUrl,
    telemetry::PartStatus,
};

/// The Redis settings.
#[derive(Clone, Copy, Debug)]
pub struct RedisOptions<'a> {
    /// The URL of a single server or a primary, whose run id shows whether it lost its data.
    pub url: &'a SecretUrl,
    /// The prefix of all keys.
    pub prefix: &'a str,
    /// The time limit of a request for Redis.
    pub answer: Duration,
    /// How long a request of a node that died still counts as in flight.
    pub lapse: Duration,
}

impl<'a> RedisOptions<'a> {
    /// Uses 50 ms for an answer, and 30 s until a lease expires.
    pub fn new(url: &'a SecretUrl, prefix: &'a str) -> Self {
        Self {
            url,
            prefix,
            answer: Duration::from_millis(50),
            lapse: Duration::from_secs(30),
        }
    }
}

/// Decides what requests may take. Cheap to clone.
#[derive(Clone)]
pub struct Limiter(Arc<Inner>);

struct Inner {
    memory: Memory,
    shared: Option<Shared>,
    answer: Duration,
    clock: Arc<dyn Clock>,
}

/// The decision about a request.
#[derive(Debug)]
pub struct Decision {
    /// Whether the request is admitted.
    pub outcome: Outcome,
    /// The limit that is closest to refusing, or that refuses for longest; `None` if there is no limit.
    pub tightest: Option<Standing>,
    /// The names of the limits that were decided without Redis, or with a Redis that had lost its data, and their fallback. Empty in
    /// normal operation.
    pub degraded: Degraded,
}

/// What a request may do.
#[derive(Debug)]
pub enum Outcome {
    /// Some of its items are granted, or all, or none.
    Granted {
        /// The granted items, in order.
        grants: Grants,
        /// Held while the request is in flight, if that was requested and items are granted, or no items were requested.
        lease: Option<Lease>,
    },
    /// The key has reached its maximum number of requests in flight.
    Busy,
    /// Redis is down, and the policy with this name admits nothing without it.
    Unavailable(Arc<str>),
}

/// Counts a request as in flight until it is dropped.
pub struct Lease {
    limiter: Arc<Inner>,
    slot: Arc<str>,
    key: Arc<str>,
    /// Whether this node's memory counts it.
    counted: bool,
    /// The id of the lease that Redis may count.
    shared: Option<u64>,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lease({})", self.key)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.counted {
            self.limiter.memory.release(&self.slot, &self.key);
        }
        if let (Some(shared), Some(lease)) = (&self.limiter.shared, self.shared) {
            shared.leases().end(lease, &self.key);
        }
    }
}

/// The decision about one group.
struct GroupDecision {
    verdict: Verdict,
    lease: Option<Lease>,
    degraded: Degraded,
}

impl Limiter {
    /// Creates a limiter for a node that is alone.
    pub fn in_memory(clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner {
            memory: Memory::new(),
            shared: None,
            answer: Duration::ZERO,
            clock,
        }))
    }

    /// Creates a limiter for nodes that share limits. It connects in the background, on the current runtime. The error describes what is
    /// wrong with the URL.
    pub fn with_redis(
        clock: Arc<dyn Clock>,
        options: &RedisOptions<'_>,
    ) -> Result<Self, RedisError> {
        let shared = Shared::open(options.url, options.prefix, options.lapse)?;
        Ok(Self(Arc::new(Inner {
            memory: Memory::new(),
            shared: Some(shared),
            answer: options.answer,
            clock,
        })))
    }

    /// Reports the status for `/readyz`.
    pub fn probe(&self) -> impl Fn() -> PartStatus + Send + Sync + 'static {
        let inner = Arc::downgrade(&self.0);
        move || {
            let inner = inner.upgrade();
            let shared = inner.as_ref().and_then(|inner| inner.shared.as_ref());
            match shared.and_then(Shared::trouble) {
                None => PartStatus::ok(""),
                Some(trouble) => {
                    PartStatus::degraded(format!("each node limits by its share: {trouble}"))
                }
            }
        }
    }

    /// The number of nodes that share the limits, as last reported.
    pub fn nodes(&self) -> u32 {
        self.0.shared.as_ref().map_or(1, Shared::nodes)
    }

    /// Takes what a request asks for, or what is available. It waits for Redis at most for its timeout, and not at all while Redis is
    /// down.
    pub async fn take(&self, ask: &Ask) -> Decision {
        let until = Instant::now() + self.0.answer;
        let mut decision = Decision {
            outcome: Outcome::Busy,
            tightest: None,
            degraded: Degraded::new(),
        };
        let mut runs = ask.runs.clone();
        let mut lease = None;
        // The address is decided first, because what it refuses must not use up the tenant's quota.
        for group in ask.address.iter().chain([&ask.tenant]) {
            let refused = !ask.runs.is_empty() && runs.iter().all(|run| run.count == 0);
            if group.is_empty() || refused {
                continue;
            }
            let decided = match self.0.decide(group, &runs, until).await {
                Ok(decided) => decided,
                Err(policy) => {
                    let degraded = (Arc::clone(&policy), OnBackendDown::Closed);
                    decision.outcome = Outcome::Unavailable(policy);
                    decision.degraded.push(degraded);
                    return decision;
                }
            };
            decision.degraded.extend(decided.degraded);
            match decided.verdict {
                Verdict::Busy => {
                    let limit = group.in_flight.as_ref().map_or(0, |wanted| wanted.limit);
                    decision.tightest = Some(busy(limit));
                    return decision;
                }
                Verdict::Granted {
                    runs: granted,
                    rooms,
                } => {
                    let rooms = group.windows.iter().zip(rooms);
                    for (window, room) in rooms.filter(|(_, room)| *room != Room::UNLIMITED) {
                        let standing = Standing {
                            policy: Arc::clone(&window.policy.name),
                            limit: window.policy.limit,
                            window_s: Some(window.policy.window_s),
                            remaining: room.remaining,
                            wait_ms: room.wait_ms,
                            full_ms: room.full_ms,
                        };
                        let tightest = &mut decision.tightest;
                        if tightest.as_ref().is_none_or(|t| tighter(&standing, t)) {
                            *tightest = Some(standing);
                        }
                    }
                    runs = granted;
                    lease = decided.lease;
                }
            }
        }
        decision.outcome = Outcome::Granted {
            grants: Grants::new(&ask.runs, &runs),
            lease,
        };
        decision
    }
}

/// A limit on requests in flight cannot tell when one of them will end.
fn busy(limit: u32) -> Standing {
    Standing {
        policy: MAX_CONCURRENCY.into(),
        limit,
        window_s: None,
        remaining: 0,
        wait_ms: 0,
        full_ms: 0,
    }
}

fn tighter(one: &Standing, other: &Standing) -> bool {
    let order = |s: &Standing| (s.remaining, std::cmp::Reverse(s.wait_ms));
    order(one) < order(other)
}

impl Inner {
    /// The error is the name of a policy that admits nothing while Redis is down.
    async fn decide(
        self: &Arc<Self>,
        group: &Group,
        runs: &[Run],
        until: Instant,
    ) -> Result<GroupDecision, Arc<str>> {
        let Some(shared) = &self.shared else {
            let plan = Plan::alone(group);
            return Ok(self.decide_here(group, runs, &plan, false));
        };
        let backend = shared.backend();
        if let Backend::Up { lost } = backend {
            let plan = Plan::new(group, Backend::Up { lost }, shared)?;
            if let Some(decided) = self.decide_there(shared, group, runs, &plan, until).await {
                return Ok(decided);
            }
        }
        let plan = Plan::new(group, Backend::Down, shared)?;
        Ok(self.decide_here(group, runs, &plan, true))
    }

    fn decide_here(
        self: &Arc<Self>,
        group: &Group,
        runs: &[Run],
        plan: &Plan,
        owed: bool,
    ) -> GroupDecision {
        let bounds = Bounds {
            windows: &plan.here,
            in_flight: plan.in_flight_here,
            owed,
            nodes: self.shared.as_ref().map_or(1, Shared::nodes),
            report: None,
        };
        let mut verdict = self.memory.take(group, runs, &bounds, self.clock.now());
        let mut lease = None;
        if let Verdict::Granted { runs, rooms } = &mut verdict {
            lease = self.counted(group, runs);
            unlimited(rooms, &plan.here);
        }
        GroupDecision {
            verdict,
            lease,
            degraded: plan.degraded.clone(),
        }
    }

    /// Creates the lease of a request that memory counts as in flight.
    fn counted(self: &Arc<Self>, group: &Group, granted: &[Run]) -> Option<Lease> {
        let wanted = group.in_flight.as_ref()?;
        (granted.is_empty() || granted.iter().any(|run| run.count > 0)).then(|| {
            let lease = Lease {
                limiter: Arc::clone(self),
                slot: Arc::clone(&group.slot),
                key: Arc::clone(&wanted.key),
                counted: true,
                shared: self.shared.as_ref().map(|shared| shared.leases().next()),
            };
            if let (Some(shared), Some(id)) = (&self.shared, lease.shared) {
                shared.leases().begin(id, &lease.key);
            }
            lease
        })
    }

    /// Returns `None` if Redis is down now.
    async fn decide_there(
        self: &Arc<Self>,
        shared: &Shared,
        group: &Group,
        runs: &[Run],
        plan: &Plan,
        until: Instant,
    ) -> Option<GroupDecision> {
        let now = self.clock.now();
        let bounded = plan.in_flight_here.is_some() || plan.here.iter().any(Option::is_some);
        if !bounded {
            return self.follow(shared, group, runs, plan, until, now).await;
        }
        // Both must agree: this node's share, and a Redis that does not know yet what happened before.
        let here = self.decide_here(group, runs, plan, false);
        let Verdict::Granted {
            runs: granted,
            rooms,
        } = here.verdict
        else {
            return Some(here);
        };
        if !runs.is_empty() && granted.iter().all(|run| run.count == 0) {
            let verdict = Verdict::Granted {
                runs: granted,
                rooms,
            };
            return Some(GroupDecision { verdict, ..here });
        }
        let owed = self.memory.take_owed(group, now);
        let id = here.lease.as_ref().and_then(|lease| lease.shared);
        let there = shared
            .take(group, &granted, &plan.there, &owed, id.unwrap_or(0), until)
            .await;
        match there {
            Some(Verdict::Granted {
                runs: granted,
                rooms: there,
            }) => {
                let lease = here
                    .lease
                    .filter(|_| runs.is_empty() || granted.iter().any(|run| run.count > 0));
                let mut rooms: Rooms = there
                    .into_iter()
                    .zip(rooms)
                    .map(|(there, here)| there.tighter(here))
                    .collect();
                for ((room, here), there) in rooms.iter_mut().zip(&plan.here).zip(&plan.there) {
                    if here.is_none() && !there {
                        *room = Room::UNLIMITED;
                    }
                }
                let verdict = Verdict::Granted {
                    runs: granted,
                    rooms,
                };
                Some(GroupDecision {
                    verdict,
                    lease,
                    degraded: plan.degraded.clone(),
                })
            }
            Some(Verdict::Busy) => {
                self.memory.owe(group, &owed);
                Some(GroupDecision {
                    verdict: Verdict::Busy,
                    lease: None,
                    degraded: plan.degraded.clone(),
                })
            }
            None => {
                self.memory.owe(group, &owed);
                None
            }
        }
    }

    /// Redis decides, and memory records the result.
    async fn follow(
        self: &Arc<Self>,
        shared: &Shared,
        group: &Group,
        runs: &[Run],
        plan: &Plan,
        until: Instant,
        now: Millis,
    ) -> Option<GroupDecision> {
        let owed = self.memory.take_owed(group, now);
        // The lease is created before Redis is asked, so that nothing is left behind if the client hangs up meanwhile.
        let mut lease = group.in_flight.as_ref().map(|wanted| Lease {
            limiter: Arc::clone(self),
            slot: Arc::clone(&group.slot),
            key: Arc::clone(&wanted.key),
            counted: false,
            shared: Some(shared.leases().next()),
        });
        let id = lease.as_ref().and_then(|lease| lease.shared).unwrap_or(0);
        let verdict = shared
            .take(group, runs, &plan.there, &owed, id, until)
            .await;
        let Some(mut verdict) = verdict else {
            self.memory.owe(group, &owed);
            return None;
        };
        let held = match &mut verdict {
            Verdict::Busy => {
                self.memory.owe(group, &owed);
                false
            }
            Verdict::Granted {
                runs: granted,
                rooms,
            } => {
                let bounds = Bounds {
                    windows: &plan.here,
                    in_flight: None,
                    owed: false,
                    nodes: shared.nodes(),
                    report: Some(&**rooms),
                };
                self.memory.take(group, granted, &bounds, now);
                for (room, there) in rooms.iter_mut().zip(&plan.there) {
                    if !there {
                        *room = Room::UNLIMITED;
                    }
                }
                runs.is_empty() || granted.iter().any(|run| run.count > 0)
            }
        };
        if let Some(mine) = &mut lease {
            if held {
                mine.counted = true;
                shared.leases().begin(id, &mine.key);
            } else {
                // Redis said that it created no lease.
                mine.shared = None;
            }
        }
        Some(GroupDecision {
            verdict,
            lease: lease.filter(|_| held),
            degraded: plan.degraded.clone(),
        })
    }
}

impl Room {
    /// The room of a window that refuses nothing now.
    const UNLIMITED: Self = Self {
        remaining: u32::MAX,
        wait_ms: 0,
        full_ms: 0,
    };
}

fn unlimited(rooms: &mut [Room], here: &[Option<u32>]) {
    for (room, bound) in rooms.iter_mut().zip(here) {
        if bound.is_none() {
            *room = Room::UNLIMITED;
        }
    }
}
