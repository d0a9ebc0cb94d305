//! `/v1/replay`: selecting events with the query string.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    base::{
        clock::Millis,
        id::{BadTenant, Tenant},
    },
    envelope::parse_rfc3339,
    replay::{EntityName, EntityNameError, Query, Replayed, TypePattern},
};

/// The selection of events as documented; [`ReplayQuery::parse`] parses it.
#[derive(Debug, JsonSchema)]
pub struct EventsParameters {
    /// Events appended at or after this time.
    #[schemars(extend("format" = "date-time"))]
    pub since: Option<String>,
    /// Events appended before this time.
    #[schemars(extend("format" = "date-time"))]
    pub until: Option<String>,
    /// Events of this tenant; default: that of the key. Another tenant needs the permission `operator`, and with it the default is all
    /// tenants.
    pub tenant: Option<String>,
    /// Events of this type, or with a prefix, such as `prefix.*`; may be repeated.
    #[serde(default)]
    pub r#type: Vec<String>,
    /// Events of this entity, as `TYPE:ID` with one colon.
    pub entity: Option<String>,
    /// The entity's type, if type or id contains a colon; requires `entity_id`.
    pub entity_type: Option<String>,
    /// The entity's id; requires `entity_type`.
    pub entity_id: Option<String>,
    /// Whether to continue with new events as they are appended.
    pub follow: Option<bool>,
}

/// The parameters of `GET /v1/replay`.
#[derive(Debug, JsonSchema)]
pub struct ReplayParameters {
    /// The selected events.
    #[serde(flatten)]
    pub events: EventsParameters,
    /// The format of the answer; default: lines of JSON.
    pub format: Option<ReplayFormat>,
}

/// The parameters of `GET /v1/replay/state`.
#[derive(Debug, JsonSchema)]
pub struct StateParameters {
    /// The tenant of the entity; default: that of the key. Another tenant needs the permission `operator`.
    pub tenant: Option<String>,
    /// The entity, as `TYPE:ID` with one colon.
    pub entity: Option<String>,
    /// The entity's type, if type or id contains a colon; requires `entity_id`.
    pub entity_type: Option<String>,
    /// The entity's id; requires `entity_type`.
    pub entity_id: Option<String>,
    /// The time up to which events are folded; default: now.
    #[schemars(extend("format" = "date-time"))]
    pub as_of: Option<String>,
}

/// The parameters of `POST /v1/replay/topic`.
#[derive(Debug, JsonSchema)]
pub struct IntoTopicParameters {
    /// The selected events.
    #[serde(flatten)]
    pub events: EventsParameters,
    /// The topic to write to, which must not be one of OmniLink's own.
    pub topic: String,
}

/// The format of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReplayFormat {
    /// One line of JSON per event.
    #[serde(rename = "ndjson")]
    Lines,
    /// A Parquet file.
    Parquet,
}

/// The parsed query string of a replay.
#[derive(Debug)]
pub struct ReplayQuery {
    /// The selected events.
    pub query: Query,
    /// The format of the answer.
    pub format: ReplayFormat,
    /// `as_of`.
    pub as_of: Option<Millis>,
    /// `topic`.
    pub topic: Option<String>,
}

/// Why a query string is invalid.
#[derive(Debug, thiserror::Error)]
pub enum BadQuery {
    /// There is no parameter of that name.
    #[error("`{0}`: unknown")]
    Unknown(String),
    /// A parameter's value is not one of the allowed ones.
    #[error("`{name}`: {expected}")]
    NotOneOf {
        /// The parameter.
        name: &'static str,
        /// The allowed values.
        expected: &'static str,
    },
    /// A time is invalid.
    #[error("`{name}`: {error}")]
    Time {
        /// The parameter.
        name: &'static str,
        /// The reason.
        error: BadTime,
    },
    /// `tenant` is not a valid tenant.
    #[error("`tenant`: {0}")]
    Tenant(BadTenant),
    /// `entity` is invalid.
    #[error("`entity`: {0}")]
    Entity(EntityNameError),
    /// `entity_type` and `entity_id` are invalid.
    #[error(transparent)]
    EntityParts(EntityNameError),
    /// `entity` names another entity than `entity_type` and `entity_id`.
    #[error("`entity` differs from `entity_type` and `entity_id`")]
    TwoEntities,
    /// A Parquet file cannot be continued.
    #[error("`follow` cannot be used with `format=parquet`")]
    EndlessParquet,
}

