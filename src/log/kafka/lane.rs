//! A lane on Kafka: group member, transactional producer, keyed state with its changelog.
//!
//! [`Transactions`] alone owns the transaction. The changelog topic `state.{processor}` has the input's partitions; each
//! transaction adds its changes of state there, and a record with the key [`POSITION`] that says which input they reflect. This node's
//! copy of the state keeps the changelog offset it has read to, so a restart replays only the tail.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{
    KafkaOptions, committed,
    group::GroupConsumer,
    limits::Limits,
    reader::KafkaReader,
    transactions::{POSITION, Transactions},
    watermarks,
};
use crate::{
    backoff::{WORTH, rest},
    clock::{Clock, Millis, SystemClock},
    log::{Fetched, Lane, LogError, Polled, Reader, Transaction, Watermarks},
    state::{Changes, Space, StateStore},
};

/// How long a restore waits for the next record of a changelog.
const RESTORE: Duration = Duration::from_secs(30);
/// Local state that has not followed its changelog for this long is dropped: tombstones that it missed may be gone
/// (`delete.retention.ms` is 24 h).
const STALE_MS: i64 = 12 * 3600 * 1000;

/// Which lanes of each processor there are in this process.
#[derive(Clone, Default)]
pub(super) struct Seats(Arc<Mutex<HashSet<Seat>>>);

/// A lane's transactional id is made of its seat. A lane that comes after one that ended, be it after a crash, takes its seat:
/// it fences it, and ends the transaction that it left open, for which readers would wait until its timeout.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Seat {
    processor: Arc<str>,
    number: u32,
}

/// A seat, given back when the lane ends.
pub(super) struct Seated {
    seat: Seat,
    of: Seats,
}

impl Seats {
    /// The first free seat of a processor.
    pub(super) fn take(&self, processor: &str) -> Seated {
        let mut taken = self.0.lock();
        let mut seat = Seat {
            processor: processor.into(),
            number: 0,
        };
        while !taken.insert(seat.clone()) {
            seat.number += 1;
        }
        Seated {
            seat,
            of: self.clone(),
        }
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        self.of.0.lock().remove(&self.seat);
    }
}

pub(super) struct KafkaLane {
    options: KafkaOptions,
    state: StateStore,
    group: GroupConsumer,
    transactions: Transactions,
    processor: Arc<str>,
    changelog: Arc<str>,
    /// Records of the last poll.
    polled: usize,
    /// After the producer: its id is free when it is gone.
    _seated: Seated,
}

impl KafkaLane {
    pub(super) fn new(
        options: &KafkaOptions,
        state: StateStore,
        group: GroupConsumer,
        changelog: &str,
        seated: Seated,
        limits: Limits,
    ) -> Result<Self, LogError> {
        let changelog: Arc<str> = changelog.into();
        let Seat { processor, number } = seated.seat.clone();
        let id = format!("{}{processor}-{}-{number}", options.prefix, options.node);
        let transactions = Transactions::new(options, &processor, &changelog, &id, limits)?;
        Ok(Self {
            options: options.clone(),
            state,
            group,
            transactions,
            processor,
            changelog,
            polled: 0,
            _seated: seated,
        })
    }

    fn changelog_row(&self, partition: u32) -> Vec<u8> {
        format!("changelog/{}/{partition}", self.processor).into_bytes()
    }

    fn reflects_row(&self, topic: usize, partition: u32) -> Vec<u8> {
        format!("reflects/{}/{topic}/{partition}", self.processor).into_bytes()
    }

    fn number(&self, row: &[u8]) -> Result<Option<u64>, LogError> {
        let row = self.state.meta(row)?;
        Ok(row
            .and_then(|r| r.get(..8).and_then(|b| b.try_into().ok()))
            .map(u64::from_be_bytes))
    }

