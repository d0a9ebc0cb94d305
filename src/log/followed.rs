//! A topic that each node follows and keeps in memory: keys, cached plans, marks of schedules.
//!
//! The positions of such a reader are in memory too, and it has to learn when they are positions in another topic, as lanes
//! do (`identity`). The log looks at the ids of topics in the background, so that it may be asked before each poll.

use std::sync::Arc;

use super::{
    Log, LogError, TopicId,
    identity::{Place, Reset},
};

/// Which topic has a name, by what the log has heard last. Asking sends no request.
pub trait TopicWatch: Send {
    /// The id of the topic; `None`: the log does not know it, or topics of this log have none.
    fn current(&self) -> Option<TopicId>;
}

/// A topic that cannot be recreated.
pub(super) struct Unchanging(pub(super) Option<TopicId>);

impl TopicWatch for Unchanging {
    fn current(&self) -> Option<TopicId> {
        self.0
    }
}

/// A topic that somebody reads whose positions are in memory.
pub struct FollowedTopic {
    reader: &'static str,
    topic: Arc<str>,
    /// `None` until it is asked for the first time.
    watch: Option<Box<dyn TopicWatch>>,
    /// The topic that the positions are in.
    id: Option<TopicId>,
}

impl FollowedTopic {
    /// `reader` is shown as who reads the topic.
    pub fn new(reader: &'static str, topic: &Arc<str>) -> Self {
        Self {
            reader,
            topic: Arc::clone(topic),
            watch: None,
            id: None,
        }
    }

    /// Whether the topic was deleted and recreated since the last call, which is reported: then it has to be read from its start. Ask
    /// before the first read, and before each that follows; only the first call sends a request.
    pub fn is_recreated(&mut self, log: &dyn Log) -> Result<bool, LogError> {
        let watch = match self.watch.take() {
            Some(watch) => watch,
            None => log.watch_topic(&self.topic)?,
        };
        let current = watch.current();
        self.watch = Some(watch);
        let Some(is) = current else {
            return Ok(false);
        };
        match self.id.replace(is) {
            Some(was) if was != is => {
                let place = Place {
                    processor: self.reader,
                    topic: &self.topic,
                    partition: 0,
                };
                Reset::Recreated { was, is }.announce(place);
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::{base::clock::SystemClock, log::memory::MemoryLog, telemetry};

    struct Known(Arc<Mutex<Option<TopicId>>>);

    impl TopicWatch for Known {
        fn current(&self) -> Option<TopicId> {
            *self.0.lock()
        }
    }

    #[test]
    fn another_id_is_another_topic_and_no_answer_is_none() {
        let log = MemoryLog::new(Arc::new(SystemClock));
        let known = Arc::new(Mutex::new(None));
        let mut followed = FollowedTopic {
            watch: Some(Box::new(Known(Arc::clone(&known)))),
            ..FollowedTopic::new("test", &Arc::from("followed-topic"))
        };
        let id = |n: u8| TopicId::from_bytes([n; 16]);
        let seen = [
            (None, false),
            (id(1), false),
            (id(1), false),
            (None, false),
            (id(2), true),
            (id(2), false),
            (id(1), true),
        ];
        for (now, recreated) in seen {
            *known.lock() = now;
            assert_eq!(followed.is_recreated(&log).unwrap(), recreated, "{now:?}");
        }
        let notices = telemetry::notices();
        let reported = |notice: &String| notice.contains("`followed-topic` was deleted");
        assert!(notices.iter().any(reported), "{notices:?}");
    }

    #[test]
    fn a_topic_that_does_not_exist_is_asked_for_again() {
        let log = MemoryLog::new(Arc::new(SystemClock));
        let mut followed = FollowedTopic::new("test", &Arc::from("missing"));
        for _ in 0..2 {
            let error = followed.is_recreated(&log).unwrap_err();
            assert!(matches!(error, LogError::UnknownTopic(_)), "{error}");
        }
    }
}
