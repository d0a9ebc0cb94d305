//! The start record of a run that a time starts.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::{
    base::{clock::Millis, hex::hex, id::Tenant},
    commands::{
        Command,
        start::{self, Constraints, Request, Start, VERSION},
    },
    envelope::BodyHash,
    workflows::ToStart,
};

/// The type and the source of these starts.
const KIND: &str = "omnilink.cron";
const SOURCE: &str = "/omnilink/cron";

/// A start that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("the start of `{workflow}` cannot be written: {why}")]
pub struct BadStart {
    /// The name of the workflow.
    pub workflow: String,
    /// The error, as text.
    pub why: String,
}

impl BadStart {
    pub(super) fn of(command: &Command, why: &dyn std::fmt::Display) -> Self {
        let principal = &command.principal;
        Self {
            workflow: principal.trim_start_matches("cron:").to_owned(),
            why: why.to_string(),
        }
    }
}

/// The start of a workflow by a time; its params are empty.
pub(super) fn command(
    to_start: &ToStart,
    tenant: &Tenant,
    time: Millis,
    now: Millis,
) -> Result<Command, BadStart> {
    let name = &to_start.workflow.name;
    let bad = |why: &dyn std::fmt::Display| BadStart {
        workflow: name.clone(),
        why: why.to_string(),
    };
    let at = Timestamp::from_millisecond(time.0).map_err(|e| bad(&e))?;
    let at = at.to_string();
    let identity = ["cron", tenant.as_str(), name, &at].map(str::to_owned);
    // The hash covers only the identity, so that nodes with different versions of the file start the same run.
    let text = serde_json::to_vec(&identity).map_err(|e| bad(&e))?;
    let body_hash = BodyHash::of_text(&text).map_err(|e| bad(&e))?;
    let run_id = start::run_id(&identity).to_string();
    let resolved = to_start.resolved.clone();
    let micros = now.0.saturating_mul(1000);
    let start = Start {
        version: VERSION,
        identity: identity.to_vec(),
        body_hash: hex(&body_hash.stored()),
        request: Request::Workflow,
        kind: KIND.to_owned(),
        id: at,
        source: SOURCE.to_owned(),
        received_at: micros,
        run_at: None,
        params: None,
        workflow: resolved.workflow,
        plan: resolved.plan,
        tools: resolved.tools,
        goal: None,
        guardian: None,
        sealed: None,
        context: None,
        adapter: None,
        entity: None,
        correlation_id: None,
        causation_id: None,
        approval_required: false,
        constraints: Constraints::default(),
        depth: 0,
        from_ingress: false,
        retry: None,
        slots: BTreeMap::new(),
        found: None,
    };
    let body = start
        .encode()
        .map_err(|size| bad(&format!("it has {size} bytes")))?;
    Ok(Command {
        tenant: tenant.to_string(),
        run_id,
        kind: start::KIND.to_owned(),
        at: micros,
        principal: format!("cron:{name}"),
        on_behalf_of: None,
        traceparent: None,
        tracestate: None,
        body,
    })
}
