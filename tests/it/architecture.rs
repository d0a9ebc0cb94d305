//! Checks the layering of the source: no module uses one of a higher floor, and the files of a module have no import cycles.
//!
//! A room is a top-level module under `src/`. Imports are read from the paths in a file (`crate::…`, `super::…`, `self::…`).
//! Test modules are ignored: a test may use the modules above it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The rooms, from the lowest floor up. A room may use only rooms of lower floors.
const FLOORS: &[&[&str]] = &[
    &["base", "chaos"],
    &["config"],
    &["redis_connection", "telemetry"],
    &[
        "embed", "envelope", "guardian", "http", "limits", "plans", "state", "store",
    ],
    &["entity", "event_schemas", "log"],
    &["runs"],
    &[
        "audit",
        "commands",
        "controls",
        "embedded_postgres",
        "registry",
    ],
    &["jwt", "slots", "stream"],
    &["replay", "topology"],
    &["api", "workflows"],
    &["starts"],
    &[
        "admission",
        "bridges",
        "cron",
        "notify",
        "planner",
        "projections",
        "saga",
        "workers",
    ],
    &["port"],
    &["node"],
    &["cli"],
];

/// A module path, such as `["stream", "dlq"]`; empty for the crate root.
type Module = Vec<String>;

struct Source {
    file: PathBuf,
    /// All paths in the file, made absolute.
    paths: BTreeSet<Vec<String>>,
    /// Imports by `use`: name → absolute path.
    imports: BTreeMap<String, Vec<String>>,
}

/// The text without comments, string and character literals, and `#[cfg(test)]` items.
fn code(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("r#\"") || rest.starts_with("br#\"") {
            rest.find("\"#").map_or(rest.len(), |end| end + 2)
        } else if first == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            end.map_or(rest.len(), |end| end + 2)
        } else if first == '\'' {
            // A character literal, not a lifetime.
            let character = if rest[1..].starts_with('\\') {
                rest[2..]
                    .char_indices()
                    .nth(1)
                    .and_then(|(at, _)| rest[2 + at..].find('\'').map(|end| at + end + 3))
            } else {
                let (at, next) = rest.char_indices().nth(2).unwrap_or((0, ' '));
                (next == '\'').then_some(at + 1)
            };
            character.unwrap_or(1)
        } else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        code.push(' ');
        rest = &rest[skip..];
    }
    while let Some(begin) = code.find("#[cfg(test)]") {
        // The item ends with its block, or with a semicolon before any block.
        let mut depth = 0;
        let end = code[begin..].char_indices().find_map(|(at, c)| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            (depth == 0 && (c == '}' || c == ';')).then_some(begin + at + 1)
        });
        code.replace_range(begin..end.unwrap_or(code.len()), "");
    }
    code
}

/// Splits code into names, `::`, and single characters.
fn tokens(code: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let of_name = |c: char| c.is_alphanumeric() || c == '_';
        let length = if of_name(first) {
            rest.find(|c| !of_name(c)).unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        let (token, after) = rest.split_at(length);
        tokens.push(token);
        rest = after.trim_start();
    }
    tokens
}

struct Paths<'a> {
    module: &'a Module,
    found: BTreeSet<Vec<String>>,
    imports: BTreeMap<String, Vec<String>>,
}

impl Paths<'_> {
    fn absolute(&self, path: &[&str]) -> Vec<String> {
        let mut base = self.module.clone();
        let mut rest = path;
        match path.first() {
            Some(&"crate") => {
                base.clear();
                rest = &path[1..];
            }
            Some(&"self") => rest = &path[1..],
            _ => {}
        }
        while let Some((&"super", after)) = rest.split_first() {
            base.pop();
            rest = after;
        }
        base.extend(rest.iter().map(|part| (*part).to_owned()));
        base
    }

    /// Reads one tree of a `use`; returns the tokens after it.
    fn tree<'t>(&mut self, mut tokens: &'t [&'t str], before: &[&'t str]) -> &'t [&'t str] {
        let mut path = before.to_vec();
        loop {
            match tokens {
                ["::", rest @ ..] => tokens = rest,
                ["{", rest @ ..] => {
                    tokens = rest;
                    while !matches!(tokens, ["}", ..] | []) {
                        tokens = self.tree(tokens, &path);
                        if let [",", rest @ ..] = tokens {
                            tokens = rest;
                        }
                    }
                    return tokens.get(1..).unwrap_or_default();
                }
                ["*", rest @ ..] => {
                    self.found.insert(self.absolute(&path));
                    return rest;
                }
                ["as", name, rest @ ..] => {
                    let absolute = self.absolute(&path);
                    self.imports.insert((*name).to_owned(), absolute.clone());
                    self.found.insert(absolute);
                    return rest;
                }
                [name, rest @ ..] if name.chars().all(|c| c.is_alphanumeric() || c == '_') => {
                    if *name != "self" || path.is_empty() {
                        path.push(name);
                    }
                    tokens = rest;
                    if matches!(rest, ["::" | "as", ..]) {
                        continue;
                    }
                    let absolute = self.absolute(&path);
                    if let Some(name) = path.last() {
                        self.imports.insert((*name).to_owned(), absolute.clone());
                    }
                    self.found.insert(absolute);
                    return tokens;
                }
                _ => return tokens.get(1..).unwrap_or_default(),
            }
        }
    }

    fn read(&mut self, tokens: &[&str]) {
        let mut at = 0;
        while at < tokens.len() {
            if tokens[at] == "use" {
                let rest = self.tree(&tokens[at + 1..], &[]);
                at = tokens.len() - rest.len();
                continue;
            }
            let mut end = at + 1;
            while tokens.get(end) == Some(&"::") && end + 1 < tokens.len() {
                end += 2;
            }
            if end > at + 1 {
                let path: Vec<&str> = tokens[at..end].iter().step_by(2).copied().collect();
                self.found.insert(self.absolute(&path));
            }
            at = end;
        }
    }
}

