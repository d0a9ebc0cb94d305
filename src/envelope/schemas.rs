//! The Avro schemas of OmniLink's own topics: every version that was ever written, with its id.
//!
//! To change one, add a file and a line, never edit a version that has been released: evolution is
//! `BACKWARD_TRANSITIVE` (each version reads all before it), and a test holds us to it.

/// Ids start here, so that they meet no other registry's.
pub const FIRST_ID: u32 = 1 << 30;

/// One version of one topic's schema.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Schema {
    /// Unique among all of them, at least [`FIRST_ID`].
    pub id: u32,
    /// The topic without its prefix, such as `events`; the registry's subject is `{prefix}{topic}-value`.
    pub topic: &'static str,
    /// From 1 on, without gaps.
    pub version: u32,
    /// The schema, JSON.
    pub text: &'static str,
}

/// `ingress`, as it is written now.
pub const INGRESS: Schema = Schema {
    id: FIRST_ID,
    topic: "ingress",
    version: 1,
    text: include_str!("../../schemas/ingress.avsc"),
};

/// `events`, as it is written now.
pub const EVENTS: Schema = Schema {
    id: FIRST_ID + 1,
    topic: "events",
    version: 1,
    text: include_str!("../../schemas/events.avsc"),
};

/// `controls`, as it is written now.
pub const CONTROLS: Schema = Schema {
    id: FIRST_ID + 2,
    topic: "controls",
    version: 1,
    text: include_str!("../../schemas/controls.avsc"),
};

/// Records on their way within a topology (the topics `rekey.{name}`), as they are written now.
pub const REKEY: Schema = Schema {
    id: FIRST_ID + 3,
    topic: "rekey",
    version: 1,
    text: include_str!("../../schemas/rekey.avsc"),
};

/// All versions, by topic, oldest first.
pub const ALL: &[Schema] = &[INGRESS, EVENTS, CONTROLS, REKEY];

/// The schema with that id.
pub fn by_id(id: u32) -> Option<&'static Schema> {
    ALL.iter().find(|schema| schema.id == id)
}

/// The versions of a topic's schema, oldest first.
pub fn of_topic(topic: &str) -> impl Iterator<Item = &'static Schema> {
    ALL.iter().filter(move |schema| schema.topic == topic)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use apache_avro::schema_compatibility::{Compatibility, SchemaCompatibility};
    use serde_json::Value;

    use super::*;

    #[test]
    fn ids_and_versions_are_in_order() {
        let ids: HashSet<_> = ALL.iter().map(|schema| schema.id).collect();
        assert_eq!(ids.len(), ALL.len());
        assert!(ALL.iter().all(|schema| schema.id >= FIRST_ID));
        let mut versions = BTreeMap::<_, Vec<_>>::new();
        for schema in ALL {
            versions
                .entry(schema.topic)
                .or_default()
                .push(schema.version);
        }
        for (topic, versions) in versions {
            assert!(
                versions.iter().copied().eq(1..=versions.len() as u32),
                "{topic}"
            );
        }
        for current in [INGRESS, EVENTS, CONTROLS, REKEY] {
            assert_eq!(of_topic(current.topic).last(), Some(&current));
        }
    }

    #[test]
    fn every_file_is_listed() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/schemas");
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(
                ALL.iter().any(|schema| schema.text == text),
                "{} is not in ALL",
                path.display()
            );
        }
    }

    #[test]
    fn each_version_reads_all_before_it() {
        let parse = |schema: &Schema| apache_avro::Schema::parse_str(schema.text).unwrap();
        for (at, writer) in ALL.iter().enumerate() {
            for reader in ALL[at..]
                .iter()
                .filter(|reader| reader.topic == writer.topic)
            {
                let found = SchemaCompatibility::can_read(&parse(writer), &parse(reader));
                assert_eq!(
                    found,
                    Ok(Compatibility::Full),
                    "{} version {} does not read {}",
                    reader.topic,
                    reader.version,
                    writer.version
                );
            }
        }
    }

    /// What lets admission copy a record's bytes.
    #[test]
    fn events_is_ingress_and_then_received_at() {
        let fields = |schema: Schema| {
            let schema: Value = serde_json::from_str(schema.text).unwrap();
            schema["fields"].as_array().unwrap().clone()
        };
        let (ingress, mut events) = (fields(INGRESS), fields(EVENTS));
        assert_eq!(events.pop().unwrap()["name"], "received_at");
        assert_eq!(events, ingress);
    }
}
