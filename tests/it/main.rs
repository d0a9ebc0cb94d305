//! Integration tests through public interfaces, against real services. One binary, because each further one would link
//! everything again.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::needless_pass_by_value
)]

mod act_as;
mod admission;
mod api;
mod approvals_values;
mod architecture;
mod audit;
mod audit_command;
mod audit_list;
mod audit_projection;
mod authentications;
mod bridges;
mod bridges_damage;
mod bridges_dialects;
mod bridges_docs;
mod bridges_senders;
mod chaos;
mod cli;
mod config;
mod controlled_tables;
mod controls;
mod cron;
mod disk_full;
mod dlq;
mod doctor;
mod effects;
#[cfg(feature = "embed")]
mod embed;
mod emergency;
mod emergency_doors;
mod emergency_held;
mod envelope_corpus;
mod event_schemas;
mod expenses_example;
mod first_key;
mod foreign_commands;
mod formats;
mod goals_door;
mod goals_people;
mod goals_personal;
mod goals_saga;
mod goals_whole;
mod guardian;
mod how_to;
mod how_to_runs;
mod identity;
mod integrations;
mod invoices;
mod json_schema;
#[cfg(feature = "kafka")]
mod kafka_forgotten;
#[cfg(feature = "kafka")]
mod kafka_members;
#[cfg(feature = "kafka")]
mod kafka_producer;
mod key_changes;
mod keys;
mod lane_simulation;
mod lanes;
mod limits;
mod limits_cluster;
mod limits_port;
mod log_conformance;
mod log_kill;
#[cfg(feature = "embed")]
mod model_fetch;
mod notifications;
mod odoo_projection;
mod odoo_rows;
mod planner;
mod planner_cache;
mod planner_learned;
mod planner_load;
mod plans_command;
mod port_clients;
mod port_drain;
mod port_events;
mod port_faults;
mod port_hostile;
mod port_idle;
mod port_mutations;
mod port_nodes;
mod port_standards;
mod projections;
mod projections_bounds;
mod projections_crash;
mod projections_json;
mod readers;
mod rebuild;
mod record_create;
mod record_size;
#[cfg(feature = "kafka")]
mod record_size_kafka;
mod registry_clients;
mod registry_routes;
mod replay;
mod replay_parquet;
mod rls;
mod run_controls;
mod run_controls_nodes;
mod run_controls_sagas;
mod runs_again;
mod runs_batch;
mod runs_command;
mod runs_projection;
mod runs_read;
mod runs_retry;
mod runs_wait;
mod saga_simulation;
mod sagas;
mod sagas_controls;
mod sagas_retry;
mod sealed_values;
mod secrets;
mod security_page;
mod shop_example;
mod sql_query;
mod stalls;
mod starts;
mod starts_agents;
mod starts_kafka;
mod starts_refused;
mod store;
mod store_embedded;
mod support;
mod tasks;
mod tls;
mod tools;
mod topic_identity;
mod topic_sources;
mod topology_check;
mod topology_cli;
mod topology_docs;
mod topology_kills;
mod topology_limits;
mod topology_run;
mod topology_standards;
mod triggers;
mod unkept_values;
mod webhooks;
mod workers;
mod workers_examples;
#[cfg(feature = "kafka")]
mod workers_kafka;
mod workers_limits;
mod workers_runs;
mod workflows_check;
