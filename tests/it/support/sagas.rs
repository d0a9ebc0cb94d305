//! Runs of the saga processor: starts and results by hand, histories read back.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use omnilink::{
    base::clock::SystemClock,
    commands::{
        Command,
        result::{RESULT, ResultError, StepOutcome, StepResult},
        start::{self, Constraints, PlanSource, Planned, Request, Start},
    },
    controls::Held,
    log::{Append, Log, Output, Record, topics::Names},
    plans::jcs,
    runs::{CallKind, Json, RunRecord, StepCommand, TaskState},
    saga::{Followers, Sagas, Settings},
    stream::{
        lane::{self, Running},
        progress::Progress,
    },
};
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};

use super::{TestLog, append, port::Node, read_all};

pub const PARTITIONS: u32 = 4;
pub const TENANT: &str = "acme";

/// The processor on a log, and what it works with.
pub struct Processor {
    pub log: Arc<dyn Log>,
    pub names: Names,
    pub followers: Followers,
    pub progress: Arc<Progress>,
    /// The controls that the node holds by itself.
    pub own_holds: Arc<Mutex<Held>>,
    settings: Settings,
    running: Option<Running>,
}

impl Processor {
    /// Makes the topics and starts the processor.
    pub fn start(test_log: &TestLog) -> Self {
        Self::start_with(test_log, Settings::default())
    }

    /// As [`Self::start`], with settings.
    pub fn start_with(test_log: &TestLog, settings: Settings) -> Self {
        let log = test_log.open("a");
        let names = Names::new(&test_log.prefix);
        log.provision(&names.specs(PARTITIONS), true).unwrap();
        let mut started = Self {
            log,
            names,
            followers: Followers::default(),
            progress: Arc::default(),
            own_holds: Arc::default(),
            settings: Settings {
                events: true,
                ..settings
            },
            running: None,
        };
        started.go_on(test_log);
        started
    }

    pub fn stop(&mut self) {
        self.running = None;
    }

    pub fn go_on(&mut self, test_log: &TestLog) {
        let sagas = Sagas::new(
            &self.names,
            PARTITIONS,
            self.settings.clone(),
            self.followers.clone(),
        );
        let own_holds = Arc::clone(&self.own_holds);
        let sagas = sagas.with_own_holds(move || *own_holds.lock().unwrap());
        self.running = Some(test_log.start_lane(&self.log, sagas, &self.progress));
    }

    /// Appends a command to the partition of its run.
    pub fn send(&self, command: &Command) -> (u32, u64) {
        let record = command.encode().unwrap();
        let position = append(&*self.log, &self.names.commands, vec![record]).unwrap()[0];
        (position.partition, position.offset)
    }

    /// Appends JSON, as a producer on Kafka does, to the partition of the run that it names.
    pub fn send_json(&self, json: &Value) {
        let record = Record {
            key: Some(json["run_id"].as_str().unwrap().to_owned().into()),
            value: Some(json.to_string().into()),
            headers: Vec::new(),
        };
        append(&*self.log, &self.names.commands, vec![record]).unwrap();
    }

    /// Appends a command to all partitions.
    pub fn send_to_all(&self, command: &Command) {
        let outputs = (0..PARTITIONS).map(|partition| Output {
            topic: self.names.commands.clone(),
            partition: Some(partition),
            record: command.encode().unwrap(),
        });
        self.log
            .append_to(outputs.collect(), None)
            .blocking_recv()
            .unwrap()
            .unwrap();
    }

    /// The histories of all runs, once there are so many records; each is complete and in order.
    pub fn histories(&self, at_least: usize) -> BTreeMap<String, Vec<RunRecord>> {
        let mut histories: BTreeMap<String, Vec<RunRecord>> = BTreeMap::new();
        for fetched in read_all(&*self.log, &self.names.runs, at_least) {
            let record = RunRecord::decode(fetched.record.value.as_deref().unwrap()).unwrap();
            let history = histories.entry(record.run_id.clone()).or_default();
            assert_eq!(record.seq as usize, history.len() + 1, "{record:?}");
            assert!(record.event().is_some(), "{record:?}");
            history.push(record);
        }
        histories
    }

