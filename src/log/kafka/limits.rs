//! The size limits of topics: `max.message.bytes`, as described by the brokers and cached. Raises the limits of OmniLink's own
//! topics.
//!
//! If the brokers do not answer, or the client may not describe a topic, Kafka's default is assumed. Records that are refused lower
//! the limit: [`Limits::refused`].

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rdkafka::{
    admin::{
        AdminClient, AdminOptions, AlterConfig, ConfigResource, ConfigSource,
        OwnedResourceSpecifier, ResourceSpecifier,
    },
    client::DefaultClientContext,
    error::KafkaError as ClientError,
};

use super::{
    CLIENT, KafkaOptions,
    classify::{Doing, call, runtime},
};
use crate::log::{LogError, TopicSpec, topics::Names};

const ASKING: &str = "asking the brokers for the settings of topics";
/// The topic setting.
pub(super) const SETTING: &str = "max.message.bytes";
/// Kafka's default for it.
const DEFAULT: usize = 1_048_588;
/// The smallest limit of `ingress`: the 1 MiB that clients send by default, and room for the headers of a record that is redriven or
/// moved to another partition.
const INGRESS: usize = 2 << 20;
/// The factor for the other topics: a record between two stages holds the old and the new value, and the headers twice.
pub(super) const WIDER: usize = 4;
/// Time limit of a request; a lane waits for it.
const REQUEST: Duration = Duration::from_secs(2);
/// How long an answer is cached.
const FRESH: Duration = Duration::from_secs(30);
/// When to repeat a request that failed.
const RETRY: Duration = Duration::from_secs(5);
/// How long a refusal overrides the limit that the brokers describe.
const REFUSED: Duration = Duration::from_mins(10);

/// The size limits of topics. Cheap to clone.
#[derive(Clone)]
pub(super) struct Limits(Arc<Shared>);

struct Shared {
    options: KafkaOptions,
    known: Mutex<HashMap<String, Known>>,
}

#[derive(Clone, Copy)]
struct Known {
    /// The limit that the brokers described.
    described: usize,
    until: Instant,
    refused: Option<Refused>,
}

/// Limits derived from records that a broker refused.
#[derive(Clone, Copy)]
struct Refused {
    record: usize,
    batch: usize,
    until: Instant,
}

impl Known {
    fn record(&self) -> usize {
        self.refused
            .map_or(self.described, |r| r.record.min(self.described))
    }

    fn batch(&self) -> usize {
        self.refused
            .map_or(self.described, |r| r.batch.min(self.described))
    }

    /// Halves the batch limit, until a batch of a single record is refused: then that record is too large.
    fn refuse(&mut self, sizes: &[usize], now: Instant) {
        let Some(least) = sizes.iter().min() else {
            return;
        };
        let (mut record, mut batch) = (self.record(), self.batch());
        if sizes.len() == 1 || batch <= *least {
            record = record.min(least.saturating_sub(1));
        } else {
            batch = batch.min(sizes.iter().sum()) / 2;
        }
        self.refused = Some(Refused {
            record,
            batch,
            until: now + REFUSED,
        });
    }
}

impl Limits {
    pub(super) fn new(options: &KafkaOptions) -> Self {
        Self(Arc::new(Shared {
            options: options.clone(),
            known: Mutex::default(),
        }))
    }

    /// The largest record, in bytes as `record_size` counts them.
    pub(super) fn record(&self, topic: &str) -> usize {
        self.known(topic)
            .record()
            .min(self.0.options.message_bytes())
    }

    /// The largest batch, in bytes.
    pub(super) fn batch(&self, topic: &str) -> usize {
        self.known(topic).batch()
    }

    /// Invalidates the cache.
    pub(super) fn forget(&self) {
        let now = Instant::now();
        for known in self.0.known.lock().values_mut() {
            known.until = now;
        }
    }

    /// Notes that a broker has refused one or more batches with records of these sizes.
    pub(super) fn refused(&self, topic: &str, sizes: &[usize]) {
        let mut known = self.known(topic);
        let before = known.described;
        known.refuse(sizes, Instant::now());
        // If the topic's limit has just been lowered, the described limit is more precise than the refusal.
        if let Ok(found) = self.describe(&[topic])
            && let Some(described) = found.get(topic)
        {
            known.described = *described;
            known.until = Instant::now() + FRESH;
            if *described < before {
                known.refused = None;
            }
        }
        tracing::warn!(
            topic,
            records = sizes.len(),
            largest = sizes.iter().max(),
            takes = known.record(),
            "records were refused as too large; the known limit of the topic is updated"
        );
        self.0.known.lock().insert(topic.to_owned(), known);
    }

