//! The paths of Confluent's Schema Registry. Their errors have the registry's format: an HTTP status and [`RegistryProblem`].

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
    /// The largest existing id, with `fetchMaxId=true`.
    #[serde(rename = "maxId", skip_serializing_if = "Option::is_none")]
    pub max_id: Option<u32>,
}

/// A subject and version that use a schema.
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

/// Whether a schema is compatible.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Compatibility {
    /// Whether it can read data written with the earlier schemas.
    pub is_compatible: bool,
    /// The reasons, with `verbose=true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<String>>,
}

/// Which changes of schemas are allowed.
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

/// The answer of the registry's root: an empty object.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Empty {}

/// A schema to look up, register or compare.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct SentSchema {
    /// The schema, as text.
    #[serde(default)]
    pub schema: Option<String>,
    /// Default `AVRO`.
    #[serde(rename = "schemaType", default)]
    pub kind: Option<String>,
    /// Other schemas that it refers to; OmniLink's schemas have none.
    #[serde(default)]
    #[schemars(with = "Option<Vec<serde_json::Map<String, serde_json::Value>>>")]
    pub references: Option<Vec<serde_json::Value>>,
}

/// An error of the registry.
#[derive(Debug, Serialize, JsonSchema)]
pub struct RegistryProblem {
    /// The registry's error code, such as 40403: the HTTP status and two digits.
    pub error_code: u32,
    /// A description of the error, for people.
    pub message: String,
}

/// Selects schemas; unknown parameters are ignored.
#[derive(Debug, JsonSchema)]
pub struct ListSchemas {
    /// Only subjects with this prefix.
    #[serde(rename = "subjectPrefix")]
    pub subject_prefix: Option<String>,
    /// Only the latest version of each subject.
    #[serde(rename = "latestOnly")]
    pub latest_only: Option<bool>,
    /// The number of items to skip.
    pub offset: Option<usize>,
    /// The maximum number of items.
    pub limit: Option<i64>,
}

/// Selects subjects; unknown parameters are ignored.
#[derive(Debug, JsonSchema)]
pub struct ListSubjects {
    /// Only subjects with this prefix.
    #[serde(rename = "subjectPrefix")]
    pub subject_prefix: Option<String>,
    /// Only deleted subjects; there are none.
    #[serde(rename = "deletedOnly")]
    pub deleted_only: Option<bool>,
    /// The number of items to skip.
    pub offset: Option<usize>,
    /// The maximum number of items.
    pub limit: Option<i64>,
}

/// What to show of a schema.
#[derive(Debug, JsonSchema)]
pub struct GetSchema {
    /// Whether to show the largest id as well.
    #[serde(rename = "fetchMaxId")]
    pub fetch_max_id: Option<bool>,
}

/// What to answer for a subject that does not exist.
#[derive(Debug, JsonSchema)]
pub struct GetSetting {
    /// Whether to answer with the global setting.
    #[serde(rename = "defaultToGlobal")]
    pub default_to_global: Option<bool>,
}

/// How detailed a comparison is.
#[derive(Debug, JsonSchema)]
pub struct Compare {
    /// Whether to give reasons.
    pub verbose: Option<bool>,
}
