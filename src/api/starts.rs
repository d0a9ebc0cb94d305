//! `POST /v1/commands`, `/v1/workflows`, `/v1/goals`, `/v1/tasks`, and the agents' routes. Starts are parsed by [`crate::envelope`]; this
//! file has their documentation, and the requests and answers of the agents' routes.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::envelope::StartKind;

/// Allows starting runs by commands, workflows and goals.
pub const ORCHESTRATIONS_REQUEST: &str = "orchestrations:request";
/// Allows creating tasks.
pub const TASKS_CREATE: &str = "tasks:create";
/// Allows sending inline plans.
pub const PLANS_INLINE: &str = "plans:inline";
/// The prefix before a command's type; allows sending this command.
pub const COMMANDS_PREFIX: &str = "commands:";

/// The type of the agents' envelope.
pub const AGENT_GOAL: &str = "omnilink:agent.goal_received";

macro_rules! start {
    ($name:ident, $kind:ident, $doc:literal) => {
        #[doc = $doc]
        pub enum $name {}

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                envelope(StartKind::$kind, $doc)
            }
        }
    };
}

start!(
    Command,
    Command,
    "A command: a run of the workflow that is registered for its `type`."
);
start!(
    StartWorkflow,
    Workflow,
    "A workflow by its name, or a plan."
);
start!(Goal, Goal, "A goal in plain words.");
start!(
    Task,
    Task,
    "A task: a run of one step; `type` names the tool."
);

/// One start, or a batch.
#[derive(JsonSchema)]
#[schemars(untagged)]
pub enum Starts<T> {
    /// One start.
    One(T),
    /// A batch.
    Batch(Vec<T>),
    /// A batch in an object.
    Object {
        /// The starts.
        events: Vec<T>,
    },
}

/// The schema of an envelope; its members may be next to the attributes or in `data`.
fn envelope(kind: StartKind, description: &str) -> Schema {
    let text = |description: &str| json_schema!({ "type": "string", "minLength": 1, "maxLength": 512, "description": description });
    let mut schema = json_schema!({
        "description": format!("{description} CloudEvents 1.0 in JSON, or the same fields without `specversion`. The members that are \
            not CloudEvents' own may also be members of `data`, where CloudEvents' media types have them."),
        "type": "object",
        "required": ["id", "source", "type"],
        "properties": {
            "specversion": { "const": "1.0", "description": "The version of CloudEvents." },
            "id": text("Unique in its batch."),
            "source": text("The source of the start, a URI reference."),
            "type": text(match kind {
                StartKind::Command => "The command, such as `expense.pay`.",
                StartKind::Task => "The tool.",
                _ => "Any text that describes it for the sender.",
            }),
            "time": { "type": ["string", "null"], "format": "date-time", "description": "When it was created." },
            "data": { "type": ["object", "null"], "description": "The members below, for CloudEvents' media types." },
            "entity": {
                "type": ["object", "null"], "description": "The entity concerned.", "required": ["type", "external_id"],
                "properties": { "type": text("Its type."), "external_id": text("Its id.") }
            },
            "correlationid": { "type": ["string", "null"], "description": "The id that related starts share." },
            "idempotencykey": { "type": ["string", "null"], "description": "Used if the header `Idempotency-Key` is absent." },
        }
    });
    let mut properties = schema.remove("properties").unwrap_or_default();
    if let Value::Object(properties) = &mut properties {
        for name in kind.members() {
            properties.insert((*name).to_owned(), member(name, kind));
        }
    }
    schema.insert("properties".into(), properties);
    schema
}

