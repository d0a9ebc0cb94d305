//! Variable-length integers: unsigned LEB128, seven bits a byte with the lowest first, and zigzag for signed ones. The same
//! bytes are in Avro's binary encoding, in Kafka's record batches, in batches of the embedded log and in rows of keyed state.

use bytes::BufMut;

/// The most bytes that an integer of 64 bits takes.
const MAX_BYTES: usize = 10;

/// Bytes that are no varint of 64 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum VarintError {
    /// The input ends within it.
    #[error("the input ends within a number of variable length")]
    Truncated,
    /// It goes on after 10 bytes.
    #[error("a number of variable length has more than {MAX_BYTES} bytes")]
    TooLong,
}

/// Appends an unsigned integer, 1 to 10 bytes.
#[inline]
pub fn put(mut value: u64, out: &mut impl BufMut) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Appends a signed integer in zigzag, 1 to 10 bytes.
#[inline]
pub fn put_zigzag(value: i64, out: &mut impl BufMut) {
    put(((value << 1) ^ (value >> 63)) as u64, out);
}

/// Reads an unsigned integer off the front of `bytes`; after an error, what was looked at is gone from the front. A longer form
/// than needed is taken, as Avro and Kafka do; bits beyond the 64th are dropped.
#[inline]
pub fn take(bytes: &mut &[u8]) -> Result<u64, VarintError> {
    match bytes.split_first() {
        // Most are one byte.
        Some((byte, rest)) if *byte < 0x80 => {
            *bytes = rest;
            Ok(u64::from(*byte))
        }
        _ => take_long(bytes),
    }
}

/// Reads a signed integer in zigzag off the front of `bytes`; else as [`take`].
#[inline]
pub fn take_zigzag(bytes: &mut &[u8]) -> Result<i64, VarintError> {
    let value = take(bytes)?;
    Ok((value >> 1) as i64 ^ -((value & 1) as i64))
}

fn take_long(bytes: &mut &[u8]) -> Result<u64, VarintError> {
    let mut value = 0;
    for number in 0..MAX_BYTES {
        let (byte, rest) = bytes.split_first().ok_or(VarintError::Truncated)?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << (7 * number);
        if *byte < 0x80 {
            return Ok(value);
        }
    }
    Err(VarintError::TooLong)
}

#[cfg(test)]
mod tests {
    use apache_avro::writer::datum::GenericDatumWriter;
    use proptest::prelude::*;

    use super::*;

    /// Numbers of all lengths alike.
    fn value() -> impl Strategy<Value = u64> {
        (any::<u64>(), 0u32..64).prop_map(|(value, shift)| value >> shift)
    }

    fn unsigned(value: u64) -> Vec<u8> {
        let mut out = Vec::new();
        put(value, &mut out);
        out
    }

    /// As the Avro library writes it.
    fn by_avro(value: i64) -> Vec<u8> {
        let schema = apache_avro::Schema::Long;
        let writer = GenericDatumWriter::builder(&schema).build().unwrap();
        writer.write_value_to_vec(value).unwrap()
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(value in value(), after in prop::collection::vec(any::<u8>(), 0..3)) {
            let mut bytes = unsigned(value);
            prop_assert_eq!(bytes.len(), (64 - (value | 1).leading_zeros() as usize).div_ceil(7));
            bytes.extend(&after);
            let mut rest = &bytes[..];
            prop_assert_eq!(take(&mut rest), Ok(value));
            prop_assert_eq!(rest, &after[..]);
        }

        #[test]
        fn signed_is_the_zigzag_of_avro(value in value(), negative: bool) {
            let value = if negative { !(value as i64) } else { value as i64 };
            let mut bytes = Vec::new();
            put_zigzag(value, &mut bytes);
            prop_assert_eq!(&bytes, &by_avro(value));
            prop_assert_eq!(take_zigzag(&mut &bytes[..]), Ok(value));
        }

        #[test]
        fn a_cut_one_is_truncated(value in value()) {
            let bytes = unsigned(value);
            for length in 0..bytes.len() {
                let mut rest = &bytes[..length];
                prop_assert_eq!(take(&mut rest), Err(VarintError::Truncated));
                prop_assert!(rest.is_empty());
            }
        }

        /// A longer form with zeros at its end is the same number, up to ten bytes; the eleventh is too much.
        #[test]
        fn an_overlong_one_is_read_up_to_ten_bytes(value in 0u64..(1 << 56), more in 1usize..4) {
            let mut bytes = unsigned(value);
            while bytes.len() < MAX_BYTES {
                *bytes.last_mut().unwrap() |= 0x80;
                bytes.push(0);
                prop_assert_eq!(take(&mut &bytes[..]), Ok(value));
            }
            for _ in 0..more {
                *bytes.last_mut().unwrap() |= 0x80;
                bytes.push(0);
            }
            let mut rest = &bytes[..];
            prop_assert_eq!(take(&mut rest), Err(VarintError::TooLong));
            prop_assert_eq!(rest.len(), more);
        }

        #[test]
        fn any_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..30)) {
            let mut rest = &bytes[..];
            while take(&mut rest).is_ok() {}
            prop_assert!(rest.len() <= bytes.len());
        }
    }

    #[test]
    fn known_bytes() {
        assert_eq!(unsigned(0), [0]);
        assert_eq!(unsigned(127), [0x7f]);
        assert_eq!(unsigned(300), [0xac, 0x02]);
        assert_eq!(unsigned(u64::MAX), [[0xff; 9].as_slice(), &[1]].concat());
        // Of the tenth byte one bit counts.
        let beyond = [[0xff; 9].as_slice(), &[0x7f]].concat();
        assert_eq!(take(&mut &beyond[..]), Ok(u64::MAX));
        for (value, bytes) in [(0, [0]), (-1, [1]), (1, [2]), (-64, [0x7f])] {
            let mut out = Vec::new();
            put_zigzag(value, &mut out);
            assert_eq!(out, bytes);
        }
    }
}
