//! Pauses between tries.

use std::time::Duration;

/// Pauses that double, with jitter.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The first pause.
    pub first: Duration,
    /// The longest.
    pub most: Duration,
}

impl Backoff {
    /// The pause before try `attempt` (from 0): between half and all of the doubled one.
    pub fn pause(&self, attempt: u32) -> Duration {
        let whole = self
            .first
            .saturating_mul(1 << attempt.min(16))
            .min(self.most);
        whole.mul_f64(rand::random_range(0.5..=1.0))
    }
}
