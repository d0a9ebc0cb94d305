//! Sends a message to a run: appends one record to `commands`, then waits for the run's answer.
//!
//! The request follows its run before it appends, so that it does not miss the answer; of a run that another node carries out the answer
//! is read from the log. The log commits the records of many requests together.

use std::time::Duration;

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::{recent::DecisionHash, sent::Controller};
use crate::{
    api::{
        problem::{APPROVAL_NOT_OPEN, Code, NOT_FOUND, OVERLOADED, RUN_ENDED},
        run_controls::{ControlStatus, RunControlled},
    },
    audit::Outcome,
    commands::Command,
    limits::Lease,
    log::{Append, Position},
    port::{
        problem::{Problem, Refused},
        rest::{
            audit::{read, store},
            wait::has_ended,
        },
    },
    runs::{Decided, Decision},
    saga::{Answer, Follower, Listening, Notice},
    store::runs as rows,
};

/// The time limit for the append.
const APPEND_DEADLINE: Duration = Duration::from_secs(5);
/// The time limit for the run's answer, after the append.
const ANSWER_DEADLINE: Duration = Duration::from_secs(2);
/// How long the rows of a run that has ended may take to say so.
const ROW_DEADLINE: Duration = Duration::from_secs(2);
/// How often they are looked at.
const ROW_EVERY: Duration = Duration::from_millis(50);

/// A message for a run.
pub(super) struct Message<'a, B> {
    /// The kind of the command record.
    pub(super) kind: &'static str,
    /// The body of the command record.
    pub(super) body: B,
    /// The action in the audit log.
    pub(super) action: &'static str,
    /// The details in the audit log.
    pub(super) detail: Map<String, Value>,
    /// Set if the message is a decision about an approval.
    pub(super) decision: Option<ApprovalDecision<'a>>,
}

/// The decision about an approval.
pub(super) struct ApprovalDecision<'a> {
    /// The approval's id.
    pub(super) approval_id: &'a str,
    /// Equal for the same decision by the same person.
    pub(super) decision_hash: DecisionHash,
    /// The approval's number.
    pub(super) approval: u64,
    /// The decision.
    pub(super) decision: Decision,
    /// The hash of a changed input, the output of a skipped step, or a plan.
    pub(super) given: Option<String>,
}

impl Controller {
    /// Appends the message, waits for the run's answer, and records both in the audit log.
    pub(super) async fn send<B: Serialize>(
        mut self,
        run: Uuid,
        message: Message<'_, B>,
    ) -> Result<Response, Refused> {
        let run_id = run.to_string();
        let in_flight = self.in_flight.take();
        let result = self.deliver(run, &message, in_flight).await;
        // Does not use `refuse`, because the refusal is already in the audit log.
        let status = result.map_err(|problem| Refused::new(problem, self.caller.request_id()))?;
        let code = match status {
            ControlStatus::Done => StatusCode::OK,
            ControlStatus::Accepted => StatusCode::ACCEPTED,
        };
        let poll_url = format!("/v1/runs/{run_id}");
        let controlled = RunControlled {
            run_id,
            approval_id: message.decision.map(|of| of.approval_id.to_owned()),
            status,
            poll_url,
        };
        Ok((code, Json(controlled)).into_response())
    }

