//! Reads all files and checks them together.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{catalog::Catalog, source::Source, tool::Definition, workflow_file};
use crate::{
    plans::{Fault, Pointer},
    topology::{Problem, has_errors, sort, yaml},
};

/// The result of [`check`].
pub struct Checked {
    /// `None` if there are errors.
    pub catalog: Option<Catalog>,
    /// Sorted by file and position.
    pub problems: Vec<Problem>,
}

/// What a file declares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileKind {
    /// A tool.
    Tool,
    /// A workflow.
    Workflow,
    /// Neither: a topology.
    Other,
}

/// What a file declares, by its members: a tool has a `worker`, a workflow a `plan`.
pub fn kind_of(text: &str) -> FileKind {
    let json = yaml::parse(text).map_or(serde_json::Value::Null, |node| node.json());
    if json.get("worker").is_some() {
        FileKind::Tool
    } else if json.get("plan").is_some() {
        FileKind::Workflow
    } else {
        FileKind::Other
    }
}

/// All files `*.yaml` and `*.yml` of a folder, sorted. A missing folder counts as empty.
pub fn find(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let yaml = path.extension().is_some_and(|x| x == "yaml" || x == "yml");
        if yaml && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Reads files and checks them together.
pub fn check(tools: &[PathBuf], workflows: &[PathBuf]) -> Checked {
    let read = |path: &PathBuf| (path.display().to_string(), std::fs::read_to_string(path));
    check_texts(tools.iter().map(read), workflows.iter().map(read))
}

/// Like [`check`], for names and contents of files.
pub fn check_texts(
    tools: impl IntoIterator<Item = (String, std::io::Result<String>)>,
    workflows: impl IntoIterator<Item = (String, std::io::Result<String>)>,
) -> Checked {
    let mut catalog = Catalog::default();
    let mut problems = Vec::new();
    read_tools(tools, &mut catalog, &mut problems);
    read_workflows(workflows, &mut catalog, &mut problems);
    sort(&mut problems);
    Checked {
        catalog: (!has_errors(&problems)).then_some(catalog),
        problems,
    }
}

fn read_tools(
    files: impl IntoIterator<Item = (String, std::io::Result<String>)>,
    catalog: &mut Catalog,
    problems: &mut Vec<Problem>,
) {
    let name_of_tool = Pointer::root().at("name");
    let mut sources = Vec::new();
    let mut places = BTreeMap::new();
    for (file, text) in files {
        let mut source = match Source::read(file, text) {
            Ok(source) => source,
            Err(found) => {
                problems.extend(found);
                continue;
            }
        };
        if let Some(tool) = Definition::read(&mut source) {
            let name = tool.tool.name.clone();
            if catalog.add_tool(tool) {
                places.insert(name, source.name().to_owned());
            } else {
                let other = places.get(&name).map_or("", String::as_str);
                let message = format!("there is another tool `{name}`, in {other}");
                source.report(&Pointer::root(), &Fault::new(&name_of_tool, message));
            }
        }
        sources.push(source);
    }
    for source in &mut sources {
        check_compensation(source, catalog);
        problems.append(&mut source.problems.found);
    }
}

/// Checks a tool's compensation. Called once all tools are known.
fn check_compensation(source: &mut Source, catalog: &Catalog) {
    let name = source.json.get("name").and_then(serde_json::Value::as_str);
    let Some(call) = name.and_then(|name| catalog.tool(name)?.tool.compensate.clone()) else {
        return;
    };
    let at = Pointer::root().at("compensate");
    if catalog.tool(&call.tool).is_none() {
        let message = format!("there is no tool `{}`", call.tool);
        source.report(&Pointer::root(), &Fault::new(&at.at("tool"), message));
    }
    let faults = catalog.check_input(&call.tool, &call.input, &at.at("input"));
    source.report_all(&Pointer::root(), &faults);
}

fn read_workflows(
    files: impl IntoIterator<Item = (String, std::io::Result<String>)>,
    catalog: &mut Catalog,
    problems: &mut Vec<Problem>,
) {
    let root = Pointer::root();
    let mut places = BTreeMap::new();
    let mut commands: BTreeMap<String, String> = BTreeMap::new();
    for (file, text) in files {
        let mut source = match Source::read(file, text) {
            Ok(source) => source,
            Err(found) => {
                problems.extend(found);
                continue;
            }
        };
        if let Some(workflow) = workflow_file::read(&mut source, catalog) {
            let (name, version) = (workflow.name.clone(), workflow.version.clone());
            if let Some(command) = &workflow.command {
                let of = commands
                    .entry(command.clone())
                    .or_insert_with(|| name.clone());
                if *of != name {
                    let message =
                        format!("the command `{command}` is that of workflow `{of}` already");
                    source.report(&root, &Fault::new(&root.at("command"), message));
                }
            }
            let key = format!("{name} {version}");
            if catalog.add_workflow(workflow) {
                places.insert(key, source.name().to_owned());
            } else {
                let other = places.get(&key).map_or("", String::as_str);
                let message =
                    format!("there is another workflow `{name}` of version {version}, in {other}");
                source.report(&root, &Fault::new(&root.at("version"), message));
            }
        }
        problems.append(&mut source.problems.found);
    }
}
