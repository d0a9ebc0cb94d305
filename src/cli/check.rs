//! `omnilink check`.

use std::path::PathBuf;

use anyhow::bail;
use serde_json::json;

use super::{Global, output};
use crate::{
    config::Config,
    stream::topology::{self, Checked, Problem, Severity},
};

/// Which files.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink check                        # all files of topologies_dir
  omnilink check topologies/orders.yaml
  omnilink check --json | jq .items[].message

Everything that is wrong with all files is said at once, each with its line. Exit code 1 if anything is.")]
pub(super) struct Args {
    /// Topology files [default: all of topologies_dir]
    pub(super) files: Vec<PathBuf>,
}

pub(super) fn main(global: &Global, args: &Args) -> anyhow::Result<()> {
    let config = global.load(|sources| sources)?;
    let (files, checked) = read(&config, &args.files)?;
    if global.json {
        let items: Vec<_> = checked.problems.iter().map(Problem::shown).collect();
        output::json(&json!({ "items": items }))?;
    } else {
        show(&checked.problems);
    }
    refuse(&checked.problems)?;
    if !global.json {
        let (count, plural) = (files.len(), if files.len() == 1 { "" } else { "s" });
        output::line(&format!("{count} file{plural} checked, nothing is wrong"));
    }
    Ok(())
}

/// The files that were named, or those of the folder, checked together.
pub(super) fn read(config: &Config, named: &[PathBuf]) -> anyhow::Result<(Vec<PathBuf>, Checked)> {
    let files = if named.is_empty() {
        topology::find(&config.topologies_dir).map_err(|e| {
            anyhow::anyhow!("{} cannot be read: {e}", config.topologies_dir.display())
        })?
    } else {
        named.to_vec()
    };
    let checked = topology::check(&files, &config.topics.prefix);
    Ok((files, checked))
}

/// Prints problems with their lines.
pub(super) fn show(problems: &[Problem]) {
    let colour = output::colours();
    for problem in problems {
        output::coloured_line(&problem.render(colour));
    }
}

/// An error that counts them, if any is one.
pub(super) fn refuse(problems: &[Problem]) -> anyhow::Result<()> {
    let errors: Vec<_> = problems
        .iter()
        .filter(|p| p.severity == Severity::Error)
        .collect();
    let mut files: Vec<&str> = errors.iter().map(|p| p.file.name.as_str()).collect();
    files.dedup();
    match (errors.len(), files.len()) {
        (0, _) => Ok(()),
        (1, _) => bail!("1 error in the topology files"),
        (count, 1) => bail!("{count} errors in {}", files[0]),
        (count, files) => bail!("{count} errors in {files} files"),
    }
}
