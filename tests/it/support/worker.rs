//! Steps for workers, and a worker that a test programs.

use std::{
    convert::Infallible, future::Future, net::SocketAddr, pin::Pin, sync::Arc, time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Request, Response, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use omnilink::{
    base::clock::{Clock, SystemClock},
    commands::{
        Command,
        result::{HELD, RESULT, StepHeld, StepResult},
    },
    config,
    controls::SecretKeys,
    limits::Limiter,
    log::{Append, Log},
    runs::{CallKind, CallKindName, StepCommand, idempotency_key},
    stream::{effect, progress::Progress},
    workers::{self, DatabaseTools, Parts, Results},
    workflows::check_texts,
};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::net::TcpListener;

use super::{port::Node, read_all};

/// What a worker got.
#[derive(Clone, Debug)]
pub struct Got {
    pub path: String,
    pub method: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Got {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }
}

pub type Answers = Pin<Box<dyn Future<Output = Response<Full<Bytes>>> + Send>>;

/// An HTTP worker.
pub struct Worker {
    pub address: SocketAddr,
    got: Arc<Mutex<Vec<Got>>>,
    connections: Arc<Mutex<usize>>,
    served: tokio::task::JoinHandle<()>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.served.abort();
    }
}

/// An answer with a status, headers and a body.
pub fn answer(
    status: u16,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(Full::new(body.into())).unwrap()
}

impl Worker {
    /// Answers each request as `answers` says.
    pub async fn start(answers: impl Fn(Got) -> Answers + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (got, connections) = (
            Arc::<Mutex<Vec<Got>>>::default(),
            Arc::<Mutex<usize>>::default(),
        );
        let (seen, counted, answers) = (got.clone(), connections.clone(), Arc::new(answers));
        let served = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                *counted.lock() += 1;
                let (seen, answers) = (seen.clone(), answers.clone());
                let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                    let (seen, answers) = (seen.clone(), answers.clone());
                    async move {
                        let (head, body) = request.into_parts();
                        let got = Got {
                            path: head.uri.path().to_owned(),
                            method: head.method.to_string(),
                            headers: head.headers,
                            body: body.collect().await.unwrap().to_bytes(),
                        };
                        seen.lock().push(got.clone());
                        Ok::<_, Infallible>(answers(got).await)
                    }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self {
            address,
            got,
            connections,
            served,
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The calls so far.
    pub fn got(&self) -> Vec<Got> {
        self.got.lock().clone()
    }

    /// How many connections were made.
    pub fn connections(&self) -> usize {
        *self.connections.lock()
    }
}

/// Puts tools in force: each the text of a file.
pub fn put_tools(node: &Node, files: &[String]) {
    let files = files.iter().enumerate();
    let files = files.map(|(n, text)| (format!("{n}.yaml"), Ok(text.clone())));
    let checked = check_texts(
        files,
        std::iter::empty::<(String, Result<String, std::io::Error>)>(),
    );
    let problems: Vec<_> = checked.problems.iter().map(|p| p.render(false)).collect();
    assert_eq!(problems, Vec::<String>::new());
    node.workflows.replace(checked.catalog.unwrap());
}

/// Starts to carry out the calls of a node, on the runtime of the caller.
pub fn start(node: &Node, allowed_hosts: &[&str]) -> effect::Running {
    start_with(node, allowed_hosts, Duration::from_secs(1))
}

pub fn start_with(node: &Node, allowed_hosts: &[&str], drain: Duration) -> effect::Running {
    start_all(
        node,
        allowed_hosts,
        drain,
        &config::DatabaseTools::default(),
    )
}

/// With these databases of builtin tools.
pub fn start_all(
    node: &Node,
    allowed_hosts: &[&str],
    drain: Duration,
    databases: &config::DatabaseTools,
) -> effect::Running {
    let log: Arc<dyn Log> = node.log.clone();
    let parts = Parts {
        clock: Arc::new(SystemClock),
        controls: node.controls.clone(),
        secrets: Arc::new(SecretKeys::open_or_create(node.dir.path()).unwrap()),
        tools: node.tool_states.clone(),
        limiter: Limiter::in_memory(Arc::new(SystemClock)),
        results: Results::start(&log, node.names.commands.clone()),
        allowed_hosts: allowed_hosts.iter().map(ToString::to_string).collect(),
        database_tools: DatabaseTools::new(databases).unwrap(),
        drain,
    };
    workers::start(parts, &log, &node.names, Arc::<Progress>::default()).unwrap()
}

/// A call of a step, with half a minute to go.
pub fn step(id: &str, tool: &str, worker: &Value, input: &Value) -> StepCommand {
    let run_id = "7dbd6d41-6f85-5f7b-98af-6637f5372c2e";
    let now = SystemClock.now().0;
    StepCommand {
        tenant: "acme".into(),
        run_id: run_id.into(),
        workflow: Some("expense".into()),
        step_id: id.into(),
        attempt: 1,
        kind: CallKindName(CallKind::Execute),
        tool: tool.into(),
        worker: worker.to_string(),
        input: input.to_string(),
        idempotency_key: idempotency_key(run_id, id, CallKind::Execute),
        deadline: now + 30_000,
        at: now,
        task_id: format!("{run_id}:{id}:execute:1"),
        lease: None,
        execute: None,
        error: None,
        timeout_ms: None,
        limit_key: None,
        state: omnilink::runs::TaskStateName::default(),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        tracestate: None,
        sealed: None,
    }
}

/// Appends calls to `steps`.
pub async fn send(node: &Node, steps: &[StepCommand]) {
    let records = steps.iter().map(|step| Append {
        topic: node.names.steps.clone(),
        record: step.encode().unwrap(),
    });
    node.log
        .append(records.collect(), None)
        .await
        .unwrap()
        .unwrap();
}

/// What runs were told.
#[derive(Debug)]
pub enum Told {
    Result(StepResult),
    Held(StepHeld),
}

impl Told {
    pub fn step(&self) -> &str {
        match self {
            Self::Result(result) => &result.step_id,
            Self::Held(held) => &held.step_id,
        }
    }

    pub fn result(&self) -> &StepResult {
        match self {
            Self::Result(result) => result,
            Self::Held(held) => panic!("{held:?}"),
        }
    }

    pub fn held(&self) -> &StepHeld {
        match self {
            Self::Held(held) => held,
            Self::Result(result) => panic!("{result:?}"),
        }
    }

    /// The code of a failure.
    pub fn code(&self) -> &str {
        &self.result().error.as_ref().unwrap().code
    }
}

/// What runs were told, once there are so many records; by step.
pub async fn told(node: &Node, at_least: usize) -> Vec<Told> {
    let (log, topic) = (node.log.clone(), node.names.commands.to_string());
    let read = move || read_all(&*log, &topic, at_least);
    let records = tokio::task::spawn_blocking(read).await.unwrap();
    let mut told: Vec<_> = records
        .iter()
        .filter_map(|fetched| {
            let command = Command::decode(fetched.record.value.as_deref()?)?;
            match command.kind.as_str() {
                RESULT => Some(Told::Result(serde_json::from_str(&command.body).unwrap())),
                HELD => Some(Told::Held(serde_json::from_str(&command.body).unwrap())),
                _ => None,
            }
        })
        .collect();
    told.sort_by(|a, b| a.step().cmp(b.step()));
    told
}
