//! Topics that are deleted and made again, cut by retention, or grown by somebody else, on the real Kafka: nothing is skipped
//! in silence, whatever keeps a position in them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use omnilink::{
    admission::Admission,
    base::clock::{Clock, SystemClock},
    envelope::{avro, foreign::NoRegistry},
    log::{Cleanup, Log, LogError, Polled, Record, Transaction, Work, topics::Names},
    projections::{PROJECTION, Projector, RebuildTables, rebuild},
    replay::{History, Lines, Query, replay},
    state::{Changes, Space},
    stream::{lag, lane, progress::Progress},
    telemetry,
    topology::{Deployment, Setup},
};
use serde_json::json;

use crate::{
    projections_bed::{Database, event, wait_until},
    support::{Bed, Foreign, Kind, append, output, read_all, record, settle, take},
    topology_run::{json_record, numbers, set},
};

/// Partitions of OmniLink's own topics.
const OWN: u32 = 2;

/// A topology between two foreign topics.
struct World {
    bed: Bed,
    kafka: Foreign,
    log: Arc<dyn Log>,
    deployment: Option<Deployment>,
    source: String,
    out: String,
    sent: u64,
}

impl World {
    fn new(partitions: i32) -> Option<Self> {
        let bed = Bed::new(Kind::Kafka)?;
        let kafka = bed.foreign();
        let (source, out) = (format!("f{}in", bed.prefix), format!("f{}out", bed.prefix));
        kafka.make(&source, partitions);
        kafka.make(&out, 1);
        let log = bed.open("a");
        let names = Names::new(&bed.prefix);
        log.provision(&names.specs(OWN), true).unwrap();
        Some(Self {
            bed,
            kafka,
            log,
            deployment: None,
            source,
            out,
            sent: 0,
        })
    }

    fn start(&mut self, steps: &str, source: &str) {
        let (topic, out) = (&self.source, &self.out);
        let file = format!(
            "name: moved\nsource: {{ topic: {topic}, tenant: acme{source} }}\nsteps: [ {steps} route: [ {{ to: {out} }} ] ]\n"
        );
        let set = set(
            self.bed.dir.path(),
            &[("moved.yaml", &file)],
            &self.bed.prefix,
        );
        let mut deployment = Deployment::new(Setup {
            log: Arc::clone(&self.log),
            names: Names::new(&self.bed.prefix),
            clock: Arc::clone(&self.bed.clock),
            schemas: Arc::new(NoRegistry),
            partitions: OWN,
            provision: true,
            make_foreign: false,
            lanes: 2,
        });
        deployment.deploy(&set).unwrap();
        self.deployment = Some(deployment);
    }

    fn stop(&mut self) {
        self.deployment = None;
    }

    fn send(&mut self, count: u64) {
        let records: Vec<Record> = (self.sent..self.sent + count)
            .map(|n| json_record(&n.to_string(), &json!({ "n": n })))
            .collect();
        append(&*self.log, &self.source, records).unwrap();
        self.sent += count;
    }

    /// All that was sent has come, and once.
    fn assert_all(&self, what: &str) {
        self.assert_came(what, (0..self.sent).collect());
    }

    fn assert_came(&self, what: &str, wanted: Vec<u64>) {
        let deadline = Instant::now() + Duration::from_secs(40);
        loop {
            let mut came = numbers(&read_all(&*self.log, &self.out, wanted.len()));
            came.sort_unstable();
            if came == wanted {
                return;
            }
            assert!(
                Instant::now() < deadline && came.len() <= wanted.len(),
                "{what}: {came:?} instead of {} records; {:?}",
                wanted.len(),
                self.troubles()
            );
        }
    }

    fn troubles(&self) -> Vec<String> {
        let deployment = self.deployment.iter();
        deployment
            .flat_map(Deployment::progress)
            .filter_map(|(_, progress)| progress.trouble())
            .collect()
    }

