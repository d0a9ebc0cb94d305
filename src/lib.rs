//! OmniLink: an event-sourced stream processor. Everything that matters is a record in a log; all else is derived from it.
//!
//! The modules are floors: lower ones know nothing of higher ones (`docs/architecture.md`).

// Floor 6: the command line.
pub mod cli;

// Floor 5: what makes a node of the rest.
pub mod node;

// Floor 4: the doors.
pub mod port;

// Floor 3: the processors.
pub mod admission;
pub mod bridges;
pub mod projections;

// Floor 2: what runs processors, and what reads the history back.
pub mod replay;
pub mod stream;
pub mod topology;

// Floor 1: what keeps things, and reaches other systems.
pub mod controls;
pub mod embedded_postgres;
pub mod http;
pub mod limits;
pub mod log;
pub mod registry;
pub mod state;
pub mod store;

// Floor 0: what travels, and what everyone needs.
pub mod base;
pub mod chaos;
pub mod config;
pub mod entity;
pub mod envelope;
pub mod telemetry;

/// Many small allocations that live for one record or request: jemalloc keeps them apart, and gives memory back. It stands
/// here, so that tests and benches run with what the binary runs with.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
