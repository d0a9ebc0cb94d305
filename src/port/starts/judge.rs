//! One start through all checks, in the order of the contract, up to its record; and the last step.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{fields::Asked, permit, record::Checked, refusal::Refusal, resolve};
use crate::{
    api::events::ItemStatus,
    audit::Outcome,
    base::clock::Millis,
    commands::{Command, start},
    envelope::{BodyHash, Event, StartKind},
    limits::Kind,
    port::{
        limited::{Rated, Sender},
        problem::Problem,
        rest::caller::Caller,
    },
    workflows::Catalog,
};

/// Judges the starts of one request.
pub(super) struct Judge<'a> {
    pub(super) caller: &'a Caller,
    pub(super) kind: StartKind,
    /// Workflows and tools as they are now: the same for all starts of the request.
    pub(super) catalog: Arc<Catalog>,
    pub(super) now: Millis,
}

/// A start whose fields are good.
pub(super) struct Candidate<'a> {
    pub(super) event: &'a Event<'a>,
    pub(super) body_hash: BodyHash,
    pub(super) asked: Asked,
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
        }
    }

    /// What the key may send at most, in bytes.
    pub(super) fn size_limit(&self) -> usize {
        let own = self.caller.key.scopes.constraints.max_payload_kb as usize;
        own.saturating_mul(1024)
            .min(self.caller.shared.limits.single_bytes)
    }

    /// Judges one start, and starts it if it may be; the refusal is recorded.
    pub(super) async fn start(&self, mut candidate: Candidate<'_>) -> Refusal {
        let asked = &mut candidate.asked;
        asked.on_behalf_of = asked
            .on_behalf_of
            .take()
            .or_else(|| self.caller.on_behalf_of.clone());
        let (event, user) = (candidate.event, candidate.asked.on_behalf_of.clone());
        let run_id = start::run_id(&candidate.identity).to_string();
        let refusal = match self.check(candidate).await {
            Ok(record) => append(&record),
            Err(refusal) => refusal,
        };
        self.record_refusal(Some(event), Some(&run_id), user.as_deref(), &refusal);
        refusal
    }

    async fn check(&self, candidate: Candidate<'_>) -> Result<Command, Refusal> {
        let key = &*self.caller.key;
        let Candidate {
            event,
            body_hash,
            asked,
            identity,
        } = candidate;
        permit::permissions(key, event, &asked)?;
        self.check_disabled(self.feature())?;
        permit::allowlists(key, event, &asked)?;
        let resolved = resolve::resolve(&self.catalog, key, event, &asked)?;
        if let Some(workflow) = &resolved.workflow {
            self.check_disabled(&format!("workflow:{}", workflow.name))?;
        }
        self.check_limits(&event.kind).await?;
        Checked {
            kind: self.kind,
            identity,
            key,
            event,
            body_hash,
            asked,
            resolved,
            now: self.now,
        }
        .record()
    }

    /// The feature that an operator can disable; tasks have none of their own.
    fn feature(&self) -> &'static str {
        match self.kind {
            StartKind::Command => "commands",
            StartKind::Workflow => "workflows",
            StartKind::Goal => "goals",
            StartKind::Task => "workers",
        }
    }

    fn check_disabled(&self, feature: &str) -> Result<(), Refusal> {
        match self.caller.shared.controls.disabled(feature) {
            None => Ok(()),
            Some(reason) => Err(Refusal::disabled(feature, &reason)),
        }
    }

    /// Takes the start from the limits that apply to the key and its address.
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
            Rated::Counted(grants, _) if grants.count() > 0 => Ok(()),
            Rated::Counted(_, standing) => Err(Refusal::limited(standing)),
        }
    }

    /// An entry of the audit log for a refused start; `event` is what is known of it.
    pub(super) fn record_refusal(
        &self,
        event: Option<&Event<'_>>,
        run_id: Option<&str>,
        on_behalf_of: Option<&str>,
        refusal: &Refusal,
    ) {
        let outcome = match refusal.status {
            ItemStatus::Denied => Outcome::Denied,
            _ => Outcome::Failed,
        };
        self.entry(event, run_id, on_behalf_of, &refusal.name, outcome);
    }

    /// An entry of the audit log for a request that was refused before its starts were known.
    pub(super) fn record_problem(&self, problem: &Problem) {
        self.entry(None, None, None, problem.summary().1, Outcome::Failed);
    }

    fn entry(
        &self,
        event: Option<&Event<'_>>,
        run_id: Option<&str>,
        on_behalf_of: Option<&str>,
        code: &str,
        outcome: Outcome,
    ) {
        let caller = self.caller;
        let fields = [
            ("request_id", Some(caller.request_id().to_string())),
            ("run_id", run_id.map(str::to_owned)),
            ("kind", Some(self.kind.name().to_owned())),
            ("type", event.map(|event| event.kind.to_string())),
            ("source", event.map(|event| event.source.to_string())),
            ("status", Some("refused".to_owned())),
            ("code", Some(code.to_owned())),
        ];
        let fields = fields.into_iter();
        let detail: Map<String, Value> = fields
            .filter_map(|(name, text)| Some((name.to_owned(), text?.into())))
            .collect();
        let mut entry = caller
            .audit_entry(&caller.key.tenant, "start", outcome)
            .by(&caller.key.principal, on_behalf_of)
            .detail(detail);
        if let Some(run_id) = run_id {
            entry = entry.resource("run", run_id);
        }
        caller.shared.audit.record(entry);
    }
}

/// The last step of a start whose record is complete. Runs are not carried out yet, and a start that waited in the log until they are
/// would come as a surprise: nothing is appended.
fn append(start: &Command) -> Refusal {
    tracing::debug!(
        run_id = start.run_id,
        "a start is complete; runs are not carried out yet"
    );
    Refusal::disabled(
        "runs",
        "this version checks starts, and does not carry out runs yet",
    )
}
