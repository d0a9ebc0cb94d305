//! A transform: pure, synchronous and deterministic. Records go in, records and changes of keyed state come out; time is handed in.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use bytes::Bytes;

use super::timers::Timers;
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

    /// A timer set with [`Context::set_timer`] is due; it is gone now. On [`Failure::State`] the transaction is aborted and made
    /// again; on [`Failure::Waiting`] the partition waits and the timer fires again, so the transform's own memory must then be as
    /// before unless state was changed. A rejection or a panic aborts the transaction, and when the timer comes again it goes to
    /// [`Transform::timer_failed`] instead.
    fn fire(&mut self, _timer: Timer<'_>, _cx: &mut Context<'_>) -> Result<(), Failure> {
        Ok(())
    }

    /// [`Transform::fire`] failed for this timer, and its transaction was aborted: says what becomes of the timer, which is gone now.
    /// By default it is a dead letter. Where this fails too, it is called again, and in the end the timer is a dead letter all the same.
    fn timer_failed(
        &mut self,
        timer: Timer<'_>,
        rejected: Rejected,
        cx: &mut Context<'_>,
    ) -> Result<(), Failure> {
        cx.reject_timer(timer, rejected);
        Ok(())
    }

    /// The transaction closes: last outputs and changes. When this is rejected or panics, the transaction is made again with ever
    /// fewer records and timers, and the one that it fails for is a dead letter.
    fn close(&mut self, _cx: &mut Context<'_>) -> Result<(), Failure> {
        Ok(())
    }

    /// The last transaction that this transform had a part in was committed, and all it emitted had left by `now`.
    fn committed(&mut self, _now: Millis) {}

    /// What goes to the dead-letter queue in place of an input that only carries it.
    fn origin(&self, _input: &Fetched) -> Option<Origin> {
        None
    }
}

/// A timer that fires.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timer<'a> {
    /// The key it was set with.
    pub key: &'a [u8],
    /// The time it was set for.
    pub due: Millis,
    /// The time it is, the same for all timers of a transaction: never before `due`, and long after it where the lane stood still.
    pub now: Millis,
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
#[derive(Clone, PartialEq, Eq, Debug)]
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
    pub(super) changes: Changes,
    /// Uncommitted values, for reads.
    overlay: HashMap<Bytes, Option<Bytes>>,
    pub(super) rejected: Vec<Rejected>,
    /// Records that go to the dead-letter queue, whatever the input is.
    pub(super) dead: Vec<(Origin, Rejected)>,
    /// Timers that go to the dead-letter queue.
    pub(super) dead_timers: Vec<(Bytes, Millis, Rejected)>,
}

/// What a transform may do.
pub struct Context<'a> {
    pub(super) space: &'a Space,
    pub(super) store: &'a StateStore,
    pub(super) timers: &'a mut Timers,
    pub(super) gathered: &'a mut Gathered,
    pub(super) now: Millis,
}

/// Where one record's part of what is gathered begins.
pub(super) struct Mark {
    outputs: usize,
    changes: usize,
    rejected: usize,
    dead: usize,
    dead_timers: usize,
}

impl Gathered {
    pub(super) fn mark(&self) -> Mark {
        Mark {
            outputs: self.outputs.len(),
            changes: self.changes.0.len(),
            rejected: self.rejected.len(),
            dead: self.dead.len(),
            dead_timers: self.dead_timers.len(),
        }
    }

    /// Drops what was emitted since. False: state was changed too, which only a new start can take back.
    pub(super) fn take_back(&mut self, mark: &Mark) -> bool {
        self.outputs.truncate(mark.outputs);
        self.rejected.truncate(mark.rejected);
        self.dead.truncate(mark.dead);
        self.dead_timers.truncate(mark.dead_timers);
        self.changes.0.len() == mark.changes
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

    /// The lane's clock: when the transaction began to be processed. A record that is emitted leaves at this time or later.
    pub fn now(&self) -> Millis {
        self.now
    }

    /// Emits a record to the partition of its key.
    pub fn emit(&mut self, topic: &Arc<str>, record: Record) {
        self.output(topic, None, record);
    }

    /// Emits a record to the partition of the input, whose topic has as many.
    pub fn emit_here(&mut self, topic: &Arc<str>, record: Record) {
        self.output(topic, Some(self.space.partition), record);
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

    /// Sends a timer to the dead-letter queue: its key is the letter's key, and the letter has no value.
    pub fn reject_timer(&mut self, timer: Timer<'_>, rejected: Rejected) {
        let key = Bytes::copy_from_slice(timer.key);
        self.gathered.dead_timers.push((key, timer.due, rejected));
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        let row = row(key);
        match self.gathered.overlay.get(&row) {
            Some(value) => Ok(value.clone()),
            None => self.store.get(self.space, &row),
        }
    }

    /// Sets a key.
    pub fn put(&mut self, key: &[u8], value: impl Into<Bytes>) {
        let (row, value) = (row(key), value.into());
        self.gathered
            .overlay
            .insert(row.clone(), Some(value.clone()));
        self.gathered.changes.put(self.space, row, value);
    }

    /// Deletes a key.
    pub fn delete(&mut self, key: &[u8]) {
        let row = row(key);
        self.gathered.overlay.insert(row.clone(), None);
        self.gathered.changes.delete(self.space, row);
    }

    /// Adds changes that the transform made by itself, as a [`crate::state::Window`] does.
    pub fn add_changes(&mut self, changes: Changes) {
        self.gathered.changes.0.extend(changes.0);
    }

    /// Sets a timer, or moves the one of that key. It fires once, not before `due`, and never before what was in the log
    /// by then.
    pub fn set_timer(&mut self, key: impl Into<Bytes>, due: Millis) {
        self.timers
            .set(key.into(), due, self.space, &mut self.gathered.changes);
    }

    /// Forgets a timer.
    pub fn cancel_timer(&mut self, key: &[u8]) {
        self.timers
            .cancel(key, self.space, &mut self.gathered.changes);
    }
}