    fn known(&self, topic: &str) -> Known {
        let now = Instant::now();
        let stale: Vec<String> = {
            let known = self.0.known.lock();
            if let Some(known) = known.get(topic).filter(|known| known.until > now) {
                return *known;
            }
            // One request for all that have expired.
            let soon = known.iter().filter(|(_, known)| known.until <= now);
            let others = soon.map(|(name, _)| name.clone()).filter(|n| n != topic);
            std::iter::once(topic.to_owned()).chain(others).collect()
        };
        let names: Vec<&str> = stale.iter().map(String::as_str).collect();
        let asked = self.describe(&names);
        if let Err(error) = &asked {
            tracing::warn!(%error, topic, "cannot read the size limits of topics; the known limits are used");
        }
        let until = Instant::now() + if asked.is_ok() { FRESH } else { RETRY };
        let described = asked.unwrap_or_default();
        let now = Instant::now();
        let mut known = self.0.known.lock();
        for name in stale {
            let before = known.get(&name).copied();
            let answer = described.get(&name).copied();
            let bytes = answer
                .or(before.map(|known| known.described))
                .unwrap_or(DEFAULT);
            let refused = before.and_then(|known| {
                let same = known.described == bytes;
                known.refused.filter(|r| same && r.until > now)
            });
            let one = Known {
                described: bytes,
                until,
                refused,
            };
            known.insert(name, one);
        }
        known.get(topic).copied().unwrap_or(Known {
            described: DEFAULT,
            until: now,
            refused: None,
        })
    }

    /// The limits that the brokers describe; topics that they do not describe are left out.
    fn describe(&self, topics: &[&str]) -> Result<HashMap<String, usize>, LogError> {
        let found = describe(&self.0.options, topics)?;
        Ok(found
            .into_iter()
            .filter_map(|(name, resource)| Some((name, bytes_of(&resource)?)))
            .collect())
    }

    /// Raises the limits of OmniLink's own topics that are too small; with `change` false only logs them.
    pub(super) fn widen(&self, specs: &[TopicSpec], change: bool) {
        let narrow = match self.narrow(specs) {
            Ok(narrow) => narrow,
            Err(error) => {
                tracing::warn!(%error, "cannot read the size limits of topics");
                return;
            }
        };
        for (topic, resource, found, wanted) in narrow {
            if !change {
                tracing::warn!(
                    topic,
                    found,
                    wanted,
                    "the topic's max.message.bytes is too small: large records will be dead letters"
                );
                continue;
            }
            let change = (SETTING, &*wanted.to_string());
            match alter(&self.0.options, &topic, &resource, change) {
                Ok(()) => {
                    tracing::info!(topic, found, wanted, "max.message.bytes was raised");
                    self.0.known.lock().remove(&topic);
                }
                Err(error) => tracing::warn!(
                    topic, found, wanted, %error,
                    "max.message.bytes cannot be raised: large records will be dead letters"
                ),
            }
        }
    }

    fn narrow(
        &self,
        specs: &[TopicSpec],
    ) -> Result<Vec<(String, ConfigResource, usize, usize)>, LogError> {
        let wanted: HashMap<&str, usize> = specs
            .iter()
            .filter_map(|spec| Some((&*spec.name, wanted(&self.0.options, &spec.name)?)))
            .collect();
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let names: Vec<&str> = wanted.keys().copied().collect();
        let found = describe(&self.0.options, &names)?.into_iter();
        Ok(found
            .filter_map(|(name, resource)| {
                let (bytes, wanted) = (bytes_of(&resource)?, *wanted.get(&*name)?);
                (bytes < wanted).then_some((name, resource, bytes, wanted))
            })
            .collect())
    }
}

/// The smallest limit that one of OmniLink's own topics should have; `None` for other topics.
pub(super) fn wanted(options: &KafkaOptions, topic: &str) -> Option<usize> {
    let names = Names::new(&options.prefix);
    if !names.is_own(topic) {
        return None;
    }
    let ingress = options
        .given_message_bytes()
        .unwrap_or_default()
        .max(INGRESS);
    Some(if *topic == *names.ingress {
        ingress
    } else {
        // The setting is a signed 32-bit number.
        ingress.saturating_mul(WIDER).min(1 << 30)
    })
}

fn bytes_of(resource: &ConfigResource) -> Option<usize> {
    resource.get(SETTING)?.value.as_ref()?.parse().ok()
}

