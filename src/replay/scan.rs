//! Reads the partitions in parallel and merges them by append time. Append times never decrease within a partition, so the merged output
//! is ordered, and memory holds only one chunk of each partition.

use std::{
    collections::VecDeque,
    ops::Range,
    thread::ScopedJoinHandle,
    time::{Duration, Instant},
};

use super::{
    History, Query, ReplayError, Replayed, Sink,
    index::{Index, Probes},
};
use crate::{
    base::clock::{Clock, Millis, SystemClock},
    envelope::avro,
    log::{Fetched, LogError, Reader, Unavailable},
    stream::dlq::redriven,
};

/// How long a poll waits for a partition that has more records.
const POLL_WAIT: Duration = Duration::from_millis(100);
/// A partition that has more records and returns none for this long is an error.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The pause of a replay with `follow` when there is nothing new.
const FOLLOW_PAUSE: Duration = Duration::from_millis(20);
/// With `follow`, a partition is done when this long has passed since `until` and its end is reached.
const UNTIL_MARGIN_MS: i64 = 1_000;
/// The most records between two calls of `proceed`.
const PROCEED_RECORDS: u32 = 1_000;

/// Writes the events that match the query to the sink, in append order. Blocks. `proceed` is called regularly with the progress; if it
/// returns false the replay stops, without [`Sink::finish`].
pub fn replay(
    history: &History<'_>,
    query: &Query,
    sink: &mut dyn Sink,
    proceed: &mut dyn FnMut(&Replayed) -> bool,
) -> Result<Replayed, ReplayError> {
    let partitions = history.log.partitions(&history.names.events)?;
    let chosen = match query.partition(partitions) {
        Some(one) => one..one + 1,
        None => 0..partitions,
    };
    let mut cursors = open_all(history, query, chosen)?;
    let mut progress = Replayed {
        total: cursors.iter().map(|cursor| cursor.length).sum(),
        ..Replayed::default()
    };
    let mut since_proceed = 0;
    loop {
        if !proceed(&progress) {
            return Ok(progress);
        }
        fill_all(&mut cursors)?;
        let mut delivered = false;
        while since_proceed < PROCEED_RECORDS
            && let Some(next) = next(&cursors)
        {
            delivered = true;
            since_proceed += 1;
            let cursor = &mut cursors[next];
            if let Some(record) = cursor.ready.pop_front() {
                deliver(&record, cursor, query, sink, &mut progress)?;
            }
        }
        since_proceed = 0;
        progress.done = cursors.iter().map(|cursor| cursor.passed).sum();
        if cursors.iter().all(Cursor::is_over) {
            break;
        }
        if !delivered && cursors.iter().all(|c| c.caught_up || c.is_over()) {
            sink.idle().map_err(ReplayError::Sink)?;
            std::thread::sleep(FOLLOW_PAUSE);
        }
    }
    for cursor in &mut cursors {
        cursor.index.save();
    }
    sink.finish().map_err(ReplayError::Sink)?;
    progress.done = progress.done.max(progress.total);
    proceed(&progress);
    Ok(progress)
}

/// How many partitions are opened or polled in parallel: on Kafka each takes some round trips.
const MAX_PARALLEL: usize = 16;

fn open_all(
    history: &History<'_>,
    query: &Query,
    partitions: Range<u32>,
) -> Result<Vec<Cursor>, LogError> {
    let partitions: Vec<u32> = partitions.collect();
    let mut cursors = Vec::with_capacity(partitions.len());
    for chunk in partitions.chunks(MAX_PARALLEL) {
        let opened: Vec<Result<Cursor, LogError>> = std::thread::scope(|scope| {
            let opening: Vec<_> = chunk
                .iter()
                .map(|partition| scope.spawn(|| Cursor::open(history, query, *partition)))
                .collect();
            opening.into_iter().map(join).collect()
        });
        for cursor in opened {
            cursors.push(cursor?);
        }
    }
    Ok(cursors)
}

