//! How a command gets at the log: by itself, or through the node that has it.
//!
//! One process at a time has the embedded log open: while `omnilink up` runs, commands ask it over the port. Kafka can be
//! read from anywhere, so there they read it themselves, unless `OMNILINK_URL` names a node.

use std::sync::Arc;

use super::client::Client;
use crate::node::storage as node;
use crate::{
    config::Config,
    log::{Log, topics::Names},
};

/// One of the two.
pub(super) enum Access {
    /// The log itself.
    Log(Arc<dyn Log>, Names),
    /// The port of the node that has it.
    Port(Client),
}

impl Access {
    /// As the configuration and the environment say.
    pub(super) fn of(config: &Config) -> anyhow::Result<Self> {
        if std::env::var_os("OMNILINK_URL").is_some() || node::log_in_use(config) {
            return Ok(Self::Port(Client::new(config)?));
        }
        let names = Names::new(&config.topics.prefix);
        Ok(Self::Log(node::open_log(config)?, names))
    }
}
