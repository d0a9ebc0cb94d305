//! The projection of `odoo.webhook_events`: what became of each delivery of Odoo.
//!
//! An event says in its extension [`DIALECT`] which dialect its sender spoke, so that the rows are the same after a rebuild, whatever has
//! become of the source since. `pending` comes from the topic `ingress`, `completed` from `events`, `failed` from dead letters of `ingress`.
//! The topics have no common order: `completed` wins, then `failed`, and the highest number of retries.

use std::sync::Arc;

use sqlx::PgConnection;

use super::{
    batches::{Batches, Rows},
    column::{Columns, Element},
    lane::{Projector, Setup},
    pipe::Pipe,
    reject::{Reject, SkipRejected},
    rows::storable_data,
    target::{ODOO, ODOO_DLQ, ODOO_INGRESS},
};
use crate::{
    base::clock::Millis,
    envelope::{DIALECT, Event, Invalid, avro, parse_rfc3339},
    log::{Fetched, header},
    stream::dlq::{self, redriven},
};

/// The dialects that Odoo speaks.
const DIALECTS: [&str; 3] = ["ipai", "ipai-body", "odoo-native"];

impl Projector {
    /// Starts the projector of Odoo's deliveries that are not admitted yet; `setup` names the topic `ingress`.
    pub fn start_odoo_ingress(setup: &Setup) -> std::io::Result<Self> {
        // What cannot be read there becomes a dead letter of admission.
        let reject: Arc<dyn Reject> = Arc::new(SkipRejected);
        Self::of_odoo(setup, ODOO_INGRESS, &reject, || OdooRows::pending(""))
    }

    /// Starts the projector of Odoo's admitted deliveries; `setup` names the topic `events`.
    pub fn start_odoo(setup: &Setup) -> std::io::Result<Self> {
        let reject = setup.dead_letters(ODOO);
        Self::of_odoo(setup, ODOO, &reject, || OdooRows::completed(""))
    }

    /// Starts the projector of Odoo's failed deliveries; `setup` names the dead-letter topic.
    pub fn start_odoo_dlq(setup: &Setup) -> std::io::Result<Self> {
        // A letter about a letter would be read again, without end.
        let reject: Arc<dyn Reject> = Arc::new(SkipRejected);
        Self::of_odoo(setup, ODOO_DLQ, &reject, || OdooRows::failed(""))
    }

    fn of_odoo(
        setup: &Setup,
        projection: &'static str,
        reject: &Arc<dyn Reject>,
        rows: fn() -> OdooRows,
    ) -> std::io::Result<Self> {
        let topic = Arc::clone(&setup.topic);
        let pipe = move |parts: super::lane::LaneParts| -> Box<dyn Pipe> {
            let on_commit = parts.report(&topic);
            let pipe = Batches::new(parts.link, projection, rows(), parts.reject, on_commit);
            Box::new(pipe)
        };
        Self::run(setup, projection, 1, reject, &pipe)
    }
}

/// The status that a record of the topic stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Status {
    /// Records of `ingress`.
    Pending,
    /// Records of `events`.
    Completed,
    /// Records of `dlq`.
    Failed,
}

/// The rows of one of the topics, and the statement that writes them.
pub(super) struct OdooRows {
    status: Status,
    statement: String,
}

impl OdooRows {
    /// Of the topic `ingress`, for the table whose name ends in `suffix`.
    pub(super) fn pending(suffix: &str) -> Self {
        // What the other topics say is newer, whichever is read first.
        Self::of(Status::Pending, suffix, "status = o.status")
    }

    /// Of the topic `events`, for the table whose name ends in `suffix`.
    pub(super) fn completed(suffix: &str) -> Self {
        let update = "event_type = EXCLUDED.event_type, aggregate_type = EXCLUDED.aggregate_type, \
             aggregate_id = EXCLUDED.aggregate_id, payload = EXCLUDED.payload, status = EXCLUDED.status, error_message = NULL, \
             processed_at = EXCLUDED.processed_at";
        Self::of(Status::Completed, suffix, update)
    }

    /// Of the dead-letter topic, for the table whose name ends in `suffix`.
    pub(super) fn failed(suffix: &str) -> Self {
        let update = "status = CASE WHEN o.status = 'completed' THEN o.status ELSE EXCLUDED.status END, \
             error_message = CASE WHEN o.status = 'completed' OR o.processed_at > EXCLUDED.processed_at THEN o.error_message \
               ELSE EXCLUDED.error_message END, \
             processed_at = CASE WHEN o.status = 'completed' THEN o.processed_at \
               ELSE GREATEST(o.processed_at, EXCLUDED.processed_at) END";
        Self::of(Status::Failed, suffix, update)
    }

    fn of(status: Status, suffix: &str, update: &str) -> Self {
        Self {
            status,
            // A batch may have the same id twice: one statement changes a row once.
            statement: format!(
                "INSERT INTO odoo.webhook_events{suffix} AS o (tenant, id, source, event_type, aggregate_type, aggregate_id, payload, \
                   status, retry_count, error_message, received_at, processed_at) \
                 SELECT DISTINCT ON (tenant, source, id) tenant, id, source, event_type, aggregate_type, aggregate_id, payload::jsonb, \
                   status, max(retry_count) OVER same, error_message, min(received_at) OVER same, processed_at \
                 FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], \
                   $9::bigint[], $10::text[], $11::timestamptz[], $12::timestamptz[]) \
                   k(tenant, id, source, event_type, aggregate_type, aggregate_id, payload, status, retry_count, error_message, \
                     received_at, processed_at) \
                 WINDOW same AS (PARTITION BY tenant, source, id) \
                 ORDER BY tenant, source, id, processed_at DESC \
                 ON CONFLICT (tenant, source, id) DO UPDATE SET {update}, \
                   retry_count = GREATEST(o.retry_count, EXCLUDED.retry_count), \
                   received_at = LEAST(o.received_at, EXCLUDED.received_at)"
            ),
        }
    }
}

