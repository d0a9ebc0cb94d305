//! Applying an event to its entity: a pure function.

mod merge;

use merge::{is_object, merge, without_nulls};

use crate::envelope::json::{written_size, written_size_at_most};

/// The maximum size of a state in bytes, as Postgres writes it out, without white space. It bounds the cost of an event, which is merged
/// with the whole state.
pub const STATE_MAX: usize = 16 << 20;

/// The event would make the state larger than [`STATE_MAX`], and larger than it was. The event is not applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the entity's state would take {size} bytes as Postgres writes it out; {STATE_MAX} are allowed"
)]
pub struct TooLarge {
    size: usize,
}

impl TooLarge {
    /// The error code of the dead letter.
    pub const CODE: &'static str = "entity_too_large";
}

/// An entity as stored in the table `entities`, without its key. The default is an entity without events.
///
/// ```
/// use omnilink::entity::{Change, Entity};
///
/// let change = |data: &'static str| Change {
///     event_id: "e-1",
///     time: 0,
///     display_name: None,
///     data: Some(data.as_bytes()),
///     deletes: false,
/// };
/// let (mut entity, mut scratch) = (Entity::default(), Vec::new());
/// entity.apply(&change(r#"{"status":"new","total":12.50}"#), &mut scratch)?;
/// entity.apply(&change(r#"{"status":null,"paid":true}"#), &mut scratch)?;
/// assert_eq!(entity.json(), br#"{"total":12.50,"paid":true}"#);
/// assert_eq!(entity.version, 2);
/// # Ok::<(), omnilink::entity::TooLarge>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Entity {
    /// The name for people, from the last event that has one.
    pub display_name: Option<String>,
    /// The text of a JSON object; empty stands for `{}`.
    pub state: Vec<u8>,
    /// An upper bound of the size of the state as Postgres writes it out, in bytes.
    pub state_size: usize,
    /// The number of its events.
    pub version: i64,
    /// The CloudEvents `id` of the last event.
    pub last_event_id: String,
    /// The `time` of the last event, in microseconds since 1970.
    pub last_event_at: i64,
    /// The `time` of the event that deleted it, in microseconds since 1970.
    pub deleted_at: Option<i64>,
}

/// The change that an event makes to its entity. All text must be storable in Postgres (no U+0000).
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// The CloudEvents `id` of the event.
    pub event_id: &'a str,
    /// The `time` of the event, in microseconds since 1970.
    pub time: i64,
    /// The name for people, if the event has one.
    pub display_name: Option<&'a str>,
    /// The event's data as JSON text. Only an object changes the state.
    pub data: Option<&'a [u8]>,
    /// Whether the event deletes the entity.
    pub deletes: bool,
}

impl<'a> Change<'a> {
    /// Whether an event deletes its entity: it is a tombstone, or its type ends in `.deleted`.
    pub fn deletes(event_type: &str, tombstone: bool) -> bool {
        tombstone || event_type.ends_with(".deleted")
    }

    fn patch(&self) -> Option<&'a [u8]> {
        self.data.filter(|data| is_object(data))
    }
}

impl Entity {
    /// Applies an event. After an error the entity is unchanged. `scratch` is a buffer that is reused between calls.
    ///
    /// The state is merged with the data by JSON merge patch (RFC 7396). The first event after a deletion starts from an empty state.
    /// Whether a state is too large does not depend on how its text is written, so an entity that was read back from the table behaves
    /// like one that was kept in memory.
    pub fn apply(&mut self, change: &Change<'_>, scratch: &mut Vec<u8>) -> Result<(), TooLarge> {
        let (before, before_size) = match self.deleted_at {
            Some(_) => (&[][..], 0),
            None => (&self.state[..], self.state_size),
        };
        if let Some(patch) = change.patch() {
            scratch.clear();
            if before.is_empty() {
                without_nulls(patch, scratch);
            } else {
                merge(before, patch, scratch);
            }
            let mut size = before_size.saturating_add(written_size_at_most(patch));
            if size > STATE_MAX {
                size = size_of(scratch);
                if size > STATE_MAX && size > size_of(before) {
                    return Err(TooLarge { size });
                }
            }
            self.state.clear();
            self.state.extend_from_slice(scratch);
            self.state_size = size;
        } else if self.deleted_at.is_some() {
            self.state.clear();
            self.state_size = 0;
        }
        if let Some(name) = change.display_name {
            name.clone_into(self.display_name.get_or_insert_default());
        }
        self.version += 1;
        change.event_id.clone_into(&mut self.last_event_id);
        self.last_event_at = change.time;
        self.deleted_at = change.deletes.then_some(change.time);
        Ok(())
    }

    /// The state as JSON text.
    pub fn json(&self) -> &[u8] {
        if self.state.is_empty() {
            b"{}"
        } else {
            &self.state
        }
    }

    /// The approximate size in memory, in bytes, without the struct itself.
    pub fn weight(&self) -> usize {
        self.state.capacity()
            + self.last_event_id.capacity()
            + self.display_name.as_ref().map_or(0, String::capacity)
    }
}

