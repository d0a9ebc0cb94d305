//! Which topic it is, and what a kept position means in it.
//!
//! A name is not an identity: a topic may be deleted and recreated under the same name, and an offset of the one says
//! nothing about the other. Kafka gives each topic an id when it is made; whoever keeps a position keeps the id with it.
//!
//! ```text
//!   the id is another one            a new topic: read from its start          warning, counter, notice
//!   the position lies before start   retention dropped records: from start     warning, counter, notice
//!   the position lies after end      the log lost its end: an error, no reset  the processor stalls by name
//! ```

use super::{LogError, OffsetRange, TopicId, Unavailable};
use crate::telemetry::{self, metrics};

/// A position as it was kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Kept {
    /// The next offset to be read.
    pub(super) next: u64,
    /// The topic that it is a position in; `None`: kept by a version that kept no ids, or set by another tool.
    pub(super) id: Option<TopicId>,
}

impl Kept {
    #[cfg(feature = "kafka")]
    /// `next(8)`, then the id if it is known.
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
    /// Whether it is a position in another topic than the one with this id.
    fn is_of_another(self, id: Option<TopicId>) -> bool {
        self.id.zip(id).is_some_and(|(was, is)| was != is)
    }
}

#[cfg(feature = "kafka")]
/// Which of two kept positions counts: the one committed with the group, or the one that the local state reflects.
pub(super) fn later(
    committed: Option<Kept>,
    reflects: Option<Kept>,
    id: Option<TopicId>,
) -> Option<Kept> {
    let (Some(one), Some(two)) = (committed, reflects) else {
        return committed.or(reflects);
    };
    match (one.is_of_another(id), two.is_of_another(id)) {
        (false, true) => committed,
        // A row without an id is older than what was committed with one.
        (true, false) if two.id.is_none() => committed,
        (true, false) => reflects,
        // Set by `kafka-consumer-groups --reset-offsets`, or by a version that kept no ids and took over: it stands.
        (false, false) if one.id.is_none() && two.id.is_some() => committed,
        _ if two.next > one.next => reflects,
        _ => committed,
    }
}

/// Whose position in which partition.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) processor: &'a str,
    pub(super) topic: &'a str,
    pub(super) partition: u32,
}

/// Where reading goes on, and what there is to say about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Resolved {
    pub(super) next: u64,
    pub(super) reset: Option<Reset>,
}

/// Why a position was not taken as it was kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reset {
    /// The topic was deleted and recreated.
    Recreated { was: TopicId, is: TopicId },
    /// Retention, or `kafka-delete-records`, dropped what was not read yet.
    Dropped { from: u64, to: u64 },
}

/// Where to read on from a kept position. A log that ends before it, though the topic is the same, is an error.
pub(super) fn resolve(
    place: Place<'_>,
    kept: Option<Kept>,
    id: Option<TopicId>,
    range: OffsetRange,
) -> Result<Resolved, LogError> {
    let from_start = |reset| Resolved {
        next: range.start,
        reset,
    };
    let Some(kept) = kept else {
        return Ok(from_start(None));
    };
    if kept.id.is_some() && id.is_none() {
        let topic = place.topic.to_owned();
        return Err(Unavailable::TopicUnidentified { topic }.into());
    }
    if let (Some(was), Some(is)) = (kept.id, id)
        && was != is
    {
        return Ok(from_start(Some(Reset::Recreated { was, is })));
    }
    if kept.next > range.end {
        return Err(LogError::LostEnd {
            processor: place.processor.to_owned(),
            topic: place.topic.to_owned(),
            partition: place.partition,
            position: kept.next,
            end: range.end,
        });
    }
    if kept.next < range.start {
        return Ok(from_start(Some(Reset::Dropped {
            from: kept.next,
            to: range.start,
        })));
    }
    Ok(Resolved {
        next: kept.next,
        reset: None,
    })
}

impl Reset {
    /// Says it aloud: in the log, as a counter, and to whoever asks for readiness.
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

/// Says that records were dropped before a processor had read them, which goes on behind them.
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
        "records were dropped by retention before they were read: it goes on with the first one left"
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
/// Says that a changelog was deleted and recreated, and what became of the state in it.
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
    /// In words.
    pub detail: String,
    /// Whether the processor stands still for it; else it goes on by itself.
    pub stalls: bool,
}

