//! Readiness: the status of each part of this node, for `/readyz`.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::RwLock;
use schemars::JsonSchema;
use serde::Serialize;

/// The status of a part, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The part works.
    Ok,
    /// It works in part, or the rest works without it.
    Degraded,
    /// It does not work.
    Down,
}

/// The report of a part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PartStatus {
    /// Whether the part works.
    pub status: Status,
    /// The reason, or a description; without secrets.
    pub detail: String,
}

impl PartStatus {
    /// The status of a part that works; `detail` is a description.
    pub fn ok(detail: impl Into<String>) -> Self {
        Self {
            status: Status::Ok,
            detail: detail.into(),
        }
    }

    /// It does not work.
    pub fn down(detail: impl Into<String>) -> Self {
        Self {
            status: Status::Down,
            detail: detail.into(),
        }
    }

    /// It works in part.
    pub fn degraded(detail: impl Into<String>) -> Self {
        Self {
            status: Status::Degraded,
            detail: detail.into(),
        }
    }

    /// Of two reports about one part: the worse status, and what both say.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let details = [self.detail, other.detail];
        let said = details.into_iter().filter(|detail| !detail.is_empty());
        Self {
            status: self.status.max(other.status),
            detail: said.collect::<Vec<_>>().join("; "),
        }
    }
}

/// Whether the node can be ready without a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Without it no events can be accepted: the log, the controls.
    Required,
    /// Without it the node is degraded.
    Optional,
}

type Probe = Arc<dyn Fn() -> PartStatus + Send + Sync>;

/// The parts of this node that report on themselves. Cheap to clone.
#[derive(Clone, Default)]
pub struct Readiness {
    parts: Arc<RwLock<BTreeMap<String, (Need, Probe)>>>,
    /// The last report, cached because `/readyz` needs no key.
    last: Arc<tokio::sync::Mutex<Option<(Instant, Report)>>>,
}

/// What `/readyz` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "Readiness")]
pub struct Report {
    /// Down if a required part is; degraded if anything else is wrong.
    pub status: Status,
    /// The parts by name.
    pub parts: BTreeMap<String, PartStatus>,
}

/// Time limit of a probe; a part that exceeds it is down.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a report is cached.
const CACHE_TIME: Duration = Duration::from_millis(500);

impl Readiness {
    /// Adds a part, or replaces it. The probe may block, for two seconds at most.
    pub fn part(
        &self,
        name: &str,
        need: Need,
        probe: impl Fn() -> PartStatus + Send + Sync + 'static,
    ) {
        self.parts
            .write()
            .insert(name.to_owned(), (need, Arc::new(probe)));
    }

    /// The status of all parts, at most half a second old.
    pub async fn report(&self) -> Report {
        let mut last = self.last.lock().await;
        match &*last {
            Some((at, report)) if at.elapsed() < CACHE_TIME => report.clone(),
            _ => {
                let report = self.probe().await;
                *last = Some((Instant::now(), report.clone()));
                report
            }
        }
    }

    /// Runs all probes concurrently.
    async fn probe(&self) -> Report {
        let probes: Vec<_> = self
            .parts
            .read()
            .iter()
            .map(|(name, (need, probe))| (name.clone(), *need, Arc::clone(probe)))
            .collect();
        let running: Vec<_> = probes
            .into_iter()
            .map(|(name, need, probe)| (name, need, tokio::task::spawn_blocking(move || probe())))
            .collect();
        let deadline = tokio::time::Instant::now() + PROBE_TIMEOUT;
        let mut report = Report {
            status: Status::Ok,
            parts: BTreeMap::new(),
        };
        for (name, need, result) in running {
            let part = match tokio::time::timeout_at(deadline, result).await {
                Ok(Ok(part)) => part,
                Ok(Err(_)) => PartStatus::down("the probe failed"),
                Err(_) => PartStatus::down("no answer within 2 s"),
            };
            let counts = match (need, part.status) {
                (Need::Optional, Status::Down) => Status::Degraded,
                (_, status) => status,
            };
            report.status = report.status.max(counts);
            report.parts.insert(name, part);
        }
        report
    }
}
