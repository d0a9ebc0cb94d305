//! `omnilink graph`: prints the topologies as a Mermaid flowchart.

use serde_json::json;

use super::{Global, check, output};
use crate::topology;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  omnilink graph > topologies.mmd
  omnilink graph --json | jq -r .mermaid

Prints a Mermaid flowchart of the system's topologies and those of topologies_dir.")]
pub(super) struct Args {}

pub(super) fn main(global: &Global, _: &Args) -> anyhow::Result<()> {
    let config = global.load(|sources| sources)?;
    let (_, checked) = crate::node::topologies::read_files(&config, &[])?;
    let Some(set) = &checked.set else {
        check::show(&checked.problems);
        return crate::node::topologies::refuse_errors(&checked.problems);
    };
    let mermaid = topology::mermaid(set);
    if global.json {
        return output::json(&json!({ "mermaid": mermaid }));
    }
    output::line(mermaid.trim_end());
    Ok(())
}
