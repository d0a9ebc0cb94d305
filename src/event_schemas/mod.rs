//! Event schemas: JSON Schemas (2020-12) that the data of events must fit.
//!
//! A folder holds one schema a file, `{type pattern}.json` ([`folder`]). The port and admission check each event against the schema of
//! its type ([`EventSchemas`]); topologies compile a schema of their own with [`Schema::load`]. Schemas refer to their own file and to
//! files in their folder, never to the network ([`documents`]).

mod documents;
mod fault;
mod folder;
mod place;
mod references;
mod schema;
#[cfg(test)]
mod tests;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use parking_lot::RwLock;

pub use self::{
    fault::Fault,
    folder::{Set, load},
    schema::{Schema, Violation},
};
use crate::envelope::{Data, Event, Invalid};

/// The schemas in force. A reload replaces all of them at once.
#[derive(Default)]
pub struct EventSchemas {
    /// Whether there is any schema: without one a check costs one load.
    any: AtomicBool,
    set: RwLock<Arc<Set>>,
}

impl EventSchemas {
    /// With the schemas of a folder.
    pub fn new(set: Set) -> Self {
        let schemas = Self::default();
        schemas.replace(set);
        schemas
    }

    /// Puts other schemas into force: events that are checked from now on are checked by these.
    pub fn replace(&self, set: Set) {
        let any = !set.is_empty();
        *self.set.write() = Arc::new(set);
        self.any.store(any, Ordering::Release);
    }

    /// Checks the data of an event against the schema of its type, if there is one. The error is `invalid_payload`; its message has
    /// the JSON pointer to what does not fit, such as `/data/amount`.
    pub fn check(&self, event: &Event<'_>) -> Result<(), Invalid> {
        if !self.any.load(Ordering::Acquire) {
            return Ok(());
        }
        // The lock is not held during the check.
        let Some(schema) = self.set.read().of(&event.kind).cloned() else {
            return Ok(());
        };
        let checked = match &event.data {
            Data::Json(text) => schema.check(text),
            Data::Absent | Data::Binary(_) if schema.accepts_all() => Ok(()),
            Data::Absent => Err(Violation::whole("there is no data")),
            Data::Binary(_) => Err(Violation::whole("the data is not JSON")),
        };
        checked.map_err(|violation| Invalid::payload(violation.message("/data", schema.name())))
    }
}
