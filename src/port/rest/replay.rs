//! `/v1/replay`: reads the history. A key reads its own tenant; operators may name any.
//!
//! Each key and each tenant may run a few replays at once ([`super::slots`]); more are answered with 429.

use std::{
    io::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value};

use super::{
    caller::{Caller, Permitted},
    request::QueryString,
    slots::ReplaySlot,
    stream::{self, Aborted},
};
use crate::{
    api::{
        problem::{MISSING_FIELD, UNKNOWN_ENTITY},
        replay::{ReplayFormat, ReplayProgress, ReplayQuery},
    },
    audit::{EVENT_COPIED, EVENT_REPLAYED},
    port::{
        Shared,
        problem::{Problem, Refused},
    },
    replay::{
        History, IntoTopic, Lines, Parquet, ReplayError, Replayed, Sink, StateError, as_of, replay,
    },
};

/// How often a replay into a topic reports its progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

type Pairs = QueryString<Vec<(String, String)>>;

/// A replay that is allowed to run.
struct Request {
    caller: Permitted,
    parsed: ReplayQuery,
    slot: ReplaySlot,
    /// The parameters as sent, for the audit log.
    given: Map<String, Value>,
}

impl Request {
    /// Checks the parameters, the permission, the tenant, and the limit on replays.
    fn new(caller: Caller, pairs: Pairs) -> Result<Self, Refused> {
        let pairs = caller.query(pairs)?;
        let given = as_given(&pairs);
        let mut parsed = ReplayQuery::parse(pairs).map_err(|e| caller.invalid(e))?;
        let caller = caller.permit()?;
        let own = &caller.key.tenant;
        match &parsed.query.tenant {
            _ if caller.is_operator() => {}
            Some(tenant) if tenant != own => caller.name_other_tenant()?,
            _ => parsed.query.tenant = Some(own.clone()),
        }
        let slot = caller.shared.replays.take(&caller.key);
        let slot = slot.map_err(|problem| caller.refuse(problem))?;
        Ok(Self {
            caller,
            parsed,
            slot,
            given,
        })
    }

    /// Records that a person reads the history.
    fn audit_read(&self) {
        let caller = &self.caller;
        let of = ("topic", &*caller.shared.tools.names.events);
        let tenant = self.parsed.query.tenant.as_ref();
        caller.audit_read(tenant, EVENT_REPLAYED, of, self.given.clone());
    }
}

/// The parameters as an object; a parameter that occurs more than once becomes an array.
fn as_given(pairs: &[(String, String)]) -> Map<String, Value> {
    let mut given = Map::new();
    for (name, value) in pairs {
        match given.get_mut(name) {
            None => {
                given.insert(name.clone(), value.as_str().into());
            }
            Some(Value::Array(values)) => values.push(value.as_str().into()),
            Some(one) => *one = vec![one.take(), value.as_str().into()].into(),
        }
    }
    given
}

impl Shared {
    fn history(&self) -> History<'_> {
        History {
            log: &*self.tools.log,
            names: &self.tools.names,
            index_dir: self.tools.index_dir.clone(),
        }
    }
}

/// `GET /v1/replay`.
pub(crate) async fn events(caller: Caller, pairs: Pairs) -> Result<Response, Refused> {
    let request = Request::new(caller, pairs)?;
    request.audit_read();
    let Request {
        caller,
        parsed,
        slot,
        ..
    } = request;
    let shared = Arc::clone(&caller.shared);
    let media = match parsed.format {
        ReplayFormat::Lines => "application/x-ndjson",
        ReplayFormat::Parquet => "application/vnd.apache.parquet",
    };
    Ok(stream::respond(media, move |out| {
        let _slot = slot;
        let client = out.watch();
        let mut sink: Box<dyn Sink> = match parsed.format {
            ReplayFormat::Lines => Box::new(Lines::new(out.clone(), &shared.tools.names.events)),
            ReplayFormat::Parquet => Box::new(Parquet::new(out.clone())?),
        };
        let mut stopped = false;
        let mut proceed = |_: &Replayed| {
            stopped = client.is_closed() || shared.stopping.is_cancelled();
            !stopped
        };
        replay(&shared.history(), &parsed.query, &mut *sink, &mut proceed)?;
        if stopped && parsed.query.follow {
            // When the node stops, a replay that follows ends regularly, as a complete answer.
            sink.finish()?;
        } else if stopped {
            return Err("stopped".into());
        }
        drop(sink);
        Ok(())
    }))
}

