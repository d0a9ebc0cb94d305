//! Static members (KIP-345): stable ids for the members of each consumer group on this node.
//!
//! An id is derived from the processor, the node and a number, the lowest that is free in this process. It is the
//! `transactional.id` of a lane and the prefix of the `group.instance.id` of each member. After a restart or a crash the
//! successor has the same ids. As a producer it fences its predecessor and aborts the transaction that it left open, which
//! would otherwise block readers until its timeout; as a member it takes over the partitions at once, without a wait for the
//! session timeout of the predecessor.

use std::{collections::HashSet, sync::Arc};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::KafkaOptions;
use crate::base::hex::hex;

/// The longest `group.instance.id` that Kafka accepts.
const MAX_LEN: usize = 249;

/// The static members that are in use in this process.
#[derive(Clone, Default)]
pub(super) struct StaticMembers(Arc<Mutex<HashSet<MemberKey>>>);

/// Identifies a member among those of this node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct MemberKey {
    processor: Arc<str>,
    number: u32,
}

/// A static member of a processor's group. Its ids are reserved until it is dropped.
pub(super) struct StaticMember {
    key: MemberKey,
    in_use: StaticMembers,
}

impl StaticMembers {
    /// Reserves the ids with the lowest free number of a processor.
    pub(super) fn reserve(&self, processor: &str) -> StaticMember {
        let mut in_use = self.0.lock();
        let mut key = MemberKey {
            processor: processor.into(),
            number: 0,
        };
        while !in_use.insert(key.clone()) {
            key.number += 1;
        }
        StaticMember {
            key,
            in_use: self.clone(),
        }
    }
}

impl StaticMember {
    pub(super) fn processor(&self) -> &Arc<str> {
        &self.key.processor
    }

    /// The `transactional.id`. It is the same after a restart of this node.
    pub(super) fn transactional_id(&self, options: &KafkaOptions) -> String {
        let MemberKey { processor, number } = &self.key;
        format!("{}{processor}-{}-{number}", options.prefix, options.node)
    }

    /// The `group.instance.id` of a member that reads these topics, each with its partition count. The coordinator gives a
    /// static member that rejoins the assignment of its predecessor without a rebalance, so a member that subscribes to
    /// other topics or partitions needs another id.
    pub(super) fn instance_id(&self, options: &KafkaOptions, topics: &[(String, u32)]) -> String {
        let id = self.transactional_id(options);
        let mut hash = Sha256::new();
        hash.update(&id);
        for (topic, partitions) in topics {
            hash.update([0]);
            hash.update(topic);
            hash.update(partitions.to_be_bytes());
        }
        let digest = hex(&hash.finalize()[..8]);
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        // The digest makes it unique; the rest is for people.
        let mut readable: String = id.chars().map(|c| if legal(c) { c } else { '_' }).collect();
        readable.truncate(MAX_LEN - 1 - digest.len());
        format!("{readable}-{digest}")
    }
}

impl Drop for StaticMember {
    fn drop(&mut self) {
        self.in_use.0.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_reused_once_its_member_is_dropped() {
        let members = StaticMembers::default();
        let reserve = |processor| members.reserve(processor);
        let (one, two, other) = (reserve("a"), reserve("a"), reserve("b"));
        let numbers = [&one, &two, &other].map(|member| member.key.number);
        assert_eq!(numbers, [0, 1, 0]);
        drop(one);
        assert_eq!(reserve("a").key.number, 0);
        assert_eq!(two.key.number, 1);
    }

    #[test]
    fn a_member_is_the_same_after_a_restart_while_it_reads_the_same() {
        let options = KafkaOptions {
            prefix: "omnilink.".into(),
            node: "n 1".into(),
            ..KafkaOptions::default()
        };
        let members = StaticMembers::default();
        let id = |topics: &[(&str, u32)]| {
            let topics: Vec<_> = topics.iter().map(|(t, n)| ((*t).to_owned(), *n)).collect();
            members.reserve("p").instance_id(&options, &topics)
        };
        let first = id(&[("in", 8)]);
        assert!(first.starts_with("omnilink.p-n_1-0-"), "{first}");
        assert_eq!(id(&[("in", 8)]), first);
        for other in [
            id(&[("in", 9)]),
            id(&[("into", 8)]),
            id(&[("in", 8), ("too", 8)]),
        ] {
            assert_ne!(other, first);
        }
        let long = KafkaOptions {
            node: "x".repeat(400),
            ..options
        };
        let one = members.reserve("p");
        let two = members.reserve("p");
        let (one, two) = (one.instance_id(&long, &[]), two.instance_id(&long, &[]));
        assert_eq!((one.len(), two.len()), (MAX_LEN, MAX_LEN));
        assert_ne!(one, two);
    }
}
