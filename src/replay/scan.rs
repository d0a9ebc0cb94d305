//! Reads the partitions side by side, merged by the time of appending: within a partition that never steps back, so what comes
//! out is in order, and no more is in memory than a piece of each partition.

use std::{
    collections::VecDeque,
    ops::Range,
    thread::ScopedJoinHandle,
    time::{Duration, Instant},
};

use super::{
    History, Query, ReplayError, Replayed, Sink,
    index::{Index, Wanted},
};
use crate::{
    base::clock::{Clock, Millis, SystemClock},
    envelope::avro,
    log::{Fetched, LogError, Reader, Unavailable},
    stream::dlq::redriven,
};

/// How long a poll waits for a partition that has more.
const WAIT: Duration = Duration::from_millis(100);
/// A partition that has more and gives nothing for so long is an error.
const DEADLINE: Duration = Duration::from_secs(30);
/// Pause of a replay that follows, when nothing is new.
const PAUSE: Duration = Duration::from_millis(20);
/// What was appended before `until` has been seen when this long has passed since.
const LATE_MS: i64 = 1_000;
/// Records between two looks at whether it shall go on.
const BETWEEN: u32 = 1_000;

/// Puts the events that are asked for into the sink. `proceed` hears how far it is, now and then, and ends it by
/// answering false. Blocks.
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
    let mut so_far = Replayed {
        total: cursors.iter().map(|cursor| cursor.length).sum(),
        ..Replayed::default()
    };
    let mut since_look = 0;
    loop {
        if !proceed(&so_far) {
            return Ok(so_far);
        }
        fill_all(&mut cursors)?;
        let mut taken = false;
        while since_look < BETWEEN
            && let Some(next) = next(&cursors)
        {
            taken = true;
            since_look += 1;
            let cursor = &mut cursors[next];
            if let Some(record) = cursor.ready.pop_front() {
                take(&record, cursor, query, sink, &mut so_far)?;
            }
        }
        since_look = 0;
        so_far.done = cursors.iter().map(|cursor| cursor.passed).sum();
        if cursors.iter().all(Cursor::is_over) {
            break;
        }
        if !taken && cursors.iter().all(|c| c.caught_up || c.is_over()) {
            sink.idle().map_err(ReplayError::Sink)?;
            std::thread::sleep(PAUSE);
        }
    }
    for cursor in &mut cursors {
        cursor.index.save();
    }
    sink.finish().map_err(ReplayError::Sink)?;
    so_far.done = so_far.done.max(so_far.total);
    proceed(&so_far);
    Ok(so_far)
}

/// Partitions that are opened, or waited for, side by side: on Kafka each takes some round trips.
const AT_ONCE: usize = 16;

fn open_all(
    history: &History<'_>,
    query: &Query,
    partitions: Range<u32>,
) -> Result<Vec<Cursor>, LogError> {
    let partitions: Vec<u32> = partitions.collect();
    let mut cursors = Vec::with_capacity(partitions.len());
    for some in partitions.chunks(AT_ONCE) {
        let opened: Vec<Result<Cursor, LogError>> = std::thread::scope(|scope| {
            let opening: Vec<_> = some
                .iter()
                .map(|partition| scope.spawn(|| Cursor::open(history, query, *partition)))
                .collect();
            opening.into_iter().map(joined).collect()
        });
        for cursor in opened {
            cursors.push(cursor?);
        }
    }
    Ok(cursors)
}

fn joined<T>(thread: ScopedJoinHandle<'_, Result<T, LogError>>) -> Result<T, LogError> {
    let joined = thread.join();
    joined.unwrap_or_else(|panic| Err(LogError::panicked("a thread that reads", &*panic)))
}

/// Reads on where nothing is at hand: where more is known to come, all wait for it at once.
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
    for some in waiting.chunks_mut(AT_ONCE) {
        std::thread::scope(|scope| {
            let filling: Vec<_> = some
                .iter_mut()
                .map(|cursor| scope.spawn(|| cursor.fill()))
                .collect();
            // All of them are waited for, whatever the first says.
            let filled: Vec<_> = filling.into_iter().map(joined).collect();
            filled.into_iter().collect::<Result<(), LogError>>()
        })?;
    }
    Ok(())
}

/// The cursor whose record is the oldest; `None`: one of them must be read first.
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

