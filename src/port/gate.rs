//! The emergency controls at the port. A route calls these in the order of checks of `docs/controls.md`:
//!
//! | check | before | after |
//! |---|---|---|
//! | [`intake`]: the kill switch | the key | the length |
//! | [`starts`]: operator take-over | the media type | the key |
//! | [`feature`]: a feature is disabled | allowlists | scope and `act_as` |
//!
//! [`crate::api::route::Gate`] says for each route which of the first two apply to it; the extractors of `rest/caller.rs` make the calls.
//! Features are checked by the handlers, which know the name.

use super::{Shared, problem::Problem};
use crate::{
    api::problem::{FEATURE_DISABLED, OMNILINK_DISABLED, OPERATOR_TAKEOVER as TAKEN_OVER},
    controls::{Controls, KILL_SWITCH, Key, KeyKind, OPERATOR_TAKEOVER},
};

/// `Retry-After` while something is switched off, in seconds.
pub(super) const RETRY_AFTER_S: u32 = 60;

/// Refuses all intake while the controls cannot be read.
pub(super) fn readable(shared: &Shared) -> Result<(), Problem> {
    if shared.controls.readable() {
        return Ok(());
    }
    Err(Problem::log_unavailable())
}

/// The kill switch: no intake, no starts, no decisions. Reads, the emergency controls themselves, and calls that end or finish work do not
/// call this.
pub(super) fn intake(shared: &Shared) -> Result<(), Problem> {
    readable(shared)?;
    kill_switch(shared)
}

/// Like [`intake`], for routes that have already checked that the controls are readable.
pub(super) fn kill_switch(shared: &Shared) -> Result<(), Problem> {
    if !shared.controls.kill_switch() {
        return Ok(());
    }
    let detail = "an operator has switched OmniLink off; send it again later, with the same id";
    Err(Problem::new(&OMNILINK_DISABLED, detail)
        .retry_after(RETRY_AFTER_S)
        .field("control", KILL_SWITCH))
}

/// Take-over: only persons may start runs, decide and control runs. Events are not affected.
pub(super) fn starts(shared: &Shared, key: &Key) -> Result<(), Problem> {
    person_or_free(&shared.controls, key)
}

fn person_or_free(controls: &Controls, key: &Key) -> Result<(), Problem> {
    if !controls.operator_takeover() || key.kind == KeyKind::Person {
        return Ok(());
    }
    let detail = "an operator has taken over: for now only keys of kind `person` may do this";
    Err(Problem::new(&TAKEN_OVER, detail)
        .retry_after(RETRY_AFTER_S)
        .field("control", OPERATOR_TAKEOVER))
}

/// Checks whether a feature such as `goals` or `workflow:NAME` is disabled.
pub(super) fn feature(shared: &Shared, feature: &str) -> Result<(), Problem> {
    let Some(reason) = shared.controls.disabled(feature) else {
        return Ok(());
    };
    Err(
        Problem::new(&FEATURE_DISABLED, disabled_detail(feature, &reason))
            .retry_after(RETRY_AFTER_S)
            .field("feature", feature)
            .field("reason", &reason),
    )
}

/// The text about a disabled feature.
pub(super) fn disabled_detail(feature: &str, reason: &str) -> String {
    format!("an operator has disabled `{feature}`: {reason}")
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{
        base::{
            clock::{Clock, SystemClock},
            id::Tenant,
        },
        controls::{Held, NewKey, Scopes, SecretKeys, Token},
        log::{Log, memory::MemoryLog, topics::Names},
    };

    #[tokio::test(flavor = "multi_thread")]
    async fn after_a_takeover_only_persons_start_and_decide() {
        let log: Arc<dyn Log> = Arc::new(MemoryLog::new(Arc::new(SystemClock)));
        let names = Names::new("t.");
        log.provision(&names.specs(1), true).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let secrets = SecretKeys::open_or_create(dir.path()).unwrap();
        let (controls, _tail) = Controls::start(log, names.controls, secrets).unwrap();
        assert!(controls.wait_readable(Duration::from_secs(10)).await);
        let key = async |kind| {
            let new = NewKey {
                tenant: Tenant::new("acme").unwrap(),
                name: "test".into(),
                principal: "test".into(),
                kind,
                scopes: Scopes::all(),
                expires_at: None,
            };
            let (token, now) = (Token::generate(), SystemClock.now());
            controls.create_key(new, &token, "test", now).await.unwrap()
        };
        let (person, service) = (key(KeyKind::Person).await, key(KeyKind::Service).await);
        let refused = |key| person_or_free(&controls, key).err();
        assert!(refused(&service).is_none());
        controls.hold(Held {
            operator_takeover: true,
            ..Held::default()
        });
        assert!(refused(&person).is_none());
        let problem = refused(&service).unwrap();
        assert_eq!(problem.code(), &TAKEN_OVER);
    }
}