fn join<T>(thread: ScopedJoinHandle<'_, Result<T, LogError>>) -> Result<T, LogError> {
    let joined = thread.join();
    joined.unwrap_or_else(|panic| Err(LogError::panicked("a thread that reads", &*panic)))
}

/// Fills the cursors that have no record ready. Those that are known to have more are polled in parallel.
fn fill_all(cursors: &mut [Cursor]) -> Result<(), LogError> {
    let (mut waiting, at_end): (Vec<&mut Cursor>, Vec<_>) = cursors
        .iter_mut()
        .filter(|cursor| cursor.ready.is_empty() && !cursor.ranges.is_empty())
        .partition(|cursor| !cursor.caught_up);
    for cursor in at_end {
        cursor.fill()?;
    }
    if let [one] = &mut *waiting {
        return one.fill();
    }
    for chunk in waiting.chunks_mut(MAX_PARALLEL) {
        std::thread::scope(|scope| {
            let filling: Vec<_> = chunk
                .iter_mut()
                .map(|cursor| scope.spawn(|| cursor.fill()))
                .collect();
            // Join all threads before the first error is returned.
            let filled: Vec<_> = filling.into_iter().map(join).collect();
            filled.into_iter().collect::<Result<(), LogError>>()
        })?;
    }
    Ok(())
}

/// The cursor with the oldest record; `None` if a cursor must be filled before that is known.
fn next(cursors: &[Cursor]) -> Option<usize> {
    let mut oldest: Option<(Millis, usize)> = None;
    for (at, cursor) in cursors.iter().enumerate() {
        match cursor.ready.front() {
            Some(record) if oldest.is_none_or(|(time, _)| record.timestamp < time) => {
                oldest = Some((record.timestamp, at));
            }
            Some(_) => {}
            None if cursor.caught_up || cursor.is_over() => {}
            None => return None,
        }
    }
    oldest.map(|(_, at)| at)
}

fn deliver(
    record: &Fetched,
    cursor: &mut Cursor,
    query: &Query,
    sink: &mut dyn Sink,
    progress: &mut Replayed,
) -> Result<(), ReplayError> {
    let indexed = cursor.index.lacks(record.offset);
    if !indexed && query.has_filters() && !query.key_may_match(record) {
        return Ok(());
    }
    let decoded = record.record.value.as_deref().map(avro::decode_event);
    let event = match &decoded {
        Some(Ok((event, _))) => Some(event),
        _ => None,
    };
    if indexed {
        cursor.index.add(record, event);
    }
    match decoded {
        Some(Ok((event, received_at))) => {
            // A redriven copy for one processor is not a second event.
            if query.matches(&event) && !redriven::is_addressed(&record.record) {
                sink.event(record, &event, received_at)
                    .map_err(ReplayError::Sink)?;
                progress.events += 1;
                // An event that the sink skipped does not count as written.
                progress.events -= sink.too_large() - progress.too_large;
                progress.too_large = sink.too_large();
            }
        }
        Some(Err(error)) => {
            let (partition, offset) = (record.partition, record.offset);
            tracing::warn!(partition, offset, %error, "a record of `events` cannot be read");
            progress.unreadable += 1;
        }
        None => progress.unreadable += 1,
    }
    Ok(())
}

/// The state of reading one partition.
struct Cursor {
    reader: Box<dyn Reader>,
    partition: u32,
    /// The offset ranges still to be read, the current one first.
    ranges: VecDeque<(u64, u64)>,
    /// Whether the current range was assigned to the reader.
    assigned: bool,
    follow: bool,
    until: Option<Millis>,
    /// Records that were read, and not delivered yet.
    ready: VecDeque<Fetched>,
    /// A buffer for polls.
    polled: Vec<Fetched>,
    /// Whether the end of the partition was reached.
    caught_up: bool,
    last_progress: Instant,
    length: u64,
    /// Offsets passed.
    passed: u64,
    from: u64,
    index: Index,
}

