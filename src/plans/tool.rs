//! The definition of a tool.

use std::{collections::BTreeMap, fmt};

use serde_json::Value;

use super::{
    expression::Template,
    fault::{Fault, Pointer},
    read::{Faults, Object, is_name, listed},
    step::{ATTEMPT_SECONDS_MAX, Call, OnExhausted, Retry, SECONDS_MAX},
};

/// A tool.
#[derive(Clone, PartialEq, Debug)]
pub struct Tool {
    /// Its unique name.
    pub name: String,
    /// What it does.
    pub description: String,
    /// JSON Schema 2020-12 of its input; by default `true`.
    pub input_schema: Value,
    /// Who does the work.
    pub worker: Worker,
    /// What kind of action it is; `None` is unknown.
    pub kind: Option<Kind>,
    /// How risky it is.
    pub risk: Risk,
    /// The call that undoes a call of this tool, unless the step has its own; `step.input` and `step.output` are those of the call.
    pub compensate: Option<Call>,
    /// Its calls cannot be undone.
    pub irreversible: bool,
    /// The time limit of an attempt, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// Its retry policy.
    pub retry: Retry,
    /// Limits of its calls over all nodes.
    pub limit: Option<Limit>,
    /// What happens when all attempts are used up.
    pub on_exhausted: Option<OnExhausted>,
    /// How long a call waits until a worker claims it, in milliseconds.
    pub queue_timeout_ms: Option<u64>,
    /// It may receive the plain values of sealed slots.
    pub pii_plain: bool,
}

/// Who does the work of a tool.
#[derive(Clone, PartialEq, Eq)]
pub enum Worker {
    /// A server that is called.
    Http {
        /// Its URL.
        url: String,
        /// The secret that requests are signed with, or a reference to it (`env:`, `file:`). Never part of a run.
        secret: Option<String>,
    },
    /// A consumer of the topic `steps`.
    Kafka,
    /// A program that claims calls over HTTP.
    Claim,
    /// OmniLink itself.
    Builtin(Builtin),
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Without the secret, and without the URL, which may hold credentials.
            Self::Http { .. } => f.write_str("Http"),
            Self::Kafka => f.write_str("Kafka"),
            Self::Claim => f.write_str("Claim"),
            Self::Builtin(builtin) => write!(f, "Builtin({builtin:?})"),
        }
    }
}

/// A builtin tool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Builtin {
    /// Returns its input.
    Noop,
    /// Appends an event.
    Emit,
    /// Waits for a time or a signal.
    Wait,
    /// Waits for a person's decision.
    Approve,
    /// Sends a request to an allowed host.
    Http,
    /// Reads rows of a Postgres.
    SqlQuery,
    /// Adds a row to a table of a Postgres.
    RecordCreate,
}

impl Builtin {
    pub(super) const ALL: [Self; 7] = [
        Self::Noop,
        Self::Emit,
        Self::Wait,
        Self::Approve,
        Self::Http,
        Self::SqlQuery,
        Self::RecordCreate,
    ];

    /// Its name as a tool.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Noop => "noop",
            Self::Emit => "emit",
            Self::Wait => "wait",
            Self::Approve => "approve",
            Self::Http => "http",
            Self::SqlQuery => "sql_query",
            Self::RecordCreate => "record_create",
        }
    }

    /// Whether it reaches other systems. Such a call is an effect of its own, as those of workers are; all others are part of the run.
    pub const fn is_effect(self) -> bool {
        matches!(self, Self::Http | Self::SqlQuery | Self::RecordCreate)
    }
}

/// What kind of action a tool is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Reads data without changing anything.
    Read,
    /// Creates or changes data.
    Write,
    /// Deletes data.
    Delete,
    /// Makes a payment.
    Payment,
    /// Sends a message to people.
    Message,
}

/// How risky a tool is.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Risk {
    /// `None` is unknown.
    pub lane: Option<Lane>,
    /// Thresholds of values of the input, by their paths, such as `amount` or `order.total`.
    pub params: BTreeMap<String, Thresholds>,
}

/// Whether calls of a tool need approval.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lane {
    /// Runs without approval.
    Safe,
    /// Waits for a person's approval.
    Sensitive,
    /// Is never called.
    Blocked,
}

/// The values from which a parameter counts as yellow or red.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Thresholds {
    /// Yellow from here on.
    pub yellow: Option<f64>,
    /// Red from here on.
    pub red: Option<f64>,
}

