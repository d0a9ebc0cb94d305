//! `omnilink test`.

use std::path::PathBuf;

use anyhow::bail;
use serde_json::json;

use super::{Global, check, output};
use crate::topology;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink test                        # the tests in all files of topologies_dir
  omnilink test topologies/orders.yaml

Each test runs its topology on an in-memory log with three partitions, with a clock that moves only when the test
advances it. Exit code 1 if a test fails.")]
pub(super) struct Args {
    /// Topology files [default: all of topologies_dir]
    files: Vec<PathBuf>,
}

pub(super) fn main(global: &Global, args: &Args) -> anyhow::Result<()> {
    let config = global.load(|sources| sources)?;
    let (_, checked) = crate::node::topologies::read_files(&config, &args.files)?;
    let Some(set) = &checked.set else {
        check::show(&checked.problems);
        return crate::node::topologies::refuse_errors(&checked.problems);
    };
    let colour = output::colours();
    let outcomes = topology::rehearse(set, |outcome| {
        if !global.json {
            output::coloured_line(topology::render(outcome, colour).trim_end());
        }
    });
    let failed = outcomes.iter().filter(|o| !o.passed()).count();
    if global.json {
        let items: Vec<_> = outcomes
            .iter()
            .map(|outcome| {
                json!({
                    "file": outcome.file,
                    "line": outcome.line,
                    "name": outcome.name,
                    "passed": outcome.passed(),
                    "diff": outcome.diff,
                    "ms": outcome.ms,
                })
            })
            .collect();
        output::json(&json!({ "items": items }))?;
    }
    if failed > 0 {
        bail!("{failed} of {} tests failed", outcomes.len());
    }
    if !global.json {
        let (count, plural) = (outcomes.len(), if outcomes.len() == 1 { "" } else { "s" });
        output::line(&format!("{count} test{plural} passed"));
    }
    Ok(())
}
