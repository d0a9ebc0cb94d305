//! Metrics of plans, and what the cache has saved.

use parking_lot::Mutex;

use super::llm::Cost;
use crate::telemetry::metrics::{PLANNER_COST, PLANS_SAVED_COST, PLANS_SAVED_TOKENS};

/// The unit of costs in metrics: a millionth of the unit of the prices.
const MILLIONTHS: f64 = 1_000_000.0;

/// What plans of language models have cost on this node so far: a plan from elsewhere saves as much on average.
#[derive(Default)]
pub(super) struct Saved(Mutex<Spent>);

#[derive(Clone, Copy, Default)]
struct Spent {
    plans: u64,
    tokens: u64,
    money: f64,
}

impl Saved {
    /// A language model was asked.
    pub(super) fn spent(&self, cost: &Cost) {
        let money = cost.money.unwrap_or_default();
        let mut spent = self.0.lock();
        spent.plans += 1;
        spent.tokens += cost.usage.input + cost.usage.output;
        spent.money += money;
        drop(spent);
        PLANNER_COST.counter(&[]).increment(millionths(money));
    }

    /// A plan came from elsewhere.
    pub(super) fn saved(&self) {
        let spent = *self.0.lock();
        if spent.plans == 0 {
            return;
        }
        PLANS_SAVED_TOKENS
            .counter(&[])
            .increment(spent.tokens / spent.plans);
        let money = spent.money / spent.plans as f64;
        PLANS_SAVED_COST.counter(&[]).increment(millionths(money));
    }
}

fn millionths(money: f64) -> u64 {
    (money * MILLIONTHS).round() as u64
}
