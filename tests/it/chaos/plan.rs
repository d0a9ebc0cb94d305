//! The plan of a run: number of events, duration, faults and their times. It is determined by the seed, except for the timing of
//! the machine.

use std::time::Duration;

use super::findings::Flaw;
use crate::support::LogKind;

/// A small random generator (splitmix64) of our own, so that a seed gives the same plan after upgrades of libraries.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The generator of one client.
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

    /// A number from `low` to `high`, inclusive.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    pub fn percent(&mut self, chance: u64) -> bool {
        self.between(0, 99) < chance
    }
}

/// A fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// SIGKILL of a node, which is restarted.
    Node,
    /// SIGKILL of a node, and again after each restart, some seconds apart.
    Volley,
    /// SIGKILL of the broker, or of one of them.
    Broker,
    /// SIGKILL of Postgres and its children.
    Postgres,
    /// SIGKILL of Redis, which loses its data.
    Redis,
    /// SIGSTOP of a node while another one runs, then SIGCONT.
    Zombie,
}

/// One run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub kind: LogKind,
    pub seed: u64,
    pub events: u32,
    pub per_second: u32,
    /// The number of brokers: one, or three of which one at a time may be down.
    pub brokers: u32,
    pub node_kills: u32,
    pub volleys: u32,
    pub broker_kills: u32,
    pub postgres_kills: u32,
    /// Kills of Redis; with any, the nodes use Redis.
    pub redis_kills: u32,
    pub zombies: u32,
    /// How long a node is stopped.
    pub stopped: Duration,
    /// The planted bug, as in `OMNILINK_CHAOS_BUG`.
    pub bug: Option<&'static str>,
    /// The flaws of which one must be found; if empty, none may be found.
    pub finds: &'static [Flaw],
    /// After everything is sent: time without changes after which missing events count as lost.
    pub quiet: Duration,
    /// Time limit of the run.
    pub deadline: Duration,
}

impl Plan {
    /// The plan of the tests.
    pub fn short(kind: LogKind, seed: u64) -> Self {
        let kafka = kind == LogKind::Kafka;
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

    /// The plan of `scripts/chaos`.
    pub fn long(kind: LogKind, seed: u64, events: u32, brokers: u32) -> Self {
        let mut plan = Self {
            events,
            brokers,
            node_kills: 18,
            volleys: 2,
            postgres_kills: 3,
            ..Self::short(kind, seed)
        };
        // The group waits for the session timeout of a killed member.
        let mut seconds_a_fault = 5;
        if kind == LogKind::Kafka {
            // Each of three brokers is killed several times, so that leaders move.
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

    /// The times of the faults, as numbers of accepted events: one random number in each of as many equal parts of the run.
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
