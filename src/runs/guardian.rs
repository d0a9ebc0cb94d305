//! What the guardian found in the goal of a run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What the guardian found in a goal (`docs/guardian.md`).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct GuardianReport {
    /// Its decision.
    pub verdict: GuardianVerdict,
    /// The score for prompt injection, from 0 to 1.
    pub score: f64,
    /// The codes of the patterns that it found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub patterns: Vec<String>,
    /// How many values were replaced by placeholders, by kind (`EMAIL`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub redacted: BTreeMap<String, u32>,
    /// Why it could not check everything, such as `guardian_llm_unavailable`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub degraded: Vec<String>,
}

/// The guardian's decision.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GuardianVerdict {
    /// The goal is planned.
    Pass,
    /// It is planned, and a person must approve the run before its first step.
    Flagged,
    /// The run ends `denied`.
    Denied,
}
