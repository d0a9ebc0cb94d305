//! `/v1/audit` and `/v1/rejections`: the audit log, and rejected webhook requests.

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    list::{BadLimit, PAGE, PAGE_MAX},
    replay::{BadTime, time},
};
use crate::{
    base::clock::Millis,
    store::audit::{Actions, AuditRow, Page, Place, RejectionRow},
};

/// The valid times of cursors: the years 1 to 9999, in microseconds since 1970.
const TIMES: std::ops::RangeInclusive<i64> = -62_135_596_800_000_000..=253_402_300_799_999_999;

/// Selects entries of the audit log, newest first.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditQuery {
    /// `next_cursor` of the previous page.
    pub cursor: Option<String>,
    /// The maximum number of items in a page; default 100.
    #[schemars(range(min = 1, max = PAGE_MAX))]
    pub limit: Option<usize>,
    /// The tenant; default: that of the key. Another tenant needs the permission `operator`. `-` selects the entries of the whole
    /// installation and those of requests without a valid key.
    pub tenant: Option<String>,
    /// Entries at or after this time.
    #[schemars(extend("format" = "date-time"))]
    pub since: Option<String>,
    /// Entries before this time.
    #[schemars(extend("format" = "date-time"))]
    pub until: Option<String>,
    /// Entries with this action, such as `key.created`, or with a prefix, such as `key.*`.
    pub action: Option<String>,
    /// Entries of this principal.
    pub principal: Option<String>,
}

/// Selects rejected webhook requests, newest first.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RejectionQuery {
    /// `next_cursor` of the previous page.
    pub cursor: Option<String>,
    /// The maximum number of items in a page; default 100.
    #[schemars(range(min = 1, max = PAGE_MAX))]
    pub limit: Option<usize>,
    /// The tenant; default: that of the key. Another tenant needs the permission `operator`.
    pub tenant: Option<String>,
    /// Requests at or after this time.
    #[schemars(extend("format" = "date-time"))]
    pub since: Option<String>,
    /// Requests before this time.
    #[schemars(extend("format" = "date-time"))]
    pub until: Option<String>,
    /// Requests to the webhook source of this name.
    pub source: Option<String>,
}

/// Why a query is invalid.
#[derive(Debug, thiserror::Error)]
pub enum BadPage {
    /// `limit` is out of range.
    #[error(transparent)]
    Limit(#[from] BadLimit),
    /// A time is invalid.
    #[error("`{0}`: {1}")]
    Time(&'static str, BadTime),
    /// `cursor` is not a cursor of this list.
    #[error("`cursor` must be the `next_cursor` of the previous page")]
    Cursor,
}

/// The parameters of a page as sent.
pub(super) struct PageParameters<'a> {
    pub(super) cursor: Option<&'a str>,
    pub(super) limit: Option<usize>,
    pub(super) since: Option<&'a str>,
    pub(super) until: Option<&'a str>,
}

impl PageParameters<'_> {
    /// Parses the page of a tenant.
    pub(super) fn page(&self, tenant: &str) -> Result<Page, BadPage> {
        let limit = self.limit.unwrap_or(PAGE);
        if !(1..=PAGE_MAX).contains(&limit) {
            return Err(BadLimit.into());
        }
        let at = |name, text: Option<&str>| -> Result<Option<Millis>, BadPage> {
            let read = text.map(|text| time(text).map_err(|e| BadPage::Time(name, e)));
            read.transpose()
        };
        let cursor = self
            .cursor
            .map(|text| parse_cursor(text).ok_or(BadPage::Cursor));
        Ok(Page {
            tenant: tenant.to_owned(),
            since: at("since", self.since)?,
            until: at("until", self.until)?,
            after: cursor.transpose()?,
            limit,
        })
    }
}

impl AuditQuery {
    /// Parses the page of a tenant.
    pub fn page(&self, tenant: &str) -> Result<Page, BadPage> {
        let parameters = PageParameters {
            cursor: self.cursor.as_deref(),
            limit: self.limit,
            since: self.since.as_deref(),
            until: self.until.as_deref(),
        };
        parameters.page(tenant)
    }

    /// The selected actions.
    pub fn actions(&self) -> Option<Actions> {
        self.action.as_ref().map(|action| {
            let prefix = action.strip_suffix('*');
            prefix.map_or_else(
                || Actions::Exactly(action.clone()),
                |prefix| Actions::Prefix(prefix.to_owned()),
            )
        })
    }
}

impl RejectionQuery {
    /// Parses the page of a tenant.
    pub fn page(&self, tenant: &str) -> Result<Page, BadPage> {
        let parameters = PageParameters {
            cursor: self.cursor.as_deref(),
            limit: self.limit,
            since: self.since.as_deref(),
            until: self.until.as_deref(),
        };
        parameters.page(tenant)
    }
}

