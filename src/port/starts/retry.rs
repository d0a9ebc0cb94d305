//! A run that repeats an earlier one: builds the start record from what the earlier run has done.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use axum::response::Response;
use serde_json::{Value, json, value::RawValue};

use super::{
    answer,
    append::append,
    earlier_run::EarlierRun,
    judge::Judge,
    outcome::{AuditedStart, CheckedStart},
    permit,
    refusal::Refusal,
    wait::Waiting,
};
use crate::{
    api::{
        events::ItemStatus,
        problem::{INVALID_RETRY, WORKFLOW_NOT_ALLOWED},
        run_controls::RetryRun,
    },
    base::{hex::hex, id::Tenant},
    commands::{
        Command,
        start::{
            self, Constraints, FoundPlan, GuardianReport, GuardianVerdict, PlanSource, Planned,
            RECORD_MAX, Request, Retry, Start, WorkflowVersion,
        },
    },
    envelope::{BodyHash, Invalid, StartKind},
    plans::{OnExhausted, Plan, jcs},
    port::{
        problem::Problem,
        rest::caller::{Caller, Permitted},
    },
    runs::{PlanReady, Reused, Undo},
    slots::{Values, reseal},
    starts::{inline, to_raw, value},
    workflows::{Catalog, Resolved},
};

/// The source of these starts.
const SOURCE: &str = "/omnilink/retry";
/// The reason of an approval that the original request asked for.
const REQUIRED_BY_REQUEST: &str = "required_by_request";

/// The request to repeat a run.
pub(crate) struct RetryRequest<'a> {
    pub(crate) tenant: Tenant,
    pub(crate) earlier: &'a EarlierRun,
    pub(crate) retry: &'a RetryRun,
    /// `Idempotency-Key`.
    pub(crate) key: &'a str,
    pub(crate) body_hash: BodyHash,
    pub(crate) traceparent: Option<String>,
    pub(crate) tracestate: Option<String>,
    /// `Prefer: wait`.
    pub(crate) wait: Option<Duration>,
}

/// What the new run executes and takes over.
struct PreparedRun {
    resolved: Resolved,
    reused: Vec<Reused>,
    undo: Vec<Undo>,
}

