//! Lists and their pages.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The default number of items in a page.
pub const PAGE: usize = 100;
/// The maximum number of items in a page.
pub const PAGE_MAX: usize = 1000;

/// A list.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "{T}List")]
pub struct List<T> {
    /// The items.
    pub items: Vec<T>,
    /// The `cursor` of the next page; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

impl<T> List<T> {
    /// A list in a single page.
    pub fn whole(items: Vec<T>) -> Self {
        Self {
            items,
            next_cursor: None,
        }
    }
}

/// Selects a page of a list, and the tenant.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Page {
    /// `next_cursor` of the previous page.
    pub cursor: Option<String>,
    /// The maximum number of items in a page; default 100.
    #[schemars(range(min = 1, max = PAGE_MAX))]
    pub limit: Option<usize>,
    /// The tenant whose items are listed; default: that of the key. Another tenant needs the permission `operator`.
    pub tenant: Option<String>,
}

impl Page {
    /// The number of items in the page.
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
