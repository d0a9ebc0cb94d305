//! A run control request up to its checked body. The order of checks: controls can be read, length, kill switch, key, take-over, media
//! type, requests in flight, body. Fields, permission and rate follow.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{FromRequestParts, Request},
    http::HeaderMap,
};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::{
    api::{
        problem::{NOT_FOUND, PAYLOAD_TOO_LARGE},
        run_controls::{OfTenant, VALUE_MAX},
    },
    base::id::Tenant,
    controls::{REASON_MAX, TEXT_MAX, reason_is_good, text_is_good},
    envelope::{canonical_hash, json::without_mark},
    limits::{Kind, Lease},
    port::{
        Shared, gate,
        ingest::{
            body,
            events::{refuse_body, trace},
            media::Form,
        },
        limited::Sender,
        problem::{Problem, Refused},
        rest::{
            caller::{Caller, Permitted},
            personal::Personal,
            request::{QueryString, check_media},
        },
    },
    runs::{Json, read_value},
};

/// Values of the headers `traceparent` and `tracestate`.
#[derive(Default)]
pub(super) struct Trace {
    pub(super) parent: Option<String>,
    pub(super) state: Option<String>,
}

/// A caller and its body; the fields are not checked yet.
pub(super) struct Sent {
    pub(super) caller: Caller,
    pub(super) body: Bytes,
    tenant: Result<OfTenant, Problem>,
    trace: Trace,
    /// Counts as one of the key's requests in flight.
    in_flight: Option<Lease>,
}

/// A caller that is allowed to control runs.
pub(super) struct Controller {
    pub(super) caller: Permitted,
    /// The tenant of the runs.
    pub(super) tenant: Tenant,
    pub(super) trace: Trace,
    /// Released when the record is in the log; waiting for the run's answer does not count as in flight.
    pub(super) in_flight: Option<Lease>,
}

impl Sent {
    /// Checks and reads a request.
    pub(super) async fn read(shared: &Arc<Shared>, request: Request) -> Result<Self, Refused> {
        let (mut parts, mut body) = request.into_parts();
        let limit = shared.limits.single_bytes;
        if let Err(problem) = gate::readable(shared) {
            body::discard(body);
            return Err(Refused::new(problem, shared.ids.next()));
        }
        if body::announced(&body).unwrap_or(0) > limit as u64 {
            body::discard(body);
            let problem = refuse_body(body::BodyError::TooLarge, Form::Structured, limit);
            return Err(Refused::new(problem, shared.ids.next()));
        }
        let caller = match Caller::from_request_parts(&mut parts, shared).await {
            Ok(caller) => caller,
            Err(refused) => {
                body::discard(body);
                return Err(refused);
            }
        };
        // This never fails; an invalid query is reported later.
        let Ok(QueryString(tenant)) = QueryString::from_request_parts(&mut parts, &()).await;
        let read = read_body(shared, &caller, &parts.headers, &mut body, limit).await;
        let (bytes, in_flight) = match read {
            Ok(read) => read,
            Err(problem) => {
                body::discard(body);
                return Err(caller.refuse(problem));
            }
        };
        let trace = trace(&parts.headers);
        Ok(Self {
            caller,
            body: bytes,
            tenant,
            trace: trace.map_or_else(Trace::default, |trace| Trace {
                parent: Some(trace.parent().to_owned()),
                state: trace.state().map(str::to_owned),
            }),
            in_flight,
        })
    }

    /// Parses the body, which is required.
    pub(super) fn fields<T: DeserializeOwned>(&self) -> Result<T, Refused> {
        let text = without_mark(&self.body);
        // Serde would also accept an array of the fields.
        if text.trim_ascii_start().first() != Some(&b'{') {
            return Err(self.caller.invalid("the body must be a JSON object"));
        }
        // Checks depth, duplicate names and numbers, as for events.
        canonical_hash(text).map_err(|error| self.caller.invalid(error))?;
        serde_json::from_slice(text).map_err(|error| self.caller.invalid(error))
    }

    /// Parses the body, or returns the default if it is empty.
    pub(super) fn fields_or_default<T: DeserializeOwned + Default>(&self) -> Result<T, Refused> {
        if self.body.is_empty() {
            return Ok(T::default());
        }
        self.fields()
    }

    pub(super) fn missing(&self, field: &str) -> Refused {
        self.caller.missing(field)
    }

    pub(super) fn invalid(&self, why: impl std::fmt::Display) -> Refused {
        self.caller.invalid(why)
    }

