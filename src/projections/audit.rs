//! The projection of the topic `audit`: the table `audit_log`, the table `rejections`, and the last use of keys and webhook sources.
//!
//! | action | also becomes |
//! |---|---|
//! | `webhook.rejected` | a row of `rejections` |
//! | `start` | a row of the view `orchestration_requests` |
//! | `key.used` | `last_used_at` of the key in `api_keys` |
//! | `source.received` | `last_received_at` of the source in `integrations` |

use std::{borrow::Cow, collections::HashMap, net::IpAddr, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Map, Value};
use sqlx::PgConnection;

use super::{
    batches::{Batches, Rows, TIMES},
    column::{Columns, Element},
    insert::Insert,
    lane::{Projector, Setup},
    pipe::Pipe,
    target::AUDIT,
};
use crate::{
    audit::{Entry, KEY_USED, SOURCE_RECEIVED, WEBHOOK_REJECTED},
    envelope::Invalid,
    log::Fetched,
    store::{CopyRows, storable_json},
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
    entries: Insert<12>,
    rejections: Insert<9>,
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
        use Element::{Bytea, Inet, Jsonb, Text, Timestamp};
        let entries = [
            ("tenant", Text),
            ("at", Timestamp),
            ("id", Text),
            ("principal", Text),
            ("on_behalf_of", Text),
            ("action", Text),
            ("resource_type", Text),
            ("resource_id", Text),
            ("outcome", Text),
            ("address", Inet),
            ("user_agent", Text),
            ("detail", Jsonb),
        ];
        let rejections = [
            ("tenant", Text),
            ("id", Text),
            ("at", Timestamp),
            ("source", Text),
            ("address", Inet),
            ("code", Text),
            ("message", Text),
            ("body_hash", Text),
            ("body_head", Bytea),
        ];
        Self {
            entries: Insert::into(&format!("omnilink.audit_log{suffix}"), entries),
            rejections: Insert::into(&format!("omnilink.rejections{suffix}"), rejections),
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
    entries: CopyRows,
    rejections: CopyRows,
    used: Columns<3>,
    received: Columns<3>,
}

impl Default for AuditBatch {
    fn default() -> Self {
        use Element::{Text, Timestamp};
        Self {
            entries: CopyRows::default(),
            rejections: CopyRows::default(),
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
        let address = entry.address.as_deref().map(str::parse::<IpAddr>);
        let Ok(address) = address.transpose() else {
            return Err(Invalid::payload("`address` is not an IP address"));
        };
        if !TIMES.contains(&entry.at) {
            return Err(Invalid::payload("`at` lies outside the years 1 to 9999"));
        }
        if &*entry.action == WEBHOOK_REJECTED {
            let detail: Map<String, Value> = detail(&entry)?;
            batch.rejection(&entry, address, &detail);
        } else {
            detail::<HashMap<Cow<'_, str>, IgnoredAny>>(&entry)?;
        }
        batch.entry(&entry, address);
        match &*entry.action {
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
        self.entries.write(transaction, &batch.entries).await?;
        self.rejections
            .write(transaction, &batch.rejections)
            .await?;
        if self.last_uses {
            batch.used.write(transaction, LAST_USED).await?;
            batch.received.write(transaction, LAST_RECEIVED).await?;
        }
        Ok(())
    }
}

/// The detail of an entry, which is a JSON object.
fn detail<'de, T: Deserialize<'de>>(entry: &'de Entry) -> Result<T, Invalid> {
    serde_json::from_str(&entry.detail)
        .map_err(|e| Invalid::payload(format!("`detail` is not a JSON object: {e}")))
}

fn optional_address(rows: &mut CopyRows, address: Option<IpAddr>) {
    match address {
        Some(address) => rows.address(address),
        None => rows.null(),
    }
}

impl AuditBatch {
    fn entry(&mut self, entry: &Entry, address: Option<IpAddr>) {
        let rows = &mut self.entries;
        rows.row(12);
        rows.text(&entry.tenant);
        rows.timestamp(entry.at);
        rows.text(&entry.id);
        rows.optional_text(entry.principal.as_deref());
        rows.optional_text(entry.on_behalf_of.as_deref());
        rows.text(&entry.action);
        rows.optional_text(entry.resource_type.as_deref());
        rows.optional_text(entry.resource_id.as_deref());
        rows.text(&entry.outcome);
        optional_address(rows, address);
        rows.optional_text(entry.user_agent.as_deref());
        rows.jsonb(storable_json(&entry.detail).as_bytes());
    }

    fn rejection(&mut self, entry: &Entry, address: Option<IpAddr>, detail: &Map<String, Value>) {
        let text = |name: &str| detail.get(name).and_then(Value::as_str);
        let source = text("source").or(entry.resource_id.as_deref());
        let rows = &mut self.rejections;
        rows.row(9);
        rows.text(&entry.tenant);
        rows.text(&entry.id);
        rows.timestamp(entry.at);
        rows.text(source.unwrap_or_default());
        optional_address(rows, address);
        rows.text(text("code").unwrap_or("unknown"));
        rows.optional_text(text("message"));
        rows.optional_text(text("body_hash"));
        let head = text("body_head").and_then(|head| STANDARD.decode(head).ok());
        match head {
            Some(head) => rows.bytes(&head),
            None => rows.null(),
        }
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
