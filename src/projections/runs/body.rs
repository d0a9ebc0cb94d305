//! The fields of a record's body that the projection reads. Borrowed: JSON that is only copied is not parsed.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::base::clock::Millis;

/// The fields of all types of records ([`crate::runs::Event`]).
#[derive(Deserialize, Debug, Default)]
pub(super) struct Body<'a> {
    /// The envelope's type, the kind of an approval, or the kind of a call, depending on the type of the record.
    #[serde(borrow)]
    pub(super) kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) workflow: Option<WorkflowRef<'a>>,
    #[serde(borrow)]
    pub(super) goal: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) params: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) principal: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) on_behalf_of: Option<Cow<'a, str>>,
    pub(super) received_at: Option<Millis>,
    #[serde(borrow)]
    pub(super) retry_of: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) source: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) hash: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) plan: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) step_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) lane: Option<Cow<'a, str>>,
    pub(super) risk_score: Option<f64>,
    #[serde(borrow)]
    pub(super) reasons: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) input: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) input_hash: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) message: Option<Cow<'a, str>>,
    pub(super) requested_at: Option<Millis>,
    pub(super) expires_at: Option<Millis>,
    pub(super) approval: Option<u64>,
    #[serde(borrow)]
    pub(super) decision: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) by: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) reason: Option<Cow<'a, str>>,
    pub(super) attempt: Option<u32>,
    #[serde(borrow, default, deserialize_with = "present")]
    pub(super) output: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) error: Option<&'a RawValue>,
    pub(super) paused_ms: Option<i64>,
    pub(super) held_ms: Option<i64>,
}

/// Deserializes a member for which `null` is a value and not the same as absent.
fn present<'de: 'a, 'a, D>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    <&'a RawValue>::deserialize(deserializer).map(Some)
}

/// A workflow and its version.
#[derive(Deserialize, Debug)]
pub(super) struct WorkflowRef<'a> {
    #[serde(borrow)]
    pub(super) name: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) version: Cow<'a, str>,
}

/// A plan, as given.
#[derive(Deserialize, Debug, Default)]
pub(super) struct PlanBody<'a> {
    #[serde(borrow)]
    pub(super) steps: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    pub(super) output: Option<&'a RawValue>,
}

/// A step of a plan.
#[derive(Deserialize, Debug)]
pub(super) struct StepRef<'a> {
    #[serde(borrow)]
    pub(super) id: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) tool: Cow<'a, str>,
}
