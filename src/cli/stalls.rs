//! Checks of `doctor` on Kafka that need no node: stalled processors of all nodes, found by their stored positions, and open
//! producer transactions that hold records back.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    findings::{Findings, Status},
    held, output,
    processors::{Kind, Positions, Processor, is_without_topic, processors},
};
use crate::{
    base::clock::{Clock, SystemClock},
    config::Config,
    controls::Emergency,
    log::{Cleanup, Log, LogError, OpenTransaction},
    node::storage,
    stream::{
        lag::{self, First, first_records},
        progress::STALLED_AFTER,
    },
};

const PROCESSORS: &str = "processors";
const TRANSACTIONS: &str = "transactions";
/// Time between two reads of the positions.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// A transaction is reported when it is open for this long; most take milliseconds.
const OPEN_FOR: Duration = Duration::from_secs(3);
/// Time limit for reading the first waiting records.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// A partition with waiting records: the offset of the next one, and how many.
struct Waiting {
    partition: u32,
    next: u64,
    records: u64,
}

/// Watches the positions of processors with waiting records until they move, for ten seconds at most.
/// Processors held by the emergency controls are reported, but not watched.
pub(super) fn examine(config: &Config, log: &dyn Log, emergency: &Emergency, found: &mut Findings) {
    if let Err(error) = check(config, log, emergency, found) {
        let why = output::in_one_line(&error);
        found.add(PROCESSORS, Status::Warning, format!("unknown: {why}"));
    }
}

fn check(
    config: &Config,
    log: &dyn Log,
    emergency: &Emergency,
    found: &mut Findings,
) -> anyhow::Result<()> {
    let names = storage::names(config);
    let (all, trouble) = processors(config, &names);
    if let Some(trouble) = trouble {
        let detail = format!("topologies: {trouble}");
        found.add(PROCESSORS, Status::Warning, detail);
    }
    let partitions = partitions(log, &all)?;
    let positions = Positions::new(config, log);
    let mut waiting: Vec<(&Processor, Vec<Waiting>)> = Vec::new();
    let (mut unknown, mut held) = (0, 0);
    for one in &all {
        match behind(log, &positions, one) {
            Ok(behind) if behind.is_empty() => {}
            Ok(behind) => match held::holds(emergency, &one.name) {
                None => waiting.push((one, behind)),
                Some(why) => {
                    held += 1;
                    let detail = describe_hold(log, one, &behind, &why)?;
                    found.add(PROCESSORS, Status::Warning, detail);
                }
            },
            Err(why) => {
                // The position of the projection is stored in Postgres.
                let state = if one.kind == Kind::Projection {
                    "waiting"
                } else {
                    "its position is unknown"
                };
                let why = output::in_one_line(&why);
                let detail = format!("{}: {state}: {why}", one.name);
                found.add(PROCESSORS, Status::Warning, detail);
                unknown += 1;
            }
        }
    }
    let behind = waiting.len();
    // The time counts from here: the requests before may have taken long.
    let began = Instant::now();
    let mut open = log.open_transactions(&partitions)?;
    while !waiting.is_empty() && began.elapsed() < STALLED_AFTER
        || !open.is_empty() && began.elapsed() < OPEN_FOR
    {
        std::thread::sleep(POLL_INTERVAL);
        let positions = Positions::new(config, log);
        let mut still = Vec::new();
        for (one, mut partitions) in waiting {
            // A hanging transaction of the processor's own keeps its position from being read; then nothing has moved.
            if let Ok(now) = positions.of(one) {
                partitions.retain(|w| now.contains(&(w.partition, w.next)));
            }
            if !partitions.is_empty() {
                still.push((one, partitions));
            }
        }
        waiting = still;
    }
    for (one, partitions) in &waiting {
        found.add(
            PROCESSORS,
            Status::Warning,
            describe_stall(one, partitions, began.elapsed()),
        );
    }
    if waiting.is_empty() && unknown == 0 && held == 0 {
        let detail = format!("{} make progress; {behind} have records waiting", all.len());
        found.add(PROCESSORS, Status::Ok, detail);
    }
    if !open.is_empty() {
        let later = log.open_transactions(&partitions)?;
        open.retain_mut(|one| {
            let same = later.iter().find(|later| {
                (&later.topic, later.partition, later.first)
                    == (&one.topic, one.partition, one.first)
            });
            // It may have grown in the meantime.
            one.end = same.map_or(one.end, |same| same.end);
            same.is_some()
        });
    }
    for one in &open {
        found.add(
            TRANSACTIONS,
            Status::Warning,
            describe_transaction(one, began.elapsed()),
        );
    }
    if open.is_empty() {
        found.add(
            TRANSACTIONS,
            Status::Ok,
            "no open transaction holds records back",
        );
    }
    Ok(())
}

