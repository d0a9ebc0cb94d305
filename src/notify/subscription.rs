//! Decides whether a target wants a notification, and suppresses repeated ones.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, PoisonError},
};

use super::notice::Notice;
use crate::{
    base::{clock::Millis, id::Tenant},
    config::{Notify, NotifyOn},
};

/// For how long similar notifications are suppressed: 10 minutes, by the time of the records.
const QUIET_MS: i64 = 10 * 60 * 1000;
/// The maximum number of remembered kinds.
const KINDS_MAX: usize = 1000;

/// What the items of one target want to know.
pub(super) struct Subscription {
    items: Vec<(BTreeSet<NotifyOn>, Option<Tenant>)>,
    /// When one of each kind was last sent.
    last_sent: Mutex<HashMap<String, Millis>>,
}

impl Subscription {
    pub(super) fn new(items: &[&Notify]) -> Self {
        Self {
            items: items
                .iter()
                .map(|item| (item.on.clone(), item.tenant.clone()))
                .collect(),
            last_sent: Mutex::default(),
        }
    }

    /// Whether the notification must be sent.
    pub(super) fn wants(&self, notice: &Notice) -> bool {
        let mut items = self.items.iter();
        let is_wanted = items.any(|(on, tenant)| {
            let concerns = match tenant {
                None => true,
                Some(tenant) => notice.tenant.as_deref() == Some(tenant.as_str()),
            };
            concerns && on.contains(&notice.on)
        });
        is_wanted && self.is_new(notice)
    }

    /// Whether no similar one was sent shortly before.
    fn is_new(&self, notice: &Notice) -> bool {
        let Some(suppression_key) = &notice.suppression_key else {
            return true;
        };
        let mut last_sent = self
            .last_sent
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if last_sent
            .get(suppression_key)
            .is_some_and(|at| notice.at.0 - at.0 < QUIET_MS)
        {
            return false;
        }
        if last_sent.len() >= KINDS_MAX {
            last_sent.retain(|_, at| notice.at.0 - at.0 < QUIET_MS);
        }
        if last_sent.len() >= KINDS_MAX {
            last_sent.clear();
        }
        last_sent.insert(suppression_key.clone(), notice.at);
        true
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;
    use crate::config::{Config, Sources};

    fn notice(
        on: NotifyOn,
        tenant: Option<&str>,
        at: i64,
        suppression_key: Option<&str>,
    ) -> Notice {
        Notice {
            on,
            id: "1".into(),
            tenant: tenant.map(str::to_owned),
            at: Millis(at),
            subject: String::new(),
            path: String::new(),
            command: String::new(),
            data: Map::new(),
            suppression_key: suppression_key.map(str::to_owned),
        }
    }

    fn items() -> Vec<Notify> {
        let to = json!({ "webhook": { "url": "http://h", "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" } });
        let items = json!([
            { "on": ["run.failed"], "tenant": "acme", "to": to },
            { "on": ["dlq", "run.denied"], "to": to }
        ]);
        let sources = Sources {
            env: vec![("OMNILINK__NOTIFY".into(), items.to_string())],
            ..Sources::default()
        };
        Config::load(&sources).unwrap().notify
    }

    #[test]
    fn a_tenant_is_told_what_concerns_it() {
        let items = items();
        let subscription = Subscription::new(&items.iter().collect::<Vec<_>>());
        let wants = |on, tenant| subscription.wants(&notice(on, tenant, 0, None));
        assert!(wants(NotifyOn::RunFailed, Some("acme")));
        assert!(!wants(NotifyOn::RunFailed, Some("globex")));
        assert!(wants(NotifyOn::RunDenied, Some("globex")));
        assert!(!wants(NotifyOn::Stalled, None));
    }

    #[test]
    fn the_same_is_not_said_again_for_ten_minutes() {
        let items = items();
        let subscription = Subscription::new(&items.iter().collect::<Vec<_>>());
        let wants = |at, suppression_key| {
            subscription.wants(&notice(NotifyOn::Dlq, None, at, Some(suppression_key)))
        };
        assert!(wants(0, "a"));
        assert!(!wants(QUIET_MS - 1, "a"));
        assert!(wants(5, "b"));
        assert!(wants(QUIET_MS, "a"));
        assert!(!wants(QUIET_MS + 1, "a"));
    }
}
