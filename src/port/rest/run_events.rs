//! `GET /v1/runs/{id}/events`: the history of a run, in pages or as a stream of server-sent events.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use axum::{
    Json,
    extract::Path,
    http::{HeaderMap, StatusCode, header},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::{Stream, stream};
use serde_json::Map;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::{
    audit::read,
    caller::Caller,
    request::QueryString,
    runs::unreadable,
    wait::{RunLookup, has_ended},
};
use crate::{
    api::{
        list::List,
        run_reads::{RunHistory, RunRecordView, page_size},
    },
    port::problem::Refused,
    saga::Follower,
    store::{
        Store,
        runs::{self, RecordRow},
    },
};

/// The number of records read at once for a stream.
const READ: usize = 100;
/// The time limit of such a read.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause before records are polled again; it doubles while there are none.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// A comment is sent at this interval, so that the client and proxies see that the connection is alive.
const HEARTBEAT: Duration = Duration::from_secs(15);

const LAST_EVENT_ID: &str = "last-event-id";

/// `GET /v1/runs/{id}/events`.
pub(crate) async fn events(
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    query: QueryString<RunHistory>,
) -> Result<Response, Refused> {
    let query = caller.query(query)?;
    let limit = page_size(query.limit).map_err(|e| caller.invalid(e))?;
    let streams = accepts_events(&headers);
    let after = match headers.get(LAST_EVENT_ID).filter(|_| streams) {
        Some(id) => id.to_str().ok().and_then(|id| id.parse::<u32>().ok()),
        None => Some(query.cursor.unwrap_or_default()),
    };
    let Some(after) = after else {
        return Err(caller.invalid("`Last-Event-ID` must be the `id` of an event of this stream"));
    };
    let after = i64::from(after);
    let caller = caller.permit()?;
    let lookup = RunLookup::new(&caller, query.tenant.as_deref(), &id)?;
    let row = lookup.found().await?;
    let of = ("run", &*lookup.run_id);
    caller.audit_read(Some(&lookup.tenant), "run.history_read", of, Map::new());
    if !streams {
        return page(&lookup, after, limit).await;
    }
    if has_ended(&row) && after >= row.seq {
        // Tells the client not to reconnect.
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let slot = caller.shared.waits.enter();
    let slot = slot.map_err(|problem| caller.refuse(problem))?;
    let history = History {
        follower: caller.shared.followers.follow(lookup.run),
        stopping: caller.shared.stopping.clone(),
        store: lookup.store,
        tenant: lookup.tenant.as_str().to_owned(),
        run_id: lookup.run_id,
        after,
        read: VecDeque::new(),
        pause: FIRST_PAUSE,
        ended: false,
        _slot: slot,
    };
    let heartbeat = KeepAlive::new().interval(HEARTBEAT);
    let answer = Sse::new(history.into_stream()).keep_alive(heartbeat);
    Ok(answer.into_response())
}

/// Whether the client asks for server-sent events.
fn accepts_events(headers: &HeaderMap) -> bool {
    let accept = headers.get_all(header::ACCEPT).iter();
    let mut media = accept
        .filter_map(|accept| accept.to_str().ok())
        .flat_map(|accept| accept.split(','))
        .filter_map(|media| media.split(';').next());
    media.any(|media| media.trim().eq_ignore_ascii_case("text/event-stream"))
}

async fn page(lookup: &RunLookup<'_>, after: i64, limit: usize) -> Result<Response, Refused> {
    let key = (lookup.tenant.as_str(), &*lookup.run_id);
    // One extra row shows whether another page follows.
    let rows = runs::history(&lookup.store, key, after, limit + 1);
    let mut rows = read(lookup.caller, rows).await?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next_cursor = rows.last().filter(|_| more).map(|row| row.seq.to_string());
    let views = rows
        .into_iter()
        .map(|row| RunRecordView::of(&lookup.run_id, row));
    let items = views.collect::<Result<Vec<_>, _>>();
    let items = items.map_err(|e| unreadable(lookup.caller, &e))?;
    Ok(Json(List { items, next_cursor }).into_response())
}

/// The history of a run as it grows.
struct History {
    store: Store,
    tenant: String,
    run_id: String,
    /// The number of the last record that was sent.
    after: i64,
    /// Records that were read but not sent yet.
    read: VecDeque<RecordRow>,
    follower: Follower,
    pause: Duration,
    /// Whether the last record was sent.
    ended: bool,
    stopping: CancellationToken,
    _slot: OwnedSemaphorePermit,
}

impl History {
    fn into_stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, |mut history| async move {
            let event = history.next().await?;
            Some((Ok(event), history))
        })
    }

    /// The next record; `None` after the last one, or when the client should reconnect.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(row) = self.read.pop_front() {
                return self.event(row);
            }
            if self.ended || self.stopping.is_cancelled() {
                return None;
            }
            let key = (&*self.tenant, &*self.run_id);
            let rows = runs::history(&self.store, key, self.after, READ);
            let rows = tokio::time::timeout(READ_TIMEOUT, rows).await.ok()?;
            match rows {
                Ok(rows) if rows.is_empty() => self.rest().await,
                Ok(rows) => {
                    self.read = rows.into();
                    self.pause = FIRST_PAUSE;
                }
                Err(error) => {
                    tracing::warn!(%error, "the history of a run cannot be read from Postgres");
                    return None;
                }
            }
        }
    }

    /// Waits until there may be more records.
    async fn rest(&mut self) {
        tokio::select! {
            notice = self.follower.next() => {
                if notice.is_some() {
                    self.pause = FIRST_PAUSE;
                }
                // The rows are written shortly after.
                tokio::time::sleep(FIRST_PAUSE).await;
            }
            () = tokio::time::sleep(self.pause) => {
                self.pause = (self.pause * 2).min(LAST_PAUSE);
            }
            () = self.stopping.cancelled() => {}
        }
    }

    fn event(&mut self, row: RecordRow) -> Option<Event> {
        self.after = row.seq;
        self.ended = matches!(
            &*row.kind,
            "run_succeeded" | "run_failed" | "run_denied" | "run_cancelled"
        );
        let event = Event::default().id(row.seq.to_string()).event(&row.kind);
        let view = RunRecordView::of(&self.run_id, row).ok()?;
        event.json_data(view).ok()
    }
}
