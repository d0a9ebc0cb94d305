//! Sources ready for use: the mapping is compiled, and secrets have their expiry. They are built from integrations at first use, and
//! again after each change of the integration.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use parking_lot::RwLock;

use crate::{
    base::clock::Millis,
    bridges::{Fault, Secret, Secrets, Source},
    controls::{Controls, Integration},
};

/// How often the audit log records that a source is in use.
const RECEIVED_EVERY_MS: i64 = 3_600_000;

/// A source, and the integration from which it was built.
pub(crate) struct ActiveSource {
    pub(crate) integration: Arc<Integration>,
    pub(crate) source: Source,
    /// When an accepted webhook was last recorded in the audit log; 0 if never.
    received: AtomicI64,
}

impl ActiveSource {
    /// Whether an accepted webhook must be recorded in the audit log now. If so, the next one is due an hour later.
    pub(super) fn is_received_due(&self, now: Millis) -> bool {
        let last = self.received.load(Ordering::Relaxed);
        let due = now.0.saturating_sub(last) >= RECEIVED_EVERY_MS;
        let taken = || {
            self.received
                .compare_exchange(last, now.0, Ordering::Relaxed, Ordering::Relaxed)
        };
        due && taken().is_ok()
    }
}

/// Sources by the id of their integration.
#[derive(Default)]
pub(crate) struct Sources(RwLock<HashMap<Box<str>, BuiltSource>>);

/// A source built from an integration.
struct BuiltSource {
    /// The offset of the integration's record.
    offset: u64,
    /// `None` if this release does not understand the definition.
    ready: Option<Arc<ActiveSource>>,
}

impl Sources {
    /// Returns the source of an integration; `None` if a later release wrote a definition that this one does not understand.
    pub(super) fn get(
        &self,
        integration: &Arc<Integration>,
        controls: &Controls,
    ) -> Option<Arc<ActiveSource>> {
        if let Some(built) = self.0.read().get(&*integration.id)
            && built.offset == integration.offset
        {
            return built.ready.clone();
        }
        let source = source(integration).inspect_err(|why| {
            let (id, name) = (&integration.id, &integration.definition.name);
            tracing::error!(id, name, %why, "an integration cannot be used");
        });
        self.forget_deleted(controls);
        self.put(integration, source.ok())
    }

    /// Caches the source of an integration.
    pub(crate) fn put(
        &self,
        integration: &Arc<Integration>,
        source: Option<Source>,
    ) -> Option<Arc<ActiveSource>> {
        let mut all = self.0.write();
        let before = all.get(&*integration.id);
        let before = before.and_then(|built| built.ready.as_ref());
        let received = before.map_or(0, |before| before.received.load(Ordering::Relaxed));
        let ready = source.map(|source| {
            Arc::new(ActiveSource {
                integration: Arc::clone(integration),
                source,
                received: AtomicI64::new(received),
            })
        });
        let built = BuiltSource {
            offset: integration.offset,
            ready: ready.clone(),
        };
        all.insert(integration.id.as_str().into(), built);
        ready
    }

    fn forget_deleted(&self, controls: &Controls) {
        let mut all = self.0.write();
        all.retain(|id, _| controls.integration(id).is_some());
    }
}

/// Why no source can be made of an integration.
#[derive(Debug, thiserror::Error)]
enum NoSource {
    /// The definition cannot be written as JSON.
    #[error(transparent)]
    Unwritable(#[from] serde_json::Error),
    /// What this release does not understand in the definition.
    #[error("{}", listed(.0))]
    Faults(Vec<Fault>),
}

fn listed(faults: &[Fault]) -> String {
    let faults = faults
        .iter()
        .map(|fault| format!("{}: {}", fault.pointer, fault.message));
    faults.collect::<Vec<_>>().join("; ")
}

fn source(integration: &Integration) -> Result<Source, NoSource> {
    let mut definition = serde_json::to_value(&integration.definition)?;
    let secrets = integration.secrets.iter();
    let texts: Vec<_> = secrets.map(|secret| &*secret.text).collect();
    definition["secrets"] = texts.into();
    let parsed = Source::parse(definition.to_string().as_bytes());
    let mut source = parsed.map_err(NoSource::Faults)?;
    let secrets = integration.secrets.iter().map(|secret| Secret {
        text: Arc::clone(&secret.text),
        until: secret.until,
    });
    source.secrets = Secrets::new(secrets.collect());
    Ok(source)
}
