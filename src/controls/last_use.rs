//! When a key was last used, as this node saw it.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use crate::base::clock::Millis;

/// When this node last saw a key in use, to the second. Shared by all copies of the key.
#[derive(Clone, Debug, Default)]
pub struct LastUse(Arc<AtomicI64>);

impl LastUse {
    /// The resolution in milliseconds: all cores share the value, so it is not written for each request.
    const RESOLUTION: i64 = 1000;

    /// The last use; `None` if there was none since the node started.
    pub fn get(&self) -> Option<Millis> {
        let at = self.0.load(Ordering::Relaxed);
        (at > 0).then_some(Millis(at))
    }

    /// Sets the last use.
    pub(super) fn mark(&self, now: Millis) {
        if now.0 - self.0.load(Ordering::Relaxed) >= Self::RESOLUTION {
            self.0.store(now.0, Ordering::Relaxed);
        }
    }
}

/// It is not a property of a key: keys that only differ in it are equal.
impl PartialEq for LastUse {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for LastUse {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_use_is_exact_to_the_second_and_shared() {
        let used = LastUse::default();
        assert_eq!(used.get(), None);
        let copy = used.clone();
        used.mark(Millis(5000));
        used.mark(Millis(5999));
        assert_eq!(copy.get(), Some(Millis(5000)));
        used.mark(Millis(6000));
        assert_eq!(copy.get(), Some(Millis(6000)));
    }
}
