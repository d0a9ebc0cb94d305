//! The content of a notification, built from the record of what happened. It does not include payloads.

use serde_json::{Map, Value, json};

use crate::{
    audit::{Entry, NO_TENANT},
    base::clock::Millis,
    config::NotifyOn,
    log::{Fetched, topics::Names},
    runs::{ApprovalRequest, Event, RunError, RunRecord},
    stream::dlq::letters::field,
};

/// The audit action for a processor that makes no progress.
pub const STALLED: &str = "processor.stalled";
/// The audit action for a change of an emergency control.
const CHANGED: &str = "control.changed";

/// The topics that record what is notified.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Source {
    Runs,
    Audit,
    Dlq,
}

impl Source {
    /// The topic that records this.
    pub(super) fn of(on: NotifyOn) -> Self {
        match on {
            NotifyOn::ApprovalRequested
            | NotifyOn::Incident
            | NotifyOn::RunFailed
            | NotifyOn::RunDenied => Self::Runs,
            NotifyOn::Stalled | NotifyOn::ControlChanged => Self::Audit,
            NotifyOn::Dlq => Self::Dlq,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Runs => "runs",
            Self::Audit => "audit",
            Self::Dlq => "dlq",
        }
    }

    pub(super) fn topic(self, names: &Names) -> &str {
        match self {
            Self::Runs => &names.runs,
            Self::Audit => &names.audit,
            Self::Dlq => &names.dlq,
        }
    }

    /// The notification for a record; `None` if there is none.
    pub(super) fn read(self, record: &Fetched) -> Option<Notice> {
        let value = record.record.value.as_deref();
        match self {
            Self::Runs => Notice::of_run(&RunRecord::decode(value?)?),
            Self::Audit => Notice::of_entry(&Entry::decode(value?)?),
            Self::Dlq => Notice::of_letter(record),
        }
    }
}

/// Something to notify.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Notice {
    pub(super) on: NotifyOn,
    /// The same each time it is sent.
    pub(super) id: String,
    /// The tenant concerned; `None` for the whole installation.
    pub(super) tenant: Option<String>,
    pub(super) at: Millis,
    /// One line.
    pub(super) subject: String,
    /// A path on the port with more information.
    pub(super) path: String,
    /// A command that shows more.
    pub(super) command: String,
    /// The additional members of the webhook's `data`.
    pub(super) data: Map<String, Value>,
    /// Notifications with the same value are suppressed for a while.
    pub(super) suppression_key: Option<String>,
}

impl Notice {
    fn of_run(record: &RunRecord) -> Option<Self> {
        // Most records are not notified, so their bodies are not parsed.
        let on = match &*record.kind {
            "approval_requested" => NotifyOn::ApprovalRequested,
            "incident_opened" => NotifyOn::Incident,
            "run_failed" => NotifyOn::RunFailed,
            "run_denied" => NotifyOn::RunDenied,
            _ => return None,
        };
        let run = &record.run_id;
        let (subject, mut data) = match record.event()? {
            Event::ApprovalRequested(request) => (
                format!("Run {run} waits for an approval"),
                of_request(&request),
            ),
            Event::IncidentOpened(request) => (
                format!("Run {run} waits for a decision about a failed step"),
                of_request(&request),
            ),
            Event::RunFailed { error } => (format!("Run {run} has failed"), of_error(&error)),
            Event::RunDenied { error } => (format!("Run {run} was denied"), of_error(&error)),
            _ => return None,
        };
        data.insert("run_id".into(), run.clone().into());
        let asks = matches!(on, NotifyOn::ApprovalRequested | NotifyOn::Incident);
        let approval = format!("{run}.{}", record.seq);
        let command = if asks {
            data.insert("approval_id".into(), approval.clone().into());
            format!("omnilink approvals show {approval}")
        } else {
            format!("omnilink runs show {run}")
        };
        Some(Self {
            on,
            id: format!("{}:{approval}", on.name()),
            tenant: Some(record.tenant.clone()),
            at: Millis(record.at),
            subject,
            path: format!("/v1/runs/{run}"),
            command,
            data,
            suppression_key: None,
        })
    }

    fn of_entry(entry: &Entry) -> Option<Self> {
        let detail: Map<String, Value> = serde_json::from_str(&entry.detail).unwrap_or_default();
        let resource = entry.resource_id.clone().unwrap_or_default();
        let (on, subject, path, command, suppression_key) = match &*entry.action {
            CHANGED if entry.outcome == "ok" => (
                NotifyOn::ControlChanged,
                "An emergency control was changed".to_owned(),
                "/v1/controls",
                "omnilink controls show",
                None,
            ),
            STALLED => (
                NotifyOn::Stalled,
                format!("The processor {resource} makes no progress"),
                "/readyz",
                "omnilink doctor",
                Some(resource.clone()),
            ),
            _ => return None,
        };
        let mut data = detail;
        if on == NotifyOn::Stalled {
            data.insert("processor".into(), resource.into());
        } else {
            data.insert("principal".into(), json!(entry.principal));
        }
        Some(Self {
            on,
            id: format!("{}:{}", on.name(), entry.id),
            tenant: Some(entry.tenant.clone()).filter(|tenant| tenant != NO_TENANT),
            at: Millis(entry.at.div_euclid(1000)),
            subject,
            path: path.to_owned(),
            command: command.to_owned(),
            data,
            suppression_key,
        })
    }

