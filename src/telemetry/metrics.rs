//! The registry of metrics: name, kind, unit, description, labels. Handles are created only here, so that every metric is
//! documented. `docs/metrics.md` is generated from it (the test `the_page_matches_the_registry` compares the two).
//!
//! Names follow Prometheus: a prefix, base units (seconds, bytes), the unit last, `_total` for counters. Labels have a bounded
//! number of values: none is a tenant, a key or an id.

use std::{collections::BTreeSet, fmt::Write, sync::OnceLock, time::Duration};

use metrics::{Counter, Gauge, Histogram, Label as LabelValue};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use parking_lot::Mutex;

/// The unit of a metric.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// A number of things.
    Count,
    /// A time in seconds.
    Seconds,
    /// A size in bytes.
    Bytes,
    /// 0 or 1.
    Bool,
}

impl Unit {
    const fn name(self) -> &'static str {
        match self {
            Self::Count => "number",
            Self::Seconds => "seconds",
            Self::Bytes => "bytes",
            Self::Bool => "0 or 1",
        }
    }
}

/// The Prometheus type of a metric.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Kind {
    /// Only grows, until the process ends.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A Prometheus histogram with these upper bounds.
    Histogram(&'static [f64]),
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// A label.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Label {
    /// The label name.
    pub name: &'static str,
    /// Its values, described for the docs: a list, or what limits them.
    pub values: &'static str,
}

/// A metric.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Definition {
    /// The full metric name, with prefix and suffix.
    pub name: &'static str,
    /// The Prometheus type.
    pub kind: Kind,
    /// The unit of its values.
    pub unit: Unit,
    /// The description in `/metrics` and `docs/metrics.md`.
    pub help: &'static str,
    /// The labels, in the order of the values passed to [`Definition::counter`] and the like.
    pub labels: &'static [Label],
}

impl Definition {
    fn with(&self, values: &[&str]) -> Vec<LabelValue> {
        // A handle created before the recorder is installed would count nothing.
        recorder();
        debug_assert_eq!(values.len(), self.labels.len(), "{}", self.name);
        let pairs = self.labels.iter().zip(values);
        pairs
            .map(|(label, value)| LabelValue::new(label.name, (*value).to_owned()))
            .collect()
    }

    /// The counter with these label values; only for metrics of that kind.
    pub fn counter(&self, values: &[&str]) -> Counter {
        metrics::counter!(self.name, self.with(values))
    }

    /// The gauge with these label values; only for metrics of that kind.
    pub fn gauge(&self, values: &[&str]) -> Gauge {
        metrics::gauge!(self.name, self.with(values))
    }

    /// The histogram with these label values; only for metrics of that kind.
    pub fn histogram(&self, values: &[&str]) -> Histogram {
        metrics::histogram!(self.name, self.with(values))
    }
}

/// From half a millisecond to five seconds: HTTP requests.
const REQUEST_BUCKETS: &[f64] = &[
    0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0,
];
/// From two milliseconds to a day: after an outage of Postgres events can be late by hours.
const DELAY_BUCKETS: &[f64] = &[
    0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 3_600.0,
    86_400.0,
];

const PROCESSOR: Label = Label {
    name: "processor",
    values: "`admission`, `saga`, `workers`, `planner`, each projection, each `notify.…`, each stage of each topology",
};

macro_rules! registry {
    ($($ident:ident = $name:literal, $kind:expr, $unit:ident, $help:literal, [$($label:expr),*];)*) => {
        $(
            #[doc = $help]
            pub static $ident: Definition = Definition {
                name: $name,
                kind: $kind,
                unit: Unit::$unit,
                help: $help,
                labels: &[$($label),*],
            };
        )*

        /// All metrics, in the order of the page.
        pub static ALL: &[&Definition] = &[$(&$ident),*];
    };
}