/// Encodes the place of a row as a cursor.
pub fn cursor(place: &Place) -> String {
    format!("{}:{}", place.at, place.id)
}

fn parse_cursor(text: &str) -> Option<Place> {
    let (at, id) = text.split_once(':')?;
    let at = at.parse().ok().filter(|at| TIMES.contains(at))?;
    if id.contains('\0') {
        return None;
    }
    Some(Place {
        at,
        id: id.to_owned(),
    })
}

fn rfc3339(micros: i64) -> String {
    Timestamp::from_microsecond(micros)
        .map(|time| time.to_string())
        .unwrap_or_default()
}

/// An entry of the audit log.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AuditEntry {
    /// The id of the entry.
    pub id: String,
    /// The time of the action.
    #[schemars(extend("format" = "date-time"))]
    pub at: String,
    /// The tenant concerned; `-` for the whole installation, or a request without a valid key.
    pub tenant: String,
    /// The principal that acted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// The user on whose behalf the principal acted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<String>,
    /// The action, such as `key.created`.
    pub action: String,
    /// The type of the resource, such as `key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_type: Option<String>,
    /// The id of the resource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_id: Option<String>,
    /// `ok`, `accepted` (its result was not known yet), `denied` or `failed`.
    pub outcome: String,
    /// The client's IP address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The client's `User-Agent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// Additional details; the fields depend on the action.
    pub detail: Map<String, Value>,
}

impl From<AuditRow> for AuditEntry {
    fn from(row: AuditRow) -> Self {
        Self {
            id: row.place.id,
            at: rfc3339(row.place.at),
            tenant: row.tenant,
            principal: row.principal,
            on_behalf_of: row.on_behalf_of,
            action: row.action,
            resource_type: row.resource_type,
            resource_id: row.resource_id,
            outcome: row.outcome,
            address: row.address,
            user_agent: row.user_agent,
            // The projection only accepts objects.
            detail: serde_json::from_str(&row.detail).unwrap_or_default(),
        }
    }
}

/// How the start of a body is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum BodyEncoding {
    /// Unchanged UTF-8; an incomplete character at the end is left out.
    Text,
    /// Base64, because it is not UTF-8.
    Base64,
}

/// A rejected webhook request.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Rejection {
    /// The id of the rejection.
    pub id: String,
    /// The time of the request.
    #[schemars(extend("format" = "date-time"))]
    pub at: String,
    /// The name of the webhook source.
    pub source: String,
    /// The client's IP address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The reason: the code of the answer.
    pub code: String,
    /// The reason in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The hash of the whole body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_hash: Option<String>,
    /// The first 4 KiB of the body, encoded as in `body_encoding`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_head: Option<String>,
    /// The encoding of `body_head`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_encoding: Option<BodyEncoding>,
}

impl From<RejectionRow> for Rejection {
    fn from(row: RejectionRow) -> Self {
        let (body_head, body_encoding) = row.body_head.map(|head| shown(&head)).unzip();
        Self {
            id: row.place.id,
            at: rfc3339(row.place.at),
            source: row.source,
            address: row.address,
            code: row.code,
            message: row.message,
            body_hash: row.body_hash,
            body_head,
            body_encoding,
        }
    }
}

/// The start of a body, as text if it is UTF-8, else in base64.
fn shown(head: &[u8]) -> (String, BodyEncoding) {
    let text = match std::str::from_utf8(head) {
        Ok(text) => Some(text),
        // Only the last character is incomplete.
        Err(e) if e.error_len().is_none() => std::str::from_utf8(&head[..e.valid_up_to()]).ok(),
        Err(_) => None,
    };
    match text {
        Some(text) => (text.to_owned(), BodyEncoding::Text),
        None => (STANDARD.encode(head), BodyEncoding::Base64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_names_a_place() {
        let place = Place {
            at: 1_700_000_000_000_001,
            id: "01998a55-0c1e-7b60-9f3b-3a3c8a5b1f00".into(),
        };
        assert_eq!(parse_cursor(&cursor(&place)), Some(place));
        for bad in ["", "x", "1", "a:b", "9223372036854775807:x", "1:a\0b"] {
            assert_eq!(parse_cursor(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_body_is_text_where_it_can_be() {
        assert_eq!(shown(b"{}"), ("{}".into(), BodyEncoding::Text));
        assert_eq!(
            shown("aä".as_bytes().split_last().unwrap().1),
            ("a".into(), BodyEncoding::Text)
        );
        assert_eq!(shown(b"a\xffb"), ("Yf9i".into(), BodyEncoding::Base64));
    }
}
