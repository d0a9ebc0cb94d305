//! Reads partitions of a topic from their ends, while somebody needs them.
//!
//! One thread reads all partitions that are needed. It begins with the first request and ends when nobody has needed it for
//! [`IDLE`]; then the partitions are closed. After an error it ends too, and the next request begins anew.

use std::{
    collections::BTreeSet,
    sync::Arc,
    thread::{Builder, JoinHandle},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::{
    base::threads,
    log::{Fetched, Isolation, Log, LogError, Reader},
};

/// Longest wait of a poll for records; another partition is opened after it.
const POLL_WAIT: Duration = Duration::from_millis(20);
/// How long partitions that nobody needs stay open.
const IDLE: Duration = Duration::from_secs(10);

/// Receives the records of a poll.
type Take = Box<dyn Fn(&[Fetched]) + Send + Sync>;

/// The reader of a topic. Dropping it stops it.
pub(super) struct Tail(Arc<Shared>);

struct Shared {
    log: Arc<dyn Log>,
    topic: Arc<str>,
    take: Take,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// How many need a partition now.
    users: usize,
    /// When the last of them left.
    left: Option<Instant>,
    /// The last thread that was started.
    thread: Option<JoinHandle<()>>,
    /// Whether it reads; false from the moment at which it takes no more requests.
    running: bool,
    /// No thread may be started any more.
    stopped: bool,
    /// The partitions that are read.
    open: BTreeSet<u32>,
    /// Requests that the thread has not seen.
    wanted: Vec<Wanted>,
}

/// A request to open a partition.
struct Wanted {
    partition: u32,
    /// Dropped if the partition cannot be read.
    opened: oneshot::Sender<()>,
}

/// Keeps a partition open.
pub(super) struct Reading(Arc<Shared>);

impl Tail {
    /// A reader of a topic, which hands the records of each poll to `take`.
    pub(super) fn new(
        log: &Arc<dyn Log>,
        topic: &Arc<str>,
        take: impl Fn(&[Fetched]) + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Shared {
            log: Arc::clone(log),
            topic: Arc::clone(topic),
            take: Box::new(take),
            state: Mutex::default(),
        }))
    }

    /// Opens a partition: records that are appended after this has returned are read, as long as the result exists. `None`: it
    /// cannot be read now. Wait with a deadline.
    pub(super) async fn read(&self, partition: u32) -> Option<Reading> {
        let reading = Reading::new(&self.0);
        if let Some(opened) = self.0.want(partition) {
            opened.await.ok()?;
        }
        Some(reading)
    }

    /// Stops reading. Blocks until the thread has ended.
    pub(super) fn stop(&self) {
        let thread = {
            let mut state = self.0.state.lock();
            state.stopped = true;
            state.thread.take()
        };
        if let Some(thread) = thread {
            threads::join(thread);
        }
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Reading {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.state.lock().users += 1;
        Self(Arc::clone(shared))
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.users -= 1;
        if state.users == 0 {
            state.left = Some(Instant::now());
        }
    }
}

impl State {
    fn is_idle(&self) -> bool {
        let long_ago = |left: Instant| left.elapsed() >= IDLE;
        self.users == 0 && self.wanted.is_empty() && self.left.is_none_or(long_ago)
    }

    /// Whether a thread takes requests. One that has panicked does not.
    fn is_running(&self) -> bool {
        let thread = self.thread.as_ref();
        self.running && thread.is_some_and(|thread| !thread.is_finished())
    }

    /// No thread reads any more.
    fn end(&mut self) {
        self.running = false;
        self.open.clear();
        self.wanted.clear();
    }
}

impl Shared {
    /// Asks the thread to open a partition; `None`: it is open.
    fn want(self: &Arc<Self>, partition: u32) -> Option<oneshot::Receiver<()>> {
        let mut state = self.state.lock();
        let runs = state.is_running();
        if runs && state.open.contains(&partition) {
            return None;
        }
        let (opened, answer) = oneshot::channel();
        if !runs {
            state.end();
        }
        if runs || self.start(&mut state) {
            state.wanted.push(Wanted { partition, opened });
        }
        Some(answer)
    }

