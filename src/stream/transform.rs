//! A transform: pure, synchronous and deterministic. Records go in, records and changes of keyed state come out; time is handed in.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    failure::{Failure, Rejected},
    size_limits::{OUTPUT_BYTES, REPEATED_BYTES, SizeLimits, refused},
    timers::Timers,
    writes::Writes,
};
use crate::{
    base::clock::Millis,
    log::{Fetched, Output, Record, header_size, record_size},
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

/// What an open transaction has gathered for one partition.
#[derive(Default)]
pub(crate) struct Gathered {
    pub(super) outputs: Vec<Output>,
    pub(crate) writes: Writes,
    pub(super) rejected: Vec<Rejected>,
    /// Records that go to the dead-letter queue, whatever the input is.
    pub(super) dead: Vec<Dead>,
    /// Timers that go to the dead-letter queue.
    pub(super) dead_timers: Vec<(Bytes, Millis, Rejected)>,
    /// What the log takes; `None`: anything.
    limits: Option<Arc<SizeLimits>>,
    /// The first thing that was too large since this was last taken.
    oversize: Option<Rejected>,
    /// Bytes of outputs, of rows of state that were put, and of dead letters.
    pub(super) bytes: usize,
    /// The same when the record in hand began.
    begun: usize,
    /// Of the record that the last letter is about: where it lies, and bytes of headers and keys that further letters repeat.
    repeated: Option<((u32, u64), usize)>,
}

/// A record that goes to the dead-letter queue by itself.
pub(super) struct Dead {
    pub(super) origin: Origin,
    pub(super) rejected: Rejected,
    /// Without its headers: other letters of the same input have them.
    pub(super) bare: bool,
}

/// What a transform may do.
pub struct Context<'a> {
    pub(crate) space: &'a Space,
    pub(crate) store: &'a StateStore,
    pub(crate) timers: &'a mut Timers,
    pub(crate) gathered: &'a mut Gathered,
    pub(crate) now: Millis,
}

/// Where one record's part of what is gathered begins.
pub(super) struct Mark {
    bytes: usize,
    outputs: usize,
    writes: u64,
    rejected: usize,
    dead: usize,
    dead_timers: usize,
}

impl Gathered {
    /// Nothing, with a bound for what there will be.
    pub(super) fn within(limits: &Arc<SizeLimits>) -> Self {
        Self {
            limits: Some(Arc::clone(limits)),
            ..Self::default()
        }
    }

    /// What was too large since the last call.
    pub(super) fn take_oversize(&mut self) -> Option<Rejected> {
        self.oversize.take()
    }

    /// Whether one more letter of a record may repeat its headers and key.
    pub(super) fn may_repeat(&mut self, rejected: &Fetched) -> bool {
        let at = (rejected.partition, rejected.offset);
        let record = &rejected.record;
        let headers = record.headers.iter();
        let headers = headers.map(|(name, value)| header_size(name, value.as_deref()));
        let bytes = headers.sum::<usize>() + record.key.as_ref().map_or(0, Bytes::len);
        match &mut self.repeated {
            Some((before, repeated)) if *before == at => {
                *repeated += bytes;
                *repeated <= REPEATED_BYTES
            }
            // One letter has them all, however large they are.
            _ => {
                self.repeated = Some((at, 0));
                true
            }
        }
    }

    pub(super) fn mark(&mut self) -> Mark {
        self.begun = self.bytes;
        Mark {
            bytes: self.bytes,
            outputs: self.outputs.len(),
            writes: self.writes.count(),
            rejected: self.rejected.len(),
            dead: self.dead.len(),
            dead_timers: self.dead_timers.len(),
        }
    }

    /// Drops what was emitted since. False: state was changed too, which only a new start can take back.
    pub(super) fn take_back(&mut self, mark: &Mark) -> bool {
        self.oversize = None;
        self.bytes = mark.bytes;
        self.outputs.truncate(mark.outputs);
        self.rejected.truncate(mark.rejected);
        self.dead.truncate(mark.dead);
        self.dead_timers.truncate(mark.dead_timers);
        self.writes.count() == mark.writes
    }
}

