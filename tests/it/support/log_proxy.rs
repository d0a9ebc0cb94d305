//! A log that passes calls on to another one, some of which a test intercepts.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use omnilink::{
    base::clock::Millis,
    log::{
        Acknowledged, Append, Lane, Log, LogError, OffsetRange, Output, Reader, Source, TopicSpec,
        TopicWatch, Unavailable, Work,
    },
    state::Changes,
};

/// What a test changes about a log; by default nothing.
pub trait Intercept: Send + Sync {
    /// The log behind the proxy.
    fn inner(&self) -> &dyn Log;

    /// Whether the log can be read at all.
    fn reachable(&self) -> Result<(), LogError> {
        Ok(())
    }

    fn append(&self, records: Vec<Append>, state: Option<Changes>) -> Acknowledged {
        self.inner().append(records, state)
    }

    fn append_to(&self, records: Vec<Output>, state: Option<Changes>) -> Acknowledged {
        self.inner().append_to(records, state)
    }

    fn reader(&self, topic: &str) -> Result<Box<dyn Reader>, LogError> {
        self.inner().reader(topic)
    }
}

/// A [`Log`] with interceptions. Methods that [`Log`] provides itself are not passed on.
pub struct LogProxy<T>(pub T);

impl<T> LogProxy<T> {
    pub fn new(intercept: T) -> Arc<Self> {
        Arc::new(Self(intercept))
    }
}

impl<T: Intercept> Log for LogProxy<T> {
    fn provision(&self, topics: &[TopicSpec], create: bool) -> Result<(), LogError> {
        self.0.inner().provision(topics, create)
    }

    fn partitions(&self, topic: &str) -> Result<u32, LogError> {
        self.0.inner().partitions(topic)
    }

    fn watch_topic(&self, topic: &str) -> Result<Box<dyn TopicWatch>, LogError> {
        self.0.inner().watch_topic(topic)
    }

    fn append(&self, records: Vec<Append>, state: Option<Changes>) -> Acknowledged {
        self.0.append(records, state)
    }

    fn append_to(&self, records: Vec<Output>, state: Option<Changes>) -> Acknowledged {
        self.0.append_to(records, state)
    }

    fn reader(&self, topic: &str) -> Result<Box<dyn Reader>, LogError> {
        self.0.reachable()?;
        self.0.reader(topic)
    }

    fn lane(&self, processor: &str, topics: &[String]) -> Result<Box<dyn Lane>, LogError> {
        self.0.inner().lane(processor, topics)
    }

    fn source(&self, processor: &str, topic: &str) -> Result<Box<dyn Source>, LogError> {
        self.0.inner().source(processor, topic)
    }

    fn work(&self, processor: &str, topic: &str) -> Result<Box<dyn Work>, LogError> {
        self.0.inner().work(processor, topic)
    }

    fn offset_range(&self, topic: &str, partition: u32) -> Result<OffsetRange, LogError> {
        self.0.reachable()?;
        self.0.inner().offset_range(topic, partition)
    }

    fn offset_at(&self, topic: &str, partition: u32, at: Millis) -> Result<u64, LogError> {
        self.0.inner().offset_at(topic, partition, at)
    }

    fn committed(
        &self,
        processor: &str,
        topic: &str,
        partition: u32,
    ) -> Result<Option<u64>, LogError> {
        self.0.inner().committed(processor, topic, partition)
    }

    fn health(&self) -> Result<(), LogError> {
        self.0.reachable()?;
        self.0.inner().health()
    }
}

/// A log that cannot be read at times.
pub struct Away {
    inner: Arc<dyn Log>,
    away: AtomicBool,
}

impl Away {
    pub fn over(inner: &Arc<dyn Log>) -> Arc<LogProxy<Self>> {
        LogProxy::new(Self {
            inner: Arc::clone(inner),
            away: AtomicBool::new(false),
        })
    }

    pub fn set(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }
}

impl Intercept for Away {
    fn inner(&self) -> &dyn Log {
        &*self.inner
    }

    fn reachable(&self) -> Result<(), LogError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(LogError::Unavailable(Unavailable::Closing));
        }
        Ok(())
    }
}
