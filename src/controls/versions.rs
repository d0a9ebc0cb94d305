//! Decides which record of each name on `controls` is current: pure, driven by the records in log order.
//!
//! Every record has its version in the body, which the seal covers. So someone who can write to the topic but lacks
//! `secret_key` can only replay earlier records, and a version that is not higher than the known one is refused.
//! Compaction keeps the last record of a name, whatever it contains; therefore the current record is written again after a
//! refused one ([`Versions::due`]). The consequences are in `docs/decisions/0009-versions-on-controls.md`.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;

use crate::base::clock::Millis;

/// The sealed facts of a record that decide whether it is accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stamp {
    /// 0 for records written before versions were introduced.
    pub(super) version: u64,
    /// The record revokes what it names.
    pub(super) revoked: bool,
    /// When the key or grant expires, with the latest expiry that any record of it had.
    pub(super) expires_at: Option<Millis>,
}

/// A record as it was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Seen<'a> {
    /// A record with a valid seal, and its value.
    Sealed(Stamp, &'a Bytes),
    /// A record that cannot be opened with `secret_key` or decoded.
    Unreadable,
    /// A record without a value.
    Tombstone,
}

/// The effect of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// It becomes the state of its name.
    Apply,
    /// It cannot be verified: its key or grant is invalidated, to be safe.
    End,
    /// It changes nothing, for this reason.
    Refuse(&'static str),
    /// It changes nothing: it repeats what is known.
    Known,
}

/// The key of the record of the emergency controls, which has its own rules.
pub(super) const EMERGENCY_KEY: &str = "-/emergency/controls";

pub(super) const OLDER: &str = "its version is not newer than the known one";
pub(super) const NO_VERSION: &str =
    "it has no version, which every record has since the upgrade of the topic";
pub(super) const LASTING: &str = "the emergency controls are never deleted";
pub(super) const UNSEALED: &str = "a revocation cannot be undone by a record without a valid seal";

