//! The cache of runs in memory.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{compile::RunPlan, rows::RunKey};
use crate::{
    base::{clock::Millis, id::Tenant},
    commands::{
        Command,
        start::{FoundPlan, Trace},
    },
    runs::{ApprovalRequest, Decided, Event, Json, RunStatus, WorkflowVersion},
    saga::{Run, TextKey},
};

/// The maximum number of runs in a generation; the cache holds two.
const GENERATION: usize = 2000;

/// The immutable part of a run.
#[derive(Clone, Debug)]
pub(super) struct About {
    pub(super) run_id: Arc<str>,
    pub(super) tenant: Tenant,
    pub(super) workflow: Option<WorkflowVersion>,
    /// That of its start.
    pub(super) trace: Trace,
    /// Its plan; `None` until there is one.
    pub(super) ready: Option<Arc<RunPlan>>,
    /// The values of its placeholders, sealed ([`crate::slots`]). `None`: it has none.
    pub(super) sealed: Option<Arc<str>>,
    /// How the plan of a goal was found.
    pub(super) found: Option<Box<FoundPlan>>,
    /// How many triggers in a row led to it ([`crate::commands::depth`]).
    pub(super) depth: u32,
    /// The feature that keeps it queued while it is disabled; other controls do so too. `None`: the port started it, which refuses starts
    /// then.
    pub(super) feature: Option<&'static str>,
}

impl About {
    /// The `worker` of a tool, as JSON text.
    pub(super) fn worker(&self, tool: &str) -> String {
        let ready = self.ready.as_ref();
        let worker = ready.and_then(|ready| ready.workers.get(tool));
        worker.cloned().unwrap_or_default()
    }

    /// How the plan of a goal was found; empty for other runs.
    pub(super) fn found(&self) -> &FoundPlan {
        static NONE: FoundPlan = FoundPlan::NONE;
        self.found.as_deref().unwrap_or(&NONE)
    }
}

/// A run in memory.
pub(super) struct CachedRun {
    pub(super) about: Arc<About>,
    pub(super) run: Run,
    /// The hash of the request that started it.
    pub(super) body_hash: [u8; 16],
    /// When its last record was written.
    pub(super) updated_at: Millis,
    /// When its timer fires.
    pub(super) timer: Option<Millis>,
    /// The texts of steps that are stored in separate rows, as stored.
    pub(super) large: BTreeMap<TextKey, Json>,
    /// The start record, until its row is written.
    pub(super) unstored: Option<Box<Command>>,
    /// Whether it has rows.
    pub(super) stored: bool,
    /// Whether it has a row in [`HELD`](super::rows::HELD).
    pub(super) held: bool,
    /// Whether the open transaction has changed it.
    pub(super) changed: bool,
    /// What was decided while somebody followed the run. Only in memory: the state of a run forgets what was asked.
    pub(super) decided: Vec<DecidedApproval>,
}

/// A decided approval.
pub(super) struct DecidedApproval {
    pub(super) request: ApprovalRequest,
    pub(super) decided: Decided,
    pub(super) at: Millis,
}

impl CachedRun {
    pub(super) fn open_approvals(&self) -> BTreeMap<u64, ApprovalRequest> {
        let open = self.run.open_approvals();
        open.map(|(seq, request)| (seq, request.clone())).collect()
    }

    /// Remembers the decisions in the last events of the run. `open`: the approvals that were open before.
    pub(super) fn remember_decisions(
        &mut self,
        mut open: BTreeMap<u64, ApprovalRequest>,
        events: &[Event],
        at: Millis,
    ) {
        let first = (self.run.seq() + 1).saturating_sub(events.len() as u64);
        for (seq, event) in (first..).zip(events) {
            match event {
                Event::ApprovalRequested(request) | Event::IncidentOpened(request) => {
                    open.insert(seq, ApprovalRequest::clone(request));
                }
                Event::ApprovalDecided(decided) | Event::IncidentDecided(decided) => {
                    let request = open.remove(&decided.approval);
                    self.decided.extend(request.map(|request| DecidedApproval {
                        request,
                        decided: Decided::clone(decided),
                        at,
                    }));
                }
                _ => {}
            }
        }
    }
}

/// Recently active runs. Other runs are read from their rows.
#[derive(Default)]
pub(super) struct RunCache {
    recent: HashMap<RunKey, CachedRun>,
    /// The previous generation. A run that is used moves to `recent`.
    older: HashMap<RunKey, CachedRun>,
}

impl RunCache {
    pub(super) fn get(&mut self, key: &RunKey) -> Option<&mut CachedRun> {
        if let Some(live) = self.older.remove(key) {
            self.recent.insert(*key, live);
        }
        self.recent.get_mut(key)
    }

    pub(super) fn insert(&mut self, key: RunKey, live: CachedRun) {
        self.recent.insert(key, live);
    }

    pub(super) fn remove(&mut self, key: &RunKey) -> Option<CachedRun> {
        self.recent.remove(key).or_else(|| self.older.remove(key))
    }

    /// Starts a new generation when the current one is full. Called when all rows are written.
    pub(super) fn rotate(&mut self) {
        if self.recent.len() > GENERATION {
            self.older = std::mem::take(&mut self.recent);
        }
    }
}

/// Whether a change of the controls may let the run continue: calls are held, or it has not begun.
pub(super) fn waits_for_controls(run: &Run, about: &About) -> bool {
    run.waits_for_controls() || about.feature.is_some() && run.status() == RunStatus::Queued
}
