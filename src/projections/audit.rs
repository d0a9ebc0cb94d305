//! The projection of the topic `audit`: the table `audit_log`, what is derived from some of its entries (`rejections`,
//! `orchestration_requests`), and the last use of keys and webhook sources.
//!
//! | action | also becomes |
//! |---|---|
//! | `webhook.rejected` | a row of `rejections` |
//! | `start` | a row of `orchestration_requests` |
//! | `key.used` | `last_used_at` of the key in `api_keys` |
//! | `source.received` | `last_received_at` of the source in `integrations` |

use std::{net::IpAddr, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};
use sqlx::PgConnection;

use super::{
    batches::{Batches, Rows, TIMES},
    column::{Columns, Element},
    lane::{Projector, Setup},
    pipe::Pipe,
    target::AUDIT,
};
use crate::{
    audit::{Entry, KEY_USED, SOURCE_RECEIVED, START, WEBHOOK_REJECTED},
    envelope::Invalid,
    log::Fetched,
    store::storable_json,
};

impl Projector {
    /// Starts the projector of the topic `audit`, which `setup` names, with one lane.
    pub fn start_audit(setup: &Setup) -> std::io::Result<Self> {
        let reject = setup.dead_letters(AUDIT);
        let topic = Arc::clone(&setup.topic);
        Self::run(setup, AUDIT, 1, &reject, &move |parts| -> Box<dyn Pipe> {
            let on_commit = parts.report(&topic);
            let rows = AuditRows::live();
            Box::new(Batches::new(
                parts.link,
                AUDIT,
                rows,
                parts.reject,
                on_commit,
            ))
        })
    }
}

/// The rows of the topic `audit`, and the statements that write them.
pub(super) struct AuditRows {
    entries: String,
    rejections: String,
    starts: String,
    /// The tables of keys and sources are not rebuilt: the log may no longer have the last use.
    last_uses: bool,
}

impl AuditRows {
    /// For the live tables.
    fn live() -> Self {
        Self {
            last_uses: true,
            ..Self::of("")
        }
    }

    /// For the tables whose names end in `suffix`.
    pub(super) fn of(suffix: &str) -> Self {
        Self {
            entries: format!(
                "INSERT INTO omnilink.audit_log{suffix} (tenant, at, id, principal, on_behalf_of, action, resource_type, resource_id, \
                 outcome, address, user_agent, detail) \
                 SELECT tenant, at, id, principal, on_behalf_of, action, resource_type, resource_id, outcome, address::inet, \
                 user_agent, detail::jsonb \
                 FROM unnest($1::text[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], \
                 $9::text[], $10::text[], $11::text[], $12::text[]) k(tenant, at, id, principal, on_behalf_of, action, \
                 resource_type, resource_id, outcome, address, user_agent, detail) ON CONFLICT DO NOTHING"
            ),
            rejections: format!(
                "INSERT INTO omnilink.rejections{suffix} (tenant, id, at, source, address, code, message, body_hash, body_head) \
                 SELECT tenant, id, at, source, address::inet, code, message, body_hash, body_head \
                 FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], \
                 $9::bytea[]) k(tenant, id, at, source, address, code, message, body_hash, body_head) ON CONFLICT DO NOTHING"
            ),
            starts: format!(
                "INSERT INTO omnilink.orchestration_requests{suffix} (tenant, id, request_id, run_id, kind, type, principal, \
                 on_behalf_of, source, received_at, status, code) \
                 SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], \
                 $9::text[], $10::timestamptz[], $11::text[], $12::text[]) ON CONFLICT DO NOTHING"
            ),
            last_uses: false,
        }
    }
}

const LAST_USED: &str = "UPDATE omnilink.api_keys k SET last_used_at = u.at \
     FROM (SELECT tenant, id, max(at) AS at FROM unnest($1::text[], $2::text[], $3::timestamptz[]) e(tenant, id, at) GROUP BY 1, 2) u \
     WHERE k.tenant = u.tenant AND k.id = u.id AND (k.last_used_at IS NULL OR k.last_used_at < u.at)";
const LAST_RECEIVED: &str = "UPDATE omnilink.integrations i SET last_received_at = u.at \
     FROM (SELECT tenant, id, max(at) AS at FROM unnest($1::text[], $2::text[], $3::timestamptz[]) e(tenant, id, at) GROUP BY 1, 2) u \
     WHERE i.tenant = u.tenant AND i.id = u.id AND (i.last_received_at IS NULL OR i.last_received_at < u.at)";

/// The rows of a batch.
pub(super) struct AuditBatch {
    entries: Columns<12>,
    rejections: Columns<9>,
    starts: Columns<12>,
    used: Columns<3>,
    received: Columns<3>,
}

impl Default for AuditBatch {
    fn default() -> Self {
        use Element::{Bytea, Text, Timestamp};
        let mut entries = [Text; 12];
        entries[1] = Timestamp;
        let mut starts = [Text; 12];
        starts[9] = Timestamp;
        Self {
            entries: Columns::of(entries),
            rejections: Columns::of([Text, Text, Timestamp, Text, Text, Text, Text, Text, Bytea]),
            starts: Columns::of(starts),
            used: Columns::of([Text, Text, Timestamp]),
            received: Columns::of([Text, Text, Timestamp]),
        }
    }
}

