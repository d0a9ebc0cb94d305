//! Runs the tests of topology files: the real lanes, three partitions of an embedded log in memory, and a clock that stands still
//! until a test says that time passes.

pub(crate) mod compare;

use std::{
    fmt::Write,
    io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    Deployment, Set, Setup,
    plan::{Input, Plan},
    rehearsal::compare::{ActualRecord, actual_record, compare},
    run::message::Message,
    syntax::trial::{Given, Trial},
};
use crate::{
    base::{
        clock::{Clock, ManualClock, Millis},
        id::{BadTenant, Tenant},
    },
    envelope::{Form, Invalid, avro, foreign::NoRegistry, parse_structured},
    log::{
        Append, Cleanup, Fetched, Log, LogError, Record, TopicSpec, header,
        local::{LocalError, LocalLog, LocalOptions},
        topics::Names,
    },
    stream::{Origin, progress::Progress},
};

/// How long a test may take to come to rest, in real time.
const DEADLINE: Duration = Duration::from_secs(30);
/// 2025-01-01T00:00:00Z: when every test begins.
const BEGIN: Millis = Millis(1_735_689_600_000);
const PARTITIONS: u32 = 3;
/// The most clock advances in one test.
const MOST_MOVES: usize = 100_000;
/// The prefix of the topics of a test.
const PREFIX: &str = "omnilink.";

/// The result of one test.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Outcome {
    /// The path of the topology file.
    pub file: String,
    /// The line of the test's name.
    pub line: usize,
    /// The name of the test.
    pub name: String,
    /// The differences from the expectation, a line each; empty: the test has passed.
    pub diff: Vec<String>,
    /// The duration, in milliseconds.
    pub ms: u64,
}

impl Outcome {
    /// Whether the test has passed.
    pub fn passed(&self) -> bool {
        self.diff.is_empty()
    }
}

/// Runs all tests of a set, one after another.
pub fn run(set: &Set, mut told: impl FnMut(&Outcome)) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for plan in &set.plans {
        for trial in &plan.tests {
            let began = Instant::now();
            let diff = match rehearse(set, plan, trial) {
                Ok(diff) => diff,
                Err(error) => vec![error.to_string()],
            };
            let at = &plan.source_text.text[..trial.name.span.start];
            let outcome = Outcome {
                file: plan.file.clone(),
                line: at.matches('\n').count() + 1,
                name: trial.name.value.clone(),
                diff,
                ms: began.elapsed().as_millis() as u64,
            };
            told(&outcome);
            outcomes.push(outcome);
        }
    }
    outcomes
}

/// One topology on a log of its own.
struct Stage {
    log: Arc<LocalLog>,
    clock: Arc<ManualClock>,
    names: Names,
    deployment: Deployment,
}

/// Whether anything is left to do.
enum Rest {
    Busy,
    /// Nothing, until the next timer is due.
    Until(Option<Millis>),
}

