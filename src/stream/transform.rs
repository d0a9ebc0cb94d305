//! Transforms: pure, synchronous and deterministic functions from records to records and changes of keyed state. Time is an argument.

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
    state::{
        AsKey, Changes, CodecError, Key, PrefixOf, Space, StateError, StateStore, Table, Value,
    },
};

/// Creates the transforms of a processor, one for each input partition.
pub trait Processor: Send + Sync {
    /// Its name, such as `admission`; also used for its consumer group, changelog and metrics.
    fn name(&self) -> &str;

    /// The full names of its input topics, which have the same number of partitions.
    fn topics(&self) -> Vec<String>;

    /// Creates the transform of one input partition from its keyed state.
    fn transform(
        &self,
        space: &Space,
        state: &StateStore,
    ) -> Result<Box<dyn Transform>, StateError>;

    /// Why an operator holds the processor, for people; `None`: nobody does. While it is held its lanes keep their partitions, and
    /// take no record and fire no timer. Called before each poll, so it must be cheap.
    fn held(&self) -> Option<String> {
        None
    }

    /// Whether people or other systems wait for what it writes, so that its lanes commit soon ([`Lane::hurry`]).
    ///
    /// [`Lane::hurry`]: crate::log::Lane::hurry
    fn is_awaited(&self) -> bool {
        false
    }
}

/// Turns input into output. Its memory must be derived from keyed state, because it is recreated after an aborted transaction.
pub trait Transform: Send {
    /// Processes one record. After an error or panic the record goes to the dead-letter queue, and its outputs and changes are dropped.
    /// If it returns an error before any change of state, its own memory must be unchanged; otherwise it is recreated.
    fn process(&mut self, input: &Fetched, cx: &mut Context<'_>) -> Result<(), Failure>;

    /// Called for a due timer that was set with [`Context::set_timer`], and is deleted now. On [`Failure::State`] the transaction is
    /// aborted and repeated. On [`Failure::Waiting`] the partition is paused and the timer fires again later, so the transform's own
    /// memory must be unchanged unless state was changed. A rejection or a panic aborts the transaction, and
    /// [`Transform::timer_failed`] is called for the timer instead.
    fn fire(&mut self, _timer: Timer<'_>, _cx: &mut Context<'_>) -> Result<(), Failure> {
        Ok(())
    }

    /// Called for a timer, which is deleted now, after [`Transform::fire`] failed for it and the transaction was aborted. The default
    /// writes a dead letter. If this fails too, it is called again a few times before the timer becomes a dead letter.
    fn timer_failed(
        &mut self,
        timer: Timer<'_>,
        rejected: Rejected,
        cx: &mut Context<'_>,
    ) -> Result<(), Failure> {
        cx.reject_timer(timer, rejected);
        Ok(())
    }

    /// Called at the end of a transaction, for final outputs and changes. After a rejection or panic the transaction is repeated with
    /// half of its records and timers, until the one that causes the failure is found and becomes a dead letter.
    fn close(&mut self, _cx: &mut Context<'_>) -> Result<(), Failure> {
        Ok(())
    }

    /// The key of a timer that must fire now although none was set: something outside the keyed state has changed. Called before each
    /// poll, so it must be cheap.
    fn wakes(&self) -> Option<&'static [u8]> {
        None
    }

    /// Called after the commit of a transaction of this transform; its outputs were written by `now`.
    fn committed(&mut self, _now: Millis) {}

    /// The original record to write to the dead-letter queue, if the input only transports another record.
    fn origin(&self, _input: &Fetched) -> Option<Origin> {
        None
    }
}

/// A due timer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timer<'a> {
    /// Its key.
    pub key: &'a [u8],
    /// The time for which it was set.
    pub due: Millis,
    /// The current time, the same for all timers of a transaction; not before `due`, and long after it if the lane was stopped.
    pub now: Millis,
}

/// A record and the full name of its topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    /// The topic.
    pub topic: Arc<str>,
    /// The record; the index of its topic is unused.
    pub record: Fetched,
}

