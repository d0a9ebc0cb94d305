//! A port for one test, on the embedded log, whose appends a test can hold back or fail.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use omnilink::{
    api::rebuild::Rebuild,
    audit::{Audit, Writer},
    base::{
        clock::{Clock, Millis, SystemClock},
        id::Tenant,
    },
    config::{Alias, AllowedOrigin, BreakerSettings, Config, GuardianSettings, JwtIssuer, Network},
    controls::{Constraints, Controls, KeyKind, NewKey, Scopes, SecretKeys, Tail, Token},
    event_schemas::EventSchemas,
    jwt::Jwt,
    limits::{Limiter, Policy},
    log::{
        Acknowledged, Append, Log, LogError, Unavailable,
        local::{LocalLog, LocalOptions},
        topics::Names,
    },
    planner::{self, Planner},
    port::{Lags, Nodes, NotBegun, Parts, Port, Rebuilds, Tables, TablesError, Tls, Tools},
    saga::Followers,
    starts::Guardian,
    state::Changes,
    store::Store,
    telemetry::{Need, PartStatus, Readiness},
    workers::ToolStates,
    workflows::Current,
};
use parking_lot::Mutex;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::{Intercept, LogProxy};
use crate::api;

/// What the log does with appends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Appends them.
    Works = 0,
    /// Appends them once the mode is `Works` again.
    Held = 1,
    /// Refuses them and writes nothing.
    Fails = 2,
    /// Refuses appends and reads.
    Unavailable = 3,
}

/// What a test's node has beyond the defaults.
pub struct NodeOptions {
    pub nodes: Option<Nodes>,
    pub limiter: Limiter,
    pub policies: Vec<Arc<Policy>>,
    pub tls: Option<Tls>,
    pub store: Option<Store>,
    pub clock: Arc<dyn Clock>,
    pub jwt: Option<Arc<Jwt>>,
    pub guardian: GuardianSettings,
    pub planner: planner::Settings,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self {
            nodes: None,
            limiter: Limiter::in_memory(Arc::new(SystemClock)),
            policies: Vec::new(),
            tls: None,
            store: None,
            clock: Arc::new(SystemClock),
            jwt: None,
            guardian: GuardianSettings::default(),
            planner: planner::Settings::default(),
        }
    }
}

type Held = (
    Vec<Append>,
    Option<Changes>,
    oneshot::Sender<Result<Vec<omnilink::log::Position>, LogError>>,
);

/// The embedded log with a switchable [`Mode`].
pub struct Switch {
    inner: Arc<LocalLog>,
    mode: AtomicU8,
    held: Mutex<Vec<Held>>,
}

impl LogProxy<Switch> {
    /// How many appends are held.
    pub fn held(&self) -> usize {
        self.0.held.lock().len()
    }

    pub fn set_mode(&self, mode: Mode) {
        self.0.mode.store(mode as u8, Ordering::SeqCst);
        if mode == Mode::Works {
            for (records, state, sender) in self.0.held.lock().drain(..) {
                let done = self.0.inner.append(records, state);
                std::thread::spawn(move || {
                    let _ = sender.send(done.blocking_recv().unwrap());
                });
            }
        }
    }
}

impl Switch {
    fn is(&self, mode: Mode) -> bool {
        self.mode.load(Ordering::SeqCst) == mode as u8
    }
}

impl Intercept for Switch {
    fn inner(&self) -> &dyn Log {
        &*self.inner
    }

    fn reachable(&self) -> Result<(), LogError> {
        if self.is(Mode::Unavailable) {
            return Err(LogError::Unavailable(Unavailable::Closing));
        }
        Ok(())
    }

    fn append(&self, records: Vec<Append>, state: Option<Changes>) -> Acknowledged {
        if self.is(Mode::Works) {
            return self.inner.append(records, state);
        }
        let (sender, acknowledged) = oneshot::channel();
        if self.is(Mode::Held) {
            self.held.lock().push((records, state, sender));
        } else {
            let _ = sender.send(Err(LogError::Unavailable(Unavailable::Closing)));
        }
        acknowledged
    }
}