/// The settings of topics, by name.
pub(super) fn describe(
    options: &KafkaOptions,
    topics: &[&str],
) -> Result<HashMap<String, ConfigResource>, LogError> {
    let found = admin(options, async |admin, request| {
        let topics = topics.iter().map(|topic| ResourceSpecifier::Topic(topic));
        admin
            .describe_configs(topics.collect::<Vec<_>>().iter(), request)
            .await
    })?;
    let mut all = HashMap::new();
    // Leaves out topics that cannot be described.
    for resource in found.into_iter().flatten() {
        if let OwnedResourceSpecifier::Topic(name) = &resource.specifier {
            all.insert(name.clone(), resource);
        }
    }
    Ok(all)
}

/// Changes one setting of a topic.
pub(super) fn alter(
    options: &KafkaOptions,
    topic: &str,
    resource: &ConfigResource,
    (name, value): (&str, &str),
) -> Result<(), LogError> {
    let mut change = AlterConfig::new(ResourceSpecifier::Topic(topic));
    // This request replaces all settings of the topic, so it repeats the existing ones.
    for entry in &resource.entries {
        if entry.source == ConfigSource::DynamicTopic
            && let Some(existing) = &entry.value
        {
            change = change.set(&entry.name, existing);
        }
    }
    let change = change.set(name, value);
    let done = admin(options, async |admin, request| {
        admin.alter_configs([&change], request).await
    })?;
    match done.into_iter().next() {
        Some(Err((_, code))) => {
            let refused = call(
                "changing the settings",
                Some(topic),
                ClientError::AdminOp(code),
            );
            Err(LogError::Kafka(refused))
        }
        _ => Ok(()),
    }
}

/// Sends an admin request, on a separate thread: it blocks on futures, and the caller's thread may belong to a runtime.
fn admin<T: Send>(
    options: &KafkaOptions,
    ask: impl AsyncFnOnce(&AdminClient<DefaultClientContext>, &AdminOptions) -> Result<T, ClientError>
    + Send,
) -> Result<T, LogError> {
    let asked = || {
        let admin: AdminClient<DefaultClientContext> = options.config().create().doing(CLIENT)?;
        let request = AdminOptions::new()
            .request_timeout(Some(REQUEST))
            .operation_timeout(Some(REQUEST));
        runtime(ASKING)?
            .block_on(ask(&admin, &request))
            .doing(ASKING)
    };
    std::thread::scope(|scope| scope.spawn(asked).join())
        .unwrap_or_else(|panic| Err(LogError::panicked(ASKING, &*panic)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_topics_have_a_larger_limit_than_ingress() {
        let mut options = KafkaOptions {
            prefix: "omnilink.".into(),
            ..KafkaOptions::default()
        };
        let take = |options: &KafkaOptions, topic: &str| wanted(options, topic);
        assert_eq!(take(&options, "omnilink.ingress"), Some(2 << 20));
        for topic in ["events", "dlq", "throttled", "rekey.a", "state.topology.a"] {
            let topic = format!("omnilink.{topic}");
            assert_eq!(take(&options, &topic), Some(8 << 20), "{topic}");
        }
        assert_eq!(take(&options, "shop.orders"), None);
        options
            .properties
            .insert("message.max.bytes".into(), "5000000".into());
        assert_eq!(take(&options, "omnilink.ingress"), Some(5_000_000));
        assert_eq!(take(&options, "omnilink.dlq"), Some(20_000_000));
        options.prefix = String::new();
        assert_eq!(take(&options, "rekey.a"), Some(20_000_000));
        assert_eq!(take(&options, "shop.orders"), None);
    }

    #[test]
    fn refusals_lower_the_limits() {
        let now = Instant::now();
        let mut known = Known {
            described: DEFAULT,
            until: now,
            refused: None,
        };
        // A large record among small ones, on a topic with an undescribed limit of 4,999 bytes.
        let sizes = [100, 100, 5_000, 100];
        for round in 0.. {
            assert!(round < 20);
            let fit = known.batch() >= sizes.iter().sum();
            let refused = if fit { &sizes[..] } else { &[5_000] };
            known.refuse(refused, now);
            if known.record() < 5_000 {
                break;
            }
        }
        assert_eq!(known.record(), 4_999);
        assert!(known.batch() >= 100);
        // A record that fits in a batch by itself is never taken as too large.
        let mut known = Known {
            described: DEFAULT,
            until: now,
            refused: None,
        };
        while known.batch() >= 500 {
            known.refuse(&[100; 5], now);
        }
        assert_eq!(known.record(), DEFAULT);
    }
}