/// Why a test could not be run.
#[derive(Debug, thiserror::Error)]
enum NotRun {
    /// No folder for its log, or no thread for its lanes.
    #[error("the test could not be run: {0}")]
    System(#[from] io::Error),
    #[error("the test could not be run: {0}")]
    Log(#[from] LogError),
    /// A header of a given record names none.
    #[error("the test could not be run: {0}")]
    Tenant(#[from] BadTenant),
    /// The source is `events`, and what is given is none.
    #[error("the test could not be run: no event is given: {0}")]
    Event(#[from] Invalid),
    #[error(
        "the test could not be run: the clock was moved {MOST_MOVES} times, and timers are still due"
    )]
    TooManyTimers,
    /// Lanes neither end nor say that they wait; a lane's own words, if it has any.
    #[error("the test could not be run: {}", .0.as_deref().unwrap_or("its processors did not become idle"))]
    Restless(Option<String>),
}

fn rehearse(set: &Set, plan: &Arc<Plan>, trial: &Trial) -> Result<Vec<String>, NotRun> {
    // In memory where the system has such a folder.
    let memory = Path::new("/dev/shm");
    let folder = tempfile::Builder::new()
        .prefix("omnilink-test-")
        .tempdir_in(memory)
        .or_else(|_| tempfile::tempdir())?;
    let clock = Arc::new(ManualClock::at(BEGIN));
    let mut options = LocalOptions::new(Arc::<ManualClock>::clone(&clock));
    options.min_free_bytes = 1 << 20;
    let log = Arc::new(LocalLog::open(folder.path(), options)?);
    let names = Names::new(PREFIX);
    let own = [&names.ingress, &names.events, &names.throttled, &names.dlq];
    let specs = own.map(|name| TopicSpec {
        name: Arc::clone(name),
        partitions: PARTITIONS,
        cleanup: Cleanup::Keep,
    });
    log.provision(&specs, true)?;
    let setup = Setup {
        log: Arc::<LocalLog>::clone(&log),
        names: names.clone(),
        clock: Arc::<ManualClock>::clone(&clock),
        schemas: Arc::new(NoRegistry),
        partitions: PARTITIONS,
        provision: true,
        make_foreign: true,
        lanes: 1,
    };
    let mut deployment = Deployment::new(setup);
    // What a test gives of Avro is its JSON.
    let plan = &Arc::new(Plan {
        codec: plan.codec.in_tests(),
        ..Plan::clone(plan)
    });
    let alone = Set {
        plans: vec![Arc::clone(plan)],
        system: set.system.clone(),
    };
    deployment.deploy(&alone)?;
    let stage = Stage {
        log,
        clock,
        names,
        deployment,
    };
    let diff = stage.play(plan, trial);
    // The lanes before their log.
    drop(stage);
    diff
}

impl Stage {
    fn play(&self, plan: &Plan, trial: &Trial) -> Result<Vec<String>, NotRun> {
        for (number, given) in trial.given.iter().enumerate() {
            self.pass(plan, given.after_ms)?;
            let append = self.record(plan, given, number)?;
            self.append(append)?;
        }
        self.pass(plan, 0)?;
        self.pass(plan, trial.wait_ms)?;
        let mut diff = Vec::new();
        for (topic, expected) in &trial.then {
            let actual = self.read(&topic.value)?;
            compare(
                &topic.value,
                PARTITIONS as usize,
                expected,
                &actual,
                &mut diff,
            );
        }
        let dead = self.read("dlq")?;
        let asked = trial.then.iter().any(|(topic, _)| topic.value == "dlq");
        if !diff.is_empty() && !asked {
            for record in dead {
                let why = format!(
                    "{}: {}",
                    text(&record.value["code"]),
                    text(&record.value["message"])
                );
                diff.push(format!("  note: a record went to the dead letters, {why}"));
            }
        }
        Ok(diff)
    }

    fn append(&self, append: Append) -> Result<(), NotRun> {
        let answer = self.log.append(vec![append], None).blocking_recv();
        let stopped = |_| LogError::from(LocalError::Stopped);
        answer.map_err(stopped)??;
        Ok(())
    }

    /// A record of the source as its producer would send it.
    fn record(&self, plan: &Plan, given: &Given, number: usize) -> Result<Append, NotRun> {
        let mut headers: Vec<_> = given
            .headers
            .iter()
            .map(|(name, value)| (name.clone(), Some(value.clone().into())))
            .collect();
        let first = &plan.stages[0];
        let (key, value) = if let Input::Events(_) = first.input {
            let tenant = header(&headers, crate::envelope::kafka::TENANT_HEADER);
            let tenant = tenant.map_or("default".into(), String::from_utf8_lossy);
            let tenant = Tenant::new(&tenant)?;
            let json = given.value.to_string();
            let now = self.clock.now();
            let event = parse_structured(json.as_bytes(), Form::OmniLink, &tenant, now)?.event;
            let mut out = Vec::new();
            avro::encode_event(&event, now, &mut out);
            headers.clear();
            (event.record_key(), Some(out.into()))
        } else {
            let value = match &given.value {
                Value::Null => None,
                value => Some(plan.codec.given(value)),
            };
            // Without a key, records would all lie on one partition here, and anywhere elsewhere.
            (number.to_string(), value)
        };
        let mut record = Record {
            key: Some(key.into()),
            value,
            headers,
        };
        if let Some(key) = &given.key {
            record.key = Some(key.clone().into());
        } else if let Some(fields) = &first.keyed_by
            && matches!(first.input, Input::Foreign(_))
        {
            // The file says what its producers key it by.
            let origin = Arc::new(Origin {
                topic: Arc::clone(first.input.topic()),
                record: Fetched {
                    topic: 0,
                    partition: 0,
                    offset: 0,
                    timestamp: self.clock.now(),
                    record: record.clone(),
                },
            });
            let decoded = Message::decode(&origin, &plan.codec, None, &NoRegistry);
            if let Ok(Ok(mut message)) = decoded.map(|parts| parts.into_iter().next().transpose())
                && let Some(message) = &mut message
                && message.set_key(fields).is_ok()
            {
                record.key.clone_from(&message.key);
            }
        }
        Ok(Append {
            topic: Arc::clone(first.input.topic()),
            record,
        })
    }

    /// Lets time pass, stopping wherever a timer is due, and waits until nothing is left to do.
    fn pass(&self, plan: &Plan, ms: i64) -> Result<(), NotRun> {
        let until = Millis(self.clock.now().0.saturating_add(ms));
        for _ in 0..MOST_MOVES {
            let next = self.settle(plan)?;
            let now = self.clock.now();
            if now >= until {
                return Ok(());
            }
            let stop = next.filter(|next| *next < until).unwrap_or(until);
            self.clock.advance((stop.0 - now.0).max(1));
        }
        Err(NotRun::TooManyTimers)
    }

    /// Waits until all lanes have read to their ends; says when the next timer is due.
    fn settle(&self, plan: &Plan) -> Result<Option<Millis>, NotRun> {
        let deadline = Instant::now() + DEADLINE;
        let progress = self.deployment.progress();
        loop {
            match self.next_timer(plan, &progress)? {
                Rest::Until(next) => return Ok(next),
                Rest::Busy if Instant::now() > deadline => {
                    let trouble = progress.iter().find_map(|(_, p)| p.trouble());
                    return Err(NotRun::Restless(trouble));
                }
                Rest::Busy => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    fn next_timer(
        &self,
        plan: &Plan,
        progress: &[(String, Arc<Progress>)],
    ) -> Result<Rest, LogError> {
        let now = self.clock.now();
        let mut first: Option<Millis> = None;
        // In the order in which records pass them: what one has committed, the next is seen to lack.
        for (stage, (_, progress)) in plan.stages.iter().zip(progress) {
            let topic = stage.input.topic();
            let positions = progress.positions();
            if positions.len() < PARTITIONS as usize {
                return Ok(Rest::Busy);
            }
            for (_, partition, next) in positions {
                if next < self.log.offset_range(topic, partition)?.end {
                    return Ok(Rest::Busy);
                }
            }
            let Some(timers) = progress.timers() else {
                return Ok(Rest::Busy);
            };
            if timers.at < now || timers.next.is_some_and(|next| next <= now) {
                return Ok(Rest::Busy);
            }
            first = [first, timers.next].into_iter().flatten().min();
        }
        Ok(Rest::Until(first))
    }

    /// Reads the records of a topic, ordered by time.
    fn read(&self, name: &str) -> Result<Vec<ActualRecord>, NotRun> {
        let topic = match name {
            "ingress" => &*self.names.ingress,
            "dlq" => &*self.names.dlq,
            "throttled" => &*self.names.throttled,
            foreign => foreign,
        };
        let mut all = Vec::new();
        for partition in 0..PARTITIONS {
            let end = self.log.offset_range(topic, partition)?.end;
            let mut reader = self.log.reader(topic)?;
            reader.assign(partition, 0)?;
            let mut read: Vec<Fetched> = Vec::new();
            while (read.len() as u64) < end {
                reader.poll(Duration::from_millis(100), &mut read)?;
            }
            all.append(&mut read);
        }
        all.sort_by_key(|f| (f.timestamp, f.partition, f.offset));
        let records = all.iter().map(|fetched| actual_record(name, fetched));
        Ok(records.collect())
    }
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// As lines for people.
pub fn render(outcome: &Outcome, colour: bool) -> String {
    let (green, red, off) = if colour {
        ("\x1b[32m", "\x1b[31m", "\x1b[0m")
    } else {
        ("", "", "")
    };
    let place = format!("{}:{}", outcome.file, outcome.line);
    if outcome.passed() {
        return format!(
            "{green}ok{off}      {place}: {} ({} ms)\n",
            outcome.name, outcome.ms
        );
    }
    let mut out = format!("{red}FAILED{off}  {place}: {}\n", outcome.name);
    for line in &outcome.diff {
        let mark = line.trim_start();
        let (on, end) = if mark.starts_with("- ") {
            (red, off)
        } else if mark.starts_with("+ ") {
            (green, off)
        } else {
            ("", "")
        };
        // A `String` never refuses text.
        let _ = writeln!(out, "  {on}{line}{end}");
    }
    out
}
