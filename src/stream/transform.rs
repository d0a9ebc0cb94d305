//! A transform: pure, synchronous and deterministic. Records go in, records and changes of keyed state come out; time is handed in.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;

use super::{timers::Timers, writes::Writes};
use crate::{
    clock::Millis,
    log::{Fetched, Output, Record},
    state::{Changes, Space, StateError, StateStore},
};

/// Makes the transforms of a processor, one for each input partition.
pub trait Processor: Send + Sync {
    /// Its name, such as `admission`: names its consumer group, changelog and metrics.
    fn name(&self) -> &str;

    /// The whole names of its input topics, all with the same number of partitions.
    fn topics(&self) -> Vec<String>;

    /// A transform for one input partition, from the keyed state there is.
    fn transform(
        &self,
        space: &Space,
        state: &StateStore,
    ) -> Result<Box<dyn Transform>, StateError>;
}

/// Turns input into output. What it keeps in memory must follow from keyed state: after an aborted
/// transaction it is made anew.
pub trait Transform: Send {
    /// Takes one record. An error or a panic sends it to the dead-letter queue and drops what it emitted and put.
    /// On an error before any change of state the transform's own memory must be as before; otherwise it is made anew.
    fn process(&mut self, input: &Fetched, cx: &mut Context<'_>) -> Result<(), Failure>;

    /// A timer set with [`Context::set_timer`] is due; it is gone now.
    fn fire(&mut self, _key: &[u8], _due: Millis, _cx: &mut Context<'_>) {}

    /// The transaction closes: last outputs and changes.
    fn close(&mut self, _cx: &mut Context<'_>) {}

    /// What goes to the dead-letter queue in place of an input that only carries it.
    fn origin(&self, _input: &Fetched) -> Option<Origin> {
        None
    }
}

/// A record as it was read, and the whole name of its topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    /// The topic.
    pub topic: Arc<str>,
    /// The record; its topic's index means nothing.
    pub record: Fetched,
}

/// Why a record goes to the dead-letter queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejected {
    /// A stable code.
    pub code: Cow<'static, str>,
    /// For people.
    pub message: String,
    /// For one item of a batch: its bytes, in place of the record's value.
    pub value: Option<Bytes>,
}

/// Why a record was not taken.
#[derive(Clone, Debug)]
pub enum Failure {
    /// The record is bad: to the dead-letter queue with it.
    Rejected(Rejected),
    /// The state cannot be read: nothing goes on before it can.
    State(StateError),
    /// Something that the record needs is not at hand, for this reason: its partition stands still, and it comes again.
    Waiting(String),
}

impl From<Rejected> for Failure {
    fn from(rejected: Rejected) -> Self {
        Self::Rejected(rejected)
    }
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}

impl From<crate::envelope::Invalid> for Failure {
    fn from(invalid: crate::envelope::Invalid) -> Self {
        Self::Rejected(invalid.into())
    }
}

impl From<crate::envelope::kafka::Unread> for Failure {
    fn from(unread: crate::envelope::kafka::Unread) -> Self {
        use crate::envelope::kafka::Unread;
        match unread {
            Unread::Invalid(invalid) => invalid.into(),
            Unread::Waiting(why) => Self::Waiting(why),
        }
    }
}

impl From<crate::envelope::Invalid> for Rejected {
    fn from(invalid: crate::envelope::Invalid) -> Self {
        Self {
            code: invalid.code,
            message: invalid.message,
            value: None,
        }
    }
}

/// What an open transaction has gathered for one partition.
#[derive(Default)]
pub(super) struct Gathered {
    pub(super) outputs: Vec<Output>,
    pub(super) writes: Writes,
    pub(super) rejected: Vec<Rejected>,
    /// Records that go to the dead-letter queue, whatever the input is.
    pub(super) dead: Vec<(Origin, Rejected)>,
}

/// What a transform may do.
pub struct Context<'a> {
    pub(super) space: &'a Space,
    pub(super) store: &'a StateStore,
    pub(super) timers: &'a mut Timers,
    pub(super) gathered: &'a mut Gathered,
}