/// Limits of a tool's calls.
#[derive(Clone, PartialEq, Debug)]
pub struct Limit {
    /// Maximum number of concurrent calls.
    pub concurrency: Option<u64>,
    /// A rate limit: a maximum number of calls in a time window.
    pub rate: Option<Rate>,
    /// The key by which calls are counted, a template over `params` and `input`; without it all calls count together.
    pub key: Option<Template>,
}

/// A rate limit: a maximum number of calls in a time window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// The maximum number of calls in a window.
    pub limit: u64,
    /// The length of the window in seconds.
    pub window_s: u64,
}

const FIELDS: [&str; 14] = [
    "name",
    "description",
    "input_schema",
    "worker",
    "kind",
    "risk",
    "compensate",
    "irreversible",
    "timeout_s",
    "retry",
    "limit",
    "on_exhausted",
    "queue_timeout_s",
    "pii",
];

impl Tool {
    /// Whether the work happens outside the run: by a worker, or by a builtin tool that accesses other systems.
    pub fn works_outside(&self) -> bool {
        match self.worker {
            Worker::Builtin(builtin) => builtin.is_effect(),
            _ => true,
        }
    }

    /// Whether a call may change something outside: that of every tool that works outside and is not of kind `read`. An event changes
    /// nothing by itself: what it triggers is held at its own calls.
    pub fn changes_something(&self) -> bool {
        self.works_outside() && self.kind != Some(Kind::Read)
    }

    /// Reads a definition. `Err`: all its faults. Does not compile `input_schema`.
    pub fn read(value: &Value) -> Result<Self, Vec<Fault>> {
        let mut faults = Faults::default();
        let tool = Self::of(value, &mut faults);
        match tool {
            Some(tool) if faults.0.is_empty() => Ok(tool),
            _ => Err(faults.0),
        }
    }

    fn of(value: &Value, faults: &mut Faults) -> Option<Self> {
        let root = Pointer::root();
        let object = faults.object(value, &root, "a tool", &FIELDS)?;
        let name = object.required_text("name", faults);
        if let Some(name) = name
            && !is_name(name)
        {
            let message =
                "a tool's name has 1 to 128 of A-Z a-z 0-9 . _ -, and begins with a letter";
            faults.add(&root.at("name"), message);
        }
        let worker = match object.required("worker", faults) {
            Some(value) => worker(value, &root.at("worker"), faults),
            None => None,
        };
        let kinds = ["read", "write", "delete", "payment", "message"];
        let kind = object.one_of("kind", &kinds, faults);
        let kind = kind.map(|place| {
            [
                Kind::Read,
                Kind::Write,
                Kind::Delete,
                Kind::Payment,
                Kind::Message,
            ][place]
        });
        let compensate = Call::member(&object, "compensate", faults);
        if let Some(call) = &compensate {
            let at = root.at("compensate").at("input");
            let known = ["step.input", "step.output"];
            call.input.check_references(&at, &known, faults);
        }
        let tool = Self {
            name: name.unwrap_or_default().to_owned(),
            description: object
                .text("description", faults)
                .unwrap_or_default()
                .to_owned(),
            input_schema: schema(&object, faults),
            worker: worker.clone().unwrap_or(Worker::Claim),
            kind,
            risk: Risk::member(&object, faults),
            compensate,
            irreversible: object.boolean("irreversible", faults).unwrap_or(false),
            timeout_ms: object.seconds("timeout_s", ATTEMPT_SECONDS_MAX, faults),
            retry: Retry::member(&object, faults),
            limit: Limit::member(&object, faults),
            on_exhausted: OnExhausted::member(&object, faults),
            queue_timeout_ms: object.seconds("queue_timeout_s", SECONDS_MAX, faults),
            pii_plain: object.one_of("pii", &["plain", "sealed"], faults) == Some(0),
        };
        (name.is_some() && worker.is_some()).then_some(tool)
    }
}

fn schema(object: &Object<'_>, faults: &mut Faults) -> Value {
    match object.get("input_schema") {
        None => Value::Bool(true),
        Some(schema @ (Value::Object(_) | Value::Bool(_))) => schema.clone(),
        Some(_) => {
            faults.add(
                &object.at.at("input_schema"),
                "`input_schema` must be a JSON Schema",
            );
            Value::Bool(true)
        }
    }
}

