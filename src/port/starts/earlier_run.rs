//! What an earlier run has done, read from its history, for a run that repeats it.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    commands::start::{PlanSource, Request},
    runs::{
        CallKind, Event, GuardianReport, Json, PlanReady, Reused, Started, StepError, Undo,
        idempotency_key, placeholders,
    },
    workflows::Catalog,
};

/// A run that has ended.
pub(crate) struct EarlierRun {
    run_id: String,
    pub(super) started: Box<Started>,
    /// `None`: it is the run of a goal that had no plan.
    pub(super) plan: Option<Box<PlanReady>>,
    /// What the guardian found in the goal.
    pub(super) guardian: Option<Box<GuardianReport>>,
    /// Whether a person had to approve the run because the goal may be a prompt injection.
    pub(super) flagged: bool,
    steps: BTreeMap<String, Step>,
    /// Steps whose compensations failed, in the order of failure.
    not_undone: Vec<String>,
    /// The error with which the run ended; its compensations receive it.
    error: Option<StepError>,
    /// By step, the last run that has taken it over.
    taken_over: BTreeMap<String, String>,
}

/// Reads the events of a run one by one.
#[derive(Default)]
pub(crate) struct EarlierRunReader {
    /// The number of the last record.
    seq: u64,
    started: Option<Box<Started>>,
    plan: Option<Box<PlanReady>>,
    guardian: Option<Box<GuardianReport>>,
    flagged: bool,
    steps: BTreeMap<String, Step>,
    not_undone: Vec<String>,
    error: Option<StepError>,
}

/// A step of the earlier run.
#[derive(Default)]
struct Step {
    /// Whether it was taken over from an even earlier run.
    reused: bool,
    input: Option<Json>,
    /// The record since which it may have had an effect.
    effective: Option<u64>,
    end: Option<End>,
    /// The input of its compensation.
    undo: Option<Json>,
    undone: bool,
}

/// How a step has ended.
enum End {
    Succeeded(Json),
    /// A person skipped it, with this output.
    Skipped(Json),
    /// It did not run, by its condition.
    Omitted,
    Failed,
    Unknown,
}

impl EarlierRunReader {
    /// Applies the next event.
    pub(crate) fn apply(&mut self, event: Event) {
        self.seq += 1;
        let seq = self.seq;
        match event {
            Event::RunStarted(started) => self.started = Some(started),
            Event::GuardianChecked(report) => self.guardian = Some(report),
            Event::PlanReady(plan) => {
                self.flagged |= plan.found.flagged;
                self.plan = Some(plan);
            }
            Event::ApprovalRequested(request) => {
                self.flagged |= request.suspects_injection();
            }
            Event::StepScheduled { step_id, input, .. } => {
                self.step(&step_id).input = Some(input);
            }
            Event::StepSucceeded {
                step_id,
                output,
                reused,
                ..
            } => {
                let step = self.step(&step_id);
                step.effective.get_or_insert(seq);
                step.end = Some(End::Succeeded(output));
                step.reused = reused;
            }
            Event::StepSkipped { step_id, output } => {
                self.step(&step_id).end = Some(output.map_or(End::Omitted, End::Skipped));
            }
            Event::StepFailed {
                step_id,
                compensate,
                ..
            } => {
                let step = self.step(&step_id);
                if compensate {
                    step.effective.get_or_insert(seq);
                }
                step.end = Some(End::Failed);
            }
            Event::StepUnknown { step_id, .. } => {
                let step = self.step(&step_id);
                step.effective.get_or_insert(seq);
                step.end = Some(End::Unknown);
            }
            Event::CompensationScheduled { step_id, input, .. } => {
                let step = self.step(&step_id);
                step.undo = Some(input);
                step.undone = true;
            }
            Event::CompensationFailed { step_id, .. } => {
                self.step(&step_id).undone = true;
                self.not_undone.push(step_id.to_string());
            }
            Event::RunFailed { error }
            | Event::RunDenied { error }
            | Event::RunCancelled { error } => {
                self.error = Some(StepError::new(error.code, error.message));
            }
            _ => {}
        }
    }

    fn step(&mut self, id: &str) -> &mut Step {
        self.steps.entry(id.to_owned()).or_default()
    }

    /// Returns the run with this id; `None` if its history has no start, or no plan and no goal.
    pub(crate) fn finish(self, run_id: String) -> Option<EarlierRun> {
        let started = self.started?;
        if self.plan.is_none() && started.goal.is_none() {
            return None;
        }
        Some(EarlierRun {
            run_id,
            started,
            plan: self.plan,
            guardian: self.guardian,
            flagged: self.flagged,
            steps: self.steps,
            not_undone: self.not_undone,
            error: self.error,
            taken_over: BTreeMap::new(),
        })
    }
}

impl EarlierRun {
    /// Sets the runs that have taken over steps of this one: step and run, the newest run last.
    pub(crate) fn taken_over(mut self, steps: Vec<(String, String)>) -> Self {
        self.taken_over = steps.into_iter().collect();
        self
    }

