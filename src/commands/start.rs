//! The start of a run: the body of a record of kind `start`, and the run's id (`docs/workflows.md`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use uuid::Uuid;

use super::Command;
use crate::envelope::Event;
use crate::runs::{self, Reused, Undo};

pub use crate::runs::{GuardianReport, GuardianVerdict};

/// The maximum size of the body, in bytes.
pub const RECORD_MAX: usize = 512 * 1024;
/// The maximum size of a run's params, in bytes of JSON.
pub const PARAMS_MAX: usize = 128 * 1024;
/// The kind of start records.
pub const KIND: &str = "start";
/// The version of the body that is written.
pub const VERSION: u32 = 1;

/// Everything that a run needs to begin, including copies of plan and tools, so that later changes of files do not affect it.
/// JSON values keep their original text.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Start {
    /// The version of this format.
    pub version: u32,
    /// What makes the request unique: `["run", tenant, key]`, in a batch `["run", tenant, key, id]`, for a retry of another run
    /// `["retry", tenant, other run, key]`.
    pub identity: Vec<String>,
    /// The hash of the request, in hexadecimal digits. The same identity with a different hash is a different request.
    pub body_hash: String,
    /// The kind of request.
    pub request: Request,
    /// The envelope's `type`: the command, the tool of a task.
    #[serde(rename = "type")]
    pub kind: String,
    /// The envelope's `id`.
    pub id: String,
    /// The envelope's `source`.
    pub source: String,
    /// When the port received it, in microseconds since the Unix epoch.
    pub received_at: i64,
    /// The run must not begin before this time, in microseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_at: Option<i64>,
    /// The value of `params` in expressions; by default an empty object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<Box<RawValue>>,
    /// The workflow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<WorkflowVersion>,
    /// The plan, as given. A goal does not have one yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Planned>,
    /// The definitions of the tools that the plan calls, as given, without secrets. Builtin tools have none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tools: BTreeMap<String, Box<RawValue>>,
    /// The goal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goal: Option<String>,
    /// What the guardian found in the goal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guardian: Option<GuardianReport>,
    /// The values of the placeholders in goal, params and context: a JSON object by name (`EMAIL_1`), sealed with `secret_key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<String>,
    /// Additional input of the planner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<Box<RawValue>>,
    /// The target adapter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// The entity that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entity: Option<AboutEntity>,
    /// The correlation id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// The id of the event that caused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub causation_id: Option<String>,
    /// The request demands that a person approves the run before its first step.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub approval_required: bool,
    /// The constraints of the API key that apply during the run.
    #[serde(default, skip_serializing_if = "Constraints::is_empty")]
    pub constraints: Constraints,
    /// How many triggers in a row led to it ([`super::depth`]); 0 for a request.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub depth: u32,
    /// A Kafka producer sent it to `ingress`: a control that refuses starts at the port keeps its run queued.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_ingress: bool,
    /// If it is a retry: what it takes over from the retried run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Box<Retry>>,
    /// Of a goal: the values of `slots.NAME` in expressions, once they are known. Personal data are placeholders (`{EMAIL_1}`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub slots: BTreeMap<String, Value>,
    /// Of a goal: how its plan was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<Box<FoundPlan>>,
}

/// How the plan of a goal was found.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct FoundPlan {
    /// The template of the goal: the plan is cached under it when the run succeeds. `None`: it is not cached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// The id of the cache entry that the plan comes from. It is forgotten if the run does not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
    /// The source of that entry's plan: that under which it is cached again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// That entry was written so recently that a success of the run does not write it again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fresh: bool,
    /// Steps that need a person's approval, with the codes of the reasons.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub red: BTreeMap<String, Vec<String>>,
    /// The guardian's language model has flagged the goal, or did not answer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub flagged: bool,
}

impl FoundPlan {
    /// What of this outlives the start of the run.
    pub fn of(found: &runs::Found) -> Self {
        Self {
            template: found.template.clone(),
            entry: found.entry.clone(),
            origin: found.origin.clone(),
            fresh: found.fresh,
            red: found.red.clone(),
            flagged: found.flagged,
        }
    }

