//! The contents of a topology file as types.

use std::{ops::Range, sync::Arc};

use vrl::path::OwnedValuePath;

use super::{fields::Spanned, problem::SourceFile, trial::Trial};
use crate::base::id::Tenant;
use crate::event_schemas::Schema;
use crate::topology::{run::codec::Codec, vrl::Vrl};

/// A topology file.
#[derive(Clone, Debug)]
pub(crate) struct Topology {
    pub(crate) file: Arc<SourceFile>,
    /// `None`, here and below: it has an error, which was reported.
    pub(crate) name: Option<Spanned<String>>,
    pub(crate) source: Option<Source>,
    pub(crate) steps: Vec<Step>,
    pub(crate) tests: Vec<Trial>,
}

/// Where its records come from.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) span: Range<usize>,
    pub(crate) topic: Spanned<String>,
    pub(crate) codec: Codec,
    pub(crate) tenant: Option<Tenant>,
    /// What its records are keyed by already.
    pub(crate) key: Option<KeyFields>,
}

/// A step of a topology.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// Where its name is in the file.
    pub(crate) span: Range<usize>,
    pub(crate) action: Action,
}

/// What a step does.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// Reads the known forms of events; the program maps records of other forms.
    Normalise(Option<Vrl>),
    Map(Vrl),
    Filter(Vrl),
    Validate(Validate),
    Key(KeyFields),
    Dedupe(Dedupe),
    RateLimit(RateLimit),
    Route(Vec<Rule>),
    /// Writes rows in Postgres; only the system's own topologies have it.
    Project(Vec<String>),
    /// It has an error, which was reported; its kind, if that is known.
    Broken(Option<&'static str>),
}

impl Action {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Normalise(_) => "normalise",
            Self::Map(_) => "map",
            Self::Filter(_) => "filter",
            Self::Validate(_) => "validate",
            Self::Key(_) => "key",
            Self::Dedupe(_) => "dedupe",
            Self::RateLimit(_) => "rate_limit",
            Self::Route(_) => "route",
            Self::Project(_) => "project",
            Self::Broken(kind) => kind.unwrap_or("?"),
        }
    }

    /// Whether it keeps state, and so needs all records of a key in one partition.
    pub(crate) fn is_stateful(&self) -> bool {
        matches!(self.name(), "dedupe" | "rate_limit")
    }
}

/// What a step's key is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct KeyFields {
    pub(crate) fields: Vec<KeyField>,
}

/// One part of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum KeyField {
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
pub(crate) struct Dedupe {
    /// `None`: as configured (for the system's own topologies).
    pub(crate) window_ms: Option<i64>,
}

/// Records must fit a JSON Schema.
#[derive(Clone, Debug)]
pub(crate) struct Validate {
    pub(crate) schema: Arc<Schema>,
    /// The field that is checked; `None`: the whole record.
    pub(crate) field: Option<OwnedValuePath>,
}

#[derive(Clone, Debug)]
pub(crate) struct RateLimit {
    pub(crate) policy: Spanned<String>,
    pub(crate) limit: u32,
    pub(crate) window_ms: i64,
    pub(crate) over: Over,
}

/// What happens to a record over the limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Over {
    /// It goes to `throttled`.
    Reject,
    /// It waits, in order.
    Defer,
}

#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) span: Range<usize>,
    pub(crate) when: When,
    pub(crate) to: Spanned<String>,
}

/// When a rule takes a record.
#[derive(Clone, Debug)]
pub(crate) enum When {
    Always,
    Holds(Vrl),
    /// Its program has an error, which was reported.
    Broken,
}
