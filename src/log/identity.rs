//! Topic ids, and the meaning of a stored position.
//!
//! A name does not identify a topic: it may be deleted and recreated under the same name, and an offset in the one says
//! nothing about the other. Kafka gives each topic an id when it is created, so each stored position includes that id.
//!
//! ```text
//!   the ids differ                    a new topic: read from its start           warning, counter, notice
//!   the position is before the start  retention dropped records: from the start  warning, counter, notice
//!   the position is after the end     the log was truncated: an error, no reset  the processor stalls
//! ```

use super::{LogError, OffsetRange, TopicId, Unavailable};
use crate::telemetry::{self, metrics};

/// A stored position: committed with the consumer group, or noted beside the local state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct StoredPosition {
    /// The next offset to be read.
    pub(super) next: u64,
    /// The id of the topic; `None`: stored by a version without topic ids, or by another tool.
    pub(super) id: Option<TopicId>,
}

impl StoredPosition {
    #[cfg(feature = "kafka")]
    /// `next(8)`, then the topic id (16), if known.
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = self.next.to_be_bytes().to_vec();
        bytes.extend(self.id.into_iter().flat_map(TopicId::to_bytes));
        bytes
    }

    #[cfg(feature = "kafka")]
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let next = u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?);
        let id = bytes.get(8..24).and_then(|id| id.try_into().ok());
        Some(Self {
            next,
            id: id.and_then(TopicId::from_bytes),
        })
    }

    #[cfg(feature = "kafka")]
    /// Whether it is a position in a topic other than the one with this id.
    fn is_of_another(self, id: Option<TopicId>) -> bool {
        self.id.zip(id).is_some_and(|(was, is)| was != is)
    }
}

#[cfg(feature = "kafka")]
/// Chooses between two stored positions: the one committed with the group, and the one that the local state reflects.
pub(super) fn later(
    committed: Option<StoredPosition>,
    reflects: Option<StoredPosition>,
    id: Option<TopicId>,
) -> Option<StoredPosition> {
    let (Some(one), Some(two)) = (committed, reflects) else {
        return committed.or(reflects);
    };
    match (one.is_of_another(id), two.is_of_another(id)) {
        (false, true) => committed,
        // A row without an id is older than what was committed with one.
        (true, false) if two.id.is_none() => committed,
        (true, false) => reflects,
        // Set by `kafka-consumer-groups --reset-offsets`, or by a version without topic ids that took over: it takes
        // precedence.
        (false, false) if one.id.is_none() && two.id.is_some() => committed,
        _ if two.next > one.next => reflects,
        _ => committed,
    }
}

/// A processor and a partition of its input.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) processor: &'a str,
    pub(super) topic: &'a str,
    pub(super) partition: u32,
}

/// The offset from which to read, and the reset if there was one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Resolved {
    pub(super) next: u64,
    pub(super) reset: Option<Reset>,
}

/// Why reading does not continue at the stored position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reset {
    /// The topic was deleted and recreated.
    Recreated { was: TopicId, is: TopicId },
    /// Retention or `kafka-delete-records` deleted records that had not been read yet: offsets `from` to before `to`.
    Dropped { from: u64, to: u64 },
}

/// Decides where to continue from a stored position. An end of the log before that position, in the same topic, is an error.
pub(super) fn resolve(
    place: Place<'_>,
    stored: Option<StoredPosition>,
    id: Option<TopicId>,
    range: OffsetRange,
) -> Result<Resolved, LogError> {
    let from_start = |reset| Resolved {
        next: range.start,
        reset,
    };
    let Some(stored) = stored else {
        return Ok(from_start(None));
    };
    if stored.id.is_some() && id.is_none() {
        let topic = place.topic.to_owned();
        return Err(Unavailable::TopicUnidentified { topic }.into());
    }
    if let (Some(was), Some(is)) = (stored.id, id)
        && was != is
    {
        return Ok(from_start(Some(Reset::Recreated { was, is })));
    }
    if stored.next > range.end {
        return Err(LogError::LostEnd {
            processor: place.processor.to_owned(),
            topic: place.topic.to_owned(),
            partition: place.partition,
            position: stored.next,
            end: range.end,
        });
    }
    if stored.next < range.start {
        return Ok(from_start(Some(Reset::Dropped {
            from: stored.next,
            to: range.start,
        })));
    }
    Ok(Resolved {
        next: stored.next,
        reset: None,
    })
}

