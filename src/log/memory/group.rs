//! The members of a processor's group, and the owners of its partitions.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use super::{Fault, MemberId, Shared, reader::Cursor};
use crate::log::{Fenced, Fetched, LogError, Polled};

#[derive(Default)]
pub(super) struct Group {
    /// A test assigns the partitions.
    pub(super) controlled: bool,
    /// The number of members that have joined so far.
    joined: MemberId,
    /// The events that each present member has not polled yet.
    events: BTreeMap<MemberId, VecDeque<Polled>>,
    owners: BTreeMap<(usize, u32), MemberId>,
    /// Members that lost a partition without an event: their commits fail.
    fenced: BTreeSet<MemberId>,
    pub(super) faults: VecDeque<Fault>,
}

impl Group {
    pub(super) fn members(&self) -> Vec<MemberId> {
        let members = self.events.keys().copied();
        members.filter(|id| !self.fenced.contains(id)).collect()
    }

    pub(super) fn owner(&self, at: (usize, u32)) -> Option<MemberId> {
        self.owners.get(&at).copied()
    }

    fn push_event(&mut self, member: MemberId, event: Polled) {
        if let Some(events) = self.events.get_mut(&member) {
            events.push_back(event);
        }
    }

    pub(super) fn assign(&mut self, member: MemberId, partitions: &[(usize, u32)]) {
        for at in partitions {
            let before = self.owners.insert(*at, member);
            self.fenced
                .extend(before.filter(|before| *before != member));
        }
        self.push_event(member, Polled::Assigned(partitions.to_vec()));
    }

    /// These of the partitions that have owners, by owner.
    fn by_owner(&self, partitions: &[(usize, u32)]) -> BTreeMap<MemberId, Vec<(usize, u32)>> {
        let mut by_owner: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for at in partitions {
            if let Some(owner) = self.owners.get(at) {
                by_owner.entry(*owner).or_default().push(*at);
            }
        }
        by_owner
    }

    pub(super) fn revoke(&mut self, partitions: &[(usize, u32)]) {
        for (owner, theirs) in self.by_owner(partitions) {
            self.forget_revocation(owner, &theirs);
            self.push_event(owner, Polled::Revoked(theirs));
        }
    }

    pub(super) fn lose(&mut self, partitions: &[(usize, u32)]) {
        for (owner, theirs) in self.by_owner(partitions) {
            self.owners.retain(|at, _| !theirs.contains(at));
            self.forget_revocation(owner, &theirs);
            self.push_event(owner, Polled::Lost(theirs));
        }
    }

    /// Removes partitions from revocations that the member has not polled yet: the next event replaces them.
    fn forget_revocation(&mut self, member: MemberId, partitions: &[(usize, u32)]) {
        for event in self.events.get_mut(&member).into_iter().flatten() {
            if let Polled::Revoked(revoked) = event {
                revoked.retain(|at| !partitions.contains(at));
            }
        }
    }

    /// A member releases partitions, except those that have been reassigned to it by an event that it has not polled yet.
    fn release(&mut self, member: MemberId, partitions: &[(usize, u32)]) {
        let events = self.events.get(&member).into_iter().flatten();
        let reassigned: BTreeSet<_> = events
            .filter_map(|event| match event {
                Polled::Assigned(partitions) => Some(partitions),
                _ => None,
            })
            .flatten()
            .copied()
            .collect();
        self.owners.retain(|at, owner| {
            *owner != member || !partitions.contains(at) || reassigned.contains(at)
        });
    }

    /// Removes and returns the first fault of a kind.
    pub(super) fn fault(&mut self, kind: impl Fn(&Fault) -> bool) -> Option<Fault> {
        let at = self.faults.iter().position(kind)?;
        self.faults.remove(at)
    }
}

/// A member of a group, with its cursor.
pub(super) struct Member {
    pub(super) shared: Arc<Shared>,
    pub(super) processor: String,
    id: MemberId,
    pub(super) cursor: Cursor,
}

impl Member {
    pub(super) fn join<T: AsRef<str>>(
        shared: &Arc<Shared>,
        processor: &str,
        topics: &[T],
    ) -> Result<Self, LogError> {
        let cursor = Cursor::new(Arc::clone(shared), topics)?;
        let mut content = shared.content.lock();
        let mut all = Vec::new();
        for (index, topic) in topics.iter().enumerate() {
            let partitions = content.topic(topic.as_ref())?.partitions();
            all.extend((0..partitions).map(|partition| (index, partition)));
        }
        let group = content.group(processor);
        let id = group.joined;
        group.joined += 1;
        group.events.insert(id, VecDeque::new());
        if !group.controlled {
            group.assign(id, &all);
        }
        Ok(Self {
            shared: Arc::clone(shared),
            processor: processor.to_owned(),
            id,
            cursor,
        })
    }

    pub(super) fn poll(&mut self, out: &mut Vec<Fetched>) -> Result<Polled, LogError> {
        let mut content = self.shared.content.lock();
        let group = content.group(&self.processor);
        if let Some(Fault::Poll(error)) = group.fault(|fault| matches!(fault, Fault::Poll(_))) {
            return Err(error);
        }
        let events = group.events.get_mut(&self.id);
        if let Some(event) = events.and_then(VecDeque::pop_front) {
            return Ok(event);
        }
        drop(content);
        self.cursor.poll(out)?;
        Ok(Polled::Records)
    }

    pub(super) fn release(&mut self, partitions: &[(usize, u32)]) {
        for (topic, partition) in partitions {
            self.cursor.release(*topic, *partition);
        }
        let mut content = self.shared.content.lock();
        content.group(&self.processor).release(self.id, partitions);
    }

    /// Whether it may commit for these partitions.
    pub(super) fn check_owner(
        &self,
        group: &Group,
        mut partitions: impl Iterator<Item = (usize, u32)>,
    ) -> Result<(), LogError> {
        let fenced = group.fenced.contains(&self.id);
        if !fenced && partitions.all(|at| group.owner(at) == Some(self.id)) {
            return Ok(());
        }
        Err(LogError::Fenced(Fenced::OtherOwner {
            processor: self.processor.as_str().into(),
        }))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut content = self.shared.content.lock();
        let group = content.group(&self.processor);
        group.events.remove(&self.id);
        group.fenced.remove(&self.id);
        group.owners.retain(|_, owner| *owner != self.id);
    }
}