fn worker(value: &Value, at: &Pointer, faults: &mut Faults) -> Option<Worker> {
    let kinds = ["http", "kafka", "claim", "builtin"];
    let object = faults.object(value, at, "`worker`", &kinds)?;
    let given: Vec<_> = kinds
        .iter()
        .filter(|kind| object.any(kind).is_some())
        .collect();
    let [kind] = given[..] else {
        let message = format!("`worker` must have exactly one of {}", listed(&kinds));
        faults.add(at, message);
        return None;
    };
    let empty = Value::Object(serde_json::Map::new());
    let of_kind = object.get(kind).unwrap_or(&empty);
    let at = at.at(kind);
    match *kind {
        "http" => {
            let http = faults.object(of_kind, &at, "an HTTP worker", &["url", "secret"])?;
            let url = http.required_text("url", faults);
            let secret = http.text("secret", faults).map(str::to_owned);
            Some(Worker::Http {
                url: url?.to_owned(),
                secret,
            })
        }
        "builtin" => {
            let names = Builtin::ALL.map(Builtin::name);
            let place = object.one_of("builtin", &names, faults)?;
            Some(Worker::Builtin(Builtin::ALL[place]))
        }
        of_none => {
            faults.object(of_kind, &at, "this worker", &[])?;
            Some(if of_none == "kafka" {
                Worker::Kafka
            } else {
                Worker::Claim
            })
        }
    }
}

impl Risk {
    fn member(object: &Object<'_>, faults: &mut Faults) -> Self {
        let Some(value) = object.get("risk") else {
            return Self::default();
        };
        let at = object.at.at("risk");
        let Some(risk) = faults.object(value, &at, "`risk`", &["lane", "params"]) else {
            return Self::default();
        };
        let lane = risk.one_of("lane", &["safe", "sensitive", "blocked"], faults);
        let lane = lane.map(|place| [Lane::Safe, Lane::Sensitive, Lane::Blocked][place]);
        let mut params = BTreeMap::new();
        let at = at.at("params");
        match risk.get("params") {
            None => {}
            Some(Value::Object(given)) => {
                for (name, value) in given {
                    if let Some(thresholds) = Thresholds::read(value, &at.at(name), faults) {
                        params.insert(name.clone(), thresholds);
                    }
                }
            }
            Some(_) => {
                faults.add(
                    &at,
                    "`params` must be a mapping of names of the input to thresholds",
                );
            }
        }
        Self { lane, params }
    }
}

impl Thresholds {
    fn read(value: &Value, at: &Pointer, faults: &mut Faults) -> Option<Self> {
        let object = faults.object(value, at, "a threshold", &["yellow", "red"])?;
        let all = f64::MIN..=f64::MAX;
        let yellow = object.number("yellow", all.clone(), faults);
        let red = object.number("red", all, faults);
        match (yellow, red) {
            (None, None) if object.any("yellow").is_none() && object.any("red").is_none() => {
                faults.add(at, "a threshold needs `yellow`, `red` or both");
                None
            }
            (Some(yellow), Some(red)) if yellow > red => {
                faults.add(at, "`yellow` must not be above `red`");
                None
            }
            _ => Some(Self { yellow, red }),
        }
    }
}

impl Limit {
    /// Whether the key needs the params of the run, which the record of a call does not have: the run renders it when it schedules the call.
    pub fn counts_by_params(&self) -> bool {
        self.key.as_ref().is_some_and(|key| key.refers_to("params"))
    }

    fn member(object: &Object<'_>, faults: &mut Faults) -> Option<Self> {
        let value = object.get("limit")?;
        let at = object.at.at("limit");
        let limit = faults.object(value, &at, "`limit`", &["concurrency", "rate", "key"])?;
        let concurrency = limit.whole("concurrency", 1..=1_000_000, faults);
        let rate = limit.get("rate").and_then(|value| {
            let at = at.at("rate");
            let rate = faults.object(value, &at, "`rate`", &["limit", "window_s"])?;
            for name in ["limit", "window_s"] {
                rate.required(name, faults);
            }
            let count = rate.whole("limit", 1..=1_000_000_000, faults);
            let window_s = rate.whole("window_s", 1..=86_400 * 31, faults);
            Some(Rate {
                limit: count?,
                window_s: window_s?,
            })
        });
        if limit.get("concurrency").is_none() && limit.get("rate").is_none() {
            faults.add(&at, "`limit` needs `concurrency`, `rate` or both");
        }
        let key = limit.get("key").map(|value| {
            let at = at.at("key");
            let key = Template::read(value, &at, faults);
            key.check_references(&at, &["params", "input"], faults);
            key
        });
        Some(Self {
            concurrency,
            rate,
            key,
        })
    }
}
