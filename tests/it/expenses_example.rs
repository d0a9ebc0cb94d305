//! `examples/expenses`: the command in README.md runs as written, and prints what the page shows.

use std::{net::TcpListener, path::Path};

use omnilink::workflows::{check, find};

use crate::support::{
    command::{Folder, Up},
    pages::{blocks, follow, has, shell},
};

const EXAMPLE: &str = "examples/expenses";

/// Copies a folder's files; the port of the worker is another one.
fn copy(name: &str, dir: &Path, port: &str) {
    let to = dir.join(name);
    std::fs::create_dir_all(&to).unwrap();
    for entry in std::fs::read_dir(Path::new(EXAMPLE).join(name)).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let file = to.join(path.file_name().unwrap());
            // With its permissions.
            std::fs::copy(&path, &file).unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            std::fs::write(&file, text.replace("8601", port)).unwrap();
        }
    }
}

#[test]
fn a_webhook_starts_the_workflow() {
    for (program, arguments) in [
        ("python3", "--version"),
        ("psql", "--version"),
        ("jq", "--version"),
        ("curl", "--version"),
    ] {
        if !has(program, &[arguments]) {
            return;
        }
    }
    let folder = Folder::new();
    let dir = folder.path();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port().to_string();
    drop(free);
    for name in ["", "workflows", "tools"] {
        copy(name, dir, &port);
    }
    let up = Up::start(dir);
    let settings = [("OMNILINK_URL", up.url.as_str())];
    let page = blocks("README.md", "## A workflow in two commands");
    follow(&page, |line| shell(dir, &up, line, &settings));
    // What was made for it is gone, and it runs again.
    let sources = shell(dir, &up, "omnilink integrations list --json", &settings);
    assert!(!sources.contains("expenses-"), "{sources}");
    follow(&page, |line| shell(dir, &up, line, &settings));
}

#[test]
fn its_files_are_right() {
    let files = |name: &str| find(&Path::new(EXAMPLE).join(name)).unwrap();
    let checked = check(&files("tools"), &files("workflows"));
    let problems: Vec<_> = checked.problems.iter().map(|p| p.render(false)).collect();
    assert_eq!(problems, Vec::<String>::new());
}
