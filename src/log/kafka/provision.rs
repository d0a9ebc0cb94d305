//! Creates missing topics with the right policies, and checks partition counts.

use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError as ClientError, RDKafkaErrorCode},
};

use super::{
    CLIENT, KafkaOptions, REQUEST,
    classify::{Doing, call, runtime},
    limits,
    topics::Counts,
};
use crate::log::{Cleanup, LogError, TopicSpec, Unavailable};

const MAKING: &str = "making topics";
const SETTINGS: &str = "asking for the settings";

/// The partition count of a topic; `None`: there is no such topic.
pub(super) fn partitions(asker: &BaseConsumer, topic: &str) -> Result<Option<u32>, LogError> {
    let metadata = asker
        .fetch_metadata(Some(topic), REQUEST)
        .doing_of("asking for the partitions", topic)?;
    let found = metadata.topics().iter().find(|t| t.name() == topic);
    Ok(found
        .filter(|t| t.error().is_none() && !t.partitions().is_empty())
        .map(|t| t.partitions().len() as u32))
}

fn policies(options: &KafkaOptions, spec: &TopicSpec, wide: bool) -> Vec<(&'static str, String)> {
    let (policy, retention_ms) = match spec.cleanup {
        Cleanup::Keep => ("delete", Some(-1)),
        Cleanup::Delete { retention_ms } => ("delete", Some(retention_ms)),
        Cleanup::Compact => ("compact", None),
        Cleanup::CompactDelete { retention_ms } => ("compact,delete", Some(retention_ms)),
    };
    let mut policies = vec![
        ("cleanup.policy", policy.to_owned()),
        ("message.timestamp.type", "LogAppendTime".to_owned()),
    ];
    policies.extend(retention_ms.map(|ms| ("retention.ms", ms.to_string())));
    let wide = wide.then(|| limits::wanted(options, &spec.name)).flatten();
    policies.extend(wide.map(|bytes| (limits::SETTING, bytes.to_string())));
    policies
}