registry! {
    BUILD_INFO = "omnilink_build_info", Kind::Gauge, Bool,
        "Always 1; the labels describe the build",
        [Label { name: "version", values: "the version of the binary" }];
    PORT_EVENTS = "omnilink_port_events_total", Kind::Counter, Count,
        "Events received over HTTP, by result",
        [Label { name: "result", values: "`ingested`, `duplicate`, `refused`" }];
    PORT_REQUESTS = "omnilink_port_requests_total", Kind::Counter, Count,
        "Requests to /v1/events, by class of their HTTP status",
        [Label { name: "class", values: "`2xx`, `4xx`, `5xx`" }];
    PORT_REQUEST_DURATION = "omnilink_port_request_duration_seconds", Kind::Histogram(REQUEST_BUCKETS), Seconds,
        "Time from a request to /v1/events to its response",
        [];
    PORT_WEBHOOKS = "omnilink_port_webhooks_total", Kind::Counter, Count,
        "Webhooks, by dialect and result",
        [
            Label { name: "dialect", values: "the dialect of the source; `unknown`: there is no such source" },
            Label { name: "result", values: "`accepted`, `duplicate`, `challenge`, `refused`, `failed` (5xx)" }
        ];
    PORT_WEBHOOK_DURATION = "omnilink_port_webhook_duration_seconds", Kind::Histogram(REQUEST_BUCKETS), Seconds,
        "Time from a webhook to its response",
        [];
    WORKER_CALLS = "omnilink_worker_calls_total", Kind::Counter, Count,
        "Calls of workers over HTTP, by outcome",
        [Label { name: "outcome", values: "`succeeded`, `accepted` (202: completed later), `failed`, `no_answer`" }];
    WORKER_CALLS_HELD = "omnilink_worker_calls_held_total", Kind::Counter, Count,
        "Calls that were not sent, by reason",
        [Label { name: "reason", values: "`tool_busy`, `rate_limited`, `circuit_open`, `safe_mode`, `kill_switch`, `disabled`" }];
    WORKER_RESULT_APPENDS = "omnilink_worker_result_appends_total", Kind::Counter, Count,
        "Appends of results to `commands`; results that are available together are one append",
        [];
    PLANS = "omnilink_plans_total", Kind::Counter, Count,
        "Goals that were planned, by source of the plan",
        [Label { name: "source", values: "`cache`, `catalog`, `llm`, `none` (no plan)" }];
    PLAN_LOOKUPS = "omnilink_plan_lookups_total", Kind::Counter, Count,
        "Stages of plan lookups, by verdict",
        [
            Label { name: "stage", values: "`template`, `catalog`, `search`, `gates`, `threshold`, `catalog_similar`" },
            Label { name: "verdict", values: "`hit`, `miss`, `pass`, `refused`, `skipped`" }
        ];
    PLANNER_CALLS = "omnilink_planner_calls_total", Kind::Counter, Count,
        "Calls of language models, by outcome",
        [Label { name: "outcome", values: "`answered`, `unusable` (no chat completion), `refused` (4xx), `failed` (5xx), `no_answer`, `circuit_open` (not sent)" }];
    PLANNER_TOKENS = "omnilink_planner_tokens_total", Kind::Counter, Count,
        "Tokens of calls of language models, as their servers count them",
        [Label { name: "kind", values: "`input`, `output`" }];
    PLANNER_COST = "omnilink_planner_cost_millionths_total", Kind::Counter, Count,
        "Cost of plans of language models, in millionths of the unit of `price`",
        [];
    PLANS_SAVED_TOKENS = "omnilink_plans_saved_tokens_total", Kind::Counter, Count,
        "Tokens that plans from the cache and the catalogue have saved, as many each as a plan of a language model has taken on average on this node",
        [];
    PLANS_SAVED_COST = "omnilink_plans_saved_cost_millionths_total", Kind::Counter, Count,
        "Cost that plans from the cache and the catalogue have saved, computed as the tokens, in millionths of the unit of `price`",
        [];
    PLANS_FALSE_HITS = "omnilink_plans_false_hits_total", Kind::Counter, Count,
        "Plans from the cache that feedback has called wrong; a run counts once",
        [];
    PLAN_LABELS = "omnilink_plan_labels_total", Kind::Counter, Count,
        "Cached plans that were not certain enough and were compared with the plan of a language model, by whether they agreed",
        [Label { name: "agrees", values: "`true`, `false`" }];
    PLANNER_DEGRADED = "omnilink_planner_degraded_total", Kind::Counter, Count,
        "Goals that were planned without an unavailable component, by component",
        [Label { name: "what", values: "`embeddings_unavailable`, `qdrant_unavailable`, `planner_unavailable`, `guardian_llm_unavailable`" }];
    PLAN_ANSWER_APPENDS = "omnilink_plan_answer_appends_total", Kind::Counter, Count,
        "Appends of plans to `commands`; plans that are available together are one append",
        [];
    NOTIFICATIONS = "omnilink_notifications_total", Kind::Counter, Count,
        "Attempts to send a notification, by outcome",
        [
            Label { name: "on", values: "as in `notify`: `approval.requested`, `incident`, `run.failed`, `run.denied`, `dlq`, `stalled`, `control.changed`" },
            Label { name: "to", values: "`webhook`, `smtp`" },
            Label { name: "outcome", values: "`sent`; `failed`: it is sent again; `given_up`: for a day it was not taken" }
        ];
    TASK_CLAIMS = "omnilink_task_claims_total", Kind::Counter, Count,
        "Tasks that workers claimed over HTTP, by result",
        [Label { name: "result", values: "`granted`, `refused` (its run had gone on)" }];
    PORT_INVALID_KEYS = "omnilink_port_invalid_keys_total", Kind::Counter, Count,
        "Requests with a key that is not valid",
        [];
    JWKS_FETCHES = "omnilink_jwks_fetches_total", Kind::Counter, Count,
        "Fetches of the key sets of the issuers in auth.jwt",
        [Label { name: "result", values: "`ok`, `failed`" }];
    PORT_LIMITED = "omnilink_port_limited_total", Kind::Counter, Count,
        "Items, or requests in flight, that a limit refused",
        [Label { name: "limit", values: "`max_rpm`, `max_concurrency` (of the key), `policy` (any of limits.policies)" }];
    PORT_LIMIT_WARNINGS = "omnilink_port_limit_warnings_total", Kind::Counter, Count,
        "Items, or requests in flight, over the limits of a key made before limits were enforced, and let in",
        [Label { name: "limit", values: "`max_rpm`, `max_concurrency`" }];
    LIMITS_DEGRADED = "omnilink_limits_degraded_total", Kind::Counter, Count,
        "Decisions about a limit without Redis, or with a Redis that lost what it held, by what the limit does then",
        [Label { name: "on_backend_down", values: "`open`, `closed`, `local`" }];
    LIMITS_EVICTED = "omnilink_limits_windows_evicted_total", Kind::Counter, Count,
        "Windows of limits that were evicted early because there were too many",
        [];
    PORT_CONNECTIONS = "omnilink_port_connections", Kind::Gauge, Count,
        "Open connections to the port",
        [];
    PORT_CONNECTIONS_REFUSED = "omnilink_port_connections_refused_total", Kind::Counter, Count,
        "Connections that the port closed before their first request",
        [Label { name: "reason", values: "`address` (one address has as many as it may have), `handshake` (the TLS handshake failed or took longer than 10 s)" }];
    ADMISSION_RECORDS = "omnilink_admission_records_total", Kind::Counter, Count,
        "Events and starts that admission read from ingress, by outcome (rejected ones: omnilink_dlq_records_total)",
        [Label { name: "outcome", values: "`admitted`, `duplicate`, `passed_on` (forwarded to the partition of its key), `started` (a start, whose record went to commands)" }];
    TRIGGERS = "omnilink_triggers_total", Kind::Counter, Count,
        "Triggers of workflows that fired, by what they wait for and outcome",
        [Label { name: "kind", values: "`event`, `cron`" },
         Label { name: "outcome", values: "`started`, `failed` (a dead letter of the stage `trigger.{workflow}`)" }];
    RUNS_STARTED = "omnilink_runs_started_total", Kind::Counter, Count,
        "Runs that were started", [];
    RUNS_ENDED = "omnilink_runs_ended_total", Kind::Counter, Count,
        "Runs that have ended, by status",
        [Label { name: "status", values: "`succeeded`, `failed`, `denied`, `cancelled`" }];
    SAGA_IGNORED = "omnilink_saga_ignored_total", Kind::Counter, Count,
        "Records about attempts or runs that are over, such as late and repeated results", [];
    PROCESSOR_LAG_RECORDS = "omnilink_processor_lag_records", Kind::Gauge, Count,
        "Records waiting in the partitions assigned to this node, including those of open transactions; measured every 5 s",
        [PROCESSOR];
    PROCESSOR_LAG_SECONDS = "omnilink_processor_lag_seconds", Kind::Gauge, Seconds,
        "Age of the oldest record waiting in the partitions assigned to this node; measured every 5 s",
        [PROCESSOR];
    PROCESSOR_STALLED = "omnilink_processor_stalled", Kind::Gauge, Bool,
        "1 if records wait, or an error repeats, and no position has moved for 10 s; /readyz has the reason. 0 during a wait that /readyz names",
        [PROCESSOR];
    DLQ_RECORDS = "omnilink_dlq_records_total", Kind::Counter, Count,
        "Records written to the dead-letter queue",
        [Label { name: "stage", values: "the processor that rejected the record" },
         Label { name: "code", values: "the reason: a stable code such as `invalid_payload`, `vrl_error`, `postgres_22003`" }];
    POSITION_RESETS = "omnilink_position_resets_total", Kind::Counter, Count,
        "Partitions that did not resume at the committed position, by reason; /readyz names them for a day",
        [Label { name: "processor", values: "`admission`, `saga`, `workers`, `planner`, each projection, each `notify.…`, each stage of each topology; `controls`, `plans` and `cron`, which each node follows in memory" },
         Label { name: "reason", values: "`recreated` (the topic was deleted and recreated), `retention` (it deleted unread records), `changelog` (the changelog of its state was recreated)" }];
    LOST_OFFSETS = "omnilink_lost_offsets_total", Kind::Counter, Count,
        "Offsets that retention or an administrator deleted before they were read",
        [PROCESSOR];
    PROJECTION_EVENTS = "omnilink_projection_events_total", Kind::Counter, Count,
        "Events written to Postgres",
        [];
    PROJECTION_ENTITIES = "omnilink_projection_entities_total", Kind::Counter, Count,
        "Entities written to Postgres, each counted once per transaction",
        [];
    PROJECTION_COMMITS = "omnilink_projection_commits_total", Kind::Counter, Count,
        "Transactions of the projection that Postgres committed",
        [];
    PROJECTION_DELAY = "omnilink_projection_delay_seconds", Kind::Histogram(DELAY_BUCKETS), Seconds,
        "Time from an event's append to the topic events until its row is visible; for each transaction that of its oldest event",
        [];
    CONTROLS_REFUSED = "omnilink_controls_refused_total", Kind::Counter, Count,
        "Records on the topic controls that were refused: an old version, no version, or not sealed with secret_key",
        [];
    AUDIT_ENTRIES = "omnilink_audit_entries_total", Kind::Counter, Count,
        "Entries of the audit log, by outcome",
        [Label { name: "outcome", values: "`recorded`, `dropped` (too many waited for the log)" }];
    SCHEMA_REGISTRY_FETCHES = "omnilink_schema_registry_fetches_total", Kind::Counter, Count,
        "Schemas requested from schema_registry.url, by outcome",
        [Label { name: "outcome", values: "`ok`, `refused`, `away` (no response; retried)" }];
    PROCESS_CPU_SECONDS = "process_cpu_seconds_total", Kind::Counter, Seconds,
        "Processor time of this process, user and system",
        [];
    PROCESS_RESIDENT_BYTES = "process_resident_memory_bytes", Kind::Gauge, Bytes,
        "Resident memory of this process",
        [];
    PROCESS_VIRTUAL_BYTES = "process_virtual_memory_bytes", Kind::Gauge, Bytes,
        "Virtual memory of this process",
        [];
    PROCESS_OPEN_FDS = "process_open_fds", Kind::Gauge, Count,
        "Open file descriptors of this process",
        [];
    PROCESS_MAX_FDS = "process_max_fds", Kind::Gauge, Count,
        "Limit of open file descriptors of this process",
        [];
    PROCESS_START_TIME = "process_start_time_seconds", Kind::Gauge, Seconds,
        "Start time of this process, in seconds since the Unix epoch",
        [];
}

