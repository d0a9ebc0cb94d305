//! Group commit of requests: while an append is in progress, further requests gather into a group, which becomes one append, one change
//! of the window and one wake-up for all of them.
//!
//! A request waits [`DEADLINE`] for its append. The append itself is awaited to its end, because its identities are in flight until then.
//! After a failed append nothing is admitted until the window was restored.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot},
    task::JoinHandle,
    time::Instant,
};

use super::idempotency::{Seen, Verdict};
use crate::{
    base::{
        clock::{Clock, Millis},
        id::Identity,
    },
    envelope::BodyHash,
    log::{Append, Log, Record, record_size},
    state::{StateError, StateStore},
};

/// The time limit of a request for its append.
const DEADLINE: Duration = Duration::from_secs(5);
/// How often groups that wait for a permit are checked for requests that exceeded their deadline.
const CHECK_EVERY: Duration = Duration::from_millis(250);
/// A group beyond either limit admits no more requests.
const GROUP_RECORDS: usize = 1024;
const GROUP_BYTES: usize = 4 << 20;
/// The limit on the bytes of waiting and unfinished records; beyond it, requests are refused.
const QUEUE_BYTES_MAX: usize = 128 << 20;
/// After a failed append, nothing is admitted for at least this long.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(500);

/// What the intake needs.
pub(crate) struct Options {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) topic: Arc<str>,
    pub(crate) store: StateStore,
    pub(crate) window: Duration,
    pub(crate) appends: usize,
}

/// An item whose identity is reserved.
pub(crate) struct Reserved {
    pub(crate) id: Identity,
    pub(crate) body: BodyHash,
    /// `None` stands for the topic of events.
    pub(crate) topic: Option<Arc<str>>,
    pub(crate) record: Record,
}

/// Resolves to whether a request's records are durable.
pub(crate) type Durable = oneshot::Receiver<bool>;

/// Appends events to the log. Dropping it stops it; requests that are waiting then get no result of their appends.
pub(crate) struct Intake {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    log: Arc<dyn Log>,
    topic: Arc<str>,
    clock: Arc<dyn Clock>,
    seen: Seen,
    queue: Mutex<VecDeque<Group>>,
    /// The bytes of records in the queue and in unfinished appends.
    bytes: AtomicUsize,
    /// The largest record that the topic accepts.
    limit: AtomicUsize,
    work: Notify,
    /// One permit for each concurrent append.
    permits: Arc<Semaphore>,
    appends: u32,
    /// Identities whose append failed: the window in memory is ahead of the disk.
    failed: Mutex<Vec<(Identity, BodyHash)>>,
    closed: AtomicBool,
}

/// Requests that are appended together.
struct Group {
    since: Instant,
    bytes: usize,
    ids: Vec<(Identity, BodyHash)>,
    records: Vec<Append>,
    waiters: Vec<oneshot::Sender<bool>>,
    /// Notified when the append has ended, even if no request waits any more: whether the records are durable.
    on_end: Vec<oneshot::Sender<bool>>,
}

/// The items of one request that are reserved but not submitted. If they are dropped because the client hung up, their reservations end.
pub(crate) struct Unsent<'a> {
    intake: &'a Intake,
    items: Vec<Reserved>,
}

impl Unsent<'_> {
    /// Adds an item. The error: the record is larger than this limit of the log; its reservation has ended.
    pub(crate) fn push(&mut self, item: Reserved) -> Result<(), usize> {
        let shared = &self.intake.shared;
        let limit = shared.limit.load(Ordering::Relaxed);
        if record_size(&item.record) > limit {
            shared.seen.settle(&[(item.id, item.body)]);
            return Err(limit);
        }
        self.items.push(item);
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The identities and body hashes, in order.
    pub(crate) fn ids(&self) -> Vec<(Identity, BodyHash)> {
        self.items.iter().map(|item| (item.id, item.body)).collect()
    }

    /// Keeps the items for which `keep` returns true, in order; the reservations of the others end.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(usize) -> bool) {
        let mut index = 0;
        self.items.retain(|item| {
            let kept = keep(index);
            index += 1;
            if !kept {
                self.intake.shared.seen.settle(&[(item.id, item.body)]);
            }
            kept
        });
    }

    /// Submits the items. `on_end` receives the result of the append, even after the request was answered, unless the process ends first.
    pub(crate) fn submit(mut self, on_end: Option<oneshot::Sender<bool>>) -> Durable {
        let items = std::mem::take(&mut self.items);
        self.intake.submit(items, on_end)
    }
}

