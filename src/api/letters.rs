//! `/v1/dlq`: dead letters. What a letter holds is defined in [`crate::stream::dlq::letters`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::list::{PAGE, PAGE_MAX};
use crate::stream::dlq::{
    letters::{Listing, NotACursor, parse_cursor},
    name::{Name, NotAName},
    redrive::{Pick, Redriven},
};

/// Which page of the list, newest first.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListLetters {
    /// Letters of this code alone.
    pub code: Option<String>,
    /// `next_cursor` of the page before. A page with `code` may hold fewer letters than `limit` and a cursor all the same.
    pub cursor: Option<String>,
    /// The most letters of a page, from 1 to 1000; 100 unless given.
    pub limit: Option<usize>,
}

impl ListLetters {
    /// The part of the list that is asked for.
    pub fn listing(self) -> Result<Listing, NotACursor> {
        Ok(Listing {
            cursor: self.cursor.as_deref().map(parse_cursor).transpose()?,
            code: self.code,
            limit: self.limit.unwrap_or(PAGE).clamp(1, PAGE_MAX),
        })
    }
}

/// Which letters to put back on their topics: exactly one of the three.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RedriveLetters {
    /// Letters by name (`PARTITION:OFFSET`), whether they were redriven before or not.
    #[serde(default)]
    pub names: Vec<String>,
    /// All that were never redriven.
    #[serde(default)]
    pub all: bool,
    /// All of this code that were never redriven.
    pub code: Option<String>,
}

/// Why a request names no letters.
#[derive(Debug, thiserror::Error)]
pub enum BadPick {
    /// None of the three is given, or more than one.
    #[error("one of `names`, `all: true` and `code` says which letters")]
    NotOne,
    /// A name is not one.
    #[error(transparent)]
    Name(#[from] NotAName),
}

impl RedriveLetters {
    /// The letters that are meant.
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

/// A line of the answer to a redrive: one each time that some letters are back, and a last one that is not `running`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum RedriveProgress<'a> {
    /// It is running.
    Running {
        /// How far it is.
        redrive: &'a Redriven,
    },
    /// It has ended.
    Done {
        /// What became of the letters.
        redrive: &'a Redriven,
    },
    /// It has failed; letters that are back stay back.
    Failed {
        /// Why.
        error: String,
    },
}
