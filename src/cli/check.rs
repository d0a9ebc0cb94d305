//! `omnilink check`.

use std::path::PathBuf;

use serde_json::json;

use super::{Global, output, shapes};
use crate::{
    config::Config,
    node::{event_schemas, topologies::refuse_errors},
    topology::Problem,
};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink check                        # all files of topologies_dir, webhooks_dir and event_schemas_dir
  omnilink check topologies/orders.yaml
  omnilink check --json | jq .items[].message

All problems in all files are reported at once, each with its line. Exit code 1 if there are errors.")]
pub(super) struct Args {
    /// Topology files and shapes of webhook sources [default: all of topologies_dir and webhooks_dir, and all event schemas]
    pub(super) files: Vec<PathBuf>,
}

pub(super) fn main(global: &Global, args: &Args) -> anyhow::Result<()> {
    let config = global.load(|sources| sources)?;
    let (count, problems) = check(&config, &args.files)?;
    if global.json {
        let items: Vec<_> = problems.iter().map(Problem::shown).collect();
        output::json(&json!({ "items": items }))?;
    } else {
        show(&problems);
    }
    refuse_errors(&problems)?;
    if !global.json {
        let plural = if count == 1 { "" } else { "s" };
        output::line(&format!("{count} file{plural} checked, no errors"));
    }
    Ok(())
}

/// The number of files checked, and all their problems.
fn check(config: &Config, named: &[PathBuf]) -> anyhow::Result<(usize, Vec<Problem>)> {
    let files = shapes::read(config, named)?;
    let (mut count, mut problems) = (files.count, files.problems);
    if named.is_empty() {
        match event_schemas::read_folder(&config.event_schemas_dir) {
            Ok(set) => count += set.len(),
            Err(mut found) => problems.append(&mut found),
        }
    }
    Ok((count, problems))
}

/// Prints problems with their lines.
pub(super) fn show(problems: &[Problem]) {
    let colour = output::colours();
    for problem in problems {
        output::coloured_line(&problem.render(colour));
    }
}
