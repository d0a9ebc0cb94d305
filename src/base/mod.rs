//! What every room needs: ids, time, pauses, records, numbers of variable length.

pub mod backoff;
pub mod clock;
pub mod id;
pub mod printable;
pub mod record;
pub mod varint;
