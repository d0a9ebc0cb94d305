//! A node with the processor of runs and the queue of tasks.

use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};
use omnilink::{
    log::Log,
    projections::{Projector, Setup},
    runs::RunRecord,
    stream::lane::Running,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    port::{Node, Response, scopes},
    projections::Database,
    read_all,
    sagas::start_sagas,
    worker::put_tools,
};

/// The node, its database, and the key of a worker.
pub struct Queue {
    pub node: Node,
    pub worker: String,
    projector: Option<Projector>,
    sagas: Option<Running>,
    pub database: Database,
}

impl Queue {
    /// With these tools, each the text of a file.
    pub fn start(tools: &[&str]) -> Option<Self> {
        let database = Database::new()?;
        let store = Some(database.store());
        let dir = TempDir::new().unwrap();
        let (node, worker, sagas) = database.runtime.block_on(async {
            let node = Node::start_on(dir, None, store).await;
            let texts: Vec<String> = tools.iter().map(ToString::to_string).collect();
            put_tools(&node, &texts);
            let worker = node.key("acme", scopes(&["tasks:claim", "tasks:complete"]));
            let worker = worker.await;
            let sagas = start_sagas(&node);
            (node, worker, sagas)
        });
        let mut queue = Self {
            node,
            worker,
            projector: None,
            sagas: Some(sagas),
            database,
        };
        queue.project();
        Some(queue)
    }

    pub fn setup(&self) -> Setup {
        self.database.setup_on(&self.node, &self.node.names.steps)
    }

    /// Starts the projector.
    pub fn project(&mut self) {
        self.projector = Some(Projector::start_tasks(&self.setup()).unwrap());
    }

    /// Stops it.
    pub fn hold_projection(&mut self) {
        self.projector = None;
    }

    /// Starts a run with a plan of these steps.
    pub async fn run(&self, id: &str, steps: &Value) -> String {
        let body = json!({
            "id": id, "source": "/erp/prod", "type": "test", "input": {}, "plan": { "steps": steps }
        });
        let bearer = self.node.bearer();
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
            ("idempotency-key", id),
        ];
        let path = "/v1/workflows";
        let answer = self
            .node
            .call(Method::POST, path, &headers, body.to_string())
            .await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text);
        answer.result(0)["run_id"].as_str().unwrap().to_owned()
    }

    pub async fn control(&self, run: &str, what: &str) {
        let path = format!("/v1/runs/{run}/{what}");
        let (node, body) = (&self.node, Value::Null);
        let answer = node.request(Method::POST, &path, &node.admin, &body).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
    }

    /// `POST /v1/tasks/{what}` with the worker's key.
    pub async fn post(&self, what: &str, body: &Value) -> Response {
        let path = format!("/v1/tasks/{what}");
        let request = self.node.request(Method::POST, &path, &self.worker, body);
        request.await
    }

    /// Claims tasks, and waits for them.
    pub async fn claim(&self, more: &Value) -> Vec<Value> {
        let mut body = json!({ "tools": ["pay"], "max": 10, "wait_s": 20, "lease_s": 30 });
        let more = more.as_object().unwrap().clone();
        body.as_object_mut().unwrap().extend(more);
        let answer = self.post("claim", &body).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        answer.json()["tasks"].as_array().unwrap().clone()
    }

    pub async fn complete(&self, task: &Value, more: &Value) -> Response {
        let mut body = json!({ "task_id": task["task_id"], "lease": task["lease"] });
        let more = more.as_object().unwrap().clone();
        body.as_object_mut().unwrap().extend(more);
        self.post("complete", &body).await
    }

    /// The history of a run, once it has a record of this type.
    pub async fn until(&self, run: &str, kind: &str) -> Vec<RunRecord> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let (log, topic) = (self.node.log.clone(), self.node.names.runs.to_string());
            let read = move || read_all(log.as_ref() as &dyn Log, &topic, 1);
            let records = tokio::task::spawn_blocking(read).await.unwrap();
            let decoded = |value: Option<&[u8]>| RunRecord::decode(value.unwrap()).unwrap();
            let records = records
                .iter()
                .map(|one| decoded(one.record.value.as_deref()));
            let history: Vec<_> = records.filter(|record| record.run_id == run).collect();
            if history.iter().any(|record| record.kind == kind) {
                return history;
            }
            assert!(Instant::now() < deadline, "no {kind}: {history:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until a query gives this text.
    pub fn wait_for(&self, sql: &str, text: &str) {
        super::wait_until(&format!("{sql} = {text}"), || {
            self.database.text(sql) == text
        });
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.projector = None;
        self.sagas = None;
    }
}
