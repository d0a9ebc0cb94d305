//! The plan: parsing it, and checking the references of its expressions.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{
    expression::{Expression, Template},
    fault::{Fault, Pointer},
    graph,
    read::{Faults, short},
    reference::Reference,
    step::{SECONDS_MAX, Step, When},
    tool::Tool,
};
use crate::config::keys::nearest;

/// The maximum number of steps in a plan.
pub const STEPS_MAX: usize = 200;
/// The maximum size of a plan, in bytes of compact JSON.
pub const PLAN_MAX: usize = 128 * 1024;

/// A valid plan: its dependencies exist and have no cycles, and its expressions refer only to values that are known when they are
/// evaluated. [`Plan::check_tools`] checks that its tools exist.
#[derive(Clone, PartialEq, Debug)]
pub struct Plan {
    /// The steps, in the order of the plan.
    pub steps: Vec<Step>,
    /// The template of the run's output.
    pub output: Option<Template>,
    /// The time limit of the run, in milliseconds.
    pub timeout_ms: Option<u64>,
}

impl Plan {
    /// Reads a plan, or says everything that is wrong with it.
    ///
    /// ```
    /// use omnilink::plans::Plan;
    /// use serde_json::json;
    ///
    /// let plan = Plan::read(&json!({ "steps": [
    ///     { "id": "reserve", "tool": "seats.reserve", "input": { "seat": "{{ params.seat }}" } },
    ///     { "id": "pay", "tool": "pay", "input": "{{ steps.reserve.output }}", "depends_on": ["reserve"] }
    /// ] }));
    /// assert_eq!(plan.unwrap().steps.len(), 2);
    ///
    /// let faults = Plan::read(&json!({ "steps": [{ "id": "a", "tool": "t", "depends_on": ["a"] }] }));
    /// let fault = faults.unwrap_err().remove(0);
    /// assert_eq!(fault.to_string(), "step `a`: the steps depend on each other in a cycle: a → a");
    /// ```
    pub fn read(value: &Value) -> Result<Self, Vec<Fault>> {
        let mut faults = Faults::default();
        let plan = Self::of(value, &mut faults);
        match plan {
            Some(plan) if faults.0.is_empty() => Ok(plan),
            _ => Err(faults.0),
        }
    }

    fn of(value: &Value, faults: &mut Faults) -> Option<Self> {
        let root = Pointer::root();
        let object = faults.object(value, &root, "a plan", &["steps", "output", "timeout_s"])?;
        let at = root.at("steps");
        let listed = object.required("steps", faults)?;
        let items = faults.list(listed, &at, "steps")?;
        if items.is_empty() {
            faults.add(&at, "a plan needs at least one step");
        }
        if items.len() > STEPS_MAX {
            let message = format!(
                "a plan has at most {STEPS_MAX} steps, and this has {}",
                items.len()
            );
            faults.add(&at, message);
            return None;
        }
        let read = items.iter().enumerate();
        let read: Vec<_> = read
            .map(|(n, item)| Step::read(item, &at.at(n), faults))
            .collect();
        let output = object
            .any("output")
            .map(|value| Template::read(value, &root.at("output"), faults));
        let timeout_ms = object.seconds("timeout_s", SECONDS_MAX, faults);
        // References can be checked only once all steps are known.
        let steps = read.into_iter().collect::<Option<Vec<_>>>()?;
        let plan = Self {
            steps,
            output,
            timeout_ms,
        };
        plan.check_ids(faults);
        let ancestors = graph::ancestors(&plan.steps, faults);
        plan.check_references(&ancestors, faults);
        Some(plan)
    }

    fn check_ids(&self, faults: &mut Faults) {
        let mut seen = BTreeSet::new();
        for (n, step) in self.steps.iter().enumerate() {
            if !seen.insert(&step.id) {
                let at = Pointer::root().at("steps").at(n).at("id");
                let fault = faults.add(&at, format!("there is another step `{}`", step.id));
                fault.step = Some(step.id.clone());
            }
        }
    }

