//! Pages of the documentation as tests run them: their commands in a shell, and what they print against what stands there.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use crate::cli::{Up, errors, omnilink};

/// Whether a program is there; says so where it is not.
pub fn has(program: &str, arguments: &[&str]) -> bool {
    let there = Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !there {
        eprintln!("SKIPPED: there is no `{program} {}`", arguments.join(" "));
    }
    there
}

/// The blocks of a section of a page: language and text. The section goes up to the next heading of its level.
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

/// Each expected line comes, in order; `…` in a line stands for anything, and a line of its own for any lines.
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
    // Behind the last `…` the line must end with what stands there.
    rest.is_empty() || last.is_some_and(|part| part.is_empty() || line.ends_with(part))
}

/// Runs commands beside a node as a shell does, and answers with all that they print.
pub fn shell(dir: &Path, up: &Up, commands: &str, settings: &[(&str, &str)]) -> String {
    // Whatever else is called `omnilink` on this machine is left alone.
    let commands = commands.replace("$(pidof omnilink)", &up.child.id().to_string());
    let ours = omnilink(dir, &[]);
    let binary = Path::new(ours.get_program()).parent().unwrap().to_owned();
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("bash");
    // Without the settings of whoever runs the tests.
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

/// Runs the commands of shell blocks, each block against the output that stands behind it. `run` answers with what one prints.
pub fn follow(blocks: &[(String, String)], mut run: impl FnMut(&str) -> String) {
    let mut ran = 0;
    for (at, (language, text)) in blocks.iter().enumerate() {
        // The node runs already, and where it should.
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
