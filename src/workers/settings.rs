//! The settings of a tool's calls, from its definition in the current catalog.

use std::{path::Path, sync::Arc};

use serde_json::Value;

use crate::{
    base::id::Tenant,
    http::{NoSecret, SigningKey},
    limits::{Ask, Kind as RequestKind, OnBackendDown, Per, Policy, Subject},
    plans::{Context, Kind, Limit, Rate, Template, Worker},
    runs::{CallKind, StepCommand},
    workflows::Definition,
};

/// Default number of concurrent calls of a tool on a node.
pub const DEFAULT_CONCURRENCY: usize = 128;
/// The name of the policy for a tool's rate. Policies of the configuration cannot have such a name.
const POLICY: &str = "tool/rate";
/// The tenant under which limits of tools count, because they apply to all tenants together. No key has it.
const ALL_TENANTS: &str = "-";
/// The maximum size of a limit's key, in bytes.
const KEY_MAX: usize = 16 * 1024;

/// The settings of a tool's calls.
pub(super) struct Settings {
    /// The definition that the settings are from; `None`: the tool does not exist.
    definition: Option<Arc<Definition>>,
    /// Maximum number of concurrent calls on this node.
    pub(super) concurrency: usize,
    /// The key that signs requests.
    pub(super) key: Option<Result<SigningKey, NoSecret>>,
    limits: Option<Limits>,
}

/// The limits of a tool over all nodes.
struct Limits {
    tenant: Tenant,
    policies: Vec<Arc<Policy>>,
    concurrency: u32,
    rate: Option<Rate>,
    /// The template of the key.
    key: Option<Template>,
    /// Whether the run renders the key.
    counts_by_params: bool,
    /// The subject of calls without a key.
    subject: Arc<Subject>,
}

impl Settings {
    /// Reads the settings. A reference to a secret is resolved now.
    pub(super) fn new(name: &str, definition: Option<Arc<Definition>>, base: &Path) -> Self {
        let tool = definition.as_ref().map(|definition| &definition.tool);
        let limit = tool.and_then(|tool| tool.limit.as_ref());
        let concurrency = limit.and_then(|limit| limit.concurrency.filter(|_| limit.key.is_none()));
        let key = tool.and_then(|tool| match &tool.worker {
            Worker::Http { secret, .. } => secret.as_deref(),
            _ => None,
        });
        Self {
            concurrency: concurrency.map_or(DEFAULT_CONCURRENCY, |n| {
                usize::try_from(n).unwrap_or(usize::MAX)
            }),
            key: key.map(|secret| SigningKey::read(secret, base)),
            limits: limit.and_then(|limit| Limits::new(name, limit)),
            definition,
        }
    }

    /// Whether the settings are from this definition.
    pub(super) fn is_of(&self, definition: Option<&Arc<Definition>>) -> bool {
        match (&self.definition, definition) {
            (Some(mine), Some(other)) => Arc::ptr_eq(mine, other),
            (None, None) => true,
            _ => false,
        }
    }

    /// The tool's kind; `None` if it is unknown.
    pub(super) fn kind(&self) -> Option<Kind> {
        self.definition.as_ref()?.tool.kind
    }

    /// Where the input of a step's own call does not match the tool's schema, as a JSON pointer.
    pub(super) fn mismatch(&self, command: &StepCommand) -> Option<String> {
        let definition = self.definition.as_ref()?;
        if command.kind() == CallKind::Compensate {
            return None;
        }
        let input: Value = serde_json::from_str(&command.input).unwrap_or_default();
        definition.schema.check(&input).err().map(|wrong| wrong.at)
    }

    fn counts_by_params(&self) -> bool {
        self.limits
            .as_ref()
            .is_some_and(|limits| limits.counts_by_params)
    }

    /// The key by which limits count a call: rendered by the run if it needs the params, else here, from the input with the values of its
    /// placeholders. Empty if all calls count together, or the key cannot be rendered.
    pub(super) fn limit_key(&self, command: &StepCommand) -> String {
        let key = self.limits.as_ref().and_then(|limits| limits.key.as_ref());
        let Some(key) = key else {
            return String::new();
        };
        if self.counts_by_params() {
            return command.limit_key.clone().unwrap_or_default();
        }
        let input: Value = serde_json::from_str(&command.input).unwrap_or_default();
        match key.render(&Context::new().with("input", &input), KEY_MAX) {
            Ok(Value::String(text)) => text,
            Ok(value) => value.to_string(),
            Err(error) => {
                // The message may quote the input, which may have personal data.
                let error = command.sealed.is_none().then_some(error);
                tracing::debug!(
                    tool = command.tool,
                    error = error.as_ref().map(tracing::field::display),
                    "the key of a limit cannot be rendered: the call counts with all others"
                );
                String::new()
            }
        }
    }

    /// The request to the limiter for a call; `None` if the tool has no limits.
    pub(super) fn ask(&self, name: &str, limit_key: &str) -> Option<Ask> {
        let limits = self.limits.as_ref()?;
        let subject = match limit_key {
            "" => Arc::clone(&limits.subject),
            key => Arc::new(limits.subject(&format!("{name} {key}"))),
        };
        // No policy is by address.
        let address = || std::net::Ipv4Addr::UNSPECIFIED.into();
        Some(Ask::items(&subject, address, [""]).in_flight(&subject, limits.concurrency))
    }

    /// The interval between calls at the tool's rate limit, in milliseconds.
    pub(super) fn rate_spacing_ms(&self) -> Option<f64> {
        let rate = self.limits.as_ref()?.rate?;
        Some(rate.window_s as f64 * 1000.0 / rate.limit as f64)
    }
}

impl Limits {
    fn new(name: &str, limit: &Limit) -> Option<Self> {
        let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let policies = limit.rate.map(|rate| {
            Arc::new(Policy {
                name: POLICY.into(),
                limit: small(rate.limit),
                window_s: small(rate.window_s),
                per: Per::Key,
                on_backend_down: OnBackendDown::Local,
                on: None,
            })
        });
        let tenant = Tenant::new(ALL_TENANTS).ok()?;
        let policies: Vec<_> = policies.into_iter().collect();
        let subject = Subject::new(&tenant, name, RequestKind::Events, &policies);
        Some(Self {
            concurrency: limit.concurrency.map_or(0, small),
            rate: limit.rate,
            key: limit.key.clone(),
            counts_by_params: limit.counts_by_params(),
            subject: Arc::new(subject),
            tenant,
            policies,
        })
    }

    fn subject(&self, key: &str) -> Subject {
        Subject::new(&self.tenant, key, RequestKind::Events, &self.policies)
    }
}
