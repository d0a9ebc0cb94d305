//! Language models: asking one after the other for a plan, and repairing it once.
//!
//! | file | holds |
//! |---|---|
//! | `endpoint` | one server: retries, circuit breaker |
//! | `chat` | requests and answers of chat completions |
//! | `prompt` | what a model is told |
//! | `answer` | the plan in an answer, and what is wrong with it |

pub(super) mod answer;
pub(super) mod chat;
pub(super) mod endpoint;
mod prompt;

use serde_json::{Value, json};

use self::{
    answer::Made,
    chat::{Chat, Message, Usage},
    endpoint::Endpoint,
};
use super::goal::Goal;
use crate::workflows::Catalog;

/// How often an endpoint is asked when others follow.
const ATTEMPTS: u32 = 2;
/// How often the last one is asked.
const ATTEMPTS_OF_LAST: u32 = 3;

/// The language models of `planner`, in the order in which they are tried.
pub(super) struct Models(Vec<Endpoint>);

/// What asking came to.
pub(super) struct Asked {
    /// The plan, or why each model gave none.
    pub(super) plan: Result<Made, Vec<String>>,
    /// What it took.
    pub(super) cost: Cost,
}

/// What asking for a plan took.
#[derive(Clone, Debug, Default)]
pub(super) struct Cost {
    /// The model that was asked last.
    model: Option<String>,
    /// The number of answers that were asked for.
    calls: u32,
    pub(super) usage: Usage,
    /// In the unit of the prices; `None`: no price is known.
    pub(super) money: Option<f64>,
}

impl Cost {
    fn add(&mut self, endpoint: &Endpoint, usage: Usage) {
        self.model = Some(endpoint.model().to_owned());
        self.calls += 1;
        self.usage.input += usage.input;
        self.usage.output += usage.output;
        if let Some(money) = endpoint.cost(usage) {
            self.money = Some(self.money.unwrap_or_default() + money);
        }
    }

    /// For readers; `None`: no model was asked.
    pub(super) fn shown(&self) -> Option<Value> {
        let mut shown = json!({
            "model": self.model.as_ref()?,
            "calls": self.calls,
            "input_tokens": self.usage.input,
            "output_tokens": self.usage.output,
        });
        if let Some(money) = self.money {
            shown["cost"] = money.into();
        }
        Some(shown)
    }
}

impl Models {
    pub(super) const fn new(endpoints: Vec<Endpoint>) -> Self {
        Self(endpoints)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Their names.
    pub(super) fn names(&self) -> Vec<String> {
        self.0.iter().map(Endpoint::name).collect()
    }

    /// Those that did not answer the last time, and why.
    pub(super) fn troubles(&self) -> Vec<String> {
        let troubles = self.0.iter().filter_map(|endpoint| {
            let why = endpoint.trouble()?;
            Some(format!("{}: {why}", endpoint.name()))
        });
        troubles.collect()
    }

    /// Asks for a plan.
    pub(super) async fn plan(&self, goal: &Goal, catalog: &Catalog) -> Asked {
        let mut cost = Cost::default();
        let mut tried = Vec::new();
        for (place, endpoint) in self.0.iter().enumerate() {
            let last = place + 1 == self.0.len();
            let attempts = if last { ATTEMPTS_OF_LAST } else { ATTEMPTS };
            match of_endpoint(endpoint, attempts, goal, catalog, &mut cost).await {
                Ok(made) => {
                    let plan = Ok(made);
                    return Asked { plan, cost };
                }
                Err(why) => tried.push(format!("{}: {why}", endpoint.name())),
            }
        }
        let plan = Err(tried);
        Asked { plan, cost }
    }
}

/// A plan of one model. One that is not valid is repaired once.
async fn of_endpoint(
    endpoint: &Endpoint,
    attempts: u32,
    goal: &Goal,
    catalog: &Catalog,
    cost: &mut Cost,
) -> Result<Made, String> {
    let mut messages = prompt::messages(goal, catalog);
    let mut repaired = false;
    loop {
        let chat = Chat {
            messages: &messages,
            name: prompt::PLAN,
            schema: &prompt::SCHEMA,
        };
        let completion = match endpoint.ask(&chat, attempts).await {
            Ok(completion) => completion,
            Err(failed) => {
                cost.add(endpoint, failed.usage);
                return Err(failed.why);
            }
        };
        cost.add(endpoint, completion.usage);
        let faults = match answer::read(&completion.content, goal, catalog) {
            Ok(made) => return Ok(made),
            Err(faults) => faults,
        };
        if repaired {
            return Err(format!("its plan is not valid: {}", faults.join("; ")));
        }
        repaired = true;
        messages.push(Message::assistant(completion.content));
        messages.push(prompt::repair(&faults));
    }
}
