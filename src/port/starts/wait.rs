//! `Prefer: wait`: the request is answered when the run has ended.

use std::{sync::Arc, time::Duration};

use axum::http::{HeaderMap, HeaderName};
use uuid::Uuid;

use crate::{
    api::runs::RunView,
    port::Shared,
    saga::{Follower, Notice},
};

/// The longest wait, in seconds; clients rely on it.
pub(super) const WAIT_MAX_S: u64 = 60;

const PREFER: HeaderName = HeaderName::from_static("prefer");

/// How long the client wants to wait for the end of its run (RFC 7240), at most [`WAIT_MAX_S`].
pub(crate) fn preferred(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(PREFER).into_iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    let mut preferences = texts.flat_map(|text| text.split([',', ';']));
    // The first preference counts.
    let seconds = preferences.find_map(|preference| {
        let (name, value) = preference.split_once('=')?;
        let is_wait = name.trim().eq_ignore_ascii_case("wait");
        is_wait.then(|| value.trim().trim_matches('"').parse::<u64>().ok())
    })??;
    Some(Duration::from_secs(seconds.min(WAIT_MAX_S)))
}

/// Waits for the end of one run.
pub(super) struct Waiting {
    follower: Follower,
    timeout: Duration,
}

impl Waiting {
    /// Starts to follow the run, before its start is appended.
    pub(super) fn new(shared: &Shared, run: Uuid, timeout: Duration) -> Self {
        Self {
            follower: shared.followers.follow(run),
            timeout,
        }
    }

    /// The run, if it ends in time.
    pub(super) async fn end(mut self) -> Option<Arc<RunView>> {
        let end = async {
            loop {
                match self.follower.next().await? {
                    Notice::Ended(run) => return Some(run),
                    Notice::Answered { .. } => {}
                }
            }
        };
        tokio::time::timeout(self.timeout, end).await.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[&str]) -> Option<u64> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(PREFER, value.parse().unwrap());
        }
        preferred(&headers).map(|wait| wait.as_secs())
    }

    #[test]
    fn the_first_wait_counts() {
        assert_eq!(of(&[]), None);
        assert_eq!(of(&["respond-async"]), None);
        assert_eq!(of(&["respond-async, wait=10"]), Some(10));
        assert_eq!(
            of(&["return=minimal", "Wait = \"5\"; x=y", "wait=7"]),
            Some(5)
        );
        assert_eq!(of(&["wait=100"]), Some(60));
        assert_eq!(of(&["wait=soon"]), None);
    }
}