impl Rows for AuditRows {
    type Batch = AuditBatch;

    fn add(&self, batch: &mut AuditBatch, record: &Fetched) -> Result<(), Invalid> {
        let value = record.record.value.as_deref().unwrap_or_default();
        let entry = Entry::decode(value)
            .ok_or_else(|| Invalid::payload("not a record of the audit log's schema"))?;
        let detail: Map<String, Value> = serde_json::from_str(&entry.detail)
            .map_err(|e| Invalid::payload(format!("`detail` is not a JSON object: {e}")))?;
        if let Some(address) = &entry.address
            && address.parse::<IpAddr>().is_err()
        {
            return Err(Invalid::payload("`address` is not an IP address"));
        }
        if !TIMES.contains(&entry.at) {
            return Err(Invalid::payload("`at` lies outside the years 1 to 9999"));
        }
        batch.entry(&entry);
        match &*entry.action {
            WEBHOOK_REJECTED => batch.rejection(&entry, &detail),
            START => batch.start(&entry, &detail),
            KEY_USED => AuditBatch::use_of(&mut batch.used, &entry),
            SOURCE_RECEIVED => AuditBatch::use_of(&mut batch.received, &entry),
            _ => {}
        }
        Ok(())
    }

    async fn write(
        &mut self,
        transaction: &mut PgConnection,
        batch: &AuditBatch,
    ) -> Result<(), sqlx::Error> {
        batch.entries.write(transaction, &self.entries).await?;
        batch
            .rejections
            .write(transaction, &self.rejections)
            .await?;
        batch.starts.write(transaction, &self.starts).await?;
        if self.last_uses {
            batch.used.write(transaction, LAST_USED).await?;
            batch.received.write(transaction, LAST_RECEIVED).await?;
        }
        Ok(())
    }
}

impl AuditBatch {
    fn entry(&mut self, entry: &Entry) {
        let [
            tenant,
            at,
            id,
            principal,
            on_behalf_of,
            action,
            resource_type,
            resource_id,
            outcome,
            address,
            user_agent,
            detail,
        ] = self.entries.row();
        tenant.next().text(&entry.tenant);
        at.next().timestamp(entry.at);
        id.next().text(&entry.id);
        principal.next().optional_text(entry.principal.as_deref());
        on_behalf_of
            .next()
            .optional_text(entry.on_behalf_of.as_deref());
        action.next().text(&entry.action);
        resource_type
            .next()
            .optional_text(entry.resource_type.as_deref());
        resource_id
            .next()
            .optional_text(entry.resource_id.as_deref());
        outcome.next().text(&entry.outcome);
        address.next().optional_text(entry.address.as_deref());
        user_agent.next().optional_text(entry.user_agent.as_deref());
        detail.next().text(&storable_json(&entry.detail));
    }

    fn rejection(&mut self, entry: &Entry, detail: &Map<String, Value>) {
        let text = |name: &str| detail.get(name).and_then(Value::as_str);
        let source = text("source").or(entry.resource_id.as_deref());
        let [
            tenant,
            id,
            at,
            source_column,
            address,
            code,
            message,
            body_hash,
            body_head,
        ] = self.rejections.row();
        tenant.next().text(&entry.tenant);
        id.next().text(&entry.id);
        at.next().timestamp(entry.at);
        source_column.next().text(source.unwrap_or_default());
        address.next().optional_text(entry.address.as_deref());
        code.next().text(text("code").unwrap_or("unknown"));
        message.next().optional_text(text("message"));
        body_hash.next().optional_text(text("body_hash"));
        let head = text("body_head").and_then(|head| STANDARD.decode(head).ok());
        match head {
            Some(head) => body_head.next().bytes(&head),
            None => body_head.next().null(),
        }
    }

    fn start(&mut self, entry: &Entry, detail: &Map<String, Value>) {
        let text = |name: &str| detail.get(name).and_then(Value::as_str);
        let [
            tenant,
            id,
            request_id,
            run_id,
            kind,
            r#type,
            principal,
            on_behalf_of,
            source,
            received_at,
            status,
            code,
        ] = self.starts.row();
        tenant.next().text(&entry.tenant);
        id.next().text(&entry.id);
        // An entry without one stands for a request of its own.
        request_id
            .next()
            .text(text("request_id").unwrap_or(&entry.id));
        let run = text("run_id").or(entry.resource_id.as_deref());
        run_id.next().optional_text(run);
        kind.next().optional_text(text("kind"));
        r#type.next().optional_text(text("type"));
        principal.next().optional_text(entry.principal.as_deref());
        on_behalf_of
            .next()
            .optional_text(entry.on_behalf_of.as_deref());
        source.next().optional_text(text("source"));
        received_at.next().timestamp(entry.at);
        let by_outcome = if entry.outcome == "ok" {
            "accepted"
        } else {
            "refused"
        };
        status.next().text(text("status").unwrap_or(by_outcome));
        code.next().optional_text(text("code"));
    }

    fn use_of(columns: &mut Columns<3>, entry: &Entry) {
        let Some(used) = &entry.resource_id else {
            return;
        };
        let [tenant, id, at] = columns.row();
        tenant.next().text(&entry.tenant);
        id.next().text(used);
        at.next().timestamp(entry.at);
    }
}
