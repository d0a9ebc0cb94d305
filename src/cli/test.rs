//! `omnilink test`: runs the tests in topology files and shapes of webhook sources.

use std::path::PathBuf;

use anyhow::bail;
use serde_json::json;

use super::{Global, check, output, shapes};
use crate::{node::topologies::refuse_errors, topology};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink test                        # the tests in all files of topologies_dir and webhooks_dir
  omnilink test topologies/orders.yaml

Each test runs its topology on an in-memory log with three partitions, with a clock that moves only when the test
advances it. A test of a webhook source runs behind the signature. Exit code 1 if a test fails.")]
pub(super) struct Args {
    /// Topology files and shapes of webhook sources [default: all of topologies_dir and webhooks_dir]
    files: Vec<PathBuf>,
}

pub(super) fn main(global: &Global, args: &Args) -> anyhow::Result<()> {
    let config = global.load(|sources| sources)?;
    let files = shapes::read(&config, &args.files)?;
    if topology::has_errors(&files.problems) {
        check::show(&files.problems);
        return refuse_errors(&files.problems);
    }
    let colour = output::colours();
    let show = |outcome: &topology::Outcome| {
        if !global.json {
            output::coloured_line(topology::render(outcome, colour).trim_end());
        }
    };
    let set = files.topologies.as_ref().and_then(|c| c.set.as_ref());
    let mut outcomes = set.map_or_else(Vec::new, |set| topology::rehearse(set, show));
    outcomes.append(&mut shapes::rehearse(&files.shapes, show)?);
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
