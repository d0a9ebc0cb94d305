//! The lag of the processors of this node.

use std::sync::Arc;

use super::watch::Watched;
use crate::{
    base::clock::{Clock, SystemClock},
    log::{Log, LogError},
    port::Lags,
    stream::lag::Item,
};

/// Implements the port's [`Lags`] with the processors of this node.
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
