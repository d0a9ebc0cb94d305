//! The HTTP port: the handlers of the routes in [`crate::api`], authentication, idempotency.
//!
//! [`Port`] listens. `POST /v1/events` carries the main load, so it goes directly from hyper to [`ingest`], and webhooks go to [`hooks`];
//! every other route goes through axum's router ([`rest`]).

mod addresses;
mod auth;
mod certificate;
mod connection;
mod control;
mod cors;
mod denials;
mod gate;
mod hooks;
mod ingest;
mod limited;
mod meters;
mod peer;
mod problem;
mod rest;
mod serve;
mod starts;
mod tls;
mod uses;

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use auth::Attempts;
pub use certificate::{Certificate, CertificateError, Files};
use denials::Denials;
use hooks::Hooks;
pub use ingest::nodes::Nodes;
use ingest::{
    body,
    intake::{self, Intake},
};
use meters::Meters;
pub use rest::audit::{Tables, TablesError};
pub use rest::rebuild::{NotBegun, Rebuilds};
use rest::slots::ReplaySlots;
pub use rest::tools::{Lags, Tools};
pub use tls::{Reloads, Tls, TlsError};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use uses::Uses;

use crate::{
    audit::Audit,
    base::clock::Clock,
    config::{Alias, AllowedOrigin, Limits, Network},
    controls::Controls,
    event_schemas::EventSchemas,
    jwt::Jwt,
    limits::Limiter,
    log::Log,
    planner::Planner,
    saga::{Answers, Followers},
    starts::Guardian,
    state::{StateError, StateStore},
    telemetry::Readiness,
    workers::ToolStates,
    workflows,
};

/// The time limit of a drain; after it, connections are closed.
pub const DRAIN: Duration = Duration::from_secs(10);

/// What the port needs.
pub struct Parts {
    /// Rebuilds projections.
    pub rebuilds: Arc<dyn Rebuilds>,
    /// The tables of the projections.
    pub tables: Arc<dyn Tables>,
    /// What the operator tools need.
    pub tools: Tools,
    /// The log to which events are appended.
    pub log: Arc<dyn Log>,
    /// The full name of the topic `ingress`.
    pub ingress: Arc<str>,
    /// The full name of the topic `commands`.
    pub commands: Arc<str>,
    /// Those who wait for notices of a run.
    pub followers: Followers,
    /// Reads the answers of runs that other nodes carry out; `None`: there are no other nodes.
    pub answers: Option<Answers>,
    /// The store of the window of identities. On the embedded log it is the log's own store, so that a record and its identity are
    /// committed together.
    pub state: StateStore,
    /// The maximum number of concurrent appends; small on the embedded log, where each is a commit.
    pub appends: usize,
    /// Keys and reader grants.
    pub controls: Arc<Controls>,
    /// The issuers whose tokens are accepted besides keys.
    pub jwt: Option<Arc<Jwt>>,
    /// The audit log.
    pub audit: Audit,
    /// The source of `/readyz`.
    pub readiness: Readiness,
    /// The schemas of event data.
    pub event_schemas: Arc<EventSchemas>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Size limits and the length of the window.
    pub limits: Limits,
    /// The certificate; `None` for plain HTTP.
    pub tls: Option<Tls>,
    /// The proxies whose `X-Forwarded-For` is trusted; they may also open any number of connections.
    pub trusted_proxies: Vec<Network>,
    /// Origins whose pages may use the port, and webhook senders that may deliver to it.
    pub cors: Vec<AllowedOrigin>,
    /// Additional paths of webhook sources.
    pub aliases: Vec<Alias>,
    /// What the other nodes have in flight and have seen.
    pub nodes: Option<Nodes>,
    /// Decides about rates and concurrency.
    pub limiter: Limiter,
    /// Workflows and tools.
    pub workflows: workflows::Current,
    /// The guardian of goals.
    pub guardian: Guardian,
    /// The cached plans.
    pub planner: Planner,
    /// The state of tool calls on this node.
    pub tool_states: ToolStates,
}

/// The port, bound and ready to serve.
pub struct Port {
    listener: TcpListener,
    shared: Arc<Shared>,
}

