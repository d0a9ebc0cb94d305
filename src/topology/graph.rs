//! The topologies, and what starts workflows, as a Mermaid flowchart.

use std::fmt::Write;

use super::{
    Set,
    plan::{Input, Plan, PlannedStep},
    syntax::{
        model::{Action, Topology, When},
        system,
    },
};

/// What starts a workflow without a request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Starter<'a> {
    /// Events of this type, or whose type begins so (`order.*`).
    Event(&'a str),
    /// These times: an expression and its time zone.
    Times(&'a str),
}

/// The system's own topologies, those of the set, and workflows with what starts them.
pub fn mermaid(set: &Set, workflows: &[(Starter<'_>, &str)]) -> String {
    let mut graph = Graph::default();
    for topology in system::defaults() {
        graph.system(&topology);
    }
    for plan in &set.plans {
        graph.user(plan);
    }
    for (starter, workflow) in workflows {
        graph.workflow(*starter, workflow);
    }
    graph.finish()
}

#[derive(Default)]
struct Graph {
    nodes: Vec<String>,
    edges: Vec<String>,
}

/// A valid id for Mermaid: other characters become `_` and a number, so that ids stay distinct.
fn id(kind: &str, name: &str) -> String {
    let mut id = String::from(kind);
    for c in name.chars() {
        if c.is_ascii_alphanumeric() {
            id.push(c);
        } else {
            // A `String` never refuses text.
            let _ = write!(id, "_{:x}_", u32::from(c));
        }
    }
    id
}

/// A text in double quotes, in which Mermaid reads all characters as they are.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "#quot;"))
}

impl Graph {
    fn node(&mut self, line: String) {
        if !self.nodes.contains(&line) {
            self.nodes.push(line);
        }
    }

    fn topic(&mut self, name: &str) -> String {
        let id = id("t_", name);
        self.node(format!("{id}[/\"{name}\"/]"));
        id
    }

    fn processor(&mut self, name: &str, steps: &[&str], class: &str) -> String {
        let id = id("p_", name);
        let steps = steps.join(" → ");
        self.node(format!("{id}[\"<b>{name}</b><br/>{steps}\"]:::{class}"));
        id
    }

    fn edge(&mut self, from: &str, to: &str, label: &str) {
        let line = if label.is_empty() {
            format!("{from} --> {to}")
        } else {
            format!("{from} -->|{label}| {to}")
        };
        if !self.edges.contains(&line) {
            self.edges.push(line);
        }
    }

    fn system(&mut self, topology: &Topology) {
        let (Some(name), Some(source)) = (&topology.name, &topology.source) else {
            return;
        };
        let steps: Vec<&str> = topology.steps.iter().map(|s| s.action.name()).collect();
        let source = self.topic(&source.topic.value);
        let processor = self.processor(&name.value, &steps, "system");
        self.edge(&source, &processor, "");
        for step in &topology.steps {
            match &step.action {
                Action::Route(rules) => {
                    for rule in rules {
                        let to = self.topic(&rule.to.value);
                        self.edge(&processor, &to, "");
                    }
                }
                Action::Project(tables) => {
                    for table in tables {
                        let to = id("db_", table);
                        self.node(format!("{to}[(\"{table}\")]"));
                        self.edge(&processor, &to, "");
                    }
                }
                _ => {}
            }
        }
    }

    fn user(&mut self, plan: &Plan) {
        for (at, stage) in plan.stages.iter().enumerate() {
            let steps: Vec<&str> = stage.steps.iter().map(name).collect();
            let shown = if at == 0 {
                plan.name.clone()
            } else {
                format!("{} {}", plan.name, at + 1)
            };
            let source = match &stage.input {
                Input::Events(_) => self.topic("events"),
                Input::Foreign(topic) | Input::Rekeyed(topic) => self.topic(topic),
            };
            let processor = self.processor(&shown, &steps, "user");
            self.edge(&source, &processor, "");
            if let Some(topic) = &stage.rekey_to {
                let to = self.topic(topic);
                self.edge(&processor, &to, "");
            }
            for step in &stage.steps {
                match step {
                    PlannedStep::Route(rules) => {
                        for rule in rules.iter().filter(|rule| rule.to.value != "drop") {
                            let to = self.topic(&rule.to.value);
                            let label = match rule.when {
                                When::Always => "",
                                When::Holds(_) | When::Broken => "when",
                            };
                            self.edge(&processor, &to, label);
                        }
                    }
                    PlannedStep::RateLimit(limit) => {
                        let to = self.topic("throttled");
                        let label = format!("over {}", limit.policy.value);
                        self.edge(&processor, &to, &label);
                    }
                    _ => {}
                }
            }
        }
    }

    fn workflow(&mut self, starter: Starter<'_>, name: &str) {
        let workflow = id("w_", name);
        self.node(format!(
            "{workflow}([\"<b>{name}</b><br/>workflow\"]):::user"
        ));
        match starter {
            Starter::Event(pattern) => {
                // Admission starts it, in the transaction of the event.
                let admission = id("p_", "admission");
                self.edge(&admission, &workflow, &quoted(pattern));
            }
            Starter::Times(times) => {
                let clock = id("c_", times);
                self.node(format!("{clock}{{{{{}}}}}", quoted(times)));
                self.edge(&clock, &workflow, "");
            }
        }
        let commands = self.topic("commands");
        self.edge(&workflow, &commands, "");
    }

    fn finish(self) -> String {
        let mut out = String::from("flowchart LR\n");
        for line in self.nodes.iter().chain(&self.edges) {
            // A `String` never refuses text.
            let _ = writeln!(out, "  {line}");
        }
        out.push_str("  classDef system fill:#eee,stroke:#888\n");
        out.push_str("  classDef user fill:#def,stroke:#48a\n");
        out
    }
}

fn name(step: &PlannedStep) -> &'static str {
    match step {
        PlannedStep::Normalise(_) => "normalise",
        PlannedStep::Map(_) => "map",
        PlannedStep::Filter(_) => "filter",
        PlannedStep::Validate(_) => "validate",
        PlannedStep::SetKey(_) => "key",
        PlannedStep::Dedupe { .. } => "dedupe",
        PlannedStep::RateLimit(_) => "rate_limit",
        PlannedStep::Route(_) => "route",
    }
}