    /// As [`Controller::send`], without the HTTP answer. `in_flight` is released when the record is in the log.
    pub(super) async fn deliver<B: Serialize>(
        &self,
        run: Uuid,
        message: &Message<'_, B>,
        in_flight: Option<Lease>,
    ) -> Result<ControlStatus, Problem> {
        let run_id = run.to_string();
        let result = match self.exchange(run, &run_id, message, in_flight).await {
            Err(problem) => Err(problem),
            Ok(None) => Ok(ControlStatus::Accepted),
            Ok(Some(
                Answer::Done | Answer::Started { .. } | Answer::Ignored | Answer::Duplicate { .. },
            )) => {
                if let Some(of) = &message.decision {
                    let decided = &self.caller.shared.controlling.decided;
                    decided.remember(of.approval_id, of.decision_hash);
                }
                Ok(ControlStatus::Done)
            }
            Ok(Some(Answer::Refused { code, message: why })) => {
                let decision = message.decision.as_ref();
                if self.repeats_decision(&run_id, code, decision).await {
                    Ok(ControlStatus::Done)
                } else {
                    Err(refused(code, why))
                }
            }
            Ok(Some(Answer::UnknownRun)) => {
                let detail = "there is no such run, or it ended too long ago";
                Err(Problem::new(&NOT_FOUND, detail))
            }
        };
        self.record(&run_id, message, result.as_ref()).await;
        result
    }

    /// Whether a run that refuses a decision has accepted the same decision by the same person before. A run that has not ended has
    /// already checked this itself.
    async fn repeats_decision(
        &self,
        run_id: &str,
        code: &str,
        of: Option<&ApprovalDecision<'_>>,
    ) -> bool {
        let Some(of) = of.filter(|_| is_over(code)) else {
            return false;
        };
        let recent = &self.caller.shared.controlling.decided;
        if recent.has(of.approval_id, of.decision_hash) {
            return true;
        }
        if code != RUN_ENDED.code {
            return false;
        }
        let Some(made) = self.decided(run_id, of.approval).await else {
            return false;
        };
        made.decision == of.decision
            && made.by == self.caller.key.principal
            && made.given() == of.given
    }

    /// Reads the decision about an approval from the rows of a run that has ended, which may be written a little later; `None` if there is
    /// none, or Postgres does not answer.
    async fn decided(&self, run_id: &str, approval: u64) -> Option<Decided> {
        let store = store(&self.caller).ok()?;
        let of = (self.tenant.as_str(), run_id);
        let until = Instant::now() + ROW_DEADLINE;
        loop {
            // Read first: if the row shows the end, the record of the decision is there too.
            let head = read(&self.caller, rows::run_head(&store, of.0, of.1));
            let ended = head.await.ok()?.is_some_and(|head| has_ended(&head));
            let record = read(&self.caller, rows::decision(&store, of, approval));
            if let Some(record) = record.await.ok()? {
                return serde_json::from_str(&record).ok();
            }
            if ended || Instant::now() >= until {
                return None;
            }
            sleep(ROW_EVERY).await;
        }
    }

    /// Returns `None` if the run did not answer in time.
    async fn exchange<B: Serialize>(
        &self,
        run: Uuid,
        run_id: &str,
        message: &Message<'_, B>,
        in_flight: Option<Lease>,
    ) -> Result<Option<Answer>, Problem> {
        let shared = &self.caller.shared;
        let Ok(permit) = shared.controlling.appends.try_acquire() else {
            let detail = "too many requests that control runs at once; send it again";
            return Err(Problem::new(&OVERLOADED, detail).retry_after(1));
        };
        let command = Command {
            tenant: self.tenant.to_string(),
            run_id: run_id.to_owned(),
            kind: message.kind.to_owned(),
            at: shared.clock.now().0.saturating_mul(1000),
            principal: self.caller.key.principal.clone(),
            on_behalf_of: self.caller.on_behalf_of.clone(),
            traceparent: self.trace.parent.clone(),
            tracestate: self.trace.state.clone(),
            // Serializing cannot fail: the body consists of text, numbers and JSON that were checked.
            body: serde_json::to_string(&message.body).unwrap_or_default(),
        };
        let Ok(record) = command.encode() else {
            return Err(Problem::invalid(
                "the request cannot be encoded as a record",
            ));
        };
        let follower = shared.followers.follow(run);
        let _listening = self.listen(run_id).await;
        let append = Append {
            topic: std::sync::Arc::clone(&shared.commands),
            record,
        };
        let acknowledged = shared.tools.log.append(vec![append], None);
        let positions = match timeout(APPEND_DEADLINE, acknowledged).await {
            Ok(Ok(Ok(positions))) => positions,
            Ok(Ok(Err(error))) => {
                tracing::warn!(%error, "a run control could not be appended");
                return Err(Problem::log_unavailable());
            }
            // The log is closing or slow.
            Ok(Err(_)) | Err(_) => return Err(Problem::log_unavailable()),
        };
        drop(permit);
        drop(in_flight);
        let Some(position) = positions.first().copied() else {
            return Ok(None);
        };
        let answer = timeout(ANSWER_DEADLINE, answer_to(position, follower)).await;
        Ok(answer.ok().flatten())
    }