/// A node without Postgres.
struct NoRebuilds;

impl Rebuilds for NoRebuilds {
    fn begin(&self, _: &[String]) -> Result<(), NotBegun> {
        Err(NotBegun::Unavailable("no Postgres".into()))
    }

    fn status(&self) -> Rebuild {
        Rebuild::default()
    }
}

/// The tables of a database, or none.
struct Database(Option<Store>);

impl Tables for Database {
    fn store(&self) -> Result<Store, TablesError> {
        self.0.clone().ok_or(TablesError::Without)
    }
}

/// A node without processors.
struct NoLags;

impl Lags for NoLags {
    fn lags(&self) -> Result<Vec<omnilink::stream::lag::Item>, LogError> {
        Ok(Vec::new())
    }
}

/// A running port.
pub struct Node {
    pub log: Arc<LogProxy<Switch>>,
    pub names: Names,
    pub controls: Arc<Controls>,
    pub address: SocketAddr,
    /// A key of tenant `acme` with all permissions.
    pub admin: String,
    pub readiness: Readiness,
    pub event_schemas: Arc<EventSchemas>,
    /// Workflows and tools; none but the builtin ones at the start.
    pub workflows: Current,
    pub tool_states: ToolStates,
    /// Cached plans; nothing feeds it by itself.
    pub planner: Planner,
    /// Requests that wait for what becomes of their runs.
    pub followers: Followers,
    pub dir: TempDir,
    http: Client<HttpConnector, Full<Bytes>>,
    stop: Option<oneshot::Sender<()>>,
    served: Option<tokio::task::JoinHandle<()>>,
    audit_writer: Option<Writer>,
    tail: Option<Tail>,
}

/// A response with its body as text.
pub struct Response {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Response {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text)
            .unwrap_or_else(|e| panic!("{e}: {} {}", self.status, self.text))
    }

    /// The code of the problem details, whose form is checked.
    pub fn code(&self) -> String {
        let body = self.json();
        assert_eq!(
            self.headers["content-type"], "application/problem+json",
            "{}",
            self.text
        );
        assert_eq!(body["status"], self.status.as_u16());
        assert!(
            body["title"].is_string() && body["detail"].is_string() && body["type"].is_string()
        );
        assert_eq!(body["request_id"].as_str().unwrap().len(), 32);
        body["code"].as_str().unwrap().to_owned()
    }

    pub fn result(&self, index: usize) -> Value {
        let result = self.json()["results"][index].clone();
        assert_eq!(result["index"], index, "{}", self.text);
        result
    }
}

impl Node {
    pub async fn start() -> Self {
        Self::start_in(TempDir::new().unwrap()).await
    }

    /// Starts with the data of an earlier node in the directory.
    pub async fn start_in(dir: TempDir) -> Self {
        Self::start_with(dir, None).await
    }

    pub async fn start_with(dir: TempDir, nodes: Option<Nodes>) -> Self {
        let options = NodeOptions {
            nodes,
            ..NodeOptions::default()
        };
        Self::start_whole(dir, options).await
    }

    pub async fn start_limited(
        dir: TempDir,
        nodes: Option<Nodes>,
        limiter: Limiter,
        policies: Vec<Arc<Policy>>,
    ) -> Self {
        let options = NodeOptions {
            nodes,
            limiter,
            policies,
            ..NodeOptions::default()
        };
        Self::start_whole(dir, options).await
    }

    /// Starts with the tables of a database.
    pub async fn start_on(dir: TempDir, nodes: Option<Nodes>, store: Option<Store>) -> Self {
        let options = NodeOptions {
            nodes,
            store,
            ..NodeOptions::default()
        };
        Self::start_whole(dir, options).await
    }