    fn assert_notice(&self, parts: &[&str]) {
        assert_notice(&self.source, parts);
    }
}

/// An operator hears of it.
fn assert_notice(topic: &str, parts: &[&str]) {
    let notices = telemetry::notices();
    let said =
        |notice: &&String| notice.contains(topic) && parts.iter().all(|part| notice.contains(part));
    assert!(notices.iter().any(|n| said(&n)), "{parts:?} in {notices:?}");
}

const PLAIN: (&str, &str) = ("", "");
/// Its state lies behind a `rekey` topic…
const DEDUPE: (&str, &str) = ("{ key: [n] }, { dedupe: { window: 1h } },", "");
/// … or in as many partitions as the source has.
const KEYED: (&str, &str) = ("{ dedupe: { window: 1h } },", ", key: [n]");

/// 20 records; made anew, 10; made anew, 40; and 5 after a restart.
fn made_anew((steps, source): (&str, &str), running: bool, partitions: [i32; 3]) {
    let Some(mut world) = World::new(partitions[0]) else {
        return;
    };
    world.start(steps, source);
    world.send(20);
    world.assert_all("before");
    for (count, partitions) in [10, 40].into_iter().zip(&partitions[1..]) {
        if !running {
            world.stop();
        }
        world
            .kafka
            .make_anew(&*world.log, &world.source, *partitions);
        world.send(count);
        if !running {
            world.start(steps, source);
        }
        world.assert_all("made anew");
        world.assert_notice(&["deleted and made again", "topology.moved"]);
    }
    world.stop();
    world.start(steps, source);
    world.send(5);
    world.assert_all("after a restart");
    assert_eq!(world.troubles(), Vec::<String>::new());
    let positions = world
        .log
        .positions("topology.moved", &world.source)
        .unwrap();
    let of = ("topology.moved", &*world.source);
    let positions = lag::from_start(&positions);
    let lag = lag::items(&*world.log, of, &positions, SystemClock.now());
    assert!(lag.unwrap().iter().all(|item| item.records == Some(0)));
}

#[test]
fn a_source_made_anew_is_read_from_its_start_while_running() {
    made_anew(PLAIN, true, [1; 3]);
    made_anew(PLAIN, true, [3, 1, 3]);
}

/// Nobody in this process has asked for the topic when its records come: until somebody has, they are read from the position in the topic
/// before.
#[test]
fn a_source_made_anew_in_a_moment_is_read_from_its_start_with_nothing_missed() {
    for (steps, source) in [PLAIN, DEDUPE] {
        let Some(mut world) = World::new(1) else {
            return;
        };
        let other = world.bed.open("b");
        world.start(steps, source);
        world.send(10);
        world.assert_all("before");
        world.kafka.make_anew(&*other, &world.source, 1);
        world.send(50);
        let deadline = Instant::now() + Duration::from_secs(40);
        let wanted: Vec<u64> = (0..60).collect();
        let came = || {
            let mut came = numbers(&read_all(&*world.log, &world.out, 60));
            came.sort_unstable();
            came
        };
        let all = |came: &[u64]| {
            let mut once = came.to_vec();
            once.dedup();
            once == wanted
        };
        while !all(&came()) {
            assert!(Instant::now() < deadline, "{:?}", came());
        }
        // What was read before it was known may come twice, where nothing sees that.
        let came = came();
        let twice = came.iter().zip(&came[1..]).filter(|(a, b)| a == b);
        let twice: Vec<u64> = twice.map(|(n, _)| *n).collect();
        assert!(twice.iter().all(|n| *n >= 20), "{twice:?}");
        if !steps.is_empty() {
            assert_eq!(came, wanted);
        }
        world.assert_notice(&["deleted and made again", "topology.moved"]);
    }
}

#[test]
fn a_source_made_anew_is_read_from_its_start_after_a_stop() {
    made_anew(PLAIN, false, [1; 3]);
    made_anew(PLAIN, false, [1, 3, 2]);
}

