//! Records of the topic `events`: admitted events, in Avro as admission writes it.
#![allow(dead_code, reason = "not every bench uses all of it")]

use std::{fmt::Write as _, sync::Arc};

use omnilink::{
    base::{
        clock::{Clock, Millis, SystemClock},
        id::Tenant,
    },
    envelope::{Data, Entity, Event, TimeSource, avro},
    log::{Log, Record},
};

use crate::lanes;

/// How the events of entities are interleaved.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Of a hundred entities at a time: a batch has most events of an entity.
    Near,
    /// Of all entities: a batch has one event of most of its entities.
    Spread,
}

/// The events to produce.
#[derive(Clone, Copy)]
pub struct Load {
    pub events: usize,
    pub each: usize,
    pub order: Order,
    /// Bytes of data; the rest of an event has about a hundred more.
    pub bytes: usize,
    /// One event in this many is repeated, about ten thousand events later.
    pub repeats: Option<usize>,
}

const NEAR: usize = 100;
/// The approximate distance of a repeated event.
const REPEAT_DISTANCE: usize = 10_000;

impl Load {
    pub fn entities(self) -> usize {
        self.events.div_ceil(self.each)
    }

    /// The number of events without repeats.
    pub fn distinct(self) -> usize {
        (0..self.events).filter(|n| self.original(*n) == *n).count()
    }

    /// The number of the event in record `n`.
    fn original(self, n: usize) -> usize {
        let Some(every) = self.repeats else {
            return n;
        };
        // The distance is chosen so that the original is not a repeat itself.
        let back = REPEAT_DISTANCE.div_ceil(every).min(self.events / every / 2) * every + 1;
        if n % every == every - 1 && n >= back {
            n - back
        } else {
            n
        }
    }

    /// The entity of event `n`; all have the same number of events.
    fn entity(self, n: usize) -> usize {
        match self.order {
            Order::Near => {
                let block = n / (NEAR * self.each);
                // The last block may have fewer entities.
                let inside = NEAR.min(self.entities() - block * NEAR);
                block * NEAR + n % (NEAR * self.each) % inside
            }
            // Round robin.
            Order::Spread => n % self.entities(),
        }
    }

    /// Bytes of a record, key and value.
    pub fn weight(self) -> usize {
        let record = self.stamped(0, 0);
        let length = |bytes: Option<bytes::Bytes>| bytes.map_or(0, |b| b.len());
        length(record.key) + length(record.value)
    }

    /// Appends all of it to a topic.
    pub fn produce(self, log: &dyn Log, topic: &Arc<str>) {
        let now = SystemClock.now();
        lanes::fill(log, topic, self.events, |n| {
            self.record(self.original(n), now, 0)
        });
    }

    /// Appends the same as JSON to a foreign topic, keyed by the order.
    pub fn produce_foreign(self, log: &dyn Log, topic: &Arc<str>) {
        lanes::fill(log, topic, self.events, |n| {
            let n = self.original(n);
            let key = self.entity(n);
            let data = self.data(n, key, 0);
            let value = format!(r#"{{"id":"evt-{n:012}","type":"order.paid","data":{data}}}"#);
            Record {
                key: Some(key.to_string().into()),
                value: Some(value.into()),
                headers: Vec::new(),
            }
        });
    }

    /// The record of an event whose data contain the time of sending.
    pub fn stamped(self, n: usize, sent: u64) -> Record {
        self.record(n, SystemClock.now(), sent)
    }

    fn record(self, n: usize, now: Millis, sent: u64) -> Record {
        let key = self.entity(n);
        // Ids are not in order, as in a real shop.
        let external_id = format!("order-{:010}", key as u64 * 2_654_435_761 % 10_000_000_000);
        let event = Event {
            tenant: Tenant::new("acme").unwrap(),
            id: format!("evt-{n:012}").into(),
            source: "/shop/orders".into(),
            kind: "order.paid".into(),
            subject: None,
            entity: Some(Entity {
                kind: "order".into(),
                external_id: external_id.into(),
                display_name: None,
            }),
            correlation_id: Some("c-5d0e3b".into()),
            causation_id: None,
            time: now.0 * 1000 + n as i64,
            time_source: TimeSource::Producer,
            data: Data::Json(self.data(n, key, sent).into()),
            extensions: "{}".into(),
            tombstone: false,
            idempotency_key: None,
        };
        let mut value = Vec::new();
        // Twenty per millisecond, up to now.
        let received_at = Millis(now.0 - self.events.saturating_sub(n) as i64 / 20);
        avro::encode_event(&event, received_at, &mut value);
        Record {
            key: Some(event.record_key().into()),
            value: Some(value.into()),
            headers: Vec::new(),
        }
    }

    fn data(self, n: usize, key: usize, sent: u64) -> String {
        let mut text = format!(
            r#"{{"order":{key},"seq":{n},"sent":{sent},"state":"paid","amount":{}.5,"customer":{{"id":{},"name":"Customer {}"}},"lines":["#,
            n % 1_000,
            key % 500,
            key % 500
        );
        while text.len() + 40 < self.bytes {
            let sku = (n + text.len()) % 10_000;
            let quantity = n % 9;
            write!(text, r#"{{"sku":"A-{sku:04}","quantity":{quantity}}},"#).unwrap();
        }
        text.push_str(r#""end"],"note":""#);
        while text.len() + 2 < self.bytes {
            text.push((b'a' + (text.len() % 26) as u8) as char);
        }
        text.push_str("\"}");
        text
    }
}

/// The time of sending in a value of any format that contains the data as text.
pub fn sent(value: &[u8]) -> u64 {
    const BEFORE: &[u8] = b"\"sent\":";
    let at = memchr::memmem::find(value, BEFORE).unwrap() + BEFORE.len();
    let digits = value[at..].iter().take_while(|b| b.is_ascii_digit());
    digits.fold(0, |all, digit| all * 10 + u64::from(digit - b'0'))
}
