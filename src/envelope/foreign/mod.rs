//! Foreign Avro: records in Confluent's wire format under an external registry's schemas, converted to JSON text.

mod datum;
mod fault;
mod framing;
mod schema;

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, LazyLock},
};

pub use framing::Framing;
pub use schema::Schema;

use super::{Invalid, avro::fields::HEAD, schemas};
use crate::{
    base::clock::Millis,
    log::{Fetched, Record},
};

/// A source of schemas for foreign Avro. Lookups never block: a schema that is not cached is fetched in the background, and the caller
/// retries.
pub trait Schemas: Send + Sync {
    /// The schema with this id of the external registry.
    fn get(&self, id: u32) -> Result<Arc<Schema>, SchemaError>;

    /// The schema with this id, for a record that was redriven from the dead-letter queue. The registry may have been fixed since the
    /// record was refused, so a cached refusal applies only if it is newer than the redrive. A source without a cache need not
    /// distinguish.
    fn get_for_redriven(&self, id: u32, _: RedrivenRecord) -> Result<Arc<Schema>, SchemaError> {
        self.get(id)
    }
}

/// Identifies a record that was redriven from the dead-letter queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RedrivenRecord {
    /// When it was appended by the redrive: the log's timestamp.
    pub appended_at: Millis,
    /// A hash of its topic, partition and offset.
    pub hash: u64,
}

impl RedrivenRecord {
    /// Identifies a record of a topic.
    pub fn of(topic: &str, record: &Fetched) -> Self {
        let mut hasher = DefaultHasher::new();
        (topic, record.partition, record.offset).hash(&mut hasher);
        Self {
            appended_at: record.timestamp,
            hash: hasher.finish(),
        }
    }
}

/// [`Schemas`] whose lookups are all made for one redriven record.
pub struct ForRedriven<'a> {
    /// The underlying source.
    pub schemas: &'a dyn Schemas,
    /// The redriven record.
    pub redriven: RedrivenRecord,
}

impl Schemas for ForRedriven<'_> {
    fn get(&self, id: u32) -> Result<Arc<Schema>, SchemaError> {
        self.schemas.get_for_redriven(id, self.redriven)
    }
}

/// Why a lookup returned no schema.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SchemaError {
    /// The id is unknown, or its schema cannot be used: the record is invalid.
    Refused(Invalid),
    /// The schema is being fetched, or the registry is unavailable, for this reason. Retriable.
    Waiting(String),
}

/// The source when no registry is configured: every id is refused.
#[derive(Clone, Copy, Debug)]
pub struct NoRegistry;

impl Schemas for NoRegistry {
    fn get(&self, id: u32) -> Result<Arc<Schema>, SchemaError> {
        Err(SchemaError::Refused(Invalid {
            code: UNKNOWN.into(),
            message: format!("schema {id} cannot be looked up: `schema_registry.url` is not set"),
        }))
    }
}

/// The error code for an unknown schema id.
pub const UNKNOWN: &str = "unknown_schema";

/// Converts a value in Confluent's wire format to JSON text, under OmniLink's own or a foreign schema. `id` is the schema id from the
/// value's header. If the value cannot be read but looks like another format, the error names that format.
pub fn to_json(
    id: u32,
    value: &[u8],
    record: &Record,
    schemas: &dyn Schemas,
) -> Result<String, SchemaError> {
    let read = schema(id, value, schemas).and_then(|schema| {
        let fields = value.get(HEAD..).unwrap_or_default();
        schema.to_json(fields).map_err(SchemaError::Refused)
    });
    read.map_err(|none| match (none, Framing::of(record, value)) {
        (SchemaError::Refused(refused), Some(framing)) => SchemaError::Refused(Invalid {
            message: format!("{framing} ({})", refused.message),
            ..refused
        }),
        (none, _) => none,
    })
}

fn schema(id: u32, value: &[u8], schemas: &dyn Schemas) -> Result<Arc<Schema>, SchemaError> {
    match id {
        // Registries assign ids from 1, so no lookup is needed.
        0 => Err(SchemaError::Refused(Invalid {
            code: UNKNOWN.into(),
            message: format!(
                "there is no schema 0; the value begins with {}",
                framing::beginning(value)
            ),
        })),
        id if id < schemas::FIRST_ID => schemas.get(id),
        id => own(id),
    }
}

/// One of OmniLink's own schemas, by id.
fn own(id: u32) -> Result<Arc<Schema>, SchemaError> {
    type Own = HashMap<u32, Result<Arc<Schema>, Invalid>>;
    static OWN: LazyLock<Own> = LazyLock::new(|| {
        let parsed = |schema: &schemas::Schema| Schema::parse(schema.text, &[]).map(Arc::new);
        let all = schemas::ALL.iter();
        all.map(|schema| (schema.id, parsed(schema))).collect()
    });
    let found = OWN.get(&id).cloned().unwrap_or_else(|| {
        Err(Invalid {
            code: UNKNOWN.into(),
            message: format!(
                "OmniLink has no schema {id}; ids from 2^30 are reserved for its own schemas"
            ),
        })
    });
    found.map_err(SchemaError::Refused)
}
