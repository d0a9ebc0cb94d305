//! Carries out one step command: the effect over `steps`.

use std::{borrow::Cow, future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use hyper::{Request, Response, http::uri::Authority};
use serde::Deserialize;

use super::{
    answer::{self, Answer, Ended, Failed, OUTPUT_MAX},
    database::CONNECTIONS,
    database_tools::DatabaseTools,
    holds, http_tool,
    lease::lease,
    meters::Meters,
    record_create::Record,
    request,
    results::{NotAppended, Results},
    sealed::{Bound, Use},
    seats::{Hold, ToolState},
    settings::Settings,
    sql_query::Query,
    states::ToolStates,
};
use crate::{
    base::clock::{Clock, Millis},
    commands::result::{HELD, RESULT, StepHeld, StepOutcome, StepResult},
    controls::{Controls, SecretKeys},
    http::{Client, Options, Reach, RequestError},
    limits::{Lease, Limiter, Outcome},
    log::Fetched,
    runs::StepCommand,
    slots::mismatch,
    stream::effect::Effect,
};

/// The time limit for a connection to a worker.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a control holds a call here, in milliseconds. Within that time the run itself learns of the control, and holds the call.
const CONTROL_MS: u64 = 1_000;
/// The interval between calls that are retried after a control has held them, in milliseconds.
const CONTROL_SPACING_MS: f64 = 1.0;

/// The dependencies of the effect.
pub struct Parts {
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The emergency controls.
    pub controls: Arc<Controls>,
    /// The keys that sign leases, and open the values of placeholders.
    pub secrets: Arc<SecretKeys>,
    /// The tools.
    pub tools: ToolStates,
    /// The limiter of tools, over all nodes.
    pub limiter: Limiter,
    /// The writer of results to `commands`.
    pub results: Results,
    /// The hosts that the builtin tool `http` reaches (`allow.http_hosts`), in lower case.
    pub allowed_hosts: Arc<[String]>,
    /// The builtin tools that use Postgres.
    pub database_tools: DatabaseTools,
    /// How long a stop waits for calls in flight; [`super::DRAIN`] in production.
    pub drain: Duration,
}

/// The effect that calls HTTP workers and builtin tools.
pub(super) struct Dispatch {
    parts: Parts,
    workers: Client,
    hosts: Client,
    meters: Meters,
}

/// The `worker` of a step command.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Worker {
    Http { url: String },
    Builtin(String),
    Kafka {},
    Claim {},
}

/// A call that this effect makes.
enum Work {
    Worker { url: String },
    HttpTool,
    SqlQuery,
    RecordCreate,
}

impl Work {
    /// How it uses the input.
    const fn usage(&self) -> Use {
        match self {
            Self::Worker { .. } | Self::RecordCreate => Use::Document,
            Self::HttpTool => Use::Request,
            Self::SqlQuery => Use::Query,
        }
    }
}

/// A call that may go.
enum Call {
    /// To a worker.
    Worker(Request<Bytes>),
    /// To a host of the builtin tool `http`.
    Host(Request<Bytes>),
    Query(Query),
    Record(Record),
}

/// The report to the run of a call.
enum Report {
    Nothing,
    Held(Hold),
    Ended(Ended),
}

impl Effect for Dispatch {
    fn call(
        &self,
        input: Fetched,
        repeated: bool,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.carry_out(input, repeated))
    }
}

impl Dispatch {
    pub(super) fn new(parts: Parts) -> Self {
        let client = |reach| {
            Client::new(Options {
                connect_timeout: CONNECT_TIMEOUT,
                // Overridden by each call.
                timeout: CONNECT_TIMEOUT,
                max_body_bytes: OUTPUT_MAX,
                reach,
            })
        };
        Self {
            workers: client(Reach::Configured),
            hosts: client(Reach::Listed(Arc::clone(&parts.allowed_hosts))),
            meters: Meters::new(),
            parts,
        }
    }

    async fn carry_out(&self, input: Fetched, repeated: bool) {
        let value = input.record.value.as_deref();
        let Some(command) = value.and_then(StepCommand::decode) else {
            return;
        };
        let Some(work) = work(&command) else {
            return;
        };
        // The deadline has passed: the run ends the attempt by itself.
        if self.left(&command).is_zero() {
            return;
        }
        let _share = self.parts.tools.shares().take();
        let report = match Bound::of(&command, work.usage(), &self.parts.secrets) {
            Err(failed) => Report::Ended(Ended::Failed(failed)),
            Ok(bound) => match self.attempt(&bound, &work).await {
                Ok(Report::Ended(ended)) => Report::Ended(bound.conceal(ended)),
                Ok(report) => report,
                Err(hold) => Report::Held(hold),
            },
        };
        self.send_report(&command, report, repeated).await;
    }