/// The current record of a name.
#[derive(Debug)]
struct Entry {
    stamp: Stamp,
    /// The record's value, which is written again if a refused record hides it.
    value: Bytes,
    offset: u64,
    /// Set if a record that cannot be verified has invalidated it.
    ended: Option<Ended>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ended {
    Unreadable,
    Tombstone,
}

/// The current record of every name.
#[derive(Debug, Default)]
pub(super) struct Versions {
    entries: HashMap<Box<str>, Entry>,
    /// Names whose last record on the topic is not the current one.
    due: BTreeSet<Box<str>>,
    upgrade: Option<Upgrade>,
}

/// The topic's upgrade to versions.
#[derive(Debug)]
struct Upgrade {
    /// Records without a version are accepted only below this offset.
    before: u64,
    value: Bytes,
    /// Whether another record of its name follows it on the topic.
    hidden: bool,
}

/// A record to write, so that the last record of a name is the current one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Due {
    /// The current value again.
    Rewrite(Bytes),
    /// A revocation with this version, because a tombstone has invalidated a valid key or grant.
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
        let lasting = name == EMERGENCY_KEY;
        let Some(entry) = self.entries.get_mut(name) else {
            // The emergency controls are never deleted, so something unknown must have been there.
            return if lasting {
                Verdict::End
            } else {
                Verdict::Known
            };
        };
        if lasting {
            self.due.insert(name.into());
            return Verdict::Refuse(LASTING);
        }
        if entry.stamp.revoked && !entry.stamp.expired(at) {
            self.due.insert(name.into());
            return Verdict::Refuse(UNSEALED);
        }
        if entry.stamp.revoked {
            // Replayed records of this name would be expired.
            self.entries.remove(name);
            self.due.remove(name);
            return Verdict::Known;
        }
        if entry.stamp.version == 0 {
            self.entries.remove(name);
        } else {
            entry.ended = Some(Ended::Tombstone);
            self.due.insert(name.into());
        }
        Verdict::End
    }

    fn unreadable(&mut self, name: &str) -> Verdict {
        let Some(entry) = self.entries.get_mut(name) else {
            return Verdict::End;
        };
        if entry.stamp.revoked {
            self.due.insert(name.into());
            return Verdict::Refuse(UNSEALED);
        }
        if entry.stamp.version == 0 {
            self.entries.remove(name);
        } else if entry.ended.is_none() {
            entry.ended = Some(Ended::Unreadable);
        }
        Verdict::End
    }

    fn sealed(&mut self, name: &str, offset: u64, stamp: Stamp, value: &Bytes) -> Verdict {
        let known = self.entries.get(name);
        if stamp.version == 0 {
            if known.is_some_and(|entry| entry.stamp.version > 0) {
                self.due.insert(name.into());
                return Verdict::Refuse(OLDER);
            }
            if self.upgrade.as_ref().is_some_and(|u| offset >= u.before) {
                return Verdict::Refuse(NO_VERSION);
            }
        } else if let Some(entry) = known {
            if entry.value == *value {
                if entry.ended != Some(Ended::Tombstone) {
                    self.due.remove(name);
                }
                return Verdict::Known;
            }
            // Two nodes wrote the same version: a revocation wins, otherwise the later record. For the emergency controls the earlier one
            // wins, so that the node that wrote the other merges its change again.
            let newer = stamp.version > entry.stamp.version
                || name != EMERGENCY_KEY
                    && stamp.version == entry.stamp.version
                    && entry.ended.is_none()
                    && (stamp.revoked || !entry.stamp.revoked);
            if !newer {
                self.due.insert(name.into());
                return Verdict::Refuse(OLDER);
            }
        }
        let entry = Entry {
            stamp,
            value: value.clone(),
            offset,
            ended: None,
        };
        self.entries.insert(name.into(), entry);
        self.due.remove(name);
        Verdict::Apply
    }

    /// Applies the sealed record of the topic's upgrade: from `before` on, records without a version are refused. Returns the
    /// names that this invalidates.
    pub(super) fn upgraded(&mut self, before: u64, value: &Bytes) -> Vec<Box<str>> {
        // If two nodes upgraded at the same time, the lower offset wins.
        let before = self
            .upgrade
            .as_ref()
            .map_or(before, |u| u.before.min(before));
        self.upgrade = Some(Upgrade {
            before,
            value: value.clone(),
            hidden: false,
        });
        let late = |entry: &Entry| entry.stamp.version == 0 && entry.offset >= before;
        let ended: Vec<Box<str>> = self
            .entries
            .iter()
            .filter(|(_, entry)| late(entry))
            .map(|(name, _)| name.clone())
            .collect();
        for name in &ended {
            self.entries.remove(name);
        }
        ended
    }

    /// Called for any other record with the upgrade's name; returns whether it hides the upgrade.
    pub(super) fn upgrade_hidden(&mut self) -> bool {
        let Some(upgrade) = &mut self.upgrade else {
            return false;
        };
        upgrade.hidden = true;
        true
    }

    /// Whether the topic's upgrade has been read.
    pub(super) fn is_upgraded(&self) -> bool {
        self.upgrade.is_some()
    }

    /// The upgrade's value, if it must be written again.
    pub(super) fn hidden_upgrade(&self) -> Option<Bytes> {
        let upgrade = self.upgrade.as_ref().filter(|u| u.hidden)?;
        Some(upgrade.value.clone())
    }

    /// The version for the next record of a name.
    pub(super) fn next(&self, name: &str) -> u64 {
        let known = self.entries.get(name);
        known.map_or(1, |entry| entry.stamp.version + 1)
    }

    /// The version and the offset of the current record of a name.
    pub(super) fn current(&self, name: &str) -> Option<(u64, u64)> {
        let entry = self.entries.get(name)?;
        Some((entry.stamp.version, entry.offset))
    }

    /// The offset of the current record of a name.
    pub(super) fn offset(&self, name: &str) -> Option<u64> {
        self.entries.get(name).map(|entry| entry.offset)
    }

    /// Names and values of current records without a version, at most `limit`.
    pub(super) fn without_version(&self, limit: usize) -> Vec<(Box<str>, Bytes)> {
        let old = self.entries.iter().filter(|(_, t)| t.stamp.version == 0);
        old.map(|(name, entry)| (name.clone(), entry.value.clone()))
            .take(limit)
            .collect()
    }

    /// The records to write so that a new reader of the compacted topic arrives at the same state, at most `limit`.
    pub(super) fn due(&self, limit: usize) -> Vec<(Box<str>, Due)> {
        let due = self.due.iter().filter_map(|name| {
            let entry = self.entries.get(name)?;
            let due = match entry.ended {
                Some(Ended::Tombstone) => Due::Revoke {
                    version: entry.stamp.version + 1,
                    expires_at: entry.stamp.expires_at,
                },
                _ => Due::Rewrite(entry.value.clone()),
            };
            Some((name.clone(), due))
        });
        due.take(limit).collect()
    }

    /// Names of revocations whose key expired before `at`, which can be removed, at most `limit`.
    pub(super) fn expired_revocations(&self, at: Millis, limit: usize) -> Vec<Box<str>> {
        let expired = |entry: &Entry| entry.stamp.revoked && entry.stamp.expired(at);
        let names = self.entries.iter().filter(|(_, entry)| expired(entry));
        names.map(|(name, _)| name.clone()).take(limit).collect()
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

    /// Judges one sealed record; records of one version differ by their value.
    fn read(versions: &mut Versions, offset: u64, stamp: Stamp, value: &str) -> Verdict {
        let value = Bytes::from(value.to_owned());
        versions.judge("k", (offset, AT), Seen::Sealed(stamp, &value))
    }

    fn tombstone(versions: &mut Versions, offset: u64) -> Verdict {
        versions.judge("k", (offset, AT), Seen::Tombstone)
    }

    #[test]
    fn of_one_version_of_the_emergency_controls_the_first_counts() {
        let mut v = Versions::default();
        let mut judge = |offset, seen: Seen<'_>| v.judge(EMERGENCY_KEY, (offset, AT), seen);
        let (one, two) = (Bytes::from("one"), Bytes::from("two"));
        assert_eq!(judge(0, Seen::Tombstone), Verdict::End);
        assert_eq!(
            judge(1, Seen::Sealed(stamp(1, false), &one)),
            Verdict::Apply
        );
        let older = Verdict::Refuse(OLDER);
        assert_eq!(judge(2, Seen::Sealed(stamp(1, false), &two)), older);
        assert_eq!(judge(3, Seen::Tombstone), Verdict::Refuse(LASTING));
        assert_eq!(judge(4, Seen::Unreadable), Verdict::End);
        assert_eq!(judge(5, Seen::Sealed(stamp(1, false), &two)), older);
        assert_eq!(v.due(9), [(named(EMERGENCY_KEY), Due::Rewrite(one))]);
        let mut judge = |offset, seen: Seen<'_>| v.judge(EMERGENCY_KEY, (offset, AT), seen);
        assert_eq!(
            judge(6, Seen::Sealed(stamp(2, false), &two)),
            Verdict::Apply
        );
        assert!(v.due(9).is_empty());
    }

    #[test]
    fn only_a_higher_version_is_accepted() {
        let mut v = Versions::default();
        assert_eq!(read(&mut v, 0, stamp(1, false), "wide"), Verdict::Apply);
        assert_eq!(read(&mut v, 1, stamp(2, false), "narrow"), Verdict::Apply);
        assert!(v.due(9).is_empty());
        let older = Verdict::Refuse(OLDER);
        assert_eq!(read(&mut v, 2, stamp(1, false), "wide"), older);
        assert_eq!(v.due(9), [(named("k"), Due::Rewrite("narrow".into()))]);
        // Another node has written it again.
        assert_eq!(read(&mut v, 3, stamp(2, false), "narrow"), Verdict::Known);
        assert!(v.due(9).is_empty());
        assert_eq!(read(&mut v, 4, stamp(3, true), "revoked"), Verdict::Apply);
        for (value, at) in [("wide", 1), ("narrow", 2)] {
            assert_eq!(read(&mut v, 5, stamp(at, false), value), older);
        }
        assert_eq!(v.due(9), [(named("k"), Due::Rewrite("revoked".into()))]);
        assert_eq!(v.next("k"), 4);
    }

    #[test]
    fn with_equal_versions_a_revocation_wins_else_the_later_record() {
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
    fn an_unverifiable_record_invalidates_for_good() {
        let mut v = Versions::default();
        read(&mut v, 0, stamp(1, false), "a");
        assert_eq!(tombstone(&mut v, 1), Verdict::End);
        assert_eq!(read(&mut v, 2, stamp(1, false), "a"), Verdict::Known);
        let revoke = Due::Revoke {
            version: 2,
            expires_at: None,
        };
        assert_eq!(v.due(9), [(named("k"), revoke)]);
        assert_eq!(read(&mut v, 3, stamp(2, true), "r"), Verdict::Apply);
        assert_eq!(tombstone(&mut v, 4), Verdict::Refuse(UNSEALED));
        let unreadable = v.judge("k", (5, AT), Seen::Unreadable);
        assert_eq!(unreadable, Verdict::Refuse(UNSEALED));
        assert_eq!(v.due(9), [(named("k"), Due::Rewrite("r".into()))]);

        let mut v = Versions::default();
        read(&mut v, 0, stamp(2, false), "a");
        let unreadable = v.judge("k", (1, AT), Seen::Unreadable);
        assert_eq!(unreadable, Verdict::End);
        // It may be a later version sealed with an unknown key: nothing is written over it.
        assert!(v.due(9).is_empty());
        assert_eq!(read(&mut v, 2, stamp(2, false), "a"), Verdict::Known);
        assert_eq!(
            read(&mut v, 3, stamp(2, false), "b"),
            Verdict::Refuse(OLDER)
        );
        assert_eq!(read(&mut v, 4, stamp(3, false), "c"), Verdict::Apply);
    }

    #[test]
    fn a_revocation_is_removed_after_the_key_has_expired() {
        let mut v = Versions::default();
        let ends = |revoked| Stamp {
            version: 1 + u64::from(revoked),
            revoked,
            expires_at: Some(Millis(500)),
        };
        let value = Bytes::from_static(b"r");
        read(&mut v, 0, ends(false), "a");
        read(&mut v, 1, ends(true), "r");
        assert!(v.expired_revocations(Millis(500), 9).is_empty());
        let early = v.judge("k", (2, Millis(500)), Seen::Tombstone);
        assert_eq!(early, Verdict::Refuse(UNSEALED));
        assert_eq!(v.due(9), [(named("k"), Due::Rewrite(value))]);
        assert_eq!(v.expired_revocations(Millis(501), 9), [named("k")]);
        let late = v.judge("k", (3, Millis(501)), Seen::Tombstone);
        assert_eq!((late, v.due(9)), (Verdict::Known, Vec::new()));
        assert_eq!(v.offset("k"), None);
    }

    #[test]
    fn records_without_a_version_are_accepted_until_the_upgrade() {
        let mut v = Versions::default();
        assert_eq!(read(&mut v, 0, stamp(0, false), "a"), Verdict::Apply);
        assert_eq!(tombstone(&mut v, 1), Verdict::End);
        assert_eq!(read(&mut v, 2, stamp(0, false), "b"), Verdict::Apply);
        assert_eq!(v.without_version(9).len(), 1);
        // After it is written again with a version, the old record is refused.
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
        assert_eq!(v.due(9), [(named("k"), Due::Rewrite("b1".into()))]);
        // If another record hides the upgrade, it is written again, and a new reader still refuses what came after it.
        assert!(v.upgrade_hidden());
        assert_eq!(v.hidden_upgrade(), Some(marker.clone()));
        let mut fresh = Versions::default();
        assert_eq!(late(&mut fresh, 6), Verdict::Apply);
        assert_eq!(fresh.upgraded(4, &marker), [named("late")]);
    }

    /// What someone without `secret_key` can write: a replay, garbage, or a tombstone.
    #[derive(Clone, Debug)]
    enum Attack {
        Replay(usize),
        Garbage,
        Tombstone,
    }

    fn attack() -> impl Strategy<Value = Attack> {
        prop_oneof![
            (0usize..64).prop_map(Attack::Replay),
            Just(Attack::Garbage),
            Just(Attack::Tombstone),
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

    /// The version of a valid key or grant.
    fn valid_version(v: &Versions) -> Option<u64> {
        let entry = v.entries.get("k")?;
        (entry.ended.is_none() && !entry.stamp.revoked).then_some(entry.stamp.version)
    }

    proptest! {
        /// With sealed changes, attacks without `secret_key`, repairs by a running node and compaction, no reader, new or
        /// running, ever accepts an older version than the last one written.
        #[test]
        fn no_older_version_becomes_valid(
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
                        Attack::Replay(n) if !history.is_empty() => history[n % history.len()].clone(),
                        Attack::Tombstone => None,
                        _ => Some((None, Bytes::from_static(b"?"))),
                    };
                    write(&mut log, &mut running, stored);
                }
                prop_assert!(valid_version(&running).is_none_or(|version| Some(version) == written));
                for (_, due) in running.due(9) {
                    let stored = match due {
                        Due::Rewrite(value) => {
                            let entry = &running.entries["k"];
                            Some((Some(entry.stamp), value))
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
                    // Compaction also removes tombstones, in time.
                    if stored.is_some() {
                        log.insert(last, stored);
                    }
                }
                let mut fresh = Versions::default();
                for (offset, stored) in &log {
                    judge(&mut fresh, *offset, stored);
                }
                prop_assert!(valid_version(&fresh).is_none_or(|version| Some(version) == written));
            }
        }
    }
}
