//! `omnilink check`.

use std::path::PathBuf;

use serde_json::json;

use super::{Global, output};
use crate::{
    node::{
        event_schemas,
        topologies::{read_files, refuse_errors},
    },
    topology::Problem,
};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink check                        # all files of topologies_dir and event_schemas_dir
  omnilink check topologies/orders.yaml
  omnilink check --json | jq .items[].message

All problems in all files are reported at once, each with its line. Exit code 1 if there are errors.")]
pub(super) struct Args {
    /// Topology files [default: all of topologies_dir, and all event schemas]
    pub(super) files: Vec<PathBuf>,
}

pub(super) fn main(global: &Global, args: &Args) -> anyhow::Result<()> {
    let config = global.load(|sources| sources)?;
    let (files, checked) = read_files(&config, &args.files)?;
    let (mut count, mut problems) = (files.len(), checked.problems);
    if args.files.is_empty() {
        match event_schemas::read_folder(&config.event_schemas_dir) {
            Ok(set) => count += set.len(),
            Err(mut found) => problems.append(&mut found),
        }
    }
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

/// Prints problems with their lines.
pub(super) fn show(problems: &[Problem]) {
    let colour = output::colours();
    for problem in problems {
        output::coloured_line(&problem.render(colour));
    }
}
