//! The paths of Confluent's Schema Registry. Their errors are the registry's own: an HTTP status and [`RegistryProblem`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A version of a subject's schema.
#[derive(Debug, Serialize, JsonSchema)]
pub struct SchemaVersion {
    /// `{topic}-value`.
    pub subject: String,
    /// The version, from 1.
    pub version: u32,
    /// The schema's id.
    pub id: u32,
    /// The schema: Avro, as JSON text.
    pub schema: &'static str,
}

/// A schema by its id.
#[derive(Debug, Serialize, JsonSchema)]
pub struct SchemaText {
    /// The schema: Avro, as JSON text.
    pub schema: &'static str,
    /// The largest id that there is, with `fetchMaxId=true`.
    #[serde(rename = "maxId", skip_serializing_if = "Option::is_none")]
    pub max_id: Option<u32>,
}

/// Where a schema is used.
#[derive(Debug, Serialize, JsonSchema)]
pub struct SubjectVersion {
    /// `{topic}-value`.
    pub subject: String,
    /// The version, from 1.
    pub version: u32,
}

/// The id of a registered schema.
#[derive(Debug, Serialize, JsonSchema)]
pub struct SchemaId {
    /// The schema's id.
    pub id: u32,
}

/// Whether a schema could follow.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Compatibility {
    /// Whether it reads what was written with the earlier ones.
    pub is_compatible: bool,
    /// Why not, with `verbose=true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<String>>,
}

/// How schemas may change.
#[derive(Debug, Serialize, JsonSchema)]
pub struct CompatibilityLevel {
    /// Always `BACKWARD_TRANSITIVE`.
    #[serde(rename = "compatibilityLevel")]
    pub level: &'static str,
}

/// Whether schemas may be registered.
#[derive(Debug, Serialize, JsonSchema)]
pub struct RegistryMode {
    /// Always `READONLY`.
    pub mode: &'static str,
}

/// Nothing: what the registry's root answers.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Empty {}

/// A schema to be looked up, registered or compared.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct SentSchema {
    /// The schema, as text.
    #[serde(default)]
    pub schema: Option<String>,
    /// `AVRO` unless given.
    #[serde(rename = "schemaType", default)]
    pub kind: Option<String>,
    /// Other schemas that it names; none of OmniLink's names any.
    #[serde(default)]
    #[schemars(with = "Option<Vec<serde_json::Map<String, serde_json::Value>>>")]
    pub references: Option<Vec<serde_json::Value>>,
}

/// Why the registry refused.
#[derive(Debug, Serialize, JsonSchema)]
pub struct RegistryProblem {
    /// The registry's own code, such as 40403: the HTTP status and two digits.
    pub error_code: u32,
    /// What is wrong, for people.
    pub message: String,
}

/// Which schemas are listed; what is unknown is ignored.
#[derive(Debug, JsonSchema)]
pub struct ListSchemas {
    /// Those of subjects that begin so.
    #[serde(rename = "subjectPrefix")]
    pub subject_prefix: Option<String>,
    /// The last version of each subject alone.
    #[serde(rename = "latestOnly")]
    pub latest_only: Option<bool>,
    /// How many to leave out.
    pub offset: Option<usize>,
    /// How many to show.
    pub limit: Option<i64>,
}

/// Which subjects are listed; what is unknown is ignored.
#[derive(Debug, JsonSchema)]
pub struct ListSubjects {
    /// Those that begin so.
    #[serde(rename = "subjectPrefix")]
    pub subject_prefix: Option<String>,
    /// Deleted ones alone; there are none.
    #[serde(rename = "deletedOnly")]
    pub deleted_only: Option<bool>,
    /// How many to leave out.
    pub offset: Option<usize>,
    /// How many to show.
    pub limit: Option<i64>,
}

/// What to show of a schema.
#[derive(Debug, JsonSchema)]
pub struct GetSchema {
    /// Whether to show the largest id too.
    #[serde(rename = "fetchMaxId")]
    pub fetch_max_id: Option<bool>,
}

/// How to answer for a subject that is not there.
#[derive(Debug, JsonSchema)]
pub struct GetSetting {
    /// Whether to answer with what holds for all.
    #[serde(rename = "defaultToGlobal")]
    pub default_to_global: Option<bool>,
}

/// How much to say of a comparison.
#[derive(Debug, JsonSchema)]
pub struct Compare {
    /// Whether to say why.
    pub verbose: Option<bool>,
}