/// A text is not a time.
#[derive(Debug)]
pub struct BadTime(String);

impl fmt::Display for BadTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is no RFC 3339 time such as 2026-01-31T12:00:00Z",
            self.0
        )
    }
}

/// Parses an RFC 3339 time.
pub(super) fn time(text: &str) -> Result<Millis, BadTime> {
    if let Some(micros) = parse_rfc3339(text) {
        return Ok(Millis(micros.div_euclid(1000)));
    }
    let at: jiff::Timestamp = text.parse().map_err(|_| BadTime(text.to_owned()))?;
    Ok(Millis(at.as_millisecond()))
}

impl ReplayQuery {
    /// Parses names and values, in the order in which they are given.
    pub fn parse(pairs: Vec<(String, String)>) -> Result<Self, BadQuery> {
        let mut parsed = Self {
            query: Query::default(),
            format: ReplayFormat::Lines,
            as_of: None,
            topic: None,
        };
        let at = |name, value: &str| {
            let read = time(value).map_err(|error| BadQuery::Time { name, error });
            read.map(Some)
        };
        let (mut kind, mut external_id) = (None, None);
        for (name, value) in pairs {
            match name.as_str() {
                "since" => parsed.query.since = at("since", &value)?,
                "until" => parsed.query.until = at("until", &value)?,
                "as_of" => parsed.as_of = at("as_of", &value)?,
                "tenant" => {
                    parsed.query.tenant = Some(Tenant::new(&value).map_err(BadQuery::Tenant)?);
                }
                "type" => parsed.query.types.push(TypePattern::from(value.as_str())),
                "entity" => {
                    parsed.query.entity = Some(value.parse().map_err(BadQuery::Entity)?);
                }
                "entity_type" => kind = Some(value),
                "entity_id" => external_id = Some(value),
                "follow" => {
                    parsed.query.follow = match value.as_str() {
                        "" | "true" => true,
                        "false" => false,
                        _ => {
                            return Err(BadQuery::NotOneOf {
                                name: "follow",
                                expected: "true or false",
                            });
                        }
                    }
                }
                "format" => {
                    parsed.format = match value.as_str() {
                        "ndjson" => ReplayFormat::Lines,
                        "parquet" => ReplayFormat::Parquet,
                        _ => {
                            return Err(BadQuery::NotOneOf {
                                name: "format",
                                expected: "ndjson or parquet",
                            });
                        }
                    }
                }
                "topic" => parsed.topic = Some(value),
                _ => return Err(BadQuery::Unknown(name)),
            }
        }
        if kind.is_some() || external_id.is_some() {
            let (kind, id) = (kind.unwrap_or_default(), external_id.unwrap_or_default());
            let named = EntityName::new(&kind, &id).map_err(BadQuery::EntityParts)?;
            if parsed.query.entity.is_some_and(|entity| entity != named) {
                return Err(BadQuery::TwoEntities);
            }
            parsed.query.entity = Some(named);
        }
        if parsed.format == ReplayFormat::Parquet && parsed.query.follow {
            return Err(BadQuery::EndlessParquet);
        }
        Ok(parsed)
    }
}

/// A line of the answer to a replay into a topic. Lines report the progress; the last one is not `running`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum ReplayProgress<'a> {
    /// It is running.
    Running {
        /// The progress so far.
        replay: &'a Replayed,
    },
    /// It has finished.
    Done {
        /// The totals.
        replay: &'a Replayed,
    },
    /// It has failed; events already written stay in the topic.
    Failed {
        /// The reason.
        error: String,
    },
}

#[cfg(test)]
mod tests {
    use schemars::schema_for;

    use super::*;

    #[test]
    fn every_documented_parameter_is_read() {
        for schema in [
            schema_for!(ReplayParameters),
            schema_for!(StateParameters),
            schema_for!(IntoTopicParameters),
        ] {
            let properties = schema.as_value()["properties"].as_object().unwrap();
            assert!(properties.len() > 4);
            for name in properties.keys() {
                let read = ReplayQuery::parse(vec![(name.clone(), "1".into())]);
                assert!(!matches!(read, Err(BadQuery::Unknown(_))), "{name}");
            }
        }
        let unknown = ReplayQuery::parse(vec![("colour".into(), "red".into())]);
        assert_eq!(unknown.unwrap_err().to_string(), "`colour`: unknown");
    }
}
