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

use std::time::Instant;

use serde_json::{Value, json};

use self::{
    answer::Made,
    chat::{Chat, Message, Usage},
    endpoint::{CallFailed, Endpoint},
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
    /// The plan; `None`: no model gave one.
    pub(super) plan: Option<Made>,
    /// Why each model gave none that was asked before the one with the plan.
    pub(super) failed: Vec<String>,
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

    /// The names of the models.
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

    /// Until when one that is asked before all of them may take: each has the same share of the time that is left.
    pub(super) fn share(&self, until: Instant) -> Instant {
        share(until, self.0.len() + 1)
    }

    /// Asks for a plan until then. An endpoint that does not answer leaves the others their share of the time.
    pub(super) async fn plan(&self, goal: &Goal, catalog: &Catalog, until: Instant) -> Asked {
        let mut cost = Cost::default();
        let mut failed = Vec::new();
        for (place, endpoint) in self.0.iter().enumerate() {
            let last = place + 1 == self.0.len();
            let attempts = if last { ATTEMPTS_OF_LAST } else { ATTEMPTS };
            let asking = Asking {
                endpoint,
                attempts,
                until: share(until, self.0.len() - place),
            };
            match asking.plan(goal, catalog, &mut cost).await {
                Ok(made) => {
                    return Asked {
                        plan: Some(made),
                        failed,
                        cost,
                    };
                }
                Err(why) => failed.push(format!("{}: {why}", endpoint.name())),
            }
        }
        Asked {
            plan: None,
            failed,
            cost,
        }
    }
}

/// The end of the first of so many equal shares of the time until then.
fn share(until: Instant, shares: usize) -> Instant {
    let now = Instant::now();
    let left = until.saturating_duration_since(now);
    now + left / u32::try_from(shares).unwrap_or(u32::MAX).max(1)
}

/// Why a model gave no plan.
#[derive(Debug, thiserror::Error)]
enum PlanError {
    /// The call failed.
    #[error(transparent)]
    Call(#[from] CallFailed),
    /// The plan has these faults, even after a repair.
    #[error("its plan is not valid: {}", .0.join("; "))]
    Invalid(Vec<String>),
}

/// One model, with its deadline and the number of attempts.
struct Asking<'a> {
    endpoint: &'a Endpoint,
    attempts: u32,
    until: Instant,
}

impl Asking<'_> {
    /// Asks for a plan, and once more to repair one that is not valid.
    async fn plan(
        &self,
        goal: &Goal,
        catalog: &Catalog,
        cost: &mut Cost,
    ) -> Result<Made, PlanError> {
        let mut messages = prompt::messages(goal, catalog);
        let mut repaired = false;
        loop {
            let chat = Chat {
                messages: &messages,
                name: prompt::PLAN,
                schema: &prompt::SCHEMA,
            };
            let completion = self.endpoint.ask(&chat, self.attempts, self.until).await;
            let completion = match completion {
                Ok(completion) => completion,
                Err(failed) => {
                    cost.add(self.endpoint, failed.usage);
                    return Err(failed.into());
                }
            };
            cost.add(self.endpoint, completion.usage);
            let faults = match answer::read(&completion.content, goal, catalog) {
                Ok(made) => return Ok(made),
                Err(faults) => faults,
            };
            if repaired {
                return Err(PlanError::Invalid(faults));
            }
            repaired = true;
            messages.push(Message::assistant(completion.content));
            messages.push(prompt::repair(&faults));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
        sync::Arc,
        time::Duration,
    };

    use super::*;
    use crate::{
        base::clock::SystemClock,
        config::{BreakerSettings, LanguageModel, Secret, SecretUrl},
        runs::{Json, PlanInputs},
    };

    /// A server that gives each request this completion, or never answers.
    fn server(completion: Option<&'static str>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let mut open: Vec<TcpStream> = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = vec![0; 64 * 1024];
                let _ = stream.read(&mut request).unwrap();
                if let Some(content) = completion {
                    let message = json!({ "role": "assistant", "content": content });
                    let body =
                        json!({ "choices": [{ "message": message, "finish_reason": "stop" }] })
                            .to_string();
                    let length = body.len();
                    write!(
                        stream,
                        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
                    )
                    .unwrap();
                }
                open.push(stream);
            }
        });
        url
    }

    fn endpoint(url: &str) -> Endpoint {
        let model = LanguageModel {
            url: SecretUrl::new(Secret::new(url), &["http"]).unwrap(),
            model: "m".into(),
            api_key: None,
            timeout: Duration::from_mins(5),
            price: None,
        };
        Endpoint::new(&model, BreakerSettings::default(), Arc::new(SystemClock)).unwrap()
    }

    #[tokio::test]
    async fn an_endpoint_that_never_answers_leaves_the_next_one_its_share_of_the_time() {
        let plan = r#"{"steps":[{"id":"a","tool":"noop","input":{}}]}"#;
        let models = Models::new(vec![endpoint(&server(None)), endpoint(&server(Some(plan)))]);
        let inputs = PlanInputs {
            params: Json::empty_object(),
            context: None,
            received_at: 0,
            allowed_workflows: Vec::new(),
        };
        let goal = Goal::new("acme", "Do nothing", inputs);
        let began = Instant::now();
        let until = began + Duration::from_secs(4);
        let asked = models.plan(&goal, &Catalog::default(), until).await;
        assert!(
            asked.failed.len() == 1 && asked.failed[0].contains("no response within"),
            "{:?}",
            asked.failed
        );
        let made = asked.plan.unwrap();
        assert_eq!(made.plan["steps"][0]["tool"], "noop");
        assert!(began.elapsed() >= Duration::from_secs(2) && Instant::now() < until);
        // Its failure is known, as that of any endpoint that does not answer.
        assert!(
            models.troubles()[0].contains("no response within"),
            "{:?}",
            models.troubles()
        );
    }
}
