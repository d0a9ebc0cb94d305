//! The final check: compares the log and Postgres with the accepted events.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use omnilink::{
    envelope::{Data, avro},
    log::{Fetched, Log, Record, header, partition_for, topics::Names},
    stream::dlq,
};

use super::{
    findings::{Findings, Flaw},
    ledger::{ENTITY_TYPE, Ledger, SOURCE, TENANT},
    producers::MARK,
    rows,
};

/// The default number of partitions.
pub const PARTITIONS: u32 = 8;
const READ: Duration = Duration::from_mins(2);
/// A topic counts as read after this long without records, because its last offsets may be transaction markers.
const QUIET: Duration = Duration::from_secs(2);

/// Figures for the report.
#[derive(Default)]
pub struct Totals {
    pub events: usize,
    pub rows: usize,
    pub entities: usize,
    pub poisons: usize,
    pub dead_letters: usize,
}

/// All committed records of a topic, by partition and offset.
fn read(log: &dyn Log, topic: &str) -> Vec<Fetched> {
    let mut reader = log.reader(topic).unwrap();
    let mut left: BTreeMap<u32, u64> = BTreeMap::new();
    for partition in 0..PARTITIONS {
        reader.assign(partition, 0).unwrap();
        left.insert(partition, log.offset_range(topic, partition).unwrap().end);
    }
    left.retain(|_, end| *end > 0);
    let (deadline, mut last) = (Instant::now() + READ, Instant::now());
    let mut all = Vec::new();
    while !left.is_empty() && last.elapsed() < QUIET {
        assert!(
            Instant::now() < deadline,
            "{topic} was not read within {READ:?}"
        );
        let before = all.len();
        reader.poll(Duration::from_millis(100), &mut all).unwrap();
        for fetched in &all[before..] {
            last = Instant::now();
            if left
                .get(&fetched.partition)
                .is_some_and(|end| fetched.offset + 1 >= *end)
            {
                left.remove(&fetched.partition);
            }
        }
    }
    all.sort_by_key(|f| (f.partition, f.offset));
    all
}

/// The events of one entity in the topic `events`, in order: sequence number, partition, offset.
type History = BTreeMap<String, Vec<(u32, u32, u64)>>;

/// Checks the log.
pub fn log(
    log: &dyn Log,
    names: &Names,
    ledger: &Ledger,
    findings: &mut Findings,
) -> (History, Totals) {
    let mut totals = Totals::default();
    let mut history = History::new();
    for fetched in read(log, &names.events) {
        totals.events += 1;
        match event(&fetched) {
            Ok((entity, seq)) => {
                let at = (seq, fetched.partition, fetched.offset);
                history.entry(entity).or_default().push(at);
            }
            Err(why) => {
                let place = format!("events {}:{}: {why}", fetched.partition, fetched.offset);
                findings.add(Flaw::StrangeEvent, place);
            }
        }
    }
    let accepted = ledger.by_entity();
    totals.entities = accepted.len();
    for (entity, count) in &accepted {
        judge(
            entity,
            *count,
            history.get(entity).map_or(&[], Vec::as_slice),
            findings,
        );
    }
    for (entity, events) in &history {
        let count = accepted.get(entity).copied().unwrap_or_default();
        for (seq, ..) in events.iter().filter(|(seq, ..)| *seq == 0 || *seq > count) {
            findings.add(
                Flaw::StrangeEvent,
                format!("{entity}-{seq} was never accepted"),
            );
        }
    }
    dead_letters(log, names, ledger, findings, &mut totals);
    (history, totals)
}

/// The entity and sequence number of a record, if it equals the sent event.
fn event(fetched: &Fetched) -> Result<(String, u32), String> {
    let value = fetched.record.value.as_deref().ok_or("no value")?;
    let (event, _) = avro::decode_event(value).map_err(|e| e.to_string())?;
    let entity = event.entity.as_ref().ok_or("no entity")?;
    let name = entity.external_id.to_string();
    let seq = event
        .id
        .strip_prefix(&format!("{name}-"))
        .and_then(|seq| seq.parse().ok())
        .ok_or_else(|| format!("{} of {name}", event.id))?;
    let sent = super::ledger::Event { entity: name, seq };
    let Data::Json(data) = &event.data else {
        return Err(format!("{} has other data", event.id));
    };
    let key = format!("{TENANT}/{ENTITY_TYPE}/{}", sent.entity);
    let same = event.tenant.as_str() == TENANT
        && event.source == SOURCE
        && entity.kind == ENTITY_TYPE
        && **data == sent.data()
        && fetched.record.key.as_deref() == Some(key.as_bytes())
        && fetched.partition == partition_for(key.as_bytes(), PARTITIONS);
    if same {
        Ok((sent.entity, seq))
    } else {
        Err(format!(
            "{} is not as it was sent, or on another's partition",
            event.id
        ))
    }
}