/// The uncommitted results of one partition in the open transaction.
#[derive(Default)]
pub(crate) struct Gathered {
    pub(super) outputs: Vec<Output>,
    pub(crate) writes: Writes,
    pub(super) rejected: Vec<Rejected>,
    /// Records for the dead-letter queue that are not the input.
    pub(super) dead: Vec<Dead>,
    /// Timers for the dead-letter queue.
    pub(super) dead_timers: Vec<(Bytes, Millis, Rejected)>,
    /// Size limits; `None` for none.
    limits: Option<Arc<SizeLimits>>,
    /// The first write since the last check that was refused, usually because of its size.
    oversize: Option<Rejected>,
    /// Bytes of outputs, of rows of state that were put, and of dead letters.
    pub(super) bytes: usize,
    /// `bytes` before the current record.
    begun: usize,
    /// The offset of the record of the last dead letter, and the bytes of headers and keys that its letters have repeated.
    repeated: Option<((u32, u64), usize)>,
    /// A buffer for encoding keys and values of rows.
    key: Vec<u8>,
    value: Vec<u8>,
}

/// A dead letter that is not the input.
pub(super) struct Dead {
    pub(super) origin: Origin,
    pub(super) rejected: Rejected,
    /// Whether its headers are omitted, because other letters of the same input have them.
    pub(super) bare: bool,
}

/// The operations of a transform within a transaction.
pub struct Context<'a> {
    pub(crate) space: &'a Space,
    pub(crate) store: &'a StateStore,
    pub(crate) timers: &'a mut Timers,
    pub(crate) gathered: &'a mut Gathered,
    pub(crate) now: Millis,
}

/// The state of [`Gathered`] before a record, for reverting it.
pub(super) struct Mark {
    bytes: usize,
    outputs: usize,
    writes: u64,
    rejected: usize,
    dead: usize,
    dead_timers: usize,
}

impl Gathered {
    /// Empty, with size limits.
    pub(super) fn within(limits: &Arc<SizeLimits>) -> Self {
        Self {
            limits: Some(Arc::clone(limits)),
            ..Self::default()
        }
    }

    /// Takes the refused write, if there was one since the last call.
    pub(super) fn take_oversize(&mut self) -> Option<Rejected> {
        self.oversize.take()
    }

    /// Records a refused write, which makes the input fail.
    fn note(&mut self, written: Result<(), Rejected>) {
        if let Err(rejected) = written {
            self.oversize.get_or_insert(rejected);
        }
    }

    /// Checks the size of a row against the changelog's limit.
    fn fits(&self, key: &[u8], value: &[u8]) -> Result<(), Rejected> {
        let limits = self.limits.as_ref();
        limits.map_or(Ok(()), |limits| limits.check_row(key, value))
    }

    /// Whether a further letter of a record may repeat its headers and key.
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
            // The first letter has all headers, whatever their size.
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

    /// Drops the outputs since the mark. Returns false if state was changed too, which only an abort can revert.
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

fn unencodable(table: &str, why: &CodecError) -> Rejected {
    Rejected::new(
        "invalid_state",
        format!("its row of the table `{table}` cannot be written: {why}"),
    )
}

impl Context<'_> {
    /// The input partition.
    pub fn partition(&self) -> u32 {
        self.space.partition
    }

    /// The time at which processing of the transaction began, by the lane's clock. Emitted records are written at this time or later.
    pub fn now(&self) -> Millis {
        self.now
    }

    /// Emits a record to the partition of its key. If its topic does not accept its size, the transaction is aborted, and the input
    /// becomes a dead letter `record_too_large` without any of its outputs and changes.
    pub fn emit(&mut self, topic: &Arc<str>, record: Record) {
        self.output(topic, None, record);
    }

    /// As [`Context::emit`], to the partition number of the input; both topics must have the same number of partitions.
    pub fn emit_here(&mut self, topic: &Arc<str>, record: Record) {
        self.output(topic, Some(self.space.partition), record);
    }

    /// As [`Context::emit`], to the given partition, independent of the record's key.
    pub fn emit_to(&mut self, topic: &Arc<str>, partition: u32, record: Record) {
        self.output(topic, Some(partition), record);
    }

    /// As [`Context::emit`], but returns a rejection if the topic does not accept the size. Called before the transform changes its own
    /// memory, it avoids an aborted transaction.
    pub fn try_emit(&mut self, topic: &Arc<str>, record: Record) -> Result<(), Rejected> {
        self.try_output(topic, None, record)
    }

    /// As [`Context::try_emit`], to the partition of the input.
    pub fn try_emit_here(&mut self, topic: &Arc<str>, record: Record) -> Result<(), Rejected> {
        self.try_output(topic, Some(self.space.partition), record)
    }

