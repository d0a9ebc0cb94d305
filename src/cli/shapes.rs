//! Reads topology files and files with shapes of webhook sources, for `check` and `test`.

use std::path::PathBuf;

use crate::{
    base::id::Tenant,
    bridges::Shape,
    config::Config,
    node::topologies::read_files,
    topology::{self, Checked, Outcome, Problem, SourceFile},
};

/// The tenant of events in tests of shapes.
const TENANT: &str = "acme";

/// The files of a command.
pub(super) struct Files {
    /// The number of files.
    pub(super) count: usize,
    /// The topology files; `None`: only shapes were named.
    pub(super) topologies: Option<Checked>,
    pub(super) shapes: Vec<(String, Shape)>,
    /// The problems of all files.
    pub(super) problems: Vec<Problem>,
}

/// Reads the named files, or all of topologies_dir and webhooks_dir. A file with `dialect` is a shape.
pub(super) fn read(config: &Config, named: &[PathBuf]) -> anyhow::Result<Files> {
    let mut shapes = Vec::new();
    let mut others = Vec::new();
    if named.is_empty() {
        let dir = &config.webhooks_dir;
        shapes = topology::find(dir)
            .map_err(|e| anyhow::anyhow!("{} cannot be read: {e}", dir.display()))?;
    }
    for file in named {
        // A file that cannot be read counts as a topology file, and is reported with those.
        let text = std::fs::read_to_string(file).unwrap_or_default();
        if Shape::is_one(&text) {
            shapes.push(file.clone());
        } else {
            others.push(file.clone());
        }
    }
    let mut files = Files {
        count: shapes.len(),
        topologies: None,
        shapes: Vec::new(),
        problems: Vec::new(),
    };
    if named.is_empty() || !others.is_empty() {
        let (read, checked) = read_files(config, &others)?;
        files.count += read.len();
        files.problems.clone_from(&checked.problems);
        files.topologies = Some(checked);
    }
    for path in shapes {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(&path)
            .map_err(|e| anyhow::anyhow!("{name} cannot be read: {e}"))?;
        match Shape::read(SourceFile {
            name: name.clone(),
            text,
        }) {
            Ok(shape) => files.shapes.push((name, shape)),
            Err(mut problems) => files.problems.append(&mut problems),
        }
    }
    Ok(files)
}

/// Runs the tests of shapes.
pub(super) fn rehearse(
    shapes: &[(String, Shape)],
    mut report: impl FnMut(&Outcome),
) -> anyhow::Result<Vec<Outcome>> {
    let tenant = Tenant::new(TENANT)?;
    let mut outcomes = Vec::new();
    for (file, shape) in shapes {
        for tried in shape.run(&tenant) {
            let outcome = Outcome {
                file: file.clone(),
                line: tried.line,
                name: tried.name,
                diff: tried.differences,
                ms: tried.ms,
            };
            report(&outcome);
            outcomes.push(outcome);
        }
    }
    Ok(outcomes)
}
