//! OmniLink: an event-sourced stream processor. Records in a log are the source of truth; everything else is derived from them.
//!
//! Modules are layered in floors: a module uses only modules of its own floor and of lower ones (`docs/architecture.md`).

// Floor 6: the command line.
pub mod cli;

// Floor 5: a node, which starts and stops all parts.
pub mod node;

// Floor 4: the HTTP port.
pub mod port;

// Floor 3: the processors.
pub mod admission;
pub mod bridges;
pub mod cron;
pub mod notify;
pub mod planner;
pub mod projections;
pub mod saga;
pub mod workers;

// Floor 2: the API's contract, tokens of issuers, the runtime of processors, topologies, checks of starts, values of placeholders, and
// reading the history.
pub mod api;
pub mod jwt;
pub mod replay;
pub mod slots;
pub mod starts;
pub mod stream;
pub mod topology;
pub mod workflows;

// Floor 1: storage, and clients of other systems.
pub mod audit;
pub mod commands;
pub mod controls;
#[cfg(feature = "embed")]
pub mod embed;
pub mod embedded_postgres;
pub mod guardian;
pub mod http;
pub mod limits;
pub mod log;
pub mod plans;
pub mod registry;
pub mod runs;
pub mod state;
pub mod store;

// Floor 0: events, and what all modules use.
pub mod base;
pub mod chaos;
pub mod config;
pub mod entity;
pub mod envelope;
pub mod event_schemas;
pub mod redis_connection;
pub mod telemetry;

/// jemalloc: there are many small allocations per record or request, which it keeps from fragmenting, and it returns free
/// memory to the system. Set in the library, so that tests and benches use the same allocator as the binary.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