    /// Nothing is known.
    pub const NONE: Self = Self {
        template: None,
        entry: None,
        origin: None,
        fresh: false,
        red: BTreeMap::new(),
        flagged: false,
    };
}

/// The retry of another run.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Retry {
    /// The id of the retried run.
    pub of: String,
    /// Steps whose results are reused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reused: Vec<Reused>,
    /// Compensations to retry, in the order in which they run. A run that has any does nothing else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub undo: Vec<Undo>,
}

/// The kind of request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Request {
    /// A command.
    Command,
    /// A workflow, or an inline plan.
    Workflow,
    /// A goal.
    Goal,
    /// A task: a run of one step.
    Task,
}

impl Request {
    /// As `omnilinkkind` has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Workflow => "workflow",
            Self::Goal => "goal",
            Self::Task => "task",
        }
    }

    /// The feature that an operator can disable; tasks have none of their own.
    pub const fn feature(self) -> &'static str {
        match self {
            Self::Command => "commands",
            Self::Workflow => "workflows",
            Self::Goal => "goals",
            Self::Task => "workers",
        }
    }
}

/// A workflow and its version.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WorkflowVersion {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The workflow has `on_exhausted: hold`: an incident is opened when all attempts of a step are used up.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hold: bool,
}

impl WorkflowVersion {
    /// Its name and version alone, as the history has them.
    pub fn named(&self) -> runs::WorkflowVersion {
        runs::WorkflowVersion {
            name: self.name.clone(),
            version: self.version.clone(),
        }
    }
}

/// A plan and its source.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Planned {
    /// Where the plan comes from.
    pub source: PlanSource,
    /// The SHA-256 of its canonical form, in hexadecimal digits.
    pub hash: String,
    /// The plan, as given.
    pub steps: Box<RawValue>,
}

/// The source of a plan.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlanSource {
    /// A workflow file, or generated for a task.
    Workflow,
    /// The request.
    Inline,
    /// The cache of plans, for a goal.
    Cache,
    /// A workflow whose examples match the goal.
    Catalog,
    /// A language model, for a goal.
    Llm,
    /// A person, in a decision.
    Person,
}

impl PlanSource {
    /// Its name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Workflow => "workflow",
            Self::Inline => "inline",
            Self::Cache => "cache",
            Self::Catalog => "catalog",
            Self::Llm => "llm",
            Self::Person => "person",
        }
    }
}

/// The entity that a run is about.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AboutEntity {
    /// The entity type, such as `customer`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The entity's id in the system that it comes from.
    pub external_id: String,
}

/// The constraints of an API key that apply during a run.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Constraints {
    /// Types, workflows and tools that need approval.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub approvals_required_for: Vec<String>,
    /// The workflows that a planner may choose; empty: any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_workflows: Vec<AllowedWorkflow>,
}

/// A workflow that a planner may choose.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AllowedWorkflow {
    /// Its name.
    pub name: String,
    /// Its version; `None`: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

impl Constraints {
    fn is_empty(&self) -> bool {
        self.approvals_required_for.is_empty() && self.allowed_workflows.is_empty()
    }
}

/// serde passes a reference.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature is serde's"
)]
const fn is_zero(depth: &u32) -> bool {
    *depth == 0
}

impl AboutEntity {
    /// The entity of an event.
    pub fn of(event: &Event<'_>) -> Option<Self> {
        event.entity.as_ref().map(|entity| Self {
            kind: entity.kind.to_string(),
            external_id: entity.external_id.to_string(),
        })
    }
}

/// The trace context in the extensions of an event.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
pub struct Trace {
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// W3C trace context.
    pub tracestate: Option<String>,
}

impl Trace {
    /// The trace context of an event; empty if it has none.
    pub fn of(event: &Event<'_>) -> Self {
        serde_json::from_str(&event.extensions).unwrap_or_default()
    }

    /// Names and values of the attributes of an event that go on with it.
    pub fn attributes(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let all = [
            ("traceparent", self.traceparent.as_deref()),
            ("tracestate", self.tracestate.as_deref()),
        ];
        all.into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
    }
}

