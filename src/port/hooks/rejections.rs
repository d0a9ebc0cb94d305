//! Entries `webhook.rejected` in the audit log, limited by source and address, and in total.

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

/// The number of entries per source and address in a minute.
const OF_ONE: u32 = 30;
/// The number of entries in a second.
const OF_ALL: Limit = Limit {
    limit: 100,
    window_ms: 1000,
};
/// How much of a source's name is recorded, in bytes; the name of an unknown source may be long.
const NAME: usize = 256;
/// How much of a body is recorded, in bytes.
const HEAD: usize = 4096;

pub(super) struct Rejections {
    of_one: Counts,
    of_all: Mutex<Times>,
}

/// A request that was refused.
pub(super) struct Rejected<'a> {
    /// The source's tenant; `None` if there is no such source.
    pub(super) tenant: Option<&'a Tenant>,
    /// The source's name; for an unknown source, what the request says, but never a token.
    pub(super) source: &'a str,
    pub(super) address: IpAddr,
    pub(super) user_agent: Option<&'a [u8]>,
    pub(super) code: &'a str,
    pub(super) message: &'a str,
    /// `None` if the body was not read.
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
    /// Records a rejection, unless there were too many. `counted_as` is the source in the counts.
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
