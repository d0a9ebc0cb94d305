//! `notify`: who is told when something happens that people have to know.

use std::{collections::BTreeSet, fmt};

use lettre::{address::AddressError, message::Mailbox};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::{Secret, SecretUrl, secret::SecretError};
use crate::base::id::{BadTenant, Tenant};

/// The most items: each has a reader for each of its topics.
const ITEMS_MAX: usize = 20;
/// The most addresses of a mail.
const ADDRESSES_MAX: usize = 50;

/// What can be notified.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum NotifyOn {
    /// A person is asked.
    #[serde(rename = "approval.requested")]
    ApprovalRequested,
    /// All attempts of a step have failed, and a person decides.
    #[serde(rename = "incident")]
    Incident,
    /// A run has failed.
    #[serde(rename = "run.failed")]
    RunFailed,
    /// A run was denied.
    #[serde(rename = "run.denied")]
    RunDenied,
    /// A record became a dead letter.
    #[serde(rename = "dlq")]
    Dlq,
    /// A processor makes no progress.
    #[serde(rename = "stalled")]
    Stalled,
    /// An emergency control was changed.
    #[serde(rename = "control.changed")]
    ControlChanged,
}

impl NotifyOn {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ApprovalRequested => "approval.requested",
            Self::Incident => "incident",
            Self::RunFailed => "run.failed",
            Self::RunDenied => "run.denied",
            Self::Dlq => "dlq",
            Self::Stalled => "stalled",
            Self::ControlChanged => "control.changed",
        }
    }
}

/// One item of `notify`.
#[derive(Clone, Debug)]
pub struct Notify {
    /// What is notified.
    pub on: BTreeSet<NotifyOn>,
    /// Only what concerns this tenant.
    pub tenant: Option<Tenant>,
    /// Who is told.
    pub to: NotifyTarget,
}

/// Who is told.
#[derive(Clone, Debug)]
pub enum NotifyTarget {
    /// A receiver of Standard Webhooks.
    Webhook {
        /// `http://` or `https://`.
        url: SecretUrl,
        /// What requests are signed with: `whsec_` and base64.
        secret: Secret,
    },
    /// Mailboxes, by way of a mail server.
    Smtp {
        /// `smtps://` (TLS) or `smtp://` (STARTTLS), with user and password if need be.
        url: SecretUrl,
        /// The sender.
        from: Mailbox,
        /// The recipients.
        to: Vec<Mailbox>,
    },
}

/// A value of `notify` is not what it takes: all that is wrong with it.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub(super) struct BadNotify(Vec<String>);