#[test]
fn a_source_made_anew_below_dedupe_while_running() {
    made_anew(DEDUPE, true, [3; 3]);
}

#[test]
fn a_source_made_anew_below_dedupe_after_a_stop() {
    made_anew(DEDUPE, false, [1; 3]);
}

#[test]
fn a_source_made_anew_below_state_of_its_own_partitions_while_running() {
    made_anew(KEYED, true, [3, 3, 2]);
}

#[test]
fn a_source_made_anew_below_state_of_its_own_partitions_after_a_stop() {
    made_anew(KEYED, false, [1; 3]);
}

#[test]
fn what_retention_drops_before_it_is_read_is_said() {
    let Some(mut world) = World::new(1) else {
        return;
    };
    world.start("", "");
    world.send(20);
    world.assert_all("before");
    world.stop();
    world.send(50);
    let marks = world.log.offset_range(&world.source, 0).unwrap();
    world.kafka.drop_before(&world.source, 0, marks.end as i64);
    world.send(10);
    let position = world.log.committed("topology.moved", &world.source, 0);
    let position = position.unwrap().unwrap();
    let faults = world.log.position_faults("topology.moved", &world.source);
    let [fault] = &faults.unwrap()[..] else {
        panic!("one fault");
    };
    assert!(!fault.stalls);
    let offsets = format!("offsets {position} to {}", marks.end);
    assert!(fault.detail.contains(&offsets), "{fault:?}");
    world.start("", "");
    let came = (0..20).chain(70..80).collect();
    world.assert_came("after retention", came);
    world.assert_notice(&[&offsets, "retention"]);
    let faults = world.log.position_faults("topology.moved", &world.source);
    assert_eq!(faults.unwrap(), []);
}

/// It was behind, and the broker says that its position is out of range.
#[test]
fn a_lane_that_retention_overtakes_while_it_runs_says_so() {
    let Some(bed) = Bed::new(Kind::Kafka) else {
        return;
    };
    let kafka = bed.foreign();
    let input = format!("f{}in", bed.prefix);
    kafka.make(&input, 1);
    let log = bed.open("a");
    let topics = [input.clone()];
    let fill = |count: usize| {
        let large = "x".repeat(10_000);
        let records = (0..count).map(|_| record("k", &large)).collect();
        append(&*log, &input, records).unwrap();
    };
    fill(10);
    let mut lane = log.lane("p", &topics).unwrap();
    settle(&mut *lane);
    take(&mut *lane, 10);
    let positions = vec![(0, 0, 10)];
    lane.commit(Transaction {
        positions,
        ..Transaction::default()
    })
    .unwrap();
    // More than it fetches ahead.
    for _ in 0..40 {
        fill(100);
    }
    kafka.drop_before(&input, 0, 4_005);
    let mut read = 0;
    let error = refused(|| {
        let mut out = Vec::new();
        lane.poll(Duration::from_millis(100), &mut out)?;
        read += out.len();
        Ok((read >= 4_000).then_some(read))
    });
    drop(lane);
    let mut lane = log.lane("p", &topics).unwrap();
    assert_eq!(settle(&mut *lane)[0].2, 4_005, "{error}");
    assert_notice(&input, &["offsets 10 to 4005", "retention"]);
}

/// A topic has one id for as long as it is there, on either log.
#[test]
fn an_id_is_the_topics_own() {
    for kind in [Kind::Local, Kind::Kafka] {
        let (Some(bed), Some(other)) = (Bed::new(kind), Bed::new(kind)) else {
            continue;
        };
        let id = |bed: &Bed, name: &str| {
            let log = bed.open("a");
            log.provision(&[bed.spec(name, 2, Cleanup::Keep)], true)
                .unwrap();
            let described = log.describe(&bed.topic(name)).unwrap().unwrap();
            assert_eq!(described.partitions, 2);
            described.id.unwrap()
        };
        let one = id(&bed, "one");
        assert_eq!(id(&bed, "one"), one);
        assert_ne!(id(&bed, "two"), one);
        assert_ne!(id(&other, "one"), one);
        assert_eq!(one.to_string().parse(), Ok(one));
    }
}

