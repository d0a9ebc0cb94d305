//! Finds which processors the emergency controls hold, by reading the log, without a node.

use std::sync::Arc;

use crate::{
    admission,
    config::Config,
    controls::{Controls, Emergency, seal},
    log::{Log, LogError, topics::Names},
    node::storage,
};

/// Reads the emergency controls from the topic `controls`, without changing anything. `None` if the topic does not exist yet.
pub(super) fn read(config: &Config, log: &Arc<dyn Log>) -> anyhow::Result<Option<Emergency>> {
    let names = Names::new(&config.topics.prefix);
    if config.secret_key.is_empty() && !config.data_dir.join(seal::FILE).exists() {
        // Nothing has been written yet; reading must not create a key.
        return Ok(None);
    }
    let secrets = storage::secret_keys(config)?;
    match Controls::read_emergency(Arc::clone(log), names.controls, secrets) {
        Ok(emergency) => Ok(Some(emergency)),
        Err(LogError::UnknownTopic(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Why a processor is held; `None` if it is not.
pub(super) fn holds(emergency: &Emergency, processor: &str) -> Option<String> {
    match processor {
        admission::NAME => emergency.admission_held(),
        topology if topology.starts_with("topology.") => emergency.processing_held(),
        // Projections continue, and runs hold single calls.
        _ => None,
    }
}