impl Reset {
    /// Reports it in the log, in the metrics and as a notice in readiness.
    pub(super) fn announce(self, place: Place<'_>) {
        let Place {
            processor,
            topic,
            partition,
        } = place;
        let reason = match self {
            Self::Recreated { was, is } => {
                tracing::warn!(processor, topic, partition, %was, %is, "the topic was deleted and recreated: it is read from its start");
                telemetry::notice(format!(
                    "`{topic}` was deleted and recreated (id {was}, now {is}): {processor} reads it from its start"
                ));
                "recreated"
            }
            Self::Dropped { from, to } => {
                announce_dropped(place, from, to);
                return;
            }
        };
        reset(processor, reason);
    }
}

fn reset(processor: &str, reason: &str) {
    metrics::POSITION_RESETS
        .counter(&[processor, reason])
        .increment(1);
}

/// Reports that records were deleted before a processor had read them; it continues after them.
pub(super) fn announce_dropped(place: Place<'_>, from: u64, to: u64) {
    let Place {
        processor,
        topic,
        partition,
    } = place;
    tracing::warn!(
        processor,
        topic,
        partition,
        position = from,
        start = to,
        "records were deleted by retention before they were read; continuing with the oldest remaining record"
    );
    telemetry::notice(format!(
        "{processor} has lost offsets {from} to {to} of `{topic}`/{partition} to retention, before they were read"
    ));
    reset(processor, "retention");
    metrics::LOST_OFFSETS
        .counter(&[processor])
        .increment(to.saturating_sub(from));
}

#[cfg(feature = "kafka")]
/// Reports that a changelog was deleted and recreated, and the consequence for its state.
pub(super) fn announce_changelog(place: Place<'_>, (was, is): (TopicId, TopicId), complete: bool) {
    let Place {
        processor,
        topic,
        partition,
    } = place;
    let what = if complete {
        "this node's copy of the state is complete and is used; another node would begin without it"
    } else {
        "the state that it held is lost: dedupe and limits begin anew"
    };
    tracing::error!(processor, topic, partition, %was, %is, what, "a changelog was deleted and recreated");
    telemetry::notice(format!(
        "`{topic}`, the state of {processor}, was deleted and recreated (id {was}, now {is}): {what}"
    ));
    reset(processor, "changelog");
}

/// What is wrong with a position that a processor has committed, for `doctor`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PositionFault {
    /// A description for people.
    pub detail: String,
    /// Whether the processor stalls until someone fixes it; otherwise it continues by itself.
    pub stalls: bool,
}

#[cfg(feature = "kafka")]
/// Checks a committed position, without changing anything.
pub(super) fn fault(
    place: Place<'_>,
    stored: Option<StoredPosition>,
    id: Option<TopicId>,
    range: OffsetRange,
) -> Option<PositionFault> {
    let Place {
        processor,
        topic,
        partition,
    } = place;
    let (detail, stalls) = match resolve(place, stored, id, range) {
        Err(error) => (error.to_string(), true),
        Ok(resolved) => match resolved.reset? {
            Reset::Recreated { was, is } => (
                format!(
                    "`{topic}`/{partition} was deleted and recreated (id {was}, now {is}); {processor} will read it from its start"
                ),
                false,
            ),
            Reset::Dropped { from, to } => (
                format!(
                    "retention has dropped offsets {from} to {to} of `{topic}`/{partition}, which {processor} had not read; it will go on from {to}"
                ),
                false,
            ),
        },
    };
    Some(PositionFault { detail, stalls })
}

#[cfg(feature = "kafka")]
/// The metadata of a committed offset: a topic id, then `rest`. For a lane, `rest` is `tx=` and the transactional id that
/// committed it; for an effect the work finished beyond the offset.
pub(super) fn to_metadata(id: Option<TopicId>, rest: &str) -> String {
    match (id, rest) {
        (None, rest) => rest.to_owned(),
        (Some(id), "") => format!("id={id}"),
        (Some(id), rest) => format!("id={id};{rest}"),
    }
}

#[cfg(feature = "kafka")]
/// Reads it back. Metadata of other tools has no id.
pub(super) fn from_metadata(metadata: &str) -> (Option<TopicId>, &str) {
    let Some(begins) = metadata.strip_prefix("id=") else {
        return (None, metadata);
    };
    let (id, rest) = begins.split_once(';').unwrap_or((begins, ""));
    match id.parse() {
        Ok(id) => (Some(id), rest),
        Err(_) => (None, metadata),
    }
}

#[cfg(feature = "kafka")]
/// The `rest` of a lane's metadata: the transactional id that commits the offset.
pub(super) fn committed_by(transactional_id: &str) -> String {
    format!("tx={transactional_id}")
}