    fn of_letter(letter: &Fetched) -> Option<Self> {
        let text = |name| field(letter, name).unwrap_or_default();
        let (stage, code) = (text("stage"), text("code"));
        // A notification about a failed notification would lead to the next one.
        if stage.starts_with(super::PREFIX) {
            return None;
        }
        let name = format!("{}:{}", letter.partition, letter.offset);
        let data = json!({ "letter": name, "topic": text("topic"), "stage": stage, "code": code });
        Some(Self {
            on: NotifyOn::Dlq,
            id: format!("dlq:{name}"),
            tenant: None,
            at: letter.timestamp,
            subject: format!("A record became a dead letter: {code}, in {stage}"),
            path: "/v1/dlq".to_owned(),
            command: format!("omnilink dlq show {name}"),
            data: object(data),
            suppression_key: Some(format!("{stage} {code}")),
        })
    }
}

fn of_request(request: &ApprovalRequest) -> Map<String, Value> {
    object(json!({
        "step_id": request.step_id, "kind": request.kind, "lane": request.lane, "risk_score": request.risk_score, "reasons": request.reasons,
        "expires_at": request.expires_at,
    }))
}

fn of_error(error: &RunError) -> Map<String, Value> {
    object(json!({ "failed_step_id": error.failed_step_id, "code": error.code }))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(mut object) => {
            object.retain(|_, value| !value.is_null());
            object
        }
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{audit::Outcome, log::Record, runs::StepError};

    fn fetched(record: Record) -> Fetched {
        Fetched {
            topic: 0,
            partition: 2,
            offset: 7,
            timestamp: Millis(5_000),
            record,
        }
    }

    #[test]
    fn an_end_without_success_is_told_without_its_payload() {
        let error = RunError {
            failed_step_id: Some("pay".into()),
            code: "no_funds".into(),
            message: "the account of Bob is empty".into(),
            compensation_results: Vec::new(),
        };
        let event = Event::RunFailed {
            error: Box::new(error),
        };
        let record = RunRecord::new(("acme", "r"), 9, &event, Millis(4), None);
        let notice = Source::Runs
            .read(&fetched(record.encode().unwrap()))
            .unwrap();
        assert_eq!(
            (notice.on, &*notice.id),
            (NotifyOn::RunFailed, "run.failed:r.9")
        );
        assert_eq!(notice.tenant.as_deref(), Some("acme"));
        assert_eq!(
            Value::Object(notice.data.clone()),
            json!({ "run_id": "r", "failed_step_id": "pay", "code": "no_funds" })
        );
        assert!(!format!("{notice:?}").contains("Bob"), "{notice:?}");
        let other = Event::StepUnknown {
            step_id: "pay".into(),
            attempt: 1,
            error: StepError::new("no_answer", ""),
        };
        let record = RunRecord::new(("acme", "r"), 8, &other, Millis(4), None);
        assert_eq!(Source::Runs.read(&fetched(record.encode().unwrap())), None);
    }

    #[test]
    fn letters_about_notifications_are_not_told() {
        let letter = |stage: &str| {
            let header = |name: &str, value: &str| {
                let name = format!("{}{name}", crate::stream::dlq::PREFIX);
                (name, Some(value.to_owned().into()))
            };
            let headers = vec![header("stage", stage), header("code", "invalid_payload")];
            fetched(Record {
                key: None,
                value: Some("secret".into()),
                headers,
            })
        };
        let notice = Source::Dlq.read(&letter("admission")).unwrap();
        assert_eq!(&*notice.id, "dlq:2:7");
        assert_eq!(
            notice.suppression_key.as_deref(),
            Some("admission invalid_payload")
        );
        assert_eq!(notice.command, "omnilink dlq show 2:7");
        assert_eq!(Source::Dlq.read(&letter("notify.runs.00")), None);
    }

    #[test]
    fn of_the_audit_log_controls_and_stalls_are_told() {
        let told = |entry: Entry| Source::Audit.read(&fetched(entry.encode().unwrap()));
        let entry = |action| {
            Entry::new(None, action, Outcome::Ok, Millis(5)).resource("processor", "admission")
        };
        let stalled = told(entry(STALLED)).unwrap();
        assert_eq!((stalled.on, stalled.tenant), (NotifyOn::Stalled, None));
        assert_eq!(stalled.suppression_key.as_deref(), Some("admission"));
        assert_eq!(told(entry(CHANGED)).unwrap().on, NotifyOn::ControlChanged);
        assert_eq!(told(entry("key.created")), None);
        let failed = Entry::new(None, CHANGED, Outcome::Failed, Millis(5));
        assert_eq!(told(failed), None);
    }
}
