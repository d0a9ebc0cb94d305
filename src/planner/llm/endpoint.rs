//! One server of a language model: its calls, with retries and a circuit breaker.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper::{
    Request, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, USER_AGENT},
};
use parking_lot::Mutex;

use super::chat::{self, Chat, Completion, Usage};
use crate::{
    base::{backoff::Backoff, clock::Clock},
    config::{BreakerSettings, LanguageModel, Price},
    http::{
        Breaker, BreakerState, Client, EndpointError, Options, Pass, Reach, RequestError,
        retry_after_ms,
    },
    telemetry::metrics::{PLANNER_CALLS, PLANNER_TOKENS},
};

/// The time limit for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The maximum size of an answer, in bytes.
const ANSWER_MAX: usize = 1024 * 1024;
/// The longest pause that an answer may ask for with `Retry-After`; a longer one is no retry.
const PAUSE_MAX_MS: u64 = 20_000;
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(500),
    max: Duration::from_secs(8),
};
const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("OmniLink/", env!("CARGO_PKG_VERSION")));
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A server of a language model.
pub(in crate::planner) struct Endpoint {
    http: Client,
    /// The URL of chat completions.
    url: String,
    authorization: Option<HeaderValue>,
    model: String,
    /// The URL as it may be shown.
    shown: String,
    timeout: Duration,
    price: Option<Price>,
    clock: Arc<dyn Clock>,
    breaker: Mutex<Breaker>,
    /// Why the last call failed, if it did.
    failure: Mutex<Option<String>>,
}

/// A call without a usable answer.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{why}")]
pub(in crate::planner) struct CallFailed {
    /// The reason, for people.
    pub(in crate::planner) why: String,
    /// The tokens that the call used nevertheless.
    pub(in crate::planner) usage: Usage,
}

/// Why one attempt failed.
struct Trouble {
    why: String,
    usage: Usage,
    /// As the metric has it.
    outcome: &'static str,
    /// The server may answer another time.
    retriable: bool,
    /// The server is at fault: it counts for the circuit breaker.
    down: bool,
    /// The pause that the server asks for.
    pause_ms: Option<u64>,
}

/// An attempt, which ends in any case: also if nobody waits for it any more.
struct Attempt<'a> {
    endpoint: &'a Endpoint,
    probe: bool,
    ended: bool,
}

impl Attempt<'_> {
    fn end(mut self, down: bool) {
        let now = self.endpoint.clock.now();
        let mut breaker = self.endpoint.breaker.lock();
        breaker.ended(self.probe, down, now, rand::random());
        self.ended = true;
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.probe && !self.ended {
            self.endpoint.breaker.lock().probe_lost();
        }
    }
}