impl RetryRequest<'_> {
    /// The identity of the new run.
    fn identity(&self) -> Vec<String> {
        let parts = [
            "retry",
            self.tenant.as_str(),
            self.earlier.run_id(),
            self.key,
        ];
        parts.map(str::to_owned).to_vec()
    }

    /// Starts the run; the answer is that of a start.
    pub(crate) async fn start(self, caller: &Permitted) -> Result<Response, Problem> {
        let judge = self.judge(caller);
        let ready = self.ready(&judge)?;
        let waiting = self
            .wait
            .map(|wait| Waiting::new(&caller.shared, &judge.tenant, ready.run, wait));
        let taken = append(&judge, vec![Ok(ready)]).await;
        if let (Some(waiting), [Ok(started)]) = (waiting, &taken[..])
            && let Some(run) = waiting.end(started).await
        {
            return Ok(answer::ended(&run));
        }
        answer::respond(caller.request_id(), false, taken)
    }

    /// Starts the run; true: it was started before.
    pub(crate) async fn start_only(self, caller: &Permitted) -> Result<bool, Problem> {
        let judge = self.judge(caller);
        let ready = self.ready(&judge)?;
        match append(&judge, vec![Ok(ready)]).await.pop() {
            Some(Ok(started)) => Ok(started.duplicate),
            Some(Err(refusal)) => Err(refusal.into_problem()),
            None => Err(Problem::log_unavailable()),
        }
    }

    fn judge<'c>(&self, caller: &'c Permitted) -> Judge<'c> {
        let mut judge = Judge::of(caller, StartKind::Workflow);
        judge.tenant = self.tenant.clone();
        judge
    }

    fn ready(&self, judge: &Judge<'_>) -> Result<CheckedStart, Problem> {
        let record = self.command(judge)?.encode();
        Ok(CheckedStart {
            run: start::run_id(&self.identity()),
            body: self.body_hash,
            record: record.map_err(|e| Problem::invalid(e.to_string()))?,
            audited: AuditedStart {
                kind: self.earlier.started.kind.clone().unwrap_or_default(),
                source: SOURCE.to_owned(),
                on_behalf_of: judge.caller.on_behalf_of.clone(),
            },
        })
    }

    fn command(&self, judge: &Judge<'_>) -> Result<Command, Problem> {
        let prepared = self.prepare(judge).map_err(Refusal::into_problem)?;
        let (caller, started) = (judge.caller, &self.earlier.started);
        let micros = judge.now.0.saturating_mul(1000);
        let identity = self.identity();
        let run_id = start::run_id(&identity).to_string();
        let required = &caller.key.scopes.constraints.approvals_required_for;
        let start = Start {
            version: start::VERSION,
            identity,
            body_hash: hex(&self.body_hash.stored()),
            request: Request::Workflow,
            kind: started.kind.clone().unwrap_or_default(),
            id: self.earlier.run_id().to_owned(),
            source: SOURCE.to_owned(),
            received_at: micros,
            run_at: None,
            params: Some(to_raw(&self.earlier.params().value()).map_err(problem)?),
            workflow: prepared.resolved.workflow,
            plan: prepared.resolved.plan,
            tools: prepared.resolved.tools,
            goal: started.goal.clone(),
            guardian: self.guardian(),
            sealed: self.sealed(caller, &run_id),
            context: None,
            adapter: None,
            entity: None,
            correlation_id: None,
            causation_id: Some(self.earlier.run_id().to_owned()),
            approval_required: started
                .approve_run
                .iter()
                .any(|why| why == REQUIRED_BY_REQUEST),
            constraints: Constraints {
                approvals_required_for: required.clone(),
                allowed_workflows: Vec::new(),
            },
            depth: 0,
            from_ingress: false,
            retry: Some(Box::new(Retry {
                of: self.earlier.run_id().to_owned(),
                reused: prepared.reused,
                undo: prepared.undo,
            })),
            slots: self.earlier.slots(),
            found: self.found(),
        };
        let body = start.encode().map_err(|_| {
            let what = "a start with its plan, its tools and what it takes over";
            Refusal::too_large(what, RECORD_MAX).into_problem()
        })?;
        Ok(Command {
            tenant: self.tenant.to_string(),
            run_id,
            kind: start::KIND.to_owned(),
            at: micros,
            principal: caller.key.principal.clone(),
            on_behalf_of: caller.on_behalf_of.clone(),
            traceparent: self.traceparent.clone(),
            tracestate: self.tracestate.clone(),
            body,
        })
    }

    /// The values of the goal's placeholders, sealed for this run. Where no key opens them, steps that need them fail.
    fn sealed(&self, caller: &Caller, run_id: &str) -> Option<String> {
        let sealed = self.earlier.started.sealed.as_deref()?;
        let secrets = &caller.shared.tools.secrets;
        let again = reseal(secrets, sealed, self.earlier.run_id(), run_id);
        Some(again.unwrap_or_else(|_| sealed.to_owned()))
    }

    /// The steps of a planner's plan that need approval need it again; a person's plan has none. So does the run of a goal that a language
    /// model has flagged, with any plan.
    fn found(&self) -> Option<Box<FoundPlan>> {
        let plan = self.earlier.plan.as_ref();
        let own = plan.filter(|_| self.retry.plan.is_none());
        let found = FoundPlan {
            red: own.map(|plan| plan.found.red.clone()).unwrap_or_default(),
            flagged: self.earlier.flagged,
            ..FoundPlan::default()
        };
        (found != FoundPlan::NONE).then(|| Box::new(found))
    }

    /// What the guardian found in the goal. A denied goal had no plan: the run repeats it with the plan of a person, and needs approval.
    fn guardian(&self) -> Option<GuardianReport> {
        let mut report = self.earlier.guardian.as_deref().cloned()?;
        if report.verdict == GuardianVerdict::Denied {
            report.verdict = GuardianVerdict::Flagged;
        }
        Some(report)
    }

    /// The plan of the earlier run.
    fn plan(&self) -> Result<&PlanReady, Refusal> {
        let plan = self.earlier.plan.as_deref();
        plan.ok_or_else(|| {
            conflict("the run had no plan: send its goal again, or repeat it with a plan")
        })
    }

    fn prepare(&self, judge: &Judge<'_>) -> Result<PreparedRun, Refusal> {
        self.check_disabled(judge)?;
        if self.retry.compensations {
            return self.compensations(judge);
        }
        if self.earlier.only_undid() {
            let message =
                "the run only compensates another one: repeat it with `compensations: true`";
            return Err(conflict(message));
        }
        let (resolved, read) = match &self.retry.plan {
            Some(plan) => {
                let concealed = self.concealed(judge.caller, plan);
                Self::edited(judge, concealed.as_deref().unwrap_or(plan))?
            }
            None => self.same(judge)?,
        };
        let reused = if self.retry.reuse {
            self.reused(judge, &resolved, &read)?
        } else {
            Vec::new()
        };
        Ok(PreparedRun {
            resolved,
            reused,
            undo: Vec::new(),
        })
    }

    /// Checks disabled features as for a request of the kind that started the earlier run. An edited plan is not its workflow.
    fn check_disabled(&self, judge: &Judge<'_>) -> Result<(), Refusal> {
        for request in self.earlier.requests(&judge.catalog) {
            judge.check_disabled(request.feature())?;
        }
        let workflow = self.workflow(&judge.catalog);
        match workflow.filter(|_| self.retry.plan.is_none()) {
            Some(workflow) => judge.check_disabled(&format!("workflow:{}", workflow.name)),
            None => Ok(()),
        }
    }

    /// The edited plan with placeholders instead of values of the goal's personal data, if it has any.
    fn concealed(&self, caller: &Caller, plan: &RawValue) -> Option<Box<RawValue>> {
        let sealed = self.earlier.started.sealed.as_deref()?;
        let secrets = &caller.shared.tools.secrets;
        let values = Values::open(secrets, self.earlier.run_id(), sealed).ok()?;
        to_raw(&values.conceal_plan(plan)?).ok()
    }

    /// The edited plan of the request.
    fn edited(judge: &Judge<'_>, plan: &RawValue) -> Result<(Resolved, Arc<Plan>), Refusal> {
        permit::workflow(&judge.caller.key, None, None)?;
        let resolved = inline(&judge.catalog, plan)?;
        let read =
            Plan::read(&value(plan)?).map_err(|_| Refusal::invalid_plan("it is not a plan"))?;
        Ok((resolved, Arc::new(read)))
    }

    /// The plan of the earlier run, with the current definitions of its tools.
    fn same(&self, judge: &Judge<'_>) -> Result<(Resolved, Arc<Plan>), Refusal> {
        let (catalog, workflow) = (&*judge.catalog, self.workflow(&judge.catalog));
        let named = workflow.as_ref().map(|w| (&*w.name, &*w.version));
        permit::workflow(
            &judge.caller.key,
            named.map(|(name, _)| name),
            named.map(|(_, version)| version),
        )?;
        let earlier = self.plan()?;
        let given = earlier.plan.value();
        let read = catalog.plan(&given).map_err(|faults| {
            let faults: Vec<_> = faults.iter().take(5).map(ToString::to_string).collect();
            Refusal::invalid_plan(faults.join("; "))
        })?;
        let resolved = Resolved {
            workflow,
            plan: Some(Planned {
                source: source(&earlier.source),
                hash: earlier.hash.clone(),
                steps: to_raw(&given)?,
            }),
            tools: catalog.definitions(&read),
        };
        Ok((resolved, Arc::new(read)))
    }

    fn workflow(&self, catalog: &Catalog) -> Option<WorkflowVersion> {
        let plan = self.earlier.plan.as_ref();
        let found = plan.and_then(|plan| plan.workflow.as_ref());
        let workflow = self.earlier.started.workflow.as_ref().or(found)?;
        let known = catalog.workflow(&workflow.name, Some(&workflow.version));
        Some(WorkflowVersion {
            name: workflow.name.clone(),
            version: workflow.version.clone(),
            hold: known.is_some_and(|known| known.on_exhausted == Some(OnExhausted::Hold)),
        })
    }

    /// The steps that the new run need not execute, because their tool, input and condition are unchanged. With an edited plan only
    /// those whose ancestors are all reused too, because their outputs were inputs of the step. They are in the order in which they ended:
    /// the new run compensates them in reverse.
    fn reused(
        &self,
        judge: &Judge<'_>,
        resolved: &Resolved,
        read: &Plan,
    ) -> Result<Vec<Reused>, Refusal> {
        let Some(plan) = &resolved.plan else {
            return Ok(Vec::new());
        };
        let Some(earlier) = &self.earlier.plan else {
            return Ok(Vec::new());
        };
        let before = earlier.plan.value();
        let now = value(&plan.steps)?;
        let (before, now) = (by_id(&before), by_id(&now));
        let same = |id: &str| {
            let (Some(before), Some(now)) = (before.get(id), now.get(id)) else {
                return false;
            };
            ["tool", "input", "when"]
                .into_iter()
                .all(|name| before.get(name) == now.get(name))
        };
        let mut kept = BTreeSet::new();
        loop {
            let before = kept.len();
            for step in read.steps.iter().filter(|step| same(&step.id)) {
                let done =
                    self.earlier.reused(&step.id).is_some() || self.earlier.omitted(&step.id);
                let ancestors = self.retry.plan.is_none()
                    || step.depends_on.iter().all(|on| kept.contains(on.as_str()));
                if done && ancestors {
                    kept.insert(step.id.as_str());
                }
            }
            if kept.len() == before {
                break;
            }
        }
        let own_id = start::run_id(&self.identity()).to_string();
        let mut all = Vec::new();
        for step in read.steps.iter().filter(|step| kept.contains(&*step.id)) {
            let Some(mut reused) = self.earlier.reused(&step.id) else {
                continue;
            };
            let tool = judge.catalog.tool(&step.tool);
            let undone = step.compensate.is_some()
                || tool.is_some_and(|tool| tool.tool.compensate.is_some());
            if !undone {
                reused.input = None;
            } else if let Some(newer) = self.earlier.taken_over_by(&step.id)
                && *newer != own_id
            {
                let message = format!(
                    "run `{newer}` has taken over step `{}`, and may have undone it: repeat that run",
                    step.id
                );
                return Err(conflict(message));
            }
            all.push(reused);
        }
        all.sort_by_key(|reused| self.earlier.place(&reused.step_id));
        Ok(all)
    }

    /// Only the failed compensations, as a plan of their steps, whose own inputs are not needed.
    fn compensations(&self, judge: &Judge<'_>) -> Result<PreparedRun, Refusal> {
        let undo = self.earlier.failed_compensations();
        if undo.is_empty() {
            return Err(conflict("no compensation of the run has failed"));
        }
        let workflow = self.workflow(&judge.catalog);
        let allowed = &judge.caller.key.scopes.constraints.allowed_workflows;
        let name = workflow.as_ref().map(|workflow| &workflow.name);
        if !allowed.is_empty() && !allowed.iter().any(|one| Some(&one.name) == name) {
            let message = "the key's `allowed_workflows` do not contain the workflow of the run";
            return Err(Refusal::denied(&WORKFLOW_NOT_ALLOWED, message));
        }
        let earlier = self.plan()?;
        let given = earlier.plan.value();
        let given = by_id(&given);
        let steps = undo.iter().map(|undo| {
            let tool = given.get(&*undo.step_id).map_or(&Value::Null, |step| &step["tool"]);
            let own = given.get(&*undo.step_id).and_then(|step| step["compensate"]["tool"].as_str());
            let of_tool = || {
                let tool = judge.catalog.tool(tool.as_str()?)?;
                tool.tool.compensate.as_ref().map(|call| &*call.tool)
            };
            let Some(compensation) = own.or_else(of_tool) else {
                let message = format!("the tool of step `{}` no longer has a compensation", undo.step_id);
                return Err(Refusal::invalid_plan(message));
            };
            Ok(json!({ "id": &*undo.step_id, "tool": tool, "compensate": { "tool": compensation } }))
        });
        let plan = json!({ "steps": steps.collect::<Result<Vec<_>, _>>()? });
        let catalog = &*judge.catalog;
        let read = Plan::read(&plan).map_err(|faults| {
            let first = faults.first().map(ToString::to_string);
            Refusal::invalid_plan(first.unwrap_or_default())
        })?;
        if let Some(fault) = read
            .check_tools(catalog.tools().map(|tool| &tool.tool))
            .first()
        {
            return Err(Refusal::invalid_plan(fault.to_string()));
        }
        let resolved = Resolved {
            workflow,
            plan: Some(Planned {
                source: source(&earlier.source),
                hash: jcs::hash(&plan),
                steps: to_raw(&plan)?,
            }),
            tools: catalog.definitions(&read),
        };
        Ok(PreparedRun {
            resolved,
            reused: Vec::new(),
            undo,
        })
    }
}

fn problem(invalid: Invalid) -> Problem {
    Refusal::from(invalid).into_problem()
}

fn conflict(message: impl Into<Cow<'static, str>>) -> Refusal {
    Refusal::new(ItemStatus::Error, &INVALID_RETRY, message)
}

/// The source of a plan; a source unknown to this version counts as inline.
fn source(name: &str) -> PlanSource {
    serde_json::from_value(name.into()).unwrap_or(PlanSource::Inline)
}

/// The steps of a plan, by their ids.
fn by_id(plan: &Value) -> BTreeMap<&str, &Value> {
    let steps = plan["steps"].as_array().into_iter().flatten();
    steps
        .filter_map(|step| Some((step["id"].as_str()?, step)))
        .collect()
}
