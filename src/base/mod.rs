//! What every module needs: ids, clock, backoff, records, panics, varints, and text that is safe to print.

pub mod backoff;
pub mod clock;
pub(crate) mod hex;
pub mod id;
pub(crate) mod panics;
pub mod printable;
pub mod record;
pub(crate) mod threads;
pub mod varint;
