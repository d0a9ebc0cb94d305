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
    state::{
        AsKey, Changes, CodecError, Key, PrefixOf, Space, StateError, StateStore, Table, Value,
    },
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

    /// Why an operator holds the processor, for people; `None`: nobody does. While it is held its lanes keep their partitions, and
    /// take no record and fire no timer. Called before each poll, so it must be cheap.
    fn held(&self) -> Option<String> {
        None
    }
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
    /// The first thing that could not be written, mostly for its size, since this was last taken.
    oversize: Option<Rejected>,
    /// Bytes of outputs, of rows of state that were put, and of dead letters.
    pub(super) bytes: usize,
    /// The same when the record in hand began.
    begun: usize,
    /// Of the record that the last letter is about: where it lies, and bytes of headers and keys that further letters repeat.
    repeated: Option<((u32, u64), usize)>,
    /// Where keys and values of rows are encoded, one after the other.
    key: Vec<u8>,
    value: Vec<u8>,
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

    /// What could not be written since the last call.
    pub(super) fn take_oversize(&mut self) -> Option<Rejected> {
        self.oversize.take()
    }

    /// Notes what could not be written: it fails the input.
    fn note(&mut self, written: Result<(), Rejected>) {
        if let Err(rejected) = written {
            self.oversize.get_or_insert(rejected);
        }
    }

    /// Whether the changelog takes a row.
    fn fits(&self, key: &[u8], value: &[u8]) -> Result<(), Rejected> {
        let limits = self.limits.as_ref();
        limits.map_or(Ok(()), |limits| limits.check_row(key, value))
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

    /// All rows of a table in the order of their keys, as the open transaction has set them.
    pub fn scan<K: Key, V: Value>(
        &mut self,
        table: &Table<K, V>,
    ) -> Result<Vec<(K, V)>, StateError> {
        table.all(&mut self.gathered.key);
        self.rows(table)
    }

    /// As [`Context::scan`], the rows whose keys begin with these elements: `cx.scan_prefix(&STEPS, &run)` where a key of `STEPS`
    /// is a run and a number.
    pub fn scan_prefix<K: Key, V: Value>(
        &mut self,
        table: &Table<K, V>,
        prefix: &(impl PrefixOf<K> + ?Sized),
    ) -> Result<Vec<(K, V)>, StateError> {
        table.stored_prefix(prefix, &mut self.gathered.key);
        self.rows(table)
    }

    /// The rows whose stored keys begin with what is in the buffer for keys.
    fn rows<K: Key, V: Value>(&mut self, table: &Table<K, V>) -> Result<Vec<(K, V)>, StateError> {
        let Gathered { key, writes, .. } = &mut *self.gathered;
        let rows = writes.scan(self.store, self.space, key)?;
        rows.into_iter().map(|row| table.row(row)).collect()
    }

    /// Sets a key. However often that happens in a transaction, one row is written, and one record of the changelog. Where
    /// the changelog does not take the row, or the value has no encoding, the whole input becomes a dead letter, as with
    /// [`Context::emit`].
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

    /// As [`Context::put`], but refuses what cannot be written, as [`Context::try_emit`] does.
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

    /// Adds changes that the transform made by itself, as a [`crate::state::Window`] does.
    pub fn add_changes(&mut self, changes: Changes) {
        for change in changes.0.iter().filter(|change| change.logged) {
            let value = change.value.as_deref().unwrap_or_default();
            self.gathered.note(self.gathered.fits(&change.key, value));
        }
        self.gathered.writes.add(changes);
    }

    /// Sets a timer, which is named by its key and its time: to move one, cancel it first. It fires once, not before `due`, and
    /// never before what was in the log by then.
    pub fn set_timer(&mut self, key: impl Into<Bytes>, due: Millis) {
        let key = key.into();
        // Its row has a letter and the time beside the key.
        self.gathered.note(self.gathered.fits(&key, &[0; 9]));
        self.timers.set(key, due, &mut self.gathered.writes);
    }

    /// Forgets a timer.
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

    /// Runs `work` in a transaction on `store`; answers what it gathered.
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
            // The transform takes it for done, so the transaction must be aborted.
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
