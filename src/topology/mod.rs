//! Topology files: what runs beside the system's own processors, declared in YAML and VRL.
//!
//! ```text
//! files ─► syntax, vrl (read) ─► check (steps and files together) ─► plan (stages) ─► run (lanes for each stage)
//! ```
//!
//! All errors of all files are reported at once ([`Problem`]). A topology is split into stages where records need another key: between
//! two stages is a topic of OmniLink's own, `rekey.{name}`.

mod check;
mod graph;
mod plan;
mod program;
mod rehearsal;
mod run;
mod syntax;
mod vrl;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

pub use graph::{Starter, mermaid};
pub(crate) use program::{OverEvent, Program};
pub use rehearsal::{Outcome, render, run as rehearse};
#[doc(hidden)]
pub use run::codec::read_csv;
pub use run::{Deployed, Deployment, Setup};
pub use syntax::problem::{Problem, Severity, SourceFile, has_errors};

pub(crate) use syntax::{
    problem::{Problems, sort},
    yaml,
};
pub(crate) use vrl::{BOUNDS, Machine, Use};

use plan::Plan;
use syntax::{file, system};

/// Topologies that were checked together and can run.
pub struct Set {
    plans: Vec<Arc<Plan>>,
    system: system::Tuned,
}

/// The result of a check.
pub struct Checked {
    /// `None`: there are errors, and nothing may run.
    pub set: Option<Set>,
    /// Sorted by file and position.
    pub problems: Vec<Problem>,
}

impl Set {
    /// The names of the users' topologies.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.plans.iter().map(|plan| plan.name.as_str())
    }

    /// The processors of the users' topologies, each with the topic that it reads.
    pub fn processors(&self) -> impl Iterator<Item = (&str, &str)> {
        let stages = self.plans.iter().flat_map(|plan| &plan.stages);
        stages.map(|stage| (stage.processor.as_str(), &**stage.input.topic()))
    }

    /// For how long admission remembers an identity, if a file says so.
    pub fn admission_window_ms(&self) -> Option<i64> {
        self.system.admission_window_ms
    }
}

/// All topology files of a folder: `*.yaml` and `*.yml` in it, and in its `system/` those for the system's own topologies. A folder
/// that does not exist has none.
pub fn find(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for dir in [dir.to_owned(), dir.join(system::FOLDER)] {
        let entries = match std::fs::read_dir(&dir) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            let yaml = path.extension().is_some_and(|x| x == "yaml" || x == "yml");
            if yaml && path.is_file() {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Reads files and checks them together. `prefix` is `topics.prefix`.
pub fn check(files: &[PathBuf], prefix: &str) -> Checked {
    let read = |path: &PathBuf| (path.clone(), std::fs::read_to_string(path));
    check_texts(files.iter().map(read), prefix)
}

/// As [`check`], with the contents of the files.
pub fn check_texts(
    files: impl IntoIterator<Item = (PathBuf, std::io::Result<String>)>,
    prefix: &str,
) -> Checked {
    let mut problems = Vec::new();
    let mut topologies = Vec::new();
    for (path, text) in files {
        let name = path.display().to_string();
        let (text, unreadable) = match text {
            Ok(text) => (text, None),
            Err(e) => (String::new(), Some(format!("cannot be read: {e}"))),
        };
        let file = Arc::new(SourceFile { name, text });
        let mut found = Problems::of(Arc::clone(&file));
        if let Some(unreadable) = unreadable {
            found.error(&(0..0), unreadable);
        } else if let Some(topology) = file::read(&file, &mut found) {
            let of_system = path
                .parent()
                .and_then(Path::file_name)
                .is_some_and(|folder| folder == system::FOLDER);
            topologies.push((topology, of_system));
        }
        problems.append(&mut found.found);
    }
    check::judge(topologies, prefix, problems)
}
