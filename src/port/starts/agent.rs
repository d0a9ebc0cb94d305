//! The agents' routes: `POST /workflows/agent`, `GET /workflows/{id}/status`, `POST /api/v1/goals`. Existing agents use them, so paths
//! and formats must not change.

use std::{borrow::Cow, sync::Arc};

use axum::{
    Json,
    extract::{Path, Request, State},
    response::Response,
};
use serde_json::{Map, Value, value::to_raw_value};

use super::{
    answer,
    append::append,
    judge::{Candidate, Judge},
    outcome::CheckedStart,
    post::identify,
    refusal::Refusal,
};
use crate::{
    api::{
        events::ItemStatus,
        problem::{UNSUPPORTED_KIND, UNSUPPORTED_MEDIA_TYPE},
        starts::{AGENT_GOAL, AgentGoal, AgentStatus},
    },
    controls::ACT_AS,
    envelope::{
        self, BodyHash, Data, Event, Form as Dialect, Invalid, Parsed, TimeSource,
        json::{has_member, without_mark},
        parse_structured,
    },
    port::{
        Shared,
        ingest::{
            body,
            events::{idempotency_key, refuse_body, trace},
            media::{self, Form},
        },
        limited::Sender,
        problem::{Problem, Refused},
        rest::{
            caller::{Caller, Permitted},
            runs::unreadable,
            wait::RunLookup,
        },
    },
    starts::{StartFields, StartTarget, check_idempotency_key, user_of},
};

/// The source of plain goals, which do not name one.
const SOURCE: &str = "/agents";

/// `POST /workflows/agent`: a goal in the agents' envelope.
pub(crate) async fn workflow(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Response, Refused> {
    post(&shared, request, false).await
}

/// `POST /api/v1/goals`: a goal in the agents' envelope, or a plain one.
pub(crate) async fn goal(
    State(shared): State<Arc<Shared>>,
    request: Request,
) -> Result<Response, Refused> {
    post(&shared, request, true).await
}

/// `GET /workflows/{id}/status`.
pub(crate) async fn status(
    caller: Permitted,
    Path(id): Path<String>,
) -> Result<Json<AgentStatus>, Refused> {
    let lookup = RunLookup::new(&caller, None, &id)?;
    let (row, output) = lookup.with_output().await?;
    let of = ("run", &*lookup.run_id);
    caller.audit_read(Some(&lookup.tenant), "run.read", of, Map::new());
    let status = AgentStatus::of(&row, output.as_deref());
    Ok(Json(status.map_err(|e| unreadable(&caller, &e))?))
}

async fn post(shared: &Arc<Shared>, request: Request, plain: bool) -> Result<Response, Refused> {
    let limit = shared.limits.single_bytes;
    let (caller, headers, mut body) = identify(shared, request, limit).await?;
    let judge = Judge::of(&caller, envelope::StartKind::Goal);
    let mut in_flight = None;
    let read = async {
        if media::form(&headers)? != Form::Json {
            let detail = "send application/json, without `ce-` headers";
            return Err(Problem::new(&UNSUPPORTED_MEDIA_TYPE, detail));
        }
        in_flight = shared.limiting.enter(Sender::of(&caller.key)).await?;
        let bytes = body::read(&mut body, limit, &shared.bodies).await;
        let bytes = bytes.map_err(|error| refuse_body(error, Form::Structured, limit))?;
        let start = prepare_goal(
            &judge,
            idempotency_key(&headers)?,
            trace(&headers).as_ref(),
            &bytes,
            plain,
        )
        .await;
        Ok(start)
    };
    let start = match read.await {
        Ok(start) => start,
        Err(problem) => {
            body::discard(body);
            judge.record_problem(&problem);
            return Err(caller.refuse(problem));
        }
    };
    let taken = append(&judge, vec![start]).await;
    drop(in_flight);
    answer::agent(taken)
        .map(|response| judge.with_limit(response))
        .map_err(|problem| caller.refuse(problem))
}

async fn prepare_goal(
    judge: &Judge<'_>,
    header: Option<&str>,
    trace: Option<&envelope::TraceContext<'_>>,
    body: &[u8],
    plain: bool,
) -> Result<CheckedStart, Refusal> {
    let limit = judge.size_limit();
    let read = if body.len() > limit {
        Err(Refusal::too_large("an item", limit))
    } else {
        Goal::read(judge, body, plain)
    };
    let mut goal = match read {
        Ok(goal) => goal,
        Err(refusal) => {
            judge.record_refusal(None, None, None, &refusal);
            return Err(refusal);
        }
    };
    if let Some(trace) = trace {
        goal.event.keep_trace(trace);
    }
    let key = header.map(str::to_owned).or(goal.idempotency_key.take());
    let fields = fields(judge.caller, goal.payload).and_then(|fields| {
        key.as_deref().map_or(Ok(()), check_idempotency_key)?;
        Ok(fields)
    });
    match (fields, key) {
        (Ok(fields), Some(key)) => {
            let candidate = Candidate {
                identity: vec!["run".to_owned(), goal.event.tenant.to_string(), key],
                event: &goal.event,
                body_hash: goal.body_hash,
                fields,
            };
            judge.start(candidate).await
        }
        (fields, _) => {
            let refusal = fields.err().unwrap_or_else(Refusal::no_idempotency_key);
            judge.record_refusal(Some(&goal.event), None, None, &refusal);
            Err(refusal)
        }
    }
}

/// A goal as sent.
struct Goal<'a> {
    event: Event<'a>,
    body_hash: BodyHash,
    payload: AgentGoal,
    /// The key in the body.
    idempotency_key: Option<String>,
}

