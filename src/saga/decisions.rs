//! The decisions that a run has taken in, so that one that is sent again, after a lost answer, is answered as the first time.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    plans::jcs,
    runs::{Decided, Decision, Json},
};

/// The most decisions that are remembered; the oldest approvals are forgotten first.
const KEPT: usize = 256;

/// Decisions by approval. Equal histories give equal ones.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Decisions(BTreeMap<u64, Made>);

/// Who decided what. Of the value there is only a hash: it may be large.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Made {
    decision: Decision,
    by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    on_behalf_of: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value_hash: Option<String>,
}

impl Decisions {
    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Remembers a decision.
    pub(super) fn remember(&mut self, decided: &Decided) {
        let made = Made {
            decision: decided.decision,
            by: decided.by.clone(),
            on_behalf_of: decided.on_behalf_of.clone(),
            value_hash: hash(decided.value.as_ref()),
        };
        self.0.insert(decided.approval, made);
        while self.0.len() > KEPT {
            self.0.pop_first();
        }
    }

    /// Whether the same person has made the same decision, with the same value.
    pub(super) fn has(
        &self,
        approval: u64,
        decision: Decision,
        (by, on_behalf_of): (&str, Option<&str>),
        value: Option<&Json>,
    ) -> bool {
        self.0.get(&approval).is_some_and(|made| {
            made.decision == decision
                && made.by == by
                && made.on_behalf_of.as_deref() == on_behalf_of
                && made.value_hash == hash(value)
        })
    }
}

fn hash(value: Option<&Json>) -> Option<String> {
    value.map(|value| jcs::hash(&value.value()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_same_decision_is_of_the_same_person_with_the_same_value() {
        let mut decisions = Decisions::default();
        let value = |amount: u32| Json::of(&json!({ "amount": amount }));
        decisions.remember(&Decided {
            approval: 7,
            decision: Decision::Approved,
            by: "ann".into(),
            on_behalf_of: Some("bob".into()),
            reason: Some("fine".into()),
            value: Some(value(5)),
        });
        let has = |approval, decision, who, amount: Option<u32>| {
            decisions.has(approval, decision, who, amount.map(value).as_ref())
        };
        let who = ("ann", Some("bob"));
        assert!(has(7, Decision::Approved, who, Some(5)));
        assert!(!has(8, Decision::Approved, who, Some(5)));
        assert!(!has(7, Decision::Denied, who, Some(5)));
        assert!(!has(7, Decision::Approved, ("ann", None), Some(5)));
        assert!(!has(7, Decision::Approved, ("eve", Some("bob")), Some(5)));
        assert!(!has(7, Decision::Approved, who, Some(6)));
        assert!(!has(7, Decision::Approved, who, None));
    }

    #[test]
    fn the_oldest_are_forgotten_first() {
        let mut decisions = Decisions::default();
        for approval in 0..=KEPT as u64 {
            decisions.remember(&Decided {
                approval,
                decision: Decision::Retry,
                by: "ann".into(),
                on_behalf_of: None,
                reason: None,
                value: None,
            });
        }
        let has = |approval| decisions.has(approval, Decision::Retry, ("ann", None), None);
        assert!(!has(0) && has(1) && has(KEPT as u64));
    }
}
