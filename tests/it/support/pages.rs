//! Runs the commands of documentation pages in a shell, and compares their output with that in the page.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use crate::support::command::{Up, errors, omnilink};

/// Whether a program is installed; prints that the test is skipped if not.
pub fn has(program: &str, arguments: &[&str]) -> bool {
    let there = Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !there {
        eprintln!("SKIPPED: `{program} {}` does not work", arguments.join(" "));
    }
    there
}

/// The code blocks of a section of a page, with language and text. The section ends at the next heading of its level.
pub fn blocks(page: &str, section: &str) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(page).unwrap();
    let from = text.find(&format!("{section}\n"));
    let from = from.unwrap_or_else(|| panic!("{page} has no `{section}`"));
    let level = section.split(' ').next().unwrap();
    let text = &text[from + section.len()..];
    let text = text.split(&format!("\n{level} ")).next().unwrap();
    let mut blocks = Vec::new();
    for block in text.split("\n```").skip(1).step_by(2) {
        let (language, block) = block.split_once('\n').unwrap();
        blocks.push((language.to_owned(), block.to_owned()));
    }
    blocks
}

/// Asserts that the output has the expected lines in order; `…` in a line matches any text, and a line `…` any lines.
fn assert_shows(expected: &str, actual: &str) {
    let mut lines = actual.trim_end().lines();
    let mut any = false;
    for wanted in expected.lines() {
        if wanted.trim() == "…" {
            any = true;
            continue;
        }
        let fits = |line: &str| like(wanted.trim_end(), line.trim_end());
        let found = if any {
            lines.any(fits)
        } else {
            lines.next().is_some_and(fits)
        };
        assert!(found, "`{wanted}` is not where it should be in\n{actual}");
        any = false;
    }
    let rest = lines.next();
    assert!(any || rest.is_none(), "{rest:?} was not expected");
}

fn like(wanted: &str, line: &str) -> bool {
    let mut parts = wanted.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else {
        return false;
    };
    let mut last = None;
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
        last = Some(part);
    }
    // The line must end with the text after the last `…`.
    rest.is_empty() || last.is_some_and(|part| part.is_empty() || line.ends_with(part))
}

/// Runs commands in a shell beside a node and returns their output.
pub fn shell(dir: &Path, up: &Up, commands: &str, settings: &[(&str, &str)]) -> String {
    // Signals only the node of the test, not other processes named `omnilink`.
    let commands = commands.replace("$(pidof omnilink)", &up.child.id().to_string());
    let ours = omnilink(dir, &[]);
    let binary = Path::new(ours.get_program()).parent().unwrap().to_owned();
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("bash");
    // Without the settings of the environment.
    for (name, _) in ours.get_envs().filter(|(_, value)| value.is_none()) {
        shell.env_remove(name);
    }
    let out = shell
        .current_dir(dir)
        .args(["-euo", "pipefail", "-c", &format!("exec 2>&1\n{commands}")])
        .env("PATH", path)
        .env("PGTZ", "UTC")
        .env_remove("PAGER")
        .envs(settings.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success(), "{commands}\n{text}{}", errors(dir));
    text
}

/// Runs the commands of shell blocks, and compares the output of each block with the block after it. `run` returns the output of a
/// command.
pub fn follow(blocks: &[(String, String)], mut run: impl FnMut(&str) -> String) {
    let mut ran = 0;
    for (at, (language, text)) in blocks.iter().enumerate() {
        // The node runs already, in the right folder.
        if language != "sh" || text.contains("omnilink up") {
            continue;
        }
        let whole = text.replace("\\\n", " ");
        let commands = whole.lines().filter(|line| !line.starts_with("cd "));
        let printed: String = commands.map(&mut run).collect();
        ran += 1;
        if let Some((language, expected)) = blocks.get(at + 1)
            && language.is_empty()
        {
            assert_shows(expected, &printed);
        }
    }
    assert!(ran > 0);
}