    /// With the port's clock.
    pub async fn start_at(dir: TempDir, nodes: Option<Nodes>, clock: Arc<dyn Clock>) -> Self {
        let options = NodeOptions {
            nodes,
            clock,
            ..NodeOptions::default()
        };
        Self::start_whole(dir, options).await
    }

    /// Accepts tokens of these issuers.
    pub async fn start_jwt(dir: TempDir, issuers: &[JwtIssuer]) -> Self {
        let options = NodeOptions {
            jwt: Some(Arc::new(Jwt::start(issuers).unwrap())),
            ..NodeOptions::default()
        };
        Self::start_whole(dir, options).await
    }

    /// Starts with TLS; the client of this node does not use it.
    pub async fn start_tls(made: &super::tls::Made) -> Self {
        let dir = TempDir::new().unwrap();
        made.write(dir.path());
        let tls = Tls::load(&dir.path().join("cert.pem"), &dir.path().join("key.pem")).unwrap();
        let options = NodeOptions {
            tls: Some(tls),
            ..NodeOptions::default()
        };
        Self::start_whole(dir, options).await
    }

    pub async fn start_whole(dir: TempDir, more: NodeOptions) -> Self {
        let mut options = LocalOptions::new(Arc::new(SystemClock));
        options.min_free_bytes = 1 << 20;
        let inner = Arc::new(LocalLog::open(&dir.path().join("log"), options).unwrap());
        let state = inner.state().clone();
        let log = LogProxy::new(Switch {
            inner,
            mode: AtomicU8::new(Mode::Works as u8),
            held: Mutex::default(),
        });
        let names = Names::new("t.");
        log.provision(&names.specs(4), true).unwrap();
        let secrets = SecretKeys::open_or_create(dir.path()).unwrap();
        let shared: Arc<dyn Log> = log.clone();
        let (controls, tail) =
            Controls::start(shared.clone(), names.controls.clone(), secrets).unwrap();
        assert!(controls.wait_readable(Duration::from_secs(5)).await);
        let readiness = Readiness::default();
        let part = log.clone();
        readiness.part("log", Need::Required, move || match part.health() {
            Ok(()) => PartStatus::ok(""),
            Err(e) => PartStatus::down(e.to_string()),
        });
        let mut config = Config::defaults(dir.path());
        config.limits.policies = more.policies;
        let (audit, audit_writer) = Audit::start(shared.clone(), names.audit.clone());
        let workflows = Current::default();
        let tool_states = ToolStates::new(
            workflows.clone(),
            dir.path().to_owned(),
            BreakerSettings {
                open: Duration::from_secs(2),
                ..BreakerSettings::default()
            },
            Arc::new(SystemClock),
        );
        let clock = more.clock.clone();
        let planner = Planner::new(&more.planner, workflows.clone(), clock).unwrap();
        let followers = Followers::default();
        let listener = Port::listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let secrets = Arc::new(SecretKeys::open_or_create(dir.path()).unwrap());
        let event_schemas = Arc::<EventSchemas>::default();
        let port = Port::new(
            listener,
            Parts {
                rebuilds: Arc::new(NoRebuilds),
                tables: Arc::new(Database(more.store)),
                tools: Tools {
                    log: shared.clone(),
                    names: names.clone(),
                    partitions: 4,
                    lags: Arc::new(NoLags),
                    secrets: secrets.clone(),
                    index_dir: dir.path().join("index"),
                    redriving: Arc::default(),
                },
                log: shared,
                ingress: names.ingress.clone(),
                commands: names.commands.clone(),
                followers: followers.clone(),
                answers: None,
                state,
                appends: 2,
                controls: controls.clone(),
                jwt: more.jwt,
                audit,
                readiness: readiness.clone(),
                event_schemas: event_schemas.clone(),
                clock: more.clock,
                limits: config.limits,
                tls: more.tls,
                trusted_proxies: vec![Network::parse("127.0.0.1").unwrap()],
                cors: vec![AllowedOrigin::parse("https://app.example.com").unwrap()],
                aliases: vec![Alias::parse("/odoo-webhook", "acme/odoo").unwrap()],
                nodes: more.nodes,
                limiter: more.limiter,
                workflows: workflows.clone(),
                guardian: Guardian::new(&more.guardian, secrets),
                planner: planner.clone(),
                tool_states: tool_states.clone(),
            },
        )
        .unwrap();
        let address = port.address().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(port.serve(async {
            let _ = stopped.await;
        }));
        let mut node = Self {
            log,
            names,
            controls,
            address,
            admin: String::new(),
            readiness,
            event_schemas,
            workflows,
            tool_states,
            planner,
            followers,
            dir,
            http: Client::builder(TokioExecutor::new()).build_http(),
            stop: Some(stop),
            served: Some(served),
            tail: Some(tail),
            audit_writer: Some(audit_writer),
        };
        node.admin = node.key("acme", Scopes::all()).await;
        node
    }

