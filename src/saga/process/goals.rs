//! Goals: requests for plans, plans that arrive, and the records of cached plans.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, value::to_raw_value};
use sha2::{Digest, Sha256};

use super::{
    begin,
    compile::{Plans, RunPlan},
    run_cache::About,
};
use crate::{
    base::hex::hex,
    commands::{
        Command,
        control::DecidedPlan,
        plan::PlanAnswer,
        start::{FoundPlan, RECORD_MAX, Start, WorkflowVersion},
    },
    log::topics::Names,
    plans::shape::is_cacheable,
    runs::{
        self, CachedPlan, DEPTH_MAX, ENTRY, Event, Found, Json, PlanInputs, PlanRecord,
        PlanRequest, StepError, entry_id, placeholders,
    },
    saga::{Input, NewPlan, Refusal, Unplanned, goal::NO_PLAN},
    stream::{Context, Failure, Rejected},
};

/// A plan that comes with a record of `commands`, before it is compiled.
pub(super) enum GivenPlan {
    /// The answer of a planner.
    Answer(Box<PlanAnswer>),
    /// The plan of a person's decision.
    Decided(Box<DecidedPlan>),
}

/// What is stored instead of the start of the run, once the run has taken a plan.
pub(super) struct Arrived {
    pub(super) command: Box<Command>,
    pub(super) about: Arc<About>,
    /// Whether it applies even if the run takes no plan: what the planner knows of the goal without one.
    pub(super) always: bool,
}

/// Why a plan cannot be taken.
enum Unfit {
    Invalid(String),
    TooLarge,
}

impl Unfit {
    fn error(self) -> StepError {
        let message = match self {
            Self::Invalid(why) => format!("the planner's plan is invalid: {why}"),
            Self::TooLarge => {
                format!("the planner's plan and its tools have more than {RECORD_MAX} bytes")
            }
        };
        StepError::new(NO_PLAN, message)
    }

    const fn refusal(&self) -> Refusal {
        match self {
            Self::Invalid(_) => Refusal::InvalidPlan,
            Self::TooLarge => Refusal::PlanTooLarge,
        }
    }
}

/// Compiles the plan of a record, and puts it into the input of the run. `command`: the stored start of the run.
pub(super) fn arrive(
    given: GivenPlan,
    input: &mut Input,
    command: &Command,
    about: &About,
    plans: &Plans,
) -> Result<Option<Arrived>, Rejected> {
    let start = Start::decode(command)
        .ok_or_else(|| Rejected::new("invalid_state", "the run's start cannot be read"))?;
    let arriving = Arriving {
        command,
        about,
        plans,
    };
    match given {
        GivenPlan::Answer(answer) => {
            let request = answer.request;
            let (outcome, arrived) = arriving.answer(start, *answer);
            *input = Input::Plan { request, outcome };
            Ok(arrived)
        }
        GivenPlan::Decided(decided) => {
            let taken = arriving.decided(start, *decided);
            let Input::Decision { plan, .. } = input else {
                return Ok(None);
            };
            match taken {
                Ok((new, arrived)) => {
                    *plan = Some(Ok(new));
                    Ok(Some(arrived))
                }
                Err(unfit) => {
                    *plan = Some(Err(unfit.refusal()));
                    Ok(None)
                }
            }
        }
    }
}

/// A plan that arrives, and the run that it is for.
struct Arriving<'a> {
    command: &'a Command,
    about: &'a About,
    plans: &'a Plans,
}

