//! What one event does to its entity (`contracts.md` section 5, `entities`). Pure.

mod merge;

use merge::{is_object, merge, without_nulls};

/// An entity as the table holds it, apart from its key. `Default`: one that no event has named.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Entity {
    /// For people; the last one given.
    pub display_name: Option<String>,
    /// The text of a JSON object; empty stands for `{}`.
    pub state: Vec<u8>,
    /// The number of its events.
    pub version: i64,
    /// CloudEvents `id` of the last event.
    pub last_event_id: String,
    /// `time` of the last event, in microseconds since 1970.
    pub last_event_at: i64,
    /// `time` of the event that deleted it.
    pub deleted_at: Option<i64>,
}

/// What an event says about its entity; all text as Postgres can hold it.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// CloudEvents `id`.
    pub event_id: &'a str,
    /// Microseconds since 1970.
    pub time: i64,
    /// For people.
    pub display_name: Option<&'a str>,
    /// JSON text of any type.
    pub data: Option<&'a [u8]>,
    /// Whether the entity is deleted.
    pub deletes: bool,
}

impl<'a> Change<'a> {
    /// Whether an event of this type deletes.
    pub fn deletes(event_type: &str, tombstone: bool) -> bool {
        tombstone || event_type.ends_with(".deleted")
    }

    fn patch(&self) -> Option<&'a [u8]> {
        self.data.filter(|data| is_object(data))
    }
}

impl Entity {
    /// The entity after the event. `scratch` is memory to work in.
    pub fn apply(&mut self, change: &Change<'_>, scratch: &mut Vec<u8>) {
        if self.deleted_at.take().is_some() {
            self.state.clear();
        }
        if let Some(patch) = change.patch() {
            scratch.clear();
            if self.state.is_empty() {
                without_nulls(patch, scratch);
            } else {
                merge(&self.state, patch, scratch);
            }
            self.state.clear();
            self.state.extend_from_slice(scratch);
        }
        if let Some(name) = change.display_name {
            name.clone_into(self.display_name.get_or_insert_default());
        }
        self.version += 1;
        change.event_id.clone_into(&mut self.last_event_id);
        self.last_event_at = change.time;
        self.deleted_at = change.deletes.then_some(change.time);
    }

    /// The state as JSON text.
    pub fn json(&self) -> &[u8] {
        if self.state.is_empty() {
            b"{}"
        } else {
            &self.state
        }
    }

    /// Memory that it holds, about.
    pub fn weight(&self) -> usize {
        self.state.capacity()
            + self.last_event_id.capacity()
            + self.display_name.as_ref().map_or(0, String::capacity)
    }
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
    fn a_life() {
        let mut entity = Entity::default();
        let mut scratch = Vec::new();
        let mut apply = |data, deletes| {
            entity.apply(&change("e", data, deletes), &mut scratch);
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

    #[test]
    fn what_deletes() {
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
                entity.apply(&change("e", data.as_deref(), *deletes), &mut scratch);
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
