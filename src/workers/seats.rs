//! Seats: the concurrency limit of a tool's calls on this node. Decides which calls are sent now, queued briefly, or held.
//!
//! A tool has a number of seats. A call that finds all of them taken waits in the tool's queue ([`WAIT`]) and is then held: the
//! run retries it when a seat is expected to be free, by the rate at which the tool's calls end. So a held call is retried about
//! once, not in a loop. The effect as a whole has seats too: a tool may take no more of them than are left free, so that hanging
//! tools, however many, always leave some for the others.

use std::{
    borrow::Cow,
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use tokio::sync::oneshot;

use super::{answer::Answer, pacer::Pacer, settings::Settings};
use crate::{
    base::clock::{Clock, Millis},
    config::BreakerSettings,
    http::{Breaker, BreakerState as State, Pass},
};

/// The maximum time that a call waits in the queue of its tool.
const WAIT: Duration = Duration::from_secs(1);
/// The number of seats of the effect that a tool may always take.
const SHARE_MIN: usize = 4;
/// The minimum length of a tool's queue.
const QUEUE_MIN: usize = 16;
/// The maximum number of held calls that are counted, for display.
const HELD_MAX: usize = 10_000;
/// When there are more closed limit keys than this, expired ones are removed.
const CLOSED_MAX: usize = 1_000;
/// The minimum time that a call is held because the tool is busy, in milliseconds.
const BUSY_MS: i64 = 50;

/// Why, and until when, a call is held.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Hold {
    pub(super) reason: Cow<'static, str>,
    pub(super) until: Millis,
}

/// The seats of the effect.
pub(super) struct Shares {
    seats: usize,
    taken: AtomicUsize,
}

/// A call that the effect is carrying out.
pub(super) struct Share(Arc<Shares>);

impl Drop for Share {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shares {
    pub(super) fn new(seats: usize) -> Arc<Self> {
        Arc::new(Self {
            seats,
            taken: AtomicUsize::new(0),
        })
    }

    pub(super) fn take(self: &Arc<Self>) -> Share {
        self.taken.fetch_add(1, Ordering::Relaxed);
        Share(Arc::clone(self))
    }

    /// How many seats one tool may have now.
    fn of_one(&self) -> usize {
        let taken = self.taken.load(Ordering::Relaxed);
        self.seats.saturating_sub(taken).max(SHARE_MIN)
    }
}

/// The calls of one tool on this node.
pub(super) struct ToolState {
    clock: Arc<dyn Clock>,
    shares: Arc<Shares>,
    pub(super) settings: RwLock<Option<Arc<Settings>>>,
    inner: Mutex<Inner>,
}

struct Inner {
    /// The maximum number of concurrent calls.
    seats: usize,
    running: usize,
    waiting: VecDeque<oneshot::Sender<Seat>>,
    breaker: Breaker,
    /// Keys of the limit that are closed, and until when.
    closed: BTreeMap<String, Millis>,
    /// Spaces the retries of calls that found all seats taken.
    busy: Pacer,
    /// Spaces the retries of calls that found the tool closed.
    closing: Pacer,
    /// The duration of a call, as a moving average, in milliseconds.
    duration_ms: f64,
    /// When the held calls are retried.
    held: VecDeque<Millis>,
    last_hold: Option<Hold>,
}

/// The current calls of a tool on this node, for display.
#[derive(Clone, PartialEq, Debug)]
pub struct Activity {
    /// Calls in flight.
    pub running: usize,
    /// Calls in the queue.
    pub queued: usize,
    /// Calls that are held.
    pub held: usize,
    /// Why the last call was held, and until when.
    pub hold: Option<(Cow<'static, str>, Millis)>,
    /// The circuit breaker.
    pub breaker: State,
}

impl Activity {
    /// The activity of two hosts of a tool together. The state of the breaker is the worse of the two.
    pub(super) fn with(self, other: Self) -> Self {
        let rank = |state: State| match state {
            State::Closed => (0, Millis(0)),
            State::HalfOpen => (1, Millis(0)),
            State::Open { until } => (2, until),
        };
        let (one, two) = (self.breaker, other.breaker);
        let holds = [self.hold, other.hold].into_iter().flatten();
        Self {
            running: self.running + other.running,
            queued: self.queued + other.queued,
            held: self.held + other.held,
            hold: holds.max_by_key(|(_, until)| *until),
            breaker: if rank(one) >= rank(two) { one } else { two },
        }
    }
}

/// Permission to make a call. Dropping it frees the seat.
pub(super) struct Seat {
    tool: Arc<ToolState>,
    key: String,
    probe: bool,
    begun: Duration,
}

impl ToolState {
    pub(super) fn new(
        clock: Arc<dyn Clock>,
        shares: Arc<Shares>,
        breaker: BreakerSettings,
    ) -> Self {
        Self {
            clock,
            shares,
            settings: RwLock::default(),
            inner: Mutex::new(Inner {
                seats: 1,
                running: 0,
                waiting: VecDeque::new(),
                breaker: Breaker::new(breaker),
                closed: BTreeMap::new(),
                busy: Pacer::default(),
                closing: Pacer::default(),
                duration_ms: 1_000.0,
                held: VecDeque::new(),
                last_hold: None,
            }),
        }
    }

