//! What becomes of records that are over a limit, and of those that waited for one.

use std::sync::Arc;

use bytes::Bytes;

use super::StageTransform;
use crate::topology::{
    run::{carried, limiter::parse_timer, message::Message},
    syntax::{
        fields::Spanned,
        model::{Over, RateLimit},
    },
};
use crate::{
    base::{clock::Millis, id::Identity},
    log::{Fetched, Record},
    state::StateError,
    stream::{Context, Failure, Origin, Rejected, Timer},
};

/// In front of the headers of `throttled`.
const THROTTLED: &str = "omnilink.throttled.";
impl StageTransform {
    pub(super) fn throttle(
        &self,
        message: &Message,
        limit: &RateLimit,
        retry_at: Millis,
        cx: &mut Context<'_>,
    ) -> Result<(), Rejected> {
        let window_s = limit.window_ms as f64 / 1000.0;
        let retry_at = jiff::Timestamp::from_millisecond(retry_at.0).unwrap_or_default();
        let mut record = message.origin.record.record.clone();
        let mut add = |name: &str, value: String| {
            record
                .headers
                .push((format!("{THROTTLED}{name}"), Some(value.into())));
        };
        add("policy", limit.policy.value.clone());
        add("limit", limit.limit.to_string());
        add("window_s", window_s.to_string());
        add("retry_at", retry_at.to_string());
        cx.try_emit(&self.shared.names.throttled, record)
    }

    /// A timer of a limit is due: records that waited go on, except the one that failed before, which is rejected.
    pub(super) fn release(
        &mut self,
        timer: Timer<'_>,
        failed: Option<&(u64, Rejected)>,
        cx: &mut Context<'_>,
    ) -> Result<(), Failure> {
        let Some((policy, id)) = parse_timer(timer.key) else {
            return Ok(());
        };
        let stage = Arc::clone(&self.stage);
        let Some((step, limit)) = stage.limits().find(|(_, l)| l.policy.value == policy) else {
            return Ok(self.release_orphaned(policy, id, timer.now, cx)?);
        };
        let last = failed.map(|(number, _)| *number);
        let releasing = Arc::clone(&self.shared.releasing);
        for (number, record) in self.limiter.fire(id, limit, timer.now, last, cx)? {
            let Some(message) = Self::decode_waiting(&record, cx) else {
                continue;
            };
            if let Some((_, rejected)) = failed.filter(|(bad, _)| *bad == number) {
                let origin = Arc::clone(&message.origin);
                cx.reject_origin(Arc::unwrap_or_clone(origin), rejected.clone());
                continue;
            }
            releasing.lock().insert(cx.partition(), number);
            self.run(step + 1, message, timer.now, cx)?;
        }
        releasing.lock().remove(&cx.partition());
        Ok(())
    }

    /// The file has this policy no more: records that waited for it go to `throttled`.
    fn release_orphaned(
        &mut self,
        policy: &str,
        id: Identity,
        now: Millis,
        cx: &mut Context<'_>,
    ) -> Result<(), StateError> {
        let gone = RateLimit {
            policy: Spanned {
                value: policy.to_owned(),
                span: 0..0,
            },
            limit: 0,
            window_ms: 0,
            over: Over::Reject,
        };
        for record in self.limiter.remove(id, cx)? {
            if let Some(message) = Self::decode_waiting(&record, cx)
                && let Err(rejected) = self.throttle(&message, &gone, now, cx)
            {
                cx.reject_origin(Arc::unwrap_or_clone(message.origin), rejected);
            }
        }
        Ok(())
    }

    /// Decodes a record that waited; one that cannot be decoded goes to the dead letters as it is.
    fn decode_waiting(record: &Bytes, cx: &mut Context<'_>) -> Option<Message> {
        match carried::decode(record) {
            Ok(message) => Some(message),
            Err(rejected) => {
                let origin = Origin {
                    topic: "".into(),
                    record: Fetched {
                        topic: 0,
                        partition: cx.partition(),
                        offset: 0,
                        timestamp: Millis(0),
                        record: Record {
                            key: None,
                            value: Some(record.clone()),
                            headers: Vec::new(),
                        },
                    },
                };
                cx.reject_origin(origin, rejected);
                None
            }
        }
    }
}
