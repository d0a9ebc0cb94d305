//! The table of routes. A route that is not in the table is not mounted, and a line without a handler does not compile because of the
//! `match` over [`Operation`] in `port/rest/routes.rs`.

use super::{
    audit::{AuditEntry, AuditQuery, Rejection, RejectionQuery},
    controls::{ChangeControls, Controls},
    events::{Accepted, Event, Events},
    examples,
    health::Health,
    integrations::{ChangedIntegration, CreateIntegration, Integration, RotateIntegration},
    keys::{ChangeKey, CreateKey, Key, RotateKey, RotatedKey},
    letters::{ListLetters, RedriveLetters, RedriveProgress},
    list::{List, Page},
    plan_examples,
    plans::{
        CachedPlanView, ExplainGoal, ExplainedGoal, FeedbackGiven, GiveFeedback, WholeCachedPlan,
    },
    problem::{
        ADAPTER_NOT_ALLOWED, ALREADY_CANCELLED, ALREADY_PAUSED, APPROVAL_NOT_OPEN, BATCH_TOO_LARGE,
        CONCURRENCY_LIMIT_EXCEEDED, Code, ENV_NOT_ALLOWED, FEATURE_DISABLED, IDEMPOTENCY_IN_FLIGHT,
        IDEMPOTENCY_MISMATCH, INPUT_CHANGED, INVALID_DECISION, INVALID_HEADER,
        INVALID_IDEMPOTENCY_KEY, INVALID_INPUT, INVALID_PAYLOAD, INVALID_PLAN, INVALID_RETRY,
        INVALID_SIGNATURE, INVALID_TIMESTAMP, INVALID_UTF8, LIMITER_UNAVAILABLE, LOG_UNAVAILABLE,
        MISSING_FIELD, MISSING_HEADER, MISSING_SIGNATURE, MISSING_TIMESTAMP, NAME_TAKEN, NOT_ENDED,
        NOT_FOUND, NOT_PAUSED, OMNILINK_DISABLED, OUTPUT_TOO_LARGE, OVERLOADED, PARTITION_COUNT,
        PLAN_REQUIRED, POSTGRES_UNAVAILABLE, RATE_LIMIT_EXCEEDED, REBUILD_RUNNING, REDRIVE_RUNNING,
        REFERENCE_NOT_ALLOWED, REQUEST_TIMEOUT, RUN_COMPENSATING, RUN_ENDED, RUN_ENDING,
        SELF_APPROVAL, STALE_LEASE, STALE_TIMESTAMP, TOO_MANY_SIGNALS, UNKNOWN_ENTITY,
        UNKNOWN_LETTER, UNKNOWN_PROJECTION, UNKNOWN_SOURCE, UNKNOWN_TOOL, UNKNOWN_TOPIC,
        UNKNOWN_WORKFLOW, UNSUPPORTED_KIND, VRL_ABORT, VRL_ERROR, VRL_OUT_OF_FUEL,
        VRL_OUT_OF_MEMORY, WORKFLOW_NOT_ALLOWED,
    },
    readers::{GrantReader, Reader, RevokeReader},
    rebuild::{Rebuild, StartRebuild},
    registry::{
        Compare, Compatibility, CompatibilityLevel, Empty, GetSchema, GetSetting, ListSchemas,
        ListSubjects, RegistryMode, SchemaId, SchemaText, SchemaVersion, SentSchema,
        SubjectVersion,
    },
    replay::{IntoTopicParameters, ReplayParameters, ReplayProgress, StateParameters},
    route::{
        Answer, Content, Gate, JSON,
        Method::{Delete, Get, Patch, Post},
        NDJSON, Parameter, Route,
        Tag::{
            Audit, Controls as ControlsTag, DeadLetters, Events as EventsTag, Keys, Node,
            Operations, Plans, Readers, Replay, Runs, SchemaRegistry, Starts as StartsTag,
            Webhooks,
        },
    },
    run_batches::{ControlRuns, RunsControlled},
    run_controls::{
        APPROVALS_DECIDE, CancelRun, DecideApproval, OfTenant, PauseRun, RUNS_WRITE, RetryRun,
        RunControlled, SignalRun,
    },
    run_examples,
    run_reads::{
        APPROVALS_READ, ListApprovals, ListRuns, RUNS_READ_OWN, RunHistory, RunRecordView,
        RunSummary, ShowRun,
    },
    runs::{ApprovalView, RunView},
    starts::{
        AgentAccepted, AgentEnvelope, AgentGoals, AgentStatus as AgentStatusBody, Command, Goal,
        ORCHESTRATIONS_REQUEST, StartWorkflow, Starts, TASKS_CREATE, Task,
    },
    tasks::{
        ClaimTasks, ClaimedTasks, CompleteTask, CompletedTask, ExtendedLease, Heartbeat,
        TASKS_CLAIM, TASKS_COMPLETE,
    },
    tools::{RUNS_READ, Tool},
    topics::CreateTopics,
};
use crate::{
    controls::{ADMIN, EVENTS_WRITE, OPERATOR},
    log::Surveyed,
    replay::EntityState,
    stream::{
        dlq::letters::{Letters, Shown},
        lag::Item,
    },
    telemetry::Report,
};

/// The media type of the schema registry.
const REGISTRY: &str = "application/vnd.schemaregistry.v1+json";

const SUBJECT: Parameter = Parameter {
    name: "subject",
    description: "`{topic}-value`.",
    example: "omnilink.events-value",
};
const INTEGRATION_ID: Parameter = Parameter {
    name: "id",
    description: "The integration's id.",
    example: "01998a55-0c1e-7b60-9f3b-3a3c8a5b1f00",
};
const VERSION: Parameter = Parameter {
    name: "version",
    description: "A version from 1, or `latest`.",
    example: "latest",
};
const SCHEMA_ID: Parameter = Parameter {
    name: "id",
    description: "A schema's id.",
    example: "1073741825",
};

const RUN_ID: Parameter = Parameter {
    name: "id",
    description: "The run's id.",
    example: "7dbd6d41-6f85-5f7b-98af-6637f5372c2e",
};

const PLAN_ID: Parameter = Parameter {
    name: "id",
    description: "The id of a cached plan.",
    example: "2cf24dba5fb0a30e26e83b2ac5b9e29e",
};

const KEY_ID: Parameter = Parameter {
    name: "id",
    description: "The key's id.",
    example: "01998a55-0c1e-7b60-9f3b-3a3c8a5b1f00",
};

/// The answers to run controls.
const CONTROLLED: &[Answer] = &[
    Answer::new(
        200,
        "The run has accepted it.",
        &[Content::json::<RunControlled>(JSON, examples::CONTROLLED)],
    ),
    Answer::new(
        202,
        "It is in the log, but the run has not answered within 2 s.",
        &[Content::json::<RunControlled>(
            JSON,
            examples::CONTROL_ACCEPTED,
        )],
    ),
];

/// The answer of the registry, JSON in its media type.
macro_rules! registry_answer {
    ($description:literal, $type:ty, $example:literal) => {
        &[Answer::new(
            200,
            $description,
            &[Content::json::<$type>(REGISTRY, $example)],
        )]
    };
}

/// The answers to an accepted webhook.
const ACCEPTED_WEBHOOK: &[Answer] = &[
    Answer::new(
        200,
        "The event was already in the log; `record_id` is that of the first time. Or the answer to Slack's challenge, as text.",
        &[
            Content::json::<Accepted>(JSON, examples::DUPLICATE),
            Content::other("text/plain; charset=utf-8"),
        ],
    ),
    Answer::new(
        202,
        "The event is in the log.",
        &[Content::json::<Accepted>(JSON, examples::ACCEPTED)],
    ),
];