    /// Takes a seat, if necessary after waiting in the queue. `key`: the key of the tool's limit. `left`: the time until the
    /// call's deadline.
    pub(super) async fn seat(
        self: &Arc<Self>,
        seats: usize,
        key: &str,
        left: Duration,
    ) -> Result<Seat, Hold> {
        let mut waits = {
            let mut inner = self.inner.lock();
            let now = self.clock.now();
            inner.seats = seats;
            inner.check_open(key, now)?;
            inner.waiting.retain(|waiting| !waiting.is_closed());
            let share = self.shares.of_one();
            let mine = inner.running + inner.waiting.len();
            if mine >= share || inner.waiting.len() >= seats.max(QUEUE_MIN) {
                return Err(inner.busy(now));
            }
            if inner.running < seats {
                inner.running += 1;
                None
            } else {
                let (hand, waits) = oneshot::channel();
                inner.waiting.push_back(hand);
                Some(waits)
            }
        };
        let mut seat = match &mut waits {
            None => Seat::new(self),
            Some(waits) => {
                let waited = tokio::time::timeout(WAIT.min(left / 4), &mut *waits).await;
                if let Ok(Ok(seat)) = waited {
                    seat
                } else {
                    // A seat may have been handed over just now.
                    waits.close();
                    waits.try_recv().map_err(|_| self.busy())?
                }
            }
        };
        // The tool may have been closed meanwhile.
        let begun = self.inner.lock().begin(key, self.clock.now());
        seat.probe = begun?;
        key.clone_into(&mut seat.key);
        seat.begun = self.clock.monotonic();
        Ok(seat)
    }

    /// Holds a call because of a limit over all nodes, or a control.
    pub(super) fn hold(&self, reason: Cow<'static, str>, after_ms: u64, spacing_ms: f64) -> Hold {
        let now = self.clock.now();
        let after = Millis(now.0.saturating_add_unsigned(after_ms));
        let mut inner = self.inner.lock();
        let until = inner.closing.next(after, spacing_ms);
        inner.held(Hold { reason, until }, now)
    }

    /// Holds a call because the tool's concurrency limit over all nodes is reached.
    pub(super) fn busy(&self) -> Hold {
        self.inner.lock().busy(self.clock.now())
    }

    /// Whether it can be removed, because it does not differ from a new one.
    pub(super) fn is_idle(&self) -> bool {
        let now = self.clock.now();
        let inner = self.inner.lock();
        inner.running == 0
            && inner.breaker.state(now) == State::Closed
            && inner.closed.values().all(|until| *until <= now)
    }

    /// The current calls.
    pub(super) fn activity(&self) -> Activity {
        let now = self.clock.now();
        let mut inner = self.inner.lock();
        inner.held.retain(|until| *until > now);
        inner.waiting.retain(|waiting| !waiting.is_closed());
        let hold = inner.last_hold.as_ref().filter(|hold| hold.until > now);
        Activity {
            running: inner.running,
            queued: inner.waiting.len(),
            held: inner.held.len(),
            hold: hold.map(|hold| (hold.reason.clone(), hold.until)),
            breaker: inner.breaker.state(now),
        }
    }
}

impl Inner {
    /// The expected interval between free seats, in milliseconds.
    fn spacing_ms(&self) -> f64 {
        self.duration_ms / self.seats.max(1) as f64
    }

