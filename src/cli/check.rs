//! `omnilink check`: topologies, workflows and tools.

use std::path::PathBuf;

use serde_json::json;

use super::{Global, output};
use crate::{
    config::Config,
    node::{
        topologies::{read_files, refuse_errors},
        workflows,
    },
    topology::{Problem, sort},
};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink check                        # all files of topologies_dir, workflows_dir and tools_dir
  omnilink check topologies/orders.yaml workflows/pay.yaml
  omnilink check --json | jq .items[].message

All problems in all files are reported at once, each with its line. Exit code 1 if there are errors.")]
pub(super) struct Args {
    /// Files of topologies, workflows and tools [default: all of topologies_dir, workflows_dir and tools_dir]
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

/// How many files were checked, and all their problems.
fn check(config: &Config, named: &[PathBuf]) -> anyhow::Result<(usize, Vec<Problem>)> {
    let (files, others) = if named.is_empty() {
        (workflows::all_files(config)?, Vec::new())
    } else {
        workflows::among(config, named)?
    };
    let mut problems = workflows::check(&files).problems;
    let mut count = named.len();
    if named.is_empty() {
        count = files.tools.len() + files.workflows.len();
    } else {
        // Tools that are there for the workflows alone are not what is asked about.
        let names: Vec<_> = named
            .iter()
            .map(|file| file.display().to_string())
            .collect();
        problems.retain(|problem| names.contains(&problem.file.name));
    }
    if named.is_empty() || !others.is_empty() {
        let (files, checked) = read_files(config, &others)?;
        if named.is_empty() {
            count += files.len();
        }
        problems.extend(checked.problems);
        sort(&mut problems);
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