    /// Starts the thread. Returns whether it runs.
    fn start(self: &Arc<Self>, state: &mut State) -> bool {
        if state.stopped {
            return false;
        }
        let shared = Arc::clone(self);
        let started = Builder::new()
            .name("answers".into())
            .spawn(move || shared.run());
        match started {
            Ok(thread) => {
                state.thread = Some(thread);
                state.running = true;
            }
            Err(error) => tracing::warn!(%error, "a thread cannot be started"),
        }
        state.running
    }

    fn run(&self) {
        if let Err(error) = self.follow() {
            let topic = &*self.topic;
            tracing::warn!(%error, topic, "answers of runs on other nodes cannot be read");
            self.state.lock().end();
        }
    }

    fn follow(&self) -> Result<(), LogError> {
        let mut reader = self.log.reader(&self.topic)?;
        let mut records = Vec::new();
        while let Some(wanted) = self.requests() {
            self.open(reader.as_mut(), wanted)?;
            reader.poll(POLL_WAIT, &mut records)?;
            (self.take)(&records);
            records.clear();
        }
        Ok(())
    }

    /// The new requests; `None`: the thread is to end.
    fn requests(&self) -> Option<Vec<Wanted>> {
        let mut state = self.state.lock();
        if state.stopped || state.is_idle() {
            state.end();
            return None;
        }
        Some(std::mem::take(&mut state.wanted))
    }

    /// Opens partitions at their ends.
    fn open(&self, reader: &mut dyn Reader, wanted: Vec<Wanted>) -> Result<(), LogError> {
        let mut new: BTreeSet<u32> = wanted.iter().map(|one| one.partition).collect();
        {
            let state = self.state.lock();
            new.retain(|partition| !state.open.contains(partition));
        }
        let places = new.iter();
        let places: Vec<_> = places
            .map(|partition| (Arc::clone(&self.topic), *partition))
            .collect();
        let ends = self.log.end_offsets(&places, Isolation::Committed)?;
        for (partition, end) in new.into_iter().zip(ends) {
            // One whose leader is being chosen has no end now.
            if let Some(end) = end {
                reader.assign(partition, end)?;
                self.state.lock().open.insert(partition);
            }
        }
        let state = self.state.lock();
        for one in wanted {
            if state.open.contains(&one.partition) {
                // Whoever waited may have given up.
                let _ = one.opened.send(());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::clock::SystemClock,
        log::{Output, Record, memory::MemoryLog, topics::Names},
    };

    async fn append(log: &Arc<dyn Log>, topic: &Arc<str>, partition: u32, value: &'static str) {
        let output = Output {
            topic: Arc::clone(topic),
            partition: Some(partition),
            record: Record {
                value: Some(value.into()),
                ..Record::default()
            },
        };
        log.append_to(vec![output], None).await.unwrap().unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn partitions_are_read_from_their_ends() {
        let log: Arc<dyn Log> = Arc::new(MemoryLog::new(Arc::new(SystemClock)));
        let names = Names::new("t.");
        log.provision(&names.specs(2), true).unwrap();
        let (seen, mut values) = tokio::sync::mpsc::unbounded_channel();
        let tail = Tail::new(&log, &names.runs, move |records| {
            for fetched in records {
                let _ = seen.send(fetched.record.value.clone().unwrap());
            }
        });
        append(&log, &names.runs, 0, "before").await;
        let first = tail.read(0).await.unwrap();
        let shared = tail.read(0).await.unwrap();
        append(&log, &names.runs, 1, "elsewhere").await;
        append(&log, &names.runs, 0, "first").await;
        assert_eq!(values.recv().await.unwrap(), "first");
        drop((first, shared));
        // It stays open for a while.
        append(&log, &names.runs, 0, "second").await;
        assert_eq!(values.recv().await.unwrap(), "second");
        let _other = tail.read(1).await.unwrap();
        append(&log, &names.runs, 1, "third").await;
        assert_eq!(values.recv().await.unwrap(), "third");
        tail.stop();
        assert!(tail.read(0).await.is_none());
        assert_eq!(tail.0.state.lock().users, 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_topic_that_cannot_be_read_keeps_nobody_waiting() {
        let log: Arc<dyn Log> = Arc::new(MemoryLog::new(Arc::new(SystemClock)));
        let names = Names::new("t.");
        let tail = Tail::new(&log, &names.runs, |_| {});
        assert!(tail.read(0).await.is_none());
        log.provision(&names.specs(1), true).unwrap();
        assert!(tail.read(0).await.is_some());
    }
}
