//! The sent and accepted events, and what is in flight.

use std::{
    collections::{BTreeMap, HashMap},
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
};

use omnilink::log::Record;
use parking_lot::Mutex;

pub const SOURCE: &str = "/chaos";
pub const ENTITY_TYPE: &str = "thing";
/// The tenant of the first key.
pub const TENANT: &str = "default";

/// One event: the `seq`-th of its entity.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    pub entity: String,
    pub seq: u32,
}

impl Event {
    pub fn id(&self) -> String {
        format!("{}-{}", self.entity, self.seq)
    }

    /// The envelope, with the entity as OmniLink's own fields or as CloudEvents extensions.
    pub fn json(&self, extensions: bool) -> String {
        let entity = if extensions {
            format!(
                r#""entitytype":"{ENTITY_TYPE}","entityid":"{}""#,
                self.entity
            )
        } else {
            format!(
                r#""entity":{{"type":"{ENTITY_TYPE}","external_id":"{}"}}"#,
                self.entity
            )
        };
        format!(
            r#"{{"specversion":"1.0","id":"{}","source":"{SOURCE}","type":"chaos.step",{entity},"data":{}}}"#,
            self.id(),
            self.data()
        )
    }

    pub fn data(&self) -> String {
        let filler = "x".repeat(self.seq as usize * 37 % 400);
        format!(r#"{{"seq":{},"filler":"{filler}"}}"#, self.seq)
    }
}

/// Generates the events of one client, for its own entities in order.
pub struct EventGenerator {
    client: String,
    next: Vec<u32>,
    made: u32,
    quota: u32,
}

const ENTITIES: usize = 8;

impl EventGenerator {
    pub fn new(client: &str, quota: u32) -> Self {
        Self {
            client: client.to_owned(),
            next: vec![1; ENTITIES],
            made: 0,
            quota,
        }
    }

    /// At most `count` more events; empty once the quota is used up.
    pub fn make(&mut self, count: u32, dice: &mut super::plan::Dice) -> Vec<Event> {
        let count = count.min(self.quota - self.made);
        self.made += count;
        let one = |_| {
            let entity = dice.between(0, ENTITIES as u64 - 1) as usize;
            let seq = self.next[entity];
            self.next[entity] += 1;
            Event {
                entity: format!("{}-{entity}", self.client),
                seq,
            }
        };
        (0..count).map(one).collect()
    }
}

#[derive(Default)]
pub struct Ledger {
    /// The number of accepted events of each entity: they are accepted in order, from 1.
    accepted: Mutex<BTreeMap<String, u32>>,
    total: AtomicU64,
    /// HTTP requests and the events in them, and records that Kafka has not acknowledged.
    requests: AtomicI64,
    events: AtomicI64,
    records: AtomicI64,
    retries: AtomicU64,
    repeats: AtomicU64,
    /// Bad records by their mark.
    poison: Mutex<HashMap<String, Record>>,
    /// Unexpected failures of clients.
    troubles: Mutex<Vec<String>>,
}

/// Counts as in flight until it is dropped.
pub struct UnderWay<'a>(&'a Ledger, [i64; 3]);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.add(self.1.map(|n| -n));
    }
}

impl Ledger {
    fn add(&self, [requests, events, records]: [i64; 3]) {
        self.requests.fetch_add(requests, Ordering::Relaxed);
        self.events.fetch_add(events, Ordering::Relaxed);
        self.records.fetch_add(records, Ordering::Relaxed);
    }

    pub fn request(&self, events: usize) -> UnderWay<'_> {
        let change = [1, events as i64, 0];
        self.add(change);
        UnderWay(self, change)
    }

    pub fn record(&self) -> UnderWay<'_> {
        let change = [0, 0, 1];
        self.add(change);
        UnderWay(self, change)
    }

    /// Requests, events in them, records.
    pub fn under_way(&self) -> [i64; 3] {
        [&self.requests, &self.events, &self.records].map(|n| n.load(Ordering::Relaxed))
    }

    pub fn accept(&self, event: &Event) {
        let mut accepted = self.accepted.lock();
        let count = accepted.entry(event.entity.clone()).or_default();
        if *count + 1 == event.seq {
            *count += 1;
            self.total.fetch_add(1, Ordering::Relaxed);
        } else {
            drop(accepted);
            self.trouble(format!("{} was accepted out of turn", event.id()));
        }
    }

    pub fn accepted(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    pub fn by_entity(&self) -> BTreeMap<String, u32> {
        self.accepted.lock().clone()
    }

    pub fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts duplicates that were sent on purpose.
    pub fn repeated(&self, count: usize) {
        self.repeats.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub fn retries_and_repeats(&self) -> (u64, u64) {
        let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
        (read(&self.retries), read(&self.repeats))
    }

    pub fn poison(&self, mark: String, record: Record) {
        self.poison.lock().insert(mark, record);
    }

    pub fn poisons(&self) -> HashMap<String, Record> {
        self.poison.lock().clone()
    }

    pub fn trouble(&self, what: String) {
        let mut troubles = self.troubles.lock();
        if troubles.len() < 50 {
            troubles.push(what);
        }
    }

    pub fn troubles(&self) -> Vec<String> {
        self.troubles.lock().clone()
    }
}