/// Whether an event is a delivery of Odoo to one of the tenant's own sources.
fn is_of_odoo(event: &Event<'_>) -> bool {
    let own = event
        .source
        .strip_prefix("/webhooks/")
        .and_then(|rest| rest.strip_prefix(event.tenant.as_str()))
        .is_some_and(|rest| rest.starts_with('/'));
    if !own || !event.extensions.contains(DIALECT) {
        return false;
    }
    let extensions: Option<serde_json::Map<String, serde_json::Value>> =
        serde_json::from_str(&event.extensions).ok();
    extensions.is_some_and(|all| {
        let dialect = all.get(DIALECT).and_then(serde_json::Value::as_str);
        dialect.is_some_and(|dialect| DIALECTS.contains(&dialect))
    })
}

/// A delivery, as far as the topics differ.
struct Fate {
    status: &'static str,
    error: Option<String>,
    /// Microseconds since 1970.
    received_at: i64,
    /// `None`: it still lies in `ingress`.
    processed_at: Option<i64>,
}

pub(super) struct OdooBatch(Columns<12>);

impl Default for OdooBatch {
    fn default() -> Self {
        use Element::{Bigint, Text, Timestamp};
        Self(Columns::of([
            Text, Text, Text, Text, Text, Text, Text, Text, Bigint, Text, Timestamp, Timestamp,
        ]))
    }
}

impl Rows for OdooRows {
    type Batch = OdooBatch;

    /// A delivery of Odoo has the attribute's name in it.
    fn may_have_rows(&self, record: &Fetched) -> bool {
        let value = record.record.value.as_deref().unwrap_or_default();
        memchr::memmem::find(value, DIALECT.as_bytes()).is_some()
    }

    /// What is no event is not Odoo's: it is for others to reject.
    fn add(&self, batch: &mut OdooBatch, record: &Fetched) -> Result<(), Invalid> {
        let value = record.record.value.as_deref().unwrap_or_default();
        let (event, fate) = match self.status {
            // The others there are no events of OmniLink's own.
            Status::Pending => match avro::decode_ingress(value) {
                Ok(event) => {
                    let fate = Fate {
                        status: "pending",
                        error: None,
                        received_at: micros(record.timestamp),
                        processed_at: None,
                    };
                    (event, fate)
                }
                Err(_) => return Ok(()),
            },
            Status::Completed => match avro::decode_event(value) {
                Ok((event, received_at)) => {
                    let fate = Fate {
                        status: "completed",
                        error: None,
                        received_at: micros(received_at),
                        processed_at: Some(micros(record.timestamp)),
                    };
                    (event, fate)
                }
                Err(_) => return Ok(()),
            },
            // Only letters of `ingress` hold a record with its schema.
            Status::Failed => match avro::decode_ingress(value) {
                Ok(event) => (event, failed(record)),
                Err(_) => return Ok(()),
            },
        };
        if is_of_odoo(&event) {
            let retries = redriven::claimed(&record.record).unwrap_or(0);
            batch.push(&event, retries.into(), &fate);
        }
        Ok(())
    }

    async fn write(
        &mut self,
        transaction: &mut PgConnection,
        batch: &OdooBatch,
    ) -> Result<(), sqlx::Error> {
        batch.0.write(transaction, &self.statement).await?;
        Ok(())
    }
}

/// What the headers of a dead letter say.
fn failed(letter: &Fetched) -> Fate {
    let field = |name: &str| {
        let value = header(&letter.record.headers, &format!("{}{name}", dlq::PREFIX))?;
        Some(String::from_utf8_lossy(value).into_owned())
    };
    let text = |name| field(name).unwrap_or_default();
    let received_at = field("timestamp").and_then(|ms| ms.parse().ok());
    let failed_at = field("failed_at").and_then(|time| parse_rfc3339(&time));
    Fate {
        status: "failed",
        error: Some(format!("{}: {}", text("code"), text("message"))),
        received_at: micros(received_at.map_or(letter.timestamp, Millis)),
        processed_at: Some(failed_at.unwrap_or(micros(letter.timestamp))),
    }
}

fn micros(at: Millis) -> i64 {
    at.0.saturating_mul(1000)
}

impl OdooBatch {
    fn push(&mut self, event: &Event<'_>, retries: i64, fate: &Fate) {
        let [
            tenant,
            id,
            source,
            event_type,
            aggregate_type,
            aggregate_id,
            payload,
            status,
            retry_count,
            error_message,
            received_at,
            processed_at,
        ] = self.0.row();
        let entity = event.entity.as_ref();
        tenant.next().text(event.tenant.as_str());
        id.next().text(&event.id);
        source.next().text(&event.source);
        event_type.next().text(&event.kind);
        aggregate_type
            .next()
            .optional_text(entity.map(|e| &*e.kind));
        aggregate_id
            .next()
            .optional_text(entity.map(|e| &*e.external_id));
        payload
            .next()
            .optional_text(storable_data(event).as_deref());
        status.next().text(fate.status);
        retry_count.next().bigint(retries);
        error_message.next().optional_text(fate.error.as_deref());
        received_at.next().timestamp(fate.received_at);
        match fate.processed_at {
            Some(at) => processed_at.next().timestamp(at),
            None => processed_at.next().null(),
        }
    }
}
