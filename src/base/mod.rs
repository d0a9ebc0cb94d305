//! What every room needs: ids, time, pauses, records, text, panics, numbers of variable length.

pub mod backoff;
pub mod clock;
pub mod id;
pub(crate) mod panics;
pub mod printable;
pub mod record;
pub mod varint;