/// Checks one entity: each accepted event once, in the order of sending.
fn judge(entity: &str, count: u32, events: &[(u32, u32, u64)], findings: &mut Findings) {
    let mut times: HashMap<u32, u32> = HashMap::new();
    let mut latest = 0;
    for (seq, partition, offset) in events {
        let seen = times.entry(*seq).or_default();
        *seen += 1;
        if *seen > 1 {
            continue;
        }
        if *seq < latest {
            let what =
                format!("{entity}-{seq} at {partition}:{offset} comes after {entity}-{latest}");
            findings.add(Flaw::Disorder, what);
        }
        latest = latest.max(*seq);
    }
    for seq in 1..=count {
        match times.get(&seq) {
            None => findings.add(Flaw::LostEvent, format!("{entity}-{seq}")),
            Some(1) => {}
            Some(times) => findings.add(Flaw::TwiceEvent, format!("{entity}-{seq}: {times} times")),
        }
    }
}

/// Checks that the dead letters are exactly the bad records, byte for byte.
fn dead_letters(
    log: &dyn Log,
    names: &Names,
    ledger: &Ledger,
    findings: &mut Findings,
    totals: &mut Totals,
) {
    let mut poisons = ledger.poisons();
    totals.poisons = poisons.len();
    let mut seen: HashMap<String, Record> = HashMap::new();
    for dead in read(log, &names.dlq) {
        totals.dead_letters += 1;
        let mark = header(&dead.record.headers, MARK).map(String::from_utf8_lossy);
        let code = header(&dead.record.headers, &format!("{}code", dlq::PREFIX));
        let code = String::from_utf8_lossy(code.unwrap_or_default()).into_owned();
        let Some(mark) = mark.map(std::borrow::Cow::into_owned) else {
            findings.add(
                Flaw::StrangeDeadLetter,
                format!("{code}: {:?}", dead.record.value),
            );
            continue;
        };
        let mut plain = dead.record;
        plain
            .headers
            .retain(|(name, _)| !name.starts_with(dlq::PREFIX));
        match poisons.remove(&mark) {
            Some(sent) if sent == plain => drop(seen.insert(mark, plain)),
            Some(_) => findings.add(Flaw::AlteredPoison, format!("{mark} ({code})")),
            // A duplicate of the producer.
            None if seen.get(&mark) == Some(&plain) => {}
            None => findings.add(Flaw::StrangeDeadLetter, format!("{mark} ({code})")),
        }
    }
    for mark in poisons.into_keys() {
        findings.add(Flaw::LostPoison, mark);
    }
}

/// Compares Postgres with the log and the accepted events.
pub fn rows(
    found: &rows::Found,
    history: &History,
    ledger: &Ledger,
    findings: &mut Findings,
    totals: &mut Totals,
) {
    totals.rows = found.events.len();
    let mut times: HashMap<String, u32> = HashMap::new();
    for row in &found.events {
        *times.entry(row.id.clone()).or_default() += 1;
        let in_log = history.get(&row.entity).is_some_and(|events| {
            events.iter().any(|(seq, partition, offset)| {
                (*partition, *offset) == (row.partition, row.offset)
                    && row.id == format!("{}-{seq}", row.entity)
            })
        });
        if !in_log || row.tenant != TENANT || row.source != SOURCE {
            let what = format!("{} at {}:{}", row.id, row.partition, row.offset);
            findings.add(Flaw::StrangeRow, what);
        }
    }
    for (entity, count) in ledger.by_entity() {
        for seq in 1..=count {
            let id = format!("{entity}-{seq}");
            match times.get(&id) {
                None => findings.add(Flaw::LostRow, id),
                Some(1) => {}
                Some(times) => findings.add(Flaw::TwiceRow, format!("{id}: {times} times")),
            }
        }
        let version = found.versions.get(&entity).copied().unwrap_or_default();
        if version != i64::from(count) {
            let what = format!("{entity}: version {version} after {count} events");
            findings.add(Flaw::WrongVersion, what);
        }
    }
}
