//! A document as the target of a program: each look and each change is seen as it happens, and reads as much as it must.

use std::cell::{Cell, OnceCell};

use vrl::{
    compiler::{SecretTarget, Target},
    path::{OwnedSegment, OwnedTargetPath, OwnedValuePath, PathPrefix},
    value::Value,
};

use super::{Document, is_names};
use crate::topology::vrl::{
    Vrl,
    functions::{LEVELS, deeper_than},
};

/// The paths among these that lead to something within a field.
pub(crate) fn into_fields<'a>(
    paths: impl Iterator<Item = &'a OwnedTargetPath>,
) -> impl Iterator<Item = &'a OwnedValuePath> {
    let paths = paths.filter(|path| path.prefix == PathPrefix::Event);
    paths
        .map(|path| &path.path)
        .filter(|path| path.segments.len() > 1 && is_names(&path.segments))
}

/// What a program works on.
#[derive(Debug)]
pub(crate) struct Subject<'v> {
    pub(crate) document: Document,
    pub(crate) metadata: Value,
    /// What the program reads within fields, and what of it there is.
    looks: &'v [OwnedValuePath],
    found: Vec<OnceCell<Option<Value>>>,
    /// The runtime has asked whether there is anything at all, as it does before each run.
    begun: Cell<bool>,
    /// All of it, for a program that reads it so.
    all: OnceCell<Value>,
}

impl<'v> Subject<'v> {
    pub(crate) fn new(document: Document, metadata: Value, vrl: &'v Vrl) -> Self {
        let looks = if document.unread.is_empty() {
            &[]
        } else {
            &*vrl.looks
        };
        Self {
            document,
            metadata,
            looks,
            found: vec![OnceCell::new(); looks.len()],
            begun: Cell::new(false),
            all: OnceCell::new(),
        }
    }

    /// The value, with all in it that a change at this path may touch.
    fn changing(&mut self, path: &OwnedValuePath) -> &mut Value {
        self.all.take();
        match path.segments.first() {
            Some(OwnedSegment::Field(first)) => self.document.with_field(first),
            _ => self.document.whole(),
        }
    }
}

impl Target for Subject<'_> {
    fn target_insert(&mut self, path: &OwnedTargetPath, value: Value) -> Result<(), String> {
        // What reads, copies or drops a value goes as deep as it does.
        let levels = LEVELS.saturating_sub(path.path.segments.len());
        if deeper_than(&value, levels) {
            return Err(format!("a value of more than {LEVELS} levels"));
        }
        if path.prefix == PathPrefix::Metadata {
            self.metadata.insert(&path.path, value);
            return Ok(());
        }
        // Nobody asks any more for what was there.
        match &*path.path.segments {
            [] => self.document.unread.forget_all(),
            [OwnedSegment::Field(only)] => self.document.unread.forget(only),
            _ => {}
        }
        self.changing(&path.path).insert(&path.path, value);
        Ok(())
    }

    fn target_get(&self, path: &OwnedTargetPath) -> Result<Option<&Value>, String> {
        let path = match path.prefix {
            PathPrefix::Event => &path.path,
            PathPrefix::Metadata => return Ok(self.metadata.get(&path.path)),
        };
        let document = &self.document;
        Ok(match document.unread_at(path) {
            Some((field, rest)) => match self.looks.iter().position(|look| look == path) {
                Some(n) => self.found[n].get_or_init(|| field.find(rest)).as_ref(),
                None => field.read().get(rest),
            },
            None if path.is_root() && !document.unread.is_empty() && self.begun.replace(true) => {
                Some(self.all.get_or_init(|| document.to_value()))
            }
            None => document.value.get(path),
        })
    }

    fn target_get_mut(&mut self, path: &OwnedTargetPath) -> Result<Option<&mut Value>, String> {
        Ok(match path.prefix {
            PathPrefix::Event => self.changing(&path.path).get_mut(&path.path),
            PathPrefix::Metadata => self.metadata.get_mut(&path.path),
        })
    }

    fn target_remove(
        &mut self,
        path: &OwnedTargetPath,
        compact: bool,
    ) -> Result<Option<Value>, String> {
        Ok(match path.prefix {
            // What lies above may go with it.
            PathPrefix::Event if compact => self
                .changing(&OwnedValuePath::root())
                .remove(&path.path, true),
            PathPrefix::Event => self.changing(&path.path).remove(&path.path, false),
            PathPrefix::Metadata => self.metadata.remove(&path.path, compact),
        })
    }
}

/// There are none.
impl SecretTarget for Subject<'_> {
    fn get_secret(&self, _: &str) -> Option<&str> {
        None
    }

    fn insert_secret(&mut self, _: &str, _: &str) {}

    fn remove_secret(&mut self, _: &str) {}
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{documents, event, program},
        *,
    };
    use crate::topology::vrl::{BOUNDS, Machine};

    #[test]
    fn only_who_asks_for_all_gets_all() {
        for (text, all) in [(".id", false), (".", true), ("exists(.x)", false)] {
            let vrl = program(text);
            for document in documents(&event()) {
                let mut subject = Subject::new(document, Value::Null, &vrl);
                Machine::new(BOUNDS).run(&vrl, &mut subject).unwrap();
                assert_eq!(subject.all.get().is_some(), all, "{text}");
            }
        }
    }
}
