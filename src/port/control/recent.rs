//! The decisions that runs recently accepted through this node. A client that lost the answer sends its decision again, and by then the
//! run may have ended and no longer know the decision.

use std::{collections::HashMap, mem};

use parking_lot::Mutex;

/// The number of decisions in a generation. Two generations are kept in memory.
const GENERATION: usize = 4096;

/// A hash of who decided what; the same decision by the same person has the same hash.
pub(super) type DecisionHash = [u8; 16];

/// Recent decisions by the id of their approval.
#[derive(Default)]
pub(crate) struct RecentDecisions(Mutex<Generations>);

#[derive(Default)]
struct Generations {
    recent: HashMap<Box<str>, DecisionHash>,
    older: HashMap<Box<str>, DecisionHash>,
}

impl RecentDecisions {
    /// Remembers a decision that the run accepted.
    pub(super) fn remember(&self, approval_id: &str, decision_hash: DecisionHash) {
        let mut generations = self.0.lock();
        if generations.recent.len() >= GENERATION {
            generations.older = mem::take(&mut generations.recent);
        }
        generations.recent.insert(approval_id.into(), decision_hash);
    }

    /// Whether exactly this decision was accepted.
    pub(super) fn has(&self, approval_id: &str, decision_hash: DecisionHash) -> bool {
        let generations = self.0.lock();
        let known = generations.recent.get(approval_id);
        let known = known.or_else(|| generations.older.get(approval_id));
        known == Some(&decision_hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions_are_remembered_for_a_while() {
        let decided = RecentDecisions::default();
        decided.remember("first", [1; 16]);
        assert!(decided.has("first", [1; 16]) && !decided.has("first", [2; 16]));
        for n in 0..GENERATION {
            decided.remember(&n.to_string(), [0; 16]);
        }
        assert!(decided.has("first", [1; 16]));
        for n in 0..GENERATION {
            decided.remember(&format!("later {n}"), [0; 16]);
        }
        assert!(!decided.has("first", [1; 16]));
        let generations = decided.0.lock();
        assert!(generations.recent.len() + generations.older.len() <= 2 * GENERATION);
    }
}
