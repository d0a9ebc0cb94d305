//! The catalog in force, with its triggers.

use std::sync::Arc;

use parking_lot::RwLock;

use super::{catalog::Catalog, triggers::Triggers};

/// The catalog in force: read by requests, replaced as a whole when the files are reloaded. Cheap to clone.
#[derive(Clone, Default)]
pub struct Current(Arc<RwLock<InForce>>);

#[derive(Default)]
struct InForce {
    catalog: Arc<Catalog>,
    triggers: Arc<Triggers>,
}

impl InForce {
    fn of(catalog: Catalog) -> Self {
        Self {
            triggers: Arc::new(Triggers::of(&catalog)),
            catalog: Arc::new(catalog),
        }
    }
}

impl Current {
    /// A handle whose current catalog is `catalog`.
    pub fn new(catalog: Catalog) -> Self {
        Self(Arc::new(RwLock::new(InForce::of(catalog))))
    }

    /// A snapshot of the current catalog. Later reloads do not change it.
    pub fn get(&self) -> Arc<Catalog> {
        Arc::clone(&self.0.read().catalog)
    }

    /// The triggers of the current catalog.
    pub fn triggers(&self) -> Arc<Triggers> {
        Arc::clone(&self.0.read().triggers)
    }

    /// Replaces the current catalog.
    pub fn replace(&self, catalog: Catalog) {
        let next = InForce::of(catalog);
        *self.0.write() = next;
    }
}
