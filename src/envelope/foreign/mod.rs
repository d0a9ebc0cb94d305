//! Avro that others wrote, in Confluent's wire format under their registry's schemas: read as the JSON that it says.

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

/// Where the schemas of foreign Avro come from. Asking never waits: what is not at hand is fetched meanwhile.
pub trait Schemas: Send + Sync {
    /// The schema with an id of a foreign registry's.
    fn get(&self, id: u32) -> Result<Arc<Schema>, NoSchema>;

    /// The same for a record that went back from the dead-letter queue: somebody may have mended the registry meanwhile, so a
    /// refusal counts only if the registry gave it after that. Where nothing is remembered there is no difference.
    fn get_again(&self, id: u32, _: RedrivenAt) -> Result<Arc<Schema>, NoSchema> {
        self.get(id)
    }
}

/// A record that went back from the dead-letter queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RedrivenAt {
    /// When it was appended, by the clock of whoever stamps records.
    pub at: Millis,
    /// Tells it from others: a hash of its topic, partition and offset.
    pub record: u64,
}

impl RedrivenAt {
    /// A record of a topic.
    pub fn of(topic: &str, record: &Fetched) -> Self {
        let mut hasher = DefaultHasher::new();
        (topic, record.partition, record.offset).hash(&mut hasher);
        Self {
            at: record.timestamp,
            record: hasher.finish(),
        }
    }
}

/// [`Schemas`], asked on behalf of a record that went back.
pub struct Again<'a> {
    /// Whose answers they are.
    pub schemas: &'a dyn Schemas,
    /// For which record.
    pub went_back: RedrivenAt,
}

impl Schemas for Again<'_> {
    fn get(&self, id: u32) -> Result<Arc<Schema>, NoSchema> {
        self.schemas.get_again(id, self.went_back)
    }
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

/// The JSON of a record in Confluent's wire format, whoever's the schema is; the schema's id is at hand already. A record that
/// cannot be read so, but shows the marks of another format, is refused with what was recognised.
pub fn json(
    id: u32,
    value: &[u8],
    record: &Record,
    schemas: &dyn Schemas,
) -> Result<String, NoSchema> {
    let read = schema(id, value, schemas).and_then(|schema| {
        let fields = value.get(HEAD..).unwrap_or_default();
        schema.json(fields).map_err(NoSchema::Refused)
    });
    read.map_err(|none| match (none, Framing::of(record, value)) {
        (NoSchema::Refused(refused), Some(framing)) => NoSchema::Refused(Invalid {
            message: format!("{framing} ({})", refused.message),
            ..refused
        }),
        (none, _) => none,
    })
}

fn schema(id: u32, value: &[u8], schemas: &dyn Schemas) -> Result<Arc<Schema>, NoSchema> {
    match id {
        // Registries count from 1: nobody has to be asked.
        0 => Err(NoSchema::Refused(Invalid {
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

/// As much of a name as a message repeats.
fn shown(name: &str) -> &str {
    &name[..name.floor_char_boundary(64)]
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
