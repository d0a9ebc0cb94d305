//! The state of an entity at a point in time: its events up to then, merged in the same way as for the table `entities`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{EntityName, History, Query, ReplayError, Replayed, Sink, SinkError, replay};
use crate::{
    base::{clock::Millis, id::Tenant},
    entity::{Change, Entity},
    envelope::{Data, Event, Rfc3339},
    log::Fetched,
};

/// An entity at a point in time. The fields are named like the columns of the table `entities`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct EntityState {
    /// The tenant that the entity belongs to.
    pub tenant: String,
    /// The entity's type.
    pub entity_type: String,
    /// The entity's id.
    pub external_id: String,
    /// The name for people, from the last event that has one.
    pub display_name: Option<String>,
    /// A JSON object: the merge patches (RFC 7396) of its events' data.
    #[schemars(with = "serde_json::Value")]
    pub state: Box<RawValue>,
    /// The number of its events.
    pub version: i64,
    /// The CloudEvents `id` of the last event.
    pub last_event_id: String,
    /// The `time` of the last event, in RFC 3339.
    pub last_event_at: String,
    /// The `time` of the event that deleted it, in RFC 3339.
    pub deleted_at: Option<String>,
    /// The requested point in time, in RFC 3339.
    pub as_of: String,
}

/// Why the state of an entity cannot be determined.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The entity had no events at that time.
    #[error("{entity} had no events by {as_of}")]
    Unknown {
        /// The entity.
        entity: String,
        /// The requested point in time, in RFC 3339.
        as_of: String,
    },
    /// No tenant was given, and more than one has such an entity.
    #[error("more than one tenant has {entity}: {}; name one", tenants.join(", "))]
    Ambiguous {
        /// The entity.
        entity: String,
        /// The tenants that have it.
        tenants: Vec<String>,
    },
    /// The history cannot be read.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// `proceed` returned false.
    #[error("stopped")]
    Stopped,
}

#[derive(Default)]
struct Fold {
    entities: BTreeMap<Tenant, Entity>,
    scratch: Vec<u8>,
}

impl Sink for Fold {
    fn event(&mut self, _: &Fetched, event: &Event<'_>, _: Millis) -> Result<(), SinkError> {
        let name = event.entity.as_ref();
        let data = match &event.data {
            Data::Json(text) => Some(text.as_bytes()),
            Data::Absent | Data::Binary(_) => None,
        };
        let change = Change {
            event_id: &event.id,
            time: event.time,
            display_name: name.and_then(|e| e.display_name.as_deref()),
            data,
            deletes: Change::deletes(&event.kind, event.tombstone),
        };
        let entity = self.entities.entry(event.tenant.clone()).or_default();
        // The projection also skips an event that makes the state too large: it becomes a dead letter.
        let _too_large = entity.apply(&change, &mut self.scratch);
        Ok(())
    }
}

/// The state of an entity after all events that were appended up to and including `at`. `proceed` is called as in [`replay`].
pub fn as_of(
    history: &History<'_>,
    tenant: Option<&Tenant>,
    name: &EntityName,
    at: Millis,
    proceed: &mut dyn FnMut(&Replayed) -> bool,
) -> Result<EntityState, StateError> {
    let query = Query {
        until: Some(Millis(at.0.saturating_add(1))),
        tenant: tenant.cloned(),
        entity: Some(name.clone()),
        ..Query::default()
    };
    let mut fold = Fold::default();
    let mut stopped = false;
    replay(history, &query, &mut fold, &mut |so_far| {
        stopped = !proceed(so_far);
        !stopped
    })?;
    if stopped {
        return Err(StateError::Stopped);
    }
    let as_of = rfc3339(at.0.saturating_mul(1000));
    if fold.entities.len() > 1 {
        return Err(StateError::Ambiguous {
            entity: name.to_string(),
            tenants: fold.entities.keys().map(ToString::to_string).collect(),
        });
    }
    let Some((tenant, entity)) = fold.entities.pop_first() else {
        return Err(StateError::Unknown {
            entity: name.to_string(),
            as_of,
        });
    };
    let state = String::from_utf8_lossy(entity.json()).into_owned();
    let state = RawValue::from_string(state)
        .map_err(|error| StateError::Replay(ReplayError::Sink(error.into())))?;
    Ok(EntityState {
        tenant: tenant.to_string(),
        entity_type: name.kind.clone(),
        external_id: name.external_id.clone(),
        display_name: entity.display_name,
        state,
        version: entity.version,
        last_event_id: entity.last_event_id,
        last_event_at: rfc3339(entity.last_event_at),
        deleted_at: entity.deleted_at.map(rfc3339),
        as_of,
    })
}

fn rfc3339(micros: i64) -> String {
    Rfc3339(micros).to_string()
}
