//! The notifications of a node.

use std::sync::Arc;

use anyhow::Context;

use super::{effects, storage::Storage, watch::Watch};
use crate::{
    base::clock::SystemClock,
    config::Config,
    notify::{self, Failing, Parts, Running},
    stream::progress::Progress,
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
    let parts = Parts {
        log: Arc::clone(&storage.log),
        names: storage.names.clone(),
        clock: Arc::new(SystemClock),
        public_url: public_url(config),
    };
    let mut effects = Vec::new();
    let running = notify::start(&config.notify, &parts, &failing, |name, progress| {
        watch.processor(name, progress);
        effects.push((name.to_owned(), Arc::clone(progress)));
    });
    let running = running.context("notifications cannot be sent (`notify`)")?;
    readiness.part(PART, Need::Optional, move || status(&failing, &effects));
    Ok(Some(running))
}

/// Of the targets that do not accept notifications, and of each effect.
fn status(failing: &Failing, effects: &[(String, Arc<Progress>)]) -> PartStatus {
    let detail = failing.detail();
    let targets = detail.map_or(PartStatus::ok(""), PartStatus::degraded);
    let each = effects.iter().map(|(name, progress)| {
        let PartStatus { status, detail } = effects::status(progress);
        let named = !detail.is_empty();
        let detail = named.then(|| format!("{name}: {detail}"));
        PartStatus {
            status,
            detail: detail.unwrap_or_default(),
        }
    });
    each.fold(targets, PartStatus::and)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effects_that_do_not_work_are_named() {
        let names = ["notify.audit.1", "notify.dlq.1"];
        let effects = names.map(|name| (name.to_owned(), Arc::<Progress>::default()));
        let [_audit, dlq] = effects.each_ref().map(|(_, progress)| progress.lane());
        let now = || status(&Failing::default(), &effects);
        assert_eq!(now(), PartStatus::ok(""));
        dlq.retrying("no disk");
        let troubled = PartStatus::degraded("notify.dlq.1: retrying: no disk");
        assert_eq!(now(), troubled);
        dlq.running();
        assert_eq!(now(), PartStatus::ok(""));
    }
}
