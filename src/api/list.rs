//! Lists, and how they are paged.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Items of a page without `limit`.
pub const PAGE: usize = 100;
/// The most items of a page.
pub const PAGE_MAX: usize = 1000;

/// A list.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "{T}List")]
pub struct List<T> {
    /// The items.
    pub items: Vec<T>,
    /// What to pass as `cursor` for the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

impl<T> List<T> {
    /// A list that comes whole.
    pub fn whole(items: Vec<T>) -> Self {
        Self {
            items,
            next_cursor: None,
        }
    }
}

/// Which page of a list, and whose.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Page {
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
    /// The most items of a page; 100 unless given.
    #[schemars(range(min = 1, max = PAGE_MAX))]
    pub limit: Option<usize>,
    /// The tenant whose items are listed: the key's own unless given. Another one needs the permission `operator`.
    pub tenant: Option<String>,
}

impl Page {
    /// How many items the page has.
    pub fn limit(&self) -> Result<usize, BadLimit> {
        let limit = self.limit.unwrap_or(PAGE);
        if (1..=PAGE_MAX).contains(&limit) {
            Ok(limit)
        } else {
            Err(BadLimit)
        }
    }
}

/// `limit` is out of range.
#[derive(Debug, thiserror::Error)]
#[error("`limit` must be from 1 to {PAGE_MAX}")]
pub struct BadLimit;
