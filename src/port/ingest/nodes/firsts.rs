//! Webhooks without their own id: the event that a body became on the node that received it first.
//!
//! `{prefix}idempotency:webhook:{body}` holds a state (`f` in flight, `d` durable) and the event's identity, and expires with the window.

use super::{DURABLE, IN_FLIGHT, Nodes, RELEASE};
use crate::base::id::Identity;

/// Overwrites an existing value and keeps its expiry.
const CONFIRM: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then \
    redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL') end return 0";

impl Nodes {
    /// Reserves a body that would become the event `id`. `Some` if it was received before: the event it became, and whether that is
    /// durable. Without an answer each node relies on its own memory.
    pub(crate) async fn first(
        &self,
        body: &Identity,
        id: &Identity,
        for_ms: i64,
    ) -> Option<(Identity, bool)> {
        let mut pipe = redis::pipe();
        pipe.cmd("SET")
            .arg(self.first_key(body))
            .arg(&value(IN_FLIGHT, id)[..])
            .arg("NX")
            .arg("GET")
            .arg("PX")
            .arg(for_ms);
        let found = self.shared.ask::<Vec<Option<Vec<u8>>>>(&pipe).await?;
        let found = found.into_iter().next()??;
        let (state, first) = found.split_first()?;
        let first = first.try_into().ok()?;
        Some((Identity(first), *state == DURABLE))
    }

    /// Ends the reservation: the event is durable, or the append failed and the body is new again.
    pub(crate) async fn settle_first(&self, body: &Identity, id: &Identity, durable: bool) {
        let mut pipe = redis::pipe();
        let mine = value(IN_FLIGHT, id);
        let script = if durable { CONFIRM } else { RELEASE };
        pipe.cmd("EVAL")
            .arg(script)
            .arg(1)
            .arg(self.first_key(body))
            .arg(&mine[..]);
        if durable {
            pipe.arg(&value(DURABLE, id)[..]);
        }
        pipe.ignore();
        // Without an answer the body stays in flight until it expires.
        let _: Option<()> = self.shared.ask(&pipe).await;
    }

    fn first_key(&self, body: &Identity) -> String {
        format!("{}webhook:{body}", self.shared.prefix)
    }
}

fn value(state: u8, id: &Identity) -> [u8; 17] {
    let mut value = [state; 17];
    value[1..].copy_from_slice(&id.0);
    value
}