impl Drop for Unsent<'_> {
    fn drop(&mut self) {
        self.retain(|_| false);
    }
}

impl Group {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            bytes: 0,
            ids: Vec::with_capacity(64),
            records: Vec::with_capacity(64),
            waiters: Vec::with_capacity(64),
            on_end: Vec::new(),
        }
    }

    fn ended(&mut self, durable: bool) {
        for on_end in self.on_end.drain(..) {
            // A dropped receiver does not need the result.
            let _ = on_end.send(durable);
        }
    }

    fn answer(&mut self, durable: bool) {
        for waiter in self.waiters.drain(..) {
            // A client that hung up learns the outcome when it sends the same again.
            let _ = waiter.send(durable);
        }
    }
}

impl Intake {
    /// Restores the window and starts.
    pub(crate) fn open(options: Options, clock: Arc<dyn Clock>) -> Result<Self, StateError> {
        let appends = options.appends.clamp(1, 64);
        let shared = Arc::new(Shared {
            log: options.log,
            topic: options.topic,
            clock,
            seen: Seen::open(options.store, options.window)?,
            queue: Mutex::default(),
            bytes: AtomicUsize::new(0),
            limit: AtomicUsize::new(usize::MAX),
            work: Notify::new(),
            permits: Arc::new(Semaphore::new(appends)),
            appends: appends as u32,
            failed: Mutex::default(),
            closed: AtomicBool::new(false),
        });
        let task = tokio::spawn(Arc::clone(&shared).run());
        Ok(Self { shared, task })
    }

    /// Checks an identity, and reserves it if it is new; then it must be submitted.
    pub(crate) fn reserve(&self, id: Identity, body: BodyHash, now: Millis) -> Verdict {
        if self.shared.closed.load(Ordering::Relaxed)
            || self.shared.bytes.load(Ordering::Relaxed) > QUEUE_BYTES_MAX
        {
            return Verdict::Full;
        }
        self.shared
            .seen
            .reserve(id, body, now)
            .unwrap_or_else(|error| {
                tracing::error!(%error, "the window of identities cannot be read");
                Verdict::Full
            })
    }