/// `GET /v1/replay/state`.
pub(crate) async fn state(caller: Caller, pairs: Pairs) -> Result<Response, Refused> {
    let request = Request::new(caller, pairs)?;
    request.audit_read();
    let Request {
        caller,
        parsed,
        slot,
        ..
    } = request;
    let name = parsed
        .query
        .entity
        .ok_or_else(|| caller.invalid("`entity` is required, or `entity_type` and `entity_id`"))?;
    let shared = Arc::clone(&caller.shared);
    let at = parsed.as_of.unwrap_or_else(|| shared.clock.now());
    let folding = tokio::task::spawn_blocking(move || {
        let _slot = slot;
        let mut proceed = |_: &Replayed| !shared.stopping.is_cancelled();
        as_of(
            &shared.history(),
            parsed.query.tenant.as_ref(),
            &name,
            at,
            &mut proceed,
        )
    });
    let problem = match folding.await {
        Ok(Ok(state)) => return Ok(Json(state).into_response()),
        Ok(Err(error @ StateError::Unknown { .. })) => {
            Problem::new(&UNKNOWN_ENTITY, error.to_string())
        }
        Ok(Err(error @ StateError::Ambiguous { .. })) => {
            Problem::named(&MISSING_FIELD, "missing_tenant", error.to_string())
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "an entity could not be folded");
            Problem::log_unavailable()
        }
        // The task panicked, or the node is stopping.
        Err(_) => Problem::log_unavailable(),
    };
    Err(caller.refuse(problem))
}

/// `POST /v1/replay/topic`.
pub(crate) async fn into_topic(caller: Caller, pairs: Pairs) -> Result<Response, Refused> {
    let Request {
        caller,
        parsed,
        slot,
        given,
    } = Request::new(caller, pairs)?;
    let Some(topic) = parsed.topic else {
        return Err(caller.invalid("`topic` is required"));
    };
    let of = ("topic", &*topic);
    if let Some(tenant) = &parsed.query.tenant {
        caller.audit_change(tenant, EVENT_COPIED, of, given).await;
    } else {
        caller.audit_operation(EVENT_COPIED, of, given).await;
    }
    let shared = Arc::clone(&caller.shared);
    Ok(stream::respond("application/x-ndjson", move |out| {
        let _slot = slot;
        let history = shared.history();
        let client = out.watch();
        let mut reported = Instant::now();
        let mut lost = None;
        let mut proceed = |so_far: &Replayed| {
            if reported.elapsed() >= PROGRESS_EVERY {
                reported = Instant::now();
                let line = ReplayProgress::Running { replay: so_far };
                lost = stream::line(out, &line).and_then(|()| out.flush()).err();
            }
            lost.is_none() && !client.is_closed() && !shared.stopping.is_cancelled()
        };
        let done = IntoTopic::new(history.log, history.names, &topic)
            .map_err(ReplayError::from)
            .and_then(|mut sink| {
                let done = replay(&history, &parsed.query, &mut sink, &mut proceed)?;
                sink.finish().map_err(ReplayError::Sink)?;
                Ok(done)
            });
        if let Some(lost) = lost {
            return Err(Aborted::from(lost));
        }
        let line = match &done {
            Ok(_) if shared.stopping.is_cancelled() && !parsed.query.follow => {
                ReplayProgress::Failed {
                    error: "the node stops".into(),
                }
            }
            Ok(replay) => ReplayProgress::Done { replay },
            Err(error) => ReplayProgress::Failed {
                error: error.to_string(),
            },
        };
        Ok(stream::line(out, &line)?)
    }))
}