    /// Checks a reason.
    pub(super) fn check_reason(&self, reason: Option<&String>) -> Result<(), Refused> {
        if reason.is_none_or(|reason| reason_is_good(reason)) {
            return Ok(());
        }
        Err(self.invalid(format!(
            "`reason` must have 1 to {REASON_MAX} bytes, not only spaces, and no control characters"
        )))
    }

    /// Checks the name of a signal.
    pub(super) fn check_name(&self, field: &str, name: Option<String>) -> Result<String, Refused> {
        let name = name.filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| self.missing(field))?;
        if text_is_good(&name) {
            return Ok(name);
        }
        Err(self.invalid(format!(
            "`{field}` must have 1 to {TEXT_MAX} bytes, and no control characters"
        )))
    }

    /// Checks that a run can store a JSON value, and keeps its text unchanged.
    pub(super) fn check_value(
        &self,
        field: &str,
        value: Option<Box<RawValue>>,
    ) -> Result<Option<Json>, Refused> {
        let Some(value) = value else {
            return Ok(None);
        };
        if value.get().len() > VALUE_MAX {
            let detail = format!("`{field}` may have at most {VALUE_MAX} bytes");
            return Err(self.caller.refuse(Problem::new(&PAYLOAD_TOO_LARGE, detail)));
        }
        read_value(value.get().as_bytes())
            .map_err(|why| self.invalid(format_args!("`{field}`: {why}")))?;
        Ok(Some(Json::of_raw(value)))
    }

    /// Checks the permission of the route, then the rate limits. `what` is the type that policies with a type filter see.
    pub(super) async fn permit(self, what: &str) -> Result<Controller, Refused> {
        let Self {
            caller,
            tenant,
            trace,
            in_flight,
            ..
        } = self;
        let OfTenant { tenant } = tenant.map_err(|problem| caller.refuse(problem))?;
        let caller = caller.permit()?;
        let tenant = caller.tenant(tenant.as_deref())?;
        let rated = caller
            .shared
            .limiting
            .take(
                Sender::of(&caller.key),
                Kind::Runs,
                || caller.address(),
                std::iter::once(what),
            )
            .await;
        if let Some(refusal) = rated.refusals().next().flatten() {
            return Err(caller.refuse(refusal.into_problem()));
        }
        Ok(Controller {
            caller,
            tenant,
            trace,
            in_flight,
        })
    }
}

/// Counts the request as in flight, and reads the body.
async fn read_body(
    shared: &Shared,
    caller: &Caller,
    headers: &HeaderMap,
    body: &mut Body,
    limit: usize,
) -> Result<(Bytes, Option<Lease>), Problem> {
    let empty = body::announced(body) == Some(0);
    if !empty {
        check_media(headers)?;
    }
    let in_flight = shared.limiting.enter(Sender::of(&caller.key)).await?;
    let bytes = body::read(body, limit, &shared.bodies).await;
    let bytes = bytes.map_err(|error| refuse_body(error, Form::Structured, limit))?;
    Ok((bytes, in_flight))
}

impl Controller {
    /// Parses the run id in the path.
    pub(super) fn run(&self, id: &str) -> Result<Uuid, Refused> {
        let run = uuid(id);
        run.ok_or_else(|| self.no_such("run: a run id is a UUID"))
    }

    /// What is known of the values of a run's placeholders, if the request may repeat them.
    pub(super) async fn personal(&self, run: Uuid, may_repeat: bool) -> Personal {
        if !may_repeat {
            return Personal::Nothing;
        }
        let run_id = run.hyphenated().to_string();
        Personal::of_run(&self.caller, self.tenant.as_str(), &run_id).await
    }

    /// Parses the approval id in the path into run and number.
    pub(super) fn approval(&self, id: &str) -> Result<(Uuid, u64), Refused> {
        let parts = id.split_once('.').and_then(|(run, seq)| {
            let digits = seq.bytes().all(|b| b.is_ascii_digit()) && !seq.starts_with('0');
            Some((uuid(run)?, seq.parse().ok().filter(|_| digits)?))
        });
        parts.ok_or_else(|| self.no_such("approval: an approval id is `RUN_ID.NUMBER`"))
    }

    fn no_such(&self, what: &str) -> Refused {
        let detail = format!("there is no such {what}");
        self.caller.refuse(Problem::new(&NOT_FOUND, detail))
    }
}

/// Parses a UUID with hyphens, in upper or lower case.
fn uuid(text: &str) -> Option<Uuid> {
    Uuid::parse_str(text).ok().filter(|_| text.len() == 36)
}
