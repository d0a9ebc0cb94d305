//! Typed tables over the rows of keyed state: `key` encodes keys so that they sort, `value` encodes values.

mod key;
mod value;

use std::marker::PhantomData;

use bytes::Bytes;

pub use self::{
    key::{AsKey, Key, PrefixOf},
    value::{CodecError, Value, Versioned},
};
use super::{Row, Space, StateError, StateStore};

/// Rows of tables lie under this letter, beside timers (`T`, `t`) and windows (`w`, `b`, `p`, `f`, `r`).
const TABLES: u8 = b's';

/// A table of a processor's keyed state: rows by key, in the order of their keys. A row is stored as `s`, the table's letter and
/// the key.
///
/// A processor declares its tables as constants, each with a letter of its own, and works on them through
/// `omnilink::stream::Context`, which sees what the open transaction has written:
///
/// ```
/// use omnilink::{
///     base::clock::Millis,
///     state::{CodecError, Table, Versioned},
///     stream::{Context, Failure},
/// };
///
/// struct Step {
///     done_at: Millis,
/// }
///
/// impl Versioned for Step {
///     const VERSION: u8 = 1;
///
///     fn encode(&self, out: &mut Vec<u8>) -> Result<(), CodecError> {
///         out.extend_from_slice(&self.done_at.0.to_be_bytes());
///         Ok(())
///     }
///
///     fn decode(_version: u8, bytes: &[u8]) -> Result<Self, CodecError> {
///         let time = bytes.try_into().map_err(|_| CodecError::new("its time is missing"))?;
///         Ok(Self { done_at: Millis(i64::from_be_bytes(time)) })
///     }
/// }
///
/// /// The steps of runs, by run and number.
/// const STEPS: Table<(u64, u32), Step> = Table::new("steps", b's');
///
/// /// How many of a run's steps are done with this one.
/// fn step_done(run: u64, step: u32, cx: &mut Context<'_>) -> Result<usize, Failure> {
///     if cx.get(&STEPS, &(run, step))?.is_none() {
///         let done_at = cx.now();
///         cx.put(&STEPS, &(run, step), &Step { done_at });
///     }
///     Ok(cx.scan_prefix(&STEPS, &run)?.len())
/// }
///
/// fn run_ended(run: u64, cx: &mut Context<'_>) -> Result<(), Failure> {
///     for (key, _) in cx.scan_prefix(&STEPS, &run)? {
///         cx.delete(&STEPS, &key);
///     }
///     Ok(())
/// }
/// ```
///
/// [`Table::get`] and [`Table::scan`] read what is committed, for a transform that is made from its state.
pub struct Table<K, V> {
    name: &'static str,
    letter: u8,
    row: PhantomData<fn() -> (K, V)>,
}

impl<K: Key, V: Value> Table<K, V> {
    /// A table of this name, which errors show, whose rows lie under a letter that no other table of the processor has.
    pub const fn new(name: &'static str, letter: u8) -> Self {
        Self {
            name,
            letter,
            row: PhantomData,
        }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The committed value of a key.
    pub fn get(
        &self,
        store: &StateStore,
        space: &Space,
        key: &(impl AsKey<K> + ?Sized),
    ) -> Result<Option<V>, StateError> {
        let mut stored = Vec::new();
        self.stored_key(key, &mut stored);
        let value = store.get(space, &stored)?;
        value.map(|value| self.value(&stored, value)).transpose()
    }

    /// All committed rows, in the order of their keys.
    pub fn scan(
        &self,
        store: &StateStore,
        space: &Space,
    ) -> impl Iterator<Item = Result<(K, V), StateError>> {
        let rows = store.scan(space, &[TABLES, self.letter]);
        rows.map(|row| self.row(row?))
    }

    /// The stored key of a row, in place of what `out` holds.
    pub(crate) fn stored_key(&self, key: &(impl AsKey<K> + ?Sized), out: &mut Vec<u8>) {
        self.all(out);
        key.encode(out);
    }

    /// What the stored keys of some rows begin with.
    pub(crate) fn stored_prefix(&self, prefix: &(impl PrefixOf<K> + ?Sized), out: &mut Vec<u8>) {
        self.all(out);
        prefix.encode_prefix(out);
    }

    /// What the stored keys of all rows begin with.
    pub(crate) fn all(&self, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&[TABLES, self.letter]);
    }

    /// The value of a stored row.
    pub(crate) fn value(&self, stored_key: &[u8], value: Bytes) -> Result<V, StateError> {
        V::from_row(value).map_err(|why| self.unreadable(stored_key, why))
    }

