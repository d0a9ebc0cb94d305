//! `/v1/replay`: the history read back, by whoever has the scope `admin` for the own tenant, `operator` for any.
//!
//! | route | answers with |
//! |---|---|
//! | `GET /v1/replay` | events, as lines of JSON or (`format=parquet`) a Parquet file, made while they are read |
//! | `GET /v1/replay/state` | an entity as it was (`as_of`) |
//! | `POST /v1/replay/topic` | a line of JSON now and then, while events go into a topic; `operator` |
//!
//! A key and a tenant have a few of them at once ([`super::seats`]): more is 429.
//!
//! All take `since`, `until`, `tenant`, `type` (may be repeated), `entity` (`TYPE:ID` with one colon) or `entity_type` and `entity_id`, and
//! `follow` in the query string.

use std::{io::Write, sync::Arc, time::Instant};

use super::{
    seats::Seat,
    stream::{self, Broken},
};
use crate::port::peer::FromPeer;
use crate::port::{
    RequestId, Shared, auth,
    problem::{Problem, Refused},
};
use crate::{
    base::{clock::Millis, id::Tenant},
    controls::{ADMIN, OPERATOR},
    envelope::parse_rfc3339,
    replay::{
        EntityName, History, IntoTopic, Lines, Parquet, Query, ReplayError, Replayed, Sink,
        StateError, TypePattern, as_of, replay,
    },
};
use axum::{
    Extension, Json,
    extract::{Query as Pairs, State, rejection::QueryRejection},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde_json::json;

/// How often a replay into a topic says how far it is.
const TELL: std::time::Duration = std::time::Duration::from_millis(250);

/// The form of an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Lines,
    Parquet,
}

/// What the query string says.
struct Asked {
    query: Query,
    format: Format,
    as_of: Option<Millis>,
    topic: Option<String>,
}

type Given = Result<Pairs<Vec<(String, String)>>, QueryRejection>;

impl Asked {
    fn parse(pairs: Vec<(String, String)>) -> Result<Self, String> {
        let mut asked = Self {
            query: Query::default(),
            format: Format::Lines,
            as_of: None,
            topic: None,
        };
        let (mut kind, mut external_id) = (None, None);
        for (name, value) in pairs {
            let wrong = |what: String| format!("`{name}`: {what}");
            match name.as_str() {
                "since" => asked.query.since = Some(time(&value).map_err(wrong)?),
                "until" => asked.query.until = Some(time(&value).map_err(wrong)?),
                "as_of" => asked.as_of = Some(time(&value).map_err(wrong)?),
                "tenant" => {
                    let tenant = Tenant::new(&value).map_err(|e| wrong(e.to_string()))?;
                    asked.query.tenant = Some(tenant);
                }
                "type" => asked.query.types.push(TypePattern::from(value.as_str())),
                "entity" => {
                    let entity = value.parse::<EntityName>();
                    asked.query.entity = Some(entity.map_err(|e| wrong(e.to_string()))?);
                }
                "entity_type" => kind = Some(value),
                "entity_id" => external_id = Some(value),
                "follow" => {
                    asked.query.follow = match value.as_str() {
                        "" | "true" => true,
                        "false" => false,
                        _ => return Err(wrong("true or false".into())),
                    }
                }
                "format" => {
                    asked.format = match value.as_str() {
                        "ndjson" => Format::Lines,
                        "parquet" => Format::Parquet,
                        _ => return Err(wrong("ndjson or parquet".into())),
                    }
                }
                "topic" => asked.topic = Some(value),
                _ => return Err(wrong("unknown".into())),
            }
        }
        if kind.is_some() || external_id.is_some() {
            let (kind, id) = (kind.unwrap_or_default(), external_id.unwrap_or_default());
            let apart = EntityName::new(&kind, &id).map_err(|e| e.to_string())?;
            if asked.query.entity.is_some_and(|entity| entity != apart) {
                return Err("`entity` is another one than `entity_type` and `entity_id`".into());
            }
            asked.query.entity = Some(apart);
        }
        if asked.format == Format::Parquet && asked.query.follow {
            return Err("a Parquet file has an end: `follow` gives it none".into());
        }
        Ok(asked)
    }
}

fn time(text: &str) -> Result<Millis, String> {
    if let Some(micros) = parse_rfc3339(text) {
        return Ok(Millis(micros.div_euclid(1000)));
    }
    let at: jiff::Timestamp = text
        .parse()
        .map_err(|_| format!("`{text}` is no RFC 3339 time such as 2026-01-31T12:00:00Z"))?;
    Ok(Millis(at.as_millisecond()))
}

/// Who asks, and for what.
struct Request {
    id: RequestId,
    asked: Asked,
    seat: Seat,
}