    /// Reads the changelog from where this node's copy stands to its end.
    fn restore(&self, partition: u32) -> Result<(), LogError> {
        let space = Space {
            processor: Arc::clone(&self.processor),
            partition,
        };
        let marks = match watermarks(&self.group.consumer, &self.changelog, partition) {
            Ok(marks) => marks,
            // A processor without state has no changelog.
            Err(LogError::UnknownTopic(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        let row = self.changelog_row(partition);
        let followed = self.state.meta(&row)?;
        let at = followed
            .as_ref()
            .and_then(|r| r.get(8..16).and_then(|b| b.try_into().ok()))
            .map_or(0, i64::from_be_bytes);
        let now = SystemClock.now();
        let mut next = self.number(&row)?.unwrap_or(marks.start);
        if next > marks.end || followed.is_some() && at < now.0 - STALE_MS {
            tracing::warn!(processor = %self.processor, partition, "the local state is too old; it is restored from its changelog");
            self.state.clear(&space)?;
            next = marks.start;
        }
        if next >= marks.end {
            return Ok(());
        }
        let mut reader = KafkaReader::new(&self.options, &self.changelog)?;
        reader.assign(partition, next)?;
        let mut fetched = Vec::new();
        let mut idle = Instant::now();
        while next < marks.end {
            fetched.clear();
            reader.poll(Duration::from_millis(100), &mut fetched)?;
            let at_end = reader.at_end(partition);
            if fetched.is_empty() {
                // Markers of transactions, which no reader sees, may be all that is left.
                if at_end {
                    break;
                }
                if idle.elapsed() > RESTORE {
                    return Err(LogError::Unavailable(format!(
                        "the changelog of `{}` cannot be read",
                        self.processor
                    )));
                }
                continue;
            }
            idle = Instant::now();
            let mut changes = Changes::default();
            let mut meta = Vec::new();
            for change in fetched.drain(..) {
                next = change.offset + 1;
                let Some(key) = change.record.key else {
                    continue;
                };
                if key == POSITION {
                    if let Some(value) = change.record.value.filter(|v| v.len() == 9) {
                        let topic = usize::from(value[0]);
                        meta.push((self.reflects_row(topic, partition), value[1..].to_vec()));
                    }
                } else {
                    changes.upkeep(&space, key, change.record.value);
                }
            }
            meta.push((row.clone(), followed_to(next, now)));
            self.state.apply(&changes, &meta)?;
        }
        Ok(())
    }
}

fn followed_to(next: u64, at: Millis) -> Vec<u8> {
    let mut row = next.to_be_bytes().to_vec();
    row.extend_from_slice(&at.0.to_be_bytes());
    row
}

impl Lane for KafkaLane {
    fn stop_with(&mut self, stop: Arc<AtomicBool>) {
        self.transactions.stop_with(stop);
    }

    fn poll(&mut self, wait: Duration, out: &mut Vec<Fetched>) -> Result<Polled, LogError> {
        if self.polled < WORTH {
            std::thread::sleep(rest(self.polled).min(wait));
        }
        self.polled = 0;
        let polled = self.group.poll_group(wait, out)?;
        self.polled = out.len();
        Ok(polled)
    }

    fn open(&mut self, topic: usize, partition: u32) -> Result<u64, LogError> {
        let name = self.group.topics[topic].clone();
        // First the position, then the state: whatever is committed in between is newer state, and its input is skipped.
        let position = committed(&self.group.consumer, &name, partition)?;
        self.restore(partition)?;
        let reflects = self.number(&self.reflects_row(topic, partition))?;
        let next = match position.max(reflects) {
            Some(next) => next,
            None => watermarks(&self.group.consumer, &name, partition)?.start,
        };
        self.group.open_at(topic, partition, next);
        Ok(next)
    }

    fn again(&mut self, topic: usize, partition: u32, offset: u64) -> Result<(), LogError> {
        self.group.open_at(topic, partition, offset);
        Ok(())
    }

    fn release(&mut self, partitions: &[(usize, u32)]) -> Result<(), LogError> {
        self.group.give_up(partitions)
    }

    fn commit(&mut self, transaction: Transaction) -> Result<(), LogError> {
        self.transactions.commit(&self.group, &transaction)?;
        let now = SystemClock.now();
        let mut meta: Vec<(Vec<u8>, Vec<u8>)> = transaction
            .positions
            .iter()
            .map(|(topic, partition, next)| {
                (
                    self.reflects_row(*topic, *partition),
                    next.to_be_bytes().to_vec(),
                )
            })
            .collect();
        for (partition, end) in self.transactions.take_ends() {
            meta.push((self.changelog_row(partition), followed_to(end, now)));
        }
        self.state.apply(&transaction.state, &meta)?;
        Ok(())
    }

    fn watermarks(&self, topic: usize, partition: u32) -> Result<Watermarks, LogError> {
        watermarks(&self.group.consumer, &self.group.topics[topic], partition)
    }

    fn state(&self) -> &StateStore {
        &self.state
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
}