    /// Starts an empty list of items for one request.
    pub(crate) fn unsent(&self) -> Unsent<'_> {
        Unsent {
            intake: self,
            items: Vec::new(),
        }
    }

    fn submit(&self, items: Vec<Reserved>, on_end: Option<oneshot::Sender<bool>>) -> Durable {
        let (answer, durable) = oneshot::channel();
        let wake = {
            let mut queue = self.shared.queue.lock();
            let wake = queue.is_empty();
            let full = |g: &Group| g.records.len() >= GROUP_RECORDS || g.bytes >= GROUP_BYTES;
            if queue.back().is_none_or(full) {
                queue.push_back(Group::new());
            }
            let mut bytes = 0;
            if let Some(group) = queue.back_mut() {
                for item in items {
                    bytes += item.record.value.as_ref().map_or(0, bytes::Bytes::len);
                    group.ids.push((item.id, item.body));
                    group.records.push(Append {
                        topic: item.topic.unwrap_or_else(|| Arc::clone(&self.shared.topic)),
                        record: item.record,
                    });
                }
                group.waiters.push(answer);
                group.on_end.extend(on_end);
                group.bytes += bytes;
            }
            self.shared.bytes.fetch_add(bytes, Ordering::Relaxed);
            wake
        };
        if wake {
            self.shared.work.notify_one();
        }
        durable
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    async fn run(self: Arc<Self>) {
        let shared = Arc::clone(&self);
        // Nobody waits for the limit; until it is known, a record that is too large fails when it is appended.
        drop(tokio::task::spawn_blocking(move || shared.ask_limit()));
        loop {
            let permit = self.permit().await;
            if self.closed.load(Ordering::Relaxed) {
                drop(permit);
                self.recover().await;
                continue;
            }
            let Some(group) = self.next() else {
                drop(permit);
                self.work.notified().await;
                continue;
            };
            self.append(group, permit);
        }
    }

    /// Asks the log for its record size limit. This waits for brokers, so async code must not call it.
    fn ask_limit(&self) {
        let limit = self.log.record_limit(&self.topic);
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Waits until another append may begin; meanwhile groups past their deadline are answered.
    async fn permit(&self) -> OwnedSemaphorePermit {
        loop {
            let permit = Arc::clone(&self.permits).acquire_owned();
            if let Ok(Ok(permit)) = tokio::time::timeout(CHECK_EVERY, permit).await {
                return permit;
            }
            self.expire();
        }
    }

    fn next(&self) -> Option<Group> {
        self.queue.lock().pop_front()
    }

    /// Fails groups that waited too long for a permit; none of their records reached the log.
    fn expire(&self) {
        let mut late = Vec::new();
        {
            let mut queue = self.queue.lock();
            while queue.front().is_some_and(|g| g.since.elapsed() >= DEADLINE) {
                late.extend(queue.pop_front());
            }
        }
        for group in late {
            self.give_up(group);
        }
    }

    fn give_up(&self, mut group: Group) {
        self.seen.settle(&group.ids);
        self.bytes.fetch_sub(group.bytes, Ordering::Relaxed);
        group.ended(false);
        group.answer(false);
    }

    fn append(self: &Arc<Self>, mut group: Group, permit: OwnedSemaphorePermit) {
        let records = std::mem::take(&mut group.records);
        let mut acknowledged = self.seen.commit(&group.ids, self.clock.now(), |changes| {
            self.log.append(records, Some(changes))
        });
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            let in_time = tokio::time::timeout_at(group.since + DEADLINE, &mut acknowledged).await;
            let result = if let Ok(result) = in_time {
                result
            } else {
                group.answer(false);
                acknowledged.await
            };
            if result.is_err() {
                // The process is ending, and the outcome is unknown.
                group.on_end.clear();
            }
            let error = match result {
                Ok(Ok(_)) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("the log is closing".to_owned()),
            };
            if let Some(error) = error {
                // This is set before the answers are sent, so that nothing is reserved against a window that is wrong.
                shared.closed.store(true, Ordering::Relaxed);
                shared.failed.lock().extend_from_slice(&group.ids);
                tracing::warn!(error, records = group.ids.len(), "an append failed");
                group.ended(false);
                group.answer(false);
                shared.work.notify_one();
            } else {
                shared.seen.settle(&group.ids);
                group.ended(true);
                group.answer(true);
            }
            shared.bytes.fetch_sub(group.bytes, Ordering::Relaxed);
            drop(permit);
        });
    }

    /// After a failed append: waits until no append is in progress, restores the window, and admits requests again.
    async fn recover(self: &Arc<Self>) {
        while let Some(group) = self.next() {
            self.give_up(group);
        }
        // The semaphore is never closed.
        let Ok(all) = Arc::clone(&self.permits)
            .acquire_many_owned(self.appends)
            .await
        else {
            return;
        };
        tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
        let shared = Arc::clone(self);
        let reloaded = tokio::task::spawn_blocking(move || {
            // The topic's record limit may have been lowered, and then the same records would fail again and again.
            shared.log.forget_record_limits();
            shared.ask_limit();
            shared.seen.reload()
        })
        .await;
        match reloaded {
            Ok(Ok(())) => {
                let failed = std::mem::take(&mut *self.failed.lock());
                self.seen.settle(&failed);
                self.closed.store(false, Ordering::Relaxed);
            }
            Ok(Err(error)) => tracing::error!(%error, "the window of identities cannot be read"),
            Err(error) => tracing::error!(%error, "the window of identities cannot be read"),
        }
        drop(all);
    }
}
