//! Keys as bytes that sort as the keys do: a scan returns rows in the order of their keys, and rows whose keys begin alike lie
//! side by side.
//!
//! | type | bytes |
//! |---|---|
//! | `u8`, `u32`, `u64` | big-endian |
//! | `i64`, [`Millis`] | big-endian, with the sign bit flipped |
//! | `[u8; N]`, [`Identity`] | as they are |
//! | `String`, [`Bytes`], [`Tenant`] | each 0x00 becomes 0x00 0x01; 0x00 0x00 ends them |
//! | a tuple | its elements, one after the other |
//!
//! No key is a prefix of another key of the same type, and an element is never read on into the next one.

use bytes::Bytes;

use crate::base::{
    clock::Millis,
    id::{Identity, Tenant},
};

/// What may be the key of a [`super::Table`]. Keys sort as their bytes do.
pub trait Key: AsKey<Self> + Sized {
    /// Takes a key off the front of `bytes`; `None`: they do not begin with one.
    fn decode(bytes: &mut &[u8]) -> Option<Self>;
}

/// What encodes as a key of type `K`: the key itself, or a borrowed form such as `str` for `String`.
pub trait AsKey<K> {
    /// Appends the bytes of the key.
    fn encode(&self, out: &mut Vec<u8>);
}

/// The first elements of a key that is a tuple: `RunId` of `(RunId, u32)`.
pub trait PrefixOf<K> {
    /// Appends the bytes that all such keys begin with.
    fn encode_prefix(&self, out: &mut Vec<u8>);
}

/// Marks the end of a text.
const END: [u8; 2] = [0, 0];
/// Stands for 0x00 within a text; sorts after [`END`], so that a text sorts before those that it is the beginning of.
const ZERO: [u8; 2] = [0, 1];

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

fn put_text(text: &[u8], out: &mut Vec<u8>) {
    let mut rest = text;
    while let Some(zero) = memchr::memchr(0, rest) {
        out.extend_from_slice(&rest[..zero]);
        out.extend_from_slice(&ZERO);
        rest = &rest[zero + 1..];
    }
    out.extend_from_slice(rest);
    out.extend_from_slice(&END);
}

fn take_text(bytes: &mut &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    loop {
        let zero = memchr::memchr(0, bytes)?;
        text.extend_from_slice(&bytes[..zero]);
        *bytes = &bytes[zero..];
        match take(bytes)? {
            END => return Some(text),
            ZERO => text.push(0),
            _ => return None,
        }
    }
}

macro_rules! unsigned {
    ($($type:ty),*) => {$(
        impl AsKey<$type> for $type {
            fn encode(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_be_bytes());
            }
        }

        impl Key for $type {
            fn decode(bytes: &mut &[u8]) -> Option<Self> {
                take(bytes).map(Self::from_be_bytes)
            }
        }
    )*};
}

unsigned!(u8, u32, u64);

impl AsKey<i64> for i64 {
    fn encode(&self, out: &mut Vec<u8>) {
        (*self as u64 ^ 1 << 63).encode(out);
    }
}

impl Key for i64 {
    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        u64::decode(bytes).map(|number| (number ^ 1 << 63) as Self)
    }
}

impl AsKey<Millis> for Millis {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }
}

impl Key for Millis {
    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        i64::decode(bytes).map(Self)
    }
}

impl<const N: usize> AsKey<[u8; N]> for [u8; N] {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
}

impl<const N: usize> Key for [u8; N] {
    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        take(bytes)
    }
}

impl AsKey<Identity> for Identity {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }
}

impl Key for Identity {
    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        take(bytes).map(Self)
    }
}

impl AsKey<String> for str {
    fn encode(&self, out: &mut Vec<u8>) {
        put_text(self.as_bytes(), out);
    }
}

impl AsKey<String> for String {
    fn encode(&self, out: &mut Vec<u8>) {
        self.as_str().encode(out);
    }
}

impl Key for String {
    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        Self::from_utf8(take_text(bytes)?).ok()
    }
}

impl AsKey<Bytes> for [u8] {
    fn encode(&self, out: &mut Vec<u8>) {
        put_text(self, out);
    }
}

impl AsKey<Bytes> for Bytes {
    fn encode(&self, out: &mut Vec<u8>) {
        put_text(self, out);
    }
}

impl Key for Bytes {
    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        take_text(bytes).map(Self::from)
    }
}

impl AsKey<Tenant> for Tenant {
    fn encode(&self, out: &mut Vec<u8>) {
        put_text(self.as_str().as_bytes(), out);
    }
}

impl Key for Tenant {
    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        Self::new(&String::decode(bytes)?).ok()
    }
}

impl<K, Q: AsKey<K> + ?Sized> AsKey<K> for &Q {
    fn encode(&self, out: &mut Vec<u8>) {
        (**self).encode(out);
    }
}

impl<A, B, P: AsKey<A>, Q: AsKey<B>> AsKey<(A, B)> for (P, Q) {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
        self.1.encode(out);
    }
}

impl<A: Key, B: Key> Key for (A, B) {
    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        Some((A::decode(bytes)?, B::decode(bytes)?))
    }
}

