//! Errors in schema files.

use std::{ops::Range, path::PathBuf, sync::Arc};

/// What is wrong with a schema file, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The file.
    pub file: PathBuf,
    /// Its contents; empty if it cannot be read.
    pub text: Arc<str>,
    /// The bytes of the contents that it is about.
    pub span: Range<usize>,
    /// What is wrong, for people.
    pub message: String,
    /// What to do about it.
    pub note: Option<String>,
}