    /// The last run that has taken over a step.
    pub(super) fn taken_over_by(&self, id: &str) -> Option<&str> {
        self.taken_over.get(id).map(String::as_str)
    }

    /// Whether the condition of a step was false.
    pub(super) fn omitted(&self, id: &str) -> bool {
        let end = self.steps.get(id).and_then(|step| step.end.as_ref());
        matches!(end, Some(End::Omitted))
    }

    /// The place of a step among those that may have had an effect: they are undone in the reverse order.
    pub(super) fn place(&self, id: &str) -> Option<u64> {
        self.steps.get(id)?.effective
    }

    /// The id of the run.
    pub(super) fn run_id(&self) -> &str {
        &self.run_id
    }

    /// The kinds of requests that may have started it; a disabled feature of any stops that it is repeated. The history does not tell a
    /// command from a request for its workflow with the same type.
    pub(super) fn requests(&self, catalog: &Catalog) -> &'static [Request] {
        if self.started.goal.is_some() {
            return &[Request::Goal];
        }
        let Some(workflow) = &self.started.workflow else {
            let plan = self.plan.as_ref();
            let task = plan.is_some_and(|plan| plan.source == PlanSource::Workflow.name());
            return if task {
                &[Request::Task]
            } else {
                &[Request::Workflow]
            };
        };
        let kind = self.started.kind.as_deref();
        let known = catalog.workflow(&workflow.name, Some(&workflow.version));
        let command = known.and_then(|known| known.command.as_deref());
        if command.is_some() && command == kind {
            &[Request::Command, Request::Workflow]
        } else {
            &[Request::Workflow]
        }
    }

    /// The params that its plan was carried out with.
    pub(super) fn params(&self) -> &Json {
        let plan = self.plan.as_ref();
        let params = plan.and_then(|plan| plan.found.params.as_ref());
        params.unwrap_or(&self.started.params)
    }

    /// The values of `slots` in its expressions.
    pub(super) fn slots(&self) -> BTreeMap<String, Value> {
        if let Some(plan) = &self.plan {
            return plan.found.slots.clone();
        }
        placeholders(&self.started.params.value())
    }

    /// Whether the run only called compensations of another run again.
    pub(super) fn only_undid(&self) -> bool {
        !self.started.undo.is_empty()
    }

    /// The result of a step that need not be executed again: it succeeded, or a person skipped it with an output, and it was not
    /// compensated.
    pub(super) fn reused(&self, id: &str) -> Option<Reused> {
        let step = self.steps.get(id).filter(|step| !step.undone)?;
        let before = self.started.reused(id);
        let (output, skipped) = match step.end.as_ref()? {
            End::Succeeded(output) => (output, false),
            End::Skipped(output) => (output, true),
            End::Omitted | End::Failed | End::Unknown => return None,
        };
        let (run_id, input) = match before.filter(|_| step.reused) {
            Some(before) => (&before.run_id, &before.input),
            None => (&self.run_id, &step.input),
        };
        Some(Reused {
            step_id: id.into(),
            run_id: run_id.clone(),
            input: input.clone(),
            output: output.clone(),
            skipped,
        })
    }

    /// The failed compensations, in the order in which they ran.
    pub(super) fn failed_compensations(&self) -> Vec<Undo> {
        let ids = self.not_undone.iter();
        ids.map(|id| {
            self.started
                .undo(id)
                .map_or_else(|| self.undo(id), Undo::clone)
        })
        .collect()
    }

    fn undo(&self, id: &str) -> Undo {
        let none = Step::default();
        let step = self.steps.get(id).unwrap_or(&none);
        let before = self.started.reused(id).filter(|_| step.reused);
        let (by, input) = match before {
            Some(before) => (&before.run_id, &before.input),
            None => (&self.run_id, &step.input),
        };
        let (outcome, output) = match &step.end {
            Some(End::Succeeded(output)) => ("succeeded", Some(output)),
            Some(End::Skipped(output)) => ("skipped", Some(output)),
            Some(End::Failed) => ("failed", None),
            Some(End::Unknown | End::Omitted) | None => ("unknown", None),
        };
        let value = |json: &Json| json.value();
        let mut execute = serde_json::json!({
            "idempotency_key": idempotency_key(by, id, CallKind::Execute),
            "outcome": outcome,
            "input": input.as_ref().map(value),
        });
        if let Some(output) = output {
            execute["output"] = output.value();
        }
        Undo {
            step_id: id.into(),
            run_id: self.run_id.clone(),
            input: step.undo.clone(),
            execute: Json::of(&execute),
            error: self.error.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{base::clock::Millis, runs::RunError};

    fn earlier(started: Started, events: Vec<Event>) -> EarlierRun {
        let mut reader = EarlierRunReader::default();
        reader.apply(Event::RunStarted(Box::new(started)));
        reader.apply(Event::PlanReady(Box::new(PlanReady {
            source: "workflow".into(),
            hash: "00".into(),
            plan: Json::of(&json!({ "steps": [] })),
            workflow: None,
            found: Box::default(),
        })));
        for event in events {
            reader.apply(event);
        }
        reader.finish("old".into()).unwrap()
    }

    fn started() -> Started {
        Started::new(Json::empty_object(), "ann", Millis(0))
    }

    fn ran(id: &str, output: i64) -> [Event; 2] {
        [
            Event::StepScheduled {
                step_id: id.into(),
                attempt: 1,
                input: Json::of(&json!({ "of": id })),
                deadline: Millis(1),
            },
            Event::StepSucceeded {
                step_id: id.into(),
                attempt: 1,
                output: Json::of(&json!(output)),
                late: false,
                signal: None,
                reused: false,
            },
        ]
    }

    fn undoing(id: &str) -> Event {
        Event::CompensationScheduled {
            step_id: id.into(),
            attempt: 1,
            input: Json::of(&json!({ "undo": id })),
            deadline: Millis(1),
        }
    }

    #[test]
    fn what_was_undone_or_nearly_so_is_not_reused() {
        let mut events = [ran("a", 1), ran("b", 2), ran("c", 3)].concat();
        events.push(Event::StepSkipped {
            step_id: "byhand".into(),
            output: Some(Json::of(&json!(4))),
        });
        events.push(Event::StepSkipped {
            step_id: "when".into(),
            output: None,
        });
        events.push(undoing("c"));
        events.push(Event::CompensationSucceeded {
            step_id: "c".into(),
            attempt: 1,
        });
        events.push(undoing("b"));
        events.push(Event::CompensationFailed {
            step_id: "b".into(),
            attempt: 1,
            error: StepError::new("http_500", "no"),
        });
        events.push(Event::RunFailed {
            error: Box::new(RunError {
                failed_step_id: None,
                code: "late".into(),
                message: "too late".into(),
                compensation_results: Vec::new(),
            }),
        });
        let earlier = earlier(started(), events);
        let a = earlier.reused("a").unwrap();
        assert_eq!(
            (&*a.run_id, a.output.text(), a.skipped),
            ("old", "1", false)
        );
        assert_eq!(a.input.unwrap().text(), r#"{"of":"a"}"#);
        assert!(earlier.reused("byhand").unwrap().skipped);
        for id in ["b", "c", "when", "unknown"] {
            assert_eq!(earlier.reused(id), None, "{id}");
        }
        let [undo] = &earlier.failed_compensations()[..] else {
            panic!("one has failed");
        };
        assert_eq!((&*undo.step_id, &*undo.run_id), ("b", "old"));
        assert_eq!(undo.input.as_ref().unwrap().text(), r#"{"undo":"b"}"#);
        let execute = json!({ "idempotency_key": "old:b:execute", "outcome": "succeeded", "input": { "of": "b" }, "output": 2 });
        assert_eq!(undo.execute.value(), execute);
        assert_eq!(undo.error, Some(StepError::new("late", "too late")));
    }

    #[test]
    fn steps_are_in_the_order_in_which_they_began_to_count() {
        let unknown = Event::StepUnknown {
            step_id: "b".into(),
            attempt: 1,
            error: StepError::new("no_answer", "none"),
        };
        let omitted = Event::StepSkipped {
            step_id: "when".into(),
            output: None,
        };
        let mut events = vec![unknown, omitted];
        // `b` has succeeded late: it counts since its outcome was unknown.
        events.extend([ran("a", 1), ran("b", 2)].concat());
        let run = earlier(started(), events);
        assert!(run.place("b") < run.place("a"));
        assert!(run.omitted("when") && !run.omitted("a"));
        let taken_over = [("a", "first"), ("a", "second")];
        let taken_over = taken_over.map(|(step, run)| (step.to_owned(), run.to_owned()));
        let run = run.taken_over(taken_over.to_vec());
        assert_eq!(run.taken_over_by("a"), Some("second"));
        assert_eq!(run.taken_over_by("b"), None);
    }

    #[test]
    fn what_is_taken_over_twice_names_the_run_that_did_it() {
        let mut started = started();
        started.reused.push(Reused {
            step_id: "a".into(),
            run_id: "first".into(),
            input: Some(Json::null()),
            output: Json::of(&json!(1)),
            skipped: false,
        });
        let reused = Event::StepSucceeded {
            step_id: "a".into(),
            attempt: 0,
            output: Json::of(&json!(1)),
            late: false,
            signal: None,
            reused: true,
        };
        let earlier = earlier(started.clone(), vec![reused]);
        assert_eq!(earlier.reused("a").unwrap().run_id, "first");
        let undo = Undo {
            step_id: "a".into(),
            run_id: "first".into(),
            input: None,
            execute: Json::null(),
            error: None,
        };
        started.undo.push(undo.clone());
        let failed = Event::CompensationFailed {
            step_id: "a".into(),
            attempt: 1,
            error: StepError::new("http_500", "no"),
        };
        let earlier = self::earlier(started, vec![failed]);
        assert!(earlier.only_undid());
        assert_eq!(earlier.failed_compensations(), [undo]);
    }
}
