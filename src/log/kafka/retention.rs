//! The configured retention of a topic: `retention.ms`.

use super::{KafkaOptions, limits};
use crate::log::LogError;

const SETTING: &str = "retention.ms";

/// Sets the retention of a topic, if it differs. Errors are logged.
pub(super) fn keep_for(options: &KafkaOptions, topic: &str, retention_ms: i64) {
    match set(options, topic, retention_ms) {
        Ok(None) => {}
        Ok(Some(before)) => {
            tracing::info!(
                topic,
                before,
                retention_ms,
                "the topic's retention.ms was changed"
            );
        }
        Err(error) => {
            tracing::warn!(topic, retention_ms, %error, "the topic's retention.ms cannot be set");
        }
    }
}

/// Returns the value before, if it was changed.
fn set(options: &KafkaOptions, topic: &str, retention_ms: i64) -> Result<Option<String>, LogError> {
    let found = limits::describe(options, &[topic])?;
    let wanted = retention_ms.to_string();
    let Some(resource) = found.get(topic) else {
        return Ok(None);
    };
    let before = resource.get(SETTING).and_then(|entry| entry.value.clone());
    match before.filter(|before| *before != wanted) {
        None => Ok(None),
        Some(before) => {
            limits::alter(options, topic, resource, (SETTING, &wanted))?;
            Ok(Some(before))
        }
    }
}