/// Old and new names of renamed metrics.
pub static RENAMED: &[(&str, &str)] = &[
    (
        "omnilink_admission_total",
        "omnilink_admission_records_total",
    ),
    ("omnilink_lag_records", "omnilink_processor_lag_records"),
    ("omnilink_lag_age_seconds", "omnilink_processor_lag_seconds"),
    (
        "omnilink_port_request_seconds",
        "omnilink_port_request_duration_seconds",
    ),
    (
        "omnilink_port_wrong_keys_total",
        "omnilink_port_invalid_keys_total",
    ),
    ("omnilink_stalled", "omnilink_processor_stalled"),
];

/// Interval for [`run_upkeep`]: histograms keep every value until then.
pub const UPKEEP: Duration = Duration::from_secs(5);

/// The recorder; the first call installs it.
pub(super) fn recorder() -> &'static PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    let mut installed = false;
    let handle = HANDLE.get_or_init(|| {
        let mut builder = PrometheusBuilder::new();
        for metric in ALL {
            if let Kind::Histogram(buckets) = metric.kind {
                let name = Matcher::Full(metric.name.to_owned());
                // Fails only for an empty list of buckets.
                builder = builder
                    .set_buckets_for_metric(name, buckets)
                    .unwrap_or_default();
            }
        }
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        // Fails if a program that embeds this crate has installed its own, which stays.
        let _ = metrics::set_global_recorder(recorder);
        installed = true;
        handle
    });
    if installed {
        describe();
    }
    handle
}

