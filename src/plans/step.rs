//! One step of a plan.

use serde_json::Value;

use super::{
    expression::{Expression, Template},
    fault::Pointer,
    read::{Faults, Object, short},
};

/// The maximum of any time limit in a plan, in seconds: 400 days.
pub(super) const SECONDS_MAX: u64 = 400 * 86_400;
/// The maximum time limit of an attempt, in seconds.
pub(super) const ATTEMPT_SECONDS_MAX: u64 = 7 * 86_400;

/// A step of a plan.
#[derive(Clone, PartialEq, Debug)]
pub struct Step {
    /// `[A-Za-z_][A-Za-z0-9_]{0,63}`, unique in its plan.
    pub id: String,
    /// The tool's name.
    pub tool: String,
    /// The input of the tool.
    pub input: Template,
    /// The steps that must end before it begins.
    pub depends_on: Vec<String>,
    /// The call that undoes it, instead of the tool's own compensation.
    pub compensate: Option<Call>,
    /// The time limit of an attempt, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// Its retry policy.
    pub retry: Retry,
    /// It cannot be undone: a person approves it first.
    pub irreversible: bool,
    /// The condition under which the step runs; without it the step always runs.
    pub when: Option<When>,
    /// What happens when all attempts are used up.
    pub on_exhausted: Option<OnExhausted>,
    /// The time limit of all attempts together, in milliseconds.
    pub deadline_ms: Option<u64>,
}

/// The condition of a step.
#[derive(Clone, PartialEq, Debug)]
pub enum When {
    /// Always, or never.
    Fixed(bool),
    /// An expression that evaluates to true or false.
    Expression(Expression),
}

/// A call of a tool.
#[derive(Clone, PartialEq, Debug)]
pub struct Call {
    /// The tool's name.
    pub tool: String,
    /// The input of the tool.
    pub input: Template,
}

/// A retry policy. An absent value is that of the tool, else the default.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Retry {
    /// The maximum number of attempts, including the first.
    pub max_attempts: Option<u32>,
    /// The pause after the first attempt, in milliseconds.
    pub initial_ms: Option<u64>,
    /// The factor by which each further pause grows.
    pub factor: Option<f64>,
    /// The longest pause, in milliseconds.
    pub max_ms: Option<u64>,
}

/// What happens when all attempts are used up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnExhausted {
    /// The run fails and compensates.
    Fail,
    /// A person decides.
    Hold,
}

const FIELDS: [&str; 11] = [
    "id",
    "tool",
    "input",
    "depends_on",
    "compensate",
    "timeout_s",
    "retry",
    "irreversible",
    "when",
    "on_exhausted",
    "deadline_s",
];

impl Step {
    /// Reads a step; `None` if the id or the tool is missing or invalid.
    pub(super) fn read(value: &Value, at: &Pointer, faults: &mut Faults) -> Option<Self> {
        let before = faults.0.len();
        let object = faults.object(value, at, "a step", &FIELDS)?;
        let id = object.required_text("id", faults).map(str::to_owned);
        let id = id.filter(|id| {
            let good = is_id(id);
            if !good {
                let message = format!(
                    "`{}` is not a valid step id: 1 to 64 of A-Z a-z 0-9 _, and no digit first",
                    short(id)
                );
                faults.add(&object.at.at("id"), message);
            }
            good
        });
        let read = Self::fields(&object, faults);
        if let Some(id) = &id {
            faults.of_step(before, id);
        }
        let mut step = read?;
        step.id = id?;
        Some(step)
    }

    fn fields(object: &Object<'_>, faults: &mut Faults) -> Option<Self> {
        let tool = object.required_text("tool", faults);
        let step = Self {
            id: String::new(),
            tool: tool.unwrap_or_default().to_owned(),
            input: input(object, faults),
            depends_on: texts(object, "depends_on", faults),
            compensate: Call::member(object, "compensate", faults),
            timeout_ms: object.seconds("timeout_s", ATTEMPT_SECONDS_MAX, faults),
            retry: Retry::member(object, faults),
            irreversible: object.boolean("irreversible", faults).unwrap_or(false),
            when: when(object, faults),
            on_exhausted: OnExhausted::member(object, faults),
            deadline_ms: object.seconds("deadline_s", SECONDS_MAX, faults),
        };
        tool.map(|_| step)
    }
}

/// Whether a text may be a step's id.
pub(crate) fn is_id(text: &str) -> bool {
    let of_id = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= 64
        && text.bytes().all(of_id)
        && text
            .bytes()
            .next()
            .is_some_and(|first| !first.is_ascii_digit())
}

/// The member `input`; by default an empty object.
fn input(object: &Object<'_>, faults: &mut Faults) -> Template {
    match object.any("input") {
        Some(value) => Template::read(value, &object.at.at("input"), faults),
        None => Template::Fixed(Value::Object(serde_json::Map::new())),
    }
}

/// A list of texts; by default empty.
pub(super) fn texts(object: &Object<'_>, name: &str, faults: &mut Faults) -> Vec<String> {
    let Some(value) = object.get(name) else {
        return Vec::new();
    };
    let at = object.at.at(name);
    let items = faults.list(value, &at, name).unwrap_or_default();
    let items = items.iter().enumerate();
    items
        .filter_map(|(n, item)| Some(faults.text(item, &at.at(n), name)?.to_owned()))
        .collect()
}

fn when(object: &Object<'_>, faults: &mut Faults) -> Option<When> {
    let value = object.get("when")?;
    let at = object.at.at("when");
    if let Value::Bool(fixed) = value {
        return Some(When::Fixed(*fixed));
    }
    let before = faults.0.len();
    match Template::read(value, &at, faults) {
        Template::Expression(expression) => Some(When::Expression(expression)),
        _ if faults.0.len() > before => None,
        _ => {
            let fault = faults.add(&at, "`when` must be true, false, or one expression");
            fault.note = Some("such as `\"{{ params.amount > 100 }}\"`".into());
            None
        }
    }
}

impl Call {
    /// The member `name`, `{tool, input}`.
    pub(super) fn member(object: &Object<'_>, name: &str, faults: &mut Faults) -> Option<Self> {
        let value = object.get(name)?;
        let call = faults.object(
            value,
            &object.at.at(name),
            "a compensation",
            &["tool", "input"],
        )?;
        let tool = call.required_text("tool", faults);
        let input = input(&call, faults);
        Some(Self {
            tool: tool?.to_owned(),
            input,
        })
    }
}

impl Retry {
    /// The member `retry`.
    pub(super) fn member(object: &Object<'_>, faults: &mut Faults) -> Self {
        const FIELDS: [&str; 4] = ["max_attempts", "initial_ms", "factor", "max_ms"];
        let Some(value) = object.get("retry") else {
            return Self::default();
        };
        let Some(retry) = faults.object(value, &object.at.at("retry"), "`retry`", &FIELDS) else {
            return Self::default();
        };
        let attempts = retry.whole("max_attempts", 1..=1000, faults);
        Self {
            max_attempts: attempts.and_then(|n| u32::try_from(n).ok()),
            initial_ms: retry.whole("initial_ms", 0..=3_600_000, faults),
            factor: retry.number("factor", 1.0..=100.0, faults),
            max_ms: retry.whole("max_ms", 0..=86_400_000, faults),
        }
    }
}

impl OnExhausted {
    /// The member `on_exhausted`.
    pub(crate) fn member(object: &Object<'_>, faults: &mut Faults) -> Option<Self> {
        let place = object.one_of("on_exhausted", &["fail", "hold"], faults)?;
        Some([Self::Fail, Self::Hold][place])
    }
}
