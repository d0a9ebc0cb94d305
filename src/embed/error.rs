//! Errors of embeddings, and their classes.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use rayon::ThreadPoolBuildError;

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
        /// The path of the file.
        file: PathBuf,
        /// The error of the operating system.
        #[source]
        cause: io::Error,
    },
    /// A file is not the one that belongs to the model: cut off, damaged, or of another model.
    #[error(
        "{} is damaged, or of another model (SHA-256 {found}, expected {expected}): delete it, then `omnilink model fetch` gets it again",
        .file.display()
    )]
    Corrupt {
        /// The path of the file.
        file: PathBuf,
        /// The checksum that the model's file has, in hexadecimal.
        expected: &'static str,
        /// The checksum of this file.
        found: String,
    },
    /// The weights are intact, but cannot be used: a bug, or the device failed.
    #[error("the model cannot be loaded: {0}")]
    Weights(#[source] candle_core::Error),
    /// The file of the tokenizer is intact, but cannot be used: a bug.
    #[error("the model cannot be loaded: {file}: {source}")]
    Tokenizer {
        /// The name of the file.
        file: &'static str,
        /// The error of the tokenizer.
        source: tokenizers::Error,
    },
    /// The thread pool of the model cannot be started.
    #[error("the embedder's threads cannot be started: {0}")]
    ThreadPool(#[source] ThreadPoolBuildError),
    /// The thread of the queue cannot be started.
    #[error("the embedder's threads cannot be started: {0}")]
    Thread(#[source] io::Error),
    /// The queue is full.
    #[error("{waiting} texts wait to be embedded; at most {most} may")]
    Overloaded {
        /// The number of queued texts.
        waiting: usize,
        /// The maximum number of queued texts.
        most: usize,
    },
    /// One call has more texts than may wait.
    #[error("{texts} texts in one call; at most {most} may wait")]
    TooMany {
        /// The number of texts in the call.
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
    Tokens(#[source] tokenizers::Error),
    /// The forward pass failed, as when a GPU is out of memory. All texts of a batch share the error.
    #[error("the forward pass failed: {0}")]
    Pass(#[source] Arc<candle_core::Error>),
    /// The forward pass panicked, with this message: a bug.
    #[error("the forward pass failed: {0}")]
    Panicked(String),
}

impl EmbedError {
    /// How the caller should handle it.
    pub fn class(&self) -> Class {
        match self {
            Self::Overloaded { .. } | Self::Timeout(_) | Self::Stopped => Class::Retriable,
            Self::TooMany { .. } | Self::Tokens(_) => Class::Rejected,
            Self::Missing(_)
            | Self::Unreadable { .. }
            | Self::Corrupt { .. }
            | Self::Weights(_)
            | Self::Tokenizer { .. }
            | Self::ThreadPool(_)
            | Self::Thread(_)
            | Self::Pass(_)
            | Self::Panicked(_) => Class::Fatal,
        }
    }
}
