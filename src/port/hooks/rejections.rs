//! Entries `webhook.rejected` of the audit log, capped: by source and address, and in all.

use std::net::IpAddr;

use base64::{Engine, engine::general_purpose::STANDARD};
use parking_lot::Mutex;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::counts::Counts;
use crate::{
    audit::{Audit, Entry, Outcome},
    base::{clock::Millis, hex::hex, id::Tenant},
    limits::{Limit, Times},
};

/// Entries of one source and address in a minute.
const OF_ONE: u32 = 30;
/// Entries in a second.
const OF_ALL: Limit = Limit {
    limit: 100,
    window_ms: 1000,
};
/// How much of a source's name is kept, in bytes: an unknown one may be long.
const NAME: usize = 256;
/// How much of a body is kept, in bytes.
const HEAD: usize = 4096;

pub(super) struct Rejections {
    of_one: Counts,
    of_all: Mutex<Times>,
}

/// A request that was refused.
pub(super) struct Rejected<'a> {
    /// The source's tenant; `None`: there is no such source.
    pub(super) tenant: Option<&'a Tenant>,
    /// The source's name; of an unknown one what the request said, but never a token.
    pub(super) source: &'a str,
    pub(super) address: IpAddr,
    pub(super) user_agent: Option<&'a [u8]>,
    pub(super) code: &'a str,
    pub(super) message: &'a str,
    /// `None`: it was not read.
    pub(super) body: Option<&'a [u8]>,
}

impl Default for Rejections {
    fn default() -> Self {
        Self {
            of_one: Counts::new(OF_ONE, 60),
            of_all: Mutex::default(),
        }
    }
}

impl Rejections {
    /// Records one, unless there were too many. `counted_as` names the source in the counts.
    pub(super) fn record(
        &self,
        audit: &Audit,
        counted_as: &str,
        rejected: &Rejected<'_>,
        now: Millis,
    ) {
        if self
            .of_one
            .admit(counted_as, rejected.address, now)
            .is_err()
            || self.of_all.lock().admit(OF_ALL, now).is_err()
        {
            return;
        }
        let source = &rejected.source[..rejected.source.floor_char_boundary(NAME)];
        let mut detail = Map::new();
        let mut put = |name: &str, value: String| detail.insert(name.into(), Value::from(value));
        put("source", source.into());
        put("code", rejected.code.into());
        put("message", rejected.message.into());
        if let Some(body) = rejected.body {
            put("body_hash", hex(&Sha256::digest(body)));
            let head = &body[..body.len().min(HEAD)];
            put("body_head", STANDARD.encode(head));
        }
        let entry = Entry::new(rejected.tenant, "webhook.rejected", Outcome::Denied, now)
            .resource("source", source)
            .client(rejected.address, rejected.user_agent)
            .detail(detail);
        audit.record(entry);
    }
}
