//! The system's own topologies: compiled in; files may change their settings, but not their steps.

use std::sync::Arc;

use super::{
    fields::listed,
    file,
    model::{Action, Rule, Topology, When},
    problem::{Problems, SourceFile},
};

/// The folder beside the users' files with the files that change their settings.
pub(crate) const FOLDER: &str = "system";

const FILES: [(&str, &str); 2] = [
    (
        "system/admission.yaml",
        include_str!("../../../topologies/system/admission.yaml"),
    ),
    (
        "system/projections.yaml",
        include_str!("../../../topologies/system/projections.yaml"),
    ),
];

/// The settings that users' files have changed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tuned {
    pub(crate) admission_window_ms: Option<i64>,
}

/// The files that are compiled in.
pub(crate) fn defaults() -> Vec<Topology> {
    FILES
        .iter()
        .filter_map(|(name, text)| {
            let file = Arc::new(SourceFile {
                name: (*name).to_owned(),
                text: (*text).to_owned(),
            });
            // A test makes sure that they have no problems.
            file::read(&file, &mut Problems::of(Arc::clone(&file)))
        })
        .collect()
}

/// Whether one of the system's topologies has that name.
pub(crate) fn is_ours(name: &str) -> bool {
    FILES.iter().any(|(file, _)| {
        file.strip_suffix(".yaml")
            .and_then(|f| f.strip_prefix("system/"))
            == Some(name)
    })
}

/// Takes the settings of a file; any change of steps is an error.
pub(crate) fn tune(given: &Topology, tuned: &mut Tuned, problems: &mut Problems) {
    let Some(given_name) = &given.name else {
        return;
    };
    let name = &given_name.value;
    let defaults = defaults();
    let named = |topology: &Topology| topology.name.as_ref().map(|name| name.value.clone());
    let Some(ours) = defaults
        .iter()
        .find(|ours| named(ours).as_ref() == Some(name))
    else {
        let names: Vec<String> = defaults.iter().filter_map(named).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        problems
            .error(
                &given_name.span,
                format!("the system has no topology `{name}`"),
            )
            .note(format!(
                "it has {}; your own belong into the folder above",
                listed(&names)
            ));
        return;
    };
    let rewired = format!("`{name}` is the system's own: it can be tuned, not rewired");
    if let (Some(source), Some(ours)) = (&given.source, &ours.source)
        && (source.topic.value != ours.topic.value
            || source.key != ours.key
            || source.tenant.is_some()
            || source.codec != ours.codec)
    {
        problems
            .error(&source.span, rewired.as_str())
            .note(format!("its source is `{{ topic: {} }}`", ours.topic.value));
    }
    let kinds = |topology: &Topology| -> Vec<&str> {
        topology
            .steps
            .iter()
            .map(|step| step.action.name())
            .collect()
    };
    if kinds(given) != kinds(ours) {
        let place = match (given.steps.first(), given.steps.last()) {
            (Some(first), Some(last)) => first.span.start..last.span.end,
            _ => given_name.span.clone(),
        };
        problems
            .error(&place, rewired.as_str())
            .note(format!("its steps are {}", listed(&kinds(ours))));
        return;
    }
    for (step, default) in given.steps.iter().zip(&ours.steps) {
        let same = match (&step.action, &default.action) {
            (Action::Normalise(map), Action::Normalise(None)) => map.is_none(),
            (Action::Key(a), Action::Key(b)) => a == b,
            (Action::Project(a), Action::Project(b)) => a == b,
            (Action::Route(a), Action::Route(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_rule(a, b))
            }
            (Action::Dedupe(dedupe), Action::Dedupe(_)) => {
                tuned.admission_window_ms = dedupe.window_ms;
                true
            }
            // Its error was reported.
            (Action::Broken(_), _) => true,
            _ => false,
        };
        if !same {
            problems
                .error(&step.span, rewired.as_str())
                .note("of its steps, `dedupe.window` may be changed");
        }
    }
}

/// The system's own rules have no conditions.
fn same_rule(a: &Rule, b: &Rule) -> bool {
    let always = |rule: &Rule| matches!(rule.when, When::Always);
    a.to.value == b.to.value && always(a) && always(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compiled_in_files_are_right() {
        let defaults = defaults();
        assert_eq!(defaults.len(), FILES.len());
        for (topology, (name, text)) in defaults.iter().zip(FILES) {
            let file = Arc::new(SourceFile {
                name: name.to_owned(),
                text: text.to_owned(),
            });
            let mut problems = Problems::of(Arc::clone(&file));
            file::read(&file, &mut problems).unwrap();
            let mut tuned = Tuned::default();
            tune(topology, &mut tuned, &mut problems);
            assert_eq!(problems.found, []);
            assert!(is_ours(&topology.name.as_ref().unwrap().value));
            assert_eq!(tuned.admission_window_ms, None);
        }
    }
}
