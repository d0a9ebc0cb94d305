//! Takes one start through all checks, in the order that `starts` documents, to its record.

use std::sync::Arc;

use axum::response::Response;
use parking_lot::Mutex;
use serde_json::{Map, Value};

use super::{
    outcome::{AuditedStart, CheckedStart, StartOutcome},
    permit,
    refusal::Refusal,
};
use crate::{
    api::events::ItemStatus,
    audit::{Outcome, START},
    base::{clock::Millis, id::Tenant},
    commands::{Command, start},
    envelope::{BodyHash, Event, StartKind},
    limits::Kind,
    port::{
        limited::{Rated, Sender},
        problem::Problem,
        rest::caller::Caller,
    },
    starts::{self, Checked, Named, StartFields},
    workflows::Catalog,
};

/// Checks the starts of one request.
pub(super) struct Judge<'a> {
    pub(super) caller: &'a Caller,
    pub(super) kind: StartKind,
    /// The current workflows and tools, the same for all starts of the request.
    pub(super) catalog: Arc<Catalog>,
    pub(super) now: Millis,
    /// The tenant of the runs.
    pub(super) tenant: Tenant,
    /// The limit against which the last start was counted, for the answer's headers.
    rated: Mutex<Rated>,
}

/// A start whose fields are valid.
pub(super) struct Candidate<'a> {
    pub(super) event: &'a Event<'a>,
    pub(super) body_hash: BodyHash,
    pub(super) fields: StartFields,
    /// `["run", tenant, key]`, in a batch `["run", tenant, key, id]`.
    pub(super) identity: Vec<String>,
}

impl<'a> Judge<'a> {
    pub(super) fn of(caller: &'a Caller, kind: StartKind) -> Self {
        Self {
            caller,
            kind,
            catalog: caller.shared.workflows.get(),
            now: caller.shared.clock.now(),
            tenant: caller.key.tenant.clone(),
            rated: Mutex::new(Rated::All),
        }
    }

    /// Adds the limit's headers to an answer that accepts starts.
    pub(super) fn with_limit(&self, mut response: Response) -> Response {
        self.rated.lock().headers(response.headers_mut());
        response
    }

    /// The size limit of the key, in bytes.
    pub(super) fn size_limit(&self) -> usize {
        let own = self.caller.key.scopes.constraints.max_payload_kb as usize;
        own.saturating_mul(1024)
            .min(self.caller.shared.limits.single_bytes)
    }

    /// Checks one start; a refusal is recorded in the audit log.
    pub(super) async fn start(
        &self,
        mut candidate: Candidate<'_>,
    ) -> Result<CheckedStart, Refusal> {
        let fields = &mut candidate.fields;
        fields.on_behalf_of = fields
            .on_behalf_of
            .take()
            .or_else(|| self.caller.on_behalf_of.clone());
        let (event, user) = (candidate.event, candidate.fields.on_behalf_of.clone());
        let (run, body) = (start::run_id(&candidate.identity), candidate.body_hash);
        let checked = self.check(candidate).await;
        let record = checked.and_then(|command| {
            command
                .encode()
                .map_err(|e| Refusal::invalid(e.to_string()))
        });
        match record {
            Ok(record) => Ok(CheckedStart {
                run,
                body,
                record,
                audited: AuditedStart {
                    kind: event.kind.to_string(),
                    source: event.source.to_string(),
                    on_behalf_of: user,
                },
            }),
            Err(refusal) => {
                let run_id = run.to_string();
                self.record_refusal(Some(event), Some(&run_id), user.as_deref(), &refusal);
                Err(refusal)
            }
        }
    }

    async fn check(&self, candidate: Candidate<'_>) -> Result<Command, Refusal> {
        let key = &*self.caller.key;
        let Candidate {
            event,
            body_hash,
            mut fields,
            identity,
        } = candidate;
        permit::permissions(key, event, &fields)?;
        self.check_disabled(self.feature())?;
        let named = Named::of(&self.catalog, event, &fields);
        if let Some(name) = named.name {
            self.check_disabled(&format!("workflow:{name}"))?;
        }
        permit::allowlists(key, event, &fields)?;
        permit::named(key, &fields, &named)?;
        let resolved = starts::resolve(&self.catalog, event, &fields, &named)?;
        let run_id = start::run_id(&identity).to_string();
        let guarded = self.caller.shared.guardian.guard(&mut fields, &run_id)?;
        self.check_limits(&event.kind).await?;
        let checked = Checked {
            kind: self.kind,
            identity,
            key: Some(key),
            event,
            body_hash,
            fields,
            guarded,
            resolved,
            received: self.now,
            now: self.now,
        };
        Ok(checked.record()?)
    }

