//! Finding the installed Postgres programs.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A directory with `postgres` and `initdb`, and their major version.
/// The oldest major version that the migrations work on: views need `security_invoker`.
const OLDEST: u32 = 15;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Binaries {
    pub(super) directory: PathBuf,
    pub(super) major: u32,
}

impl Binaries {
    /// All installed versions that the migrations work on, newest first.
    pub(super) fn find_all() -> Vec<Self> {
        let mut found: Vec<Self> = Vec::new();
        for directory in candidates() {
            let Ok(directory) = directory.canonicalize() else {
                continue;
            };
            if found.iter().any(|b| b.directory == directory) {
                continue;
            }
            if let Some(major) = version_of(&directory) {
                found.push(Self { directory, major });
            }
        }
        found.sort_by_key(|b| std::cmp::Reverse(b.major));
        found
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

fn candidates() -> Vec<PathBuf> {
    let mut directories: Vec<PathBuf> = env::var_os("PATH")
        .map(|path| env::split_paths(&path).collect())
        .unwrap_or_default();
    // Debian and Ubuntu; Red Hat; Homebrew; built from source.
    directories.extend(children("/usr/lib/postgresql", "").map(|p| p.join("bin")));
    directories.extend(children("/usr", "pgsql-").map(|p| p.join("bin")));
    directories.extend(children("/opt/homebrew/opt", "postgresql").map(|p| p.join("bin")));
    directories.extend(children("/usr/local/opt", "postgresql").map(|p| p.join("bin")));
    directories.extend(["/usr/local/pgsql/bin", "/usr/libexec/postgresql"].map(PathBuf::from));
    directories.extend(children("/usr/libexec", "postgresql"));
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        directories.push(String::from_utf8_lossy(&output.stdout).trim().into());
    }
    directories
}

fn children(directory: &str, prefix: &'static str) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter(move |entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
}

/// The major version of the programs in a directory; `None` if there are none, or if they are older than [`OLDEST`].
fn version_of(directory: &Path) -> Option<u32> {
    if !directory.join("initdb").is_file() {
        return None;
    }
    let output = Command::new(directory.join("postgres"))
        .arg("--version")
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // `postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)`, `postgres (PostgreSQL) 18beta1`
    let number = text.split(')').nth(1)?.trim_start();
    let digits = number
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(number.len());
    number[..digits]
        .parse()
        .ok()
        .filter(|major| *major >= OLDEST)
}
