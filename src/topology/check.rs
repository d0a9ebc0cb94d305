//! Checks rules between the steps of a file, and between files.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Checked, Set, plan,
    syntax::{
        fields::listed,
        model::{Action, Step, Topology},
        problem::{self, Problem, Problems},
        system,
    },
};

/// Where a user's topology may send records, apart from foreign topics.
const SINKS: [&str; 2] = ["ingress", "drop"];

/// OmniLink's own topics, by their names in files.
const OWN: [&str; 11] = [
    "ingress",
    "events",
    "commands",
    "goals",
    "steps",
    "runs",
    "plans",
    "controls",
    "audit",
    "throttled",
    "dlq",
];

/// Whether a name in a file means a topic of OmniLink's own.
pub(crate) fn is_own(topic: &str, prefix: &str) -> bool {
    OWN.contains(&topic)
        || !prefix.is_empty() && topic.starts_with(prefix)
        || topic.starts_with("state.")
        || topic.starts_with("rekey.")
}

/// Checks all files, and plans their topologies if there is no error.
pub(crate) fn judge(
    topologies: Vec<(Topology, bool)>,
    prefix: &str,
    mut found: Vec<Problem>,
) -> Checked {
    let mut tuned = system::Tuned::default();
    let mut users = Vec::new();
    let mut names: BTreeMap<(bool, String), String> = BTreeMap::new();
    for (topology, of_system) in topologies {
        let mut problems = Problems::of(topology.file.clone());
        if let Some(name) = &topology.name {
            let key = (of_system, name.value.clone());
            if let Some(other) = names.get(&key) {
                problems.error(
                    &name.span,
                    format!("there is a topology `{}` in {other} already", name.value),
                );
            } else {
                names.insert(key, topology.file.name.clone());
            }
            if !of_system && system::is_ours(&name.value) {
                problems
                    .error(
                        &name.span,
                        format!("`{}` is the name of the system's own", name.value),
                    )
                    .note(format!(
                        "to tune that one, put the file into `{}/`",
                        system::FOLDER
                    ));
            }
        }
        if of_system {
            system::tune(&topology, &mut tuned, &mut problems);
        } else {
            source(&topology, prefix, &mut problems);
            steps(&topology, prefix, &mut problems);
            tests(&topology, &mut problems);
        }
        found.append(&mut problems.found);
        if !of_system {
            users.push(topology);
        }
    }
    cycles(&users, &mut found);
    problem::sort(&mut found);
    // Anything missing was reported: without an error all of them can be planned.
    let plans = users.iter().map(|t| plan::plan(t, prefix)).collect();
    let set = match plans {
        Some(plans) if !problem::has_errors(&found) => Some(Set {
            plans,
            system: tuned,
        }),
        _ => None,
    };
    Checked {
        set,
        problems: found,
    }
}

fn source(topology: &Topology, prefix: &str, problems: &mut Problems) {
    let Some(source) = &topology.source else {
        return;
    };
    let topic = &source.topic;
    if topic.value == "events" {
        if source.tenant.is_some() {
            problems
                .error(
                    &source.span,
                    "`tenant` cannot be set: each event has its own",
                )
                .note("take it out of `source`");
        }
    } else if is_own(&topic.value, prefix) {
        problems
            .error(
                &topic.span,
                format!(
                    "a topology does not read `{}`, a topic of OmniLink's own",
                    topic.value
                ),
            )
            .note("it reads foreign topics, or `events`");
    }
}

fn steps(topology: &Topology, prefix: &str, problems: &mut Problems) {
    let source = topology.source.as_ref();
    let events = source.is_some_and(|source| source.topic.value == "events");
    // Nothing is known of a source with an error.
    let mut keyed = source.is_none_or(|source| source.key.is_some());
    // A key that no step has used yet.
    let mut idle: Option<&Step> = None;
    let mut deduped = false;
    let mut policies: BTreeSet<&str> = BTreeSet::new();
    let Some(last) = topology.steps.len().checked_sub(1) else {
        return;
    };
    for (at, step) in topology.steps.iter().enumerate() {
        match &step.action {
            Action::Normalise(_) if events => {
                problems
                    .error(
                        &step.span,
                        "`normalise` has nothing to do: events are normalised already",
                    )
                    .note("take the step out");
            }
            Action::Normalise(_) if at > 0 => {
                problems
                    .error(&step.span, "`normalise` must be the first step")
                    .note("it reads records as they came, headers included");
            }
            Action::Key(_) => {
                if let Some(before) = idle {
                    useless(before, problems);
                }
                keyed = true;
                deduped = false;
                idle = Some(step);
            }
            Action::Dedupe(dedupe) => {
                stateful(step, keyed, problems);
                if dedupe.window_ms.is_none() {
                    problems.error(&step.span, "`dedupe` needs `window`");
                }
                if deduped {
                    problems
                        .error(&step.span, "a second `dedupe` on the same key does nothing")
                        .note("take one of them out, or put another `key` between them");
                }
                deduped = true;
                idle = None;
            }
            Action::RateLimit(limit) => {
                stateful(step, keyed, problems);
                idle = None;
                if !policies.insert(&limit.policy.value) {
                    problems
                        .error(
                            &limit.policy.span,
                            format!(
                                "there is a policy `{}` in this file already",
                                limit.policy.value
                            ),
                        )
                        .note("each limit keeps its state under the name of its policy");
                }
            }
            Action::Route(rules) => {
                if at < last {
                    problems
                        .error(&topology.steps[at + 1].span, "nothing comes after `route`")
                        .note("`route` must be the last step");
                }
                for rule in rules {
                    sink(topology, &rule.to.value, &rule.to.span, prefix, problems);
                }
                let foreign = rules
                    .iter()
                    .any(|rule| !SINKS.contains(&rule.to.value.as_str()));
                match idle {
                    Some(before) if !foreign => useless(before, problems),
                    _ => {}
                }
                idle = None;
            }
            Action::Project(_) => {
                problems
                    .error(&step.span, "`project` is the system's own step")
                    .note("a topology ends with `route`");
            }
            Action::Broken(Some("dedupe" | "rate_limit")) => {
                stateful(step, keyed, problems);
                idle = None;
            }
            // The step with the error may have been a `key`.
            Action::Broken(None | Some("key")) => {
                keyed = true;
                idle = None;
            }
            Action::Normalise(_)
            | Action::Map(_)
            | Action::Filter(_)
            | Action::Validate(_)
            | Action::Broken(_) => {}
        }
    }
    let end = &topology.steps[last];
    let ends = |step: &Step| {
        matches!(
            step.action,
            Action::Route(_) | Action::Project(_) | Action::Broken(None | Some("route"))
        )
    };
    if !topology.steps.iter().any(ends) {
        problems
            .error(&end.span, "records go nowhere after this step")
            .note("end with a `route`, such as `- route: [ { to: ingress } ]`");
    }
}

