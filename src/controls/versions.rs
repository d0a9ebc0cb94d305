//! Which version of each thing on `controls` counts: pure, driven by the records in log order.
//!
//! Every record says its version in the body, and the seal covers the body. So who can write to the topic but lacks
//! `secret_key` can only repeat what was written before, and a version that is not higher than the known one is refused.
//! Compaction keeps the last record of a name, whatever it says; therefore the current record is written again after a
//! refused one ([`Versions::due`]). `docs/decisions/0009-versions-on-controls.md` says what follows from that.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;

use crate::base::clock::Millis;

/// What the seal of a record proves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stamp {
    /// 0: written before there were versions.
    pub(super) version: u64,
    /// The record revokes what it names.
    pub(super) revoked: bool,
    /// When the thing ends by itself.
    pub(super) expires_at: Option<Millis>,
}

/// What was read under a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Seen<'a> {
    /// A record whose seal is good, and its value.
    Sealed(Stamp, &'a Bytes),
    /// A record that does not open with our `secret_key`, or is no record of ours.
    Unreadable,
    /// A record without a value.
    Tombstone,
}

/// What a record does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// It is the state of its name from now on.
    Apply,
    /// It cannot be verified, and what it names has ended: the safe side.
    End,
    /// It changes nothing, for this reason.
    Refuse(&'static str),
    /// It changes nothing: the same record again.
    Known,
}

pub(super) const OLDER: &str = "an older version of what is known";
pub(super) const NO_VERSION: &str =
    "it has no version, and all records have had one since the upgrade of this topic";
pub(super) const UNSEALED: &str = "what is revoked stays so";

/// One name's state.
#[derive(Debug)]
struct Thing {
    stamp: Stamp,
    /// The record's value, to be written again where something hides it.
    value: Bytes,
    offset: u64,
    /// By a record that cannot be verified.
    ended: Option<Ended>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ended {
    Unreadable,
    Tombstone,
}

/// All names.
#[derive(Debug, Default)]
pub(super) struct Versions {
    things: HashMap<Box<str>, Thing>,
    /// Names whose last record on the topic is not the one that counts.
    due: BTreeSet<Box<str>>,
    upgrade: Option<Upgrade>,
}

/// The topic's upgrade to versions.
#[derive(Debug)]
struct Upgrade {
    /// Records without a version count below this offset only.
    before: u64,
    value: Bytes,
    /// The last record under its name is not it.
    hidden: bool,
}

/// What is to be written so that the last record of a name is the one that counts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Due {
    /// This value again.
    Again(Bytes),
    /// A revocation with this version, for a record without a value has ended what was alive.
    Revoke {
        version: u64,
        expires_at: Option<Millis>,
    },
}

impl Versions {
    /// Judges the record at `offset`, which was appended at `at`.
    pub(super) fn judge(
        &mut self,
        name: &str,
        (offset, at): (u64, Millis),
        seen: Seen<'_>,
    ) -> Verdict {
        match seen {
            Seen::Tombstone => self.tombstone(name, at),
            Seen::Unreadable => self.unreadable(name),
            Seen::Sealed(stamp, value) => self.sealed(name, offset, stamp, value),
        }
    }

    fn tombstone(&mut self, name: &str, at: Millis) -> Verdict {
        let Some(thing) = self.things.get_mut(name) else {
            return Verdict::Known;
        };
        if thing.stamp.revoked && !thing.stamp.expired(at) {
            self.due.insert(name.into());
            return Verdict::Refuse(UNSEALED);
        }
        if thing.stamp.revoked {
            // Replayed, its records would name what has expired.
            self.things.remove(name);
            self.due.remove(name);
            return Verdict::Known;
        }
        if thing.stamp.version == 0 {
            self.things.remove(name);
        } else {
            thing.ended = Some(Ended::Tombstone);
            self.due.insert(name.into());
        }
        Verdict::End
    }