    fn busy(&mut self, now: Millis) -> Hold {
        let spacing = self.spacing_ms();
        let until = self.busy.next(Millis(now.0 + BUSY_MS), spacing);
        let reason = Cow::Borrowed("tool_busy");
        self.held(Hold { reason, until }, now)
    }

    /// Fails if the tool or the key is closed. Does not start a probe.
    fn check_open(&mut self, key: &str, now: Millis) -> Result<(), Hold> {
        let closed = match self.breaker.state(now) {
            State::Open { until } => Some(("circuit_open", until)),
            State::Closed | State::HalfOpen => self.closed_until(key, now),
        };
        match closed {
            Some((reason, until)) => Err(self.closed(reason, until, now)),
            None => Ok(()),
        }
    }

    fn closed_until(&self, key: &str, now: Millis) -> Option<(&'static str, Millis)> {
        let until = self.closed.get(key).copied().filter(|until| *until > now)?;
        Some(("rate_limited", until))
    }

    /// Begins a call; true: it is a probe of the breaker.
    fn begin(&mut self, key: &str, now: Millis) -> Result<bool, Hold> {
        if let Some((reason, until)) = self.closed_until(key, now) {
            return Err(self.closed(reason, until, now));
        }
        match self.breaker.pass(now) {
            Pass::Call => Ok(false),
            Pass::Probe => Ok(true),
            Pass::Held(until) => Err(self.closed("circuit_open", until, now)),
        }
    }

    fn closed(&mut self, reason: &'static str, until: Millis, now: Millis) -> Hold {
        let spacing = self.spacing_ms();
        let until = self.closing.next(until, spacing);
        let reason = Cow::Borrowed(reason);
        self.held(Hold { reason, until }, now)
    }

    fn held(&mut self, hold: Hold, now: Millis) -> Hold {
        if self.held.len() >= HELD_MAX {
            self.held.retain(|until| *until > now);
            self.held.truncate(HELD_MAX - 1);
        }
        self.held.push_back(hold.until);
        self.last_hold = Some(hold.clone());
        hold
    }
}

impl Seat {
    fn new(tool: &Arc<ToolState>) -> Self {
        Self {
            tool: Arc::clone(tool),
            key: String::new(),
            probe: false,
            begun: Duration::ZERO,
        }
    }

    /// Records the outcome of the call.
    pub(super) fn ended(mut self, answer: &Answer) {
        let tool = Arc::clone(&self.tool);
        let took = tool.clock.monotonic().saturating_sub(self.begun);
        let now = tool.clock.now();
        let mut inner = tool.inner.lock();
        inner.duration_ms = 0.9 * inner.duration_ms + 0.1 * took.as_secs_f64() * 1000.0;
        let probe = std::mem::take(&mut self.probe);
        inner
            .breaker
            .ended(probe, answer.trouble, now, rand::random());
        if let Some(ms) = answer.closed_ms {
            if inner.closed.len() >= CLOSED_MAX {
                inner.closed.retain(|_, until| *until > now);
            }
            let until = Millis(now.0.saturating_add_unsigned(ms));
            inner.closed.insert(std::mem::take(&mut self.key), until);
        }
    }
}

impl Drop for Seat {
    /// Hands the seat to the next call in the queue.
    fn drop(&mut self) {
        let next = {
            let mut inner = self.tool.inner.lock();
            if self.probe {
                inner.breaker.probe_lost();
            }
            inner.waiting.retain(|waiting| !waiting.is_closed());
            let next = if inner.running <= inner.seats {
                inner.waiting.pop_front()
            } else {
                None
            };
            if next.is_none() {
                inner.running -= 1;
            }
            next
        };
        if let Some(next) = next {
            // If the receiver is gone, dropping the seat hands it on.
            let _ = next.send(Self::new(&self.tool));
        }
    }
}
