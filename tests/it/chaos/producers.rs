//! Kafka producers: idempotent, each entity in order, in three formats, with their own keys; and now and then an invalid record.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use omnilink::log::Record;
use rdkafka::{
    ClientConfig,
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord, Producer},
};

use super::{
    Run,
    ledger::{ENTITY_TYPE, Event, EventGenerator, SOURCE, TENANT},
    plan::Dice,
};

/// Longer than a killed broker needs to restart.
const DELIVERY_MS: &str = "180000";
/// Events sent before the first is acknowledged.
const TOGETHER: u32 = 10;
/// Percentages of rounds that are sent again, and that have a bad record.
const REPEATED: u64 = 5;
const POISONED: u64 = 10;
/// The header that identifies a bad record.
pub const MARK: &str = "chaos-mark";

/// The format and keys of a producer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// CloudEvents in binary mode, with OmniLink's keys.
    Binary,
    /// Structured mode, sometimes in batches, all with one key of the producer.
    Structured,
    /// JSON without a content type, keyed by entity, but not with OmniLink's keys.
    Bare,
}

/// Sends `quota` events, spread over `over`.
pub async fn producer(run: Arc<Run>, name: String, style: Style, quota: u32, over: Duration) {
    let made: Result<FutureProducer, _> = ClientConfig::new()
        .set("bootstrap.servers", &run.brokers)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", "5")
        .set("message.timeout.ms", DELIVERY_MS)
        .set("reconnect.backoff.max.ms", "1000")
        .set("partitioner", "murmur2_random")
        .set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg)
        .create();
    let mut sender = Sender {
        producer: made.unwrap(),
        dice: Dice::of(run.plan.seed, &name),
        name,
        poisons: 0,
        run,
        style,
    };
    let period = over.div_f64(f64::from(quota.max(1)) * 2.0 / f64::from(TOGETHER + 1));
    let mut due = sender.run.every(period);
    let mut generator = EventGenerator::new(&sender.name, quota);
    while !sender.run.over() {
        due.tick().await;
        let count = sender.dice.between(1, u64::from(TOGETHER)) as u32;
        let events = generator.make(count, &mut sender.dice);
        if events.is_empty() {
            return;
        }
        if let Err(why) = sender.round(&events).await {
            let why = format!("{}: a record was not delivered: {why}", sender.name);
            sender.run.ledger.trouble(why);
            return;
        }
    }
}

struct Sender {
    run: Arc<Run>,
    producer: FutureProducer,
    dice: Dice,
    name: String,
    style: Style,
    poisons: u32,
}

fn text(headers: &[(&str, &str)]) -> Vec<(String, Option<Bytes>)> {
    headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), Some((*value).to_owned().into())))
        .collect()
}

impl Sender {
    async fn round(&mut self, events: &[Event]) -> Result<(), String> {
        let mut records = match self.style {
            Style::Structured if events.len() > 1 && self.dice.percent(20) => {
                vec![self.batch(events)]
            }
            _ => events.iter().map(|event| self.record(event)).collect(),
        };
        let repeated = self.dice.percent(REPEATED).then(|| records.clone());
        if self.dice.percent(POISONED) {
            let at = self.dice.between(0, records.len() as u64) as usize;
            let poison = self.poison();
            records.insert(at, poison);
        }
        self.send(&records).await?;
        for event in events {
            self.run.ledger.accept(event);
        }
        if let Some(records) = repeated {
            self.run.ledger.repeated(events.len());
            self.send(&records).await?;
        }
        Ok(())
    }

    /// Sends all records, then waits for all acknowledgements.
    async fn send(&self, records: &[Record]) -> Result<(), String> {
        let mut deliveries = Vec::with_capacity(records.len());
        for record in records {
            let headers = record
                .headers
                .iter()
                .fold(OwnedHeaders::new(), |all, (key, value)| {
                    all.insert(Header {
                        key,
                        value: value.as_deref(),
                    })
                });
            let mut sent: FutureRecord<'_, [u8], [u8]> =
                FutureRecord::to(&self.run.names.ingress).headers(headers);
            if let Some(key) = &record.key {
                sent = sent.key(key);
            }
            if let Some(value) = &record.value {
                sent = sent.payload(value);
            }
            let delivery = self
                .producer
                .send_result(sent)
                .map_err(|(e, _)| e.to_string())?;
            let under_way = self.run.ledger.record();
            deliveries.push(async move {
                let result = delivery.await;
                drop(under_way);
                result
            });
        }
        for delivery in join_all(deliveries).await {
            match delivery {
                Ok(Ok(_)) => {}
                Ok(Err((error, _))) => {
                    let fatal = self.producer.client().fatal_error();
                    return Err(format!("{error} (fatal: {fatal:?})"));
                }
                Err(_) => return Err("the producer is gone".into()),
            }
        }
        Ok(())
    }

