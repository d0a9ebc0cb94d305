//! Why a call or a run failed.

use serde::{Deserialize, Serialize};

/// Why a call or a run failed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StepError {
    /// A stable code, of the worker or of OmniLink.
    pub code: String,
    /// Human-readable text.
    pub message: String,
}

impl StepError {
    /// An error with a code and a text.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
        }
    }
}
