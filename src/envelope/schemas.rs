//! The Avro schemas of OmniLink's own topics: every version that was ever written, with its id.
//!
//! To change a schema, rename its file to `{topic}.{version}.avsc`, and add a file and a constant for the new version; never edit a
//! released one. Compatibility is `BACKWARD_TRANSITIVE` (each version
//! reads all earlier ones), which a test checks.

/// The first id of OmniLink's own schemas. Other registries assign ids from 1, so they do not collide.
pub const FIRST_ID: u32 = 1 << 30;

/// One version of one topic's schema.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Schema {
    /// The id, unique among all versions of all topics, and at least [`FIRST_ID`].
    pub id: u32,
    /// The topic without its prefix, such as `events`; the registry's subject is `{prefix}{topic}-value`.
    pub topic: &'static str,
    /// The version, counted from 1 without gaps.
    pub version: u32,
    /// The schema, as JSON.
    pub text: &'static str,
}

/// The current schema of `ingress`.
pub const INGRESS: Schema = Schema {
    id: FIRST_ID,
    topic: "ingress",
    version: 1,
    text: include_str!("../../schemas/ingress.avsc"),
};

/// The current schema of `events`.
pub const EVENTS: Schema = Schema {
    id: FIRST_ID + 1,
    topic: "events",
    version: 1,
    text: include_str!("../../schemas/events.avsc"),
};

/// The current schema of `controls`.
pub const CONTROLS: Schema = Schema {
    id: FIRST_ID + 2,
    topic: "controls",
    version: 1,
    text: include_str!("../../schemas/controls.avsc"),
};

/// The current schema of records between two stages of a topology (the topics `rekey.{name}`).
pub const REKEY: Schema = Schema {
    id: FIRST_ID + 3,
    topic: "rekey",
    version: 1,
    text: include_str!("../../schemas/rekey.avsc"),
};

/// The current schema of `audit`.
pub const AUDIT: Schema = Schema {
    id: FIRST_ID + 4,
    topic: "audit",
    version: 1,
    text: include_str!("../../schemas/audit.avsc"),
};

/// The current schema of `commands`.
pub const COMMANDS: Schema = Schema {
    id: FIRST_ID + 5,
    topic: "commands",
    version: 1,
    text: include_str!("../../schemas/commands.avsc"),
};

/// The current schema of `runs`.
pub const RUNS: Schema = Schema {
    id: FIRST_ID + 6,
    topic: "runs",
    version: 1,
    text: include_str!("../../schemas/runs.avsc"),
};

/// The first schema of `steps`, without `sealed`.
pub const STEPS_1: Schema = Schema {
    id: FIRST_ID + 7,
    topic: "steps",
    version: 1,
    text: include_str!("../../schemas/steps.1.avsc"),
};

/// The current schema of `steps`.
pub const STEPS: Schema = Schema {
    id: FIRST_ID + 10,
    topic: "steps",
    version: 2,
    text: include_str!("../../schemas/steps.avsc"),
};

/// The current schema of `goals`.
pub const GOALS: Schema = Schema {
    id: FIRST_ID + 8,
    topic: "goals",
    version: 1,
    text: include_str!("../../schemas/goals.avsc"),
};

/// The current schema of `plans`.
pub const PLANS: Schema = Schema {
    id: FIRST_ID + 9,
    topic: "plans",
    version: 1,
    text: include_str!("../../schemas/plans.avsc"),
};

/// All versions, grouped by topic, oldest first.
pub const ALL: &[Schema] = &[
    INGRESS, EVENTS, CONTROLS, REKEY, AUDIT, COMMANDS, RUNS, STEPS_1, STEPS, GOALS, PLANS,
];

/// The schema with this id.
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
        for current in [
            INGRESS, EVENTS, CONTROLS, REKEY, AUDIT, COMMANDS, RUNS, STEPS, GOALS, PLANS,
        ] {
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
    fn each_version_reads_all_earlier_versions() {
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

    /// Admission relies on this to copy a record's bytes.
    #[test]
    fn events_has_the_fields_of_ingress_and_then_received_at() {
        let fields = |schema: Schema| {
            let schema: Value = serde_json::from_str(schema.text).unwrap();
            schema["fields"].as_array().unwrap().clone()
        };
        let (ingress, mut events) = (fields(INGRESS), fields(EVENTS));
        assert_eq!(events.pop().unwrap()["name"], "received_at");
        assert_eq!(events, ingress);
    }
}