    fn record(&self, event: &Event) -> Record {
        let id = event.id();
        let (key, value, headers) = match self.style {
            Style::Binary => (
                format!("{TENANT}/{ENTITY_TYPE}/{}", event.entity),
                event.data(),
                vec![
                    ("content-type", "application/json"),
                    ("ce_specversion", "1.0"),
                    ("ce_id", &id),
                    ("ce_source", SOURCE),
                    ("ce_type", "chaos.step"),
                    ("ce_entitytype", ENTITY_TYPE),
                    ("ce_entityid", &event.entity),
                ],
            ),
            Style::Structured => (
                self.name.clone(),
                event.json(true),
                vec![("content-type", "application/cloudevents+json")],
            ),
            Style::Bare => (event.entity.clone(), event.json(false), Vec::new()),
        };
        let mut headers = text(&headers);
        headers.extend(text(&[("omnilink-tenant", TENANT)]));
        Record {
            key: Some(key.into()),
            value: Some(value.into()),
            headers,
        }
    }

    /// One record with all events and a bad item.
    fn batch(&mut self, events: &[Event]) -> Record {
        let mark = self.mark();
        let bad = format!(r#"{{"specversion":"1.0","id":"","of":"{mark}"}}"#);
        let mut items: Vec<_> = events.iter().map(|e| e.json(true)).collect();
        let at = self.dice.between(0, items.len() as u64) as usize;
        items.insert(at, bad.clone());
        let record = Record {
            key: Some(self.name.clone().into()),
            value: Some(format!("[{}]", items.join(",")).into()),
            headers: text(&[
                ("content-type", "application/cloudevents-batch+json"),
                ("omnilink-tenant", TENANT),
                (MARK, &mark),
            ]),
        };
        let dead = Record {
            value: Some(bad.into()),
            ..record.clone()
        };
        self.run.ledger.poison(mark, dead);
        record
    }

    fn mark(&mut self) -> String {
        self.poisons += 1;
        format!("{}-{}", self.name, self.poisons)
    }

    fn poison(&mut self) -> Record {
        let mark = self.mark();
        let record = poison(&mark, &mut self.dice);
        self.run.ledger.poison(mark, record.clone());
        record
    }
}

/// A record that admission must reject.
pub fn poison(mark: &str, dice: &mut Dice) -> Record {
    let good =
        format!(r#"{{"specversion":"1.0","id":"{mark}","source":"{SOURCE}","type":"t","data":1}}"#);
    let (value, headers): (Option<Vec<u8>>, Vec<(&str, &str)>) = match dice.between(0, 4) {
        0 => (
            Some(format!("\u{1}not JSON {mark}").into()),
            vec![("omnilink-tenant", TENANT)],
        ),
        1 => (Some(good.into()), vec![]),
        2 => (
            Some(b"{}".to_vec()),
            vec![
                ("omnilink-tenant", TENANT),
                ("ce_specversion", "1.0"),
                ("ce_id", ""),
                ("ce_source", SOURCE),
                ("ce_type", "t"),
            ],
        ),
        3 => (
            Some([b"\0\0\0\0\x07", mark.as_bytes(), b"\xff\xfe"].concat()),
            vec![("omnilink-tenant", TENANT)],
        ),
        _ => (None, vec![("omnilink-tenant", TENANT)]),
    };
    let mut headers = text(&headers);
    headers.extend([
        (MARK.to_owned(), Some(mark.to_owned().into())),
        ("empty".to_owned(), None),
    ]);
    Record {
        key: dice.percent(70).then(|| format!("poison-{mark}").into()),
        value: value.map(Into::into),
        headers,
    }
}
