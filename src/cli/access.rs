//! How a command reaches the log: directly, or through a running node.
//!
//! Only one process at a time can have the embedded log open: while `omnilink up` runs, commands send their requests to its
//! HTTP port. Kafka can be read from anywhere, so there commands read it directly, unless `OMNILINK_URL` names a node.

use std::sync::Arc;

use super::client::Client;
use crate::{
    config::Config,
    log::{Log, topics::Names},
    node::storage,
};

/// How this command reaches the log.
pub(super) enum Access {
    /// The log, opened by this process.
    Log(Arc<dyn Log>, Names),
    /// The HTTP port of the node that has the log open.
    Port(Client),
}

impl Access {
    /// The port if `OMNILINK_URL` is set or another process has the embedded log open, else the log.
    pub(super) fn of(config: &Config) -> anyhow::Result<Self> {
        if std::env::var_os("OMNILINK_URL").is_some() || storage::log_in_use(config) {
            return Ok(Self::Port(Client::new(config)?));
        }
        let names = storage::names(config);
        Ok(Self::Log(storage::open_log(config)?, names))
    }
}