#[cfg(feature = "kafka")]
/// The transactional id that committed an offset with this metadata; `None`: it was not a lane, or one of a version that did not
/// record its id.
pub(super) fn committer(metadata: &str) -> Option<&str> {
    from_metadata(metadata).1.strip_prefix("tx=")
}

#[cfg(all(test, feature = "kafka"))]
mod tests {
    use super::*;

    const PLACE: Place<'static> = Place {
        processor: "p",
        topic: "t",
        partition: 3,
    };

    fn id(n: u8) -> Option<TopicId> {
        TopicId::from_bytes([n; 16])
    }

    #[expect(clippy::unnecessary_wraps, reason = "as they are looked up")]
    fn stored(next: u64, n: u8) -> Option<StoredPosition> {
        Some(StoredPosition { next, id: id(n) })
    }

    #[test]
    fn a_position_counts_only_in_its_own_topic() {
        let range = OffsetRange { start: 5, end: 10 };
        let next = |stored, now| resolve(PLACE, stored, now, range).unwrap().next;
        assert_eq!(next(None, id(1)), 5);
        assert_eq!(next(stored(7, 1), id(1)), 7);
        assert_eq!(next(stored(10, 1), id(1)), 10);
        // Stored by a version without ids, or brokers without ids.
        assert_eq!(next(stored(7, 0), id(1)), 7);
        assert_eq!(next(stored(7, 0), None), 7);
        assert!(matches!(
            resolve(PLACE, stored(7, 1), None, range),
            Err(LogError::Unavailable(_))
        ));
        // Another topic: whether it is longer or shorter than the position.
        for position in [2, 7, 70] {
            let resolved = resolve(PLACE, stored(position, 1), id(2), range).unwrap();
            assert_eq!(resolved.next, 5);
            assert!(matches!(resolved.reset, Some(Reset::Recreated { .. })));
        }
        let dropped = resolve(PLACE, stored(2, 1), id(1), range).unwrap();
        assert_eq!(dropped.reset, Some(Reset::Dropped { from: 2, to: 5 }));
        for n in [0, 1] {
            let error = resolve(PLACE, stored(11, n), id(1), range).unwrap_err();
            assert!(matches!(error, LogError::LostEnd { .. }), "{error}");
            let fault = fault(PLACE, stored(11, n), id(1), range).unwrap();
            assert!(fault.stalls, "{fault:?}");
        }
        assert_eq!(fault(PLACE, stored(7, 1), id(1), range), None);
    }

    #[test]
    fn the_later_of_two_positions_counts_unless_it_is_of_another_topic() {
        let now = id(1);
        let cases = [
            (stored(5, 1), stored(9, 1), stored(9, 1)),
            (stored(9, 1), stored(5, 1), stored(9, 1)),
            (None, stored(5, 1), stored(5, 1)),
            (stored(5, 1), stored(9, 2), stored(5, 1)),
            (stored(9, 2), stored(5, 1), stored(5, 1)),
            // Written before the committed one, for the same topic.
            (stored(9, 2), stored(20, 0), stored(9, 2)),
            // An operator has set it.
            (stored(3, 0), stored(9, 1), stored(3, 0)),
            (stored(3, 0), stored(9, 2), stored(3, 0)),
            (stored(3, 0), stored(9, 0), stored(9, 0)),
            (None, None, None),
        ];
        for (committed, reflects, wanted) in cases {
            let found = later(committed, reflects, now);
            assert_eq!(found, wanted, "{committed:?} {reflects:?}");
        }
    }

    #[test]
    fn ids_survive_text_and_bytes() {
        let some = id(200);
        assert_eq!(to_metadata(some, "").len(), 25);
        for rest in ["", "AAAA"] {
            assert_eq!(from_metadata(&to_metadata(some, rest)), (some, rest));
            assert_eq!(from_metadata(&to_metadata(None, rest)), (None, rest));
        }
        assert_eq!(from_metadata("id=other tool"), (None, "id=other tool"));
        for id in [None, some] {
            let metadata = to_metadata(id, &committed_by("o.p-n;id=1-0"));
            assert_eq!(from_metadata(&metadata).0, id);
            assert_eq!(committer(&metadata), Some("o.p-n;id=1-0"));
            // The metadata of an effect, and that of versions without ids.
            for rest in ["", "AAAA"] {
                assert_eq!(committer(&to_metadata(id, rest)), None);
            }
        }
        for n in [0, 7] {
            let stored = StoredPosition { next: 9, id: id(n) };
            assert_eq!(StoredPosition::from_bytes(&stored.to_bytes()), Some(stored));
        }
        assert_eq!(StoredPosition::from_bytes(b"short"), None);
    }
}
