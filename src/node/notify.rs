//! The notifications of a node.

use std::sync::Arc;

use anyhow::Context;

use super::{storage::Storage, watch::Watch};
use crate::{
    base::clock::SystemClock,
    config::Config,
    notify::{self, Failing, Parts, Running},
    telemetry::{Need, PartStatus, Readiness},
};

/// The name of the part in readiness.
const PART: &str = "notify";

/// Starts to send what `notify` asks for; `None`: nothing.
pub(super) fn start(
    config: &Config,
    storage: &Storage,
    readiness: &Readiness,
    watch: &mut Watch,
) -> anyhow::Result<Option<Running>> {
    if config.notify.is_empty() {
        return Ok(None);
    }
    let failing = Failing::default();
    let reported = failing.clone();
    readiness.part(PART, Need::Optional, move || {
        let detail = reported.detail();
        detail.map_or(PartStatus::ok(""), PartStatus::degraded)
    });
    let parts = Parts {
        log: Arc::clone(&storage.log),
        names: storage.names.clone(),
        clock: Arc::new(SystemClock),
        public_url: public_url(config),
    };
    let running = notify::start(&config.notify, &parts, &failing, |name, progress| {
        watch.processor(name, progress);
    });
    running
        .map(Some)
        .context("notifications cannot be sent (`notify`)")
}

/// Where people reach the port.
fn public_url(config: &Config) -> String {
    let own = || {
        let scheme = if config.tls.files().is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{}", config.listen)
    };
    config.public_url.clone().unwrap_or_else(own)
}
