//! One YAML file as JSON, and the positions of its values.

use std::{collections::BTreeSet, ops::Range, sync::Arc};

use serde_json::Value;

use crate::{
    plans::{Fault, Pointer, jcs},
    topology::{
        Problem, Problems, SourceFile,
        yaml::{self, Kind, Node, Text},
    },
};

/// A file, and the problems found in it so far.
pub(super) struct Source {
    node: Node,
    pub(super) json: Value,
    pub(super) problems: Problems,
    file: Arc<SourceFile>,
}

impl Source {
    /// Reads a file's text. `Err`: it is not YAML.
    pub(super) fn read(name: String, text: std::io::Result<String>) -> Result<Self, Vec<Problem>> {
        let (text, unreadable) = match text {
            Ok(text) => (text, None),
            Err(e) => (String::new(), Some(format!("cannot be read: {e}"))),
        };
        let file = Arc::new(SourceFile { name, text });
        let mut problems = Problems::of(Arc::clone(&file));
        if let Some(unreadable) = unreadable {
            problems.error(&(0..0), unreadable);
            return Err(problems.found);
        }
        let node = match yaml::parse(&file.text) {
            Ok(node) => node,
            Err(e) => {
                problems.error(&e.span, format!("not valid YAML: {}", e.message));
                return Err(problems.found);
            }
        };
        check_node(&node, &mut problems);
        Ok(Self {
            json: node.json(),
            node,
            problems,
            file,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.file.name
    }

    /// Reports a fault within the value at `outer`, at its position in the file.
    pub(super) fn report(&mut self, outer: &Pointer, fault: &Fault) {
        let span = self.place(&fault.at.within(outer), fault.name);
        let step = fault.step.as_ref();
        let message = match step {
            Some(step) => format!("step `{step}`: {}", fault.message),
            None => fault.message.clone(),
        };
        let problem = self.problems.error(&span, message);
        problem.notes.extend(fault.note.clone());
    }

    /// Reports all faults.
    pub(super) fn report_all(&mut self, outer: &Pointer, faults: &[Fault]) {
        for fault in faults {
            self.report(outer, fault);
        }
    }

    /// The text at a JSON pointer.
    pub(super) fn text(&self, at: &Pointer) -> Option<&Text> {
        let mut node = &self.node;
        for name in at.path() {
            node = child(node, name)?.1;
        }
        node.text()
    }

    /// The byte range of a value, or of its member name (`of_name`). If the value does not exist: that of the innermost value around it.
    pub(super) fn place(&self, at: &Pointer, of_name: bool) -> Range<usize> {
        let mut node = &self.node;
        let mut key = node;
        for name in at.path() {
            let Some((found_key, found)) = child(node, name) else {
                return node.span.clone();
            };
            key = found_key.unwrap_or(found);
            node = found;
        }
        if of_name || node.span.is_empty() {
            key.span.clone()
        } else {
            node.span.clone()
        }
    }
}

/// A member (with its key) or an item of a node.
fn child<'n>(node: &'n Node, name: &str) -> Option<(Option<&'n Node>, &'n Node)> {
    match &node.kind {
        Kind::Map(entries) => entries
            .iter()
            .find(|(key, _)| key.key() == name)
            .map(|(key, value)| (Some(key), value)),
        Kind::List(items) => Some((None, items.get(name.parse::<usize>().ok()?)?)),
        _ => None,
    }
}

/// Reports what JSON cannot represent: duplicate names, and numbers that no double represents exactly.
fn check_node(node: &Node, problems: &mut Problems) {
    match &node.kind {
        Kind::Map(entries) => {
            let mut seen = BTreeSet::new();
            for (key, value) in entries {
                if !seen.insert(key.key()) {
                    problems.error(&key.span, format!("`{}` is given twice", key.key()));
                }
                check_node(value, problems);
            }
        }
        Kind::List(items) => {
            for item in items {
                check_node(item, problems);
            }
        }
        Kind::Number(written, _) if !jcs::is_exact(written) => {
            problems
                .error(
                    &node.span,
                    "a number that a double cannot represent exactly",
                )
                .notes
                .push("put it in quotes".into());
        }
        _ => {}
    }
}