    /// The history of a run, once its last record is of this type.
    pub fn history_until(&self, run: &str, last: &str) -> Vec<RunRecord> {
        for _ in 0..100 {
            let mut histories = self.histories(0);
            let history = histories.remove(run).unwrap_or_default();
            if history.last().is_some_and(|record| record.kind == last) {
                return history;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("no {last}: {:?}", types(&self.histories(0)[run]));
    }

    /// The calls for workers, in the order of their partitions, once there are so many.
    pub fn calls(&self, at_least: usize) -> Vec<StepCommand> {
        for _ in 0..100 {
            let records = read_all(&*self.log, &self.names.steps, at_least);
            let decoded = |value: Option<&[u8]>| StepCommand::decode(value.unwrap()).unwrap();
            let records = records.iter();
            let calls = records.map(|fetched| decoded(fetched.record.value.as_deref()));
            // Not what has become of tasks.
            let calls = calls.filter(|call| call.state.0 == TaskState::Scheduled);
            let calls: Vec<_> = calls.collect();
            if calls.len() >= at_least {
                return calls;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("fewer than {at_least} calls");
    }
}

/// Starts the processor on the log of a node.
pub fn start_sagas(node: &Node) -> Running {
    start_sagas_with(node, Settings::default())
}

/// The processor of runs on a node, with these settings.
pub fn start_sagas_with(node: &Node, settings: Settings) -> Running {
    let followers = node.followers.clone();
    let sagas = Sagas::new(&node.names, PARTITIONS, settings, followers);
    let setup = lane::Setup {
        log: node.log.clone(),
        dlq: node.names.dlq.clone(),
        clock: Arc::new(SystemClock),
        progress: Arc::<Progress>::default(),
    };
    lane::start(Arc::new(sagas), setup).unwrap()
}

/// Appends a command to the log of a node.
pub async fn append_command(node: &Node, command: &Command) {
    let append = Append {
        topic: node.names.commands.clone(),
        record: command.encode().unwrap(),
    };
    let appended = node.log.append(vec![append], None);
    appended.await.unwrap().unwrap();
}

/// The types of a history.
pub fn types(history: &[RunRecord]) -> Vec<&str> {
    history.iter().map(|record| record.kind.as_str()).collect()
}

/// A command for a run.
pub fn command(run: &str, kind: &str, body: &Value) -> Command {
    Command {
        tenant: TENANT.into(),
        run_id: run.into(),
        kind: kind.into(),
        at: 1_000_000,
        principal: "ann".into(),
        on_behalf_of: None,
        traceparent: None,
        tracestate: None,
        body: body.to_string(),
    }
}

/// The start of a run with the plan of the sender; the id names it. Returns the run's id too.
pub fn start(id: &str, plan: &Value, tools: &[Value], params: &Value) -> (String, Command) {
    started(&Start {
        body_hash: jcs::hash(&json!([plan, params]))[..32].to_owned(),
        request: Request::Workflow,
        params: Some(to_raw_value(params).unwrap()),
        plan: Some(planned(PlanSource::Inline, plan)),
        tools: definitions(tools),
        ..blank(id)
    })
}

/// The start of the run of a goal; the id names it. Returns the run's id too.
pub fn goal(id: &str, goal: &str, params: &Value) -> (String, Command) {
    goal_with(id, goal, params, |_| {})
}

/// As [`goal`], with changes.
pub fn goal_with(
    id: &str,
    goal: &str,
    params: &Value,
    change: impl FnOnce(&mut Start),
) -> (String, Command) {
    let mut start = Start {
        body_hash: jcs::hash(&json!([goal, params]))[..32].to_owned(),
        request: Request::Goal,
        params: Some(to_raw_value(params).unwrap()),
        goal: Some(goal.into()),
        ..blank(id)
    };
    change(&mut start);
    started(&start)
}

fn started(start: &Start) -> (String, Command) {
    let run = start::run_id(&start.identity).to_string();
    let body: Value = serde_json::from_str(&start.encode().unwrap()).unwrap();
    let command = command(&run, start::KIND, &body);
    (run, command)
}

/// A plan of this source.
pub fn planned(source: PlanSource, plan: &Value) -> Planned {
    Planned {
        source,
        hash: jcs::hash(plan),
        steps: to_raw_value(plan).unwrap(),
    }
}

/// The definitions of tools, by name.
pub fn definitions(tools: &[Value]) -> BTreeMap<String, Box<RawValue>> {
    let tools = tools.iter().map(|tool| {
        let name = tool["name"].as_str().unwrap().to_owned();
        (name, to_raw_value(tool).unwrap())
    });
    tools.collect()
}

/// A start without plan and goal.
fn blank(id: &str) -> Start {
    Start {
        version: start::VERSION,
        identity: ["run", TENANT, id].map(str::to_owned).to_vec(),
        body_hash: String::new(),
        request: Request::Workflow,
        kind: "test".into(),
        id: id.into(),
        source: "/test".into(),
        received_at: 1_000_000,
        run_at: None,
        params: None,
        workflow: None,
        plan: None,
        tools: BTreeMap::new(),
        goal: None,
        guardian: None,
        sealed: None,
        context: None,
        adapter: None,
        entity: None,
        correlation_id: None,
        causation_id: None,
        approval_required: false,
        constraints: Constraints::default(),
        depth: 0,
        from_ingress: false,
        retry: None,
        slots: BTreeMap::new(),
        found: None,
    }
}

/// A tool whose calls workers claim; harmless.
pub fn claimed(name: &str) -> Value {
    json!({
        "name": name, "description": "a tool", "worker": { "claim": {} }, "kind": "write", "risk": { "lane": "safe" }
    })
}

/// The result of a call.
pub fn result(call: &StepCommand, output: Result<Value, (&str, bool)>) -> Command {
    let error = output.as_ref().err().map(|(code, retryable)| ResultError {
        code: (*code).to_owned(),
        message: "it failed".into(),
        retryable: *retryable,
    });
    let result = StepResult {
        step_id: call.step_id.clone(),
        attempt: call.attempt as u32,
        kind: call.kind(),
        outcome: if error.is_some() {
            StepOutcome::Failed
        } else {
            StepOutcome::Succeeded
        },
        output: output.ok().map(|output| Json::of(&output)),
        error,
        retry_after_ms: None,
        answered: true,
    };
    command(&call.run_id, RESULT, &serde_json::to_value(result).unwrap())
}

/// Whether a call undoes a step.
pub fn undoes(call: &StepCommand) -> bool {
    call.kind() == CallKind::Compensate
}
