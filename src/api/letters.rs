//! `/v1/dlq`: dead letters. The content of a letter is defined in [`crate::stream::dlq::letters`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::list::{PAGE, PAGE_MAX};
use crate::stream::dlq::{
    letters::{Listing, NotACursor, parse_cursor},
    name::{Name, NotAName},
    redrive::{Pick, Redriven},
};

/// Selects a page of the list, newest first.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListLetters {
    /// Only letters with this code.
    pub code: Option<String>,
    /// `next_cursor` of the previous page. With `code`, a page may have fewer letters than `limit` and still have a cursor.
    pub cursor: Option<String>,
    /// The maximum number of letters in a page, from 1 to 1000; default 100.
    pub limit: Option<usize>,
}

impl ListLetters {
    /// Parses the query.
    pub fn listing(self) -> Result<Listing, NotACursor> {
        Ok(Listing {
            cursor: self.cursor.as_deref().map(parse_cursor).transpose()?,
            code: self.code,
            limit: self.limit.unwrap_or(PAGE).clamp(1, PAGE_MAX),
        })
    }
}

/// The letters to redrive; exactly one of the three members is required.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RedriveLetters {
    /// Letters by name (`PARTITION:OFFSET`), even if they were redriven before.
    #[serde(default)]
    pub names: Vec<String>,
    /// All letters that were never redriven.
    #[serde(default)]
    pub all: bool,
    /// All letters with this code that were never redriven.
    pub code: Option<String>,
}

/// Why a request does not select letters.
#[derive(Debug, thiserror::Error)]
pub enum BadPick {
    /// None of the three members is present, or more than one.
    #[error("one of `names`, `all: true` and `code` says which letters")]
    NotOne,
    /// A name is invalid.
    #[error(transparent)]
    Name(#[from] NotAName),
}

impl RedriveLetters {
    /// The selected letters.
    pub fn pick(self) -> Result<Pick, BadPick> {
        match (self.names.is_empty(), self.all, self.code) {
            (false, false, None) => {
                let names: Result<_, _> = self.names.iter().map(|n| n.parse::<Name>()).collect();
                Ok(Pick::Names(names?))
            }
            (true, true, None) => Ok(Pick::All),
            (true, false, Some(code)) => Ok(Pick::Code(code)),
            _ => Err(BadPick::NotOne),
        }
    }
}

/// A line of the answer to a redrive. A line follows after each group of letters; the last one is not `running`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum RedriveProgress<'a> {
    /// It is running.
    Running {
        /// The progress so far.
        redrive: &'a Redriven,
    },
    /// It has finished.
    Done {
        /// The totals.
        redrive: &'a Redriven,
    },
    /// It has failed; letters that were already redriven stay redriven.
    Failed {
        /// The reason.
        error: String,
    },
}
