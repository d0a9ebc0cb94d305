//! Where a hash of a window is.

use bytes::Bytes;

use super::{ID, run};
use crate::{
    base::id::Identity,
    state::{Space, StateError, StateStore},
};

/// Where a hash is.
pub enum Located {
    /// In memory, with this payload.
    Here([u8; ID]),
    /// In none of what is held.
    Nowhere,
    /// In one of these pages, newest first, or nowhere.
    OnDisk(Vec<Page>),
}

/// A page of a run on disk, which never changes; gone, it has left the window.
pub struct Page {
    pub(super) store: StateStore,
    pub(super) space: Space,
    pub(super) key: Bytes,
    pub(super) payload: usize,
}

impl Page {
    /// The payload of a hash, if it is in the page. Reads the disk.
    pub fn find(&self, id: &Identity) -> Result<Option<[u8; ID]>, StateError> {
        let bytes = self.store.get(&self.space, &self.key)?;
        Ok(bytes.and_then(|bytes| run::find(&bytes, id, self.payload)))
    }

    /// Whether it is the same page.
    pub fn is(&self, other: &Self) -> bool {
        self.key == other.key
    }
}
