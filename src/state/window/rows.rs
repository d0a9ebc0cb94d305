//! The keys of a window's rows.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::state::StateError;

pub(super) const HASHES: u8 = b'w';
pub(super) const BEGUN_RUN: u8 = b'b';
pub(super) const PAGE: u8 = b'p';
pub(super) const RUN: u8 = b'f';
pub(super) const FIRST: u8 = b'r';

/// The key of a row of [`HASHES`], [`BEGUN_RUN`] or [`RUN`]: `number` is a sequence or a run.
pub(super) fn row_key(kind: u8, bucket: u32, number: u64) -> Bytes {
    let mut key = BytesMut::with_capacity(13);
    key.put_u8(kind);
    key.put_u32(bucket);
    key.put_u64(number);
    key.freeze()
}

/// Bucket and number of a key that [`row_key`] made.
pub(super) fn parse_row_key(key: &[u8]) -> Result<(u32, u64), StateError> {
    let mut rest = key.get(1..13).ok_or_else(|| damaged(key))?;
    Ok((rest.get_u32(), rest.get_u64()))
}

pub(super) fn page_key(bucket: u32, run: u64, page: u32) -> Bytes {
    let mut key = BytesMut::with_capacity(17);
    key.put_u8(PAGE);
    key.put_u32(bucket);
    key.put_u64(run);
    key.put_u32(page);
    key.freeze()
}

/// The key of the row with a bucket's first sequence.
pub(super) fn first_key(bucket: u32) -> Bytes {
    let mut key = BytesMut::with_capacity(5);
    key.put_u8(FIRST);
    key.put_u32(bucket);
    key.freeze()
}

/// The bucket of a key that [`first_key`] made.
pub(super) fn parse_first_key(key: &[u8]) -> Result<u32, StateError> {
    let bucket = key.get(1..).and_then(|bucket| bucket.try_into().ok());
    let bucket = bucket.ok_or_else(|| damaged(key))?;
    Ok(u32::from_be_bytes(bucket))
}

pub(super) fn damaged(key: &[u8]) -> StateError {
    StateError::damaged(format!("row {} of a window", key.escape_ascii()))
}
