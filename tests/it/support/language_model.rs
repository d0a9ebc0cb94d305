//! An OpenAI-compatible server whose answers a test chooses, and a planner on a node.

use std::{path::PathBuf, sync::Arc, time::Duration};

use omnilink::{
    commands::{
        Command,
        plan::{KIND, PlanAnswer},
    },
    config::{BreakerSettings, Config, LanguageModel, Sources},
    log::{Append, Log},
    planner::{self, EffectParts, Following, Planner, Settings},
    runs::{Json, PlanInputs, PlanRecord, PlanRequest},
    stream::{effect, progress::Progress},
    workflows::check_texts,
};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{
    port::Node,
    read_all,
    worker::{Got, Worker, answer},
};

/// What the server answers next: a status and a body, or nothing for a while.
#[derive(Clone, Debug)]
pub enum Says {
    /// A completion with this text.
    Text(String),
    /// A status, and the seconds of `Retry-After`.
    Status(u16, Option<u32>),
    /// Nothing.
    Silence,
}

impl Says {
    pub fn plan(plan: &Value) -> Self {
        Self::Text(plan.to_string())
    }
}

/// A server; the last of its answers is repeated.
pub struct LanguageServer {
    worker: Worker,
}

impl LanguageServer {
    pub async fn start(says: &[Says]) -> Self {
        let next = Arc::new(Mutex::new(says.to_vec()));
        let worker = Worker::start(move |_| {
            let says = {
                let mut next = next.lock();
                if next.len() > 1 {
                    next.remove(0)
                } else {
                    next[0].clone()
                }
            };
            Box::pin(async move {
                match says {
                    Says::Text(text) => {
                        let body = json!({
                            "choices": [{ "message": { "role": "assistant", "content": text }, "finish_reason": "stop" }],
                            "usage": { "prompt_tokens": 100, "completion_tokens": 20 }
                        });
                        answer(200, &[("content-type", "application/json")], body.to_string())
                    }
                    Says::Status(status, after) => {
                        let after = after.map(|seconds| seconds.to_string());
                        let headers = after.as_deref().map(|after| ("retry-after", after));
                        answer(status, headers.as_slice(), r#"{"error":{"code":"no_luck"}}"#)
                    }
                    Says::Silence => {
                        tokio::time::sleep(Duration::from_secs(30)).await;
                        answer(500, &[], "")
                    }
                }
            })
        })
        .await;
        Self { worker }
    }

    pub fn got(&self) -> Vec<Got> {
        self.worker.got()
    }

    /// As an item of `planner`.
    pub fn item(&self, model: &str) -> Value {
        json!({
            "url": self.worker.url("/v1"), "model": model, "api_key": "sk-hush", "timeout_s": 1,
            "price": { "input": 10.0, "output": 50.0 }
        })
    }
}

/// The settings of a configuration, without embeddings unless there is a folder with the model.
pub fn settings(config: &Value, model_dir: Option<PathBuf>) -> Settings {
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("omnilink.yaml");
    std::fs::write(&file, config.to_string()).unwrap();
    let sources = Sources {
        file: Some(file),
        ..Sources::default()
    };
    let config = Config::load(&sources).unwrap_or_else(|e| panic!("{e}"));
    Settings {
        model_dir,
        breaker: BreakerSettings::default(),
        ..Settings::of(&config)
    }
}

/// The models of a configuration.
pub fn models(items: &[Value]) -> Vec<LanguageModel> {
    settings(&json!({ "planner": items }), None).models
}

/// A running planner.
pub struct Planning {
    pub planner: Planner,
    _effect: effect::Running,
    _following: Following,
}

/// Puts tools and workflows in force: each the text of a file.
pub fn put_files(node: &Node, tools: &[&str], workflows: &[&str]) {
    let files = |texts: &[&str]| {
        let texts = texts.iter().enumerate();
        let files = texts.map(|(n, text)| (format!("{n}.yaml"), Ok((*text).to_owned())));
        files.collect::<Vec<_>>()
    };
    let checked = check_texts(files(tools), files(workflows));
    let problems: Vec<_> = checked.problems.iter().map(|p| p.render(false)).collect();
    assert_eq!(problems, Vec::<String>::new());
    node.workflows.replace(checked.catalog.unwrap());
}

/// Starts to plan the goals of a node, whose planner it is.
pub fn start(node: &Node) -> Planning {
    let log: Arc<dyn Log> = node.log.clone();
    let planner = node.planner.clone();
    let following = planner.follow(&log, &node.names).unwrap();
    let parts = EffectParts {
        controls: node.controls.clone(),
        drain: Duration::from_secs(1),
    };
    let effect = planner.start(parts, &log, &node.names, Arc::<Progress>::default());
    Planning {
        planner,
        _effect: effect.unwrap(),
        _following: following,
    }
}

/// A request for a plan. The run has this number.
pub fn request(run: u32, goal: &str) -> PlanRequest {
    request_with(run, goal, |_| {})
}

pub fn request_with(run: u32, goal: &str, change: impl FnOnce(&mut PlanInputs)) -> PlanRequest {
    let now = omnilink::base::clock::Clock::now(&omnilink::base::clock::SystemClock);
    let mut inputs = PlanInputs {
        params: Json::empty_object(),
        context: None,
        received_at: now.0,
        allowed_workflows: Vec::new(),
    };
    change(&mut inputs);
    PlanRequest {
        tenant: "acme".into(),
        run_id: run_id(run),
        seq: 2,
        at: now.0,
        goal: goal.into(),
        inputs: serde_json::to_string(&inputs).unwrap(),
    }
}

pub fn run_id(run: u32) -> String {
    format!("00000000-0000-5000-8000-{run:012}")
}

/// Appends requests.
pub async fn ask(node: &Node, requests: &[PlanRequest]) {
    let records = requests.iter().map(|request| Append {
        topic: node.names.goals.clone(),
        record: request.encode().unwrap(),
    });
    node.log
        .append(records.collect(), None)
        .await
        .unwrap()
        .unwrap();
}

/// Appends records of `plans`.
pub async fn put_plans(node: &Node, records: &[PlanRecord]) {
    let records = records.iter().map(|record| Append {
        topic: node.names.plans.clone(),
        record: record.encode().unwrap(),
    });
    node.log
        .append(records.collect(), None)
        .await
        .unwrap()
        .unwrap();
}

/// The answer to the request of a run.
pub async fn answer_for(node: &Node, run: u32) -> PlanAnswer {
    for _ in 0..400 {
        let (log, topic) = (node.log.clone(), node.names.commands.to_string());
        let read = move || read_all(&*log, &topic, 0);
        let records = tokio::task::spawn_blocking(read).await.unwrap();
        let commands = records
            .iter()
            .filter_map(|fetched| Command::decode(fetched.record.value.as_deref()?));
        let mut answers = commands.filter(|c| c.run_id == run_id(run) && c.kind == KIND);
        if let Some(command) = answers.next() {
            assert_eq!(command.principal, planner::NAME);
            assert!(answers.next().is_none(), "one answer");
            return serde_json::from_str(&command.body).unwrap();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("no answer for run {run}");
}

/// Plans a goal.
pub async fn planned(node: &Node, request: &PlanRequest) -> PlanAnswer {
    ask(node, std::slice::from_ref(request)).await;
    let run = request.run_id.rsplit('-').next().unwrap().parse().unwrap();
    answer_for(node, run).await
}

/// The plan of an answer.
pub fn plan_of(answer: &PlanAnswer) -> Value {
    let planned = answer.planned.as_ref();
    let planned = planned.unwrap_or_else(|| panic!("{:?}", answer.error));
    serde_json::from_str(planned.steps.get()).unwrap()
}

/// Why there is no plan.
pub fn why_not(answer: &PlanAnswer) -> &str {
    let error = answer.error.as_ref().expect("no plan");
    assert_eq!(error.code, "no_plan");
    &error.message
}

/// The verdicts of the stages.
pub fn stages(answer: &PlanAnswer) -> Vec<String> {
    let lookup = answer.found.lookup.as_ref().unwrap().value();
    let stages = lookup["stages"].as_array().unwrap().iter();
    let text = |stage: &Value, name: &str| stage[name].as_str().unwrap().to_owned();
    stages
        .map(|stage| format!("{} {}", text(stage, "stage"), text(stage, "verdict")))
        .collect()
}
