//! Events as JSON Lines.

use std::io::Write;

use super::{Sink, SinkError};
use crate::{
    base::clock::Millis,
    envelope::{Event, RecordPosition, write_line},
    log::Fetched,
};

/// The output is written when the buffer has this size.
const BUFFER_BYTES: usize = 64 * 1024;

/// A sink that writes one CloudEvent per line, as JSON.
pub struct Lines<W> {
    out: W,
    topic: String,
    buffer: Vec<u8>,
}

impl<W: Write> Lines<W> {
    /// A sink that writes to `out`. `topic` is the full name of the topic `events`.
    pub fn new(out: W, topic: &str) -> Self {
        Self {
            out,
            topic: topic.to_owned(),
            buffer: Vec::with_capacity(BUFFER_BYTES + 4096),
        }
    }

    fn write_buffer(&mut self) -> Result<(), SinkError> {
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

impl<W: Write> Sink for Lines<W> {
    fn event(
        &mut self,
        record: &Fetched,
        event: &Event<'_>,
        _received_at: Millis,
    ) -> Result<(), SinkError> {
        let position = RecordPosition {
            topic: &self.topic,
            partition: record.partition,
            offset: record.offset,
        };
        write_line(event, Some(position), &mut self.buffer);
        self.buffer.push(b'\n');
        if self.buffer.len() >= BUFFER_BYTES {
            self.write_buffer()?;
        }
        Ok(())
    }

    fn idle(&mut self) -> Result<(), SinkError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.write_buffer()?;
        Ok(self.out.flush()?)
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        self.write_buffer()?;
        Ok(self.out.flush()?)
    }
}