/// A lane, by hand: what is committed is kept with the topic it is of, on any node.
#[test]
fn a_lane_opens_at_what_is_a_position_in_this_topic() {
    let Some(bed) = Bed::new(Kind::Kafka) else {
        return;
    };
    let kafka = bed.foreign();
    let input = format!("f{}in", bed.prefix);
    kafka.make(&input, 1);
    let log = bed.open("a");
    let specs = [
        bed.spec("state.p", 1, Cleanup::Compact),
        bed.spec("out", 1, Cleanup::Keep),
    ];
    log.provision(&specs, true).unwrap();
    let topics = [input.clone()];
    let group = format!("{}p", bed.prefix);
    let some = |from: u64, to: u64| -> Vec<Record> {
        (from..to).map(|n| record("k", &n.to_string())).collect()
    };
    let commit = |log: &dyn Log, count: usize| {
        let mut lane = log.lane("p", &topics).unwrap();
        settle(&mut *lane);
        let taken = take(&mut *lane, count);
        let next = taken.last().unwrap().offset + 1;
        let mut state = Changes::default();
        state.put(&Space::new("p", 0), "next", next.to_string());
        let outputs = taken
            .iter()
            .map(|f| output(&bed.topic("out"), f.record.clone()));
        lane.commit(Transaction {
            outputs: outputs.collect(),
            state,
            positions: vec![(0, 0, next)],
        })
        .unwrap();
        next
    };
    let opened = |log: &dyn Log| {
        let mut lane = log.lane("p", &topics).unwrap();
        settle(&mut *lane)[0].2
    };
    append(&*log, &input, some(0, 20)).unwrap();
    assert_eq!(commit(&*log, 20), 20);
    // Longer than the position: no offset tells that it is another one. This node has its own copy, the other has none.
    for _ in 0..2 {
        kafka.make_anew(&*log, &input, 1);
        append(&*log, &input, some(0, 40)).unwrap();
        assert_eq!(log.committed("p", &input, 0).unwrap(), None);
        let other = bed.open("b");
        assert_eq!(opened(&*other), 0);
        assert_eq!(opened(&*log), 0);
        assert_eq!(commit(&*log, 40), 40);
        assert_eq!(opened(&*other), 40);
        drop(other);
        std::fs::remove_dir_all(bed.dir.path().join("b")).unwrap();
    }
    // As a version that kept no ids has left it: the topic that is met first is taken for the one that was read.
    kafka.set_position(&group, &input, 0, 30);
    assert_eq!(opened(&*log), 30);
    kafka.make_anew(&*log, &input, 1);
    append(&*log, &input, some(0, 50)).unwrap();
    assert_eq!(opened(&*log), 0);
    // The same topic with a shorter log: nothing is skipped, and nothing begins anew.
    assert_eq!(commit(&*log, 50), 50);
    kafka.set_position(&group, &input, 0, 70);
    let mut lane = log.lane("p", &topics).unwrap();
    let error = refused(
        || match lane.poll(Duration::from_millis(100), &mut Vec::new())? {
            Polled::Assigned(partitions) if !partitions.is_empty() => lane.open(0, 0).map(Some),
            _ => Ok(None),
        },
    );
    let LogError::LostEnd {
        position: 70,
        end: 50,
        ..
    } = &error
    else {
        panic!("{error}");
    };
    assert!(error.to_string().contains("--reset-offsets"), "{error}");
    let faults = log.position_faults("p", &input).unwrap();
    assert!(
        faults[0].stalls && faults[0].detail.contains(&input),
        "{faults:?}"
    );
    drop(lane);
    // The way out that it names.
    kafka.set_position(&group, &input, 0, 45);
    assert_eq!(opened(&*log), 45);
    assert_eq!(log.position_faults("p", &input).unwrap(), []);
}

