//! Runs a set of topologies: lanes for each stage, and a thread for each topology that starts them as soon as it can.

pub(crate) mod carried;
pub(crate) mod codec;
pub(crate) mod key;
pub(crate) mod limiter;
pub(crate) mod message;
pub(crate) mod stage;
mod validation;

use std::{
    collections::BTreeMap,
    sync::{Arc, mpsc},
    thread::JoinHandle,
};

use super::{
    Set,
    plan::{Input, Plan, Stage},
    run::stage::StageProcessor,
};
use crate::{
    base::{backoff::Backoff, clock::Clock, threads},
    controls::{Controls, SecretKeys},
    envelope::foreign::Schemas,
    log::{Cleanup, Log, LogError, TopicSpec, topics::Names},
    stream::{Processor, lane, progress::Progress},
};

const DAY_MS: i64 = 86_400_000;
const BACKOFF: Backoff = Backoff {
    first: std::time::Duration::from_millis(200),
    max: std::time::Duration::from_secs(10),
};

/// What topologies need to run.
#[derive(Clone)]
pub struct Setup {
    /// The log.
    pub log: Arc<dyn Log>,
    /// The names of OmniLink's own topics.
    pub names: Names,
    /// For timers, and to bound timestamps that foreign producers set.
    pub clock: Arc<dyn Clock>,
    /// Schemas of foreign Avro.
    pub schemas: Arc<dyn Schemas>,
    /// Partitions of topics that are created.
    pub partitions: u32,
    /// Whether missing topics of OmniLink's own are created.
    pub provision: bool,
    /// Whether foreign topics are created too: on the embedded log nobody else can.
    pub make_foreign: bool,
    /// Lanes of each stage, which share its partitions. The embedded log has one.
    pub lanes: usize,
}

/// The topologies that run. Dropping it stops them after the transactions in hand.
pub struct Deployment {
    setup: Setup,
    given: Given,
    running: BTreeMap<String, Running>,
}

/// What topologies run without, too.
#[derive(Clone, Default)]
struct Given {
    secrets: Option<Arc<SecretKeys>>,
    controls: Option<Arc<Controls>>,
}

/// What a change of the set has changed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Deployed {
    /// New, or changed and started again.
    pub started: Vec<String>,
    /// Topologies whose files are gone: their lanes were stopped.
    pub stopped: Vec<String>,
    /// Unchanged: they go on.
    pub kept: Vec<String>,
}

struct Running {
    plan: Arc<Plan>,
    progress: Vec<(String, Arc<Progress>)>,
    /// Dropped first: it tells the thread to stop.
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            threads::join(thread);
        }
    }
}

impl Deployment {
    /// Nothing runs yet.
    pub fn new(setup: Setup) -> Self {
        Self {
            setup,
            given: Given::default(),
            running: BTreeMap::new(),
        }
    }

    /// With the keys that marks of redriven records are signed with: without them no mark counts.
    #[must_use]
    pub fn with_secrets(mut self, secrets: Arc<SecretKeys>) -> Self {
        self.given.secrets = Some(secrets);
        self
    }

    /// Held by the kill switch of these controls.
    #[must_use]
    pub fn with_controls(mut self, controls: Arc<Controls>) -> Self {
        self.given.controls = Some(controls);
        self
    }

    /// Starts, restarts and stops topologies so that those of the set run. Unchanged ones go on.
    pub fn deploy(&mut self, set: &Set) -> std::io::Result<Deployed> {
        let mut deployed = Deployed::default();
        let wanted = |name: &str| set.plans.iter().find(|plan| plan.name == name);
        let gone: Vec<String> = self
            .running
            .keys()
            .filter(|name| wanted(name).is_none())
            .cloned()
            .collect();
        for name in gone {
            self.running.remove(&name);
            deployed.stopped.push(name);
        }
        for plan in &set.plans {
            let name = plan.name.clone();
            match self.running.get(&name) {
                Some(running) if running.plan.is_same(plan) => {
                    deployed.kept.push(name);
                    continue;
                }
                // The old lanes end before the new ones take their places.
                Some(_) => drop(self.running.remove(&name)),
                None => {}
            }
            self.running
                .insert(name.clone(), start(plan, &self.setup, &self.given)?);
            deployed.started.push(name);
        }
        Ok(deployed)
    }

    /// Stops them all after the transactions in hand.
    pub fn stop(&mut self) {
        self.running.clear();
    }

