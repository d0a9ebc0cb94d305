//! Recovery times after faults, measured by the projector's positions in Postgres for each partition.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// How long samples are kept.
const KEPT: Duration = Duration::from_mins(3);

/// Positions over time.
#[derive(Default)]
pub struct History(Mutex<VecDeque<(Instant, BTreeMap<i32, i64>)>>);

impl History {
    pub fn add(&self, positions: BTreeMap<i32, i64>) {
        let mut samples = self.0.lock();
        samples.push_back((Instant::now(), positions));
        while samples.front().is_some_and(|(at, _)| at.elapsed() > KEPT) {
            samples.pop_front();
        }
    }

    /// When the first and the last partition advanced beyond their position at `from`.
    fn moved(&self, from: Instant) -> (Option<Instant>, Option<Instant>) {
        let samples = self.0.lock();
        let mut later = samples.iter().skip_while(|(at, _)| *at < from);
        let Some((_, start)) = later.next() else {
            return (None, None);
        };
        let (mut first, mut all) = (None, None);
        for (at, positions) in later {
            let moved = |(partition, before): (&i32, &i64)| {
                positions.get(partition).is_some_and(|now| now > before)
            };
            if first.is_none() && start.iter().any(moved) {
                first = Some(*at);
            }
            if all.is_none() && !start.is_empty() && start.iter().all(moved) {
                all = Some(*at);
            }
        }
        (first, all)
    }
}

/// The kind of fault, as shown in the table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum After {
    /// From the start of the process.
    NodeKilled,
    /// From the start of the last process.
    NodesKilledInARow,
    /// From the time at which the only broker responds again.
    BrokerBack,
    /// From the kill; the two others continue.
    OneBrokerKilled,
    /// From the time at which Postgres responds again.
    PostgresBack,
    /// From the stop; another node continues.
    NodeFrozen,
}

impl After {
    fn name(self) -> &'static str {
        match self {
            Self::NodeKilled => "kill -9 of a node, from its start",
            Self::NodesKilledInARow => "kills in a row, from the last start",
            Self::BrokerBack => "kill -9 of the broker, from its return",
            Self::OneBrokerKilled => "kill -9 of one broker of three, from the kill",
            Self::PostgresBack => "kill -9 of Postgres, from its return",
            Self::NodeFrozen => "a node stands still, from then on",
        }
    }
}

/// A recovery in progress.
#[derive(Clone, Copy)]
struct Open {
    after: After,
    since: Instant,
    /// Positions count from here on: writes in flight at the fault have arrived.
    from: Instant,
}

/// All recoveries of a run: times until the first partition had new rows, and until all had.
#[derive(Default)]
pub struct Recoveries {
    open: Option<Open>,
    times: BTreeMap<After, Vec<[Duration; 2]>>,
}

impl Recoveries {
    pub fn begin(&mut self, after: After, since: Instant, settle: Duration, history: &History) {
        // The previous one has lasted until now, at least.
        drop(self.poll(history, true));
        let from = since + settle;
        self.open = Some(Open { after, since, from });
    }

    /// A line of output, if a recovery has ended or must end.
    pub fn poll(&mut self, history: &History, to_end: bool) -> Option<String> {
        let open = self.open?;
        let (first, all) = history.moved(open.from);
        if all.is_none() && !to_end {
            return None;
        }
        self.open = None;
        let until = |at: Option<Instant>| {
            at.map_or(open.since.elapsed(), |at| {
                at.saturating_duration_since(open.since)
            })
        };
        let times = [until(first), until(all)];
        self.times.entry(open.after).or_default().push(times);
        let [first_s, all_s] = times.map(|t| t.as_secs_f64());
        let not_yet = if all.is_none() { "not even " } else { "" };
        Some(format!(
            "{}: rows after {first_s:.1} s, in all partitions {not_yet}after {all_s:.1} s",
            open.after.name()
        ))
    }

    /// For `scripts/chaos`: name, count, then median and maximum until the first row, and until rows in all partitions.
    pub fn table(&self) -> Vec<String> {
        let line = |(after, times): (&After, &Vec<[Duration; 2]>)| {
            let column = |index: usize| {
                let mut all: Vec<f64> = times.iter().map(|t| t[index].as_secs_f64()).collect();
                all.sort_by(f64::total_cmp);
                (all[all.len() / 2], all[all.len() - 1])
            };
            let ((first, first_most), (all, all_most)) = (column(0), column(1));
            let (name, count) = (after.name(), times.len());
            format!("{name}\t{count}\t{first:.1}\t{first_most:.1}\t{all:.1}\t{all_most:.1}")
        };
        self.times.iter().map(line).collect()
    }
}
