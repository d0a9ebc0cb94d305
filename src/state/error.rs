//! What can go wrong with keyed state.

use std::{borrow::Cow, io, path::PathBuf, sync::Arc};

use super::table::CodecError;

/// An error of the embedded store. Always fatal: the process ends, and the next start recovers.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The operating system refused a file operation.
    #[error("a file of the store in the data directory: {0}")]
    Io(#[source] Arc<io::Error>),
    /// The store itself failed.
    #[error("the store in the data directory: {0}")]
    Store(#[source] Arc<fjall::Error>),
    /// Another process has the store open.
    #[error("another process has {} open", dir.display())]
    InUse {
        /// The store's directory.
        dir: PathBuf,
    },
    /// A row is not what this version writes: the data directory was changed, or a newer version wrote it.
    #[error("{0} is damaged, or was written by a newer version")]
    Damaged(Cow<'static, str>),
    /// A row of a [`super::Table`] cannot be read: it is damaged, or a newer version wrote it.
    #[error("row {key} of the table `{table}` cannot be read: {why}")]
    Row {
        /// The table's name.
        table: &'static str,
        /// The bytes of the key, escaped as ASCII.
        key: String,
        /// What is wrong with it.
        #[source]
        why: CodecError,
    },
}

impl StateError {
    /// A row of this kind cannot be read.
    pub fn damaged(what: impl Into<Cow<'static, str>>) -> Self {
        Self::Damaged(what.into())
    }
}

impl From<io::Error> for StateError {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

impl From<fjall::Error> for StateError {
    fn from(error: fjall::Error) -> Self {
        Self::Store(Arc::new(error))
    }
}
