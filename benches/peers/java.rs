//! The process of a peer: settings, log, and termination.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// Downloaded and compiled by `scripts/bench`, with the settings in the repository.
pub struct Kit {
    class_path: String,
}

impl Kit {
    /// `None` if it was not built, which is printed.
    pub fn find() -> Option<Self> {
        let Ok(dir) = std::env::var("OMNILINK_PEERS") else {
            println!("SKIPPED: OMNILINK_PEERS is not set (scripts/bench peers)");
            return None;
        };
        Some(Self {
            class_path: format!("{dir}/classes:{dir}/libs/*"),
        })
    }
}

/// A file of the settings in the repository.
pub fn file(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    dir.join("benches/peers/settings").join(name)
}

/// Settings that override the files.
#[derive(Clone, Default)]
pub struct Differs {
    pub settings: Vec<(String, String)>,
    jvm: Vec<String>,
}

impl Differs {
    /// `name=value`, and JVM options.
    pub fn parse(words: &str) -> Self {
        let mut all = Self::default();
        for word in words.split_whitespace() {
            if word.starts_with('-') {
                all.jvm.push(word.to_owned());
            } else {
                let (name, value) = word.split_once('=').expect("name=value");
                all.settings.push((name.to_owned(), value.to_owned()));
            }
        }
        all
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.settings.push((name.to_owned(), value.into()));
        self
    }
}

/// The settings of a file with overrides.
pub fn settings(name: &str, differs: &Differs) -> Vec<(String, String)> {
    let text = fs::read_to_string(file(name)).unwrap();
    let given = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let mut all: Vec<(String, String)> = given.collect();
    for (name, value) in &differs.settings {
        all.retain(|(other, _)| other != name);
        if !value.is_empty() {
            all.push((name.clone(), value.clone()));
        }
    }
    all
}

/// The value of a setting.
pub fn value<'a>(settings: &'a [(String, String)], name: &str) -> &'a str {
    let found = settings.iter().find(|(other, _)| other == name);
    found.map_or("", |(_, value)| value)
}

/// Writes a properties file.
pub fn write(settings: &[(String, String)], to: &Path) -> String {
    let lines = settings
        .iter()
        .map(|(name, value)| format!("{name}={value}\n"));
    fs::write(to, lines.collect::<String>()).unwrap();
    to.to_str().unwrap().to_owned()
}

/// Killed on drop. If this process is killed, it exits by itself, because its standard input is closed.
pub struct Java {
    child: Child,
    log: PathBuf,
}

impl Java {
    pub fn start(kit: &Kit, differs: &Differs, class: &str, args: &[&str], dir: &Path) -> Self {
        let log = dir.join(format!("{class}.log"));
        let out = File::create(&log).unwrap();
        let child = Command::new("java")
            .arg(format!("@{}", file("jvm.options").display()))
            .args(&differs.jvm)
            .args(["-cp", &kit.class_path, class])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap_or_else(|e| panic!("java does not start: {e} (scripts/install kafka)"));
        Self { child, log }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Panics with the end of its log if it has exited.
    pub fn check(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("it ended with {status}:\n{}", self.said());
        }
    }

    /// The end of its log.
    pub fn said(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Java {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // During a panic, prints the end of the log.
        if std::thread::panicking() {
            println!("--- the end of its log\n{}", self.said());
        }
    }
}