/// Where one record's part of what is gathered begins.
pub(super) struct Mark {
    outputs: usize,
    writes: u64,
    rejected: usize,
    dead: usize,
}

impl Gathered {
    pub(super) fn mark(&self) -> Mark {
        Mark {
            outputs: self.outputs.len(),
            writes: self.writes.count(),
            rejected: self.rejected.len(),
            dead: self.dead.len(),
        }
    }

    /// Drops what was emitted since. False: state was changed too, which only a new start can take back.
    pub(super) fn take_back(&mut self, mark: &Mark) -> bool {
        self.outputs.truncate(mark.outputs);
        self.rejected.truncate(mark.rejected);
        self.dead.truncate(mark.dead);
        self.writes.count() == mark.writes
    }
}

/// Rows of transforms lie under this letter, beside timers (`t`) and windows (`w`, `b`, `p`, `f`).
pub(super) fn row(key: &[u8]) -> Bytes {
    let mut row = Vec::with_capacity(key.len() + 1);
    row.push(b's');
    row.extend_from_slice(key);
    row.into()
}

impl Context<'_> {
    /// The input partition.
    pub fn partition(&self) -> u32 {
        self.space.partition
    }

    /// Emits a record to the partition of its key.
    pub fn emit(&mut self, topic: &Arc<str>, record: Record) {
        self.output(topic, None, record);
    }

    /// Emits a record to the partition of the input, whose topic has as many.
    pub fn emit_here(&mut self, topic: &Arc<str>, record: Record) {
        self.output(topic, Some(self.space.partition), record);
    }

    /// Emits a record to a partition, whatever its key.
    pub fn emit_to(&mut self, topic: &Arc<str>, partition: u32, record: Record) {
        self.output(topic, Some(partition), record);
    }

    fn output(&mut self, topic: &Arc<str>, partition: Option<u32>, record: Record) {
        self.gathered.outputs.push(Output {
            topic: Arc::clone(topic),
            partition,
            record,
        });
    }

    /// Sends a part of the record to the dead-letter queue and goes on.
    pub fn reject(&mut self, rejected: Rejected) {
        self.gathered.rejected.push(rejected);
    }

    /// Sends a record to the dead-letter queue that came some other way than as the input, and goes on.
    pub fn reject_origin(&mut self, origin: Origin, rejected: Rejected) {
        self.gathered.dead.push((origin, rejected));
    }

    /// The value of a key, as the open transaction has set it.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        let row = row(key);
        match self.gathered.writes.get(&row) {
            Some(value) => Ok(value),
            None => self.store.get(self.space, &row),
        }
    }

    /// Keys that begin with `prefix` and their values, in order of the keys, as the open transaction has set them.
    pub fn scan(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, StateError> {
        let rows = self
            .gathered
            .writes
            .scan(self.store, self.space, &row(prefix))?;
        let key = |(row, value): (Bytes, Bytes)| (row.slice(1..), value);
        Ok(rows.into_iter().map(key).collect())
    }

    /// Sets a key. However often that happens in a transaction, one row is written, and one record of the changelog.
    pub fn put(&mut self, key: &[u8], value: impl Into<Bytes>) {
        self.gathered.writes.put(row(key), value.into());
    }

    /// Deletes a key.
    pub fn delete(&mut self, key: &[u8]) {
        self.gathered.writes.delete(row(key));
    }

    /// Adds changes that the transform made by itself, as a [`crate::state::Window`] does.
    pub fn add_changes(&mut self, changes: Changes) {
        self.gathered.writes.add(changes);
    }

    /// Sets a timer, which is named by its key and its time: to move one, cancel it first. It fires once, not before `due`, and
    /// never before what was in the log by then.
    pub fn set_timer(&mut self, key: impl Into<Bytes>, due: Millis) {
        self.timers.set(key.into(), due, &mut self.gathered.writes);
    }

    /// Forgets a timer.
    pub fn cancel_timer(&mut self, key: impl Into<Bytes>, due: Millis) {
        self.timers
            .cancel(&key.into(), due, &mut self.gathered.writes);
    }
}
