//! The state of all tools that this node has called.

use std::{borrow::Cow, collections::HashMap, path::PathBuf, sync::Arc};

use parking_lot::RwLock;

use super::{
    seats::{Activity, Shares, ToolState},
    settings::Settings,
};
use crate::{base::clock::Clock, config::BreakerSettings, workflows::Current};

/// Maximum number of concurrent calls of a node.
pub(super) const SEATS: usize = 1024;

/// When there are this many states, idle ones are removed. The builtin `http` has one for each host.
const STATES: usize = 4_096;

/// The state of tools on this node. Cheap to clone.
#[derive(Clone)]
pub struct ToolStates(Arc<Inner>);

struct Inner {
    clock: Arc<dyn Clock>,
    catalog: Current,
    /// The folder that references to files are relative to.
    base: PathBuf,
    breaker: BreakerSettings,
    shares: Arc<Shares>,
    /// By the tool's name; for the builtin `http`, by its name and the host, separated by a space.
    states: RwLock<HashMap<String, Arc<ToolState>>>,
}

impl ToolStates {
    /// For the tools of this catalog. `base`: the folder to which paths of secret files are relative.
    pub fn new(
        catalog: Current,
        base: PathBuf,
        breaker: BreakerSettings,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self(Arc::new(Inner {
            clock,
            catalog,
            base,
            breaker,
            shares: Shares::new(SEATS),
            states: RwLock::default(),
        }))
    }

    /// The current calls of a tool; `None` if this node has never called it.
    pub fn activity(&self, name: &str) -> Option<Activity> {
        let states: Vec<_> = {
            let states = self.0.states.read();
            let of_tool = |key: &str| key.split(' ').next() == Some(name);
            let of_tool = states.iter().filter(|(key, _)| of_tool(key));
            of_tool.map(|(_, state)| Arc::clone(state)).collect()
        };
        let all = states.iter().map(|state| state.activity());
        all.reduce(Activity::with)
    }

    /// The seats of the effect.
    pub(super) fn shares(&self) -> &Arc<Shares> {
        &self.0.shares
    }

    /// The state of a tool (for the builtin `http`, of one host) and its current settings.
    pub(super) fn of(&self, name: &str, host: Option<&str>) -> (Arc<ToolState>, Arc<Settings>) {
        let key = match host {
            None => Cow::Borrowed(name),
            Some(host) => Cow::Owned(format!("{name} {host}")),
        };
        let known = self.0.states.read().get(&*key).map(Arc::clone);
        let state = known.unwrap_or_else(|| {
            let mut states = self.0.states.write();
            if states.len() >= STATES {
                states.retain(|_, state| Arc::strong_count(state) > 1 || !state.is_idle());
            }
            let inner = &self.0;
            let (clock, shares) = (Arc::clone(&inner.clock), Arc::clone(&inner.shares));
            let new = || ToolState::new(clock, shares, inner.breaker);
            let state = states.entry(key.into_owned());
            Arc::clone(state.or_insert_with(|| Arc::new(new())))
        });
        let catalog = self.0.catalog.get();
        let definition = catalog.tool(name);
        let known = state.settings.read().as_ref().map(Arc::clone);
        if let Some(settings) = known.filter(|settings| settings.is_of(definition)) {
            return (state, settings);
        }
        // Once after each reload of the files.
        let settings = Settings::new(name, definition.map(Arc::clone), &self.0.base);
        if let Some(Err(error)) = &settings.key {
            tracing::warn!(tool = name, %error, "calls of the tool cannot be signed, and fail");
        }
        let settings = Arc::new(settings);
        *state.settings.write() = Some(Arc::clone(&settings));
        (state, settings)
    }
}
