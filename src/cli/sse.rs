//! A parser of server-sent events (the HTML standard, section 9.2).

/// An event.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Event {
    /// Its id, for `Last-Event-ID`.
    pub(super) id: Option<String>,
    /// The `data` field.
    pub(super) data: String,
}

/// The maximum length of an incomplete line, in bytes.
const LINE_MAX: usize = 16 << 20;

/// Parses events from the chunks of a body.
#[derive(Default)]
pub(super) struct Parser {
    rest: Vec<u8>,
    open: Event,
    has_data: bool,
}

impl Parser {
    /// Adds a chunk and returns the events that it completes. `Err`: a line is too long.
    pub(super) fn push(&mut self, piece: &[u8]) -> anyhow::Result<Vec<Event>> {
        self.rest.extend_from_slice(piece);
        let mut events = Vec::new();
        let mut begin = 0;
        while let Some(length) = memchr::memchr(b'\n', &self.rest[begin..]) {
            let line = &self.rest[begin..begin + length];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let line = String::from_utf8_lossy(line).into_owned();
            begin += length + 1;
            self.line(&line, &mut events);
        }
        self.rest.drain(..begin);
        anyhow::ensure!(
            self.rest.len() <= LINE_MAX,
            "a line of the response is too long"
        );
        Ok(events)
    }

    fn line(&mut self, line: &str, events: &mut Vec<Event>) {
        if line.is_empty() {
            let event = std::mem::take(&mut self.open);
            if std::mem::take(&mut self.has_data) {
                events.push(event);
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.open.data.push('\n');
                }
                self.open.data.push_str(value);
            }
            "id" => self.open.id = Some(value.to_owned()),
            // Comments, and unused fields.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_any_pieces() {
        let text = ": hello\n\nid: 1\nevent: run_started\ndata: {\"a\":\ndata: 1}\n\nretry: 5\n\nid:2\r\ndata:x\r\n\r\ndata: cut";
        let event = |id: &str, data: &str| Event {
            id: Some(id.into()),
            data: data.into(),
        };
        let expected = [event("1", "{\"a\":\n1}"), event("2", "x")];
        for size in [1, 2, 7, 1000] {
            let mut parser = Parser::default();
            let pieces = text.as_bytes().chunks(size);
            let events: Vec<_> = pieces
                .flat_map(|piece| parser.push(piece).unwrap())
                .collect();
            assert_eq!(events, expected, "{size}");
        }
    }
}
