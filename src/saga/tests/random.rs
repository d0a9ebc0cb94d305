//! Random plans under random workers, people and controls: core and model must agree, and planted bugs must be found.

use proptest::{prelude::*, test_runner::Config};

use super::{
    model::Plan,
    pair::{Checked, Pair},
    stories::{Happening, story, story_of},
};
use crate::saga::bugs::{Bug, plant};

/// A whole run; what is wrong with it, and its history.
fn live(plan: &Plan, happenings: &[Happening]) -> Checked {
    let mut pair = Pair::start(plan)?;
    let mut all = || {
        for happening in happenings {
            pair.happen(happening)
                .map_err(|wrong| format!("{wrong}, after {happening:?}"))?;
        }
        pair.drain()
    };
    let result = all();
    result.map_err(|wrong| format!("{wrong}\nhistory: {}", pair.case.types()))
}

proptest! {
    #![proptest_config(Config::with_cases(10_000))]

    /// Whatever workers, people and controls do, a run is where the contract says, and ends.
    #[test]
    fn the_core_does_what_the_model_does((plan, happenings) in story()) {
        plant(None);
        let checked = live(&plan, &happenings);
        prop_assert!(checked.is_ok(), "{}", checked.unwrap_err());
    }
}

#[test]
fn each_planted_bug_is_found_within_a_thousand_seeds() {
    let finds = |bug: Option<Bug>| {
        plant(bug);
        let found = (0..1000).find(|seed| {
            let (plan, happenings) = story_of(*seed);
            live(&plan, &happenings).is_err()
        });
        plant(None);
        found
    };
    assert_eq!(finds(None), None, "a seed fails without any bug");
    let mut missed = Vec::new();
    for bug in Bug::ALL {
        match finds(Some(bug)) {
            Some(seed) => println!("{bug:?}: found by seed {seed}"),
            None => missed.push(bug),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
