//! What `doctor` finds out about processors from outside, on Kafka: those of all nodes, by the positions that they commit, and
//! transactions of producers that hold records back.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    findings::{Findings, Status},
    lag::projected,
    output,
};
use crate::{
    admission,
    base::clock::{Clock, SystemClock},
    config::Config,
    log::{Log, LogError, OpenTransaction, topics::Names},
    projections::PROJECTION,
    stream::{
        lag::{self, First, first_records, from_start},
        progress::STALLED_AFTER,
    },
};

const PROCESSORS: &str = "processors";
const TRANSACTIONS: &str = "transactions";
/// Between two looks at the positions.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A transaction that is open for so long is worth a word: most are over in milliseconds.
const OPEN_FOR: Duration = Duration::from_secs(3);
/// How long the first records that wait may take to be read.
const READ: Duration = Duration::from_secs(5);

/// A processor and what it reads.
pub(super) struct Reads {
    pub(super) processor: String,
    pub(super) topic: Arc<str>,
}

/// A partition with records that wait.
struct Waiting {
    partition: u32,
    next: u64,
    records: u64,
}

/// Watches the positions for as long as something looks as if it stalled, ten seconds at most.
pub(super) fn examine(config: &Config, log: &dyn Log, found: &mut Findings) {
    if let Err(error) = look(config, log, found) {
        found.add(
            PROCESSORS,
            Status::Warning,
            format!("not known: {}", output::in_one_line(&error)),
        );
    }
}

fn look(config: &Config, log: &dyn Log, found: &mut Findings) -> anyhow::Result<()> {
    let names = Names::new(&config.topics.prefix);
    let (all, trouble) = processors(config, &names);
    if let Some(trouble) = trouble {
        found.add(PROCESSORS, Status::Warning, trouble);
    }
    let partitions = partitions(log, &all)?;
    let mut waiting: Vec<(&Reads, Vec<Waiting>)> = Vec::new();
    let mut unknown = 0;
    for one in &all {
        match behind(config, log, &names, one) {
            Ok(behind) if behind.is_empty() => {}
            Ok(behind) => waiting.push((one, behind)),
            Err(why) => {
                // That of the projection lies in Postgres.
                let state = if one.processor == PROJECTION {
                    "waiting"
                } else {
                    "its position is not known"
                };
                let detail = format!("{}: {state}: {}", one.processor, output::in_one_line(&why));
                found.add(PROCESSORS, Status::Warning, detail);
                unknown += 1;
            }
        }
    }
    let behind = waiting.len();
    // From here on it is watched: what was asked before may have taken long.
    let began = Instant::now();
    let mut open = log.open_transactions(&partitions)?;
    while !waiting.is_empty() && began.elapsed() < STALLED_AFTER
        || !open.is_empty() && began.elapsed() < OPEN_FOR
    {
        std::thread::sleep(LOOK_EVERY);
        let mut still = Vec::new();
        for (one, mut partitions) in waiting {
            // A transaction of its own that hangs keeps the position from being read: nothing moves then.
            if let Ok(now) = positions(config, log, &names, one) {
                let now = from_start(&now);
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
            stalled(one, partitions, began.elapsed()),
        );
    }
    if waiting.is_empty() && unknown == 0 {
        let detail = format!("{} read on; {behind} have records waiting", all.len());
        found.add(PROCESSORS, Status::Ok, detail);
    }
    if !open.is_empty() {
        let later = log.open_transactions(&partitions)?;
        open.retain_mut(|one| {
            let same = later.iter().find(|later| {
                (&later.topic, later.partition, later.first)
                    == (&one.topic, one.partition, one.first)
            });
            // It may have grown meanwhile.
            one.end = same.map_or(one.end, |same| same.end);
            same.is_some()
        });
    }
    for one in &open {
        found.add(
            TRANSACTIONS,
            Status::Warning,
            of_transaction(one, began.elapsed()),
        );
    }
    if open.is_empty() {
        found.add(TRANSACTIONS, Status::Ok, "none holds records back");
    }
    Ok(())
}

/// Every processor that there is, with the topologies of the folder here; and why those are left out, if they are.
pub(super) fn processors(config: &Config, names: &Names) -> (Vec<Reads>, Option<String>) {
    let reads = |processor: &str, topic: &str| Reads {
        processor: processor.to_owned(),
        topic: topic.into(),
    };
    let mut all = vec![
        reads(admission::NAME, &names.ingress),
        reads(PROJECTION, &names.events),
    ];
    let trouble =
        match crate::node::topologies::read_files(config, &[]).map(|(_, checked)| checked.set) {
            Ok(Some(set)) => {
                all.extend(set.processors().map(|(name, topic)| reads(name, topic)));
                None
            }
            Ok(None) => {
                Some("topologies: the files have errors; `omnilink check` shows them".to_owned())
            }
            Err(error) => Some(format!("topologies: {}", output::in_one_line(&error))),
        };
    (all, trouble)
}

/// All partitions of what they read.
fn partitions(log: &dyn Log, all: &[Reads]) -> Result<Vec<(Arc<str>, u32)>, LogError> {
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

fn positions(
    config: &Config,
    log: &dyn Log,
    names: &Names,
    one: &Reads,
) -> anyhow::Result<Vec<Option<u64>>> {
    if one.processor == PROJECTION {
        return projected(config, log, names);
    }
    match log.positions(&one.processor, &one.topic) {
        Ok(positions) => Ok(positions),
        // It has not begun, and there is nothing to read.
        Err(LogError::UnknownTopic(_)) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// Where records that can be read wait for a processor.
fn behind(
    config: &Config,
    log: &dyn Log,
    names: &Names,
    one: &Reads,
) -> anyhow::Result<Vec<Waiting>> {
    let positions = from_start(&positions(config, log, names, one)?);
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
    // Markers of transactions may be all that is left.
    let from: Vec<_> = behind.keys().copied().collect();
    let first = first_records(log, &one.topic, &from, READ)?;
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

fn stalled(one: &Reads, partitions: &[Waiting], watched: Duration) -> String {
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
    format!(
        "{}: stalled: no progress for {} s, and {records} records wait in {places}; /readyz and the log of the node that has the \
         partition say why, if one runs it",
        one.processor,
        watched.as_secs(),
    )
}

fn of_transaction(one: &OpenTransaction, watched: Duration) -> String {
    let OpenTransaction {
        topic,
        partition,
        first,
        end,
        since,
    } = one;
    // Its time may be one that the producer made up.
    let since = since.map(|since| SystemClock.now().0 - since.0);
    let since = since.filter(|ms| *ms >= 0).map_or(watched, |ms| {
        watched.max(Duration::from_millis(ms.unsigned_abs()))
    });
    format!(
        "{topic}/{partition}: a producer's transaction has been open for {} s: offsets {first} to {} cannot be read before it ends. The \
         producer commits or aborts it, or the broker does after the producer's transaction.timeout.ms; \
         `kafka-transactions.sh find-hanging` finds whose it is",
        since.as_secs(),
        end - 1,
    )
}
