//! Events as lines of JSON.

use std::io::Write;

use super::{Sink, SinkError};
use crate::{
    base::clock::Millis,
    envelope::{Event, Place, write_line},
    log::Fetched,
};

/// What gathers before it is written.
const GATHERED: usize = 64 * 1024;

/// Writes one CloudEvent a line.
pub struct Lines<W> {
    out: W,
    topic: String,
    gathered: Vec<u8>,
}

impl<W: Write> Lines<W> {
    /// For events of the topic `events`, whose whole name this is.
    pub fn new(out: W, topic: &str) -> Self {
        Self {
            out,
            topic: topic.to_owned(),
            gathered: Vec::with_capacity(GATHERED + 4096),
        }
    }

    fn write(&mut self) -> Result<(), SinkError> {
        self.out.write_all(&self.gathered)?;
        self.gathered.clear();
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
        let place = Place {
            topic: &self.topic,
            partition: record.partition,
            offset: record.offset,
        };
        write_line(event, Some(place), &mut self.gathered);
        self.gathered.push(b'\n');
        if self.gathered.len() >= GATHERED {
            self.write()?;
        }
        Ok(())
    }

    fn idle(&mut self) -> Result<(), SinkError> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        self.write()?;
        Ok(self.out.flush()?)
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        self.write()?;
        Ok(self.out.flush()?)
    }
}