/// The error codes of webhooks.
const WEBHOOK_CODES: &[&Code] = &[
    &MISSING_FIELD,
    &UNSUPPORTED_KIND,
    &MISSING_HEADER,
    &INVALID_HEADER,
    &VRL_ERROR,
    &VRL_ABORT,
    &VRL_OUT_OF_FUEL,
    &VRL_OUT_OF_MEMORY,
    &INVALID_UTF8,
    &MISSING_SIGNATURE,
    &INVALID_SIGNATURE,
    &MISSING_TIMESTAMP,
    &INVALID_TIMESTAMP,
    &STALE_TIMESTAMP,
    &UNKNOWN_SOURCE,
    &REQUEST_TIMEOUT,
    &IDEMPOTENCY_IN_FLIGHT,
    &IDEMPOTENCY_MISMATCH,
    &RATE_LIMIT_EXCEEDED,
    &LOG_UNAVAILABLE,
    &LIMITER_UNAVAILABLE,
    &OVERLOADED,
];
/// The headers of starts.
const START_HEADERS: &[Parameter] = &[
    Parameter {
        name: "Idempotency-Key",
        description: "Names the run (in a batch, with `id`), and is required unless the body has `idempotencykey`: the same key and \
            body again starts nothing twice. At most 512 bytes. `X-Idempotency-Key` is an alias.",
        example: "expense-17",
    },
    Parameter {
        name: "traceparent",
        description: "W3C trace context, for starts that have none themselves.",
        example: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    },
];

/// The headers of starts that can wait for the end of the run.
const AWAITED_START_HEADERS: &[Parameter] = &[
    START_HEADERS[0],
    START_HEADERS[1],
    Parameter {
        name: "Prefer",
        description: "`wait=N` (RFC 7240): the answer to a single start waits up to N seconds (at most 60) for the end of its run. It \
            is 200 with the run if the run ends in time, otherwise 202.",
        example: "wait=10",
    },
];

/// The headers of a retry.
const AWAITED_RETRY_HEADERS: &[Parameter] = &[
    Parameter {
        name: "Idempotency-Key",
        description: "Names the new run, with the id of the old one, and is required: the same key and body again starts nothing \
            twice. At most 512 bytes. `X-Idempotency-Key` is an alias.",
        example: "again-1",
    },
    START_HEADERS[1],
    AWAITED_START_HEADERS[2],
];

/// Headers of an action on many runs.
const BATCH_HEADERS: &[Parameter] = &[
    Parameter {
        name: "Idempotency-Key",
        description: "Required for `retry`: identifies each new run, together with the id of the old one. At most 512 bytes. \
            `X-Idempotency-Key` means the same.",
        example: "again-1",
    },
    START_HEADERS[1],
];

/// The answer to starts.
const STARTED: &[Answer] = &[
    Answer::new(
        202,
        "At least one start is in the log or already was, or the batch is empty.",
        &[Content::json::<Accepted>(JSON, examples::STARTED)],
    ),
    Answer::new(
        200,
        "With `Prefer: wait`, for a single start whose run ended in time.",
        &[Content::json::<RunView>(JSON, run_examples::RUN)],
    ),
];

/// The answer to agents.
const AGENT_ACCEPTED: &[Answer] = &[Answer::new(
    202,
    "The goal is in the log, or already was.",
    &[Content::json::<AgentAccepted>(
        JSON,
        examples::AGENT_ACCEPTED,
    )],
)];

/// The schema sent to a subject.
const SENT_SCHEMA: &[Content] = &[
    Content::json::<SentSchema>(REGISTRY, r#"{ "schema": "{\"type\":\"string\"}" }"#),
    Content::json::<SentSchema>(JSON, r#"{ "schema": "{\"type\":\"string\"}" }"#),
];

macro_rules! routes {
    ($($operation:ident = $route:expr;)*) => {
        /// The operations, one for each line of the table.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[expect(missing_docs, reason = "the lines of the table say what they do")]
        pub enum Operation {
            $($operation),*
        }

        impl Operation {
            /// All operations, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$operation),*];

            /// The name in the OpenAPI document.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$operation => stringify!($operation)),*
                }
            }

            /// The route's line in the table.
            pub fn route(self) -> &'static Route {
                &ROUTES[self as usize]
            }
        }

        /// All routes, in the order of [`Operation::ALL`].
        pub static ROUTES: &[Route] = &[$($route),*];
    };
}