/// The state that all requests share.
struct Shared {
    rebuilds: Arc<dyn Rebuilds>,
    tables: Arc<dyn Tables>,
    tools: Tools,
    nodes: Option<Nodes>,
    limiting: limited::Limiting,
    workflows: workflows::Current,
    guardian: Guardian,
    planner: Planner,
    tool_states: ToolStates,
    commands: Arc<str>,
    followers: Followers,
    answers: Option<Answers>,
    /// The requests that wait for runs, and streams of histories.
    waits: rest::wait::Waits,
    /// The claims that wait for tasks.
    claim_waits: rest::claim_waits::ClaimWaits,
    controlling: control::Controlling,
    controls: Arc<Controls>,
    jwt: Option<Arc<Jwt>>,
    audit: Audit,
    uses: Uses,
    intake: Intake,
    readiness: Readiness,
    event_schemas: Arc<EventSchemas>,
    clock: Arc<dyn Clock>,
    limits: Limits,
    tls: Option<Tls>,
    trusted_proxies: Vec<Network>,
    cors: cors::Cors,
    attempts: Attempts,
    hooks: Hooks,
    denials: Denials,
    bodies: body::Budget,
    meters: Meters,
    ids: RequestIds,
    /// The running replays.
    replays: ReplaySlots,
    /// Cancelled when the port stops; this ends answers that would otherwise continue forever.
    stopping: CancellationToken,
}

impl Port {
    /// Binds the address. Connections made from now on wait for [`Port::serve`].
    pub async fn listen(listen: SocketAddr) -> Result<TcpListener, ListenError> {
        let listener = TcpListener::bind(listen).await;
        listener.map_err(|error| ListenError { listen, error })
    }

    /// Restores the window of identities.
    pub fn new(listener: TcpListener, parts: Parts) -> Result<Self, StateError> {
        let window = parts.limits.dedupe_window;
        let limiting = limited::Limiting::new(
            parts.limiter,
            parts.limits.policies.clone(),
            Arc::clone(&parts.clock),
            parts.audit.clone(),
        );
        let meters = Meters::new();
        let intake = Intake::open(
            intake::Options {
                log: parts.log,
                topic: parts.ingress,
                store: parts.state,
                window,
                appends: parts.appends,
            },
            Arc::clone(&parts.clock),
        )?;
        Ok(Self {
            listener,
            shared: Arc::new(Shared {
                rebuilds: parts.rebuilds,
                tables: parts.tables,
                tools: parts.tools,
                nodes: parts.nodes,
                limiting,
                workflows: parts.workflows,
                guardian: parts.guardian,
                planner: parts.planner,
                tool_states: parts.tool_states,
                commands: parts.commands,
                followers: parts.followers,
                answers: parts.answers,
                waits: rest::wait::Waits::default(),
                claim_waits: rest::claim_waits::ClaimWaits::default(),
                controlling: control::Controlling::default(),
                controls: parts.controls,
                jwt: parts.jwt,
                audit: parts.audit,
                uses: Uses::default(),
                intake,
                readiness: parts.readiness,
                event_schemas: parts.event_schemas,
                clock: parts.clock,
                limits: parts.limits,
                tls: parts.tls,
                trusted_proxies: parts.trusted_proxies,
                cors: cors::Cors::new(parts.cors),
                attempts: Attempts::default(),
                hooks: Hooks::new(parts.aliases),
                denials: Denials::default(),
                bodies: body::Budget::default(),
                meters,
                ids: RequestIds::new(),
                replays: ReplaySlots::default(),
                stopping: CancellationToken::new(),
            }),
        })
    }

    /// The address it listens on; if the port number was given as 0, the system has chosen one.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown` resolves, then finishes requests in progress, for at most [`DRAIN`].
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        serve::serve(self.listener, self.shared, shutdown).await;
    }
}

/// The address cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {listen}: {error}; is another OmniLink running? `listen` (or --listen) chooses another address"
)]
pub struct ListenError {
    listen: SocketAddr,
    error: io::Error,
}

/// Generates request ids from a random number of the process and a counter.
struct RequestIds {
    process: u64,
    next: AtomicU64,
}

impl RequestIds {
    fn new() -> Self {
        Self {
            process: rand::random(),
            next: AtomicU64::new(1),
        }
    }

    fn next(&self) -> RequestId {
        RequestId(self.process, self.next.fetch_add(1, Ordering::Relaxed))
    }
}

/// A request's id: 32 hexadecimal digits.
#[derive(Clone, Copy)]
struct RequestId(u64, u64);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.0, self.1)
    }
}

impl RequestId {
    fn write(self, out: &mut Vec<u8>) {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        for half in [self.0, self.1] {
            out.extend(
                (0..16)
                    .rev()
                    .map(|digit| HEX[(half >> (digit * 4)) as usize & 15]),
            );
        }
    }
}