    /// The processors that run, and the state of each.
    pub fn progress(&self) -> Vec<(String, Arc<Progress>)> {
        self.running
            .values()
            .flat_map(|running| running.progress.iter().cloned())
            .collect()
    }
}

fn start(plan: &Arc<Plan>, setup: &Setup, given: &Given) -> std::io::Result<Running> {
    let progress: Vec<(String, Arc<Progress>)> = plan
        .stages
        .iter()
        .map(|stage| {
            let progress = Progress::new(Arc::clone(&setup.clock));
            (stage.processor.clone(), Arc::new(progress))
        })
        .collect();
    let (stop, stopped) = mpsc::channel();
    let (name, told) = (plan.name.clone(), progress.clone());
    let (plan_there, setup, given) = (Arc::clone(plan), setup.clone(), given.clone());
    let thread = std::thread::Builder::new()
        .name(format!("topology-{name}"))
        .spawn(move || keep(&plan_there, &setup, &given, &told, &stopped))?;
    Ok(Running {
        plan: Arc::clone(plan),
        progress,
        stop: Some(stop),
        thread: Some(thread),
    })
}

/// Why the lanes of a topology do not run yet.
#[derive(Debug, thiserror::Error)]
enum NotStarted {
    /// A topic is not there, or not as it should be, or the log is away.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The operating system starts no more threads.
    #[error("a thread cannot be started: {0}")]
    Thread(std::io::Error),
}

/// Starts the lanes as soon as their topics are there, and holds them until told to stop.
fn keep(
    plan: &Plan,
    setup: &Setup,
    given: &Given,
    progress: &[(String, Arc<Progress>)],
    stopped: &mpsc::Receiver<()>,
) {
    let mut attempt = 0;
    let starting: Vec<_> = progress.iter().map(|(_, one)| one.lane()).collect();
    loop {
        match lanes(plan, setup, given, progress) {
            Ok(lanes) => {
                // From here on the lanes report how they are.
                drop(starting);
                // Nothing is ever sent: it ends when the other side is dropped.
                let _ = stopped.recv();
                for lane in &lanes {
                    lane.stop();
                }
                return;
            }
            Err(error) => {
                let pause = BACKOFF.pause(attempt);
                tracing::warn!(topology = plan.name, %error, ?pause, "the topology cannot be started and tries again");
                for progress in &starting {
                    match &error {
                        // Nobody but its owner makes a foreign topic.
                        NotStarted::Log(LogError::UnknownTopic(_)) => {
                            progress.waiting(error.to_string());
                        }
                        _ => progress.retrying(error.to_string()),
                    }
                }
                attempt += 1;
                if stopped.recv_timeout(pause) != Err(mpsc::RecvTimeoutError::Timeout) {
                    return;
                }
            }
        }
    }
}

fn lanes(
    plan: &Plan,
    setup: &Setup,
    given: &Given,
    progress: &[(String, Arc<Progress>)],
) -> Result<Vec<lane::Running>, NotStarted> {
    provision(plan, setup)?;
    // The last stage first: it processes what is between the stages before more comes.
    let mut running = Vec::new();
    for (stage, (_, progress)) in plan.stages.iter().zip(progress).rev() {
        let (schemas, clock) = (Arc::clone(&setup.schemas), Arc::clone(&setup.clock));
        let secrets = given.secrets.clone();
        let processor = StageProcessor::new(plan, stage, &setup.names, schemas, clock, secrets)
            .with_controls(given.controls.clone());
        let processor = Arc::new(processor);
        for _ in 0..setup.lanes {
            let lane = lane::start(
                Arc::clone(&processor) as Arc<dyn Processor>,
                lane::Setup {
                    log: Arc::clone(&setup.log),
                    dlq: Arc::clone(&setup.names.dlq),
                    clock: Arc::clone(&setup.clock),
                    progress: Arc::clone(progress),
                },
            )
            .map_err(NotStarted::Thread)?;
            running.push(lane);
        }
    }
    Ok(running)
}

