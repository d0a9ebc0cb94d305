//! `POST /v1/runs/{id}/feedback`: whether the plan of a run was right. A plan that was not is no longer cached.

use axum::{Json, extract::Path};
use serde::Deserialize;
use serde_json::json;

use super::{
    audit::{read, unavailable},
    caller::{Caller, Sent},
    personal::Personal,
    plans::append_forgotten,
    request::QueryString,
    wait::{RunLookup, has_ended},
};
use crate::{
    api::{
        plans::{FeedbackGiven, GiveFeedback},
        problem::NOT_ENDED,
        run_controls::OfTenant,
    },
    commands::start::PlanSource,
    controls::{REASON_MAX, reason_is_good},
    planner::WrongHit,
    port::problem::{Problem, Refused},
    runs::entry_id,
    store::runs,
    telemetry::metrics::PLANS_FALSE_HITS,
};

/// What a record `plan_ready` says about the origin of the plan.
#[derive(Default, Deserialize)]
struct Planned {
    source: Option<String>,
    hash: Option<String>,
    entry: Option<String>,
    template: Option<String>,
    score: Option<f64>,
    #[serde(default)]
    lookup: Lookup,
}

/// How it was found.
#[derive(Default, Deserialize)]
struct Lookup {
    /// The template of the goal.
    template: Option<String>,
    evidence: Option<f64>,
}

impl Planned {
    /// The entry of another goal that the plan came from.
    fn hit(&self) -> Option<WrongHit<'_>> {
        let from_cache = self.source.as_deref() == Some(PlanSource::Cache.name());
        Some(WrongHit {
            entry: self.entry.as_deref().filter(|_| from_cache)?,
            entry_template: self.template.as_deref(),
            hash: self.hash.as_deref(),
            template: self.lookup.template.as_deref()?,
            score: self.score.unwrap_or(1.0),
            evidence: self.lookup.evidence,
        })
    }
}

/// `POST /v1/runs/{id}/feedback`.
pub(crate) async fn give(
    Path(id): Path<String>,
    of: QueryString<OfTenant>,
    Sent(caller, body): Sent<Caller>,
) -> Result<Json<FeedbackGiven>, Refused> {
    let of = caller.query(of)?;
    let request: GiveFeedback = caller.body(body)?;
    let good = request.good.ok_or_else(|| caller.missing("good"))?;
    if !request.reason.as_deref().is_none_or(reason_is_good) {
        return Err(caller.invalid(format!(
            "`reason` must have 1 to {REASON_MAX} bytes, not only spaces, and no control characters"
        )));
    }
    let caller = caller.permit()?;
    let lookup = RunLookup::new(&caller, of.tenant.as_deref(), &id)?;
    let head = lookup.found().await?;
    // Its success would cache the plan again.
    if !has_ended(&head) {
        let detail = "the run has not ended: cancel it, or wait for its end";
        return Err(caller.refuse(Problem::new(&NOT_ENDED, detail)));
    }
    let (tenant, run_id) = (&lookup.tenant, &*lookup.run_id);
    let record = runs::plan_ready(&lookup.store, (tenant.as_str(), run_id));
    let planned = match read(&caller, record).await? {
        None => Planned::default(),
        Some(record) => serde_json::from_str(&record).map_err(|error| {
            caller.refuse(unavailable(format!(
                "the plan of the run cannot be read: {error}"
            )))
        })?,
    };
    let of_template = planned.template.as_deref();
    let of_template = of_template.map(|template| entry_id(tenant.as_str(), template));
    let mut entries: Vec<&str> = planned
        .entry
        .iter()
        .chain(&of_template)
        .map(String::as_str)
        .collect();
    entries.dedup();
    let planner = &caller.shared.planner;
    // What the entry has learned since is not what was wrong.
    if let Some(hash) = &planned.hash {
        entries.retain(|entry| !planner.has_another_plan(tenant.as_str(), entry, hash));
    }
    let label = planned.hit().filter(|_| !good);
    let label = label.and_then(|hit| planner.refuted(tenant.as_str(), &hit));
    let forgets = !good && !entries.is_empty();
    if forgets || label.is_some() {
        append_forgotten(&caller, tenant, &entries, label.as_ref()).await?;
    }
    let is_false_hit = !good && planned.source.as_deref() == Some(PlanSource::Cache.name());
    if is_false_hit && planner.is_refuted_first(tenant.as_str(), run_id) {
        PLANS_FALSE_HITS.counter(&[]).increment(1);
    }
    let forgotten = entries.first().filter(|_| forgets);
    let mut detail = serde_json::Map::new();
    detail.insert("good".into(), good.into());
    let reason = match &request.reason {
        None => None,
        Some(reason) => {
            let personal = Personal::of_run(&caller, tenant.as_str(), run_id).await;
            Some(personal.audited(reason))
        }
    };
    for (name, value) in [("reason", &reason), ("source", &planned.source)] {
        if let Some(value) = value {
            detail.insert(name.into(), value.clone().into());
        }
    }
    if forgets {
        detail.insert("forgotten".into(), json!(entries));
    }
    caller
        .audit_change(tenant, "feedback.given", ("run", run_id), detail)
        .await;
    Ok(Json(FeedbackGiven {
        run_id: run_id.to_owned(),
        good,
        forgotten: forgotten.map(|entry| (*entry).to_owned()),
        source: planned.source,
    }))
}
