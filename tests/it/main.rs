//! Behaviour through the public doors, against the real parts. One binary: each one more would link everything again.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::needless_pass_by_value
)]

mod admission;
mod architecture;
mod bridges;
mod bridges_damage;
mod bridges_dialects;
mod bridges_docs;
mod bridges_senders;
mod chaos;
mod cli;
mod config;
mod controls;
mod disk_full;
mod dlq;
mod envelope_corpus;
mod formats;
mod how_to;
mod invoices;
#[cfg(feature = "kafka")]
mod kafka_members;
#[cfg(feature = "kafka")]
mod kafka_producer;
mod keys;
mod lanes;
mod log_conformance;
mod log_kill;
mod pages;
mod port_events;
mod port_faults;
mod port_node;
mod port_nodes;
mod port_standards;
mod projections;
mod projections_bed;
mod projections_bounds;
mod projections_crash;
mod projections_json;
mod readers;
mod rebuild;
mod record_size;
mod registry_bed;
mod registry_routes;
mod replay;
mod rls;
mod security_page;
mod shop_example;
mod stalls;
mod store;
mod store_embedded;
mod support;
mod tools;
mod topic_identity;
mod topology_check;
mod topology_cli;
mod topology_docs;
mod topology_kills;
mod topology_run;
mod topology_standards;
