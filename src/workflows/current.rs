//! The catalog in force.

use std::sync::Arc;

use parking_lot::RwLock;

use super::catalog::Catalog;

/// The catalog in force: read by requests, exchanged as a whole when files are read again. Cheap to clone.
#[derive(Clone, Default)]
pub struct Current(Arc<RwLock<Arc<Catalog>>>);

impl Current {
    /// This catalog is in force.
    pub fn new(catalog: Catalog) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(catalog))))
    }

    /// The catalog as it is now. Later changes do not touch what was got.
    pub fn get(&self) -> Arc<Catalog> {
        Arc::clone(&self.0.read())
    }

    /// From now on this one is in force.
    pub fn replace(&self, catalog: Catalog) {
        *self.0.write() = Arc::new(catalog);
    }
}