/// Until it refuses.
fn refused<T>(mut ask: impl FnMut() -> Result<Option<T>, LogError>) -> LogError {
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        match ask() {
            Ok(Some(_)) => panic!("it is not refused"),
            Ok(None) => {}
            Err(error) => return error,
        }
    }
    panic!("nothing came within 30 s");
}

#[test]
fn a_changelog_made_anew_is_said_and_the_complete_copy_is_kept() {
    let Some(bed) = Bed::new(Kind::Kafka) else {
        return;
    };
    let kafka = bed.foreign();
    let input = format!("f{}in", bed.prefix);
    kafka.make(&input, 1);
    let changelog = bed.topic("state.p");
    kafka.make(&changelog, 1);
    let space = Space::new("p", 0);
    let topics = [input.clone()];
    let log = bed.open("a");
    append(&*log, &input, vec![record("k", "1")]).unwrap();
    let mut lane = log.lane("p", &topics).unwrap();
    settle(&mut *lane);
    let taken = take(&mut *lane, 1);
    let mut state = Changes::default();
    state.put(&space, "count", "1");
    lane.commit(Transaction {
        outputs: Vec::new(),
        state,
        positions: vec![(0, 0, taken[0].offset + 1)],
    })
    .unwrap();
    kafka.make_anew(&*log, &changelog, 1);
    // While it runs.
    let error = refused(|| {
        let polled = lane.poll(Duration::from_millis(100), &mut Vec::new())?;
        Ok((!matches!(polled, Polled::Records)).then_some(()))
    });
    assert!(
        matches!(&error, LogError::Recreated { topic, .. } if *topic == changelog),
        "{error}"
    );
    drop(lane);
    let mut lane = log.lane("p", &topics).unwrap();
    settle(&mut *lane);
    assert_notice(&changelog, &["complete", "p,"]);
    assert_eq!(lane.state().get(&space, b"count").unwrap().unwrap(), "1");
    drop(lane);
    // A node that has none of it begins without.
    let other = bed.open("b");
    let mut lane = other.lane("p", &topics).unwrap();
    assert_eq!(settle(&mut *lane)[0].2, 1);
    assert_eq!(lane.state().get(&space, b"count").unwrap(), None);
}

fn open_work(log: &dyn Log, topic: &str) -> (Box<dyn Work>, u64) {
    let mut work = log.work("call", topic).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        match work
            .poll(Duration::from_millis(100), &mut Vec::new())
            .unwrap()
        {
            Polled::Assigned(partitions) if !partitions.is_empty() => {
                let finished = work.open(0).unwrap();
                return (work, finished.next());
            }
            Polled::Revoked(partitions) | Polled::Lost(partitions) => {
                work.release(&partitions).unwrap();
            }
            _ => {}
        }
    }
    panic!("no partitions within 30 s");
}

