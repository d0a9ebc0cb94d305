//! Plans how a request's windows are decided: by this node, by Redis, or by both.

use std::{sync::Arc, time::Duration};

use smallvec::SmallVec;

use super::{
    ask::Group,
    policy::{Degraded, MAX_CONCURRENCY, OnBackendDown, share},
    shared::{Backend, Shared},
};

/// How a group is decided.
pub(super) struct Plan {
    /// This node's bound for each window; `None` if it has none.
    pub(super) here: SmallVec<[Option<u32>; 4]>,
    pub(super) in_flight_here: Option<u32>,
    /// For each window, whether Redis may refuse.
    pub(super) there: SmallVec<[bool; 4]>,
    pub(super) degraded: Degraded,
}

impl Plan {
    /// Without Redis, this node has the whole limit of each window.
    pub(super) fn alone(group: &Group) -> Self {
        let windows = group.windows.iter();
        Self {
            here: windows.map(|window| Some(window.policy.limit)).collect(),
            in_flight_here: group.in_flight.as_ref().map(|wanted| wanted.limit),
            there: SmallVec::new(),
            degraded: Degraded::new(),
        }
    }

    /// A Redis that lost its data counts as down until one window has passed, but it is told about admissions.
    pub(super) fn new(group: &Group, backend: Backend, shared: &Shared) -> Result<Self, Arc<str>> {
        let down = |length: Duration| match backend {
            Backend::Down => true,
            Backend::Up { lost } => lost.is_some_and(|at| at.elapsed() < length),
        };
        let mut plan = Self {
            here: SmallVec::with_capacity(group.windows.len()),
            in_flight_here: None,
            there: SmallVec::with_capacity(group.windows.len()),
            degraded: Degraded::new(),
        };
        for window in &*group.windows {
            let policy = &window.policy;
            let mut bound = None;
            let mut binds = true;
            if down(Duration::from_secs(policy.window_s.into())) {
                let mode = policy.on_backend_down;
                plan.degraded.push((Arc::clone(&policy.name), mode));
                match mode {
                    OnBackendDown::Open => binds = false,
                    OnBackendDown::Closed => return Err(Arc::clone(&policy.name)),
                    OnBackendDown::Local => bound = Some(share(policy.limit, shared.nodes())),
                }
            }
            plan.here.push(bound);
            plan.there.push(binds);
        }
        if let Some(wanted) = &group.in_flight
            && down(shared.leases().lapse())
        {
            let degraded = (MAX_CONCURRENCY.into(), OnBackendDown::Local);
            plan.degraded.push(degraded);
            plan.in_flight_here = Some(share(wanted.limit, shared.nodes()));
        }
        Ok(plan)
    }
}
