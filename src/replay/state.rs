//! An entity as it was at a moment: its events up to then, folded as the table `entities` folds them.

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

/// An entity at a moment; the names are those of the table.
#[derive(Debug, Serialize, JsonSchema)]
pub struct EntityState {
    /// The tenant that the entity belongs to.
    pub tenant: String,
    /// Its type.
    pub entity_type: String,
    /// Its id.
    pub external_id: String,
    /// For people; the last one given.
    pub display_name: Option<String>,
    /// The merge patch of its events' data.
    #[schemars(with = "serde_json::Value")]
    pub state: Box<RawValue>,
    /// The number of its events.
    pub version: i64,
    /// CloudEvents `id` of the last event.
    pub last_event_id: String,
    /// Its `time`.
    pub last_event_at: String,
    /// `time` of the event that deleted it.
    pub deleted_at: Option<String>,
    /// The moment that was asked for.
    pub as_of: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It had no events by then.
    #[error("{entity} had no events by {as_of}")]
    Unknown {
        /// The entity.
        entity: String,
        /// The moment.
        as_of: String,
    },
    /// More than one tenant has such an entity.
    #[error("more than one tenant has {entity}: {}; name one", tenants.join(", "))]
    Ambiguous {
        /// The entity.
        entity: String,
        /// Whose it could be.
        tenants: Vec<String>,
    },
    /// The history cannot be read.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// It was stopped.
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
        // What is too large is a dead letter of the projection, which leaves it out of the table.
        let _too_large = entity.apply(&change, &mut self.scratch);
        Ok(())
    }
}

/// The entity as the events that were appended up to and including `at` make it. `proceed`: as in [`replay`].
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