    /// Key and value of a stored row.
    pub(crate) fn row(&self, (stored_key, value): Row) -> Result<(K, V), StateError> {
        let mut rest = stored_key.get(2..).unwrap_or_default();
        let key = K::decode(&mut rest).filter(|_| rest.is_empty());
        let key = key.ok_or_else(|| {
            self.unreadable(&stored_key, CodecError::new("its key has another form"))
        })?;
        Ok((key, self.value(&stored_key, value)?))
    }

    fn unreadable(&self, stored_key: &[u8], why: CodecError) -> StateError {
        let key = stored_key.get(2..).unwrap_or_default();
        StateError::Row {
            table: self.name,
            key: key.escape_ascii().to_string(),
            why,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Changes;

    #[derive(PartialEq, Debug)]
    struct Count(u32);

    impl Versioned for Count {
        const VERSION: u8 = 2;

        fn encode(&self, out: &mut Vec<u8>) -> Result<(), CodecError> {
            Ok(serde_json::to_writer(out, &self.0)?)
        }

        fn decode(version: u8, bytes: &[u8]) -> Result<Self, CodecError> {
            match version {
                // Was one byte once.
                1 => Ok(Self(bytes[0].into())),
                _ => Ok(Self(serde_json::from_slice(bytes)?)),
            }
        }
    }

    const COUNTS: Table<(String, u32), Count> = Table::new("counts", b'c');
    const NEIGHBOUR: Table<u64, ()> = Table::new("neighbour", b'd');

    fn stored<K: Key, V: Value>(table: &Table<K, V>, key: &impl AsKey<K>, value: &V) -> Row {
        let mut stored_key = Vec::new();
        table.stored_key(key, &mut stored_key);
        let value = value.to_row(&mut Vec::new()).unwrap();
        (stored_key.into(), value)
    }

    fn store(rows: impl IntoIterator<Item = Row>) -> (StateStore, Space) {
        let (store, space) = (StateStore::in_memory(), Space::new("p", 0));
        let mut changes = Changes::default();
        for (key, value) in rows {
            changes.put(&space, key, value);
        }
        store.apply(&changes, &[]).unwrap();
        (store, space)
    }

    #[test]
    fn rows_come_back_in_the_order_of_their_keys() {
        let (store, space) = store([
            stored(&NEIGHBOUR, &7, &()),
            stored(&COUNTS, &("b", 1), &Count(4)),
            stored(&COUNTS, &("a", 256), &Count(3)),
            stored(&COUNTS, &("a", 2), &Count(2)),
        ]);
        let rows: Result<Vec<_>, _> = COUNTS.scan(&store, &space).collect();
        let key = |name: &str, number| (name.to_owned(), number);
        assert_eq!(
            rows.unwrap(),
            [
                (key("a", 2), Count(2)),
                (key("a", 256), Count(3)),
                (key("b", 1), Count(4))
            ]
        );
        let found = COUNTS.get(&store, &space, &("a", 256)).unwrap();
        assert_eq!(found, Some(Count(3)));
        assert_eq!(COUNTS.get(&store, &space, &("a", 3)).unwrap(), None);
    }

    #[test]
    fn rows_of_earlier_versions_are_read_and_what_cannot_be_read_is_named() {
        let key = |number: u32| stored(&COUNTS, &("a", number), &Count(0)).0;
        let (store, space) = store([
            (key(1), Bytes::from_static(&[1, 9])),
            (key(2), Bytes::from_static(b"\x0312")),
            (key(3), Bytes::from_static(b"\x02x")),
            (key(4), Bytes::new()),
        ]);
        let get = |number: u32| COUNTS.get(&store, &space, &("a", number));
        assert_eq!(get(1).unwrap(), Some(Count(9)));
        for (number, why) in [
            (2, "its format has version 3, and this program reads 1 to 2"),
            (3, "expected value at line 1 column 1"),
            (4, "it is empty"),
        ] {
            assert_eq!(
                get(number).unwrap_err().to_string(),
                format!(
                    "row a\\x00\\x00\\x00\\x00\\x00\\x0{number} of the table `counts` cannot be read: {why}"
                )
            );
        }
    }

    #[test]
    fn a_key_of_another_form_is_refused() {
        let (store, space) = store([(Bytes::from_static(b"sd\0\0"), Bytes::new())]);
        let error = NEIGHBOUR.scan(&store, &space).next().unwrap().unwrap_err();
        assert_eq!(
            error.to_string(),
            "row \\x00\\x00 of the table `neighbour` cannot be read: its key has another form"
        );
    }
}