impl Cursor {
    fn open(history: &History<'_>, query: &Query, partition: u32) -> Result<Self, LogError> {
        let topic = &*history.names.events;
        let range = history.log.offset_range(topic, partition)?;
        let at = |time| history.log.offset_at(topic, partition, time);
        let from = query.since.map_or(Ok(range.start), at)?.max(range.start);
        let now = SystemClock.now();
        // An `until` in the future does not exclude any existing record.
        let to = match query.until.filter(|until| *until <= now) {
            Some(until) => at(until)?,
            None => range.end,
        };
        let follow = query.follow && query.until.is_none_or(|until| until > now);
        let mut reader = history.log.reader(topic)?;
        let mut index = Index::default();
        let mut ranges = VecDeque::new();
        if query.has_filters() && from < to {
            index = Index::open(history, partition, &mut *reader)?;
            index.ranges(&Probes::of(query), (from, to), &mut ranges)?;
            let rest = from.max(index.end());
            index.scan_starts_at(rest);
            if rest < to || follow {
                ranges.push_back((rest, to));
            }
        } else if from < to || follow {
            ranges.push_back((from, to));
        }
        if let Some(last) = ranges.back_mut().filter(|_| follow) {
            last.1 = u64::MAX;
        }
        Ok(Self {
            reader,
            partition,
            ranges,
            assigned: false,
            follow,
            until: query.until,
            ready: VecDeque::new(),
            polled: Vec::new(),
            caught_up: false,
            last_progress: Instant::now(),
            length: to.saturating_sub(from),
            passed: 0,
            from,
            index,
        })
    }

    fn is_over(&self) -> bool {
        self.ranges.is_empty() && self.ready.is_empty()
    }

    /// Polls until a record is ready, the partition is done, or `follow` waits for new records.
    fn fill(&mut self) -> Result<(), LogError> {
        while self.ready.is_empty()
            && let Some((from, to)) = self.ranges.front().copied()
        {
            if !self.assigned {
                self.reader.assign_range(self.partition, from, to)?;
                self.assigned = true;
                self.caught_up = false;
                self.last_progress = Instant::now();
            }
            let wait = if self.caught_up {
                Duration::ZERO
            } else {
                POLL_WAIT
            };
            self.reader.poll(wait, &mut self.polled)?;
            let mut is_done = false;
            for record in self.polled.drain(..) {
                if record.offset < from {
                    continue;
                }
                self.last_progress = Instant::now();
                if record.offset + 1 >= to {
                    is_done = true;
                }
                let late = self.follow && self.until.is_some_and(|u| record.timestamp >= u);
                if late || record.offset >= to {
                    is_done = true;
                    break;
                }
                self.passed = record.offset + 1 - self.from;
                self.ready.push_back(record);
            }
            let at_end = self.reader.at_end(self.partition);
            self.caught_up = at_end;
            if at_end {
                self.last_progress = Instant::now();
                let late = self
                    .until
                    .is_some_and(|until| SystemClock.now().0 > until.0 + UNTIL_MARGIN_MS);
                is_done |= !self.follow || to != u64::MAX || late;
            }
            if is_done {
                self.ranges.pop_front();
                self.assigned = false;
                let reached = to.min(self.from.saturating_add(self.length));
                self.passed = self.passed.max(reached.saturating_sub(self.from));
                if self.ranges.is_empty() {
                    self.caught_up = true;
                }
                continue;
            }
            if at_end {
                // With `follow`, and nothing is new.
                break;
            }
            if self.last_progress.elapsed() > TIMEOUT {
                return Err(LogError::Unavailable(Unavailable::NoRecord {
                    of: format!("`events`/{}", self.partition),
                    within: TIMEOUT,
                }));
            }
        }
        Ok(())
    }
}