    fn check_references(&self, ancestors: &[BTreeSet<usize>], faults: &mut Faults) {
        let all: BTreeMap<&str, usize> = self
            .steps
            .iter()
            .enumerate()
            .map(|(n, step)| (step.id.as_str(), n))
            .collect();
        for (n, step) in self.steps.iter().enumerate() {
            let at = Pointer::root().at("steps").at(n);
            let before = faults.0.len();
            let mut scope = Scope {
                all: &all,
                known: Some(&ancestors[n]),
                undone: None,
            };
            scope.check(&step.input, &at.at("input"), faults);
            if let Some(When::Expression(expression)) = &step.when {
                scope.check_expression(expression, &at.at("when"), faults);
            }
            if let Some(call) = &step.compensate {
                scope.undone = Some(&step.id);
                scope.check(&call.input, &at.at("compensate").at("input"), faults);
            }
            faults.of_step(before, &step.id);
        }
        if let Some(output) = &self.output {
            let scope = Scope {
                all: &all,
                known: None,
                undone: None,
            };
            scope.check(output, &Pointer::root().at("output"), faults);
        }
    }

    /// All tool calls, of steps and compensations: the JSON pointer of the call, the step's id, and the tool's name.
    pub fn calls(&self) -> impl Iterator<Item = (Pointer, &str, &str)> {
        self.steps.iter().enumerate().flat_map(|(n, step)| {
            let at = Pointer::root().at("steps").at(n);
            let own = (at.at("tool"), step.id.as_str(), step.tool.as_str());
            let undo = step.compensate.as_ref();
            let undo = undo.map(|call| {
                let at = at.at("compensate").at("tool");
                (at, step.id.as_str(), call.tool.as_str())
            });
            std::iter::once(own).chain(undo)
        })
    }

    /// Reports calls of tools that do not exist.
    pub fn check_tools<'t>(&self, tools: impl IntoIterator<Item = &'t Tool>) -> Vec<Fault> {
        let known: BTreeSet<&str> = tools.into_iter().map(|tool| tool.name.as_str()).collect();
        let mut faults = Vec::new();
        for (at, step, tool) in self.calls() {
            if known.contains(tool) {
                continue;
            }
            let mut fault = Fault::new(&at, format!("there is no tool `{}`", short(tool)));
            fault.step = Some(step.to_owned());
            fault.note = nearest(tool, known.iter().copied())
                .map(|meant| format!("did you mean `{meant}`?"));
            faults.push(fault);
        }
        faults
    }
}

/// What an expression may refer to.
struct Scope<'p> {
    all: &'p BTreeMap<&'p str, usize>,
    /// The steps whose outputs are known at this point; `None`: all.
    known: Option<&'p BTreeSet<usize>>,
    /// In a compensation: the step that is undone, whose input and output are `step.input` and `step.output`.
    undone: Option<&'p str>,
}