routes! {
    PostEvents = Route::new(Post, "/v1/events", EventsTag, "Send events")
        .needs(EVENTS_WRITE)
        .closed_by(Gate::Intake)
        .describe(
            "Accepts one event or a batch, in CloudEvents' structured, batched and binary mode (attributes in `ce-` headers, the body \
             is the data), or as plain JSON. 202 means that the events are durable. A batch reports each item, and an invalid item \
             does not affect the others. If no item was accepted, the answer is a problem with all results and the code of the first \
             item that a rate limit refused, else of the first item.",
        )
        .headers(&[
            Parameter {
                name: "Idempotency-Key",
                description: "Names the request: the same key and `id` again is a duplicate, whatever the source. At most 512 bytes. \
                    `X-Idempotency-Key` is an alias.",
                example: "import-2026-01-31",
            },
            Parameter {
                name: "traceparent",
                description: "W3C trace context, for events that have none themselves.",
                example: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            },
        ])
        .body_in(&[
            Content::json::<Events>(JSON, examples::EVENT),
            Content::json::<Event>("application/cloudevents+json", examples::CLOUD_EVENT),
            Content::json::<Vec<Event>>("application/cloudevents-batch+json", examples::CLOUD_EVENTS),
        ])
        .answers(&[Answer::new(
            202,
            "At least one event is in the log or already was, or the batch is empty.",
            &[Content::json::<Accepted>(JSON, examples::ACCEPTED)],
        )])
        .codes(&[
            &MISSING_FIELD, &UNSUPPORTED_KIND, &INVALID_IDEMPOTENCY_KEY, &ENV_NOT_ALLOWED, &REQUEST_TIMEOUT,
            &IDEMPOTENCY_IN_FLIGHT, &BATCH_TOO_LARGE, &IDEMPOTENCY_MISMATCH, &OVERLOADED,
            &CONCURRENCY_LIMIT_EXCEEDED, &LIMITER_UNAVAILABLE,
        ]);

    PostCommands = Route::new(Post, "/v1/commands", StartsTag, "Send commands")
        .needs(ORCHESTRATIONS_REQUEST)
        .closed_by(Gate::Starts)
        .describe(
            "Starts the workflow that is registered for the command's `type`, for one command or a batch; needs the permission \
             `commands:{type}` as well. The params must match the workflow's schema.",
        )
        .headers(AWAITED_START_HEADERS)
        .body_in(&[
            Content::json::<Starts<Command>>(JSON, examples::COMMAND),
            Content::json::<Command>("application/cloudevents+json", examples::CLOUD_COMMAND),
            Content::json::<Vec<Command>>("application/cloudevents-batch+json", examples::CLOUD_COMMANDS),
        ])
        .answers(STARTED)
        .codes(&[
            &MISSING_FIELD, &UNSUPPORTED_KIND, &INVALID_IDEMPOTENCY_KEY, &ENV_NOT_ALLOWED, &ADAPTER_NOT_ALLOWED,
            &WORKFLOW_NOT_ALLOWED, &UNKNOWN_WORKFLOW, &REQUEST_TIMEOUT, &BATCH_TOO_LARGE, &IDEMPOTENCY_MISMATCH, &IDEMPOTENCY_IN_FLIGHT,
            &FEATURE_DISABLED, &CONCURRENCY_LIMIT_EXCEEDED, &LIMITER_UNAVAILABLE, &OVERLOADED,
        ]);
    PostWorkflows = Route::new(Post, "/v1/workflows", StartsTag, "Start workflows")
        .needs(ORCHESTRATIONS_REQUEST)
        .closed_by(Gate::Starts)
        .describe(
            "Starts a workflow by its name, or a plan (needs the permission `plans:inline`); one or a batch. The input must match the \
             workflow's schema.",
        )
        .headers(AWAITED_START_HEADERS)
        .body_in(&[
            Content::json::<Starts<StartWorkflow>>(JSON, examples::WORKFLOW),
            Content::json::<StartWorkflow>("application/cloudevents+json", examples::CLOUD_WORKFLOW),
            Content::json::<Vec<StartWorkflow>>("application/cloudevents-batch+json", examples::CLOUD_WORKFLOWS),
        ])
        .answers(STARTED)
        .codes(&[
            &MISSING_FIELD, &UNSUPPORTED_KIND, &INVALID_IDEMPOTENCY_KEY, &INVALID_PLAN, &ENV_NOT_ALLOWED, &ADAPTER_NOT_ALLOWED,
            &WORKFLOW_NOT_ALLOWED, &UNKNOWN_WORKFLOW, &REQUEST_TIMEOUT, &BATCH_TOO_LARGE, &IDEMPOTENCY_MISMATCH, &IDEMPOTENCY_IN_FLIGHT,
            &FEATURE_DISABLED, &CONCURRENCY_LIMIT_EXCEEDED, &LIMITER_UNAVAILABLE, &OVERLOADED,
        ]);
    PostGoals = Route::new(Post, "/v1/goals", StartsTag, "Send goals")
        .needs(ORCHESTRATIONS_REQUEST)
        .closed_by(Gate::Starts)
        .describe(
            "Starts a run for a goal in plain words; one or a batch. Personal data in the goal, in `params` and in `context` become \
             placeholders such as `{EMAIL_1}`: the run, its history and its rows have these, and workers get the values.",
        )
        .headers(AWAITED_START_HEADERS)
        .body_in(&[
            Content::json::<Starts<Goal>>(JSON, examples::GOAL),
            Content::json::<Goal>("application/cloudevents+json", examples::CLOUD_GOAL),
            Content::json::<Vec<Goal>>("application/cloudevents-batch+json", examples::CLOUD_GOALS),
        ])
        .answers(STARTED)
        .codes(&[
            &MISSING_FIELD, &UNSUPPORTED_KIND, &INVALID_IDEMPOTENCY_KEY, &ENV_NOT_ALLOWED, &REQUEST_TIMEOUT, &BATCH_TOO_LARGE,
            &IDEMPOTENCY_MISMATCH, &IDEMPOTENCY_IN_FLIGHT, &FEATURE_DISABLED, &CONCURRENCY_LIMIT_EXCEEDED, &LIMITER_UNAVAILABLE,
            &OVERLOADED,
        ]);
    PostTasks = Route::new(Post, "/v1/tasks", StartsTag, "Create tasks")
        .needs(TASKS_CREATE)
        .closed_by(Gate::Starts)
        .describe("Starts a run with one step, which calls the tool named by `type`; one or a batch. The params are the tool's input, \
         unchanged.")
        .headers(AWAITED_START_HEADERS)
        .body_in(&[
            Content::json::<Starts<Task>>(JSON, examples::TASK),
            Content::json::<Task>("application/cloudevents+json", examples::CLOUD_TASK),
            Content::json::<Vec<Task>>("application/cloudevents-batch+json", examples::CLOUD_TASKS),
        ])
        .answers(STARTED)
        .codes(&[
            &MISSING_FIELD, &UNSUPPORTED_KIND, &INVALID_IDEMPOTENCY_KEY, &ENV_NOT_ALLOWED, &ADAPTER_NOT_ALLOWED, &UNKNOWN_TOOL,
            &REQUEST_TIMEOUT, &BATCH_TOO_LARGE, &IDEMPOTENCY_MISMATCH, &IDEMPOTENCY_IN_FLIGHT, &FEATURE_DISABLED,
            &CONCURRENCY_LIMIT_EXCEEDED, &LIMITER_UNAVAILABLE, &OVERLOADED,
        ]);
    ClaimTasks = Route::new(Post, "/v1/tasks/claim", StartsTag, "Claim tasks")
        .needs(TASKS_CLAIM)
        .closed_by(Gate::Intake)
        .describe(
            "For workers that fetch their work: hands out tasks of the key's tenant whose tools have `worker: {claim: {}}`. A task \
             that is neither completed nor extended before its lease expires is handed out again, as the same attempt.",
        )
        .body_in(&[Content::json::<ClaimTasks>(JSON, examples::CLAIM_TASKS)])
        .answers(&[Answer::new(
            200,
            "The tasks; empty if there was none in time.",
            &[Content::json::<ClaimedTasks>(JSON, examples::CLAIMED_TASKS)],
        )])
        .codes(&[&MISSING_FIELD, &OVERLOADED, &POSTGRES_UNAVAILABLE]);
    ExtendLease = Route::new(Post, "/v1/tasks/heartbeat", StartsTag, "Extend a lease")
        .needs(TASKS_CLAIM)
        .describe(
            "Extends the lease while the worker is still working on the task. 409 `stale_lease` means that it should stop: another \
             worker has the task, or it is over.",
        )
        .body_in(&[Content::json::<Heartbeat>(JSON, examples::HEARTBEAT)])
        .answers(&[Answer::new(
            200,
            "The lease was extended.",
            &[Content::json::<ExtendedLease<'static>>(JSON, examples::EXTENDED_LEASE)],
        )])
        .codes(&[&MISSING_FIELD, &STALE_LEASE, &POSTGRES_UNAVAILABLE]);
    CompleteTask = Route::new(Post, "/v1/tasks/complete", StartsTag, "Complete a task")
        .needs(TASKS_COMPLETE)
        .describe(
            "Completes a task that was claimed, or a call that its worker answered with 202; `task_id` and `lease` are those of the \
             task. Repeating the request gives the same answer. If outcomes differ, the first one counts; for a claimed task, another \
             outcome is answered with 409. An outcome for an attempt that is over changes nothing, except that a success of a step \
             that counts as failed is compensated.",
        )
        .body_in(&[Content::json::<CompleteTask>(JSON, examples::COMPLETE_TASK)])
        .answers(&[Answer::new(
            200,
            "The outcome is in the log.",
            &[Content::json::<CompletedTask<'static>>(JSON, examples::COMPLETED_TASK)],
        )])
        .codes(&[&MISSING_FIELD, &STALE_LEASE, &POSTGRES_UNAVAILABLE]);
    ListTools = Route::new(Get, "/v1/tools", Operations, "List tools")
        .needs(RUNS_READ)
        .describe("The tools in force, by name, and the state of their calls on the node that answers.")
        .answers(&[Answer::new(
            200,
            "All tools.",
            &[Content::json::<List<Tool>>(JSON, examples::TOOLS)],
        )]);
    AgentWorkflow = Route::new(Post, "/workflows/agent", StartsTag, "Send an agent's goal")
        .needs(ORCHESTRATIONS_REQUEST)
        .closed_by(Gate::Starts)
        .describe("For agents: a goal in their own envelope, of type `omnilink:agent.goal_received`. Other clients use `/v1/goals`.")
        .headers(START_HEADERS)
        .body_in(&[Content::json::<AgentEnvelope>(JSON, examples::AGENT_ENVELOPE)])
        .answers(AGENT_ACCEPTED)
        .codes(&[
            &MISSING_FIELD, &UNSUPPORTED_KIND, &INVALID_IDEMPOTENCY_KEY, &ENV_NOT_ALLOWED, &REQUEST_TIMEOUT, &IDEMPOTENCY_MISMATCH,
            &IDEMPOTENCY_IN_FLIGHT, &FEATURE_DISABLED, &CONCURRENCY_LIMIT_EXCEEDED, &LIMITER_UNAVAILABLE, &OVERLOADED,
        ]);
    AgentStatus = Route::new(Get, "/workflows/{id}/status", StartsTag, "Show the status of an agent's goal")
        .needs(ORCHESTRATIONS_REQUEST)
        .path_parameters(&[Parameter {
            name: "id",
            description: "`workflow_id` of the answer to the goal.",
            example: "7dbd6d41-6f85-5f7b-98af-6637f5372c2e",
        }])
        .answers(&[Answer::new(
            200,
            "Denied and cancelled runs are `failed`; runs that have not ended are `running`.",
            &[Content::json::<AgentStatusBody>(JSON, examples::AGENT_STATUS)],
        )])
        .describe(
            "For agents; other clients use `/v1/runs/{id}`. A key without the permission `runs:read` only sees the runs that its \
             principal requested. If the run was only just accepted, the answer waits up to 2 s for it.",
        )
        .codes(&[&NOT_FOUND, &POSTGRES_UNAVAILABLE, &OVERLOADED]);
    AgentGoal = Route::new(Post, "/api/v1/goals", StartsTag, "Send an agent's goal, plain")
        .needs(ORCHESTRATIONS_REQUEST)
        .closed_by(Gate::Starts)
        .describe("For agents: like `/workflows/agent`, or the goal without an envelope.")
        .headers(START_HEADERS)
        .body_in(&[Content::json::<AgentGoals>(JSON, examples::AGENT_GOAL)])
        .answers(AGENT_ACCEPTED)
        .codes(&[
            &MISSING_FIELD, &UNSUPPORTED_KIND, &INVALID_IDEMPOTENCY_KEY, &ENV_NOT_ALLOWED, &REQUEST_TIMEOUT, &IDEMPOTENCY_MISMATCH,
            &IDEMPOTENCY_IN_FLIGHT, &FEATURE_DISABLED, &CONCURRENCY_LIMIT_EXCEEDED, &LIMITER_UNAVAILABLE, &OVERLOADED,
        ]);

    ListRuns = Route::new(Get, "/v1/runs", Runs, "List runs")
        .needs(RUNS_READ_OWN)
        .describe(
            "Newest first, without params, plans and outputs. A key that has the permission `runs:read:own`, but not `runs:read`, only \
             sees the runs that its principal requested.",
        )
        .query::<ListRuns>()
        .answers(&[Answer::new(
            200,
            "A page of runs.",
            &[Content::json::<List<RunSummary>>(JSON, run_examples::RUNS)],
        )])
        .codes(&[&POSTGRES_UNAVAILABLE]);
    ShowRun = Route::new(Get, "/v1/runs/{id}", Runs, "Show a run")
        .needs(RUNS_READ_OWN)
        .describe(
            "The current state of the run. If the run was only just accepted, the answer waits up to 2 s for it instead of being 404. \
             With `wait` the answer comes when the run has ended, or after that many seconds. Permissions are those of the list. Reads \
             by persons are audited.",
        )
        .path_parameters(&[RUN_ID])
        .query::<ShowRun>()
        .answers(&[
            Answer::new(
                200,
                "The run; with `wait`, it has ended.",
                &[Content::json::<RunView>(JSON, run_examples::RUN)],
            ),
            Answer::new(
                202,
                "The run did not end within `wait` seconds.",
                &[Content::json::<RunView>(JSON, run_examples::RUNNING_RUN)],
            ),
        ])
        .codes(&[&NOT_FOUND, &POSTGRES_UNAVAILABLE, &OVERLOADED]);
    ShowRunEvents = Route::new(Get, "/v1/runs/{id}/events", Runs, "Show the history of a run")
        .needs(RUNS_READ_OWN)
        .describe(
            "All records in order; [runs.md](runs.md) lists their types. With `Accept: text/event-stream` they are sent as server-sent \
             events, followed by new records until the run's last one: `id` is `seq`, `event` the type, `data` the record. \
             `Last-Event-ID` resumes after that record. A comment every 15 s keeps the connection alive. Permissions are those of the \
             list. Reads by persons are audited.",
        )
        .path_parameters(&[RUN_ID])
        .query::<RunHistory>()
        .headers(&[Parameter {
            name: "Last-Event-ID",
            description: "The `id` of the last event of the stream that the client received.",
            example: "3",
        }])
        .answers(&[
            Answer::new(
                200,
                "A page of records, or a stream.",
                &[
                    Content::json::<List<RunRecordView>>(JSON, run_examples::RUN_EVENTS),
                    Content::other("text/event-stream"),
                ],
            ),
            Answer::new(204, "The run has ended, and its stream has nothing after `Last-Event-ID`.", &[]),
        ])
        .codes(&[&NOT_FOUND, &POSTGRES_UNAVAILABLE, &OVERLOADED]);
    ListApprovals = Route::new(Get, "/v1/approvals", Runs, "List approvals")
        .needs(APPROVALS_READ)
        .describe(
            "Newest first: pending approvals, or those with `status`. Keys with the permission `approvals:decide` see the values of \
             placeholders such as `{EMAIL_1}` in `input` and `message`; `input_hash` is that of the input with placeholders. Reads by \
             persons are audited.",
        )
        .query::<ListApprovals>()
        .answers(&[Answer::new(
            200,
            "A page of approvals.",
            &[Content::json::<List<ApprovalView>>(JSON, run_examples::APPROVALS)],
        )])
        .codes(&[&POSTGRES_UNAVAILABLE]);
    CancelRun = Route::new(Post, "/v1/runs/{id}/cancel", Runs, "Cancel a run")
        .needs(RUNS_WRITE)
        .closed_by(Gate::Takeover)
        .describe(
            "Ends the run: running steps are awaited, steps that have not begun are cancelled, and completed steps are compensated, \
             last first. With `compensate: false` nothing is compensated, which also needs the permission `runs:abandon`. A paused run \
             is cancelled as well. The body may be absent. The kill switch does not close this route.",
        )
        .path_parameters(&[RUN_ID])
        .query::<OfTenant>()
        .body::<CancelRun>(&[Content::json::<CancelRun>(JSON, r#"{ "reason": "ordered twice" }"#)])
        .or_without_body()
        .answers(CONTROLLED)
        .codes(&[
            &NOT_FOUND, &RUN_ENDED, &RUN_ENDING, &RUN_COMPENSATING, &ALREADY_CANCELLED, &CONCURRENCY_LIMIT_EXCEEDED, &LIMITER_UNAVAILABLE, &OVERLOADED,
        ]);
    PauseRun = Route::new(Post, "/v1/runs/{id}/pause", Runs, "Pause a run")
        .needs(RUNS_WRITE)
        .closed_by(Gate::Starts)
        .describe(
            "No more steps are scheduled, and deadlines are suspended; results, signals and decisions are accepted and take effect \
             when the run is resumed. The body may be absent.",
        )
        .path_parameters(&[RUN_ID])
        .query::<OfTenant>()
        .body::<PauseRun>(&[Content::json::<PauseRun>(JSON, "{}")])
        .or_without_body()
        .answers(CONTROLLED)
        .codes(&[
            &NOT_FOUND, &RUN_ENDED, &ALREADY_PAUSED, &CONCURRENCY_LIMIT_EXCEEDED, &LIMITER_UNAVAILABLE, &OVERLOADED,
        ]);
    ResumeRun = Route::new(Post, "/v1/runs/{id}/resume", Runs, "Resume a run")
        .needs(RUNS_WRITE)
        .closed_by(Gate::Starts)
        .describe("Resumes a paused run; its deadlines are extended by the duration of the pause. The body may be absent.")
        .path_parameters(&[RUN_ID])
        .query::<OfTenant>()
        .body::<PauseRun>(&[Content::json::<PauseRun>(JSON, "{}")])
        .or_without_body()
        .answers(CONTROLLED)
        .codes(&[
            &NOT_FOUND, &RUN_ENDED, &NOT_PAUSED, &CONCURRENCY_LIMIT_EXCEEDED, &LIMITER_UNAVAILABLE, &OVERLOADED,
        ]);
    RetryRun = Route::new(Post, "/v1/runs/{id}/retry", Runs, "Repeat a run")
        .needs(RUNS_WRITE)
        .closed_by(Gate::Starts)
        .describe(
            "Starts a new run with the params and the plan of one that has ended; its `retry_of` is that run. The answer is that of a \
             start, and the idempotency key names the new run together with the old one. With `reuse`, successful steps that were not \
             compensated keep their outputs and are not executed again; if the new run fails, it compensates them too. Steps with a \
             compensation can be taken over once; after that, only the run that has them can be repeated with `reuse`. With `compensations` it only repeats the failed compensations, with their inputs and idempotency keys. With `plan` it uses \
             another plan, which needs the permission `plans:inline`; steps whose tool, input or condition differs are executed again, and so are the steps that depend on them. The \
             current definitions of tools apply. If the run has only just ended, the request waits up to 2 s for its row. The body may \
             be absent.",
        )
        .path_parameters(&[RUN_ID])
        .query::<OfTenant>()
        .headers(AWAITED_RETRY_HEADERS)
        .body::<RetryRun>(&[Content::json::<RetryRun>(JSON, r#"{ "reuse": true }"#)])
        .or_without_body()
        .answers(STARTED)
        .codes(&[
            &MISSING_FIELD, &INVALID_IDEMPOTENCY_KEY, &INVALID_PLAN, &WORKFLOW_NOT_ALLOWED, &NOT_FOUND, &NOT_ENDED, &INVALID_RETRY,
            &IDEMPOTENCY_IN_FLIGHT, &IDEMPOTENCY_MISMATCH, &FEATURE_DISABLED, &POSTGRES_UNAVAILABLE, &CONCURRENCY_LIMIT_EXCEEDED,
            &LIMITER_UNAVAILABLE, &OVERLOADED,
        ]);
    ControlRuns = Route::new(Post, "/v1/runs:batch", Runs, "Control many runs")
        .needs(RUNS_WRITE)
        .closed_by(Gate::Takeover)
        .describe(
            "Cancels, pauses, resumes or retries all runs that match `filter` and to which the action applies. A run matches if all members of \
             the filter do; at least one is required. The first line of the answer has the number of runs, the following lines the progress. \
             Eight runs at a time receive the action as by requests of their own, with an entry of the audit log each; runs requested \
             meanwhile are not included. With `dry_run` the runs are only counted. `retry` requires an idempotency key, which identifies \
             each new run together with the old one, so that the same request again starts nothing twice. The job ends when the connection is \
             closed; what was done stays done. The kill switch blocks all actions but `cancel`. The request counts as one item of the key's limits.",
        )
        .query::<OfTenant>()
        .headers(BATCH_HEADERS)
        .body::<ControlRuns>(&[Content::json::<ControlRuns>(JSON, run_examples::CONTROL_RUNS)])
        .answers(&[Answer::new(
            200,
            "The progress, one line each; the last line is not `running`.",
            &[Content::json::<RunsControlled>(NDJSON, run_examples::RUNS_CONTROLLED)],
        )])
        .codes(&[
            &MISSING_FIELD, &INVALID_IDEMPOTENCY_KEY, &OMNILINK_DISABLED, &POSTGRES_UNAVAILABLE, &CONCURRENCY_LIMIT_EXCEEDED,
            &LIMITER_UNAVAILABLE, &OVERLOADED,
        ]);
    SignalRun = Route::new(Post, "/v1/runs/{id}/signal", Runs, "Send a run a signal")
        .needs(RUNS_WRITE)
        .closed_by(Gate::Starts)
        .describe(
            "For a step with the tool `wait` that waits for this signal: `data` is its output. A signal that no step waits for yet is \
             kept; a run keeps up to 100, in order of arrival. Sending the same signal again sends another signal.",
        )
        .path_parameters(&[RUN_ID])
        .query::<OfTenant>()
        .body::<SignalRun>(&[Content::json::<SignalRun>(JSON, examples::SIGNAL_RUN)])
        .answers(CONTROLLED)
        .codes(&[
            &MISSING_FIELD, &NOT_FOUND, &RUN_ENDED, &TOO_MANY_SIGNALS, &CONCURRENCY_LIMIT_EXCEEDED, &LIMITER_UNAVAILABLE, &OVERLOADED,
        ]);
    FeedbackRun = Route::new(Post, "/v1/runs/{id}/feedback", Runs, "Say whether a run's plan was right")
        .needs(RUNS_WRITE)
        .describe(
            "For a run that has ended. If its plan was not right, the plan is no longer cached: neither the entry that the run used nor the one \
             that it made. Both answers are recorded in the audit log as `feedback.given`.",
        )
        .path_parameters(&[RUN_ID])
        .query::<OfTenant>()
        .body::<GiveFeedback>(&[Content::json::<GiveFeedback>(JSON, plan_examples::FEEDBACK)])
        .answers(&[Answer::new(
            200,
            "It is recorded.",
            &[Content::json::<FeedbackGiven>(JSON, plan_examples::FEEDBACK_GIVEN)],
        )])
        .codes(&[&MISSING_FIELD, &NOT_FOUND, &NOT_ENDED, &OVERLOADED, &POSTGRES_UNAVAILABLE]);
    DecideApproval = Route::new(Post, "/v1/approvals/{id}", Runs, "Decide an approval or an incident")
        .needs(APPROVALS_DECIDE)
        .closed_by(Gate::Starts)
        .describe(
            "An approval is `approved` or `denied`; an incident is decided with `retry`, `skip` or `fail`. Neither the principal that \
             requested the run nor the user it acted for may decide its approvals of kind `step` and `run`. An approval of kind `plan` is \
             approved with a `plan`. With `input_hash` the decision only applies to the input that was shown. The same decision again \
             by the same person is answered with 200 and has no further effect.",
        )
        .path_parameters(&[Parameter {
            name: "id",
            description: "The approval's id: the run's id, a dot, and the number of the record that requested it.",
            example: "7dbd6d41-6f85-5f7b-98af-6637f5372c2e.4",
        }])
        .query::<OfTenant>()
        .body::<DecideApproval>(&[Content::json::<DecideApproval>(JSON, examples::DECIDE_APPROVAL)])
        .answers(CONTROLLED)
        .codes(&[
            &MISSING_FIELD, &INVALID_INPUT, &INVALID_PLAN, &PLAN_REQUIRED, &OUTPUT_TOO_LARGE, &SELF_APPROVAL, &NOT_FOUND, &RUN_ENDED,
            &APPROVAL_NOT_OPEN, &INVALID_DECISION, &INPUT_CHANGED, &CONCURRENCY_LIMIT_EXCEEDED, &LIMITER_UNAVAILABLE, &OVERLOADED,
        ]);

    ListPlans = Route::new(Get, "/v1/plans", Plans, "List cached plans")
        .needs(RUNS_READ)
        .describe("Newest first. A plan is cached once a run has carried it out successfully, for `plans.ttl_s` after the last success.")
        .query::<Page>()
        .answers(&[Answer::new(
            200,
            "A page of cached plans.",
            &[Content::json::<List<CachedPlanView>>(JSON, plan_examples::PLANS)],
        )]);
    ShowPlan = Route::new(Get, "/v1/plans/{id}", Plans, "Show a cached plan")
        .needs(RUNS_READ)
        .path_parameters(&[PLAN_ID])
        .query::<OfTenant>()
        .answers(&[Answer::new(
            200,
            "The cached plan.",
            &[Content::json::<WholeCachedPlan>(JSON, plan_examples::PLAN)],
        )])
        .codes(&[&NOT_FOUND]);
    ForgetPlan = Route::new(Delete, "/v1/plans/{id}", Plans, "Forget a cached plan")
        .needs(RUNS_WRITE)
        .describe("Runs that already have the plan carry it out. The next run that succeeds with a plan for such a goal caches it again.")
        .path_parameters(&[PLAN_ID])
        .query::<OfTenant>()
        .answers(&[Answer::new(204, "It is forgotten, on every node within a second.", &[])])
        .codes(&[&NOT_FOUND]);
    ExplainPlan = Route::new(Post, "/v1/plans:explain", Plans, "Explain how a goal gets its plan")
        .needs(RUNS_READ)
        .describe(
            "What each stage of the lookup decides about a goal, without starting a run. Language models are not asked. The goal may have as many \
             characters as one of `/v1/goals`.",
        )
        .query::<OfTenant>()
        .body::<ExplainGoal>(&[Content::json::<ExplainGoal>(JSON, plan_examples::EXPLAIN)])
        .answers(&[Answer::new(
            200,
            "What becomes of the goal.",
            &[Content::json::<ExplainedGoal>(JSON, plan_examples::EXPLAINED)],
        )])
        .codes(&[&MISSING_FIELD]);

    CreateKey = Route::new(Post, "/v1/keys", Keys, "Create a key")
        .needs(ADMIN)
        .describe("The whole key is only in this answer. A key cannot grant more than it has, including constraints.")
        .body::<CreateKey>(&[Content::json::<CreateKey>(JSON, examples::CREATE_KEY)])
        .answers(&[Answer::new(
            201,
            "The key is created, and every node knows it within a second.",
            &[Content::json::<Key<'static>>(JSON, examples::CREATED_KEY)],
        )])
        .codes(&[&MISSING_FIELD]);
    ListKeys = Route::new(Get, "/v1/keys", Keys, "List keys")
        .needs(ADMIN)
        .describe(
            "Newest first, of the key's own tenant; `tenant=*` lists those of all tenants, for operators. `last_used_at` only covers this node since it started; the audit log has an entry `key.used` once an hour \
             for each key and client address.",
        )
        .query::<Page>()
        .answers(&[Answer::new(
            200,
            "A page of keys.",
            &[Content::json::<List<Key<'static>>>(JSON, examples::KEYS)],
        )]);
    RotateKey = Route::new(Post, "/v1/keys/{id}/rotate", Keys, "Rotate a key")
        .needs(ADMIN)
        .describe(
            "The id stays the same, and the whole new key is only in this answer. The previous secret stays valid until the overlap \
             ends; if a key is rotated twice within an overlap, the first secret ends with the second rotation. A key cannot rotate \
             another one that has more permissions.",
        )
        .path_parameters(&[KEY_ID])
        .body::<RotateKey>(&[Content::json::<RotateKey>(JSON, r#"{ "overlap_s": 86400 }"#)])
        .or_without_body()
        .answers(&[Answer::new(
            200,
            "The key has the new secret, and every node knows it within a second.",
            &[Content::json::<RotatedKey<'static>>(JSON, examples::ROTATED_KEY)],
        )])
        .codes(&[&NOT_FOUND]);
    ChangeKey = Route::new(Patch, "/v1/keys/{id}", Keys, "Change a key")
        .needs(ADMIN)
        .describe(
            "Sets the members that are present; `scopes` as a whole. A key cannot grant more than it has, nor change another one that \
             has more permissions. The limits of a changed key are enforced.",
        )
        .path_parameters(&[KEY_ID])
        .body::<ChangeKey>(&[Content::json::<ChangeKey>(JSON, examples::CHANGE_KEY)])
        .answers(&[Answer::new(
            200,
            "The changed key.",
            &[Content::json::<Key<'static>>(JSON, examples::CHANGED_KEY)],
        )])
        .codes(&[&NOT_FOUND]);
    RevokeKey = Route::new(Delete, "/v1/keys/{id}", Keys, "Revoke a key")
        .needs(ADMIN)
        .describe("Revokes all its secrets at once.")
        .path_parameters(&[KEY_ID])
        .answers(&[Answer::new(204, "The key is revoked.", &[])])
        .codes(&[&NOT_FOUND]);

    CreateIntegration = Route::new(Post, "/v1/integrations", Webhooks, "Create a webhook source")
        .needs(ADMIN)
        .describe(
            "`docs/webhooks.md` describes the fields. `detail` of an error lists all faults with their JSON pointers. The `token` of a \
             source that does not sign is only in this answer.",
        )
        .body_in(&[Content::json::<CreateIntegration>(JSON, examples::CREATE_INTEGRATION)])
        .answers(&[Answer::new(
            201,
            "It is created, and every node knows it within a second.",
            &[Content::json::<ChangedIntegration<'static>>(JSON, examples::CREATED_INTEGRATION)],
        )])
        .codes(&[&MISSING_FIELD, &REFERENCE_NOT_ALLOWED, &NAME_TAKEN]);
    ListIntegrations = Route::new(Get, "/v1/integrations", Webhooks, "List webhook sources")
        .needs(ADMIN)
        .describe("Newest first.")
        .query::<Page>()
        .answers(&[Answer::new(
            200,
            "A page of integrations, without their secrets.",
            &[Content::json::<List<Integration<'static>>>(JSON, examples::INTEGRATIONS)],
        )]);
    RotateIntegration = Route::new(Post, "/v1/integrations/{id}/rotate", Webhooks, "Rotate a source's secret or token")
        .needs(ADMIN)
        .path_parameters(&[INTEGRATION_ID])
        .body::<RotateIntegration>(&[Content::json::<RotateIntegration>(JSON, examples::ROTATE_INTEGRATION)])
        .answers(&[Answer::new(
            200,
            "The new one is valid; the previous ones are valid until the overlap ends.",
            &[Content::json::<ChangedIntegration<'static>>(JSON, examples::CREATED_INTEGRATION)],
        )])
        .codes(&[&MISSING_FIELD, &REFERENCE_NOT_ALLOWED, &NOT_FOUND]);
    DeleteIntegration = Route::new(Delete, "/v1/integrations/{id}", Webhooks, "Delete a webhook source")
        .needs(ADMIN)
        .path_parameters(&[INTEGRATION_ID])
        .answers(&[Answer::new(204, "It is deleted; its events stay.", &[])])
        .codes(&[&NOT_FOUND]);
    PostWebhook = Route::new(Post, "/v1/webhooks/{tenant}/{source}", Webhooks, "Receive a webhook")
        .closed_by(Gate::Intake)
        .describe(
            "For senders that sign. The source's dialect determines the format of the body: JSON, or a form \
             (`application/x-www-form-urlencoded`). Paths of `webhooks.aliases` are equivalent.",
        )
        .path_parameters(&[
            Parameter {
                name: "tenant",
                description: "The source's tenant.",
                example: "acme",
            },
            Parameter {
                name: "source",
                description: "The source's name.",
                example: "billing",
            },
        ])
        .body_in(&[Content::json::<serde_json::Value>(JSON, examples::WEBHOOK)])
        .answers(ACCEPTED_WEBHOOK)
        .codes(WEBHOOK_CODES);
    PostHook = Route::new(Post, "/v1/hooks/{token}", Webhooks, "Receive a webhook without a signature")
        .closed_by(Gate::Intake)
        .describe("For senders that can only be given a URL: the token in the path authenticates them.")
        .path_parameters(&[Parameter {
            name: "token",
            description: "The source's token.",
            example: "hook_0Zk3vQ0aBx1R7s0mB9Qm3uC4YzKq0b8y1lT6uN2w5aZ",
        }])
        .body_in(&[Content::json::<serde_json::Value>(JSON, examples::HOOK)])
        .answers(ACCEPTED_WEBHOOK)
        .codes(WEBHOOK_CODES);

    GrantReader = Route::new(Post, "/v1/readers", Readers, "Grant a login access to a tenant")
        .needs(ADMIN)
        .body::<GrantReader>(&[Content::json::<GrantReader>(JSON, examples::GRANT_READER)])
        .answers(&[
            Answer::new(
                200,
                "The login could already read the tenant.",
                &[Content::json::<Reader<'static>>(JSON, examples::READER)],
            ),
            Answer::new(
                201,
                "The login can read the tenant.",
                &[Content::json::<Reader<'static>>(JSON, examples::READER)],
            ),
        ])
        .codes(&[&MISSING_FIELD]);
    ListReaders = Route::new(Get, "/v1/readers", Readers, "List grants")
        .needs(ADMIN)
        .describe("Newest first. A key with `operator` sees the grants of all tenants, unless `tenant` names one.")
        .query::<Page>()
        .answers(&[Answer::new(
            200,
            "A page of grants.",
            &[Content::json::<List<Reader<'static>>>(JSON, examples::READERS)],
        )]);
    RevokeReader = Route::new(Delete, "/v1/readers/{login}", Readers, "Revoke a login's access to a tenant")
        .needs(ADMIN)
        .path_parameters(&[Parameter {
            name: "login",
            description: "A Postgres login.",
            example: "grafana",
        }])
        .query::<RevokeReader>()
        .answers(&[Answer::new(204, "The login can no longer read the tenant.", &[])])
        .codes(&[&NOT_FOUND]);

    ShowControls = Route::new(Get, "/v1/controls", ControlsTag, "Show the emergency controls")
        .needs(OPERATOR)
        .describe("The controls in force on this node. The controls never close this route.")
        .answers(&[Answer::new(
            200,
            "The controls.",
            &[Content::json::<Controls<'static>>(JSON, examples::CONTROLS)],
        )]);
    ChangeControls = Route::new(Patch, "/v1/controls", ControlsTag, "Change the emergency controls")
        .needs(OPERATOR)
        .describe(
            "Absent members stay unchanged, and features in `disabled` are merged one by one, so that concurrent changes through \
             several nodes all take effect. The controls never close this route. Every change is recorded in the audit log as \
             `control.changed`.",
        )
        .body::<ChangeControls>(&[Content::json::<ChangeControls>(JSON, examples::CHANGE_CONTROLS)])
        .answers(&[Answer::new(
            200,
            "The controls with the change, which takes effect on every node within a second.",
            &[Content::json::<Controls<'static>>(JSON, examples::CONTROLS)],
        )])
        .codes(&[&MISSING_FIELD]);
    ListAudit = Route::new(Get, "/v1/audit", Audit, "List the audit log")
        .needs(ADMIN)
        .describe(
            "Newest first. An entry appears within a second after it was recorded, and is kept for `audit.retention_days`; [audit.md](audit.md) lists \
             the actions.",
        )
        .query::<AuditQuery>()
        .answers(&[Answer::new(
            200,
            "A page of the audit log.",
            &[Content::json::<List<AuditEntry>>(JSON, examples::AUDIT)],
        )])
        .codes(&[&POSTGRES_UNAVAILABLE]);
    ListRejections = Route::new(Get, "/v1/rejections", Audit, "List rejected webhook requests")
        .needs(ADMIN)
        .describe("Newest first. Each with the reason, the hash of its body and the body's first 4 KiB. Reads by persons are audited.")
        .query::<RejectionQuery>()
        .answers(&[Answer::new(
            200,
            "A page of rejections.",
            &[Content::json::<List<Rejection>>(JSON, examples::REJECTIONS)],
        )])
        .codes(&[&POSTGRES_UNAVAILABLE]);

    Replay = Route::new(Get, "/v1/replay", Replay, "Replay events")
        .needs(ADMIN)
        .describe("The answer is produced while it is read; an aborted answer is incomplete.")
        .query::<ReplayParameters>()
        .answers(&[Answer::new(
            200,
            "The events: a line of JSON each, or a Parquet file.",
            &[
                Content::json::<Event>(NDJSON, examples::REPLAYED_EVENT),
                Content::other("application/vnd.apache.parquet"),
            ],
        )])
        .codes(&[&CONCURRENCY_LIMIT_EXCEEDED, &OVERLOADED]);
    ReplayState = Route::new(Get, "/v1/replay/state", Replay, "Show an entity at a point in time")
        .needs(ADMIN)
        .query::<StateParameters>()
        .answers(&[Answer::new(
            200,
            "The entity, folded from its events up to that time.",
            &[Content::json::<EntityState>(JSON, examples::ENTITY_STATE)],
        )])
        .codes(&[&MISSING_FIELD, &UNKNOWN_ENTITY, &CONCURRENCY_LIMIT_EXCEEDED, &OVERLOADED]);
    ReplayIntoTopic = Route::new(Post, "/v1/replay/topic", Replay, "Replay events into a topic")
        .needs(OPERATOR)
        .query::<IntoTopicParameters>()
        .answers(&[Answer::new(
            200,
            "Lines with the progress; the last one is not `running`.",
            &[Content::json::<ReplayProgress<'static>>(NDJSON, examples::REPLAY_PROGRESS)],
        )])
        .codes(&[&CONCURRENCY_LIMIT_EXCEEDED, &OVERLOADED]);

    ListLetters = Route::new(Get, "/v1/dlq", DeadLetters, "List dead letters")
        .needs(OPERATOR)
        .describe("Newest first.")
        .query::<ListLetters>()
        .answers(&[Answer::new(
            200,
            "A page of dead letters.",
            &[Content::json::<Letters>(JSON, examples::LETTERS)],
        )])
        .codes(&[&UNKNOWN_TOPIC, &PARTITION_COUNT]);
    ShowLetter = Route::new(Get, "/v1/dlq/{name}", DeadLetters, "Show a dead letter")
        .needs(OPERATOR)
        .path_parameters(&[Parameter {
            name: "name",
            description: "The letter's name, `PARTITION:OFFSET`.",
            example: "3:17",
        }])
        .answers(&[Answer::new(
            200,
            "The letter, with its record.",
            &[Content::json::<Shown>(JSON, examples::LETTER)],
        )])
        .codes(&[&INVALID_PAYLOAD, &UNKNOWN_LETTER, &UNKNOWN_TOPIC, &PARTITION_COUNT]);
    RedriveLetters = Route::new(Post, "/v1/dlq/redrive", DeadLetters, "Redrive dead letters")
        .needs(OPERATOR)
        .body::<RedriveLetters>(&[Content::json::<RedriveLetters>(JSON, examples::REDRIVE)])
        .answers(&[Answer::new(
            200,
            "Lines with the progress; the last one is not `running`.",
            &[Content::json::<RedriveProgress<'static>>(NDJSON, examples::REDRIVE_PROGRESS)],
        )])
        .codes(&[&REDRIVE_RUNNING]);

    Lag = Route::new(Get, "/v1/lag", Operations, "Show the lag of processors")
        .needs(OPERATOR)
        .answers(&[Answer::new(
            200,
            "The lag of each processor in each partition; what cannot be read has an `error`.",
            &[Content::json::<List<Item>>(JSON, examples::LAG)],
        )]);
    ListTopics = Route::new(Get, "/v1/topics", Operations, "List OmniLink's topics")
        .needs(OPERATOR)
        .answers(&[Answer::new(
            200,
            "Each topic with its problems.",
            &[Content::json::<List<Surveyed>>(JSON, examples::TOPICS)],
        )])
        .codes(&[&UNKNOWN_TOPIC, &PARTITION_COUNT]);
    CreateTopics = Route::new(Post, "/v1/topics", Operations, "Create topics")
        .needs(OPERATOR)
        .body::<CreateTopics>(&[Content::json::<CreateTopics>(JSON, examples::CREATE_TOPICS)])
        .answers(&[Answer::new(
            200,
            "The topics after the change.",
            &[Content::json::<List<Surveyed>>(JSON, examples::CREATED_TOPICS)],
        )])
        .codes(&[&UNKNOWN_TOPIC, &PARTITION_COUNT]);
    StartRebuild = Route::new(Post, "/v1/rebuild", Operations, "Rebuild projections")
        .needs(OPERATOR)
        .body::<StartRebuild>(&[Content::json::<StartRebuild>(JSON, examples::START_REBUILD)])
        .answers(&[Answer::new(
            202,
            "The rebuild is running.",
            &[Content::json::<Rebuild>(JSON, examples::STARTED_REBUILD)],
        )])
        .codes(&[&UNKNOWN_PROJECTION, &REBUILD_RUNNING, &POSTGRES_UNAVAILABLE]);
    ShowRebuild = Route::new(Get, "/v1/rebuild", Operations, "Show the progress of the last rebuild")
        .needs(OPERATOR)
        .answers(&[Answer::new(
            200,
            "The progress.",
            &[Content::json::<Rebuild>(JSON, examples::REBUILD)],
        )]);

    Registry = Route::new(Get, "/", SchemaRegistry, "Show that the registry exists")
        .answers(registry_answer!("An empty object.", Empty, "{}"))
        .registry_errors(&[]);
    RegistrySchemas = Route::new(Get, "/schemas", SchemaRegistry, "List schemas")
        .query::<ListSchemas>()
        .answers(registry_answer!(
            "All versions of all subjects.",
            Vec<SchemaVersion>,
            r#"[{ "subject": "omnilink.events-value", "version": 1, "id": 1073741825, "schema": "{…}" }]"#
        ))
        .registry_errors(&[]);
    RegistryTypes = Route::new(Get, "/schemas/types", SchemaRegistry, "List schema types")
        .answers(registry_answer!("Only Avro.", Vec<String>, r#"["AVRO"]"#))
        .registry_errors(&[]);
    RegistrySchema = Route::new(Get, "/schemas/ids/{id}", SchemaRegistry, "Show a schema")
        .path_parameters(&[SCHEMA_ID])
        .query::<GetSchema>()
        .answers(registry_answer!("The schema.", SchemaText, r#"{ "schema": "{…}" }"#))
        .registry_errors(&[404]);
    RegistrySchemaText = Route::new(Get, "/schemas/ids/{id}/schema", SchemaRegistry, "Show a schema's text")
        .path_parameters(&[SCHEMA_ID])
        .answers(registry_answer!(
            "The schema itself.",
            serde_json::Map<String, serde_json::Value>,
            r#"{ "type": "record", "name": "Event", "fields": [] }"#
        ))
        .registry_errors(&[404]);
    RegistrySchemaSubjects = Route::new(Get, "/schemas/ids/{id}/subjects", SchemaRegistry, "List subjects of a schema")
        .path_parameters(&[SCHEMA_ID])
        .answers(registry_answer!("Its subject.", Vec<String>, r#"["omnilink.events-value"]"#))
        .registry_errors(&[404]);
    RegistrySchemaVersions = Route::new(Get, "/schemas/ids/{id}/versions", SchemaRegistry, "List versions of a schema")
        .path_parameters(&[SCHEMA_ID])
        .answers(registry_answer!(
            "Its subject and version.",
            Vec<SubjectVersion>,
            r#"[{ "subject": "omnilink.events-value", "version": 1 }]"#
        ))
        .registry_errors(&[404]);
    RegistrySubjects = Route::new(Get, "/subjects", SchemaRegistry, "List subjects")
        .query::<ListSubjects>()
        .answers(registry_answer!("All subjects.", Vec<String>, r#"["omnilink.events-value"]"#))
        .registry_errors(&[]);
    RegistryVersions = Route::new(Get, "/subjects/{subject}/versions", SchemaRegistry, "List versions of a subject")
        .path_parameters(&[SUBJECT])
        .answers(registry_answer!("Its versions, oldest first.", Vec<u32>, "[1]"))
        .registry_errors(&[404]);
    RegistryVersion = Route::new(Get, "/subjects/{subject}/versions/{version}", SchemaRegistry, "Show a version")
        .path_parameters(&[SUBJECT, VERSION])
        .answers(registry_answer!(
            "The version.",
            SchemaVersion,
            r#"{ "subject": "omnilink.events-value", "version": 1, "id": 1073741825, "schema": "{…}" }"#
        ))
        .registry_errors(&[404, 422]);
    RegistryVersionText =
        Route::new(Get, "/subjects/{subject}/versions/{version}/schema", SchemaRegistry, "Show a version's text")
        .path_parameters(&[SUBJECT, VERSION])
        .answers(registry_answer!(
            "The schema itself.",
            serde_json::Map<String, serde_json::Value>,
            r#"{ "type": "record", "name": "Event", "fields": [] }"#
        ))
        .registry_errors(&[404, 422]);
    RegistryVersionUses = Route::new(
        Get,
        "/subjects/{subject}/versions/{version}/referencedby",
        SchemaRegistry,
        "List schemas that use a version",
    )
        .path_parameters(&[SUBJECT, VERSION])
        .answers(registry_answer!("None.", Vec<u32>, "[]"))
        .registry_errors(&[404, 422]);
    RegistryLookUp = Route::new(Post, "/subjects/{subject}", SchemaRegistry, "Look up a schema")
        .path_parameters(&[SUBJECT])
        .body::<SentSchema>(SENT_SCHEMA)
        .answers(registry_answer!(
            "The version with this schema.",
            SchemaVersion,
            r#"{ "subject": "omnilink.events-value", "version": 1, "id": 1073741825, "schema": "{…}" }"#
        ))
        .registry_errors(&[400, 404, 413, 422]);
    RegistryRegister = Route::new(Post, "/subjects/{subject}/versions", SchemaRegistry, "Register a schema")
        .describe("Succeeds for an existing schema; nothing is registered.")
        .path_parameters(&[SUBJECT])
        .body::<SentSchema>(SENT_SCHEMA)
        .answers(registry_answer!("The schema's id.", SchemaId, r#"{ "id": 1073741825 }"#))
        .registry_errors(&[400, 413, 422]);
    RegistryCompareAll =
        Route::new(Post, "/compatibility/subjects/{subject}/versions", SchemaRegistry, "Compare a schema with all versions")
        .path_parameters(&[SUBJECT])
        .query::<Compare>()
        .body::<SentSchema>(SENT_SCHEMA)
        .answers(registry_answer!(
            "Whether it is compatible.",
            Compatibility,
            r#"{ "is_compatible": true }"#
        ))
        .registry_errors(&[400, 404, 413, 422]);
    RegistryCompare = Route::new(
        Post,
        "/compatibility/subjects/{subject}/versions/{version}",
        SchemaRegistry,
        "Compare a schema with a version",
    )
        .path_parameters(&[SUBJECT, VERSION])
        .query::<Compare>()
        .body::<SentSchema>(SENT_SCHEMA)
        .answers(registry_answer!(
            "Whether it is compatible.",
            Compatibility,
            r#"{ "is_compatible": true }"#
        ))
        .registry_errors(&[400, 404, 413, 422]);
    RegistryConfig = Route::new(Get, "/config", SchemaRegistry, "Show the compatibility level")
        .answers(registry_answer!(
            "The compatibility level.",
            CompatibilityLevel,
            r#"{ "compatibilityLevel": "BACKWARD_TRANSITIVE" }"#
        ))
        .registry_errors(&[]);
    RegistrySubjectConfig =
        Route::new(Get, "/config/{subject}", SchemaRegistry, "Show a subject's compatibility level")
        .path_parameters(&[SUBJECT])
        .query::<GetSetting>()
        .answers(registry_answer!(
            "The compatibility level.",
            CompatibilityLevel,
            r#"{ "compatibilityLevel": "BACKWARD_TRANSITIVE" }"#
        ))
        .registry_errors(&[404]);
    RegistryMode = Route::new(Get, "/mode", SchemaRegistry, "Show the mode")
        .answers(registry_answer!("The mode.", RegistryMode, r#"{ "mode": "READONLY" }"#))
        .registry_errors(&[]);
    RegistrySubjectMode =
        Route::new(Get, "/mode/{subject}", SchemaRegistry, "Show a subject's mode")
        .path_parameters(&[SUBJECT])
        .query::<GetSetting>()
        .answers(registry_answer!("The mode.", RegistryMode, r#"{ "mode": "READONLY" }"#))
        .registry_errors(&[404]);
    RegistryContexts = Route::new(Get, "/contexts", SchemaRegistry, "List contexts")
        .answers(registry_answer!("The default context.", Vec<String>, r#"["."]"#))
        .registry_errors(&[]);

    Health = Route::new(Get, "/healthz", Node, "Show that the process is running")
        .answers(&[Answer::new(
            200,
            "The process is running.",
            &[Content::json::<Health>(JSON, examples::HEALTH)],
        )]);
    Ready = Route::new(Get, "/readyz", Node, "Show the status of each part")
        .answers(&[
            Answer::new(
                200,
                "The node accepts events; `degraded` means that something else is wrong.",
                &[Content::json::<Report>(JSON, examples::READY)],
            ),
            Answer::new(
                503,
                "The log or the controls cannot be read.",
                &[Content::json::<Report>(JSON, examples::NOT_READY)],
            ),
        ]);
    Metrics = Route::new(Get, "/metrics", Node, "Show metrics")
        .answers(&[Answer::new(
            200,
            "Prometheus's text format.",
            &[Content::other("text/plain; version=0.0.4; charset=utf-8")],
        )]);
    OpenApi = Route::new(Get, "/openapi.json", Node, "Describe this API")
        .answers(&[Answer::new(
            200,
            "An OpenAPI 3.1 document.",
            &[Content::json::<serde_json::Map<String, serde_json::Value>>(JSON, r#"{ "openapi": "3.1.0" }"#)],
        )]);
    Docs = Route::new(Get, "/docs", Node, "Show this API as a page")
        .answers(&[Answer::new(
            200,
            "A page that shows `/openapi.json`.",
            &[Content::other("text/html; charset=utf-8")],
        )]);
    DocsScript = Route::new(Get, "/docs/page.js", Node, "The script of that page")
        .answers(&[Answer::new(200, "JavaScript.", &[Content::other("text/javascript; charset=utf-8")])]);
    DocsStyle = Route::new(Get, "/docs/page.css", Node, "The style of that page")
        .answers(&[Answer::new(200, "CSS.", &[Content::other("text/css; charset=utf-8")])]);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::api::{
        problem::{self, METHOD_NOT_ALLOWED, ORIGIN_NOT_ALLOWED},
        route::Errors,
    };

    #[test]
    fn each_line_is_complete_and_of_its_own() {
        let mut lines = BTreeSet::new();
        for operation in Operation::ALL {
            let route = operation.route();
            let (name, path) = (operation.name(), route.path);
            assert!(lines.insert((route.method, path)), "{name}");
            let in_path: Vec<_> = path
                .split('{')
                .skip(1)
                .map(|part| part.split('}').next())
                .collect();
            let named: Vec<_> = route.path_parameters.iter().map(|p| Some(p.name)).collect();
            assert_eq!(in_path, named, "{name}");
            assert!(!route.answers.is_empty(), "{name}");
            assert!(
                !route.summary.ends_with('.')
                    && route.answers.iter().all(|a| a.description.ends_with('.')),
                "{name}"
            );
            for content in route.body {
                let example = content.example.unwrap();
                if let Some(takes) = route.takes {
                    takes(example).unwrap_or_else(|e| panic!("{name}: {e}"));
                }
            }
            if let Errors::Registry(_) = route.errors {
                assert!(route.codes_of_errors().is_empty(), "{name}");
            }
        }
        assert_eq!(ROUTES.len(), Operation::ALL.len());
    }

    #[test]
    fn every_code_is_an_answer_of_a_route() {
        let mut used: BTreeSet<_> = ROUTES
            .iter()
            .flat_map(Route::codes_of_errors)
            .map(|c| c.code)
            .collect();
        // These are not answers of a route: unknown path, wrong method, handshake of a webhook sender.
        used.extend([&NOT_FOUND, &METHOD_NOT_ALLOWED, &ORIGIN_NOT_ALLOWED].map(|code| code.code));
        let all: BTreeSet<_> = problem::ALL.iter().map(|code| code.code).collect();
        assert_eq!(used, all);
    }
}
