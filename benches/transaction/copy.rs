//! The lane that is measured: it copies its input.

use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

use bytes::Bytes;
use omnilink::{
    log::{Fetched, Record},
    state::{Space, StateError, StateStore},
    stream::{Context, Failure, Processor, Transform},
};

/// Stamps are nanoseconds since this moment of the process.
pub fn stamp(base: Instant) -> [u8; 8] {
    (base.elapsed().as_nanos() as u64).to_be_bytes()
}

/// A record whose value begins with two stamps: when it was sent and, left free here, when it was processed.
pub fn stamped(base: Instant, n: usize, bytes: usize) -> Record {
    let mut value = vec![b'x'; bytes];
    value[..8].copy_from_slice(&stamp(base));
    Record {
        key: Some(n.to_string().into()),
        value: Some(value.into()),
        headers: Vec::new(),
    }
}

/// Both stamps of a copy.
pub fn stamps(value: &Bytes) -> (u64, u64) {
    let at = |from: usize| u64::from_be_bytes(value[from..from + 8].try_into().unwrap());
    (at(0), at(8))
}

pub struct Copy {
    pub name: &'static str,
    pub input: Arc<str>,
    pub output: Arc<str>,
    /// Stamp the copies, from here.
    pub base: Option<Instant>,
    /// When the first record was processed.
    pub first: Arc<OnceLock<Instant>>,
}

impl Processor for Copy {
    fn name(&self) -> &str {
        self.name
    }
    fn topics(&self) -> Vec<String> {
        vec![self.input.to_string()]
    }
    fn transform(&self, _: &Space, _: &StateStore) -> Result<Box<dyn Transform>, StateError> {
        Ok(Box::new(One {
            output: Arc::clone(&self.output),
            base: self.base,
            first: Arc::clone(&self.first),
        }))
    }
}

struct One {
    output: Arc<str>,
    base: Option<Instant>,
    first: Arc<OnceLock<Instant>>,
}

impl Transform for One {
    fn process(&mut self, input: &Fetched, cx: &mut Context<'_>) -> Result<(), Failure> {
        self.first.get_or_init(Instant::now);
        let mut record = input.record.clone();
        if let (Some(base), Some(value)) = (self.base, &record.value) {
            let mut value = value.to_vec();
            value[8..16].copy_from_slice(&stamp(base));
            record.value = Some(value.into());
        }
        cx.emit_here(&self.output, record);
        Ok(())
    }
}