impl Start {
    /// The body as JSON text. `Err`: its size in bytes, if it is larger than [`RECORD_MAX`].
    pub fn encode(&self) -> Result<String, usize> {
        // All of it is text, numbers and JSON that was checked.
        let text = serde_json::to_string(self).unwrap_or_default();
        if text.len() > RECORD_MAX {
            return Err(text.len());
        }
        Ok(text)
    }

    /// The body of a record; `None` for a record of another kind, or an invalid body.
    pub fn decode(command: &Command) -> Option<Self> {
        if command.kind != KIND {
            return None;
        }
        serde_json::from_str(&command.body).ok()
    }
}

/// The id of the run with this identity: the UUIDv5 of the compact JSON array, under the UUIDv5 of `runs.omnilink` as a DNS name;
/// in lower case.
///
/// ```
/// let id = omnilink::commands::start::run_id(&["run", "acme", "key-1"]);
/// assert_eq!(id.to_string(), "7dbd6d41-6f85-5f7b-98af-6637f5372c2e");
/// ```
pub fn run_id<T: Serialize>(identity: &[T]) -> Uuid {
    let namespace = Uuid::new_v5(&Uuid::NAMESPACE_DNS, b"runs.omnilink");
    // Texts always have a JSON form.
    let text = serde_json::to_vec(identity).unwrap_or_default();
    Uuid::new_v5(&namespace, &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    fn start() -> Start {
        Start {
            version: VERSION,
            identity: ["run", "acme", "k\"1"].map(str::to_owned).to_vec(),
            body_hash: "00ff".into(),
            request: Request::Command,
            kind: "expense.pay".into(),
            id: "1".into(),
            source: "/shop/prod".into(),
            received_at: 5_000,
            run_at: Some(6_000),
            params: Some(raw(r#"{"amount": 12.50000000000000000001}"#)),
            workflow: Some(WorkflowVersion {
                name: "pay".into(),
                version: "1.2.0".into(),
                hold: true,
            }),
            plan: Some(Planned {
                source: PlanSource::Workflow,
                hash: "ab".into(),
                steps: raw(r#"{"steps":[]}"#),
            }),
            tools: [("pay".to_owned(), raw(r#"{"name":"pay"}"#))].into(),
            goal: None,
            guardian: None,
            sealed: None,
            context: None,
            adapter: Some("odoo".into()),
            entity: Some(AboutEntity {
                kind: "expense".into(),
                external_id: "7".into(),
            }),
            correlation_id: Some("c".into()),
            causation_id: None,
            approval_required: true,
            constraints: Constraints {
                approvals_required_for: vec!["pay".into()],
                allowed_workflows: Vec::new(),
            },
            depth: 0,
            from_ingress: false,
            retry: None,
            slots: BTreeMap::new(),
            found: None,
        }
    }

    #[test]
    fn a_start_round_trips_with_the_text_of_its_values() {
        let start = start();
        let body = start.encode().unwrap();
        assert!(body.contains("12.50000000000000000001"), "{body}");
        let mut command = Command {
            tenant: "acme".into(),
            run_id: run_id(&start.identity).to_string(),
            kind: KIND.into(),
            at: 5_000,
            principal: "ann".into(),
            on_behalf_of: None,
            traceparent: None,
            tracestate: None,
            body: body.clone(),
        };
        let record = command.encode().unwrap();
        let read = Command::decode(&record.value.unwrap()).unwrap();
        let again = Start::decode(&read).unwrap();
        assert_eq!(again.encode().unwrap(), body);
        assert_eq!(again.workflow, start.workflow);
        assert_eq!(again.constraints, start.constraints);
        command.kind = "cancel".into();
        assert!(Start::decode(&command).is_none());
    }

    #[test]
    fn a_body_is_bounded() {
        let mut start = start();
        start.goal = Some("x".repeat(RECORD_MAX));
        assert!(start.encode().unwrap_err() > RECORD_MAX);
    }
}
