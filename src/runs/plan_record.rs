//! A record of the topic `plans`: a cached plan, or a label, which says whether the plan fits another goal.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{event::WorkflowVersion, json::Json};
use crate::{
    base::hex::hex,
    envelope::{OwnRecord, schemas},
    log::Record,
};

/// The kind of a record with a plan: its body is a [`CachedPlan`].
pub const ENTRY: &str = "entry";
/// The kind of a record that says whether the plan of an entry fits another goal: its body is a [`PlanLabel`].
pub const LABEL: &str = "label";

static RECORD: OwnRecord = OwnRecord::new(schemas::PLANS);

/// One record of `plans` (`schemas/plans.avsc`).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlanRecord {
    /// Whose plan it is. Tenants never share entries.
    pub tenant: String,
    /// The id of the entry ([`entry_id`]).
    pub entry: String,
    /// [`ENTRY`] or [`LABEL`].
    pub kind: String,
    /// The template of the entry, or of the label.
    pub template: String,
    /// When it was written: milliseconds since the Unix epoch.
    pub at: i64,
    /// JSON text, whose shape depends on the kind.
    pub body: String,
}

/// A plan that a run has carried out successfully.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CachedPlan {
    /// The run.
    pub run_id: String,
    /// The plan, as given.
    pub plan: Json,
    /// The SHA-256 of its canonical form, in hexadecimal digits.
    pub hash: String,
    /// Who made the plan: `catalog`, `llm`, `person`.
    pub source: String,
    /// The workflow, if the plan is that of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<WorkflowVersion>,
    /// The SHA-256 of the definition of each tool that the plan calls, in hexadecimal digits. The entry is invalid when one changes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tools: BTreeMap<String, String>,
    /// The names and values of the slots of the goal, without personal data.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub slots: BTreeMap<String, serde_json::Value>,
}

/// Whether the plan of an entry fits another goal, as a planner decided later.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PlanLabel {
    /// The similarity of the two goals, from -1 to 1.
    pub score: f64,
    /// The evidence for the entry, as the look-up computed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<f64>,
    /// The hash of the entry's plan. The label is about this plan alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// Whether the plan for the other goal has the same shape. The other goal is then an alias of the entry.
    pub agrees: bool,
}

/// The id of the entry for a template.
pub fn entry_id(tenant: &str, template: &str) -> String {
    let mut hasher = Sha256::new();
    hasher.update(tenant);
    hasher.update([0x1f]);
    hasher.update(template);
    hex(&hasher.finalize()[..16])
}

impl PlanRecord {
    /// The record on `plans`. A later record with the same key replaces it.
    pub fn encode(&self) -> Result<Record, apache_avro::Error> {
        let key = match self.kind.as_str() {
            LABEL => label_key(&self.tenant, &self.entry, &self.template),
            _ => entry_key(&self.tenant, &self.entry),
        };
        RECORD.record(key, self)
    }

    /// `None` for anything but a record of this schema.
    pub fn decode(value: &[u8]) -> Option<Self> {
        RECORD.decode(value)
    }

    /// The record that forgets an entry.
    pub fn forget(tenant: &str, entry: &str) -> Record {
        Record {
            key: Some(entry_key(tenant, entry).into()),
            value: None,
            headers: Vec::new(),
        }
    }
}

/// The key of the record of an entry.
pub fn entry_key(tenant: &str, entry: &str) -> String {
    format!("{tenant}\u{1f}{entry}")
}

/// The key of the record of a label. `template` is that of the other goal.
pub fn label_key(tenant: &str, entry: &str, template: &str) -> String {
    let other = entry_id(tenant, template);
    format!("{tenant}\u{1f}{entry}\u{1f}{other}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_round_trips_and_its_key_tells_entries_and_labels_apart() {
        let entry = entry_id("acme", "Book flight to {LOCATION}");
        assert_ne!(entry, entry_id("bolt", "Book flight to {LOCATION}"));
        let mut record = PlanRecord {
            tenant: "acme".into(),
            entry: entry.clone(),
            kind: ENTRY.into(),
            template: "Book flight to {LOCATION}".into(),
            at: 5,
            body: "{}".into(),
        };
        let written = record.encode().unwrap();
        assert_eq!(
            PlanRecord::decode(&written.value.unwrap()),
            Some(record.clone())
        );
        assert_eq!(written.key, PlanRecord::forget("acme", &entry).key);
        record.kind = LABEL.into();
        assert_ne!(record.encode().unwrap().key, written.key);
    }
}
