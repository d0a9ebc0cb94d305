//! A plan that is ready to run: names resolved to indexes and tools, defaults filled in.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use serde_json::Value;

use crate::{
    plans::{Builtin, Call, OnExhausted, Plan, Retry, Template, Tool, When, Worker},
    runs::Json,
    workflows::{Mismatch, Schema},
};

/// Default time limit of an attempt: five minutes.
const ATTEMPT_MS: u64 = 5 * 60 * 1000;
/// Default time limit of an attempt of a compensation: 15 seconds.
const COMPENSATION_MS: u64 = 15 * 1000;
/// Default time limit of a run, from when it leaves `queued`: seven days.
const RUN_MS: u64 = 7 * 86_400 * 1000;

/// A plan whose tools are known. Shared by all runs of the plan.
#[derive(Debug)]
pub struct CompiledPlan {
    /// The steps, in the order of the plan.
    pub steps: Vec<CompiledStep>,
    /// The template of the run's output.
    pub output: Option<Template>,
    /// Indexes of the steps that the output template refers to.
    pub output_refers: Vec<usize>,
    /// Time limit of a run in milliseconds, from when it leaves `queued`.
    pub timeout_ms: u64,
    ids: HashMap<Arc<str>, usize>,
}

/// A step, with defaults filled in and names resolved.
#[derive(Debug)]
pub struct CompiledStep {
    /// Its id.
    pub id: Arc<str>,
    /// The tool that is called.
    pub tool: Arc<Tool>,
    /// The input of the call.
    pub input: Input,
    /// Indexes of the steps that must end before it.
    pub depends_on: Vec<usize>,
    /// Indexes of the steps whose outputs its input and its condition refer to.
    pub refers: Vec<usize>,
    /// The schema of its input; `None` accepts anything.
    pub schema: Option<Arc<Schema>>,
    /// The condition under which it runs.
    pub when: Option<When>,
    /// Time limit of an attempt, in milliseconds. The default of a `wait` is the time limit of the run; its input may set another one.
    pub timeout_ms: u64,
    /// The number of attempts and the pauses between them.
    pub retry: RetryPolicy,
    /// Time limit of all attempts together, in milliseconds.
    pub deadline_ms: Option<u64>,
    /// What happens when all attempts have failed.
    pub on_exhausted: OnExhausted,
    /// It cannot be undone, so a person must approve it.
    pub irreversible: bool,
    /// The call that undoes it.
    pub compensation: Option<Compensation>,
}

/// A call that undoes a step.
#[derive(Debug)]
pub struct Compensation {
    /// The tool that is called.
    pub tool: Arc<Tool>,
    /// The input of the call.
    pub input: Input,
    /// Indexes of the other steps whose outputs its input refers to.
    pub refers: Vec<usize>,
    /// Time limit of an attempt, in milliseconds.
    pub timeout_ms: u64,
    /// The number of attempts and the pauses between them.
    pub retry: RetryPolicy,
}

/// The input of a call.
#[derive(Debug)]
pub enum Input {
    /// JSON text without expressions.
    Fixed(Json),
    /// A template, rendered before the first attempt.
    Template(Template),
}

/// How often a call is attempted, with which pauses.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RetryPolicy {
    /// Attempts, including the first.
    pub max_attempts: u32,
    /// The pause after the first attempt, in milliseconds.
    pub initial_ms: u64,
    /// The factor by which each further pause grows.
    pub factor: f64,
    /// The longest pause, in milliseconds.
    pub max_ms: u64,
}

/// A workflow's defaults for the steps of its plan. They override the tools' settings; a step's own settings override both.
#[derive(Clone, Copy, Debug, Default)]
pub struct Defaults {
    /// What happens when all attempts of a step have failed.
    pub on_exhausted: Option<OnExhausted>,
}

/// The plan calls a tool that does not exist.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("step `{step}`: there is no tool `{tool}`")]
pub struct UnknownTool {
    /// The id of the step.
    pub step: String,
    /// The name of the missing tool.
    pub tool: String,
}

impl RetryPolicy {
    /// The step's values, then the tool's, then the defaults: three attempts for steps, two for compensations, pauses of one to ten
    /// seconds that double.
    fn new(step: &Retry, tool: &Retry, max_attempts: u32) -> Self {
        Self {
            max_attempts: step
                .max_attempts
                .or(tool.max_attempts)
                .unwrap_or(max_attempts),
            initial_ms: step.initial_ms.or(tool.initial_ms).unwrap_or(1000),
            factor: step.factor.or(tool.factor).unwrap_or(2.0),
            max_ms: step.max_ms.or(tool.max_ms).unwrap_or(10_000),
        }
    }

    /// The pause after a failed attempt (numbered from 1), in milliseconds, with equal jitter: between half and all of the
    /// computed pause. `random` selects the point in between.
    pub fn pause_ms(&self, attempt: u32, random: u64) -> u64 {
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let pause = self.initial_ms as f64 * self.factor.powi(exponent);
        let pause = pause.min(self.max_ms as f64).max(0.0) as u64;
        let half = pause / 2;
        half + random % (pause - half + 1)
    }
}

