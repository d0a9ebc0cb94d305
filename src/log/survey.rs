//! Compares the topics of the log with their specifications.

use schemars::JsonSchema;
use serde::Serialize;

use super::{Cleanup, Log, LogError, TopicSpec, error::way_out};

/// The result for one topic.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, JsonSchema)]
#[schemars(rename = "Topic")]
pub struct Surveyed {
    /// The full topic name.
    pub name: String,
    /// The number of partitions; `None`: there is no such topic.
    pub partitions: Option<u32>,
    /// The cleanup policy and retention, such as `delete after 7 d`: that of the log if it is known, else the specified one.
    pub cleanup: String,
    /// The number of records from the first remaining one to the end (on Kafka including transaction markers).
    pub records: u64,
    /// How the topic differs from its specification; `None`: it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Whether the processors cannot run because of it; otherwise only retention or limits differ.
    #[serde(skip)]
    pub stalls: bool,
}

/// Compares each topic of the log with its specification.
pub fn survey(log: &dyn Log, specs: &[TopicSpec]) -> Result<Vec<Surveyed>, LogError> {
    let mut surveyed = Vec::with_capacity(specs.len());
    for spec in specs {
        surveyed.push(one(log, spec)?);
    }
    // The configuration is wrong only if the counts of all topics differ from it.
    let configured = specs.iter().map(|spec| spec.partitions).max();
    let mut counts = specs
        .iter()
        .zip(&surveyed)
        .filter(|(spec, _)| Some(spec.partitions) == configured)
        .filter_map(|(_, surveyed)| surveyed.partitions);
    let first = counts.next();
    let all = counts.all(|count| Some(count) == first);
    for (spec, of) in specs.iter().zip(&mut surveyed) {
        if let Some(found) = of.partitions
            && found != spec.partitions
        {
            let all = all && Some(spec.partitions) == configured;
            of.trouble = Some(format!(
                "{found} partitions, but {} are configured; {}",
                spec.partitions,
                way_out(&spec.name, spec.partitions, found, all)
            ));
            of.stalls = all || found < spec.partitions;
        }
    }
    Ok(surveyed)
}

fn one(log: &dyn Log, spec: &TopicSpec) -> Result<Surveyed, LogError> {
    let described = match log.describe(&spec.name) {
        Err(LogError::UnknownTopic(_)) => None,
        described => described?,
    };
    let partitions = match described {
        Some(described) => described.partitions,
        None => {
            return Ok(Surveyed {
                name: spec.name.to_string(),
                partitions: None,
                cleanup: spec.cleanup.to_string(),
                records: 0,
                trouble: Some("missing; `omnilink topics create` makes it".into()),
                stalls: true,
            });
        }
    };
    let mut records = 0;
    for partition in 0..partitions {
        let marks = log.offset_range(&spec.name, partition)?;
        records += marks.end.saturating_sub(marks.start);
    }
    let cleanup = log.cleanup(&spec.name)?;
    let takes = log.record_limit(&spec.name);
    let wanted = log.wanted_record_limit(&spec.name).unwrap_or(0);
    let trouble = if cleanup.is_some_and(|cleanup| cleanup != spec.cleanup) {
        Some(format!("should be: {}", spec.cleanup))
    } else if takes < wanted {
        Some(format!(
            "takes records of {takes} bytes, and should take {wanted}: larger ones become dead letters; set max.message.bytes, or run `omnilink up` without --no-provision"
        ))
    } else {
        None
    };
    Ok(Surveyed {
        name: spec.name.to_string(),
        partitions: Some(partitions),
        cleanup: cleanup.unwrap_or(spec.cleanup).to_string(),
        records,
        trouble,
        stalls: false,
    })
}

const DAY_MS: i64 = 24 * 3600 * 1000;

impl std::fmt::Display for Cleanup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (policy, retention_ms) = match self {
            Self::Keep => return f.write_str("keep"),
            Self::Compact => return f.write_str("compact"),
            Self::Delete { retention_ms } => ("delete", retention_ms),
            Self::CompactDelete { retention_ms } => ("compact, delete", retention_ms),
        };
        if retention_ms % DAY_MS == 0 {
            write!(f, "{policy} after {} d", retention_ms / DAY_MS)
        } else {
            write!(f, "{policy} after {} s", retention_ms / 1000)
        }
    }
}
