//! Readiness: what each part of this node says about itself, for `/readyz`.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::RwLock;
use schemars::JsonSchema;
use serde::Serialize;

/// How a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It works.
    Ok,
    /// It works in part, or others work without it.
    Degraded,
    /// It does not work.
    Down,
}

/// What a part says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PartStatus {
    /// How it is.
    pub status: Status,
    /// Why, or what it is; no secrets.
    pub detail: String,
}

impl PartStatus {
    /// It works.
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
}

/// Whether the node is ready without a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Without it nothing can be taken in: the log, the controls.
    Required,
    /// Without it the node is degraded.
    Optional,
}

type Probe = Arc<dyn Fn() -> PartStatus + Send + Sync>;

/// The parts of this node that report on themselves. Cheap to clone.
#[derive(Clone, Default)]
pub struct Readiness {
    parts: Arc<RwLock<BTreeMap<String, (Need, Probe)>>>,
    /// The last report: anyone may ask, as often as they like.
    last: Arc<tokio::sync::Mutex<Option<(Instant, Report)>>>,
}

/// What `/readyz` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "Readiness")]
pub struct Report {
    /// Down if a required part is; degraded if anything else is wrong.
    pub status: Status,
    /// Each part.
    pub parts: BTreeMap<String, PartStatus>,
}

/// A probe that takes longer than this counts as down.
const PROBE_DEADLINE: Duration = Duration::from_secs(2);
/// A report is good for this long.
const REPORT_AGE: Duration = Duration::from_millis(500);

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

    /// How every part is now, or was half a second ago.
    pub async fn report(&self) -> Report {
        let mut last = self.last.lock().await;
        match &*last {
            Some((at, report)) if at.elapsed() < REPORT_AGE => report.clone(),
            _ => {
                let report = self.ask().await;
                *last = Some((Instant::now(), report.clone()));
                report
            }
        }
    }

    /// Asks every part, side by side.
    async fn ask(&self) -> Report {
        let probes: Vec<_> = self
            .parts
            .read()
            .iter()
            .map(|(name, (need, probe))| (name.clone(), *need, Arc::clone(probe)))
            .collect();
        let asked: Vec<_> = probes
            .into_iter()
            .map(|(name, need, probe)| (name, need, tokio::task::spawn_blocking(move || probe())))
            .collect();
        let by = tokio::time::Instant::now() + PROBE_DEADLINE;
        let mut report = Report {
            status: Status::Ok,
            parts: BTreeMap::new(),
        };
        for (name, need, answer) in asked {
            let part = match tokio::time::timeout_at(by, answer).await {
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