fn stateful(step: &Step, keyed: bool, problems: &mut Problems) {
    if !keyed {
        problems
            .error(
                &step.span,
                format!(
                    "`{}` needs all records of a key in one place, and they are not keyed",
                    step.action.name()
                ),
            )
            .note("put a `key` before it, such as `- key: [source, id]`")
            .note("or say with `source.key` by which fields the topic is keyed");
    }
}

fn useless(step: &Step, problems: &mut Problems) {
    problems
        .warning(&step.span, "this `key` has no effect")
        .note("no step behind it keeps state, and records on `ingress` are keyed by tenant and entity");
}

fn sink(
    topology: &Topology,
    to: &str,
    span: &std::ops::Range<usize>,
    prefix: &str,
    problems: &mut Problems,
) {
    if SINKS.contains(&to) {
        return;
    }
    if to == "events" {
        problems
            .error(span, "a topology does not write to `events`")
            .note("what it sends to `ingress` becomes an event when it is admitted");
    } else if is_own(to, prefix) {
        problems
            .error(
                span,
                format!("a topology does not write to `{to}`, a topic of OmniLink's own"),
            )
            .note("it writes to `ingress`, to `drop` and to foreign topics");
    } else if topology
        .source
        .as_ref()
        .is_some_and(|source| source.topic.value == to)
    {
        problems.error(
            span,
            format!("records would go round: `{to}` is this topology's source"),
        );
    }
}

fn tests(topology: &Topology, problems: &mut Problems) {
    let mut seen: BTreeSet<&str> = BTreeSet::from(["dlq"]);
    for step in &topology.steps {
        match &step.action {
            Action::Route(rules) => seen.extend(
                rules
                    .iter()
                    .map(|rule| rule.to.value.as_str())
                    .filter(|to| *to != "drop"),
            ),
            Action::RateLimit(_) | Action::Broken(Some("rate_limit")) => {
                seen.insert("throttled");
            }
            // A step with an error may write anywhere.
            Action::Broken(None | Some("route")) => return,
            _ => {}
        }
    }
    for trial in &topology.tests {
        for (topic, _) in &trial.then {
            if !seen.contains(topic.value.as_str()) {
                let names: Vec<&str> = seen.iter().copied().collect();
                problems
                    .error(
                        &topic.span,
                        format!("nothing goes to `{}` here", topic.value),
                    )
                    .note(format!("this topology writes to {}", listed(&names)));
            }
        }
    }
}

/// Finds cycles of topologies through foreign topics: they may be intended (a retry), hence a warning.
fn cycles(users: &[Topology], found: &mut Vec<Problem>) {
    let mut next: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (topology, source) in with_source(users) {
        next.entry(source)
            .or_default()
            .extend(targets(topology).map(|rule| rule.to.value.as_str()));
    }
    for (topology, source) in with_source(users) {
        for rule in targets(topology) {
            let to = rule.to.value.as_str();
            if to != source && reaches(&next, to, source) {
                let mut problems = Problems::of(topology.file.clone());
                problems
                    .warning(
                        &rule.to.span,
                        format!("records may go round: from `{to}` another topology brings them back to `{source}`"),
                    )
                    .note("if that is meant, see that a `filter` or `when` ends it");
                found.append(&mut problems.found);
            }
        }
    }
}

fn with_source(users: &[Topology]) -> impl Iterator<Item = (&Topology, &str)> {
    users
        .iter()
        .filter_map(|topology| Some((topology, topology.source.as_ref()?.topic.value.as_str())))
}

fn targets(topology: &Topology) -> impl Iterator<Item = &super::syntax::model::Rule> {
    topology
        .steps
        .iter()
        .filter_map(|step| match &step.action {
            Action::Route(rules) => Some(rules),
            _ => None,
        })
        .flatten()
}

fn reaches(next: &BTreeMap<&str, BTreeSet<&str>>, from: &str, to: &str) -> bool {
    let mut open = vec![from];
    let mut seen = BTreeSet::new();
    while let Some(topic) = open.pop() {
        if topic == to {
            return true;
        }
        if seen.insert(topic)
            && let Some(more) = next.get(topic)
        {
            open.extend(more);
        }
    }
    false
}
