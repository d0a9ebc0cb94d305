//! What a run does: how many events over how long, which faults, when. All of it follows from the seed, but for the
//! machine's own timing.

use std::time::Duration;

use super::findings::Flaw;
use crate::support::Kind;

/// A small generator of our own (splitmix64), so that a seed means the same after any upgrade.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A client's own.
    pub fn of(seed: u64, name: &str) -> Self {
        Self(seed ^ u64::from(omnilink::log::murmur2(name.as_bytes())))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `low` to `high`, both of them included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    pub fn percent(&mut self, chance: u64) -> bool {
        self.between(0, 99) < chance
    }
}

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// SIGKILL of a node, which is started again.
    Node,
    /// SIGKILL of a node, and of those that are started in its place, some seconds apart.
    Volley,
    /// SIGKILL of the broker, or of one of them.
    Broker,
    /// SIGKILL of Postgres and its children.
    Postgres,
    /// SIGKILL of Redis, which forgets everything.
    Redis,
    /// SIGSTOP of a node while another one runs, then SIGCONT.
    Zombie,
}

/// One run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub kind: Kind,
    pub seed: u64,
    pub events: u32,
    pub per_second: u32,
    /// How many brokers there are: one, or three of which one at a time may be gone.
    pub brokers: u32,
    pub node_kills: u32,
    pub volleys: u32,
    pub broker_kills: u32,
    pub postgres_kills: u32,
    /// With any, the nodes share what they know of requests by Redis.
    pub redis_kills: u32,
    pub zombies: u32,
    /// How long a zombie is stopped.
    pub stopped: Duration,
    /// The bug that is planted, as `OMNILINK_CHAOS_BUG`.
    pub bug: Option<&'static str>,
    /// What must be found of it; none: nothing may be found.
    pub finds: &'static [Flaw],
    /// When everything has been sent: how long nothing may move before the rest counts as lost.
    pub quiet: Duration,
    /// All of it ends within this time.
    pub deadline: Duration,
}

impl Plan {
    /// What runs on every change.
    pub fn short(kind: Kind, seed: u64) -> Self {
        let kafka = kind == Kind::Kafka;
        Self {
            kind,
            seed,
            events: 4_000,
            per_second: if kafka { 60 } else { 160 },
            brokers: 1,
            node_kills: 4,
            volleys: u32::from(kafka),
            broker_kills: u32::from(kafka),
            postgres_kills: 1,
            redis_kills: 0,
            zombies: 0,
            stopped: Duration::from_secs(20),
            bug: None,
            finds: &[],
            quiet: Duration::from_secs(30),
            deadline: Duration::from_mins(4),
        }
    }

    /// What `scripts/chaos` runs.
    pub fn long(kind: Kind, seed: u64, events: u32, brokers: u32) -> Self {
        let mut plan = Self {
            events,
            brokers,
            node_kills: 18,
            volleys: 2,
            postgres_kills: 3,
            ..Self::short(kind, seed)
        };
        // The group waits for a member that was killed.
        let mut seconds_a_fault = 5;
        if kind == Kind::Kafka {
            // Of three, each is killed some times: its leaders move away, and back when it has returned.
            plan.broker_kills = if brokers > 1 { 10 } else { 3 };
            plan.redis_kills = 2;
            plan.zombies = 1;
            seconds_a_fault = 10;
        }
        let faults = plan.faults().len() as u32;
        plan.per_second = (events / (faults * seconds_a_fault)).clamp(10, 250);
        let seconds = events / plan.per_second + faults * 20;
        plan.deadline = Duration::from_secs(600 + 2 * u64::from(seconds));
        plan
    }

    /// When the faults come: each at a random number of accepted events, one in each of as many equal parts of the run.
    pub fn faults(&self) -> Vec<(u64, Fault)> {
        let mut dice = Dice::new(self.seed ^ 0xfa17);
        let mut faults = Vec::new();
        for (count, fault) in [
            (self.node_kills, Fault::Node),
            (self.volleys, Fault::Volley),
            (self.broker_kills, Fault::Broker),
            (self.postgres_kills, Fault::Postgres),
            (self.redis_kills, Fault::Redis),
            (self.zombies, Fault::Zombie),
        ] {
            faults.extend((0..count).map(|_| fault));
        }
        for at in (1..faults.len()).rev() {
            faults.swap(at, dice.between(0, at as u64) as usize);
        }
        let (first, last) = (u64::from(self.events) / 50, u64::from(self.events) * 9 / 10);
        let part = ((last - first) / faults.len().max(1) as u64).max(1);
        let moment = |(n, fault)| (first + n as u64 * part + dice.between(0, part - 1), fault);
        faults.into_iter().enumerate().map(moment).collect()
    }
}
