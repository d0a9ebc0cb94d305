//! Avro that others wrote, in Confluent's wire format under their registry's schemas: read as the JSON that it says.

mod datum;
mod schema;

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

pub use schema::Schema;

use super::{Invalid, avro::fields::HEAD, schemas};

/// Where the schemas of foreign Avro come from. Asking never waits: what is not at hand is fetched meanwhile.
pub trait Schemas: Send + Sync {
    /// The schema with an id of a foreign registry's.
    fn get(&self, id: u32) -> Result<Arc<Schema>, NoSchema>;
}

/// Why there is no schema.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NoSchema {
    /// There is none, or none that can be used: what was written with it cannot be read.
    Refused(Invalid),
    /// It is being fetched, or the registry is away, for this reason: ask again.
    Waiting(String),
}

/// No registry is configured.
#[derive(Clone, Copy, Debug)]
pub struct NoRegistry;

impl Schemas for NoRegistry {
    fn get(&self, id: u32) -> Result<Arc<Schema>, NoSchema> {
        Err(NoSchema::Refused(Invalid {
            code: UNKNOWN.into(),
            message: format!(
                "there is no schema registry to ask for schema {id}: `schema_registry.url` is not set"
            ),
        }))
    }
}

/// The code of an id that no registry knows.
pub const UNKNOWN: &str = "unknown_schema";

/// The JSON of a record in Confluent's wire format, whoever's the schema is; the schema's id is at hand already.
pub fn json(id: u32, value: &[u8], schemas: &dyn Schemas) -> Result<String, NoSchema> {
    let schema = if id < schemas::FIRST_ID {
        schemas.get(id)?
    } else {
        own(id)?
    };
    let fields = value.get(HEAD..).unwrap_or_default();
    schema.json(fields).map_err(NoSchema::Refused)
}

/// A schema of OmniLink's own.
fn own(id: u32) -> Result<Arc<Schema>, NoSchema> {
    type Own = HashMap<u32, Result<Arc<Schema>, Invalid>>;
    static OWN: LazyLock<Own> = LazyLock::new(|| {
        let parsed = |schema: &schemas::Schema| Schema::parse(schema.text, &[]).map(Arc::new);
        let all = schemas::ALL.iter();
        all.map(|schema| (schema.id, parsed(schema))).collect()
    });
    let found = OWN.get(&id).cloned().unwrap_or_else(|| {
        Err(Invalid {
            code: UNKNOWN.into(),
            message: format!("OmniLink has no schema {id}, and ids from 2^30 up are its own"),
        })
    });
    found.map_err(NoSchema::Refused)
}