/// All modules of the crate.
fn modules() -> BTreeMap<Module, Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut modules = BTreeMap::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let file = entry.unwrap().path();
            if file.is_dir() {
                folders.push(file);
                continue;
            }
            if file.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let relative = file.strip_prefix(&root).unwrap().with_extension("");
            let mut module: Module = relative
                .iter()
                .map(|part| part.to_str().unwrap().to_owned())
                .collect();
            if module.last().is_some_and(|last| last == "mod") {
                module.pop();
            }
            let of_tests = |part: &String| part == "tests";
            let program = module.len() == 1 && ["lib", "main"].contains(&module[0].as_str());
            if module.iter().any(of_tests) || program {
                continue;
            }
            let text = fs::read_to_string(&file).unwrap();
            let mut paths = Paths {
                module: &module,
                found: BTreeSet::new(),
                imports: BTreeMap::new(),
            };
            paths.read(&tokens(&code(&text)));
            let (paths, imports) = (paths.found, paths.imports);
            let file = file.strip_prefix(&root).unwrap().to_owned();
            modules.insert(
                module,
                Source {
                    file,
                    paths,
                    imports,
                },
            );
        }
    }
    modules
}

/// The module that a path refers to, following re-exports.
fn target(modules: &BTreeMap<Module, Source>, path: &[String]) -> Option<Module> {
    let mut path = path.to_vec();
    // Re-exports of re-exports; more than a few would be a cycle.
    for _ in 0..8 {
        let most = (1..=path.len())
            .rev()
            .find(|n| modules.contains_key(&path[..*n]))?;
        let (module, rest) = path.split_at(most);
        let export = rest
            .first()
            .and_then(|name| modules[module].imports.get(name))
            .filter(|target| **target != path);
        match export {
            Some(target) if !target.is_empty() => {
                let mut next = target.clone();
                next.extend_from_slice(&rest[1..]);
                if next == path || !modules.contains_key(&next[..1]) {
                    return Some(module.to_vec());
                }
                path = next;
            }
            _ => return Some(module.to_vec()),
        }
    }
    None
}

fn uses(modules: &BTreeMap<Module, Source>) -> BTreeMap<&Module, BTreeSet<Module>> {
    modules
        .iter()
        .map(|(module, source)| {
            let used = source.paths.iter().filter_map(|path| target(modules, path));
            (module, used.filter(|used| used != module).collect())
        })
        .collect()
}

#[test]
fn no_room_uses_a_higher_floor() {
    let modules = modules();
    let floor = |room: &str| FLOORS.iter().position(|rooms| rooms.contains(&room));
    let mut wrong = Vec::new();
    for module in modules.keys() {
        if floor(&module[0]).is_none() {
            wrong.push(format!("{} is on no floor", module[0]));
        }
    }
    for (module, used) in uses(&modules) {
        for other in used {
            let (here, there) = (floor(&module[0]), floor(&other[0]));
            if module[0] != other[0] && here <= there {
                wrong.push(format!(
                    "{} uses {}",
                    modules[module].file.display(),
                    modules[&other].file.display()
                ));
            }
        }
    }
    wrong.sort();
    wrong.dedup();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_of_a_room_have_no_import_cycles() {
    let modules = modules();
    let uses = uses(&modules);
    let related = |a: &Module, b: &Module| a.starts_with(b) || b.starts_with(a);
    // The modules of the same room reachable from a module, without its parents and children.
    let reach = |from: &Module| {
        let mut seen = BTreeSet::new();
        let mut next = vec![from.clone()];
        while let Some(module) = next.pop() {
            for other in &uses[&module] {
                if other[0] == from[0] && !related(&module, other) && seen.insert(other.clone()) {
                    next.push(other.clone());
                }
            }
        }
        seen
    };
    let mut cycles = Vec::new();
    for module in modules.keys() {
        let reached = reach(module);
        if reached.contains(module) {
            let mut names: Vec<_> = reached
                .iter()
                .filter(|other| reach(other).contains(module))
                .map(|other| modules[other].file.display().to_string())
                .collect();
            names.sort();
            cycles.push(names.join(", "));
        }
    }
    cycles.sort();
    cycles.dedup();
    assert!(cycles.is_empty(), "{}", cycles.join("\n"));
}

/// The contract does not depend on what serves it.
#[test]
fn the_api_names_no_http_library() {
    for (module, source) in modules() {
        if module[0] != "api" {
            continue;
        }
        let libraries = ["axum", "hyper", "http_body_util", "tower"];
        let names = |path: &&Vec<String>| path.iter().any(|part| libraries.contains(&&**part));
        let found = source.paths.iter().find(names);
        assert!(found.is_none(), "{}: {found:?}", source.file.display());
    }
}