    /// The feature that an operator can disable; tasks have none.
    pub(super) fn feature(&self) -> &'static str {
        match self.kind {
            StartKind::Command => "commands",
            StartKind::Workflow => "workflows",
            StartKind::Goal => "goals",
            StartKind::Task => "workers",
        }
    }

    pub(super) fn check_disabled(&self, feature: &str) -> Result<(), Refusal> {
        match self.caller.shared.controls.disabled(feature) {
            None => Ok(()),
            Some(reason) => Err(Refusal::disabled(feature, &reason)),
        }
    }

    /// Counts the start against the limits of the key and its address.
    async fn check_limits(&self, kind: &str) -> Result<(), Refusal> {
        let caller = self.caller;
        let of = match self.kind {
            StartKind::Command => Kind::Commands,
            StartKind::Workflow => Kind::Workflows,
            StartKind::Goal => Kind::Goals,
            StartKind::Task => Kind::Tasks,
        };
        let sender = Sender::of(&caller.key);
        let address = || caller.address();
        let limiting = &caller.shared.limiting;
        let rated = limiting
            .take(sender, of, address, std::iter::once(kind))
            .await;
        match rated {
            Rated::All => Ok(()),
            Rated::Unavailable(policy) => Err(Refusal::limiter_unavailable(&policy)),
            Rated::Counted(grants, standing) if grants.count() > 0 => {
                *self.rated.lock() = Rated::Counted(grants, standing);
                Ok(())
            }
            Rated::Counted(_, standing) => Err(Refusal::limited(standing)),
        }
    }

    /// Records a refused start in the audit log; `event` has what is known of it.
    pub(super) fn record_refusal(
        &self,
        event: Option<&Event<'_>>,
        run_id: Option<&str>,
        on_behalf_of: Option<&str>,
        refusal: &Refusal,
    ) {
        self.entry(&Entry {
            kind: event.map(|event| &*event.kind),
            source: event.map(|event| &*event.source),
            run_id,
            on_behalf_of,
            status: REFUSED,
            code: Some(&refusal.name),
            outcome: outcome(refusal),
        });
    }

    /// Records a request that was refused before its starts were known.
    pub(super) fn record_problem(&self, problem: &Problem) {
        self.entry(&Entry {
            status: REFUSED,
            code: Some(problem.summary().1),
            outcome: Outcome::Failed,
            ..Entry::default()
        });
    }

    /// Records a start that was complete.
    pub(super) fn record_outcome(&self, taken: &StartOutcome, audited: &AuditedStart) {
        let run_id = taken.as_ref().ok().map(|started| started.run.to_string());
        let (status, code, outcome) = match taken {
            Ok(started) if started.duplicate => ("duplicate", None, Outcome::Ok),
            Ok(_) => ("accepted", None, Outcome::Ok),
            Err(refusal) => (REFUSED, Some(&*refusal.name), outcome(refusal)),
        };
        self.entry(&Entry {
            kind: Some(&audited.kind),
            source: Some(&audited.source),
            run_id: run_id.as_deref(),
            on_behalf_of: audited.on_behalf_of.as_deref(),
            status,
            code,
            outcome,
        });
    }

    fn entry(&self, about: &Entry<'_>) {
        let caller = self.caller;
        let text = |text: Option<&str>| text.map(str::to_owned);
        let fields = [
            ("request_id", Some(caller.request_id().to_string())),
            ("run_id", text(about.run_id)),
            ("kind", text(Some(self.kind.name()))),
            ("type", text(about.kind)),
            ("source", text(about.source)),
            ("status", text(Some(about.status))),
            ("code", text(about.code)),
        ];
        let fields = fields.into_iter();
        let detail: Map<String, Value> = fields
            .filter_map(|(name, text)| Some((name.to_owned(), text?.into())))
            .collect();
        let mut entry = caller
            .audit_entry(&self.tenant, START, about.outcome)
            .by(&caller.key.principal, about.on_behalf_of)
            .detail(detail);
        if let Some(run_id) = about.run_id {
            entry = entry.resource("run", run_id);
        }
        caller.shared.audit.record(entry);
    }
}

/// The status of refused starts in `orchestration_requests`.
const REFUSED: &str = "refused";

/// What the audit log records about a start.
struct Entry<'a> {
    kind: Option<&'a str>,
    source: Option<&'a str>,
    run_id: Option<&'a str>,
    on_behalf_of: Option<&'a str>,
    status: &'a str,
    code: Option<&'a str>,
    outcome: Outcome,
}

impl Default for Entry<'_> {
    fn default() -> Self {
        Self {
            kind: None,
            source: None,
            run_id: None,
            on_behalf_of: None,
            status: REFUSED,
            code: None,
            outcome: Outcome::Failed,
        }
    }
}

fn outcome(refusal: &Refusal) -> Outcome {
    match refusal.status {
        ItemStatus::Denied => Outcome::Denied,
        _ => Outcome::Failed,
    }
}