    fn output(&mut self, topic: &Arc<str>, partition: Option<u32>, record: Record) {
        let tried = self.try_output(topic, partition, record);
        self.gathered.note(tried);
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
                // Each output fits on its own: the input is rejected as a whole.
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

    /// Writes a dead letter for a part of the record, and continues.
    pub fn reject(&mut self, rejected: Rejected) {
        self.gathered.rejected.push(rejected);
    }

    /// Writes a dead letter for a record that is not the input, and continues.
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

    /// Writes a dead letter for a timer, with the timer's key and no value.
    pub fn reject_timer(&mut self, timer: Timer<'_>, rejected: Rejected) {
        let key = Bytes::copy_from_slice(timer.key);
        self.gathered.dead_timers.push((key, timer.due, rejected));
    }

    /// The value of a key, including uncommitted changes of this transaction.
    pub fn get<K: Key, V: Value>(
        &mut self,
        table: &Table<K, V>,
        key: &(impl AsKey<K> + ?Sized),
    ) -> Result<Option<V>, StateError> {
        let Gathered {
            key: row, writes, ..
        } = &mut *self.gathered;
        table.stored_key(key, row);
        let value = match writes.get(row) {
            Some(value) => value,
            None => self.store.get(self.space, row)?,
        };
        value.map(|value| table.value(row, value)).transpose()
    }

    /// All rows of a table, ordered by key, including uncommitted changes of this transaction.
    pub fn scan<K: Key, V: Value>(
        &mut self,
        table: &Table<K, V>,
    ) -> Result<Vec<(K, V)>, StateError> {
        table.all(&mut self.gathered.key);
        self.rows(table)
    }

    /// As [`Context::scan`], for rows whose keys begin with these elements: `cx.scan_prefix(&STEPS, &run)` if a key of `STEPS` is a run
    /// and a number.
    pub fn scan_prefix<K: Key, V: Value>(
        &mut self,
        table: &Table<K, V>,
        prefix: &(impl PrefixOf<K> + ?Sized),
    ) -> Result<Vec<(K, V)>, StateError> {
        table.stored_prefix(prefix, &mut self.gathered.key);
        self.rows(table)
    }

    /// The rows whose stored keys begin with the content of the key buffer.
    fn rows<K: Key, V: Value>(&mut self, table: &Table<K, V>) -> Result<Vec<(K, V)>, StateError> {
        let Gathered { key, writes, .. } = &mut *self.gathered;
        let rows = writes.scan(self.store, self.space, key)?;
        rows.into_iter().map(|row| table.row(row)).collect()
    }

    /// Sets a key. A transaction writes one row and one changelog record per key, however often it is set. If the changelog does not
    /// accept the row's size, or the value cannot be encoded, the input becomes a dead letter, as with [`Context::emit`].
    pub fn put<K: Key, V: Value>(
        &mut self,
        table: &Table<K, V>,
        key: &(impl AsKey<K> + ?Sized),
        value: &V,
    ) {
        if let Err(rejected) = self.try_put(table, key, value) {
            self.gathered.writes.refuse();
            self.gathered.note(Err(rejected));
        }
    }

    /// As [`Context::put`], but returns a rejection if the row cannot be written, as [`Context::try_emit`] does.
    pub fn try_put<K: Key, V: Value>(
        &mut self,
        table: &Table<K, V>,
        key: &(impl AsKey<K> + ?Sized),
        value: &V,
    ) -> Result<(), Rejected> {
        let gathered = &mut *self.gathered;
        table.stored_key(key, &mut gathered.key);
        gathered.value.clear();
        let value = value
            .to_row(&mut gathered.value)
            .map_err(|why| unencodable(table.name(), &why))?;
        gathered.fits(&gathered.key, &value)?;
        gathered.bytes += gathered.key.len() + value.len();
        gathered.writes.put_borrowed(&gathered.key, value);
        Ok(())
    }

    /// Deletes a key.
    pub fn delete<K: Key, V: Value>(
        &mut self,
        table: &Table<K, V>,
        key: &(impl AsKey<K> + ?Sized),
    ) {
        let gathered = &mut *self.gathered;
        table.stored_key(key, &mut gathered.key);
        gathered.note(gathered.fits(&gathered.key, &[]));
        gathered.writes.delete_borrowed(&gathered.key);
    }

    /// Adds changes that were prepared elsewhere, such as those of a [`crate::state::Window`].
    pub fn add_changes(&mut self, changes: Changes) {
        for change in changes.0.iter().filter(|change| change.logged) {
            let value = change.value.as_deref().unwrap_or_default();
            self.gathered.note(self.gathered.fits(&change.key, value));
        }
        self.gathered.writes.add(changes);
    }

    /// Sets a timer, identified by its key and time; to move one, cancel it first. It fires once, not before `due`, and after all records
    /// that were in the input partition by then.
    pub fn set_timer(&mut self, key: impl Into<Bytes>, due: Millis) {
        let key = key.into();
        // Its row has a prefix and the time beside the key.
        self.gathered.note(self.gathered.fits(&key, &[0; 9]));
        self.timers.set(key, due, &mut self.gathered.writes);
    }

    /// Cancels a timer.
    pub fn cancel_timer(&mut self, key: impl Into<Bytes>, due: Millis) {
        self.timers
            .cancel(&key.into(), due, &mut self.gathered.writes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Versioned;

    #[derive(PartialEq, Debug)]
    struct Step(u8);

    impl Versioned for Step {
        const VERSION: u8 = 1;

        fn encode(&self, out: &mut Vec<u8>) -> Result<(), CodecError> {
            if self.0 == 0 {
                return Err(CodecError::new("it is zero"));
            }
            out.push(self.0);
            Ok(())
        }

        fn decode(_: u8, bytes: &[u8]) -> Result<Self, CodecError> {
            let value = bytes.first().copied();
            value.map(Self).ok_or_else(|| CodecError::new("it ends"))
        }
    }

    const STEPS: Table<(String, u32), Step> = Table::new("steps", b'p');
    const OTHERS: Table<(String, u32), Step> = Table::new("others", b'q');

    /// Runs `work` in a transaction on `store`; returns the results.
    fn transaction(store: &StateStore, work: impl FnOnce(&mut Context<'_>)) -> Gathered {
        let space = Space::new("p", 0);
        let mut gathered = Gathered::default();
        work(&mut Context {
            space: &space,
            store,
            timers: &mut Timers::load(store, &space).unwrap(),
            gathered: &mut gathered,
            now: Millis(0),
        });
        let changes = gathered.writes.take(&space);
        store.apply(&changes, &[]).unwrap();
        gathered
    }

    #[test]
    fn a_transaction_reads_what_it_has_written_and_what_was_committed() {
        let store = StateStore::in_memory();
        transaction(&store, |cx| {
            for (run, step) in [("a", 1), ("a", 300), ("ab", 1), ("b", 1)] {
                cx.put(&STEPS, &(run, step), &Step(1));
                cx.put(&OTHERS, &(run, step), &Step(9));
            }
        });
        transaction(&store, |cx| {
            cx.put(&STEPS, &("a", 2), &Step(2));
            cx.put(&STEPS, &("a", 300), &Step(3));
            cx.delete(&STEPS, &("a", 1));
            assert_eq!(cx.get(&STEPS, &("a", 1)).unwrap(), None);
            assert_eq!(cx.get(&STEPS, &("a", 300)).unwrap(), Some(Step(3)));
            assert_eq!(cx.get(&STEPS, &("b", 1)).unwrap(), Some(Step(1)));
            let key = |step| ("a".to_owned(), step);
            let steps = cx.scan_prefix(&STEPS, "a").unwrap();
            assert_eq!(steps, [(key(2), Step(2)), (key(300), Step(3))]);
            assert_eq!(cx.scan(&STEPS).unwrap().len(), 4);
        });
    }

    #[test]
    fn what_cannot_be_encoded_fails_the_input_or_is_refused() {
        let mut gathered = transaction(&StateStore::in_memory(), |cx| {
            let refused = cx.try_put(&STEPS, &("a", 1), &Step(0)).unwrap_err();
            assert_eq!(refused.code, "invalid_state");
            assert_eq!(cx.gathered.writes.count(), 0);
            // The transform assumes success, so the transaction must be aborted.
            cx.put(&STEPS, &("a", 1), &Step(0));
            assert_eq!(cx.gathered.writes.count(), 1);
        });
        let noted = gathered.take_oversize().unwrap();
        assert_eq!(
            noted.message,
            "its row of the table `steps` cannot be written: it is zero"
        );
    }

    #[test]
    fn a_row_that_cannot_be_decoded_is_named() {
        let store = StateStore::in_memory();
        let mut changes = Changes::default();
        changes.put(&Space::new("p", 0), &b"spa\0\0\0\0\0\x01"[..], &[1][..]);
        store.apply(&changes, &[]).unwrap();
        transaction(&store, |cx| {
            let error = cx.get(&STEPS, &("a", 1)).unwrap_err();
            let scanned = cx.scan(&STEPS).unwrap_err();
            assert_eq!(error.to_string(), scanned.to_string());
            assert_eq!(
                error.to_string(),
                "row a\\x00\\x00\\x00\\x00\\x00\\x01 of the table `steps` cannot be read: it ends"
            );
        });
    }
}