impl Input {
    fn new(template: &Template) -> Self {
        match template {
            Template::Fixed(value) => Self::Fixed(Json::of(value)),
            template => Self::Template(template.clone()),
        }
    }
}

impl CompiledPlan {
    /// Resolves the tools of a valid plan.
    pub fn new(
        plan: &Plan,
        defaults: Defaults,
        tool: impl Fn(&str) -> Option<Arc<Tool>>,
    ) -> Result<Self, UnknownTool> {
        let index: HashMap<&str, usize> = plan
            .steps
            .iter()
            .enumerate()
            .map(|(index, step)| (step.id.as_str(), index))
            .collect();
        let outputs = |template: &Template| -> Vec<usize> {
            let steps = template.step_outputs();
            let known = |id: &String| index.get(id.as_str()).copied();
            steps.iter().filter_map(known).collect()
        };
        let mut schemas: HashMap<String, Option<Arc<Schema>>> = HashMap::new();
        let mut schema = |tool: &Tool| {
            let made = schemas
                .entry(tool.name.clone())
                .or_insert_with(|| schema_of(tool));
            made.clone()
        };
        let find = |step: &str, name: &str| {
            tool(name).ok_or_else(|| UnknownTool {
                step: step.to_owned(),
                tool: name.to_owned(),
            })
        };
        let run_ms = plan.timeout_ms.unwrap_or(RUN_MS);
        let mut steps: Vec<CompiledStep> = Vec::with_capacity(plan.steps.len());
        for step in &plan.steps {
            let own = find(&step.id, &step.tool)?;
            // The step's own compensation takes precedence over the tool's.
            let call: Option<&Call> = step.compensate.as_ref().or(own.compensate.as_ref());
            let compensation = match call {
                Some(call) => {
                    let tool = find(&step.id, &call.tool)?;
                    Some(Compensation {
                        input: Input::new(&call.input),
                        refers: outputs(&call.input),
                        timeout_ms: tool.timeout_ms.unwrap_or(COMPENSATION_MS),
                        retry: RetryPolicy::new(&Retry::default(), &tool.retry, 2),
                        tool,
                    })
                }
                None => None,
            };
            let depends_on = step.depends_on.iter();
            let mut refers = outputs(&step.input);
            if let Some(When::Expression(expression)) = &step.when {
                refers.extend(outputs(&Template::Expression(expression.clone())));
                refers.sort_unstable();
                refers.dedup();
            }
            steps.push(CompiledStep {
                id: step.id.as_str().into(),
                input: Input::new(&step.input),
                // A valid plan has no unknown dependencies.
                depends_on: depends_on
                    .filter_map(|id| index.get(id.as_str()).copied())
                    .collect(),
                refers,
                schema: schema(&own),
                when: step.when.clone(),
                timeout_ms: step
                    .timeout_ms
                    .or(own.timeout_ms)
                    .unwrap_or(match own.worker {
                        Worker::Builtin(Builtin::Wait) => run_ms,
                        _ => ATTEMPT_MS,
                    }),
                retry: RetryPolicy::new(&step.retry, &own.retry, 3),
                deadline_ms: step.deadline_ms,
                on_exhausted: step
                    .on_exhausted
                    .or(defaults.on_exhausted)
                    .or(own.on_exhausted)
                    .unwrap_or(OnExhausted::Fail),
                irreversible: step.irreversible || own.irreversible,
                compensation,
                tool: own,
            });
        }
        Ok(Self {
            ids: steps
                .iter()
                .enumerate()
                .map(|(index, step)| (Arc::clone(&step.id), index))
                .collect(),
            output_refers: plan.output.as_ref().map(outputs).unwrap_or_default(),
            output: plan.output.clone(),
            timeout_ms: run_ms,
            steps,
        })
    }

    /// The plan of a run that has none yet. Always the same one.
    pub(super) fn none() -> Arc<Self> {
        static NONE: LazyLock<Arc<CompiledPlan>> = LazyLock::new(|| {
            Arc::new(CompiledPlan {
                steps: Vec::new(),
                output: None,
                output_refers: Vec::new(),
                timeout_ms: RUN_MS,
                ids: HashMap::new(),
            })
        });
        Arc::clone(&NONE)
    }

    /// The index of a step.
    pub fn index(&self, id: &str) -> Option<usize> {
        self.ids.get(id).copied()
    }
}

/// The schema of a tool's input; `None` if it accepts anything, or is invalid, which the port refuses.
fn schema_of(tool: &Tool) -> Option<Arc<Schema>> {
    if tool.input_schema == Value::Bool(true) {
        return None;
    }
    Schema::compile(&tool.input_schema).ok().map(Arc::new)
}

impl CompiledStep {
    /// Checks an input, which may have placeholders, against the tool's schema.
    pub(super) fn check_input(&self, input: &Value) -> Result<(), Mismatch> {
        match &self.schema {
            Some(schema) => schema.check_open(input),
            None => Ok(()),
        }
    }
}
