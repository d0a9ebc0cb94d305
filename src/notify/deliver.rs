//! The effect for one target: sends each notification until the target accepts it, for up to a day, then writes a dead letter.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{
    Parts,
    mail::{Mail, MailError},
    notice::{Notice, Source},
    subscription::Subscription,
    webhook::{Webhook, WebhookError},
};
use crate::{
    base::{backoff::Backoff, clock::Clock},
    log::{Append, Fetched, Log},
    stream::{dlq, effect::Effect},
    telemetry::metrics::NOTIFICATIONS,
};

/// How long a notification is retried, from the time of its record: a day.
const GIVE_UP_MS: i64 = 86_400 * 1000;
const BACKOFF: Backoff = Backoff {
    first: Duration::from_secs(1),
    max: Duration::from_mins(10),
};
/// The pauses while a dead letter cannot be written.
const LETTER_BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(100),
    max: Duration::from_secs(10),
};
/// The code of the dead letter.
const NOT_DELIVERED: &str = "not_delivered";

/// The transport to a target.
pub(super) enum Sender {
    Webhook(Box<Webhook>),
    Mail(Box<Mail>),
}

/// A target has not accepted a notification.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error(transparent)]
    Webhook(#[from] WebhookError),
    #[error(transparent)]
    Mail(#[from] MailError),
}

impl Sender {
    const fn name(&self) -> &'static str {
        match self {
            Self::Webhook(_) => "webhook",
            Self::Mail(_) => "smtp",
        }
    }
}

/// The targets that are failing, by name, with the errors. Cheap to clone.
#[derive(Clone, Default)]
pub struct Failing(Arc<Mutex<BTreeMap<String, String>>>);

impl Failing {
    /// A description of the failing targets; `None` if there are none.
    pub fn detail(&self) -> Option<String> {
        let failing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let each = failing
            .iter()
            .map(|(target, why)| format!("{target}: {why}"));
        let each: Vec<_> = each.collect();
        (!each.is_empty()).then(|| each.join("; "))
    }

    fn set(&self, target: &str, why: Option<String>) {
        let mut failing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match why {
            Some(why) => failing.insert(target.to_owned(), why),
            None => failing.remove(target),
        };
    }
}

pub(super) struct Deliver {
    name: String,
    source: Source,
    subscription: Subscription,
    sender: Arc<Sender>,
    /// The target, described for people.
    target: String,
    base: String,
    clock: Arc<dyn Clock>,
    /// This is weak, so that a call that outlives its effect does not keep the log open.
    log: Weak<dyn Log>,
    topic: String,
    dlq: Arc<str>,
    failing: Failing,
    stop: CancellationToken,
}

impl Effect for Deliver {
    fn call(&self, input: Fetched, _: bool) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.deliver(input))
    }
}

impl Deliver {
    pub(super) fn new(
        name: String,
        source: Source,
        subscription: Subscription,
        (sender, target): (Arc<Sender>, String),
        parts: &Parts,
        (failing, stop): (Failing, CancellationToken),
    ) -> Self {
        Self {
            name,
            source,
            subscription,
            sender,
            target,
            base: parts.public_url.clone(),
            clock: Arc::clone(&parts.clock),
            log: Arc::downgrade(&parts.log),
            topic: source.topic(&parts.names).to_owned(),
            dlq: Arc::clone(&parts.names.dlq),
            failing,
            stop,
        }
    }

    async fn deliver(&self, input: Fetched) {
        let notice = self.source.read(&input);
        let Some(notice) = notice.filter(|notice| self.subscription.wants(notice)) else {
            return;
        };
        let mut attempt = 0;
        loop {
            let error = match self.send(&notice).await {
                Ok(()) => {
                    self.count(&notice, "sent");
                    self.failing.set(&self.target, None);
                    return;
                }
                Err(error) => error,
            };
            tracing::warn!(target = self.target, notification = notice.id, %error, attempt, "a notification was not accepted");
            self.failing.set(&self.target, Some(error.to_string()));
            let age = self.clock.now().0.saturating_sub(input.timestamp.0);
            if age >= GIVE_UP_MS {
                self.count(&notice, "given_up");
                return self.give_up(&input, &error).await;
            }
            self.count(&notice, "failed");
            self.pause(BACKOFF.pause(attempt)).await;
            attempt += 1;
        }
    }

    async fn send(&self, notice: &Notice) -> Result<(), SendError> {
        match &*self.sender {
            Sender::Webhook(webhook) => webhook.send(notice, &self.base, self.clock.now()).await?,
            Sender::Mail(mail) => mail.send(notice, &self.base).await?,
        }
        Ok(())
    }

    /// Sleeps. Once the node stops, it never returns; the next owner sends the notification again.
    async fn pause(&self, pause: Duration) {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.stop.cancelled() => std::future::pending().await,
        }
    }

    fn count(&self, notice: &Notice, outcome: &str) {
        let labels = [notice.on.name(), self.sender.name(), outcome];
        NOTIFICATIONS.counter(&labels).increment(1);
    }

    /// Writes a dead letter; returns when it is durable.
    async fn give_up(&self, input: &Fetched, error: &SendError) {
        let message = format!("{} has not accepted it for a day: {error}", self.target);
        let mut attempt = 0;
        loop {
            if self.append_letter(input, &message).await {
                return;
            }
            self.pause(LETTER_BACKOFF.pause(attempt)).await;
            attempt += 1;
        }
    }

    /// Returns false if the log does not accept it now.
    async fn append_letter(&self, input: &Fetched, message: &str) -> bool {
        // The process is stopping.
        let Some(log) = self.log.upgrade() else {
            return false;
        };
        let reason = dlq::Reason {
            topic: &self.topic,
            stage: &self.name,
            code: NOT_DELIVERED,
            message,
            failed_at: self.clock.now(),
        };
        let (limits, topic) = (Arc::clone(&log), Arc::clone(&self.dlq));
        // This may send a request to the brokers, so it runs on a blocking thread.
        let limit = tokio::task::spawn_blocking(move || limits.record_limit(&topic)).await;
        let letter = limit
            .ok()
            .and_then(|limit| dlq::fitted(input, None, &reason, false, limit));
        let Some(record) = letter else {
            return false;
        };
        let append = Append {
            topic: Arc::clone(&self.dlq),
            record,
        };
        let appended = log.append(vec![append], None);
        drop(log);
        matches!(appended.await, Ok(Ok(_)))
    }
}
