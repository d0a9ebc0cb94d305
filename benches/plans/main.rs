//! The cache of plans: how often it finds the right plan and the wrong one, and how long it takes (`docs/plan-cache.md`).
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stdout
)]

use std::{env, path::Path};

use omnilink::plans::cache::Settings;

mod data;
mod fit;
mod goals;
mod head;
mod latency;
mod pairs;
mod paraphrases;
mod production;
#[path = "../common/report.rs"]
mod report;
mod statistics;
mod stream;
mod svg;

use data::{Clinc, Random, Sentence};
use fit::{Observation, fit};
use goals::{Goal, Goals};
use production::Production;
use report::Arguments;

const SEED: u64 = 1;
/// The base threshold that it is compared with.
pub const PLAIN: f64 = 0.85;
/// How much all pairs weigh against all sentences when the weights are fitted.
const PAIRS_SHARE: f64 = 0.02;

/// Which sentences and pairs are asked.
#[derive(Clone, Copy, PartialEq)]
pub enum Split {
    Develop,
    Report,
}

impl Split {
    fn clinc(self) -> &'static str {
        match self {
            Self::Develop => "val",
            Self::Report => "test",
        }
    }

    fn out_of_scope(self) -> &'static str {
        match self {
            Self::Develop => "oos_val",
            Self::Report => "oos_test",
        }
    }

    fn pairs(self) -> &'static str {
        match self {
            Self::Develop => "develop",
            Self::Report => "report",
        }
    }
}

fn main() {
    let Some(arguments) = Arguments::given() else {
        return;
    };
    let model = env::var("OMNILINK_TEST_MODEL").unwrap_or_default();
    assert!(
        !model.is_empty(),
        "OMNILINK_TEST_MODEL is not set: eval \"$(scripts/model)\""
    );
    let split = if arguments.named("develop") {
        Split::Develop
    } else {
        Split::Report
    };
    let parts = ["pairs", "paraphrases", "stream", "latency", "fit"];
    let some = parts.iter().any(|part| arguments.named(part));
    let wanted = |part: &str| arguments.named(part) || (!some && part != "fit");
    let mut goals = Goals::new(Path::new(&model));
    let clinc = Clinc::read();
    if clinc.is_none() {
        println!("SKIPPED: CLINC150 is not there (OMNILINK_SHARED_DATA)");
    }
    if wanted("pairs") {
        pairs::measure(&mut goals, split, arguments.named("show"));
    }
    if let Some(clinc) = &clinc {
        if wanted("fit") {
            fit_weights(&mut goals, clinc);
        }
        if wanted("paraphrases") {
            for known in [100, 20] {
                paraphrases::measure(&mut goals, clinc, split, known, arguments.named("show"));
            }
        }
        if wanted("stream") {
            stream::measure(&mut goals, clinc, split);
        }
        if wanted("latency") {
            latency::measure(&mut goals, clinc);
        }
    }
}

/// Sentences and their goals in random order.
pub fn shuffled(goals: &mut Goals, mut sentences: Vec<Sentence>) -> Vec<(String, Goal)> {
    Random(SEED).shuffle(&mut sentences);
    let texts: Vec<_> = sentences
        .iter()
        .map(|sentence| sentence.text.as_str())
        .collect();
    let of = goals.of(&texts);
    sentences
        .into_iter()
        .map(|sentence| sentence.intent)
        .zip(of)
        .collect()
}

/// Fits the weights of the prior (`src/plans/cache/evidence.rs`): to the sentences of `train`, each looked up among those before it, and to
/// the develop split of the pairs, which count as much as the sentences together. Checks them on `val`.
fn fit_weights(goals: &mut Goals, clinc: &Clinc) {
    let known = shuffled(goals, clinc.split("train"));
    let mut production = Production::new(Settings::default());
    let mut observations = Vec::new();
    let mut observe = |production: &Production, intent: &str, goal: &Goal, weight| {
        let evidence = production.evidence(goal, intent);
        observations.extend(evidence.map(|(right, evidence)| Observation {
            values: evidence.values().to_vec(),
            right,
            weight,
        }));
    };
    for (n, (intent, goal)) in known.iter().enumerate() {
        // The cache is small as often as it is large.
        if n > 100 {
            observe(&production, intent, goal, 1.0);
        }
        // As in use: what hits is not cached again.
        if production.ask(goal).intent.is_none() {
            production.plan(goal, intent, &omnilink::plans::cache::Lookup::default());
        }
    }
    let pairs = pairs::evidence(goals);
    let weight = PAIRS_SHARE * observations.len() as f64 / pairs.len().max(1) as f64;
    observations.extend(pairs.into_iter().map(|(right, evidence)| Observation {
        values: evidence.values().to_vec(),
        right,
        weight,
    }));
    println!("{} observations", observations.len());
    let weights = fit(&observations);
    println!("intercept, and the weights of Evidence::values: {weights:.2?}");
    let asked = shuffled(goals, clinc.split("val"));
    let asked = asked
        .iter()
        .filter_map(|(intent, goal)| production.evidence(goal, intent));
    let asked = asked.map(|(right, evidence)| Observation {
        values: evidence.values().to_vec(),
        right,
        weight: 1.0,
    });
    println!("on the sentences of val:");
    fit::calibration(&weights, &asked.collect::<Vec<_>>());
}
