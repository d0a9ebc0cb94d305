//! Where Postgres's programs are on this machine.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A folder with `postgres` and `initdb`, of a known major version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Binaries {
    pub(super) folder: PathBuf,
    pub(super) major: u32,
}

impl Binaries {
    /// All that are installed, newest first.
    pub(super) fn find_all() -> Vec<Self> {
        let mut found: Vec<Self> = Vec::new();
        for folder in candidates() {
            let Ok(folder) = folder.canonicalize() else {
                continue;
            };
            if found.iter().any(|b| b.folder == folder) {
                continue;
            }
            if let Some(major) = version_of(&folder) {
                found.push(Self { folder, major });
            }
        }
        found.sort_by_key(|b| std::cmp::Reverse(b.major));
        found
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

fn candidates() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = env::var_os("PATH")
        .map(|path| env::split_paths(&path).collect())
        .unwrap_or_default();
    // Debian and Ubuntu; Red Hat; Homebrew; from source.
    folders.extend(children("/usr/lib/postgresql", "").map(|p| p.join("bin")));
    folders.extend(children("/usr", "pgsql-").map(|p| p.join("bin")));
    folders.extend(children("/opt/homebrew/opt", "postgresql").map(|p| p.join("bin")));
    folders.extend(children("/usr/local/opt", "postgresql").map(|p| p.join("bin")));
    folders.extend(["/usr/local/pgsql/bin", "/usr/libexec/postgresql"].map(PathBuf::from));
    folders.extend(children("/usr/libexec", "postgresql"));
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        folders.push(String::from_utf8_lossy(&output.stdout).trim().into());
    }
    folders
}

fn children(folder: &str, prefix: &'static str) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(move |entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
}

/// The major version of the programs in a folder; `None` where there are none, or too old ones.
fn version_of(folder: &Path) -> Option<u32> {
    if !folder.join("initdb").is_file() {
        return None;
    }
    let output = Command::new(folder.join("postgres"))
        .arg("--version")
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // `postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)`, `postgres (PostgreSQL) 18beta1`
    let number = text.split(')').nth(1)?.trim_start();
    let digits = number
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(number.len());
    number[..digits].parse().ok().filter(|major| *major >= 14)
}