impl Arriving<'_> {
    fn answer(
        &self,
        mut start: Start,
        answer: PlanAnswer,
    ) -> (Result<Box<NewPlan>, Box<Unplanned>>, Option<Arrived>) {
        let mut found = answer.found;
        found.slots = slots(&start, found.slots);
        let (Some(planned), None) = (answer.planned, &answer.error) else {
            let error = answer.error.map(|error| (error.code, error.message));
            let (code, message) = error.unwrap_or_else(|| {
                let message = "the planner's answer has neither a plan nor an error";
                (NO_PLAN.to_owned(), message.to_owned())
            });
            let arrived = self.without_plan(start, &found);
            let error = StepError::new(code, message);
            return (Err(Box::new(Unplanned { error, found })), arrived);
        };
        let of_goal = start.params.clone();
        start.plan = Some(planned);
        (start.workflow, start.tools) = (answer.workflow, answer.tools);
        start.slots.clone_from(&found.slots);
        start.found = Some(Box::new(FoundPlan::of(&found)));
        let taken = set_params(&mut start, found.params.as_ref())
            .and_then(|()| self.taken(&start, found.clone()));
        match taken {
            Ok((new, arrived)) => (Ok(new), Some(arrived)),
            Err(unfit) => {
                (start.params, start.plan, start.workflow) = (of_goal, None, None);
                start.tools.clear();
                // It may be the template of a cache entry that the goal is only similar to.
                found.template = None;
                let arrived = self.without_plan(start, &found);
                let error = unfit.error();
                (Err(Box::new(Unplanned { error, found })), arrived)
            }
        }
    }

    /// What is known of the goal without a plan: a person's plan may use the slots, and is cached under the template.
    fn without_plan(&self, mut start: Start, found: &Found) -> Option<Arrived> {
        start.slots.clone_from(&found.slots);
        start.found = Some(Box::new(FoundPlan {
            template: found.template.clone(),
            flagged: found.flagged,
            ..FoundPlan::default()
        }));
        self.arrived(&start, None, true).ok()
    }

    fn decided(
        &self,
        mut start: Start,
        decided: DecidedPlan,
    ) -> Result<(Box<NewPlan>, Arrived), Unfit> {
        let known = start.found.take().unwrap_or_default();
        let before = std::mem::take(&mut start.slots);
        let slots = slots(&start, before);
        let plan: Option<Value> = serde_json::from_str(decided.planned.steps.get()).ok();
        // A plan with a day of its own is for this goal alone.
        let lasts = plan.is_some_and(|plan| is_cacheable(&plan, &slots));
        let found = Found {
            slots: slots.clone(),
            template: known.template.filter(|_| lasts),
            flagged: known.flagged,
            ..Found::default()
        };
        start.plan = Some(decided.planned);
        (start.workflow, start.tools) = (None, decided.tools);
        start.slots = slots;
        start.found = Some(Box::new(FoundPlan::of(&found)));
        self.taken(&start, found)
    }

    /// Compiles the plan of a start.
    fn taken(&self, start: &Start, found: Found) -> Result<(Box<NewPlan>, Arrived), Unfit> {
        let ready = self.plans.of(start);
        let ready = ready.map_err(|rejected| Unfit::Invalid(rejected.message))?;
        let new = NewPlan {
            compiled: Arc::clone(&ready.compiled),
            ready: begin::plan_ready(&ready, workflow_of(start), found),
        };
        let arrived = self.arrived(start, Some(ready), false)?;
        Ok((Box::new(new), arrived))
    }

    fn arrived(
        &self,
        start: &Start,
        ready: Option<Arc<RunPlan>>,
        always: bool,
    ) -> Result<Arrived, Unfit> {
        let body = start.encode().map_err(|_| Unfit::TooLarge)?;
        let about = About {
            workflow: workflow_of(start),
            ready,
            found: start.found.clone(),
            ..self.about.clone()
        };
        Ok(Arrived {
            command: Box::new(Command {
                body,
                ..self.command.clone()
            }),
            about: Arc::new(about),
            always,
        })
    }
}

/// The values of `slots` in expressions: the placeholders in the params of the goal, and what the planner has found.
fn slots(start: &Start, found: BTreeMap<String, Value>) -> BTreeMap<String, Value> {
    let params = start.params.as_ref();
    let params: Option<Value> = params.and_then(|raw| serde_json::from_str(raw.get()).ok());
    let mut all = params.as_ref().map(placeholders).unwrap_or_default();
    all.extend(found);
    all
}

fn workflow_of(start: &Start) -> Option<runs::WorkflowVersion> {
    start.workflow.as_ref().map(WorkflowVersion::named)
}

fn set_params(start: &mut Start, params: Option<&Json>) -> Result<(), Unfit> {
    let Some(params) = params else {
        return Ok(());
    };
    if params.depth() > DEPTH_MAX {
        let message = format!("its params are nested more than {DEPTH_MAX} levels");
        return Err(Unfit::Invalid(message));
    }
    let raw = to_raw_value(params).map_err(|e| Unfit::Invalid(e.to_string()))?;
    start.params = Some(raw);
    Ok(())
}

/// Whether [`write`] has anything to write.
pub(super) fn concerned(about: &About, events: &[Event]) -> bool {
    events.iter().any(|event| match event {
        Event::PlanRequested => true,
        Event::RunSucceeded { .. } => cached_under(about).is_some(),
        Event::RunFailed { .. } | Event::RunDenied { .. } => about.found().entry.is_some(),
        _ => false,
    })
}

