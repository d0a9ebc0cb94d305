//! HTTP clients: one event per request, or a batch. Without a response, or after a 409 or 503, they back off and retry.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;

use super::{
    Run,
    ledger::{ENTITY_TYPE, Event, EventGenerator, SOURCE},
    plan::Dice,
};

/// OmniLink reports within 5 s that the log does not respond.
const PATIENCE: Duration = Duration::from_secs(8);
/// Back-off: doubled up to this.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// The percentage of accepted requests that are sent again with a new `Idempotency-Key`, like by a client that lost its state. The
/// port accepts them as new; admission must detect the duplicates.
const REPEATED: u64 = 5;

type Http = Client<HttpConnector, Full<Bytes>>;

/// The format of a client.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Structured,
    Binary,
    /// At most this many in a request.
    Batch(u32),
}

/// Sends `quota` events, spread over `over`.
pub async fn client(
    run: Arc<Run>,
    name: String,
    style: Style,
    quota: u32,
    over: Duration,
    key: String,
) {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(Duration::from_secs(2)));
    let mut sender = Sender {
        http: Client::builder(TokioExecutor::new()).build(connector),
        dice: Dice::of(run.plan.seed, &name),
        attempts: 0,
        run,
        style,
        key,
    };
    let most = if let Style::Batch(most) = style {
        most
    } else {
        1
    };
    let mean = f64::from(most + 1) / 2.0;
    let period = over.div_f64(f64::from(quota.max(1)) / mean);
    let mut due = sender.run.every(period);
    let mut generator = EventGenerator::new(&name, quota);
    loop {
        due.tick().await;
        let count = sender.dice.between(1, u64::from(most)) as u32;
        let events = generator.make(count, &mut sender.dice);
        if events.is_empty() || !sender.deliver(events).await {
            return;
        }
    }
}

struct Sender {
    run: Arc<Run>,
    http: Http,
    style: Style,
    key: String,
    dice: Dice,
    attempts: usize,
}

/// The outcome of a request.
enum Outcome {
    /// Whether each item was accepted.
    Items(Vec<bool>),
    /// Unknown: retry.
    Again,
    /// An unexpected refusal.
    Wrong(String),
}

impl Sender {
    /// Retries until all are accepted; false if the run is over.
    async fn deliver(&mut self, events: Vec<Event>) -> bool {
        let mut left = events.clone();
        let mut pause = Duration::from_millis(20);
        while !left.is_empty() {
            if self.run.over() {
                return false;
            }
            match self.send(&left, None).await {
                Outcome::Items(accepted) => {
                    let mut items = accepted.into_iter();
                    left.retain(|event| {
                        let accepted = items.next().unwrap_or(false);
                        if accepted {
                            self.run.ledger.accept(event);
                        }
                        !accepted
                    });
                }
                Outcome::Again => {}
                Outcome::Wrong(why) => {
                    self.run.ledger.trouble(why);
                    return false;
                }
            }
            if !left.is_empty() {
                self.run.ledger.retried();
                let jitter = self.dice.between(50, 100) as u32;
                tokio::time::sleep(pause * jitter / 100).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
        if self.dice.percent(REPEATED) {
            let again = format!("again-{}", events[0].id());
            self.run.ledger.repeated(events.len());
            // Sent once, whatever the outcome.
            drop(self.send(&events, Some(again)).await);
        }
        true
    }

    async fn send(&mut self, events: &[Event], idempotency_key: Option<String>) -> Outcome {
        self.attempts += 1;
        let Some(address) = self.run.nodes.address(self.attempts) else {
            return Outcome::Again;
        };
        let request = self.request(&address, events, idempotency_key);
        let exchange = async {
            let _under_way = self.run.ledger.request(events.len());
            let response = self.http.request(request).await.ok()?;
            let status = response.status();
            let body = response.into_body().collect().await.ok()?.to_bytes();
            Some((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
        };
        match tokio::time::timeout(PATIENCE, exchange).await {
            Ok(Some((status, body))) => judge(status, &body, events),
            _ => Outcome::Again,
        }
    }

    fn request(
        &self,
        address: &str,
        events: &[Event],
        idempotency_key: Option<String>,
    ) -> Request<Full<Bytes>> {
        let mut request = Request::post(format!("http://{address}/v1/events"))
            .header("authorization", format!("Bearer {}", self.key));
        if let Some(key) = idempotency_key {
            request = request.header("idempotency-key", key);
        }
        let body = match self.style {
            Style::Structured => {
                request = request.header("content-type", "application/json");
                events[0].json(false)
            }
            Style::Batch(_) => {
                request = request.header("content-type", "application/cloudevents-batch+json");
                let items: Vec<_> = events.iter().map(|e| e.json(true)).collect();
                format!("[{}]", items.join(","))
            }
            Style::Binary => {
                request = request
                    .header("content-type", "application/json")
                    .header("ce-specversion", "1.0")
                    .header("ce-id", events[0].id())
                    .header("ce-source", SOURCE)
                    .header("ce-type", "chaos.step")
                    .header("ce-entitytype", ENTITY_TYPE)
                    .header("ce-entityid", events[0].entity.clone());
                events[0].data()
            }
        };
        request.body(Full::new(body.into())).unwrap()
    }
}

fn judge(status: StatusCode, body: &Value, events: &[Event]) -> Outcome {
    let wrong = || {
        Outcome::Wrong(format!(
            "{} was answered with {status}: {body}",
            events[0].id()
        ))
    };
    if matches!(status.as_u16(), 408 | 409 | 429 | 500..) {
        return Outcome::Again;
    }
    if status != StatusCode::ACCEPTED {
        return wrong();
    }
    let Some(results) = body["results"]
        .as_array()
        .filter(|r| r.len() == events.len())
    else {
        return wrong();
    };
    let mut accepted = Vec::with_capacity(results.len());
    for result in results {
        let code = result["error"]["code"].as_str().unwrap_or_default();
        match result["status"].as_str().unwrap_or_default() {
            "ingested" | "duplicate" => accepted.push(true),
            "error" if matches!(code, "log_unavailable" | "idempotency_in_flight") => {
                accepted.push(false);
            }
            _ => return wrong(),
        }
    }
    Outcome::Items(accepted)
}