fn open(
    shared: &Shared,
    headers: &HeaderMap,
    Extension(peer): FromPeer,
    given: Given,
    scope: &str,
) -> Result<Request, Refused> {
    let id = shared.ids.next();
    let refuse = |problem| Refused::new(problem, id);
    let key = auth::authenticate(shared, headers, peer.0).map_err(refuse)?;
    let invalid = |why: String| Refused::new(Problem::invalid(why), id);
    let Pairs(pairs) = given.map_err(|e| invalid(e.body_text()))?;
    let mut asked = Asked::parse(pairs).map_err(invalid)?;
    let operator = key.scopes.permits(OPERATOR);
    if !operator && !key.scopes.permits(scope) {
        let why = format!("the key lacks the permission `{scope}`");
        return Err(refuse(Problem::denied(why)));
    }
    match &asked.query.tenant {
        _ if operator => {}
        Some(tenant) if *tenant != key.tenant => {
            let why = "only a key with the permission `operator` names another tenant";
            return Err(refuse(Problem::denied(why)));
        }
        _ => asked.query.tenant = Some(key.tenant.clone()),
    }
    let seat = shared.replays.take(&key).map_err(refuse)?;
    Ok(Request { id, asked, seat })
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
pub(crate) async fn events(
    State(shared): State<Arc<Shared>>,
    peer: FromPeer,
    headers: HeaderMap,
    given: Given,
) -> Result<Response, Refused> {
    let Request { asked, seat, .. } = open(&shared, &headers, peer, given, ADMIN)?;
    let media = match asked.format {
        Format::Lines => "application/x-ndjson",
        Format::Parquet => "application/vnd.apache.parquet",
    };
    Ok(stream::respond(media, move |out| {
        let _seat = seat;
        let client = out.watch();
        let mut sink: Box<dyn Sink> = match asked.format {
            Format::Lines => Box::new(Lines::new(out.clone(), &shared.tools.names.events)),
            Format::Parquet => Box::new(Parquet::new(out.clone())?),
        };
        let mut stopped = false;
        let mut proceed = |_: &Replayed| {
            stopped = client.is_closed() || shared.stopping.is_cancelled();
            !stopped
        };
        replay(&shared.history(), &asked.query, &mut *sink, &mut proceed)?;
        if stopped && asked.query.follow {
            // What follows for ever ends when the node does.
            sink.finish()?;
        } else if stopped {
            return Err("stopped".into());
        }
        drop(sink);
        Ok(())
    }))
}

/// `GET /v1/replay/state`.
pub(crate) async fn state(
    State(shared): State<Arc<Shared>>,
    peer: FromPeer,
    headers: HeaderMap,
    given: Given,
) -> Result<Response, Refused> {
    let Request { id, asked, seat } = open(&shared, &headers, peer, given, ADMIN)?;
    let invalid = |why: &'static str| Refused::new(Problem::invalid(why), id);
    let name = asked
        .query
        .entity
        .ok_or_else(|| invalid("`entity` is required, or `entity_type` and `entity_id`"))?;
    let at = asked.as_of.unwrap_or_else(|| shared.clock.now());
    let folding = tokio::task::spawn_blocking(move || {
        let _seat = seat;
        let mut proceed = |_: &Replayed| !shared.stopping.is_cancelled();
        as_of(
            &shared.history(),
            asked.query.tenant.as_ref(),
            &name,
            at,
            &mut proceed,
        )
    });
    let problem = match folding.await {
        Ok(Ok(state)) => return Ok(Json(state).into_response()),
        Ok(Err(error @ StateError::Unknown { .. })) => {
            Problem::new(StatusCode::NOT_FOUND, "unknown_entity", error.to_string())
        }
        Ok(Err(error @ StateError::Ambiguous { .. })) => {
            Problem::new(StatusCode::BAD_REQUEST, "missing_tenant", error.to_string())
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "an entity could not be folded");
            Problem::log_unavailable()
        }
        Err(_) => Problem::log_unavailable(),
    };
    Err(Refused::new(problem, id))
}

/// `POST /v1/replay/topic`.
pub(crate) async fn into_topic(
    State(shared): State<Arc<Shared>>,
    peer: FromPeer,
    headers: HeaderMap,
    given: Given,
) -> Result<Response, Refused> {
    let Request { id, asked, seat } = open(&shared, &headers, peer, given, OPERATOR)?;
    let Some(topic) = asked.topic else {
        return Err(Refused::new(Problem::invalid("`topic` is required"), id));
    };
    Ok(stream::respond("application/x-ndjson", move |out| {
        let _seat = seat;
        let history = shared.history();
        let client = out.watch();
        let mut told = Instant::now();
        let mut gone = None;
        let mut proceed = |so_far: &Replayed| {
            if told.elapsed() >= TELL {
                told = Instant::now();
                let line = json!({ "status": "running", "replay": so_far });
                gone = writeln!(out, "{line}").and_then(|()| out.flush()).err();
            }
            gone.is_none() && !client.is_closed() && !shared.stopping.is_cancelled()
        };
        let done = IntoTopic::new(history.log, history.names, &topic)
            .map_err(ReplayError::from)
            .and_then(|mut sink| {
                let done = replay(&history, &asked.query, &mut sink, &mut proceed)?;
                sink.finish().map_err(ReplayError::Sink)?;
                Ok(done)
            });
        if let Some(gone) = gone {
            return Err(Broken::from(gone));
        }
        let line = match done {
            Ok(_) if shared.stopping.is_cancelled() && !asked.query.follow => {
                json!({ "status": "failed", "error": "the node stops" })
            }
            Ok(done) => json!({ "status": "done", "replay": done }),
            Err(error) => json!({ "status": "failed", "error": error.to_string() }),
        };
        writeln!(out, "{line}")?;
        Ok(())
    }))
}
