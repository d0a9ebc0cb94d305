//! The catalog in force, with its triggers.

use std::sync::Arc;

use parking_lot::RwLock;

use super::{catalog::Catalog, triggers::Triggers};

/// The catalog in force: read by requests, exchanged as a whole when files are read again. Cheap to clone.
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
    /// This catalog is in force.
    pub fn new(catalog: Catalog) -> Self {
        Self(Arc::new(RwLock::new(InForce::of(catalog))))
    }

    /// The catalog as it is now. Later changes do not touch what was got.
    pub fn get(&self) -> Arc<Catalog> {
        Arc::clone(&self.0.read().catalog)
    }

    /// The triggers of the catalog as it is now.
    pub fn triggers(&self) -> Arc<Triggers> {
        Arc::clone(&self.0.read().triggers)
    }

    /// From now on this one is in force.
    pub fn replace(&self, catalog: Catalog) {
        let next = InForce::of(catalog);
        *self.0.write() = next;
    }
}