impl Scope<'_> {
    fn check(&self, template: &Template, at: &Pointer, faults: &mut Faults) {
        template.expressions(at, &mut |at, expression| {
            self.check_expression(expression, at, faults);
        });
    }

    fn check_expression(&self, expression: &Expression, at: &Pointer, faults: &mut Faults) {
        for reference in expression.references() {
            if let Err((message, note)) = self.judge(&reference) {
                faults.add(at, message).note = note;
            }
        }
    }

    fn judge(&self, Reference(path): &Reference) -> Result<(), (String, Option<String>)> {
        let names: Vec<&str> = path.iter().map(String::as_str).collect();
        match names[..] {
            ["params" | "slots", ..] => Ok(()),
            ["step", "input" | "output", ..] if self.undone.is_some() => Ok(()),
            ["steps", id, "input", ..] if self.undone == Some(id) => Ok(()),
            ["steps", id, "output", ..] => {
                let Some(place) = self.all.get(id) else {
                    let meant = nearest(id, self.all.keys().copied());
                    let note = meant.map(|meant| format!("did you mean `{meant}`?"));
                    return Err((format!("there is no step `{}`", short(id)), note));
                };
                let known = self.known.is_none_or(|known| known.contains(place));
                if known || self.undone == Some(id) {
                    return Ok(());
                }
                let message = format!("`steps.{id}.output` is not known here");
                Err((
                    message,
                    Some(format!(
                        "add `{id}` to `depends_on`, directly or through another step"
                    )),
                ))
            }
            ["steps", ..] => Err((
                "a step is referred to by its output".into(),
                Some("write `steps.ID.output`, with the step's id".into()),
            )),
            _ => {
                let known = if self.undone.is_some() {
                    "`params`, `slots`, `step.input`, `step.output` and `steps.ID.output`"
                } else {
                    "`params`, `slots` and `steps.ID.output`"
                };
                let message = format!("there is no `{}` here", short(names.first().unwrap_or(&"")));
                Err((
                    message,
                    Some(format!("expressions refer to {known}; texts are in quotes")),
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "the tests read better so")]
    fn faults(value: Value) -> Vec<String> {
        let faults = Plan::read(&value).err().unwrap_or_default();
        faults.iter().map(|f| format!("{} {f}", f.at)).collect()
    }

    #[expect(clippy::needless_pass_by_value, reason = "the tests read better so")]
    fn step(id: &str, after: &[&str], input: Value) -> Value {
        json!({ "id": id, "tool": "t", "depends_on": after, "input": input })
    }

    #[test]
    fn all_faults_are_reported_with_place_and_step() {
        let plan = json!({ "steps": [
            { "id": "a", "tool": "t", "timeout": 5, "retry": { "max_attempts": 0 }, "when": "params.x" },
            { "id": "1b", "tool": "t" },
            { "id": "c", "depends_on": "a", "compensate": { "input": {} }, "on_exhausted": "holt" },
            7
        ], "timeout_s": -1 });
        assert_eq!(
            faults(plan),
            [
                "/steps/0/timeout step `a`: a step has no `timeout` (did you mean `timeout_s`?)",
                "/steps/0/retry/max_attempts step `a`: `max_attempts` must be a whole number from 1 to 1000",
                "/steps/0/when step `a`: `when` must be true, false, or one expression (such as `\"{{ params.amount > 100 }}\"`)",
                "/steps/1/id `1b` is not a valid step id: 1 to 64 of A-Z a-z 0-9 _, and no digit first",
                "/steps/2 step `c`: a step needs `tool`",
                "/steps/2/depends_on step `c`: `depends_on` must be a list, and this is text",
                "/steps/2/compensate step `c`: a compensation needs `tool`",
                "/steps/2/on_exhausted step `c`: `on_exhausted` must be one of `fail` and `hold` (did you mean `hold`?)",
                "/steps/3 a step must be a mapping, and this is a number (with `id`, `tool`, `input`, `depends_on`, `compensate`, `timeout_s`, `retry`, `irreversible`, `when`, `on_exhausted` and `deadline_s`)",
                "/timeout_s `timeout_s` must be a number from 0.001 to 34560000",
            ]
        );
        assert_eq!(
            faults(json!({ "steps": [] })),
            ["/steps a plan needs at least one step"]
        );
        assert_eq!(
            faults(json!([])),
            [
                " a plan must be a mapping, and this is a list (with `steps`, `output` and `timeout_s`)"
            ]
        );
        let many: Vec<_> = (0..201)
            .map(|n| step(&format!("s{n}"), &[], json!(0)))
            .collect();
        assert_eq!(
            faults(json!({ "steps": many })),
            ["/steps a plan has at most 200 steps, and this has 201"]
        );
    }

    #[test]
    fn expressions_refer_only_to_ancestors() {
        let plan = |input: &str| {
            let steps = json!([
                step("a", &[], json!(1)),
                step("b", &["a"], json!(1)),
                step("c", &["b"], json!({ "x": [input] })),
                step("d", &[], json!(1))
            ]);
            json!({ "steps": steps, "output": "{{ steps.d.output }}" })
        };
        for good in [
            "{{ params.x }}",
            "{{ slots.DATE_1 }}",
            "{{ steps.a.output.id ~ steps.b.output }}",
            "{{ steps['a'].output[0] }}",
            "{{ params.x|default('steps.d') }}",
            "{{ steps.a.output.x is defined }}",
            "{{ range(3)|list }}",
            "steps.d.output",
        ] {
            assert_eq!(faults(plan(good)), Vec::<String>::new(), "{good}");
        }
        for (bad, message) in [
            ("{{ steps.d.output }}", "`steps.d.output` is not known here"),
            (
                "{{ steps.d.output[0:1] }}",
                "`steps.d.output` is not known here",
            ),
            ("{{ steps.c.output }}", "`steps.c.output` is not known here"),
            ("{{ steps.e.output }}", "there is no step `e`"),
            ("{{ steps.a }}", "a step is referred to by its output"),
            ("{{ steps.a.input }}", "a step is referred to by its output"),
            (
                "{{ steps[params.x].output }}",
                "a step is referred to by its output",
            ),
            ("{{ step.input }}", "there is no `step` here"),
            ("{{ env.HOME }}", "there is no `env` here"),
            ("{{ debug() }}", "there is no `debug` here"),
        ] {
            let found = faults(plan(bad));
            assert_eq!(found.len(), 1, "{bad}: {found:?}");
            let start = format!("/steps/2/input/x/0 step `c`: {message}");
            assert!(found[0].starts_with(&start), "{bad}: {found:?}");
        }
        let undo = json!({ "steps": [
            { "id": "a", "tool": "t", "compensate": { "tool": "u", "input": "{{ [step.input, step.output, steps.a.output, steps.a.input, params.x] }}" } }
        ] });
        assert_eq!(faults(undo), Vec::<String>::new());
    }

    #[test]
    fn unknown_tools_are_reported_by_step() {
        let plan = json!({ "steps": [
            { "id": "a", "tool": "noop" },
            { "id": "b", "tool": "htp", "compensate": { "tool": "nothing" } }
        ] });
        let plan = Plan::read(&plan).unwrap();
        let found: Vec<_> = plan
            .check_tools(super::super::BUILTINS.values())
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            found[0],
            "step `b`: there is no tool `htp` (did you mean `http`?)"
        );
        assert!(found[1].starts_with("step `b`: there is no tool `nothing`"));
    }

    proptest! {
        /// Compared with an independent definition: a graph has a cycle if a step reaches itself.
        #[test]
        fn cycles_are_found_and_nothing_else(edges in prop::collection::vec((0_usize..8, 0_usize..8), 0..20)) {
            let steps: Vec<_> = (0..8).map(|n| {
                let after: Vec<_> = edges.iter().filter(|(from, _)| *from == n).map(|(_, to)| format!("s{to}")).collect();
                json!({ "id": format!("s{n}"), "tool": "t", "depends_on": after })
            }).collect();
            let mut reach = [[false; 8]; 8];
            for (from, to) in &edges {
                reach[*from][*to] = true;
            }
            for k in 0..8 {
                for i in 0..8 {
                    for j in 0..8 {
                        reach[i][j] |= reach[i][k] && reach[k][j];
                    }
                }
            }
            let cyclic = (0..8).any(|n| reach[n][n]);
            let read = Plan::read(&json!({ "steps": steps }));
            prop_assert_eq!(read.is_err(), cyclic);
            if let Err(faults) = read {
                prop_assert_eq!(faults.len(), 1);
                let names: Vec<usize> = faults[0].message.rsplit(": ").next().unwrap().split(" → ")
                    .map(|name| name[1..].parse().unwrap()).collect();
                prop_assert_eq!(names.first(), names.last());
                for pair in names.windows(2) {
                    prop_assert!(edges.contains(&(pair[0], pair[1])));
                }
            } else {
                // An output is known exactly where the step is an ancestor.
                for (n, to) in (0..8).flat_map(|n| (0..8).map(move |to| (n, to))) {
                    let mut steps = steps.clone();
                    steps[n]["input"] = format!("{{{{ steps.s{to}.output }}}}").into();
                    prop_assert_eq!(Plan::read(&json!({ "steps": steps })).is_ok(), reach[n][to]);
                }
            }
        }
    }
}