    /// Listens to the run's answers if another node may carry it out.
    async fn listen(&self, run_id: &str) -> Option<Listening> {
        let answers = self.caller.shared.answers.as_ref()?;
        answers.listen(run_id, &self.tenant).await
    }

    async fn record<B>(
        &self,
        run_id: &str,
        message: &Message<'_, B>,
        result: Result<&ControlStatus, &Problem>,
    ) {
        let mut detail = message.detail.clone();
        let outcome = match result {
            Ok(ControlStatus::Done) => Outcome::Ok,
            // If the run refuses it, the saga processor writes an entry.
            Ok(ControlStatus::Accepted) => Outcome::Accepted,
            Err(problem) => {
                let (status, code, _) = problem.summary();
                detail.insert("code".into(), code.into());
                if status == StatusCode::FORBIDDEN.as_u16() {
                    Outcome::Denied
                } else {
                    Outcome::Failed
                }
            }
        };
        let (kind, id) = match &message.decision {
            Some(decision) => ("approval", decision.approval_id),
            None => ("run", run_id),
        };
        let entry = self
            .caller
            .audit_entry(&self.tenant, message.action, outcome)
            .resource(kind, id)
            .detail(detail);
        self.caller.shared.audit.record_durably(entry).await;
    }
}

/// Waits for the run's answer to the record at this position.
async fn answer_to(position: Position, mut follower: Follower) -> Option<Answer> {
    loop {
        if let Notice::Answered {
            partition,
            offset,
            answer,
        } = follower.next().await?
            && (partition, offset) == (position.partition, position.offset)
        {
            return Some(answer);
        }
    }
}

/// Whether a refusal means that the approval is no longer open.
fn is_over(code: &str) -> bool {
    [&APPROVAL_NOT_OPEN, &RUN_ENDED]
        .iter()
        .any(|of| of.code == code)
}

/// Converts a run's refusal.
fn refused(code: &'static str, message: String) -> Problem {
    match Code::of(code) {
        Some(known) => Problem::named(known, code, message),
        // A code that is not in the table is treated as a conflict.
        None => Problem::named(&RUN_ENDED, code, message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::saga::Refusal;

    #[test]
    fn every_refusal_of_a_run_is_in_the_table_of_codes() {
        for (place, refusal) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(refusal as usize, place, "one before {refusal:?} is missing");
            let (code, why) = (refusal.code(), refusal.to_string());
            let known = Code::of(code).unwrap_or_else(|| panic!("{code}"));
            let expected = match refusal {
                Refusal::SelfApproval => 403,
                Refusal::InvalidInput | Refusal::PlanRequired | Refusal::InvalidPlan => 400,
                Refusal::OutputTooLarge | Refusal::PlanTooLarge => 413,
                _ => 409,
            };
            assert_eq!((known.code, known.status), (code, expected));
            let problem = refused(code, why.clone());
            assert_eq!(problem.summary(), (expected, code, &*why));
        }
        // A code that is not in the table is treated as a conflict.
        let problem = refused("of_a_later_version", "no".into());
        assert_eq!(problem.summary(), (409, "of_a_later_version", "no"));
    }
}
