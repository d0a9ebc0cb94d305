//! The command line: one file a subcommand.
//!
//! Exit codes: 0 success, 1 failure, 2 wrong usage.

mod access;
mod approvals;
mod audit;
mod check;
mod client;
mod clocks;
mod completions;
mod config;
mod controls;
mod dlq;
mod doctor;
mod findings;
mod graph;
mod held;
mod identities;
mod integrations;
mod keys;
mod lag;
mod migrate;
#[cfg(feature = "embed")]
mod model;
mod moment;
mod output;
mod planning;
mod plans;
mod processors;
mod readers;
mod rebuild;
mod recorded;
mod replay;
mod runs;
mod send;
mod shapes;
mod sse;
mod stalls;
mod targets;
mod test;
mod tools;
mod topics;
mod trust;
pub mod up;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, Sources};

/// OmniLink, an event-sourced stream processor: events in over HTTP or Kafka, exactly once, out as rows in Postgres.
#[derive(Parser)]
#[command(
    name = "omnilink",
    version,
    propagate_version = true,
    max_term_width = 100
)]
#[command(after_help = "Examples:
  omnilink up                              # everything in one process, nothing to configure
  omnilink keys create --name shop --permission events:write
  omnilink send events.jsonl
  omnilink check                           # topologies, workflows, tools, event schemas
  omnilink config                          # the configuration in effect

Configuration: omnilink.yaml, then OMNILINK__SECTION__KEY, then flags; `omnilink config --help` lists the keys.")]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Flags of every command, before or after its name.
#[derive(Args)]
struct Global {
    /// Configuration file [default: omnilink.yaml, if it exists]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory for everything kept on disk
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Run everything in one process
    Up(up::Args),
    /// Check topologies, workflows, tools, event schemas and webhook sources
    Check(check::Args),
    /// Run the tests in the topology files and the shapes of webhook sources
    Test(test::Args),
    /// Print the topologies as a Mermaid flowchart
    Graph(graph::Args),
    /// Print the configuration in effect, secrets masked
    Config(config::Args),
    /// Create, list and revoke API keys
    #[command(subcommand)]
    Keys(keys::Command),
    /// Create, list, rotate and delete sources of webhooks
    #[command(subcommand)]
    Integrations(integrations::Command),
    /// Grant Postgres logins access to tenants, revoke and list it
    #[command(subcommand)]
    Readers(readers::Command),
    /// Show and change the emergency controls: kill switch, take-over, safe mode, features
    #[command(subcommand)]
    Controls(controls::Command),
    /// List who did what
    Audit(audit::Args),
    /// List, show, watch and control runs
    #[command(subcommand)]
    Runs(runs::Command),
    /// List and decide approvals and incidents
    #[command(subcommand)]
    Approvals(approvals::Command),
    /// List, show and forget cached plans, and explain how goals get theirs
    #[command(subcommand)]
    Plans(plans::Command),
    /// List the tools that steps call
    #[command(subcommand)]
    Tools(tools::Command),
    /// Send events from a file of JSON lines
    Send(send::Args),
    /// Read the history: by time, tenant, type and entity
    Replay(replay::Args),
    /// List, show and redrive rejected records
    #[command(subcommand)]
    Dlq(dlq::Command),
    /// Show how far behind each processor is
    Lag(lag::Args),
    /// List or create the system's topics
    #[command(subcommand)]
    Topics(topics::Command),
    /// Check everything that a node needs
    Doctor(doctor::Args),
    /// Rebuild tables from the log while the old ones stay in use
    Rebuild(rebuild::Args),
    /// Run the migrations of the schema in Postgres
    Migrate(migrate::Args),
    /// Fetch the model of the embeddings
    #[cfg(feature = "embed")]
    #[command(subcommand)]
    Model(model::Command),
    /// Print a completion script for a shell
    Completions(completions::Args),
}

impl Global {
    /// The configuration, with flags on top of it.
    fn load(&self, sources: impl FnOnce(Sources) -> Sources) -> anyhow::Result<Config> {
        let data_dir = self.data_dir.as_ref().map(|dir| {
            // A path in a flag is relative to the working directory; one in the file, to the file.
            let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.clone());
            dir.display().to_string()
        });
        let base =
            Sources::of_process(self.config.clone()).flag("--data-dir", "data_dir", data_dir);
        Ok(Config::load(&sources(base))?)
    }
}

/// Runs the command that the process's arguments name.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Up(args) => up::main(&cli.global, &args),
        Command::Check(args) => check::main(&cli.global, &args),
        Command::Test(args) => test::main(&cli.global, &args),
        Command::Graph(args) => graph::main(&cli.global, &args),
        Command::Config(args) => config::main(&cli.global, &args),
        Command::Keys(command) => keys::main(&cli.global, command),
        Command::Integrations(command) => integrations::main(&cli.global, command),
        Command::Readers(command) => readers::main(&cli.global, command),
        Command::Controls(command) => controls::main(&cli.global, command),
        Command::Audit(args) => audit::main(&cli.global, &args),
        Command::Runs(command) => runs::main(&cli.global, command),
        Command::Approvals(command) => approvals::main(&cli.global, command),
        Command::Plans(command) => plans::main(&cli.global, command),
        Command::Tools(command) => tools::main(&cli.global, &command),
        Command::Send(args) => send::main(&cli.global, &args),
        Command::Replay(args) => replay::main(&cli.global, &args),
        Command::Dlq(command) => dlq::main(&cli.global, command),
        Command::Lag(args) => lag::main(&cli.global, &args),
        Command::Topics(command) => topics::main(&cli.global, command),
        Command::Doctor(args) => doctor::main(&cli.global, &args),
        Command::Rebuild(args) => rebuild::main(&cli.global, &args),
        Command::Migrate(args) => migrate::main(&cli.global, &args),
        #[cfg(feature = "embed")]
        Command::Model(command) => model::main(&cli.global, &command),
        Command::Completions(args) => {
            completions::main(&args);
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::error(&error);
            ExitCode::FAILURE
        }
    }
}

/// A single-threaded runtime for commands that wait for network requests.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    use anyhow::Context;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn arguments_are_consistent() {
        super::Cli::command().debug_assert();
    }
}
