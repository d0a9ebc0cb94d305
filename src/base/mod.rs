//! What every module needs: ids, clock, backoff, records, panics, varints, text that is safe to print, and
//! what callers may do.

pub mod backoff;
pub mod clock;
pub(crate) mod hex;
pub mod id;
pub(crate) mod panics;
pub mod printable;
pub mod record;
pub mod scopes;
pub(crate) mod threads;
pub mod varint;