impl<A, B, C, P: AsKey<A>, Q: AsKey<B>, R: AsKey<C>> AsKey<(A, B, C)> for (P, Q, R) {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
        self.1.encode(out);
        self.2.encode(out);
    }
}

impl<A: Key, B: Key, C: Key> Key for (A, B, C) {
    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        Some((A::decode(bytes)?, B::decode(bytes)?, C::decode(bytes)?))
    }
}

impl<A: Key, B> PrefixOf<(A, B)> for A {
    fn encode_prefix(&self, out: &mut Vec<u8>) {
        self.encode(out);
    }
}

impl<B> PrefixOf<(String, B)> for str {
    fn encode_prefix(&self, out: &mut Vec<u8>) {
        self.encode(out);
    }
}

impl<A: Key, B, C> PrefixOf<(A, B, C)> for A {
    fn encode_prefix(&self, out: &mut Vec<u8>) {
        self.encode(out);
    }
}

impl<B, C> PrefixOf<(String, B, C)> for str {
    fn encode_prefix(&self, out: &mut Vec<u8>) {
        self.encode(out);
    }
}

impl<A: Key, B: Key, C> PrefixOf<(A, B, C)> for (A, B) {
    fn encode_prefix(&self, out: &mut Vec<u8>) {
        self.encode(out);
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use proptest::prelude::*;

    use super::*;

    fn encoded<K>(key: &(impl AsKey<K> + ?Sized)) -> Vec<u8> {
        let mut out = Vec::new();
        key.encode(&mut out);
        out
    }

    /// Keys sort as their bytes do, none is the beginning of another one, and each is read back from what more may follow.
    fn check<K: Key + Ord + Debug>(one: &K, two: &K) -> Result<(), TestCaseError> {
        let (first, second) = (encoded(one), encoded(two));
        prop_assert_eq!(first.cmp(&second), one.cmp(two));
        prop_assert_eq!(first.starts_with(&second), one == two);
        let more = [&first[..], &second].concat();
        let mut rest = &more[..];
        let read = K::decode(&mut rest);
        prop_assert_eq!(read.as_ref(), Some(one));
        prop_assert_eq!(rest, second);
        for cut in 0..first.len() {
            prop_assert!(K::decode(&mut &first[..cut]).is_none());
        }
        Ok(())
    }

    /// Texts that often begin alike, and have what ends a text within.
    fn text() -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(vec!['\0', '\u{1}', 'a', 'ÿ']), 0..5)
            .prop_map(String::from_iter)
    }

    fn raw() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(prop::sample::select(vec![0, 1, 2, 0xff]), 0..5).prop_map(Bytes::from)
    }

    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![any::<u64>(), 0..3u64, Just(u64::MAX)]
    }

    type Pair = (u64, u64);

    proptest! {
        #[test]
        fn numbers_sort(one: Pair, two: Pair, a: i64, b: i64) {
            check(&one, &two)?;
            check(&(one.0 as u32, one.1 as u8), &(one.0 as u32, two.1 as u8))?;
            check(&Millis(a), &Millis(b))?;
            check(&Identity([one.0 as u8; 16]), &Identity([two.0 as u8; 16]))?;
        }

        #[test]
        fn tuples_sort(
            one in (text(), number(), text()),
            two in (text(), number(), text()),
            raws in ((raw(), raw()), (raw(), raw())),
        ) {
            check(&raws.0, &raws.1)?;
            check(&(one.0.clone(), one.2.clone()), &(two.0.clone(), two.2.clone()))?;
            check(&one, &two)?;
            check(&(one.1, one.0.clone()), &(one.1, two.0.clone()))?;
        }

        #[test]
        fn a_prefix_has_the_keys_that_begin_with_it_and_no_others(
            one in (text(), number(), text()),
            two in (text(), number(), text()),
        ) {
            let key = encoded::<(String, u64, String)>(&two);
            let mut prefix = Vec::new();
            PrefixOf::<(String, u64, String)>::encode_prefix(one.0.as_str(), &mut prefix);
            prop_assert_eq!(key.starts_with(&prefix), one.0 == two.0);
            prefix.clear();
            PrefixOf::<(String, u64, String)>::encode_prefix(&(one.0.clone(), one.1), &mut prefix);
            prop_assert_eq!(key.starts_with(&prefix), (&one.0, one.1) == (&two.0, two.1));
        }

        #[test]
        fn whatever_bytes_are_read_it_ends(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut rest = &bytes[..];
            if let Some(key) = <(String, u32, Bytes)>::decode(&mut rest) {
                let read = bytes.len() - rest.len();
                prop_assert_eq!(encoded::<(String, u32, Bytes)>(&key), &bytes[..read]);
            }
        }
    }

    #[test]
    fn the_bytes_of_keys_stay_as_they_are() {
        let tenant = Tenant::new("acme").unwrap();
        let bytes = encoded::<(Tenant, u32, String)>(&(&tenant, 7, "a\0b"));
        assert_eq!(bytes, b"acme\0\0\0\0\0\x07a\0\x01b\0\0");
        assert_eq!(
            encoded::<Millis>(&Millis(-1)),
            b"\x7f\xff\xff\xff\xff\xff\xff\xff"
        );
        assert_eq!(encoded::<(u8, [u8; 2])>(&(1, [2, 0])), [1, 2, 0]);
    }
}
