//! What every module needs: ids, clock, backoff, records, and text that is safe to print.

pub mod backoff;
pub mod clock;
pub mod id;
pub mod printable;
pub mod record;
