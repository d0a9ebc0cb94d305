//! `omnilink graph`: prints the topologies as a Mermaid flowchart.

use serde_json::json;

use super::{Global, check, output};
use crate::{
    node::{topologies, workflows},
    topology::{self, Starter},
    workflows::{Current, Trigger},
};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink graph > topologies.mmd
  omnilink graph --json | jq -r .mermaid

Prints a Mermaid flowchart of the system's topologies, those of topologies_dir, and the workflows of workflows_dir that events or times
start.")]
pub(super) struct Args {}

pub(super) fn main(global: &Global, _: &Args) -> anyhow::Result<()> {
    let config = global.load(|sources| sources)?;
    let (_, checked) = topologies::read_files(&config, &[])?;
    let Some(set) = &checked.set else {
        check::show(&checked.problems);
        return topologies::refuse_errors(&checked.problems);
    };
    let triggers = Current::new(workflows::read(&config)?).triggers();
    let mut started: Vec<_> = triggers
        .all()
        .map(|(to_start, trigger)| {
            let starter = match trigger {
                Trigger::Event(trigger) => Starter::Event(&trigger.pattern),
                Trigger::Cron(trigger) => Starter::Times(trigger.schedule.name()),
            };
            (starter, to_start.workflow.name.as_str())
        })
        .collect();
    started.sort_unstable();
    started.dedup();
    let mermaid = topology::mermaid(set, &started);
    if global.json {
        return output::json(&json!({ "mermaid": mermaid }));
    }
    output::line(mermaid.trim_end());
    Ok(())
}