/// What is wrong with one item.
#[derive(Debug, thiserror::Error)]
enum BadItem {
    #[error("{}", described(.0))]
    Form(#[from] serde_json::Error),
    #[error("`on` must not be empty")]
    NoEvents,
    #[error("`tenant`: {0}")]
    Tenant(#[source] BadTenant),
    #[error("`url` {0}")]
    Url(#[source] SecretError),
    #[error("`secret` {0}")]
    Secret(#[source] SecretError),
    #[error("`secret` must be `whsec_` and base64 of its bytes")]
    SecretForm,
    #[error("`to` must have 1 to {ADDRESSES_MAX} addresses")]
    Recipients,
    #[error("`{text}` is not a mail address, such as OmniLink <omnilink@example.com>")]
    Address { text: String, source: AddressError },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    on: BTreeSet<NotifyOn>,
    tenant: Option<String>,
    to: To,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum To {
    Webhook(Webhook),
    Smtp(Smtp),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Webhook {
    url: String,
    secret: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Smtp {
    url: String,
    from: String,
    to: Recipients,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Recipients {
    One(String),
    Several(Vec<String>),
}

/// Reads the list. `resolve` follows references.
pub(super) fn parse(
    value: Json,
    resolve: &dyn Fn(&str) -> Result<Secret, SecretError>,
) -> Result<Vec<Notify>, BadNotify> {
    let Json::Array(items) = value else {
        let takes =
            "must be a list, such as [{on: [run.failed], to: {webhook: {url: …, secret: …}}}]";
        return Err(BadNotify(vec![takes.into()]));
    };
    let mut problems = Vec::new();
    if items.len() > ITEMS_MAX {
        problems.push(format!("has more than {ITEMS_MAX} items"));
    }
    let mut parsed = Vec::new();
    for (index, item) in items.into_iter().enumerate() {
        match Notify::parse(item, resolve) {
            Ok(notify) => parsed.push(notify),
            Err(problem) => problems.push(format!("item {}: {problem}", index + 1)),
        }
    }
    if problems.is_empty() {
        Ok(parsed)
    } else {
        Err(BadNotify(problems))
    }
}

impl Notify {
    fn parse(
        item: Json,
        resolve: &dyn Fn(&str) -> Result<Secret, SecretError>,
    ) -> Result<Self, BadItem> {
        let item: Item = serde_json::from_value(item)?;
        if item.on.is_empty() {
            return Err(BadItem::NoEvents);
        }
        let tenant = item.tenant.map(|tenant| Tenant::new(&tenant));
        let tenant = tenant.transpose().map_err(BadItem::Tenant)?;
        let url = |text: &str, schemes| {
            let url = resolve(text).and_then(|url| SecretUrl::new(url, schemes));
            url.map_err(BadItem::Url)
        };
        let to = match item.to {
            To::Webhook(webhook) => {
                let secret = resolve(&webhook.secret).map_err(BadItem::Secret)?;
                if !is_whsec(secret.expose()) {
                    return Err(BadItem::SecretForm);
                }
                NotifyTarget::Webhook {
                    url: url(&webhook.url, &["http", "https"])?,
                    secret,
                }
            }
            To::Smtp(smtp) => {
                let to = match smtp.to {
                    Recipients::One(one) => vec![one],
                    Recipients::Several(several) => several,
                };
                if to.is_empty() || to.len() > ADDRESSES_MAX {
                    return Err(BadItem::Recipients);
                }
                NotifyTarget::Smtp {
                    url: url(&smtp.url, &["smtps", "smtp"])?,
                    from: mailbox(&smtp.from)?,
                    to: to
                        .iter()
                        .map(|one| mailbox(one))
                        .collect::<Result<_, _>>()?,
                }
            }
        };
        Ok(Self {
            on: item.on,
            tenant,
            to,
        })
    }

    /// As it is shown: without secrets.
    pub(super) fn show(&self) -> Json {
        let to = match &self.to {
            NotifyTarget::Webhook { url, secret } => {
                json!({ "webhook": { "url": url.to_string(), "secret": secret.to_string() } })
            }
            NotifyTarget::Smtp { url, from, to } => {
                let to: Vec<_> = to.iter().map(ToString::to_string).collect();
                json!({ "smtp": { "url": url.to_string(), "from": from.to_string(), "to": to } })
            }
        };
        let mut shown = json!({ "on": self.on, "to": to });
        if let Some(tenant) = &self.tenant {
            shown["tenant"] = tenant.as_str().into();
        }
        shown
    }
}

impl fmt::Display for NotifyTarget {
    /// Names it for people: no secret, no path.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, url) = match self {
            Self::Webhook { url, .. } => ("webhook", url),
            Self::Smtp { url, .. } => ("smtp", url),
        };
        let rest = url.expose().split_once("://").map_or("", |(_, rest)| rest);
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host = authority.rsplit('@').next().unwrap_or_default();
        write!(f, "{kind} {host}")
    }
}

fn mailbox(text: &str) -> Result<Mailbox, BadItem> {
    text.parse().map_err(|source| BadItem::Address {
        text: text.to_owned(),
        source,
    })
}

fn is_whsec(secret: &str) -> bool {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let bytes = secret.trim().strip_prefix("whsec_");
    let bytes = bytes.and_then(|encoded| STANDARD.decode(encoded).ok());
    bytes.is_some_and(|bytes| !bytes.is_empty())
}

/// The text of a JSON error. That of serde for an untagged enum does not name the variants.
fn described(error: &serde_json::Error) -> String {
    let text = error.to_string();
    if text.contains("untagged enum Recipients") {
        return "`to` of `smtp` takes an address or a list of addresses".into();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: &str) -> Result<Secret, SecretError> {
        match text.strip_prefix("env:") {
            Some("HOOK") => Ok(Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")),
            Some(name) => Err(SecretError::Unset(name.to_owned())),
            None => Ok(Secret::new(text)),
        }
    }

    fn webhook() -> Json {
        json!({ "on": ["run.failed", "dlq"], "tenant": "acme", "to": { "webhook": { "url": "https://u:pass@h:8443/x", "secret": "env:HOOK" } } })
    }

    #[test]
    fn items_are_read_and_shown_without_secrets() {
        let mail = json!({ "on": ["stalled"], "to": { "smtp": { "url": "smtps://me:hunter2@mail", "from": "Omni <o@example.com>", "to": "a@example.com" } } });
        let parsed = parse(json!([webhook(), mail]), &resolve).unwrap();
        assert!(parsed[0].on.contains(&NotifyOn::Dlq));
        assert_eq!(parsed[0].to.to_string(), "webhook h:8443");
        assert_eq!(parsed[1].to.to_string(), "smtp mail");
        let shown = json!(parsed.iter().map(Notify::show).collect::<Vec<_>>()).to_string();
        for secret in ["pass", "hunter2", "whsec_"] {
            assert!(!shown.contains(secret), "{shown}");
        }
        assert!(shown.contains("Omni <o@example.com>"), "{shown}");
    }

    #[test]
    fn everything_wrong_is_reported_with_its_item() {
        let cases = [
            ("on", json!([]), "`on` must not be empty"),
            ("on", json!(["runs"]), "unknown variant `runs`"),
            ("tenant", json!("a/b"), "`tenant`"),
            ("two", json!({}), "unknown field `two`"),
            (
                "to",
                json!({ "webhook": { "url": "ftp://h", "secret": "env:HOOK" } }),
                "`url` must be a URL that begins with",
            ),
            (
                "to",
                json!({ "webhook": { "url": "http://h", "secret": "hunter2" } }),
                "`secret` must be `whsec_`",
            ),
            (
                "to",
                json!({ "webhook": { "url": "http://h", "secret": "env:NONE" } }),
                "NONE is not set",
            ),
            (
                "to",
                json!({ "smtp": { "url": "smtp://h", "from": "a", "to": "b@h" } }),
                "`a` is not a mail address",
            ),
            (
                "to",
                json!({ "smtp": { "url": "smtp://h", "from": "a@h", "to": [] } }),
                "1 to 50 addresses",
            ),
            (
                "to",
                json!({ "smtp": { "url": "smtp://h", "from": "a@h", "to": 5 } }),
                "an address or a list",
            ),
        ];
        for (field, value, expected) in cases {
            let mut bad = webhook();
            bad[field] = value;
            let error = parse(json!([webhook(), bad]), &resolve)
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("item 2: ") && error.contains(expected),
                "{error}"
            );
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert!(parse(json!({}), &resolve).is_err());
        assert!(parse(json!(vec![webhook(); 21]), &resolve).is_err());
    }
}