/// All partitions of the topics that the processors read.
fn partitions(log: &dyn Log, all: &[Processor]) -> Result<Vec<(Arc<str>, u32)>, LogError> {
    let topics: BTreeSet<&Arc<str>> = all.iter().map(|one| &one.topic).collect();
    let mut partitions = Vec::new();
    for topic in topics {
        match log.partitions(topic) {
            Ok(count) => partitions.extend((0..count).map(|p| (Arc::clone(topic), p))),
            Err(LogError::UnknownTopic(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(partitions)
}

/// The partitions in which committed records wait for a processor.
fn behind(
    log: &dyn Log,
    positions: &Positions<'_>,
    one: &Processor,
) -> anyhow::Result<Vec<Waiting>> {
    let positions = match positions.of(one) {
        // There is nothing to read; the checks of topics and positions report it.
        Err(error) if is_without_topic(&error) => return Ok(Vec::new()),
        positions => positions?,
    };
    let at: Vec<_> = positions
        .iter()
        .map(|(p, _)| (Arc::clone(&one.topic), *p))
        .collect();
    let ends = lag::ends(log, &at)?;
    let behind = positions.into_iter().zip(ends);
    let behind: BTreeMap<(u32, u64), u64> = behind
        .filter_map(|((partition, next), ends)| {
            let records = ends?.stable.checked_sub(next).filter(|n| *n > 0)?;
            Some(((partition, next), records))
        })
        .collect();
    // Only transaction markers may be left.
    let from: Vec<_> = behind.keys().copied().collect();
    let first = first_records(log, &one.topic, &from, READ_TIMEOUT)?;
    let waiting = behind.into_iter().zip(first);
    Ok(waiting
        .filter(|(_, first)| *first != First::None)
        .map(|(((partition, next), records), _)| Waiting {
            partition,
            next,
            records,
        })
        .collect())
}

fn describe_stall(one: &Processor, partitions: &[Waiting], watched: Duration) -> String {
    let records: u64 = partitions.iter().map(|w| w.records).sum();
    let places = partitions.iter().take(4).map(|w| {
        let Waiting {
            partition, next, ..
        } = w;
        format!("{}/{partition} from offset {next}", one.topic)
    });
    let mut places = places.collect::<Vec<_>>().join(", ");
    if partitions.len() > 4 {
        places.push_str(", …");
    }
    let (name, seconds) = (&one.name, watched.as_secs());
    match one.kind {
        Kind::Effect | Kind::Notification => format!(
            "{name}: its position has not moved for {seconds} s, and {records} records wait in {places}: the oldest call lasts long, is held \
             by a control, or no node makes it; /readyz of the node that has the partition says which, if one runs it"
        ),
        Kind::System | Kind::Topology | Kind::Projection => format!(
            "{name}: stalled: no progress for {seconds} s, and {records} records wait in {places}; /readyz and the log of the node that \
             has the partition say why, if one runs it"
        ),
    }
}

/// Describes how many records wait for a held processor, and whether retention is about to delete them.
fn describe_hold(
    log: &dyn Log,
    one: &Processor,
    partitions: &[Waiting],
    why: &str,
) -> Result<String, LogError> {
    let at: Vec<_> = partitions.iter().map(|w| (w.partition, w.next)).collect();
    let lags = lag::lags(log, &one.topic, &at, SystemClock.now())?;
    let lags = lags.into_iter().collect::<Result<Vec<_>, _>>()?;
    let records: u64 = lags.iter().map(|lag| lag.records).sum();
    let oldest_ms = lags.iter().map(|lag| lag.age_ms).max().unwrap_or_default();
    let mut detail = format!("{}: held: {why}; {records} records wait", one.name);
    if let Some(Cleanup::Delete { retention_ms }) = log.cleanup(&one.topic)?
        && oldest_ms > retention_ms / 2
    {
        let hours = |ms: i64| ms / 3_600_000;
        // Writing to a `String` cannot fail.
        let _ = write!(
            detail,
            ", the oldest for {} h, and {} deletes records after {} h: lift the control before, or raise the topic's retention.ms",
            hours(oldest_ms),
            one.topic,
            hours(retention_ms),
        );
    }
    Ok(detail)
}

fn describe_transaction(one: &OpenTransaction, watched: Duration) -> String {
    let OpenTransaction {
        topic,
        partition,
        first,
        end,
        since,
    } = one;
    // The producer's clock may be ahead.
    let age_ms = since.map(|since| SystemClock.now().0 - since.0);
    let age = age_ms.filter(|ms| *ms >= 0).map_or_else(
        || format!("at least {} s", watched.as_secs()),
        |ms| {
            let age = watched.max(Duration::from_millis(ms.unsigned_abs()));
            format!("{} s", age.as_secs())
        },
    );
    format!(
        "{topic}/{partition}: a producer's transaction has been open for {age}: offsets {first} to {} cannot be read until it ends. The \
         producer commits or aborts it, or the broker does after the producer's transaction.timeout.ms; \
         `kafka-transactions.sh find-hanging` finds whose it is",
        end - 1,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admission,
        base::clock::{ManualClock, Millis},
        log::{Append, Record, memory::MemoryLog, topics::Names},
    };

    #[test]
    fn it_warns_before_retention_deletes_what_is_held() {
        const HOUR_MS: i64 = 3_600_000;
        let names = Names::new("t.");
        // `ingress` is kept for seven days.
        for (age_h, warns) in [(1, false), (80, false), (90, true), (160, true)] {
            let now = SystemClock.now();
            let clock = Arc::new(ManualClock::at(Millis(now.0 - age_h * HOUR_MS)));
            let log = MemoryLog::new(clock);
            log.provision(&names.specs(1), true).unwrap();
            let append = Append {
                topic: Arc::clone(&names.ingress),
                record: Record::default(),
            };
            let appended = log.append(vec![append], None).blocking_recv();
            appended.unwrap().unwrap();
            let held = Processor {
                name: admission::NAME.to_owned(),
                topic: Arc::clone(&names.ingress),
                kind: Kind::System,
            };
            let waiting = [Waiting {
                partition: 0,
                next: 0,
                records: 1,
            }];
            let detail = describe_hold(&log, &held, &waiting, "the kill switch is on").unwrap();
            assert!(
                detail.starts_with("admission: held: the kill switch is on; 1 records wait"),
                "{detail}"
            );
            let warning =
                format!(", the oldest for {age_h} h, and t.ingress deletes records after 168 h");
            assert_eq!(detail.contains(&warning), warns, "{detail}");
        }
    }

    #[test]
    fn the_age_of_a_transaction_is_that_of_its_first_record_if_it_has_a_time() {
        let now = SystemClock.now();
        for (since, age) in [
            (None, "open for at least 4 s"),
            (Some(now.0 + 60_000), "open for at least 4 s"),
            (Some(now.0 - 1_000), "open for 4 s"),
            (Some(now.0 - 90_500), "open for 90 s"),
        ] {
            let open = OpenTransaction {
                topic: "shop".into(),
                partition: 2,
                first: 3,
                end: 8,
                since: since.map(Millis),
            };
            let detail = describe_transaction(&open, Duration::from_secs(4));
            assert!(detail.starts_with("shop/2: "), "{detail}");
            assert!(detail.contains(age), "{detail}");
            assert!(detail.contains("offsets 3 to 7"), "{detail}");
        }
    }
}