    /// The time until the deadline of a call.
    fn left(&self, command: &StepCommand) -> Duration {
        let left = command.deadline.saturating_sub(self.parts.clock.now().0);
        Duration::from_millis(u64::try_from(left).unwrap_or(0))
    }

    async fn attempt(&self, bound: &Bound<'_>, work: &Work) -> Result<Report, Hold> {
        let command = &*bound.command;
        let (tool, settings, call) = match work {
            Work::Worker { url } => {
                let (tool, settings) = self.parts.tools.of(&command.tool, None);
                let request = self.signed(command, url, &settings);
                (tool, settings, request.map(Call::Worker))
            }
            Work::SqlQuery => {
                let queries = &self.parts.database_tools.queries;
                let (tool, settings) = self.parts.tools.of(&command.tool, queries.part(command));
                (tool, settings, queries.query(command).map(Call::Query))
            }
            Work::RecordCreate => {
                let record = self.parts.database_tools.records.record(command);
                let (tool, settings) = self.parts.tools.of(&command.tool, None);
                (tool, settings, record.map(Call::Record))
            }
            Work::HttpTool => {
                let request = http_tool::request(command);
                // Each host has its own seats and breaker.
                let host = request
                    .as_ref()
                    .ok()
                    .and_then(|request| request.uri().authority());
                let host = host.map(Authority::as_str);
                let (tool, settings) = self.parts.tools.of(&command.tool, host);
                (tool, settings, request.map(Call::Host))
            }
        };
        self.check_controls(command, &tool, &settings)?;
        let call = call.and_then(|call| {
            let wrong = bound.unchecked.then(|| settings.mismatch(command));
            match wrong.flatten() {
                None => Ok(call),
                Some(at) => Err(Failed::permanent("invalid_input", mismatch(&at))),
            }
        });
        let call = match call {
            Ok(call) => call,
            Err(failed) => return Ok(Report::Ended(Ended::Failed(failed))),
        };
        let seats = match call {
            Call::Worker(_) | Call::Host(_) => settings.concurrency,
            // More would only wait for a connection.
            Call::Query(_) | Call::Record(_) => settings.concurrency.min(CONNECTIONS),
        };
        let key = settings.limit_key(command);
        let left = self.left(command);
        let seat = tool.seat(seats, &key, left).await?;
        let _lease = self.limit(command, &tool, &settings, &key).await?;
        // Checked again, because the waits may have been long.
        self.check_controls(command, &tool, &settings)?;
        let left = self.left(command);
        if left.is_zero() {
            return Ok(Report::Nothing);
        }
        let answer = self.call(command, call, left).await;
        self.meters.called(&answer);
        seat.ended(&answer);
        Ok(match answer.ended {
            None => Report::Nothing,
            Some(ended) => Report::Ended(ended),
        })
    }

    /// Builds and signs the request to a worker.
    fn signed(
        &self,
        command: &StepCommand,
        url: &str,
        settings: &Settings,
    ) -> Result<Request<Bytes>, Failed> {
        let key = match &settings.key {
            None => None,
            Some(Ok(key)) => Some(key),
            Some(Err(error)) => {
                return Err(Failed::retryable("secret_unavailable", error.to_string()));
            }
        };
        let lease = match &command.lease {
            Some(lease) => lease.clone(),
            None => lease(&self.parts.secrets, &command.tenant, &command.task_id),
        };
        let body = request::body(command, &lease)
            .map_err(|e| Failed::permanent("invalid_input", e.to_string()))?;
        request::request(url, command, body, key, self.parts.clock.now())
            .map_err(|e| Failed::permanent("invalid_url", e.to_string()))
    }

    async fn call(&self, command: &StepCommand, call: Call, left: Duration) -> Answer {
        let kind = command.kind();
        match call {
            Call::Worker(request) => {
                let response = self.workers.send_within(left, request).await;
                self.read(command, response, |response, now| {
                    let (status, headers) = (response.status(), response.headers());
                    answer::from_worker(kind, status, headers, response.body(), now)
                })
            }
            Call::Host(request) => {
                let response = self.hosts.send_within(left, request).await;
                self.read(command, response, |response, now| {
                    http_tool::answer(kind, response, now)
                })
            }
            // In boxes of their own: they are large, and each call would carry the room for them.
            Call::Query(query) => Box::pin(query.answer(left)).await,
            Call::Record(record) => Box::pin(record.answer(left)).await,
        }
    }

