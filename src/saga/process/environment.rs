//! Builds the environment of the core ([`Env`]).

use xxhash_rust::xxh3::xxh3_64;

use super::{
    Settings,
    emitted::{self, Emitter},
    holds,
    in_force::InForce,
    run_cache::About,
};
use crate::{
    base::clock::Millis,
    plans::Tool,
    runs::{CallKind, idempotency_key},
    saga::Env,
};

/// The values from which the environment of a decision is built.
pub(super) struct Environment<'a> {
    pub(super) settings: &'a Settings,
    pub(super) controls: &'a InForce,
    pub(super) about: &'a About,
    /// The time of the transaction.
    pub(super) now: Millis,
}

impl Environment<'_> {
    /// Calls the core with the environment.
    pub(super) fn with<T>(&self, core: impl FnOnce(&Env<'_>) -> T) -> T {
        let Self {
            settings,
            controls,
            about,
            now,
        } = *self;
        let emergency = &controls.emergency;
        let holding = (!holds::hold_nothing(emergency)).then_some(controls);
        let hold = |tool: &Tool| holds::hold(&holding?.emergency, tool);
        let in_force = |control: &str| holding?.since(control, now);
        let check_event = |step: &str, input: &serde_json::Value| {
            let key = idempotency_key(&about.run_id, step, CallKind::Execute);
            emitted::record(&Emitter::of(about), &key, input, now).map(|_| ())
        };
        core(&Env {
            now,
            hold: &hold,
            approval_expiry_ms: settings.approval_expiry.as_millis() as u64,
            approve_above: settings.approve_above,
            check_event: &check_event,
            hold_start: holds::start(emergency, about),
            in_force: &in_force,
            seed: xxh3_64(about.run_id.as_bytes()),
        })
    }
}
