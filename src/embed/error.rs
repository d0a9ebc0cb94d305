//! Errors of embeddings, and their classes.

use std::{io, path::PathBuf, time::Duration};

/// The class of an error: how the caller should handle it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Retry after a pause: the embedder is overloaded, or it is stopping.
    Retriable,
    /// The text cannot be embedded; a retry would fail in the same way.
    Rejected,
    /// An operator must act: a model file is missing or damaged, or the device fails.
    Fatal,
}

/// A text that was not embedded, or a model that was not loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbedError {
    /// A file of the model does not exist.
    #[error("there is no {}: `omnilink model fetch` gets the model", .0.display())]
    Missing(PathBuf),
    /// A file of the model cannot be read.
    #[error("{} cannot be read: {cause}", .file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// A file is not the one that belongs to the model: cut off, damaged, or of another model.
    #[error(
        "{} is damaged, or of another model (SHA-256 {found}, expected {expected}): delete it, then `omnilink model fetch` gets it again",
        .file.display()
    )]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// The checksum that the model's file has, in hexadecimal.
        expected: &'static str,
        /// The checksum of this file.
        found: String,
    },
    /// The model's files are intact, but cannot be used: a bug.
    #[error("the model cannot be loaded: {0}")]
    Load(String),
    /// The threads cannot be started.
    #[error("the embedder's threads cannot be started: {0}")]
    Threads(String),
    /// The queue is full.
    #[error("{waiting} texts wait to be embedded; at most {most} may")]
    Overloaded {
        /// Texts that wait.
        waiting: usize,
        /// The maximum number of queued texts.
        most: usize,
    },
    /// One call has more texts than may wait.
    #[error("{texts} texts in one call; at most {most} may wait")]
    TooMany {
        /// Texts of the call.
        texts: usize,
        /// The maximum number of queued texts.
        most: usize,
    },
    /// The vectors were not computed in time.
    #[error("not embedded within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The embedder has stopped.
    #[error("the embedder has stopped")]
    Stopped,
    /// The text cannot be split into tokens.
    #[error("the text cannot be split into tokens: {0}")]
    Tokens(String),
    /// The forward pass failed, as when a GPU is out of memory.
    #[error("the forward pass failed: {0}")]
    Pass(String),
}

impl EmbedError {
    /// Its class.
    pub fn class(&self) -> Class {
        match self {
            Self::Overloaded { .. } | Self::Timeout(_) | Self::Stopped => Class::Retriable,
            Self::TooMany { .. } | Self::Tokens(_) => Class::Rejected,
            Self::Missing(_)
            | Self::Unreadable { .. }
            | Self::Corrupt { .. }
            | Self::Load(_)
            | Self::Threads(_)
            | Self::Pass(_) => Class::Fatal,
        }
    }
}