fn size_of(state: &[u8]) -> usize {
    // A merge of two texts is always valid UTF-8.
    std::str::from_utf8(state).map_or(state.len(), written_size)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn change<'a>(id: &'a str, data: Option<&'a str>, deletes: bool) -> Change<'a> {
        Change {
            event_id: id,
            time: 7,
            display_name: None,
            data: data.map(str::as_bytes),
            deletes,
        }
    }

    fn state(entity: &Entity) -> Value {
        serde_json::from_slice(entity.json()).unwrap()
    }

    #[test]
    fn events_create_change_delete_and_recreate_an_entity() {
        let mut entity = Entity::default();
        let mut scratch = Vec::new();
        let mut apply = |data, deletes| {
            entity
                .apply(&change("e", data, deletes), &mut scratch)
                .unwrap();
            (state(&entity), entity.version, entity.deleted_at)
        };
        assert_eq!(
            apply(Some(r#"{"a":1,"n":null}"#), false),
            (json!({"a":1}), 1, None)
        );
        assert_eq!(apply(Some("[1]"), false), (json!({"a":1}), 2, None));
        assert_eq!(apply(None, false), (json!({"a":1}), 3, None));
        assert_eq!(
            apply(Some(r#"{"b":2}"#), true),
            (json!({"a":1,"b":2}), 4, Some(7))
        );
        assert_eq!(apply(Some(r#"{"c":3}"#), false), (json!({"c":3}), 5, None));
        assert_eq!(apply(None, true), (json!({"c":3}), 6, Some(7)));
        assert_eq!(apply(None, true), (json!({}), 7, Some(7)));
    }

    /// An object with members `from..to`, each the largest number that `numeric` holds: few bytes as sent, 131,072 digits in Postgres.
    fn numbers(from: usize, to: usize) -> String {
        let members: Vec<_> = (from..to).map(|n| format!("\"k{n}\":1e131071")).collect();
        format!("{{{}}}", members.join(","))
    }

    #[test]
    fn a_state_is_bounded_by_its_size_as_postgres_writes_it() {
        let mut scratch = Vec::new();
        let mut entity = Entity::default();
        let mut written = Entity::default();
        let mut taken = 0;
        let refused = loop {
            let patch = numbers(taken, taken + 8);
            let before = entity.clone();
            // The same state after a restart, when it is read back from the table.
            let zeros = "0".repeat(131_071);
            let members: Vec<_> = (0..taken).map(|n| format!("\"k{n}\": 1{zeros}")).collect();
            written.state = format!("{{{}}}", members.join(", ")).into_bytes();
            written.state_size = written.state.len();
            let result = entity.apply(&change("e", Some(&patch), false), &mut scratch);
            assert_eq!(
                written.apply(&change("e", Some(&patch), false), &mut scratch),
                result
            );
            if let Err(refused) = result {
                assert_eq!(entity, before);
                break refused;
            }
            taken += 8;
        };
        assert_eq!(taken, 120);
        assert!(refused.to_string().contains("16777216"));
        // Later events are applied again if they make the state smaller, or after a deletion.
        let less = change("e", Some(r#"{"k0":null,"a":1}"#), false);
        entity.apply(&less, &mut scratch).unwrap();
        entity
            .apply(&change("e", None, true), &mut scratch)
            .unwrap();
        let patch = numbers(0, 120);
        entity
            .apply(&change("e", Some(&patch), false), &mut scratch)
            .unwrap();
        let first = numbers(0, 200);
        let mut huge = Entity::default();
        assert!(
            huge.apply(&change("e", Some(&first), false), &mut scratch)
                .is_err()
        );
        assert_eq!(huge, Entity::default());
    }

    #[test]
    fn a_state_that_was_too_large_before_may_become_smaller() {
        let mut scratch = Vec::new();
        let state = numbers(0, 200).into_bytes();
        let mut entity = Entity {
            state_size: usize::MAX,
            state,
            version: 200,
            ..Entity::default()
        };
        let mut apply = |patch: &str| {
            entity
                .apply(&change("e", Some(patch), false), &mut scratch)
                .is_ok()
        };
        assert!(apply(r#"{"k0":null}"#));
        assert!(!apply(r#"{"a":"b"}"#));
        assert!(apply(r#"{"k1":1}"#));
    }

    #[test]
    fn tombstones_and_deleted_types_delete() {
        assert!(Change::deletes("order.deleted", false) && Change::deletes("x", true));
        assert!(!Change::deletes("deleted", false) && !Change::deletes("order.deleted.v2", false));
    }

    proptest! {
        /// The version counts every event, whatever they are; the state is the patches since the last deletion.
        #[test]
        fn versions_only_rise(events in prop::collection::vec((prop::option::of("\\{\"[ab]\":[0-9]\\}"), any::<bool>()), 1..20)) {
            let mut entity = Entity::default();
            let mut scratch = Vec::new();
            let mut expected = json!({});
            let mut deleted = false;
            for (n, (data, deletes)) in events.iter().enumerate() {
                entity.apply(&change("e", data.as_deref(), *deletes), &mut scratch).unwrap();
                if deleted {
                    expected = json!({});
                }
                if let Some(Value::Object(patch)) = data.as_deref().map(|d| serde_json::from_str(d).unwrap()) {
                    for (key, value) in patch {
                        expected[key] = value;
                    }
                }
                deleted = *deletes;
                prop_assert_eq!(entity.version, n as i64 + 1);
                prop_assert_eq!(entity.deleted_at.is_some(), deleted);
                prop_assert_eq!(state(&entity), expected.clone());
            }
        }
    }
}