#[test]
fn what_an_effect_has_finished_is_finished_in_that_topic_alone() {
    let Some(bed) = Bed::new(Kind::Kafka) else {
        return;
    };
    let kafka = bed.foreign();
    let input = format!("f{}in", bed.prefix);
    kafka.make(&input, 1);
    let log = bed.open("a");
    let some =
        |count: u64| -> Vec<Record> { (0..count).map(|n| record("k", &n.to_string())).collect() };
    append(&*log, &input, some(20)).unwrap();
    let (mut work, next) = open_work(&*log, &input);
    assert_eq!(next, 0);
    let mut finished = omnilink::log::Finished::from(20);
    finished.insert(25);
    work.commit(0, &finished).unwrap();
    drop(work);
    let (mut work, next) = open_work(&*log, &input);
    assert_eq!(next, 20);
    kafka.make_anew(&*log, &input, 1);
    append(&*log, &input, some(40)).unwrap();
    let error = refused(|| {
        let mut out = Vec::new();
        work.poll(Duration::from_millis(100), &mut out)?;
        Ok((!out.is_empty()).then_some(out.len()))
    });
    assert!(
        matches!(
            error,
            LogError::Recreated { .. } | LogError::UnknownTopic(_)
        ),
        "{error}"
    );
    drop(work);
    let (mut work, next) = open_work(&*log, &input);
    assert_eq!(next, 0);
    // It said so once.
    work.commit(0, &omnilink::log::Finished::from(5)).unwrap();
    drop(work);
    kafka.drop_before(&input, 0, 30);
    let (work, next) = open_work(&*log, &input);
    assert_eq!(next, 30);
    assert_notice(&input, &["offsets 5 to 30", "call"]);
    drop(work);
    kafka.set_position(&format!("{}call", bed.prefix), &input, 0, 90);
    let mut work = log.work("call", &input).unwrap();
    let error = refused(
        || match work.poll(Duration::from_millis(100), &mut Vec::new())? {
            Polled::Assigned(partitions) if !partitions.is_empty() => work.open(0).map(Some),
            _ => Ok(None),
        },
    );
    assert!(
        matches!(
            error,
            LogError::LostEnd {
                position: 90,
                end: 40,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_source_that_grows_is_read_on_where_there_is_no_state() {
    let Some(mut world) = World::new(1) else {
        return;
    };
    world.start("", "");
    world.send(10);
    world.assert_all("before");
    world.kafka.grow(&world.source, 3);
    world.send(30);
    world.assert_all("grown while it runs");
    world.stop();
    world.kafka.grow(&world.source, 4);
    world.send(20);
    world.start("", "");
    world.assert_all("grown meanwhile");
    let positions = world.log.positions("topology.moved", &world.source);
    assert_eq!(positions.unwrap().len(), 4);
}

/// Records of a key may lie in another partition than their state: refused by name, until the way out that is named is taken.
fn grows_below_state(running: bool) {
    let Some(mut world) = World::new(1) else {
        return;
    };
    let (steps, source) = KEYED;
    world.start(steps, source);
    world.send(10);
    world.assert_all("before");
    if !running {
        world.stop();
    }
    world.kafka.grow(&world.source, 3);
    let state = format!("{}state.topology.moved", world.bed.prefix);
    if running {
        wait_until("the stall", || !world.troubles().is_empty());
    }
    world.send(30);
    if !running {
        world.start(steps, source);
        wait_until("the stall", || !world.troubles().is_empty());
    }
    let troubles = world.troubles().join("; ");
    for part in [
        &*world.source,
        "has grown to 3 partitions",
        &format!("--topic {state} --partitions 3"),
    ] {
        assert!(troubles.contains(part), "{part} in {troubles}");
    }
    assert!(!troubles.contains("topics.partitions"), "{troubles}");
    world.kafka.grow(&state, 3);
    world.assert_all("after the way out");
    wait_until("no stall", || world.troubles().is_empty());
    world.stop();
    world.start(steps, source);
    world.send(5);
    world.assert_all("after a restart");
}

#[test]
fn a_source_that_grows_below_its_state_is_refused_by_name_while_running() {
    grows_below_state(true);
}

#[test]
fn a_source_that_grows_below_its_state_is_refused_by_name_at_the_start() {
    grows_below_state(false);
}

fn admit(bed: &Bed, log: &Arc<dyn Log>) -> lane::Running {
    let names = Names::new(&bed.prefix);
    let setup = lane::Setup {
        log: Arc::clone(log),
        dlq: Arc::clone(&names.dlq),
        clock: Arc::clone(&bed.clock),
        progress: Arc::default(),
    };
    let admission = Admission::new(&names, OWN, 3_600_000, false);
    lane::start(Arc::new(admission), setup).unwrap()
}

fn envelope(n: usize) -> Record {
    let text = format!(
        r#"{{"specversion":"1.0","id":"{n}","source":"/shop","type":"order.paid","entitytype":"order","entityid":"{n}","data":{{"n":{n}}}}}"#
    );
    let mut record = record("x", &text);
    record.headers = vec![("omnilink-tenant".into(), Some("acme".into()))];
    record
}

/// Somebody has added partitions to `ingress`: those that are configured stay in use, and what others write to the rest
/// finds its way.
#[test]
fn partitions_added_to_an_own_topic_change_nothing_and_are_told() {
    let Some(bed) = Bed::new(Kind::Kafka) else {
        return;
    };
    let kafka = bed.foreign();
    let names = Names::new(&bed.prefix);
    let specs = names.specs(OWN);
    let open = |node: &str| {
        let log = bed.open(node);
        log.provision(&specs, true).unwrap();
        log
    };
    let log = open("a");
    let running = admit(&bed, &log);
    append(&*log, &names.ingress, (0..10).map(envelope).collect()).unwrap();
    assert_eq!(read_all(&*log, &names.events, 10).len(), 10);
    kafka.grow(&names.ingress, 4);
    let told = |log: &dyn Log| {
        let troubles = log.troubles().join("; ");
        troubles.contains(&*names.ingress) && troubles.contains("do not set topics.partitions to 4")
    };
    wait_until("the trouble", || told(&*log));
    // By others, in all partitions; by our own producer; and once more, as dedupe must see.
    let sent: Vec<(i32, Record)> = (10..50).map(|n| ((n % 4) as i32, envelope(n))).collect();
    kafka.send(&names.ingress, &sent);
    append(&*log, &names.ingress, (50..60).map(envelope).collect()).unwrap();
    let came = |log: &dyn Log, at_least: usize| {
        let mut ids: Vec<u64> = read_all(log, &names.events, at_least)
            .iter()
            .map(|f| {
                let (event, _) = avro::decode_event(f.record.value.as_ref().unwrap()).unwrap();
                event.id.parse().unwrap()
            })
            .collect();
        ids.sort_unstable();
        ids
    };
    wait_until("all events", || came(&*log, 60).len() >= 60);
    assert_eq!(came(&*log, 60), (0..60).collect::<Vec<_>>());
    // Each record was passed on once at most.
    let written: u64 = (0..4)
        .map(|partition| log.offset_range(&names.ingress, partition).unwrap().end)
        .sum();
    assert!(written < 250, "{written} offsets of `ingress`");
    drop(running);
    drop(log);
    // And the same at a start.
    kafka.send(
        &names.ingress,
        &[(3, envelope(60)), (2, envelope(61)), (3, envelope(11))],
    );
    let log = open("a");
    let running = admit(&bed, &log);
    wait_until("the rest", || came(&*log, 62).len() >= 62);
    assert_eq!(came(&*log, 62), (0..62).collect::<Vec<_>>());
    wait_until("the trouble", || told(&*log));
    let surveyed = omnilink::log::survey(&*log, &specs).unwrap();
    let ingress = surveyed.iter().find(|s| s.name == *names.ingress).unwrap();
    assert_eq!(ingress.partitions, Some(4));
    assert!(ingress.trouble.is_some() && !ingress.stalls, "{ingress:?}");
    drop(running);
    drop(log);
    // Where all have as many, the configuration is what is wrong.
    for spec in &specs {
        if spec.partitions == OWN && spec.name != names.ingress {
            kafka.grow(&spec.name, 4);
        }
    }
    let error = bed.open("a").provision(&specs, true).unwrap_err();
    assert!(
        error.to_string().contains("set topics.partitions to 4"),
        "{error}"
    );
}

/// A record of `events`.
fn admitted(n: usize) -> Record {
    let event = event(n, &format!("o{}", n % 5));
    let mut value = Vec::new();
    avro::encode_event(&event, SystemClock.now(), &mut value);
    Record {
        key: Some(event.record_key().into()),
        value: Some(value.into()),
        headers: Vec::new(),
    }
}

#[test]
fn tables_of_a_topic_made_anew_are_left_alone_until_somebody_decides() {
    let (Some(bed), Some(database)) = (Bed::new(Kind::Kafka), Database::new()) else {
        return;
    };
    let kafka = bed.foreign();
    let names = Names::new(&bed.prefix);
    let log = bed.open("a");
    log.provision(&names.specs(OWN), true).unwrap();
    let send = |from: usize, to: usize| {
        append(&*log, &names.events, (from..to).map(admitted).collect()).unwrap();
    };
    let rows = || database.number("SELECT count(*) FROM omnilink.events");
    let progress = Arc::<Progress>::default();
    let setup = omnilink::projections::Setup {
        store: database.store(),
        log: Arc::clone(&log),
        topic: Arc::clone(&names.events),
        dlq: Arc::clone(&names.dlq),
        clock: Arc::new(SystemClock),
        runtime: database.runtime.handle().clone(),
        progress: Arc::clone(&progress),
    };
    let projector = Projector::start(&setup, 1).unwrap();
    send(0, 30);
    wait_until("30 rows", || rows() == 30);
    // Longer than what was read of the one before, while it runs.
    kafka.make_anew(&*log, &names.events, OWN as i32);
    send(100, 300);
    let stalls = || {
        let trouble = progress.trouble().unwrap_or_default();
        trouble.contains("made again") && trouble.contains("omnilink rebuild events entities")
    };
    wait_until("the stall", stalls);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(rows(), 30);
    drop(projector);
    let projector = Projector::start(&setup, 1).unwrap();
    wait_until("the stall after a restart", stalls);
    assert_eq!(rows(), 30);
    let only = RebuildTables {
        events: true,
        entities: false,
    };
    let error = rebuild(&setup, only, &mut |_, _| ()).unwrap_err();
    assert!(error.to_string().contains("made again"), "{error}");
    let all = RebuildTables {
        events: true,
        entities: true,
    };
    rebuild(&setup, all, &mut |_, _| ()).unwrap();
    wait_until("200 rows", || rows() == 200);
    wait_until("no stall", || progress.trouble().is_none());
    send(300, 310);
    wait_until("210 rows", || rows() == 210);
    drop(projector);
    // Retention in `events`: nothing brings the records back, so it goes on and says so.
    send(310, 340);
    for partition in 0..OWN {
        let end = log.offset_range(&names.events, partition).unwrap().end;
        kafka.drop_before(&names.events, partition as i32, end as i64);
    }
    send(340, 350);
    let _projector = Projector::start(&setup, 1).unwrap();
    wait_until("220 rows", || rows() == 220);
    assert_notice(&names.events, &["retention", PROJECTION]);
}

#[test]
fn an_index_of_a_topic_made_anew_is_made_anew() {
    let Some(bed) = Bed::new(Kind::Kafka) else {
        return;
    };
    let kafka = bed.foreign();
    let names = Names::new(&bed.prefix);
    let log = bed.open("a");
    log.provision(&names.specs(1), true).unwrap();
    let history = History {
        log: &*log,
        names: &names,
        index_dir: bed.dir.path().join("index"),
    };
    let file = history.index_dir.join(format!("{}-0.index", names.events));
    let header = || std::fs::read(&file).unwrap()[..16].to_vec();
    let query = Query {
        tenant: Some(event(0, "o").tenant),
        ..Query::default()
    };
    let read = || {
        let mut sink = Lines::new(Vec::new(), &names.events);
        replay(&history, &query, &mut sink, &mut |_| true)
            .unwrap()
            .events
    };
    append(&*log, &names.events, (0..3).map(admitted).collect()).unwrap();
    assert_eq!(read(), 3);
    let before = header();
    assert_eq!(read(), 3);
    assert_eq!(header(), before);
    kafka.make_anew(&*log, &names.events, 1);
    append(&*log, &names.events, (0..5).map(admitted).collect()).unwrap();
    assert_eq!(read(), 5);
    assert_ne!(header(), before);
}