    fn unreadable(&mut self, name: &str) -> Verdict {
        let Some(thing) = self.things.get_mut(name) else {
            return Verdict::End;
        };
        if thing.stamp.revoked {
            self.due.insert(name.into());
            return Verdict::Refuse(UNSEALED);
        }
        if thing.stamp.version == 0 {
            self.things.remove(name);
        } else if thing.ended.is_none() {
            thing.ended = Some(Ended::Unreadable);
        }
        Verdict::End
    }

    fn sealed(&mut self, name: &str, offset: u64, stamp: Stamp, value: &Bytes) -> Verdict {
        let known = self.things.get(name);
        if stamp.version == 0 {
            if known.is_some_and(|thing| thing.stamp.version > 0) {
                self.due.insert(name.into());
                return Verdict::Refuse(OLDER);
            }
            if self.upgrade.as_ref().is_some_and(|u| offset >= u.before) {
                return Verdict::Refuse(NO_VERSION);
            }
        } else if let Some(thing) = known {
            if thing.value == *value {
                if thing.ended != Some(Ended::Tombstone) {
                    self.due.remove(name);
                }
                return Verdict::Known;
            }
            // Two nodes wrote at once: a revocation wins, else the later record.
            let newer = stamp.version > thing.stamp.version
                || stamp.version == thing.stamp.version
                    && thing.ended.is_none()
                    && (stamp.revoked || !thing.stamp.revoked);
            if !newer {
                self.due.insert(name.into());
                return Verdict::Refuse(OLDER);
            }
        }
        let thing = Thing {
            stamp,
            value: value.clone(),
            offset,
            ended: None,
        };
        self.things.insert(name.into(), thing);
        self.due.remove(name);
        Verdict::Apply
    }

    /// The sealed record of the topic's upgrade: from `before` on, records without a version do not count. Answers with the
    /// names that end by it.
    pub(super) fn upgraded(&mut self, before: u64, value: &Bytes) -> Vec<Box<str>> {
        // Of two nodes that upgraded at once, the first counts.
        let before = self
            .upgrade
            .as_ref()
            .map_or(before, |u| u.before.min(before));
        self.upgrade = Some(Upgrade {
            before,
            value: value.clone(),
            hidden: false,
        });
        let late = |thing: &Thing| thing.stamp.version == 0 && thing.offset >= before;
        let ended: Vec<Box<str>> = self
            .things
            .iter()
            .filter(|(_, thing)| late(thing))
            .map(|(name, _)| name.clone())
            .collect();
        for name in &ended {
            self.things.remove(name);
        }
        ended
    }

    /// Something else was written under the upgrade's name. Whether that hides it.
    pub(super) fn upgrade_hidden(&mut self) -> bool {
        let Some(upgrade) = &mut self.upgrade else {
            return false;
        };
        upgrade.hidden = true;
        true
    }

    /// Whether the topic's upgrade was read.
    pub(super) fn is_upgraded(&self) -> bool {
        self.upgrade.is_some()
    }

    /// The upgrade's value, if it is to be written again.
    pub(super) fn hidden_upgrade(&self) -> Option<Bytes> {
        let upgrade = self.upgrade.as_ref().filter(|u| u.hidden)?;
        Some(upgrade.value.clone())
    }

    /// The version that the next record of a name has.
    pub(super) fn next(&self, name: &str) -> u64 {
        let known = self.things.get(name);
        known.map_or(1, |thing| thing.stamp.version + 1)
    }

    /// Where the record lies that counts for a name.
    pub(super) fn offset(&self, name: &str) -> Option<u64> {
        self.things.get(name).map(|thing| thing.offset)
    }

    /// Names and values of records without a version that count still: at most so many.
    pub(super) fn without_version(&self, most: usize) -> Vec<(Box<str>, Bytes)> {
        let old = self.things.iter().filter(|(_, t)| t.stamp.version == 0);
        old.map(|(name, thing)| (name.clone(), thing.value.clone()))
            .take(most)
            .collect()
    }