/// Creates or checks the topics of a topology.
fn provision(plan: &Plan, setup: &Setup) -> Result<(), LogError> {
    let week = Cleanup::Delete {
        retention_ms: 7 * DAY_MS,
    };
    let spec = |name: &Arc<str>, cleanup| TopicSpec {
        name: Arc::clone(name),
        partitions: setup.partitions,
        cleanup,
    };
    if setup.make_foreign {
        let sources = plan.stages.iter().filter_map(|stage| match &stage.input {
            Input::Foreign(topic) => Some(Arc::clone(topic)),
            _ => None,
        });
        let sinks = plan
            .foreign_sinks
            .iter()
            .map(|topic| Arc::from(topic.as_str()));
        let foreign: Vec<_> = sources
            .chain(sinks)
            .map(|topic| spec(&topic, week))
            .collect();
        setup.log.provision(&foreign, true)?;
    }
    let mut own = Vec::new();
    for stage in &plan.stages {
        if let Input::Rekeyed(topic) = &stage.input {
            own.push(spec(topic, week));
        }
    }
    setup.log.provision(&own, setup.provision)?;
    let mut states = Vec::new();
    for stage in plan.stages.iter().filter(|stage| stage.is_stateful()) {
        let name = setup.names.state(&stage.processor);
        states.push(TopicSpec {
            partitions: state_partitions(&*setup.log, stage, &name)?,
            name,
            cleanup: state_cleanup(stage),
        });
    }
    setup.log.provision(&states, setup.provision)?;
    warn_of_ageing(&*setup.log, &states);
    Ok(())
}

/// As many as the input has; more do no harm. Fewer, where a foreign topic has grown, are refused.
fn state_partitions(log: &dyn Log, stage: &Stage, state: &str) -> Result<u32, LogError> {
    let topic = stage.input.topic();
    let partitions = log.partitions(topic)?;
    let found = match log.describe(state) {
        Err(LogError::UnknownTopic(_)) => None,
        described => described?,
    };
    match found {
        Some(found) if found.partitions < partitions => Err(LogError::Grown {
            topic: topic.to_string(),
            partitions,
            processor: stage.processor.clone(),
            changelog: state.to_owned(),
            changelog_partitions: found.partitions,
        }),
        Some(found) => Ok(found.partitions),
        None => Ok(partitions),
    }
}

/// Rows of a dedupe window expire by age. Rows of a limit (records that wait, admissions, timers) may be needed at any age, as when nothing
/// runs for weeks: a changelog with both drops nothing by age, and the window deletes its rows ([`crate::state::Window::log_deletes`]).
fn state_cleanup(stage: &Stage) -> Cleanup {
    match stage.dedupe_window_ms() {
        Some(window_ms) if stage.limits().next().is_none() => Cleanup::CompactDelete {
            retention_ms: window_ms.saturating_mul(2).max(2 * DAY_MS),
        },
        _ => Cleanup::Compact,
    }
}

/// Warns of changelogs made for other steps, or by an earlier build, whose settings would drop rows by age that are still needed.
fn warn_of_ageing(log: &dyn Log, states: &[TopicSpec]) {
    for spec in states
        .iter()
        .filter(|spec| spec.cleanup == Cleanup::Compact)
    {
        if let Ok(Some(found)) = log.cleanup(&spec.name)
            && found != Cleanup::Compact
        {
            tracing::warn!(
                topic = %spec.name,
                found = %found,
                "rows of limits would be dropped by age; set it with `kafka-configs.sh --alter --entity-type topics --entity-name {} --add-config cleanup.policy=compact`",
                spec.name
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{
        SourceFile, plan,
        syntax::{file, problem::Problems},
    };

    /// The cleanup policy of the changelog of a stage with these steps.
    fn cleanup(steps: &str) -> Vec<Cleanup> {
        let text = format!(
            "name: t\nsource: {{ topic: events, key: [id] }}\nsteps: [ {steps}, route: [ {{ to: out }} ] ]\n"
        );
        let file = Arc::new(SourceFile {
            name: "t.yaml".into(),
            text,
        });
        let topology = file::read(&file, &mut Problems::of(Arc::clone(&file))).unwrap();
        let plan = plan::plan(&topology, "omnilink.").unwrap();
        plan.stages
            .iter()
            .map(|stage| state_cleanup(stage))
            .collect()
    }

    #[test]
    fn no_row_of_a_limit_is_dropped_by_age() {
        let (dedupe, limit) = (
            "dedupe: { window: 24h }",
            "rate_limit: { policy: p, limit: 1, window: 1s, over: defer }",
        );
        assert_eq!(cleanup(limit), [Cleanup::Compact]);
        assert_eq!(cleanup(&format!("{dedupe}, {limit}")), [Cleanup::Compact]);
        let retention_ms = 2 * DAY_MS;
        assert_eq!(cleanup(dedupe), [Cleanup::CompactDelete { retention_ms }]);
    }
}
