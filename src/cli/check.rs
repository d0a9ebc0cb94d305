//! `omnilink check`: checks topologies, workflows, tools, shapes of webhook sources, and event schemas.

use std::path::PathBuf;

use serde_json::json;

use super::{Global, output, shapes};
use crate::{
    config::Config,
    node::{event_schemas, topologies::refuse_errors, workflows},
    topology::{Problem, sort},
};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink check                        # all files of the folders in the configuration
  omnilink check topologies/orders.yaml workflows/pay.yaml
  omnilink check --json | jq .items[].message

All problems in all files are reported at once, each with its line. Exit code 1 if there are errors.")]
pub(super) struct Args {
    /// Files of topologies, workflows, tools and shapes of webhook sources [default: all of topologies_dir, workflows_dir, tools_dir
    /// and webhooks_dir, and all event schemas]
    pub(super) files: Vec<PathBuf>,
}

pub(super) fn main(global: &Global, args: &Args) -> anyhow::Result<()> {
    let config = global.load(|sources| sources)?;
    let (count, problems) = if args.files.is_empty() {
        check_all(&config)?
    } else {
        check_named(&config, &args.files)?
    };
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

/// Checks all files of the configured folders. Returns the number of files, and their problems.
fn check_all(config: &Config) -> anyhow::Result<(usize, Vec<Problem>)> {
    let plans = workflows::all_files(config)?;
    let mut problems = workflows::check(&plans).problems;
    let files = shapes::read(config, &[])?;
    problems.extend(files.problems);
    let mut count = plans.tools.len() + plans.workflows.len() + files.count;
    match event_schemas::read_folder(&config.event_schemas_dir) {
        Ok(set) => count += set.len(),
        Err(found) => problems.extend(found),
    }
    sort(&mut problems);
    Ok((count, problems))
}

/// Checks these files. Returns their number, and their problems.
fn check_named(config: &Config, named: &[PathBuf]) -> anyhow::Result<(usize, Vec<Problem>)> {
    let (plans, others) = workflows::among(config, named)?;
    let mut problems = workflows::check(&plans).problems;
    // Workflows are checked against all tools, but only problems of the named files are reported.
    let names: Vec<_> = named
        .iter()
        .map(|file| file.display().to_string())
        .collect();
    problems.retain(|problem| names.contains(&problem.file.name));
    if !others.is_empty() {
        problems.extend(shapes::read(config, &others)?.problems);
        sort(&mut problems);
    }
    Ok((named.len(), problems))
}

/// Prints problems with their lines.
pub(super) fn show(problems: &[Problem]) {
    let colour = output::colours();
    for problem in problems {
        output::coloured_line(&problem.render(colour));
    }
}