/// The template under which the plan is cached if the run succeeds. `None`: it is not, or it already is.
fn cached_under(about: &About) -> Option<&String> {
    let found = about.found();
    found.template.as_ref().filter(|_| !found.fresh)
}

/// Writes the records for planners that follow from the events of a run: requests, and cached plans. `seq`: of the last event. `command`:
/// the stored start of the run.
pub(super) fn write(
    names: &Names,
    about: &About,
    (events, seq): (&[Event], u64),
    command: &Command,
    cx: &mut Context<'_>,
) -> Result<(), Failure> {
    let invalid = |why: String| Rejected::new("invalid_state", why);
    let start = Start::decode(command);
    let start = start.ok_or_else(|| invalid("the run's start cannot be read".to_owned()))?;
    let before = seq - events.len() as u64;
    let (tenant, now) = (about.tenant.as_str(), cx.now());
    for (event, seq) in events.iter().zip(before + 1..) {
        let (topic, record) = match event {
            Event::PlanRequested => {
                let request = PlanRequest {
                    tenant: tenant.to_owned(),
                    run_id: about.run_id.to_string(),
                    seq: seq as i64,
                    at: now.0,
                    goal: start.goal.clone().unwrap_or_default(),
                    // All of it is text, numbers and JSON that was checked.
                    inputs: serde_json::to_string(&inputs(&start)).unwrap_or_default(),
                };
                (&names.goals, request.encode())
            }
            Event::RunSucceeded { .. } => match cached_under(about) {
                Some(template) => {
                    let record = cached(about, &start, template, now.0);
                    (&names.plans, record.encode())
                }
                None => continue,
            },
            Event::RunFailed { .. } | Event::RunDenied { .. } => match &about.found().entry {
                Some(entry) => (&names.plans, Ok(PlanRecord::forget(tenant, entry))),
                None => continue,
            },
            _ => continue,
        };
        cx.try_emit(topic, record.map_err(|e| invalid(e.to_string()))?)?;
    }
    Ok(())
}

fn inputs(start: &Start) -> PlanInputs {
    let params = start.params.clone();
    let allowed = start.constraints.allowed_workflows.iter();
    PlanInputs {
        params: params.map_or_else(Json::empty_object, Json::of_raw),
        context: start.context.clone().map(Json::of_raw),
        received_at: start.received_at / 1000,
        allowed_workflows: allowed
            .map(|allowed| match &allowed.version {
                Some(version) => format!("{}@{version}", allowed.name),
                None => allowed.name.clone(),
            })
            .collect(),
    }
}

/// The record of a plan that has succeeded.
fn cached(about: &About, start: &Start, template: &str, at: i64) -> PlanRecord {
    let ready = about.ready.as_ref();
    let tools = start.tools.iter().map(|(name, definition)| {
        let hash = Sha256::digest(definition.get().as_bytes());
        (name.clone(), hex(&hash))
    });
    let slots = start
        .slots
        .iter()
        .filter(|(_, value)| !is_placeholder(value));
    let origin = about.found().origin.clone();
    let source = origin.or_else(|| ready.map(|ready| ready.source.to_owned()));
    let plan = CachedPlan {
        run_id: about.run_id.to_string(),
        plan: ready.map_or_else(Json::null, |ready| ready.plan.clone()),
        hash: ready.map(|ready| ready.hash.clone()).unwrap_or_default(),
        source: source.unwrap_or_default(),
        workflow: about.workflow.clone(),
        tools: tools.collect(),
        slots: slots.map(|(k, v)| (k.clone(), v.clone())).collect(),
    };
    let tenant = about.tenant.as_str();
    PlanRecord {
        tenant: tenant.to_owned(),
        entry: entry_id(tenant, template),
        kind: ENTRY.to_owned(),
        template: template.to_owned(),
        at,
        body: serde_json::to_string(&plan).unwrap_or_default(),
    }
}

/// Whether a value stands for personal data: `{EMAIL_1}`.
fn is_placeholder(value: &Value) -> bool {
    let text = value.as_str().unwrap_or_default();
    let inner = text
        .strip_prefix('{')
        .and_then(|text| text.strip_suffix('}'));
    inner.is_some_and(|inner| {
        let allowed = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
        !inner.is_empty() && inner.bytes().all(allowed)
    })
}
