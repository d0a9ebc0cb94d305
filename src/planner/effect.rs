//! Carries out one request: the effect over `goals`.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    NAME, Planner,
    answer::{Answered, no_plan},
    answered::Answers,
    goal::Goal,
};
use crate::{
    base::clock::Millis,
    commands::{
        Command,
        plan::{KIND, PlanAnswer},
    },
    controls::Controls,
    log::{Append, Fetched, Log, topics::Names},
    runs::PlanRequest,
    stream::{
        appends::{Appends, Closing},
        effect::Effect,
    },
    telemetry::metrics::{PLAN_ANSWER_APPENDS, PLAN_LABELS},
};

/// The time limit of a request, from when it was made: language models included. The run makes another one after ten minutes.
const LIMIT: Duration = Duration::from_mins(8);
/// The time that a request has which was taken up late.
const AT_LEAST: Duration = Duration::from_mins(1);
/// How much longer the rest of the planner may take than its language models.
const MORE: Duration = Duration::from_secs(10);
/// How long goals wait for the topic `plans` to be read after a start.
const READ_LIMIT: Duration = Duration::from_secs(10);
/// How often a held request looks at the controls, if it was not notified.
const HELD_EVERY: Duration = Duration::from_secs(1);

/// The dependencies of the effect.
pub struct EffectParts {
    /// The emergency controls.
    pub controls: Arc<Controls>,
    /// How long a stop waits for calls in flight; [`super::DRAIN`] in production.
    pub drain: Duration,
}

/// The effect.
pub(super) struct Planning {
    planner: Planner,
    controls: Arc<Controls>,
    answers: Arc<Answers>,
    appends: Appends,
    commands: Arc<str>,
    plans: Arc<str>,
}

impl Effect for Planning {
    fn call(
        &self,
        input: Fetched,
        repeated: bool,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.carry_out(input, repeated))
    }
}

impl Planning {
    /// Starts the task that appends, on the current runtime.
    pub(super) fn new(
        planner: Planner,
        parts: EffectParts,
        log: &Arc<dyn Log>,
        names: &Names,
    ) -> Self {
        Self {
            planner,
            controls: parts.controls,
            answers: Arc::new(Answers::new(log, &names.commands)),
            appends: Appends::start(log, PLAN_ANSWER_APPENDS.counter(&[])),
            commands: Arc::clone(&names.commands),
            plans: Arc::clone(&names.plans),
        }
    }

    async fn carry_out(&self, input: Fetched, repeated: bool) {
        let value = input.record.value.as_deref();
        let Some(request) = value.and_then(PlanRequest::decode) else {
            tracing::warn!("a record of `goals` cannot be read, and is left out");
            return;
        };
        let held = self.held().await;
        let since = if held {
            // The clock of the run stood still as well.
            self.planner.0.clock.now()
        } else {
            Millis(request.at)
        };
        if repeated && self.answered(&request).await {
            return;
        }
        let Answered { answer, label } = self.answer(&request, since).await;
        let Some(record) = command(&request, &answer, self.planner.0.clock.now().0) else {
            return;
        };
        if self.append(&self.commands, record).await.is_err() {
            // Never returns, so the call does not count as finished and the next owner of the partition repeats it.
            std::future::pending::<()>().await;
        }
        if let Some(label) = label {
            let agrees = label.body.contains("\"agrees\":true");
            PLAN_LABELS
                .counter(&[if agrees { "true" } else { "false" }])
                .increment(1);
            match label.encode() {
                // Without the label the next near miss gives another one.
                Ok(record) => drop(self.append(&self.plans, record).await),
                Err(error) => tracing::error!(%error, "a label of a cached plan was not recorded"),
            }
        }
    }

    /// Waits while the kill switch is on. Returns whether it was.
    async fn held(&self) -> bool {
        let mut changed = self.controls.emergency_changed();
        let held = self.controls.kill_switch();
        while self.controls.kill_switch() {
            // An error or a timeout: it is looked at again.
            let _ = tokio::time::timeout(HELD_EVERY, changed.changed()).await;
        }
        held
    }

    async fn answer(&self, request: &PlanRequest, since: Millis) -> Answered {
        let number = u64::try_from(request.seq).unwrap_or_default();
        let without = |message: String| Answered {
            answer: no_plan(number, message),
            label: None,
        };
        if let Some(reason) = self.controls.disabled(NAME) {
            return without(format!("the feature `{NAME}` is disabled: {reason}"));
        }
        let Some(goal) = Goal::of_record(request) else {
            return without("the inputs of the request cannot be read".to_owned());
        };
        let goal = goal.under(&self.controls.emergency());
        let inner = &self.planner.0;
        let left = time_left(since, inner.clock.now());
        let until = Instant::now() + left;
        inner.table.wait_read(READ_LIMIT).await;
        match tokio::time::timeout(left + MORE, inner.plan(&goal, number, until)).await {
            Ok(answered) => answered,
            Err(_) => without(format!("no plan was made within {} s", LIMIT.as_secs())),
        }
    }

    async fn answered(&self, request: &PlanRequest) -> bool {
        let (answers, request) = (Arc::clone(&self.answers), request.clone());
        let looking = move || answers.have(&request);
        match tokio::task::spawn_blocking(looking).await {
            Ok(Ok(answered)) => answered,
            Ok(Err(error)) => {
                tracing::debug!(%error, "it is not known whether a goal was planned before");
                false
            }
            Err(_) => false,
        }
    }

    async fn append(&self, topic: &Arc<str>, record: crate::log::Record) -> Result<(), Closing> {
        let topic = Arc::clone(topic);
        self.appends.append(Append { topic, record }).await
    }
}

/// The time for language models that is left of a request made at `since`.
fn time_left(since: Millis, now: Millis) -> Duration {
    let age = u64::try_from(now.0.saturating_sub(since.0)).unwrap_or_default();
    let left = LIMIT.saturating_sub(Duration::from_millis(age));
    left.max(AT_LEAST)
}

/// The record of an answer.
fn command(request: &PlanRequest, answer: &PlanAnswer, now: i64) -> Option<crate::log::Record> {
    let body = serde_json::to_string(answer).map_err(|e| e.to_string());
    let record = body.and_then(|body| {
        let command = Command {
            tenant: request.tenant.clone(),
            run_id: request.run_id.clone(),
            kind: KIND.to_owned(),
            at: now.saturating_mul(1000),
            principal: NAME.to_owned(),
            on_behalf_of: None,
            traceparent: None,
            tracestate: None,
            body,
        };
        command.encode().map_err(|e| e.to_string())
    });
    match record {
        Ok(record) => Some(record),
        Err(error) => {
            tracing::error!(run = request.run_id, %error, "the plan of a goal was not recorded");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_limit_counts_from_the_request() {
        let left = |age_s: i64| time_left(Millis(1_000_000), Millis(1_000_000 + age_s * 1000));
        assert_eq!(left(0), Duration::from_mins(8));
        assert_eq!(left(300), Duration::from_mins(3));
        // Late, and from a clock that is ahead.
        assert_eq!(left(479), AT_LEAST);
        assert_eq!(left(100_000), AT_LEAST);
        assert_eq!(left(-60), LIMIT);
    }
}
