//! Splits a checked topology into stages: a stage is what one lane does between two topics.

use std::sync::Arc;

use super::{
    run::codec::Codec,
    syntax::{
        model::{Action, KeyFields, RateLimit, Rule, Topology, Validate},
        trial::Trial,
    },
    vrl::Vrl,
};
use crate::base::id::Tenant;

/// A topology ready to run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) name: String,
    /// The text of its file.
    pub(crate) text: String,
    pub(crate) file: String,
    pub(crate) tenant: Option<Tenant>,
    pub(crate) codec: Codec,
    pub(crate) stages: Vec<Arc<Stage>>,
    /// Topics outside of OmniLink that it writes to.
    pub(crate) foreign_sinks: Vec<String>,
    pub(crate) tests: Vec<Trial>,
    pub(crate) source_text: Arc<super::SourceFile>,
}

/// What one lane does.
#[derive(Clone, Debug)]
pub(crate) struct Stage {
    /// Its consumer group and the name of its state, such as `topology.orders`.
    pub(crate) processor: String,
    pub(crate) input: Input,
    /// What its input is keyed by, for the first stage alone: records between stages carry their key values.
    pub(crate) keyed_by: Option<KeyFields>,
    pub(crate) steps: Vec<PlannedStep>,
    /// Where records go after the last step, if that is not a route: the next stage's input.
    pub(crate) rekey_to: Option<Arc<str>>,
}

/// What a stage reads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Input {
    /// A topic outside of OmniLink.
    Foreign(Arc<str>),
    /// The admitted events.
    Events(Arc<str>),
    /// Records on their way within this topology.
    Rekeyed(Arc<str>),
}

impl Input {
    pub(crate) fn topic(&self) -> &Arc<str> {
        match self {
            Self::Foreign(topic) | Self::Events(topic) | Self::Rekeyed(topic) => topic,
        }
    }
}

/// A step as it runs.
#[derive(Clone, Debug)]
pub(crate) enum PlannedStep {
    Normalise(Option<Vrl>),
    Map(Vrl),
    Filter(Vrl),
    Validate(Validate),
    SetKey(KeyFields),
    Dedupe { window_ms: i64 },
    RateLimit(Arc<RateLimit>),
    Route(Vec<Rule>),
}

impl Plan {
    /// Whether it does the same as another: then it needs no restart.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let mut schemas = self.schemas().zip(other.schemas());
        self.text == other.text && schemas.all(|(one, other)| one.schema.is_same(&other.schema))
    }

    fn schemas(&self) -> impl Iterator<Item = &Validate> {
        let steps = self.stages.iter().flat_map(|stage| &stage.steps);
        steps.filter_map(|step| match step {
            PlannedStep::Validate(validate) => Some(validate),
            _ => None,
        })
    }
}

impl Stage {
    pub(crate) fn dedupe_window_ms(&self) -> Option<i64> {
        self.steps.iter().find_map(|step| match step {
            PlannedStep::Dedupe { window_ms } => Some(*window_ms),
            _ => None,
        })
    }

    pub(crate) fn limits(&self) -> impl Iterator<Item = (usize, &Arc<RateLimit>)> {
        self.steps
            .iter()
            .enumerate()
            .filter_map(|(at, step)| match step {
                PlannedStep::RateLimit(limit) => Some((at, limit)),
                _ => None,
            })
    }

    pub(crate) fn is_stateful(&self) -> bool {
        self.dedupe_window_ms().is_some() || self.limits().next().is_some()
    }
}

/// Whether all records of a key are in one partition of the input: they are if the key has all fields that the input is keyed by,
/// and perhaps more.
fn together(key: Option<&KeyFields>, input: Option<&KeyFields>) -> bool {
    key.zip(input).is_some_and(|(key, input)| {
        let mut fields = input.fields.iter();
        fields.all(|field| key.fields.contains(field))
    })
}