/// Rows of transforms lie under this letter, beside timers (`t`) and windows (`w`, `b`, `p`, `f`).
pub(crate) fn row(key: &[u8]) -> Bytes {
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

    /// Emits a record to the partition of its key. Where its topic does not take it, the whole input becomes a dead letter
    /// `record_too_large` with nothing of what it emitted or put, by way of an aborted transaction.
    pub fn emit(&mut self, topic: &Arc<str>, record: Record) {
        self.output(topic, None, record);
    }

    /// As [`Context::emit`], to the partition of the input, whose topic has as many.
    pub fn emit_here(&mut self, topic: &Arc<str>, record: Record) {
        self.output(topic, Some(self.space.partition), record);
    }

    /// As [`Context::emit`], to a partition, whatever the record's key.
    pub fn emit_to(&mut self, topic: &Arc<str>, partition: u32, record: Record) {
        self.output(topic, Some(partition), record);
    }

    /// As [`Context::emit`], but refuses what the topic does not take. To be called before the transform changes what it
    /// keeps in memory: then a refusal costs no aborted transaction.
    pub fn try_emit(&mut self, topic: &Arc<str>, record: Record) -> Result<(), Rejected> {
        self.try_output(topic, None, record)
    }

    /// As [`Context::try_emit`], to the partition of the input.
    pub fn try_emit_here(&mut self, topic: &Arc<str>, record: Record) -> Result<(), Rejected> {
        self.try_output(topic, Some(self.space.partition), record)
    }

    fn output(&mut self, topic: &Arc<str>, partition: Option<u32>, record: Record) {
        if let Err(rejected) = self.try_output(topic, partition, record) {
            self.gathered.oversize.get_or_insert(rejected);
        }
    }

    fn try_output(
        &mut self,
        topic: &Arc<str>,
        partition: Option<u32>,
        record: Record,
    ) -> Result<(), Rejected> {
        if let Some(limits) = &self.gathered.limits {
            let size = limits.check(topic, &record)?;
            let together = self.gathered.bytes + size - self.gathered.begun;
            if together > OUTPUT_BYTES {
                // Each of them fits: it is the input as a whole that is refused.
                self.gathered.oversize.get_or_insert_with(|| {
                    refused(format!(
                        "its outputs take more than {OUTPUT_BYTES} bytes together"
                    ))
                });
                return Ok(());
            }
            self.gathered.bytes += size;
        }
        self.gathered.outputs.push(Output {
            topic: Arc::clone(topic),
            partition,
            record,
        });
        Ok(())
    }

    /// What the changelog does not take is noted; it fails the record.
    fn check_row(&mut self, row: &[u8], value: &[u8]) {
        if let Err(rejected) = self.fits(row, value) {
            self.gathered.oversize.get_or_insert(rejected);
        }
    }

    fn fits(&self, row: &[u8], value: &[u8]) -> Result<(), Rejected> {
        let limits = self.gathered.limits.as_ref();
        limits.map_or(Ok(()), |limits| limits.check_row(row, value))
    }

    /// Sends a part of the record to the dead-letter queue and goes on.
    pub fn reject(&mut self, rejected: Rejected) {
        self.gathered.rejected.push(rejected);
    }

    /// Sends a record to the dead-letter queue that came some other way than as the input, and goes on.
    pub fn reject_origin(&mut self, origin: Origin, rejected: Rejected) {
        let bare = !self.gathered.may_repeat(&origin.record);
        if !bare {
            self.gathered.bytes += record_size(&origin.record.record);
        }
        self.gathered.dead.push(Dead {
            origin,
            rejected,
            bare,
        });
    }

    /// Sends a timer to the dead-letter queue: its key is the letter's key, and the letter has no value.
    pub fn reject_timer(&mut self, timer: Timer<'_>, rejected: Rejected) {
        let key = Bytes::copy_from_slice(timer.key);
        self.gathered.dead_timers.push((key, timer.due, rejected));
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

    /// Sets a key. However often that happens in a transaction, one row is written, and one record of the changelog. Where
    /// the changelog does not take the row, the whole input becomes a dead letter, as with [`Context::emit`].
    pub fn put(&mut self, key: &[u8], value: impl Into<Bytes>) {
        let (row, value) = (row(key), value.into());
        self.check_row(&row, &value);
        self.set(row, value);
    }

    /// As [`Context::put`], but refuses what the changelog does not take, as [`Context::try_emit`] does.
    pub fn try_put(&mut self, key: &[u8], value: impl Into<Bytes>) -> Result<(), Rejected> {
        let (row, value) = (row(key), value.into());
        self.fits(&row, &value)?;
        self.set(row, value);
        Ok(())
    }

    fn set(&mut self, row: Bytes, value: Bytes) {
        self.gathered.bytes += row.len() + value.len();
        self.gathered.writes.put(row, value);
    }

    /// Deletes a key.
    pub fn delete(&mut self, key: &[u8]) {
        let row = row(key);
        self.check_row(&row, &[]);
        self.gathered.writes.delete(row);
    }

    /// Adds changes that the transform made by itself, as a [`crate::state::Window`] does.
    pub fn add_changes(&mut self, changes: Changes) {
        for change in changes.0.iter().filter(|change| change.logged) {
            self.check_row(&change.key, change.value.as_deref().unwrap_or_default());
        }
        self.gathered.writes.add(changes);
    }

    /// Sets a timer, which is named by its key and its time: to move one, cancel it first. It fires once, not before `due`, and
    /// never before what was in the log by then.
    pub fn set_timer(&mut self, key: impl Into<Bytes>, due: Millis) {
        let key = key.into();
        // A row of its own holds the time and the key.
        self.check_row(&row(&key), &due.0.to_be_bytes());
        self.timers.set(key, due, &mut self.gathered.writes);
    }

    /// Forgets a timer.
    pub fn cancel_timer(&mut self, key: impl Into<Bytes>, due: Millis) {
        self.timers
            .cancel(&key.into(), due, &mut self.gathered.writes);
    }
}
