//! Seats: stable names for the members that this node has in each group.
//!
//! A seat's id is the `transactional.id` of a lane, and the stem of the `group.instance.id` of every member (static membership, KIP-345). Whoever comes after one that ended, be it
//! after a crash, takes its seat: as a producer it fences it and ends the transaction that it left open, for which readers
//! would wait until its timeout; as a member it takes its place and its partitions at once, instead of waiting for the session of a
//! process that is gone.

use std::{collections::HashSet, sync::Arc};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::KafkaOptions;
use crate::base::hex::hex;

/// Kafka takes no longer ids of members.
const LONGEST: usize = 249;

/// Which seats of each processor are taken in this process.
#[derive(Clone, Default)]
pub(super) struct Seats(Arc<Mutex<HashSet<Seat>>>);

/// One member of a processor's group on this node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Seat {
    processor: Arc<str>,
    number: u32,
}

/// A seat, given back when it is dropped.
pub(super) struct SeatGuard {
    seat: Seat,
    of: Seats,
}

impl Seats {
    /// The first free seat of a processor.
    pub(super) fn take(&self, processor: &str) -> SeatGuard {
        let mut taken = self.0.lock();
        let mut seat = Seat {
            processor: processor.into(),
            number: 0,
        };
        while !taken.insert(seat.clone()) {
            seat.number += 1;
        }
        SeatGuard {
            seat,
            of: self.clone(),
        }
    }
}

impl SeatGuard {
    pub(super) fn processor(&self) -> &Arc<str> {
        &self.seat.processor
    }

    /// The same after a restart of this node.
    pub(super) fn id(&self, options: &KafkaOptions) -> String {
        let Seat { processor, number } = &self.seat;
        format!("{}{processor}-{}-{number}", options.prefix, options.node)
    }

    /// The id of a static member that reads these topics, each with its partition count. A group hands a member that comes back what its
    /// predecessor had and asks no further, so one that wants something else must be somebody else.
    pub(super) fn instance_id(&self, options: &KafkaOptions, topics: &[(String, u32)]) -> String {
        let id = self.id(options);
        let mut hash = Sha256::new();
        hash.update(&id);
        for (topic, partitions) in topics {
            hash.update([0]);
            hash.update(topic);
            hash.update(partitions.to_be_bytes());
        }
        let digest = hex(&hash.finalize()[..8]);
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        // It is told apart by the digest; the rest is for people.
        let mut readable: String = id.chars().map(|c| if legal(c) { c } else { '_' }).collect();
        readable.truncate(LONGEST - 1 - digest.len());
        format!("{readable}-{digest}")
    }
}

impl Drop for SeatGuard {
    fn drop(&mut self) {
        self.of.0.lock().remove(&self.seat);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_takes_the_seat_of_the_one_that_ended() {
        let seats = Seats::default();
        let (one, two, other) = (seats.take("a"), seats.take("a"), seats.take("b"));
        let numbers = [&one, &two, &other].map(|seated| seated.seat.number);
        assert_eq!(numbers, [0, 1, 0]);
        drop(one);
        assert_eq!(seats.take("a").seat.number, 0);
        assert_eq!(two.seat.number, 1);
    }

    #[test]
    fn a_member_is_the_same_after_a_restart_while_it_reads_the_same() {
        let options = KafkaOptions {
            prefix: "omnilink.".into(),
            node: "n 1".into(),
            ..KafkaOptions::default()
        };
        let seats = Seats::default();
        let id = |topics: &[(&str, u32)]| {
            let topics: Vec<_> = topics.iter().map(|(t, n)| ((*t).to_owned(), *n)).collect();
            seats.take("p").instance_id(&options, &topics)
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
        let one = seats.take("p");
        let two = seats.take("p");
        let (one, two) = (one.instance_id(&long, &[]), two.instance_id(&long, &[]));
        assert_eq!((one.len(), two.len()), (LONGEST, LONGEST));
        assert_ne!(one, two);
    }
}
