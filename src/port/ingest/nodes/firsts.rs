//! Webhooks without an id of their own: which event a body became on whichever node it came to first.
//!
//! `{prefix}idempotency:webhook:{body}` holds a state (`f` in flight, `d` durable) and the event's identity, and expires with the
//! window.

use super::{DURABLE, IN_FLIGHT, Nodes, RELEASE};
use crate::base::id::Identity;

/// Sets a value that is there, and keeps when it expires.
const CONFIRM: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then \
    redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL') end return 0";

impl Nodes {
    /// A body that would become the event `id`. `Some`: it came before, to this event, and whether that is durable. Without an
    /// answer each node goes by its own memory.
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

    /// The event is durable, or it is not and the body is new again.
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
        // Without the answer it is in flight until it expires.
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