    /// What is to be written so that a fresh reader of the compacted topic ends where this one is: at most so many.
    pub(super) fn due(&self, most: usize) -> Vec<(Box<str>, Due)> {
        let due = self.due.iter().filter_map(|name| {
            let thing = self.things.get(name)?;
            let due = match thing.ended {
                Some(Ended::Tombstone) => Due::Revoke {
                    version: thing.stamp.version + 1,
                    expires_at: thing.stamp.expires_at,
                },
                _ => Due::Again(thing.value.clone()),
            };
            Some((name.clone(), due))
        });
        due.take(most).collect()
    }

    /// Revocations of what had ended by itself before `at`: they may go, at most so many.
    pub(super) fn outlived(&self, at: Millis, most: usize) -> Vec<Box<str>> {
        let outlived = |thing: &Thing| thing.stamp.revoked && thing.stamp.expired(at);
        let names = self.things.iter().filter(|(_, thing)| outlived(thing));
        names.map(|(name, _)| name.clone()).take(most).collect()
    }
}

impl Stamp {
    fn expired(self, at: Millis) -> bool {
        self.expires_at.is_some_and(|end| end < at)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const AT: Millis = Millis(1_000);

    fn named(name: &str) -> Box<str> {
        name.into()
    }

    fn stamp(version: u64, revoked: bool) -> Stamp {
        Stamp {
            version,
            revoked,
            expires_at: None,
        }
    }

    /// Reads one record; the value tells records of one version apart.
    fn read(versions: &mut Versions, offset: u64, stamp: Stamp, value: &str) -> Verdict {
        let value = Bytes::from(value.to_owned());
        versions.judge("k", (offset, AT), Seen::Sealed(stamp, &value))
    }

    fn bare(versions: &mut Versions, offset: u64) -> Verdict {
        versions.judge("k", (offset, AT), Seen::Tombstone)
    }

    #[test]
    fn only_a_higher_version_counts() {
        let mut v = Versions::default();
        assert_eq!(read(&mut v, 0, stamp(1, false), "wide"), Verdict::Apply);
        assert_eq!(read(&mut v, 1, stamp(2, false), "narrow"), Verdict::Apply);
        assert!(v.due(9).is_empty());
        let older = Verdict::Refuse(OLDER);
        assert_eq!(read(&mut v, 2, stamp(1, false), "wide"), older);
        assert_eq!(v.due(9), [(named("k"), Due::Again("narrow".into()))]);
        // Another node was quicker to write it again.
        assert_eq!(read(&mut v, 3, stamp(2, false), "narrow"), Verdict::Known);
        assert!(v.due(9).is_empty());
        assert_eq!(read(&mut v, 4, stamp(3, true), "revoked"), Verdict::Apply);
        for (value, at) in [("wide", 1), ("narrow", 2)] {
            assert_eq!(read(&mut v, 5, stamp(at, false), value), older);
        }
        assert_eq!(v.due(9), [(named("k"), Due::Again("revoked".into()))]);
        assert_eq!(v.next("k"), 4);
    }

    #[test]
    fn of_one_version_a_revocation_wins_and_else_the_later_record() {
        let mut v = Versions::default();
        read(&mut v, 0, stamp(1, false), "a");
        assert_eq!(read(&mut v, 1, stamp(1, false), "b"), Verdict::Apply);
        assert_eq!(read(&mut v, 2, stamp(1, true), "r"), Verdict::Apply);
        assert_eq!(
            read(&mut v, 3, stamp(1, false), "a"),
            Verdict::Refuse(OLDER)
        );
        assert_eq!(v.offset("k"), Some(2));
    }

    #[test]
    fn what_cannot_be_verified_ends_and_never_revives() {
        let mut v = Versions::default();
        read(&mut v, 0, stamp(1, false), "a");
        assert_eq!(bare(&mut v, 1), Verdict::End);
        assert_eq!(read(&mut v, 2, stamp(1, false), "a"), Verdict::Known);
        let revoke = Due::Revoke {
            version: 2,
            expires_at: None,
        };
        assert_eq!(v.due(9), [(named("k"), revoke)]);
        assert_eq!(read(&mut v, 3, stamp(2, true), "r"), Verdict::Apply);
        assert_eq!(bare(&mut v, 4), Verdict::Refuse(UNSEALED));
        let unreadable = v.judge("k", (5, AT), Seen::Unreadable);
        assert_eq!(unreadable, Verdict::Refuse(UNSEALED));
        assert_eq!(v.due(9), [(named("k"), Due::Again("r".into()))]);

        let mut v = Versions::default();
        read(&mut v, 0, stamp(2, false), "a");
        let unreadable = v.judge("k", (1, AT), Seen::Unreadable);
        assert_eq!(unreadable, Verdict::End);
        // It may be a later version, under a key that is not here: nothing is written over it.
        assert!(v.due(9).is_empty());
        assert_eq!(read(&mut v, 2, stamp(2, false), "a"), Verdict::Known);
        assert_eq!(
            read(&mut v, 3, stamp(2, false), "b"),
            Verdict::Refuse(OLDER)
        );
        assert_eq!(read(&mut v, 4, stamp(3, false), "c"), Verdict::Apply);
    }

    #[test]
    fn a_revocation_goes_once_the_key_has_expired() {
        let mut v = Versions::default();
        let ends = |revoked| Stamp {
            version: 1 + u64::from(revoked),
            revoked,
            expires_at: Some(Millis(500)),
        };
        let value = Bytes::from_static(b"r");
        read(&mut v, 0, ends(false), "a");
        read(&mut v, 1, ends(true), "r");
        assert!(v.outlived(Millis(500), 9).is_empty());
        let early = v.judge("k", (2, Millis(500)), Seen::Tombstone);
        assert_eq!(early, Verdict::Refuse(UNSEALED));
        assert_eq!(v.due(9), [(named("k"), Due::Again(value))]);
        assert_eq!(v.outlived(Millis(501), 9), [named("k")]);
        let late = v.judge("k", (3, Millis(501)), Seen::Tombstone);
        assert_eq!((late, v.due(9)), (Verdict::Known, Vec::new()));
        assert_eq!(v.offset("k"), None);
    }

    #[test]
    fn records_without_a_version_count_until_the_upgrade() {
        let mut v = Versions::default();
        assert_eq!(read(&mut v, 0, stamp(0, false), "a"), Verdict::Apply);
        assert_eq!(bare(&mut v, 1), Verdict::End);
        assert_eq!(read(&mut v, 2, stamp(0, false), "b"), Verdict::Apply);
        assert_eq!(v.without_version(9).len(), 1);
        // Written again with a version; the old one does not come back.
        assert_eq!(read(&mut v, 3, stamp(1, false), "b1"), Verdict::Apply);
        let old = Bytes::from_static(b"o");
        let late = |v: &mut Versions, offset| {
            v.judge("late", (offset, AT), Seen::Sealed(stamp(0, false), &old))
        };
        assert_eq!(late(&mut v, 4), Verdict::Apply);
        let marker = Bytes::from_static(b"m");
        assert_eq!(v.upgraded(4, &marker), [named("late")]);
        assert_eq!(late(&mut v, 6), Verdict::Refuse(NO_VERSION));
        assert_eq!(
            read(&mut v, 7, stamp(0, false), "a"),
            Verdict::Refuse(OLDER)
        );
        assert_eq!(v.due(9), [(named("k"), Due::Again("b1".into()))]);
        // Hidden by something else, it is written again, and a fresh reader still drops what came after the upgrade.
        assert!(v.upgrade_hidden());
        assert_eq!(v.hidden_upgrade(), Some(marker.clone()));
        let mut fresh = Versions::default();
        assert_eq!(late(&mut fresh, 6), Verdict::Apply);
        assert_eq!(fresh.upgraded(4, &marker), [named("late")]);
    }

    /// What someone without `secret_key` can write: anything that was written before, garbage, nothing.
    #[derive(Clone, Debug)]
    enum Attack {
        Repeat(usize),
        Garbage,
        Nothing,
    }

    fn attack() -> impl Strategy<Value = Attack> {
        prop_oneof![
            (0usize..64).prop_map(Attack::Repeat),
            Just(Attack::Garbage),
            Just(Attack::Nothing),
        ]
    }

    type Stored = Option<(Option<Stamp>, Bytes)>;

    fn judge(v: &mut Versions, offset: u64, stored: &Stored) -> Verdict {
        let seen = match stored {
            None => Seen::Tombstone,
            Some((None, _)) => Seen::Unreadable,
            Some((Some(stamp), value)) => Seen::Sealed(*stamp, value),
        };
        v.judge("k", (offset, AT), seen)
    }

    /// The version that opens something, if one does.
    fn alive(v: &Versions) -> Option<u64> {
        let thing = v.things.get("k")?;
        (thing.ended.is_none() && !thing.stamp.revoked).then_some(thing.stamp.version)
    }

    proptest! {
        /// Changes by those who hold the key, attacks by those who do not, a running node that writes again what is due, and
        /// compaction: no reader, fresh or not, ever has an older version alive than the last one that was written.
        #[test]
        fn nothing_older_comes_alive(
            steps in prop::collection::vec((prop::option::of(any::<bool>()), attack(), any::<bool>()), 1..60)
        ) {
            let mut log: BTreeMap<u64, Stored> = BTreeMap::new();
            let mut history: Vec<Stored> = Vec::new();
            let mut running = Versions::default();
            let mut offset = 0;
            let mut written = None;
            let mut write = |log: &mut BTreeMap<u64, Stored>, running: &mut Versions, stored: Stored| {
                let verdict = judge(running, offset, &stored);
                log.insert(offset, stored);
                offset += 1;
                verdict
            };
            for (change, attack, compact) in steps {
                if let Some(revoked) = change {
                    let next = running.next("k");
                    let stored = Some((Some(stamp(next, revoked)), Bytes::from(format!("{next} {revoked}"))));
                    history.push(stored.clone());
                    prop_assert_eq!(write(&mut log, &mut running, stored), Verdict::Apply);
                    written = (!revoked).then_some(next);
                } else {
                    let stored = match attack {
                        Attack::Repeat(n) if !history.is_empty() => history[n % history.len()].clone(),
                        Attack::Nothing => None,
                        _ => Some((None, Bytes::from_static(b"?"))),
                    };
                    write(&mut log, &mut running, stored);
                }
                prop_assert!(alive(&running).is_none_or(|version| Some(version) == written));
                for (_, due) in running.due(9) {
                    let stored = match due {
                        Due::Again(value) => {
                            let thing = &running.things["k"];
                            Some((Some(thing.stamp), value))
                        }
                        Due::Revoke { version, .. } => {
                            written = None;
                            Some((Some(stamp(version, true)), Bytes::from(format!("{version} due"))))
                        }
                    };
                    history.push(stored.clone());
                    write(&mut log, &mut running, stored);
                }
                prop_assert_eq!(running.due(9), Vec::new());
                if compact && let Some((last, stored)) = log.pop_last() {
                    log.clear();
                    // Tombstones go as well, in time.
                    if stored.is_some() {
                        log.insert(last, stored);
                    }
                }
                let mut fresh = Versions::default();
                for (offset, stored) in &log {
                    judge(&mut fresh, *offset, stored);
                }
                prop_assert!(alive(&fresh).is_none_or(|version| Some(version) == written));
            }
        }
    }
}
