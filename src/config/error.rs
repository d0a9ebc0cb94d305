//! Errors of a configuration: all of them, each with its place.

use std::fmt;

/// An error of a configuration, with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `omnilink.yaml:3:5`, the name of an environment variable, or a flag.
    pub place: String,
    /// The key, such as `topics.partitions`; empty for a whole file.
    pub key: String,
    /// What is wrong and how to fix it. Never contains a value that may be a secret.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() {
            write!(f, "{}: {}", self.place, self.message)
        } else {
            write!(f, "{}: `{}`: {}", self.place, self.key, self.message)
        }
    }
}

/// All errors of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.problems[..] {
            [one] => write!(f, "{one}"),
            all => {
                write!(f, "the configuration has {} errors", all.len())?;
                all.iter().try_for_each(|p| write!(f, "\n  {p}"))
            }
        }
    }
}
