//! What OmniLink says about itself: logs, metrics, readiness.

use std::{
    collections::{BTreeMap, VecDeque},
    io::IsTerminal,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use parking_lot::RwLock;
use serde::Serialize;
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// What is logged unless `RUST_LOG` says otherwise.
const DEFAULT_FILTER: &str = "info,fjall=warn,lsm_tree=warn,hyper=warn,sqlx=warn";

/// Upper bounds of the buckets of every histogram, in seconds.
const BUCKETS: [f64; 13] = [
    0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0,
];

/// Begins to log, to standard error. A second call changes nothing.
pub fn init_logs(format: LogFormat) {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let _ = match format {
        LogFormat::Text => builder
            .with_ansi(std::io::stderr().is_terminal())
            .try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}

/// The metrics of this process: the first call installs the recorder. Handles made before it count nothing.
pub fn metrics() -> &'static PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| {
        let builder = PrometheusBuilder::new();
        // It refuses only an empty list of buckets.
        let builder = builder.set_buckets(&BUCKETS).unwrap_or_default();
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        // Someone else's recorder, in a program that embeds us, stays.
        let _ = metrics::set_global_recorder(recorder);
        handle
    })
}

/// How often [`PrometheusHandle::run_upkeep`] is due: histograms keep every value until then.
pub const UPKEEP: Duration = Duration::from_secs(5);

/// How many notices are kept, and how long.
const NOTICES: usize = 16;
const NOTICE_AGE: Duration = Duration::from_hours(24);

fn noticed() -> &'static parking_lot::Mutex<VecDeque<(Instant, String)>> {
    static NOTICES: OnceLock<parking_lot::Mutex<VecDeque<(Instant, String)>>> = OnceLock::new();
    NOTICES.get_or_init(parking_lot::Mutex::default)
}

/// Notes what happened and is over, but that an operator must hear of: `/readyz` and `doctor` show it for a day, the last
/// 16 of all.
pub fn notice(text: String) {
    let mut notices = noticed().lock();
    notices.retain(|(_, known)| *known != text);
    if notices.len() == NOTICES {
        notices.pop_front();
    }
    notices.push_back((Instant::now(), text));
}

/// What was noted within a day, the oldest first.
pub fn notices() -> Vec<String> {
    let mut notices = noticed().lock();
    notices.retain(|(at, _)| at.elapsed() < NOTICE_AGE);
    notices.iter().map(|(_, text)| text.clone()).collect()
}

/// How a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
