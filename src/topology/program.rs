//! A program that stands by itself, outside of a topology's file, and has the same bounds as one in it.

use std::sync::Arc;

use bytes::Bytes;
use vrl::value::{ObjectMap, Value};

use super::{
    run::message::envelope,
    syntax::{
        problem::{Problems, Severity, SourceFile},
        yaml::Text,
    },
    vrl::{
        BOUNDS, Machine, Use, Vrl, compile,
        document::{Document, Subject},
        json,
    },
};
use crate::{envelope::Event, stream::Rejected};

/// A compiled program that changes a JSON value. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Program(Vrl);

impl Program {
    /// Compiles a text; says what is wrong with it, each thing with its line and a caret.
    pub(crate) fn compile(name: &str, text: &str) -> Result<Self, Vec<String>> {
        let mut problems = Problems::of(Arc::new(SourceFile {
            name: name.into(),
            text: text.into(),
        }));
        let vrl = compile(&Text::of_file(text.into()), Use::Map, &mut problems);
        if vrl.as_ref().is_some_and(|vrl| vrl.reads_metadata) {
            let at = text.find('%').unwrap_or(0);
            problems
                .error(&(at..at + 1), "there are no metadata (`%…`) here")
                .note("`.` is all that there is");
        }
        let wrong = problems.found.iter();
        let wrong: Vec<_> = wrong
            .filter(|problem| problem.severity == Severity::Error)
            .map(|problem| problem.render(false).trim_end().to_owned())
            .collect();
        match vrl {
            Some(vrl) if wrong.is_empty() => Ok(Self(vrl)),
            _ => Err(wrong),
        }
    }

    /// Compiles a program that stands in a file of another kind. `None`: what is wrong is among the problems.
    pub(crate) fn in_file(text: &Text, usage: Use, problems: &mut Problems) -> Option<Self> {
        compile(text, usage, problems).map(Self)
    }

    /// Whether it reads or sets metadata (`%…`), which only records of topologies have.
    pub(crate) fn reads_metadata(&self) -> bool {
        self.0.reads_metadata
    }

    /// Runs it on JSON text, which was checked; answers the JSON text of what `.` is then.
    pub(crate) fn run(&self, input: &Bytes) -> Result<Vec<u8>, Rejected> {
        let value = json::read(input, input);
        let value = value.map_err(|e| Rejected::new("invalid_payload", e.to_string()))?;
        let document = Document::within(value, input);
        let mut subject = Subject::new(document, Value::Object(ObjectMap::new()), &self.0);
        Machine::new(BOUNDS).run(&self.0, &mut subject)?;
        let made = subject.document.to_json();
        made.map_err(|unwritable| Rejected::new(unwritable.code(), unwritable.to_string()))
    }
}

/// Runs programs over one event, of which only the fields are read that they look into.
pub(crate) struct OverEvent<'m> {
    machine: &'m mut Machine,
    document: Document,
}

impl<'m> OverEvent<'m> {
    /// `record` is the value that the event was read from.
    pub(crate) fn new(machine: &'m mut Machine, event: &Event<'_>, record: &Bytes) -> Self {
        Self {
            machine,
            document: envelope(event, record),
        }
    }

    /// Whether a condition holds.
    pub(crate) fn holds(&mut self, Program(vrl): &Program) -> Result<bool, Rejected> {
        let document = std::mem::replace(&mut self.document, Value::Null.into());
        let mut subject = Subject::new(document, Value::Null, vrl);
        let result = self.machine.run(vrl, &mut subject);
        // A condition changes nothing.
        self.document = subject.document;
        // Its type was checked when the file was read.
        Ok(matches!(result?, Value::Boolean(true)))
    }

    /// The JSON text of what a program makes of the event; the event stays as it is.
    pub(crate) fn map(&mut self, Program(vrl): &Program) -> Result<Vec<u8>, Rejected> {
        let mut subject = Subject::new(self.document.clone(), Value::Null, vrl);
        self.machine.run(vrl, &mut subject)?;
        let made = subject.document.to_json();
        made.map_err(|unwritable| Rejected::new(unwritable.code(), unwritable.to_string()))
    }
}