/// Creates missing topics. `known`: topics that were checked before, with their configured partition counts.
pub(super) fn provision(
    options: &KafkaOptions,
    asker: &BaseConsumer,
    known: &Counts,
    topics: &[TopicSpec],
    create: bool,
) -> Result<(), LogError> {
    let (mut missing, mut found) = (Vec::new(), Vec::new());
    for spec in topics {
        match partitions(asker, &spec.name)? {
            Some(count) => found.push((spec, count)),
            None if create => missing.push(spec),
            None => return Err(LogError::UnknownTopic(spec.name.to_string())),
        }
    }
    check_counts(known, &found)?;
    if missing.is_empty() {
        return Ok(());
    }
    // On a separate thread: it blocks on futures, and the caller's thread may belong to a runtime.
    std::thread::scope(|scope| scope.spawn(|| make(options, &missing, true)).join())
        .unwrap_or_else(|panic| Err(LogError::panicked(MAKING, &*panic)))?;
    // Another node may have created them concurrently, with other counts.
    for spec in missing {
        let mut found = None;
        for _ in 0..400 {
            found = partitions(asker, &spec.name)?;
            if found.is_some() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        match found {
            Some(count) if count == spec.partitions => {}
            Some(count) => check_counts(known, &[(spec, count)])?,
            None => return Err(LogError::UnknownTopic(spec.name.to_string())),
        }
    }
    Ok(())
}

/// Refuses topics whose partition counts differ from the configuration. Added partitions of some topics are not refused: they stay
/// unused, and [`super::topics::Topics::troubles`] reports them; a refusal would block the readers of records that others have written
/// there.
fn check_counts(known: &Counts, found: &[(&TopicSpec, u32)]) -> Result<(), LogError> {
    // Topics that always have a single partition are no evidence.
    let configured = found.iter().map(|(spec, _)| spec.partitions).max();
    let mut telling = found
        .iter()
        .filter(|(spec, _)| Some(spec.partitions) == configured);
    let first = telling.next().map_or(0, |(_, count)| *count);
    let all = known.is_empty() && telling.all(|(_, count)| *count == first);
    for (spec, count) in found {
        let wrong = *count < spec.partitions
            || *count > spec.partitions && all && Some(spec.partitions) == configured;
        if wrong {
            return Err(LogError::PartitionCount {
                topic: spec.name.to_string(),
                expected: spec.partitions,
                found: *count,
                all,
            });
        }
    }
    Ok(())
}

/// The cleanup policy of a topic. `None`: one that OmniLink does not use.
pub(super) fn cleanup(options: &KafkaOptions, topic: &str) -> Result<Option<Cleanup>, LogError> {
    // On a separate thread: it blocks on futures, and the caller's thread may belong to a runtime.
    std::thread::scope(|scope| scope.spawn(|| describe(options, topic)).join())
        .unwrap_or_else(|panic| Err(LogError::panicked(SETTINGS, &*panic)))
}

fn describe(options: &KafkaOptions, topic: &str) -> Result<Option<Cleanup>, LogError> {
    let admin: AdminClient<DefaultClientContext> = options.config().create().doing(CLIENT)?;
    let request = AdminOptions::new().request_timeout(Some(REQUEST));
    let described = runtime(SETTINGS)?
        .block_on(admin.describe_configs([&ResourceSpecifier::Topic(topic)], &request))
        .doing_of(SETTINGS, topic)?;
    let found = match described.into_iter().next() {
        Some(Ok(found)) => found,
        Some(Err(code)) => {
            let refused = call(SETTINGS, Some(topic), ClientError::AdminOp(code));
            return Err(Unavailable::Kafka(refused).into());
        }
        None => return Ok(None),
    };
    let value = |name: &str| found.get(name).and_then(|entry| entry.value.as_deref());
    let retention_ms = value("retention.ms").and_then(|ms| ms.parse::<i64>().ok());
    let policy = value("cleanup.policy").unwrap_or_default();
    let mut policies: Vec<&str> = policy.split(',').map(str::trim).collect();
    policies.sort_unstable();
    Ok(match (policies.as_slice(), retention_ms) {
        (["delete"], Some(ms)) if ms < 0 => Some(Cleanup::Keep),
        (["delete"], Some(retention_ms)) => Some(Cleanup::Delete { retention_ms }),
        (["compact"], _) => Some(Cleanup::Compact),
        (["compact", "delete"], Some(retention_ms)) => {
            Some(Cleanup::CompactDelete { retention_ms })
        }
        _ => None,
    })
}

/// Creates topics. `wide`: with raised size limits, which a broker's policy may refuse.
fn make(options: &KafkaOptions, missing: &[&TopicSpec], wide: bool) -> Result<(), LogError> {
    let admin: AdminClient<DefaultClientContext> = options.config().create().doing(CLIENT)?;
    let replicas = options.replication_factor.unwrap_or(-1);
    let policies: Vec<_> = missing
        .iter()
        .map(|spec| policies(options, spec, wide))
        .collect();
    let topics: Vec<_> = missing
        .iter()
        .zip(&policies)
        .map(|(spec, policies)| {
            let topic = NewTopic::new(
                &spec.name,
                spec.partitions as i32,
                TopicReplication::Fixed(replicas),
            );
            policies
                .iter()
                .fold(topic, |topic, (name, value)| topic.set(name, value))
        })
        .collect();
    let request = AdminOptions::new()
        .request_timeout(Some(REQUEST))
        .operation_timeout(Some(REQUEST));
    let made = runtime(MAKING)?
        .block_on(admin.create_topics(&topics, &request))
        .doing(MAKING)?;
    for result in made {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, RDKafkaErrorCode::PolicyViolation | RDKafkaErrorCode::InvalidConfig))
                if wide =>
            {
                tracing::warn!(
                    topic,
                    "the broker refuses the topic with its max.message.bytes; creating it without"
                );
                return make(options, missing, false);
            }
            Err((topic, code)) => {
                let refused = call("making the topic", Some(&topic), ClientError::AdminOp(code));
                return Err(LogError::Kafka(refused));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(known: bool, counts: &[(u32, u32)]) -> Result<(), LogError> {
        let specs: Vec<(TopicSpec, u32)> = counts
            .iter()
            .enumerate()
            .map(|(n, (partitions, found))| {
                let spec = TopicSpec {
                    name: format!("t{n}").into(),
                    partitions: *partitions,
                    cleanup: Cleanup::Keep,
                };
                (spec, *found)
            })
            .collect();
        let found: Vec<(&TopicSpec, u32)> = specs.iter().map(|(spec, n)| (spec, *n)).collect();
        let mut before = Counts::default();
        if known {
            before.insert("ingress".into(), 2);
        }
        check_counts(&before, &found)
    }

    #[test]
    fn the_configuration_is_to_blame_only_if_all_topics_say_so() {
        check(false, &[(2, 2), (1, 1), (2, 2)]).unwrap();
        // Partitions were added to one of them, or to one that always has a single partition.
        check(false, &[(2, 4), (1, 1), (2, 2)]).unwrap();
        check(false, &[(2, 2), (1, 3), (2, 2)]).unwrap();
        check(true, &[(2, 4)]).unwrap();
        let error = check(false, &[(2, 4), (1, 1), (2, 4)]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("set topics.partitions to 4"), "{text}");
        for known in [false, true] {
            let error = check(known, &[(4, 1), (1, 1), (4, 4)]).unwrap_err();
            let text = error.to_string();
            assert!(text.contains("`t0` has 1 partitions"), "{text}");
            assert!(text.contains("--topic t0 --partitions 4"), "{text}");
            assert!(text.contains("do not set topics.partitions"), "{text}");
        }
    }
}