impl Endpoint {
    /// Does not connect.
    pub(in crate::planner) fn new(
        model: &LanguageModel,
        breaker: BreakerSettings,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, EndpointError> {
        let server = crate::http::Endpoint::new(&model.url)?;
        let bearer = model.api_key.as_ref().map(|key| {
            let mut value = HeaderValue::try_from(format!("Bearer {}", key.expose()))
                .map_err(|_| EndpointError::Authorization(model.url.to_string()))?;
            value.set_sensitive(true);
            Ok(value)
        });
        let authorization = bearer.transpose()?;
        Ok(Self {
            http: Client::new(Options {
                connect_timeout: CONNECT_TIMEOUT,
                timeout: model.timeout,
                max_body_bytes: ANSWER_MAX,
                reach: Reach::Configured,
            }),
            url: format!("{}/chat/completions", server.base()),
            authorization: authorization.or_else(|| server.authorization().cloned()),
            model: model.model.clone(),
            shown: model.url.to_string(),
            timeout: model.timeout,
            price: model.price,
            clock,
            breaker: Mutex::new(Breaker::new(breaker)),
            failure: Mutex::default(),
        })
    }

    /// How people recognise it: the model and the server.
    pub(in crate::planner) fn name(&self) -> String {
        format!("{} at {}", self.model, self.shown)
    }

    /// The model's name.
    pub(in crate::planner) fn model(&self) -> &str {
        &self.model
    }

    /// What a call costs, if the price is known.
    pub(in crate::planner) fn cost(&self, usage: Usage) -> Option<f64> {
        let price = self.price?;
        let cost = usage.input as f64 * price.input + usage.output as f64 * price.output;
        Some(cost / 1_000_000.0)
    }

    /// Why it is not used, or why its last call failed; `None` if it answered.
    pub(in crate::planner) fn trouble(&self) -> Option<String> {
        let state = self.breaker.lock().state(self.clock.now());
        let failure = self.failure.lock().clone();
        match (state, failure) {
            (BreakerState::Closed, failure) => failure,
            (_, None) => Some("its circuit breaker is open".to_owned()),
            (_, Some(why)) => Some(format!("its circuit breaker is open: {why}")),
        }
    }

    /// Asks, up to `attempts` times, until then.
    pub(in crate::planner) async fn ask(
        &self,
        chat: &Chat<'_>,
        attempts: u32,
        until: Instant,
    ) -> Result<Completion, CallFailed> {
        let body = Bytes::from(chat::request(&self.model, chat));
        let mut usage = Usage::default();
        let mut attempt = 0;
        loop {
            if Instant::now() >= until {
                let why = "there was no time left".to_owned();
                return Err(CallFailed { why, usage });
            }
            let trouble = match self.attempt(body.clone(), until).await {
                Ok(mut answer) => {
                    *self.failure.lock() = None;
                    answer.usage = sum(usage, answer.usage);
                    return Ok(answer);
                }
                Err(trouble) => trouble,
            };
            usage = sum(usage, trouble.usage);
            *self.failure.lock() = Some(trouble.why.clone());
            let pause = trouble.pause_ms.map(Duration::from_millis);
            let pause = pause.unwrap_or_default().max(BACKOFF.pause(attempt));
            let soon = trouble.pause_ms.is_none_or(|ms| ms <= PAUSE_MAX_MS);
            attempt += 1;
            let in_time = Instant::now() + pause < until;
            if !trouble.retriable || !soon || !in_time || attempt >= attempts {
                let why = trouble.why;
                return Err(CallFailed { why, usage });
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn attempt(&self, body: Bytes, until: Instant) -> Result<Completion, Trouble> {
        let pass = self.breaker.lock().pass(self.clock.now());
        let probe = match pass {
            Pass::Call => false,
            Pass::Probe => true,
            Pass::Held(_) => {
                let known = self.failure.lock().clone();
                PLANNER_CALLS.counter(&["circuit_open"]).increment(1);
                return Err(Trouble {
                    why: known.unwrap_or_else(|| "its circuit breaker is open".to_owned()),
                    usage: Usage::default(),
                    outcome: "circuit_open",
                    retriable: false,
                    down: false,
                    pause_ms: None,
                });
            }
        };
        let attempt = Attempt {
            endpoint: self,
            probe,
            ended: false,
        };
        let result = self.call(body, until).await;
        attempt.end(result.as_ref().is_err_and(|trouble| trouble.down));
        let (outcome, usage) = match &result {
            Ok(answer) => ("answered", answer.usage),
            Err(trouble) => (trouble.outcome, trouble.usage),
        };
        PLANNER_CALLS.counter(&[outcome]).increment(1);
        PLANNER_TOKENS.counter(&["input"]).increment(usage.input);
        PLANNER_TOKENS.counter(&["output"]).increment(usage.output);
        result
    }

    async fn call(&self, body: Bytes, until: Instant) -> Result<Completion, Trouble> {
        let mut request = Request::post(&self.url)
            .header(CONTENT_TYPE, JSON)
            .header(USER_AGENT, AGENT);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request.body(body).map_err(|error| Trouble {
            why: format!("its URL cannot be requested: {error}"),
            usage: Usage::default(),
            outcome: "refused",
            retriable: false,
            down: false,
            pause_ms: None,
        })?;
        let response = {
            let left = until.saturating_duration_since(Instant::now());
            let limit = self.timeout.min(left);
            self.http.send_within(limit, request).await
        };
        let response = response.map_err(|error| no_answer(&error))?;
        let status = response.status();
        if !status.is_success() {
            let pause = response.headers().get(RETRY_AFTER);
            let pause = pause.and_then(|value| value.to_str().ok());
            let now = self.clock.now();
            let pause_ms = pause.and_then(|value| retry_after_ms(value, now));
            return Err(refused(status, response.body(), pause_ms));
        }
        let (content, usage) = chat::response(response.body());
        match content {
            Ok(content) => Ok(Completion { content, usage }),
            Err(error) => Err(Trouble {
                why: error.to_string(),
                usage,
                outcome: "unusable",
                retriable: false,
                down: false,
                pause_ms: None,
            }),
        }
    }
}

fn sum(a: Usage, b: Usage) -> Usage {
    Usage {
        input: a.input + b.input,
        output: a.output + b.output,
    }
}

fn no_answer(error: &RequestError) -> Trouble {
    let refused = matches!(
        error,
        RequestError::Forbidden(_) | RequestError::NoRoots(_) | RequestError::NoHost
    );
    Trouble {
        why: error.to_string(),
        usage: Usage::default(),
        outcome: "no_answer",
        retriable: !refused && !matches!(error, RequestError::TooLarge { .. }),
        down: true,
        pause_ms: None,
    }
}

fn refused(status: StatusCode, body: &[u8], pause_ms: Option<u64>) -> Trouble {
    let busy = [
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::CONFLICT,
    ];
    let down = status.is_server_error();
    let code = error_code(body).map_or_else(String::new, |code| format!(" ({code})"));
    Trouble {
        why: format!("it answered {}{code}", status.as_u16()),
        usage: Usage::default(),
        outcome: if down { "failed" } else { "refused" },
        retriable: down || busy.contains(&status),
        down,
        pause_ms,
    }
}

/// The code of an error, as most servers have it. The message is left out: it may repeat the key.
fn error_code(body: &[u8]) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    let error = &body["error"];
    let code = error["code"].as_str().or_else(|| error["type"].as_str())?;
    let good = |b: u8| b.is_ascii_lowercase() || b == b'_';
    (code.len() <= 64 && code.bytes().all(good)).then(|| code.to_owned())
}