fn take(
    record: &Fetched,
    cursor: &mut Cursor,
    query: &Query,
    sink: &mut dyn Sink,
    so_far: &mut Replayed,
) -> Result<(), ReplayError> {
    let indexed = cursor.index.wants(record.offset);
    if !indexed && query.filters() && !query.key_may_match(record) {
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
            // The history has an event once, however often a processor had to see it.
            if query.matches(&event) && !redriven::is_addressed(&record.record) {
                sink.event(record, &event, received_at)
                    .map_err(ReplayError::Sink)?;
                so_far.events += 1;
                // What was left out did not go in.
                so_far.events -= sink.too_large() - so_far.too_large;
                so_far.too_large = sink.too_large();
            }
        }
        Some(Err(error)) => {
            let (partition, offset) = (record.partition, record.offset);
            tracing::warn!(partition, offset, %error, "a record of `events` cannot be read");
            so_far.unreadable += 1;
        }
        None => so_far.unreadable += 1,
    }
    Ok(())
}

/// One partition.
struct Cursor {
    reader: Box<dyn Reader>,
    partition: u32,
    /// Stretches still to be read, the current one first.
    ranges: VecDeque<(u64, u64)>,
    /// The current one has been told to the reader.
    assigned: bool,
    /// For ever, or up to this time.
    follow: bool,
    until: Option<Millis>,
    /// Read, and not taken yet.
    ready: VecDeque<Fetched>,
    polled: Vec<Fetched>,
    /// All that was readable has been read.
    caught_up: bool,
    heard: Instant,
    length: u64,
    /// Offsets passed.
    passed: u64,
    from: u64,
    index: Index,
}

impl Cursor {
    fn open(history: &History<'_>, query: &Query, partition: u32) -> Result<Self, LogError> {
        let topic = &*history.names.events;
        let marks = history.log.offset_range(topic, partition)?;
        let at = |time| history.log.offset_at(topic, partition, time);
        let from = query.since.map_or(Ok(marks.start), at)?.max(marks.start);
        let now = SystemClock.now();
        // A time to come bounds nothing that is there already.
        let to = match query.until.filter(|until| *until <= now) {
            Some(until) => at(until)?,
            None => marks.end,
        };
        let follow = query.follow && query.until.is_none_or(|until| until > now);
        let mut reader = history.log.reader(topic)?;
        let mut index = Index::default();
        let mut ranges = VecDeque::new();
        if query.filters() && from < to {
            index = Index::open(history, partition, &mut *reader)?;
            index.stretches(&Wanted::of(query), (from, to), &mut ranges)?;
            let rest = from.max(index.end());
            index.reads_from(rest);
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
            heard: Instant::now(),
            length: to.saturating_sub(from),
            passed: 0,
            from,
            index,
        })
    }

    fn is_over(&self) -> bool {
        self.ranges.is_empty() && self.ready.is_empty()
    }

    /// Reads on, if nothing is at hand.
    fn fill(&mut self) -> Result<(), LogError> {
        while self.ready.is_empty()
            && let Some((from, to)) = self.ranges.front().copied()
        {
            if !self.assigned {
                self.reader.assign_range(self.partition, from, to)?;
                self.assigned = true;
                self.caught_up = false;
                self.heard = Instant::now();
            }
            let wait = if self.caught_up { Duration::ZERO } else { WAIT };
            self.reader.poll(wait, &mut self.polled)?;
            let mut over = false;
            for record in self.polled.drain(..) {
                if record.offset < from {
                    continue;
                }
                self.heard = Instant::now();
                if record.offset + 1 >= to {
                    over = true;
                }
                let late = self.follow && self.until.is_some_and(|u| record.timestamp >= u);
                if late || record.offset >= to {
                    over = true;
                    break;
                }
                self.passed = record.offset + 1 - self.from;
                self.ready.push_back(record);
            }
            let at_end = self.reader.at_end(self.partition);
            self.caught_up = at_end;
            if at_end {
                self.heard = Instant::now();
                let late = self
                    .until
                    .is_some_and(|until| SystemClock.now().0 > until.0 + LATE_MS);
                over |= !self.follow || to != u64::MAX || late;
            }
            if over {
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
                // It follows, and nothing is new.
                break;
            }
            if self.heard.elapsed() > DEADLINE {
                return Err(LogError::Unavailable(Unavailable::NoRecord {
                    of: format!("`events`/{}", self.partition),
                    within: DEADLINE,
                }));
            }
        }
        Ok(())
    }
}