    /// Stops it gracefully and returns the directory.
    pub async fn stop(mut self) -> TempDir {
        self.request_stop();
        self.served.take().unwrap().await.unwrap();
        let audit_writer = self.audit_writer.take().unwrap();
        audit_writer.finish(Duration::from_secs(5)).await;
        // The log commits what was appended when its last owner goes.
        let tail = self.tail.take();
        tokio::task::spawn_blocking(move || drop(tail))
            .await
            .unwrap();
        self.dir
    }

    pub fn request_stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }

    /// Creates a key directly, not through the port.
    pub async fn key(&self, tenant: &str, scopes: Scopes) -> String {
        self.key_until(tenant, scopes, None).await
    }

    pub async fn key_until(
        &self,
        tenant: &str,
        scopes: Scopes,
        expires_at: Option<Millis>,
    ) -> String {
        self.key_of(KeyKind::Service, tenant, scopes, expires_at)
            .await
    }

    pub async fn key_of(
        &self,
        kind: KeyKind,
        tenant: &str,
        scopes: Scopes,
        expires_at: Option<Millis>,
    ) -> String {
        let new = NewKey {
            tenant: Tenant::new(tenant).unwrap(),
            name: "test".into(),
            principal: "tester".into(),
            kind,
            scopes,
            expires_at,
        };
        self.create_key(new).await
    }

    /// The key of a person, who may do everything.
    pub async fn person(&self, tenant: &str, principal: &str) -> String {
        let new = NewKey {
            tenant: Tenant::new(tenant).unwrap(),
            name: principal.into(),
            principal: principal.into(),
            kind: KeyKind::Person,
            scopes: Scopes::all(),
            expires_at: None,
        };
        self.create_key(new).await
    }

    async fn create_key(&self, new: NewKey) -> String {
        let now = SystemClock.now();
        let token = Token::generate();
        self.controls
            .create_key(new, &token, "test", now)
            .await
            .unwrap();
        token.reveal().to_owned()
    }

    pub async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Response {
        let mut request = Request::builder()
            .method(&method)
            .uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        let response = self.http.request(request).await.unwrap();
        let (head, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        api::check(&method, path, head.status, &head.headers, &text);
        Response {
            status: head.status,
            headers: head.headers,
            text,
        }
    }

    /// Sends a JSON body, or none for null, with a key.
    pub async fn request(&self, method: Method, path: &str, key: &str, body: &Value) -> Response {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let authorization = format!("Bearer {key}");
        let headers = [
            ("authorization", authorization.as_str()),
            ("content-type", "application/json"),
        ];
        self.call(method, path, &headers, body).await
    }

    /// Posts events with the admin key.
    pub async fn post(&self, body: &Value) -> Response {
        self.request(Method::POST, "/v1/events", &self.admin, body)
            .await
    }

    pub fn bearer(&self) -> String {
        format!("Bearer {}", self.admin)
    }
}

pub fn scopes(permissions: &[&str]) -> Scopes {
    Scopes {
        permissions: permissions.iter().map(ToString::to_string).collect(),
        constraints: Constraints::default(),
    }
}
