//! Which calls of a tool go now on this node, which wait for a moment, and which are held back.
//!
//! A tool has so many seats. A call that finds them taken waits in the tool's queue for a moment ([`WAIT`]) and is then held back: the
//! run is told to try again at the time at which the tool, at the rate at which its calls end, should have a seat. So a held call comes
//! back about once, not in a loop. The effect has seats too: a tool may take no more of them than are left free, so that tools that hang,
//! however many, always leave some to the others.

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

use super::{
    answer::Answer,
    breaker::{Breaker, Pass, State},
    settings::Settings,
    turns::Turns,
};
use crate::base::clock::{Clock, Millis};

/// How long a call waits in the queue of its tool at most.
const WAIT: Duration = Duration::from_secs(1);
/// A tool may always take so many seats of the effect.
const SHARE_MIN: usize = 4;
/// How many calls wait for a tool that takes few at a time.
const QUEUE_MIN: usize = 16;
/// The times of so many held calls are remembered, for people.
const HELD_MAX: usize = 10_000;
/// Keys of limits that are closed, beyond which those that are over are forgotten.
const CLOSED_MAX: usize = 1_000;
/// The least time that a call is held back because the tool is busy, in milliseconds.
const BUSY_MS: i64 = 50;

/// A call may not go now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Hold {
    pub(super) reason: Cow<'static, str>,
    pub(super) until: Millis,
}

/// The seats of the effect, and who has them.
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

    /// How many one tool may have now.
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
    /// As many as may run.
    seats: usize,
    running: usize,
    waiting: VecDeque<oneshot::Sender<Seat>>,
    breaker: Breaker,
    /// Keys of the limit that take no calls until then.
    closed: BTreeMap<String, Millis>,
    /// When calls come back that found all seats taken.
    busy: Turns,
    /// When calls come back that found the tool closed.
    closing: Turns,
    /// How long a call takes, smoothed, in milliseconds.
    duration_ms: f64,
    /// When the calls that are held back come back.
    held: VecDeque<Millis>,
    last_hold: Option<Hold>,
}

/// What the calls of a tool are like now, for people.
#[derive(Clone, PartialEq, Debug)]
pub struct Activity {
    /// Calls under way.
    pub running: usize,
    /// Calls that wait for a seat.
    pub queued: usize,
    /// Calls that were held back and have not come back.
    pub held: usize,
    /// Why the last one was held back, and until when.
    pub hold: Option<(Cow<'static, str>, Millis)>,
    /// The circuit breaker.
    pub breaker: State,
}

impl Activity {
    /// Of two hosts together: an open breaker counts.
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

/// A call that may go, until it is dropped.
pub(super) struct Seat {
    tool: Arc<ToolState>,
    key: String,
    probe: bool,
    begun: Duration,
}

impl ToolState {
    pub(super) fn new(clock: Arc<dyn Clock>, shares: Arc<Shares>) -> Self {
        Self {
            clock,
            shares,
            settings: RwLock::default(),
            inner: Mutex::new(Inner {
                seats: 1,
                running: 0,
                waiting: VecDeque::new(),
                breaker: Breaker::default(),
                closed: BTreeMap::new(),
                busy: Turns::default(),
                closing: Turns::default(),
                duration_ms: 1_000.0,
                held: VecDeque::new(),
                last_hold: None,
            }),
        }
    }

    /// Takes a seat, perhaps after a moment. `key`: what its limit is counted by. `left`: the time until the call's deadline.
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
                    // One may have been handed over at this moment.
                    waits.close();
                    waits.try_recv().map_err(|_| self.busy())?
                }
            }
        };
        // Meanwhile the tool may have been closed.
        let begun = self.inner.lock().begin(key, self.clock.now());
        seat.probe = begun?;
        key.clone_into(&mut seat.key);
        seat.begun = self.clock.monotonic();
        Ok(seat)
    }

    /// A call that is held back because a limit over all nodes is used up, or by a control.
    pub(super) fn hold(&self, reason: Cow<'static, str>, after_ms: u64, spacing_ms: f64) -> Hold {
        let now = self.clock.now();
        let after = Millis(now.0.saturating_add_unsigned(after_ms));
        let mut inner = self.inner.lock();
        let until = inner.closing.next(after, spacing_ms);
        inner.held(Hold { reason, until }, now)
    }

    /// A call that is held back because all seats are taken on other nodes.
    pub(super) fn busy(&self) -> Hold {
        self.inner.lock().busy(self.clock.now())
    }

    /// Whether it can be forgotten: it is as a new one would be.
    pub(super) fn is_idle(&self) -> bool {
        let now = self.clock.now();
        let inner = self.inner.lock();
        inner.running == 0
            && inner.breaker.state(now) == State::Closed
            && inner.closed.values().all(|until| *until <= now)
    }

    /// What the calls are like now.
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
    /// The milliseconds from one free seat to the next.
    fn spacing_ms(&self) -> f64 {
        self.duration_ms / self.seats.max(1) as f64
    }

    fn busy(&mut self, now: Millis) -> Hold {
        let spacing = self.spacing_ms();
        let until = self.busy.next(Millis(now.0 + BUSY_MS), spacing);
        let reason = Cow::Borrowed("tool_busy");
        self.held(Hold { reason, until }, now)
    }

    /// Whether the tool, or the key, is closed; takes no probe.
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

    /// A call begins now; true: it is the probe of the breaker.
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

    /// The call has ended.
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
    /// The seat goes to the next call that waits.
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
            // If nobody waits for it any more, its drop hands it on.
            let _ = next.send(Self::new(&self.tool));
        }
    }
}