fn describe() {
    for Definition {
        name, kind, help, ..
    } in ALL
    {
        match kind {
            Kind::Counter => metrics::describe_counter!(*name, *help),
            Kind::Gauge => metrics::describe_gauge!(*name, *help),
            Kind::Histogram(_) => metrics::describe_histogram!(*name, *help),
        }
    }
    BUILD_INFO.gauge(&[env!("CARGO_PKG_VERSION")]).set(1.0);
}

/// Installs the recorder, so that `/metrics` is complete from the start.
pub fn install() {
    recorder();
}

/// Moves recorded values of histograms into their buckets.
pub fn run_upkeep() {
    recorder().run_upkeep();
}

/// Limit of distinct values of the label `code`. Codes are constants of the program, or `postgres_` and an SQLSTATE.
const MAX_CODES: usize = 200;

/// Counts a record that went to the dead-letter queue.
pub(crate) fn count_dead_letter(stage: &str, code: &str) {
    static SEEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut seen = SEEN.lock();
    let known = seen.contains(code) || seen.len() < MAX_CODES && seen.insert(code.to_owned());
    drop(seen);
    let code = if known { code } else { "other" };
    DLQ_RECORDS.counter(&[stage, code]).increment(1);
}

/// The page `docs/metrics.md`.
pub fn page() -> String {
    let mut page = String::from(
        "# Metrics\n\n\
         `GET /metrics` answers in Prometheus's text format, without a key. Names and labels are stable from this version on. No label\n\
         contains a tenant. This page is generated from `src/telemetry/metrics.rs`: change it there, then run\n\
         `OMNILINK_UPDATE_DOCS=1 cargo test --all-features --lib telemetry::metrics`.\n\n\
         | metric | kind | unit | description |\n|---|---|---|---|\n",
    );
    // Writing to a `String` cannot fail.
    for Definition {
        name,
        kind,
        unit,
        help,
        ..
    } in ALL
    {
        let (kind, unit) = (kind.name(), unit.name());
        let _ = writeln!(page, "| `{name}` | {kind} | {unit} | {help} |");
    }
    page.push_str("\n## Labels\n\n| metric | label | values |\n|---|---|---|\n");
    for metric in ALL {
        for Label { name, values } in metric.labels {
            let _ = writeln!(page, "| `{}` | `{name}` | {values} |", metric.name);
        }
    }
    page.push_str("\n## Buckets\n\n| histogram | upper bounds, in seconds |\n|---|---|\n");
    for metric in ALL {
        if let Kind::Histogram(buckets) = metric.kind {
            let bounds: Vec<String> = buckets.iter().map(ToString::to_string).collect();
            let _ = writeln!(page, "| `{}` | {} |", metric.name, bounds.join(", "));
        }
    }
    page.push_str(
        "\n## What to watch\n\n\
         - `omnilink_processor_stalled == 1`: a processor has stopped; the node's `/readyz` has the reason, `omnilink doctor` checks all nodes.\n\
         - `omnilink_processor_lag_seconds`: grows while a processor is behind, stalled or waiting.\n\
         - `rate(omnilink_dlq_records_total[5m])`: records that are not processed until they are redriven.\n\n\
         ## Old names\n\nNames in builds before release 0.1:\n\n| old | new |\n|---|---|\n",
    );
    for (old, new) in RENAMED {
        let _ = writeln!(page, "| `{old}` | `{new}` |");
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_matches_the_registry() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
        if std::env::var_os("OMNILINK_UPDATE_DOCS").is_some() {
            std::fs::write(path, page()).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            found == page(),
            "docs/metrics.md does not match src/telemetry/metrics.rs; \
             OMNILINK_UPDATE_DOCS=1 cargo test --all-features --lib telemetry::metrics updates it"
        );
    }

    #[test]
    fn names_follow_the_conventions() {
        let mut names = BTreeSet::new();
        for metric in ALL {
            let name = metric.name;
            assert!(names.insert(name), "{name} is a duplicate");
            assert!(
                !metric.help.is_empty() && !metric.help.contains('\n'),
                "{name}"
            );
            assert!(
                name.starts_with("omnilink_") || name.starts_with("process_"),
                "{name}"
            );
            let plain = |b: u8| b.is_ascii_lowercase() || b == b'_';
            assert!(name.bytes().all(plain), "{name}");
            assert_eq!(
                name.ends_with("_total"),
                metric.kind == Kind::Counter,
                "{name}"
            );
            let stem = name.strip_suffix("_total").unwrap_or(name);
            assert_eq!(
                stem.ends_with("_seconds"),
                metric.unit == Unit::Seconds,
                "{name}"
            );
            assert_eq!(
                stem.ends_with("_bytes"),
                metric.unit == Unit::Bytes,
                "{name}"
            );
            if let Kind::Histogram(buckets) = metric.kind {
                assert!(buckets.is_sorted() && !buckets.is_empty(), "{name}");
            }
            for label in metric.labels {
                let private = ["tenant", "key", "id", "le", "quantile"];
                assert!(!private.contains(&label.name), "{name}: {}", label.name);
            }
        }
        for (old, new) in RENAMED {
            assert!(names.contains(new) && !names.contains(old), "{old} → {new}");
        }
    }

    /// A metric outside the registry would have no description and be missing in the page.
    #[test]
    fn metrics_are_created_only_in_the_registry() {
        fn walk(dir: &std::path::Path, found: &mut Vec<String>) {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, found);
                    continue;
                }
                let text = std::fs::read_to_string(&path).unwrap();
                let makes = ["counter!(", "gauge!(", "histogram!("];
                if !path.ends_with("telemetry/metrics.rs") && makes.iter().any(|m| text.contains(m))
                {
                    found.push(path.display().to_string());
                }
            }
        }
        let mut found = Vec::new();
        walk(
            concat!(env!("CARGO_MANIFEST_DIR"), "/src").as_ref(),
            &mut found,
        );
        assert_eq!(found, [""; 0]);
    }

    #[test]
    fn every_rendered_metric_has_a_description() {
        install();
        PORT_REQUEST_DURATION.histogram(&[]).record(0.003);
        count_dead_letter("tests", "invalid_payload");
        let text = crate::telemetry::render_metrics();
        for line in [
            "# TYPE omnilink_port_request_duration_seconds histogram",
            "omnilink_port_request_duration_seconds_bucket{le=\"0.005\"}",
            "# TYPE omnilink_dlq_records_total counter",
            "omnilink_dlq_records_total{stage=\"tests\",code=\"invalid_payload\"} 1",
            "omnilink_build_info{version=",
            "# HELP omnilink_build_info ",
            "# TYPE process_cpu_seconds_total counter",
            "# TYPE process_start_time_seconds gauge",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let name = line.split(' ').next().unwrap_or_default();
            assert!(
                text.contains(&format!("# HELP {name} ")),
                "{name} has no description"
            );
        }
        let value = |name: &str| -> f64 {
            let line = text
                .lines()
                .find_map(|l| l.strip_prefix(&format!("{name} ")));
            line.unwrap().parse().unwrap()
        };
        let now =
            crate::base::clock::Clock::now(&crate::base::clock::SystemClock).0 as f64 / 1000.0;
        let age = now - value("process_start_time_seconds");
        assert!((-2.0..36_000.0).contains(&age), "{age}");
        assert!(value("process_resident_memory_bytes") > 1e6);
        assert!(value("process_open_fds") >= 3.0);
        assert!(value("process_max_fds") >= value("process_open_fds"));
    }
}
