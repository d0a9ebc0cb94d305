//! What a topology file says: the types that reading it gives.

use std::{ops::Range, sync::Arc};

use vrl::path::OwnedValuePath;

use super::{codec::Codec, fields::Spanned, problem::SourceFile, trial::Trial, vrl::Vrl};
use crate::id::Tenant;

/// One file.
#[derive(Clone, Debug)]
pub(super) struct Topology {
    pub(super) file: Arc<SourceFile>,
    /// `None`, here and below: it is wrong, and was reported.
    pub(super) name: Option<Spanned<String>>,
    pub(super) source: Option<Source>,
    pub(super) steps: Vec<Step>,
    pub(super) tests: Vec<Trial>,
}

/// Where its records come from.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) span: Range<usize>,
    pub(super) topic: Spanned<String>,
    pub(super) codec: Codec,
    pub(super) tenant: Option<Tenant>,
    /// What its records are keyed by already.
    pub(super) key: Option<KeyFields>,
}

/// One step.
#[derive(Clone, Debug)]
pub(super) struct Step {
    /// Of its name.
    pub(super) span: Range<usize>,
    pub(super) action: Action,
}

/// What a step does.
#[derive(Clone, Debug)]
pub(super) enum Action {
    /// Reads the known forms of events; the program maps what is in none of them.
    Normalise(Option<Vrl>),
    Map(Vrl),
    Filter(Vrl),
    Key(KeyFields),
    Dedupe(Dedupe),
    RateLimit(RateLimit),
    Route(Vec<Rule>),
    /// Of the system alone: rows in Postgres.
    Project(Vec<String>),
    /// Something is wrong with it, and was reported; its kind, if it is one.
    Broken(Option<&'static str>),
}

impl Action {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Normalise(_) => "normalise",
            Self::Map(_) => "map",
            Self::Filter(_) => "filter",
            Self::Key(_) => "key",
            Self::Dedupe(_) => "dedupe",
            Self::RateLimit(_) => "rate_limit",
            Self::Route(_) => "route",
            Self::Project(_) => "project",
            Self::Broken(kind) => kind.unwrap_or("?"),
        }
    }

    /// Whether it keeps state, and so needs all records of a key in one place.
    pub(super) fn is_stateful(&self) -> bool {
        matches!(self.name(), "dedupe" | "rate_limit")
    }
}

/// What a step's key is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct KeyFields {
    pub(super) fields: Vec<KeyField>,
}

/// One part of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum KeyField {
    /// The record's tenant.
    Tenant,
    /// A field of the record.
    Field(OwnedValuePath),
}

impl std::fmt::Display for KeyField {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tenant => f.write_str("tenant"),
            Self::Field(path) => path.fmt(f),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Dedupe {
    /// `None`: as configured (the system's own).
    pub(super) window_ms: Option<i64>,
}

#[derive(Clone, Debug)]
pub(super) struct RateLimit {
    pub(super) policy: Spanned<String>,
    pub(super) limit: u32,
    pub(super) window_ms: i64,
    pub(super) over: Over,
}

/// What happens to a record over the limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Over {
    /// It goes to `throttled`.
    Reject,
    /// It waits, in order.
    Defer,
}

#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) span: Range<usize>,
    pub(super) when: When,
    pub(super) to: Spanned<String>,
}

/// When a rule takes a record.
#[derive(Clone, Debug)]
pub(super) enum When {
    Always,
    Holds(Vrl),
    /// Its program is wrong, and was reported.
    Broken,
}
