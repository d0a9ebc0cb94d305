//! `omnilink check`.

use std::path::PathBuf;

use serde_json::json;

use super::{Global, output, shapes};
use crate::{node::topologies::refuse_errors, topology::Problem};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink check                        # all files of topologies_dir and webhooks_dir
  omnilink check topologies/orders.yaml
  omnilink check --json | jq .items[].message

All problems in all files are reported at once, each with its line. Exit code 1 if there are errors.")]
pub(super) struct Args {
    /// Topology files and shapes of webhook sources [default: all of topologies_dir and webhooks_dir]
    pub(super) files: Vec<PathBuf>,
}

pub(super) fn main(global: &Global, args: &Args) -> anyhow::Result<()> {
    let config = global.load(|sources| sources)?;
    let files = shapes::read(&config, &args.files)?;
    if global.json {
        let items: Vec<_> = files.problems.iter().map(Problem::shown).collect();
        output::json(&json!({ "items": items }))?;
    } else {
        show(&files.problems);
    }
    refuse_errors(&files.problems)?;
    if !global.json {
        let (count, plural) = (files.count, if files.count == 1 { "" } else { "s" });
        output::line(&format!("{count} file{plural} checked, no errors"));
    }
    Ok(())
}

/// Prints problems with their lines.
pub(super) fn show(problems: &[Problem]) {
    let colour = output::colours();
    for problem in problems {
        output::coloured_line(&problem.render(colour));
    }
}