#[cfg(feature = "kafka")]
/// Looks at a committed position without changing anything.
pub(super) fn fault(
    place: Place<'_>,
    kept: Option<Kept>,
    id: Option<TopicId>,
    range: OffsetRange,
) -> Option<PositionFault> {
    let Place {
        processor,
        topic,
        partition,
    } = place;
    let (detail, stalls) = match resolve(place, kept, id, range) {
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
/// A topic id in the metadata of a committed offset, in front of what else is kept there: for a lane `tx=` and the transactional
/// id that committed it, for an effect what is finished beyond the offset.
pub(super) fn to_metadata(id: Option<TopicId>, rest: &str) -> String {
    match (id, rest) {
        (None, rest) => rest.to_owned(),
        (Some(id), "") => format!("id={id}"),
        (Some(id), rest) => format!("id={id};{rest}"),
    }
}

#[cfg(feature = "kafka")]
/// Reads it back; text that is not ours has no id.
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
/// The transactional id that commits an offset, as the rest of its metadata.
pub(super) fn committed_by(transactional_id: &str) -> String {
    format!("tx={transactional_id}")
}

#[cfg(feature = "kafka")]
/// Who committed an offset with this metadata; `None`: no lane of a version that says so.
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
    fn kept(next: u64, n: u8) -> Option<Kept> {
        Some(Kept { next, id: id(n) })
    }

    #[test]
    fn a_position_is_of_the_topic_that_it_was_kept_for() {
        let range = OffsetRange { start: 5, end: 10 };
        let next = |kept, now| resolve(PLACE, kept, now, range).unwrap().next;
        assert_eq!(next(None, id(1)), 5);
        assert_eq!(next(kept(7, 1), id(1)), 7);
        assert_eq!(next(kept(10, 1), id(1)), 10);
        // Kept by a version without ids, or brokers without ids.
        assert_eq!(next(kept(7, 0), id(1)), 7);
        assert_eq!(next(kept(7, 0), None), 7);
        assert!(matches!(
            resolve(PLACE, kept(7, 1), None, range),
            Err(LogError::Unavailable(_))
        ));
        // Another topic: whether it is longer or shorter than the position.
        for position in [2, 7, 70] {
            let resolved = resolve(PLACE, kept(position, 1), id(2), range).unwrap();
            assert_eq!(resolved.next, 5);
            assert!(matches!(resolved.reset, Some(Reset::Recreated { .. })));
        }
        let dropped = resolve(PLACE, kept(2, 1), id(1), range).unwrap();
        assert_eq!(dropped.reset, Some(Reset::Dropped { from: 2, to: 5 }));
        for n in [0, 1] {
            let error = resolve(PLACE, kept(11, n), id(1), range).unwrap_err();
            assert!(matches!(error, LogError::LostEnd { .. }), "{error}");
            let fault = fault(PLACE, kept(11, n), id(1), range).unwrap();
            assert!(fault.stalls, "{fault:?}");
        }
        assert_eq!(fault(PLACE, kept(7, 1), id(1), range), None);
    }

    #[test]
    fn the_later_of_two_positions_counts_unless_it_is_of_another_topic() {
        let now = id(1);
        let cases = [
            (kept(5, 1), kept(9, 1), kept(9, 1)),
            (kept(9, 1), kept(5, 1), kept(9, 1)),
            (None, kept(5, 1), kept(5, 1)),
            (kept(5, 1), kept(9, 2), kept(5, 1)),
            (kept(9, 2), kept(5, 1), kept(5, 1)),
            // Written before the committed one, for the same topic.
            (kept(9, 2), kept(20, 0), kept(9, 2)),
            // An operator has set it.
            (kept(3, 0), kept(9, 1), kept(3, 0)),
            (kept(3, 0), kept(9, 2), kept(3, 0)),
            (kept(3, 0), kept(9, 0), kept(9, 0)),
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
            // What an effect keeps, and what versions without ids kept.
            for rest in ["", "AAAA"] {
                assert_eq!(committer(&to_metadata(id, rest)), None);
            }
        }
        for n in [0, 7] {
            let kept = Kept { next: 9, id: id(n) };
            assert_eq!(Kept::from_bytes(&kept.to_bytes()), Some(kept));
        }
        assert_eq!(Kept::from_bytes(b"short"), None);
    }
}
