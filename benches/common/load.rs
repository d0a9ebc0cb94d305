//! What the topic `events` holds: admitted events of about 500 bytes of data, Avro as admission writes it.

use std::{fmt::Write as _, sync::Arc};

use omnilink::{
    clock::{Clock, Millis, SystemClock},
    envelope::{Data, Entity, Event, TimeSource, avro},
    id::Tenant,
    log::{Log, Record},
};

use crate::lanes;

/// How the events of one entity lie among the others.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// A hundred entities at a time, their events mixed: a batch holds most events of an entity.
    Near,
    /// All entities mixed: a batch meets most of its entities once.
    Spread,
}

/// Events, and how many each entity has.
#[derive(Clone, Copy)]
pub struct Load {
    pub events: usize,
    pub each: usize,
    pub order: Order,
}

const NEAR: usize = 100;
const BYTES: usize = 500;

impl Load {
    pub fn entities(self) -> usize {
        self.events.div_ceil(self.each)
    }

    /// The entity of event `n`; each has its share.
    fn entity(self, n: usize) -> usize {
        match self.order {
            Order::Near => {
                let block = n / (NEAR * self.each);
                // The last block may have fewer entities.
                let inside = NEAR.min(self.entities() - block * NEAR);
                block * NEAR + n % (NEAR * self.each) % inside
            }
            // All of them, once a round.
            Order::Spread => n % self.entities(),
        }
    }

    /// Appends all of it to a topic.
    pub fn produce(self, log: &dyn Log, topic: &Arc<str>) {
        let now = SystemClock.now();
        lanes::fill(log, topic, self.events, |n| self.record(n, now));
    }

    fn record(self, n: usize, now: Millis) -> Record {
        let key = self.entity(n);
        // Spread over the whole range, as the ids of a shop's orders are by no means in order.
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
            data: Data::Json(data(n, key).into()),
            extensions: "{}".into(),
            tombstone: false,
            idempotency_key: None,
        };
        let mut value = Vec::new();
        // Twenty a millisecond, up to now.
        let received_at = Millis(now.0 - (self.events - n) as i64 / 20);
        avro::encode_event(&event, received_at, &mut value);
        Record {
            key: Some(event.record_key().into()),
            value: Some(value.into()),
            headers: Vec::new(),
        }
    }
}

fn data(n: usize, key: usize) -> String {
    let mut text = format!(
        r#"{{"order":{key},"seq":{n},"state":"paid","amount":{}.5,"customer":{{"id":{},"name":"Customer {}"}},"lines":["#,
        n % 1_000,
        key % 500,
        key % 500
    );
    while text.len() + 40 < BYTES {
        let sku = (n + text.len()) % 10_000;
        let quantity = n % 9;
        write!(text, r#"{{"sku":"A-{sku:04}","quantity":{quantity}}},"#).unwrap();
    }
    text.push_str(r#""end"],"note":""#);
    while text.len() + 2 < BYTES {
        text.push((b'a' + (text.len() % 26) as u8) as char);
    }
    text.push_str("\"}");
    text
}
