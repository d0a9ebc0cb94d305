//! The lag of what runs in this process.

use std::sync::Arc;

use super::watch::Watched;
use crate::{
    base::clock::{Clock, SystemClock},
    log::{Log, LogError},
    port::Lags,
    stream::lag::Item,
};

/// The lag of what runs in this process, for its port.
pub(crate) struct NodeLags {
    log: Arc<dyn Log>,
    watched: Watched,
}

impl NodeLags {
    pub(crate) fn new(log: &Arc<dyn Log>, watched: Watched) -> Self {
        Self {
            log: Arc::clone(log),
            watched,
        }
    }
}

impl Lags for NodeLags {
    fn lags(&self) -> Result<Vec<Item>, LogError> {
        self.watched.lags(&*self.log, SystemClock.now())
    }
}
