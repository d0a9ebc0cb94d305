//! `omnilink check`.

use std::path::PathBuf;

use serde_json::json;

use super::{Global, output};
use crate::{
    node::topologies::{read_files, refuse_errors},
    topology::Problem,
};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink check                        # all files of topologies_dir
  omnilink check topologies/orders.yaml
  omnilink check --json | jq .items[].message

All problems in all files are reported at once, each with its line. Exit code 1 if there are errors.")]
pub(super) struct Args {
    /// Topology files [default: all of topologies_dir]
    pub(super) files: Vec<PathBuf>,
}

pub(super) fn main(global: &Global, args: &Args) -> anyhow::Result<()> {
    let config = global.load(|sources| sources)?;
    let (files, checked) = read_files(&config, &args.files)?;
    if global.json {
        let items: Vec<_> = checked.problems.iter().map(Problem::shown).collect();
        output::json(&json!({ "items": items }))?;
    } else {
        show(&checked.problems);
    }
    refuse_errors(&checked.problems)?;
    if !global.json {
        let (count, plural) = (files.len(), if files.len() == 1 { "" } else { "s" });
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