fn member(name: &str, kind: StartKind) -> Value {
    let schema = match name {
        "params" if kind == StartKind::Task => {
            json_schema!({ "description": "The tool's input. Required." })
        }
        "params" if kind == StartKind::Goal => json_schema!({
            "type": ["object", "null"],
            "description": "What the plan sees as `params`; at most 128 KiB and 64 levels. The member `slots` is set by OmniLink: it \
             holds the placeholders of the goal."
        }),
        "params" => json_schema!({
            "type": ["object", "null"], "description": "What the plan sees as `params`; at most 128 KiB and 64 levels. Required for a command."
        }),
        "input" => json_schema!({
            "type": ["object", "null"], "description": "What the plan sees as `params`; at most 128 KiB and 64 levels. Required."
        }),
        "workflow" => json_schema!({
            "type": ["object", "null"], "description": "The workflow; the default version is the highest. Either this or `plan` is \
             required.",
            "required": ["name"], "properties": { "name": { "type": "string" }, "version": { "type": ["string", "null"] } }
        }),
        "plan" => json_schema!({
            "type": ["object", "null"],
            "description": "A plan instead of a workflow; needs the permission `plans:inline`. At most 128 KiB and 200 steps."
        }),
        "goal" => {
            json_schema!({
                "type": ["string", "null"],
                "description": "The goal, in plain words; at most `guardian.max_goal_length` characters (20,000). Required."
            })
        }
        "context" => {
            json_schema!({ "type": ["object", "null"], "description": "Additional information for the planner." })
        }
        "target" => json_schema!({
            "type": ["object", "null"], "description": "The adapter.", "required": ["system"],
            "properties": { "system": { "type": "string" } }
        }),
        "policy" => json_schema!({
            "type": ["object", "null"], "description": "`approval`: a person approves the run before its first step.",
            "additionalProperties": false, "properties": { "approval": { "const": "required" } }
        }),
        "run_at" => json_schema!({
            "type": ["string", "null"], "format": "date-time", "description": "The earliest time to run, at most 400 days ahead."
        }),
        _ => json_schema!({
            "type": ["string", "null"], "maxLength": 256,
            "description": "The user on whose behalf it is requested; needs the permission `act_as`."
        }),
    };
    schema.into()
}

/// A goal as agents send it: in their envelope, or (only at `/api/v1/goals`) plain.
#[derive(JsonSchema)]
#[schemars(untagged)]
pub enum AgentGoals {
    /// The agents' envelope.
    Envelope(AgentEnvelope),
    /// A plain goal.
    Plain(AgentGoal),
}

/// The agents' envelope. Names may be in camel case or snake case; other members are kept.
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentEnvelope {
    /// The event's id.
    pub event_id: String,
    /// `omnilink:agent.goal_received`.
    pub event_type: String,
    /// The source of the event.
    pub source: String,
    /// Used if the header `Idempotency-Key` is absent.
    pub idempotency_key: Option<String>,
    /// The goal.
    pub payload: AgentGoal,
}

/// A goal of an agent.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AgentGoal {
    /// The goal, in plain words; at most `guardian.max_goal_length` characters (20,000).
    pub goal: Option<String>,
    /// The user that it is for: `on_behalf_of` if the key has the permission `act_as`, otherwise only passed to the planner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// Additional information for the planner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<Map<String, Value>>,
    /// Used in a plain goal if the header `Idempotency-Key` is absent.
    #[serde(
        default,
        rename = "idempotencyKey",
        skip_serializing_if = "Option::is_none"
    )]
    pub idempotency_key: Option<String>,
}

impl AgentAccepted {
    /// Builds the answer for a run.
    pub fn new(run_id: &str) -> Self {
        Self {
            workflow_id: run_id.to_owned(),
            status: "accepted",
            poll_url: format!("/workflows/{run_id}/status"),
        }
    }
}

/// The answer to an agent's goal.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AgentAccepted {
    /// The run's id.
    pub workflow_id: String,
    /// Always `accepted`.
    pub status: &'static str,
    /// The URL of its status: `/workflows/{id}/status`.
    pub poll_url: String,
}

/// The status of an agent's goal.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AgentStatus {
    /// The status.
    pub status: AgentRunStatus,
    /// The number of records in its history.
    pub progress: u64,
    /// The run's output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Map<String, Value>>,
}

/// The possible statuses of an agent's goal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AgentRunStatus {
    /// It has not ended.
    Running,
    /// It succeeded.
    Completed,
    /// It was denied, cancelled, or failed.
    Failed,
}
