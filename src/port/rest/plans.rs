//! `/v1/plans`: cached plans, and what becomes of a goal. A key sees and forgets the plans of its own tenant; operators may name any.

use axum::{Json, extract::Path, http::StatusCode};

use super::{
    caller::{Caller, Permitted, SentUpTo, detail},
    request::QueryString,
};
use crate::{
    api::{
        list::{List, Page},
        plans::{
            CachedPlanView, DENIED, EXPLAIN_MAX, ExplainGoal, ExplainedGoal, GuardianView,
            WholeCachedPlan,
        },
        run_controls::OfTenant,
    },
    base::id::Tenant,
    commands::start::GuardianVerdict,
    log::Append,
    planner::Place,
    port::problem::{Problem, Refused},
    runs::{self, PlanInputs, PlanRecord},
    starts::{StartFields, StartTarget, to_raw},
};

/// `GET /v1/plans`.
pub(crate) async fn list(
    caller: Caller,
    page: QueryString<Page>,
) -> Result<Json<List<CachedPlanView>>, Refused> {
    let page = caller.query(page)?;
    let caller = caller.permit()?;
    let tenant = caller.tenant(page.tenant.as_deref())?;
    let limit = page.limit().map_err(|e| caller.invalid(e))?;
    let after = match page.cursor.as_deref() {
        None => None,
        Some(cursor) => Some(Place::read(cursor).ok_or_else(|| {
            caller.invalid("`cursor` must be the `next_cursor` of the previous page")
        })?),
    };
    let planner = &caller.shared.planner;
    let (items, next) = planner.plans(tenant.as_str(), after.as_ref(), limit);
    Ok(Json(List {
        items,
        next_cursor: next.map(|place| place.to_string()),
    }))
}

/// `GET /v1/plans/{id}`.
pub(crate) async fn show(
    caller: Caller,
    Path(id): Path<String>,
    of: QueryString<OfTenant>,
) -> Result<Json<WholeCachedPlan>, Refused> {
    let of = caller.query(of)?;
    let caller = caller.permit()?;
    let tenant = caller.tenant(of.tenant.as_deref())?;
    let planner = &caller.shared.planner;
    let found = planner.cached_plan(tenant.as_str(), &id);
    found.map(Json).ok_or_else(|| unknown(&caller))
}

/// `DELETE /v1/plans/{id}`.
pub(crate) async fn forget(
    caller: Caller,
    Path(id): Path<String>,
    of: QueryString<OfTenant>,
) -> Result<StatusCode, Refused> {
    let of = caller.query(of)?;
    let caller = caller.permit()?;
    let tenant = caller.tenant(of.tenant.as_deref())?;
    let planner = &caller.shared.planner;
    let plan = planner.cached_plan(tenant.as_str(), &id);
    let plan = plan.ok_or_else(|| unknown(&caller))?;
    append_forgotten(&caller, &tenant, &[&id], None).await?;
    let detail = detail([("template", plan.summary.template.as_str())]);
    caller
        .audit_change(&tenant, "plan.forgotten", ("plan", &id), detail)
        .await;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/plans:explain`.
pub(crate) async fn explain(
    of: QueryString<OfTenant>,
    SentUpTo(caller, body): SentUpTo<EXPLAIN_MAX, Caller>,
) -> Result<Json<ExplainedGoal>, Refused> {
    let of = caller.query(of)?;
    let request: ExplainGoal = caller.body(body)?;
    let goal = request.goal.filter(|goal| !goal.trim().is_empty());
    let goal = goal.ok_or_else(|| caller.missing("goal"))?;
    let params = request.params.map(|params| to_raw(&params.into()));
    let params = params.transpose().map_err(|e| caller.invalid(e.message))?;
    let mut fields = StartFields {
        what: StartTarget::Goal(goal),
        params,
        ..StartFields::default()
    };
    // As for a run, whose id only seals the values.
    let guarded = caller.shared.guardian.guard(&mut fields, "explain");
    let guarded = guarded.map_err(|e| match &*e.code {
        "missing_goal" => caller.missing("goal"),
        _ => caller.invalid(e.message),
    })?;
    let StartTarget::Goal(goal) = fields.what else {
        return Err(caller.missing("goal"));
    };
    let caller = caller.permit()?;
    let tenant = caller.tenant(of.tenant.as_deref())?;
    let view = guarded.map_or_else(GuardianView::default, |guarded| GuardianView {
        verdict: match guarded.report.verdict {
            GuardianVerdict::Pass => "pass",
            GuardianVerdict::Flagged => "flagged",
            GuardianVerdict::Denied => DENIED,
        },
        score: guarded.report.score,
        patterns: guarded.report.patterns,
    });
    let allowed = caller.key.scopes.constraints.allowed_workflows.iter();
    let inputs = PlanInputs {
        params: fields
            .params
            .map_or_else(runs::Json::empty_object, runs::Json::of_raw),
        context: None,
        received_at: caller.shared.clock.now().0,
        allowed_workflows: allowed
            .map(|allowed| match &allowed.version {
                Some(version) => format!("{}@{version}", allowed.name),
                None => allowed.name.clone(),
            })
            .collect(),
    };
    let controls = caller.shared.controls.emergency();
    let planner = &caller.shared.planner;
    let explained = planner.explain(tenant.as_str(), &goal, inputs, view, &controls);
    Ok(Json(explained.await))
}

/// Writes that entries of a tenant are forgotten, and what was learned. Returns once that is durable.
pub(crate) async fn append_forgotten(
    caller: &Permitted,
    tenant: &Tenant,
    entries: &[&str],
    label: Option<&PlanRecord>,
) -> Result<(), Refused> {
    let tools = &caller.shared.tools;
    let label = label.map(PlanRecord::encode).transpose();
    let label = label.map_err(|error| {
        tracing::error!(%error, "a label of a cached plan cannot be written");
        caller.refuse(Problem::log_unavailable())
    })?;
    let forgotten = entries
        .iter()
        .map(|entry| PlanRecord::forget(tenant.as_str(), entry));
    let records = label.into_iter().chain(forgotten).map(|record| Append {
        topic: tools.names.plans.clone(),
        record,
    });
    let appended = tools.log.append(records.collect(), None);
    match tokio::time::timeout(APPEND_DEADLINE, appended).await {
        Ok(Ok(Ok(_))) => Ok(()),
        Ok(Ok(Err(error))) => {
            tracing::warn!(%error, "`plans` could not be written");
            Err(caller.refuse(Problem::log_unavailable()))
        }
        // The log is closing or slow.
        Ok(Err(_)) | Err(_) => Err(caller.refuse(Problem::log_unavailable())),
    }
}

/// The time limit for an append.
const APPEND_DEADLINE: std::time::Duration = std::time::Duration::from_secs(5);

fn unknown(caller: &Permitted) -> Refused {
    caller.not_found("there is no such cached plan")
}