    /// What a response means, or that there is none.
    fn read(
        &self,
        command: &StepCommand,
        response: Result<Response<Bytes>, RequestError>,
        answered: impl FnOnce(&Response<Bytes>, Millis) -> Answer,
    ) -> Answer {
        let now = self.parts.clock.now();
        match response {
            Err(error) => answer::from_error(command.kind(), &error, now),
            Ok(response) => answered(&response, now),
        }
    }

    /// Fails if an emergency control holds calls of the tool.
    fn check_controls(
        &self,
        command: &StepCommand,
        tool: &ToolState,
        settings: &Settings,
    ) -> Result<(), Hold> {
        let emergency = self.parts.controls.emergency();
        let Some(reason) = holds::reason(&emergency, &command.tool, settings.kind()) else {
            return Ok(());
        };
        Err(tool.hold(reason, CONTROL_MS, CONTROL_SPACING_MS))
    }

    /// Counts the call in the tool's limits over all nodes. The lease counts it as concurrent until it is dropped.
    async fn limit(
        &self,
        command: &StepCommand,
        tool: &ToolState,
        settings: &Settings,
        key: &str,
    ) -> Result<Option<Lease>, Hold> {
        let Some(ask) = settings.ask(&command.tool, key) else {
            return Ok(None);
        };
        // In a box, as in `call`: only calls with a limit need its room.
        let decision = Box::pin(self.parts.limiter.take(&ask)).await;
        let wait_ms = decision.tightest.map_or(0, |tightest| tightest.wait_ms);
        match decision.outcome {
            Outcome::Granted { grants, lease } if grants.all() => Ok(lease),
            Outcome::Busy => Err(tool.busy()),
            Outcome::Granted { .. } | Outcome::Unavailable(_) => {
                let spacing = settings.rate_spacing_ms().unwrap_or(CONTROL_SPACING_MS);
                Err(tool.hold(Cow::Borrowed("rate_limited"), wait_ms, spacing))
            }
        }
    }

    async fn send_report(&self, command: &StepCommand, report: Report, repeated: bool) {
        let attempt = u32::try_from(command.attempt).unwrap_or(0);
        let now: Millis = self.parts.clock.now();
        let results = &self.parts.results;
        let appended = match report {
            Report::Nothing => return,
            Report::Held(hold) => {
                Meters::held(&hold.reason);
                let held = StepHeld {
                    step_id: command.step_id.clone(),
                    attempt,
                    kind: command.kind(),
                    reason: hold.reason.into_owned(),
                    until: Some(hold.until),
                    maybe_called: repeated,
                };
                results.send(command, HELD, &held, now).await
            }
            Report::Ended(ended) => {
                let mut result = result(command, attempt, ended);
                // The earlier call, whose answer was lost, may have succeeded.
                let may_retry = result.error.as_ref().is_some_and(|error| error.retryable);
                result.answered &= !(repeated && may_retry);
                results.send(command, RESULT, &result, now).await
            }
        };
        match appended {
            Ok(()) => {}
            // Never returns, so the call does not count as finished and the next owner of the partition repeats it.
            Err(NotAppended::Closing(_)) => std::future::pending().await,
            Err(error @ (NotAppended::Json(_) | NotAppended::Avro(_))) => {
                tracing::error!(task = command.task_id, %error, "the outcome of a call was not recorded");
            }
        }
    }
}

/// The call of a step command; `None` if another kind of worker makes it.
fn work(command: &StepCommand) -> Option<Work> {
    match serde_json::from_str(&command.worker) {
        Ok(Worker::Http { url }) => Some(Work::Worker { url }),
        Ok(Worker::Builtin(name)) => match &*name {
            "http" => Some(Work::HttpTool),
            "sql_query" => Some(Work::SqlQuery),
            "record_create" => Some(Work::RecordCreate),
            _ => None,
        },
        Ok(Worker::Kafka {} | Worker::Claim {}) => None,
        Err(error) => {
            tracing::warn!(task = command.task_id, %error, "the worker of a step command is not known");
            None
        }
    }
}

fn result(command: &StepCommand, attempt: u32, ended: Ended) -> StepResult {
    let mut result = StepResult {
        step_id: command.step_id.clone(),
        attempt,
        kind: command.kind(),
        outcome: StepOutcome::Succeeded,
        output: None,
        error: None,
        retry_after_ms: None,
        answered: true,
    };
    match ended {
        Ended::Succeeded(output) => result.output = Some(output),
        Ended::Failed(failed) => {
            result.outcome = StepOutcome::Failed;
            result.error = Some(failed.error);
            result.retry_after_ms = failed.retry_after_ms;
            result.answered = failed.answered;
        }
    }
    result
}