impl<'a> Goal<'a> {
    fn read(judge: &Judge<'_>, body: &'a [u8], plain: bool) -> Result<Self, Refusal> {
        let body = without_mark(body);
        // This is checked here, so that invalid JSON is reported as such.
        let hash = BodyHash::of_text(body).map_err(Invalid::from)?;
        let text = std::str::from_utf8(body).unwrap_or_default();
        if has_member(text, "eventId") || has_member(text, "event_id") {
            return Self::of_envelope(judge, body);
        }
        if !plain {
            return Err(Invalid::missing("eventId").into());
        }
        let mut payload = payload(text)?;
        let idempotency_key = payload.idempotency_key.take().filter(|key| !key.is_empty());
        let now = judge.now;
        let event = Event {
            tenant: judge.caller.key.tenant.clone(),
            id: idempotency_key.clone().unwrap_or_default().into(),
            source: SOURCE.into(),
            kind: AGENT_GOAL.into(),
            subject: None,
            entity: None,
            correlation_id: None,
            causation_id: None,
            time: now.0.saturating_mul(1000),
            time_source: TimeSource::Receiver,
            data: Data::Absent,
            extensions: Cow::Borrowed("{}"),
            tombstone: false,
            idempotency_key: None,
        };
        Ok(Self {
            event,
            body_hash: hash,
            payload,
            idempotency_key,
        })
    }

    fn of_envelope(judge: &Judge<'_>, body: &'a [u8]) -> Result<Self, Refusal> {
        let tenant = &judge.caller.key.tenant;
        let parsed = parse_structured(body, Dialect::OmniLink, tenant, judge.now);
        let Parsed { mut event, .. } = parsed?;
        if event.kind != AGENT_GOAL {
            let message = format!("`eventType` must be `{AGENT_GOAL}`");
            return Err(Refusal::new(
                ItemStatus::Invalid,
                &UNSUPPORTED_KIND,
                message,
            ));
        }
        let Data::Json(data) = std::mem::replace(&mut event.data, Data::Absent) else {
            return Err(Refusal::missing("payload"));
        };
        // A goal with a new id and time is still the same goal.
        let compared = format!(
            "{{\"source\":{},\"payload\":{data}}}",
            Value::from(&*event.source)
        );
        let body_hash = BodyHash::of_text(compared.as_bytes()).map_err(Invalid::from)?;
        let payload = payload(&data)?;
        let idempotency_key = event.idempotency_key.take().map(Cow::into_owned);
        Ok(Self {
            event,
            body_hash,
            payload,
            idempotency_key,
        })
    }
}

fn payload(text: &str) -> Result<AgentGoal, Refusal> {
    serde_json::from_str(text).map_err(|e| Refusal::invalid(format!("not a goal: {e}")))
}

fn fields(caller: &Caller, payload: AgentGoal) -> Result<StartFields, Refusal> {
    let goal = payload.goal.filter(|goal| !goal.trim().is_empty());
    let mut fields = StartFields {
        what: StartTarget::Goal(goal.ok_or_else(|| Refusal::missing("goal"))?),
        ..StartFields::default()
    };
    let mut context: Option<Map<String, Value>> = payload.context;
    if let Some(user) = payload.user_id {
        let user = user_of("user_id", user)?;
        if caller.key.scopes.permits(ACT_AS) {
            fields.on_behalf_of = Some(user);
        } else {
            context
                .get_or_insert_default()
                .insert("user_id".into(), user.into());
        }
    }
    fields.context = context
        .map(|context| to_raw_value(&context))
        .transpose()
        .map_err(|e| Refusal::invalid(e.to_string()))?;
    Ok(fields)
}