/// Plans a topology; `None`: it has an error, which was reported.
pub(crate) fn plan(topology: &Topology, prefix: &str) -> Option<Arc<Plan>> {
    let name = &topology.name.as_ref()?.value;
    let source = topology.source.as_ref()?;
    let input = if source.topic.value == "events" {
        Input::Events(format!("{prefix}events").into())
    } else {
        Input::Foreign(source.topic.value.as_str().into())
    };
    let mut stages: Vec<Stage> = vec![Stage {
        processor: format!("topology.{name}"),
        input,
        keyed_by: source.key.clone(),
        steps: Vec::new(),
        rekey_to: None,
    }];
    // What the stage's input is keyed by, and what records are keyed by here.
    let mut input_key = source.key.clone();
    let mut key = source.key.clone();
    let mut foreign_sinks = Vec::new();
    for step in &topology.steps {
        if step.action.is_stateful() {
            let at = stages.len();
            let stage = &mut stages[at - 1];
            // Timestamps of a foreign topic are its producers': a limiter reads from a topic with append times of the log.
            let timed = matches!(step.action, Action::RateLimit(_))
                && matches!(stage.input, Input::Foreign(_));
            if !together(key.as_ref(), input_key.as_ref()) || timed {
                let number = if at == 1 {
                    String::new()
                } else {
                    format!(".{at}")
                };
                let topic: Arc<str> = format!("{prefix}rekey.{name}{number}").into();
                stage.rekey_to = Some(Arc::clone(&topic));
                stages.push(Stage {
                    processor: format!("topology.{name}.{}", at + 1),
                    input: Input::Rekeyed(topic),
                    keyed_by: None,
                    steps: Vec::new(),
                    rekey_to: None,
                });
                input_key.clone_from(&key);
            }
        }
        let done = match &step.action {
            Action::Normalise(map) => PlannedStep::Normalise(map.clone()),
            Action::Map(vrl) => PlannedStep::Map(vrl.clone()),
            Action::Filter(vrl) => PlannedStep::Filter(vrl.clone()),
            Action::Validate(validate) => PlannedStep::Validate(validate.clone()),
            Action::Key(fields) => {
                key = Some(fields.clone());
                PlannedStep::SetKey(fields.clone())
            }
            Action::Dedupe(dedupe) => PlannedStep::Dedupe {
                window_ms: dedupe.window_ms.unwrap_or_default(),
            },
            Action::RateLimit(limit) => PlannedStep::RateLimit(Arc::new(limit.clone())),
            Action::Route(rules) => {
                for rule in rules {
                    let to = &rule.to.value;
                    if to != "ingress" && to != "drop" && !foreign_sinks.contains(to) {
                        foreign_sinks.push(to.clone());
                    }
                }
                PlannedStep::Route(rules.clone())
            }
            // Only the system's own topologies have these, and they are not planned.
            Action::Project(_) | Action::Broken(_) => return None,
        };
        if let Some(stage) = stages.last_mut() {
            stage.steps.push(done);
        }
    }
    Some(Arc::new(Plan {
        name: name.clone(),
        text: topology.file.text.clone(),
        file: topology.file.name.clone(),
        tenant: source.tenant.clone(),
        codec: source.codec.clone(),
        stages: stages.into_iter().map(Arc::new).collect(),
        foreign_sinks,
        tests: topology.tests.clone(),
        source_text: Arc::clone(&topology.file),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{
        SourceFile,
        syntax::{file, problem::Problems},
    };

    /// The steps of each stage of a topology with these steps before its route.
    fn stages(source: &str, steps: &str) -> Vec<usize> {
        let text = format!(
            "name: t\nsource: {{ {source} }}\nsteps: [ {steps}, route: [ {{ to: out }} ] ]\n"
        );
        let file = Arc::new(SourceFile {
            name: "t.yaml".into(),
            text,
        });
        let mut problems = Problems::of(Arc::clone(&file));
        let topology = file::read(&file, &mut problems).unwrap();
        assert!(problems.found.is_empty(), "{:?}", problems.found);
        let plan = plan(&topology, "omnilink.").unwrap();
        plan.stages.iter().map(|stage| stage.steps.len()).collect()
    }

    #[test]
    fn records_change_their_partition_only_where_they_must() {
        let (dedupe, limit) = (
            "dedupe: { window: 1h }",
            "rate_limit: { policy: p, limit: 1, window: 1s }",
        );
        let events = "topic: events, key: [entity.type, entity.external_id]";
        let finer = "key: [entity.external_id, id, entity.type]";
        let whole = "key: [entity.type, entity.external_id]";
        let all = format!("{finer}, {dedupe}, {whole}, {limit}");
        assert_eq!(stages(events, &all), [5]);
        // Without one of the input's fields records of a key may lie anywhere.
        let coarser = format!("key: [entity.external_id, id], {dedupe}");
        assert_eq!(stages(events, &coarser), [1, 2]);
        assert_eq!(
            stages("topic: events", &format!("{finer}, {dedupe}")),
            [1, 2]
        );
        // What passed `rekey` is keyed as finely as that was.
        let back = format!("{finer}, {dedupe}, key: [id], {limit}");
        assert_eq!(stages("topic: events", &back), [1, 2, 2]);
        // Times of a foreign topic are its producers'.
        let foreign = format!("{whole}, {limit}");
        let source = "topic: shop, key: [entity.type, entity.external_id]";
        assert_eq!(stages(source, &foreign), [1, 2]);
    }
}
