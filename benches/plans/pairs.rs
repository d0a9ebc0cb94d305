//! Minimal pairs: the plan of `a` is cached, and `b` is asked, in a cache of its own for each pair.

use std::collections::BTreeMap;

use omnilink::plans::cache::{Evidence, Lookup, Settings};

use crate::{
    PLAIN, Split,
    data::{Pair, pairs},
    goals::{Goal, Goals},
    head::dot,
    production::Production,
    report::Row,
    statistics::Share,
};

const INTENT: &str = "a";

fn of(goals: &mut Goals, split: Split) -> Vec<(Pair, Goal, Goal)> {
    let pairs = pairs(split.pairs());
    let a = goals.of(&pairs.iter().map(|pair| pair.a.as_str()).collect::<Vec<_>>());
    let b = goals.of(&pairs.iter().map(|pair| pair.b.as_str()).collect::<Vec<_>>());
    pairs
        .into_iter()
        .zip(a.into_iter().zip(b))
        .map(|(pair, (a, b))| (pair, a, b))
        .collect()
}

fn cached(a: &Goal) -> Production {
    let mut production = Production::new(Settings::default());
    production.plan(a, INTENT, &Lookup::default());
    production
}

/// What speaks for `a` in the pairs of the develop split, and whether it is right.
pub fn evidence(goals: &mut Goals) -> Vec<(bool, Evidence)> {
    let pairs = of(goals, Split::Develop).into_iter();
    let found = pairs.filter_map(|(pair, a, b)| {
        let (_, evidence) = cached(&a).evidence(&b, INTENT)?;
        Some((pair.hit, evidence))
    });
    found.collect()
}

pub fn measure(goals: &mut Goals, split: Split, show: bool) {
    println!("\n-- minimal pairs, {}", split.pairs());
    let pairs = of(goals, split);
    if pairs.is_empty() {
        println!("SKIPPED: there are no pairs (tests/plans/pairs.jsonl)");
        return;
    }
    let (mut wrong, mut right) = (Share::default(), Share::default());
    let (mut plain_wrong, mut plain_right) = (Share::default(), Share::default());
    let mut other_words = Share::default();
    let mut kinds: BTreeMap<(bool, String), (Share, Share)> = BTreeMap::new();
    for (pair, a, b) in &pairs {
        let lookup = cached(a).ask(b).lookup;
        let hit = lookup.hit.is_some();
        let plain = dot(&a.vector, &b.vector) >= PLAIN;
        let (ours, theirs) = kinds.entry((pair.hit, pair.kind.clone())).or_default();
        ours.add(hit);
        theirs.add(plain);
        if pair.hit {
            right.add(hit);
            plain_right.add(plain);
            if a.key != b.key {
                other_words.add(hit);
            }
        } else {
            wrong.add(hit);
            plain_wrong.add(plain);
        }
        if show && hit != pair.hit {
            let why = lookup
                .stages
                .last()
                .and_then(|stage| stage.reason)
                .unwrap_or("hit");
            let similarity = dot(&a.vector, &b.vector);
            println!(
                "    {} {:?} / {:?}: {why} {similarity:.3}",
                pair.kind, a.text, b.text
            );
        }
    }
    for ((should, kind), (ours, plain)) in &kinds {
        let name = if *should { "must hit" } else { "must miss" };
        println!(
            "    {name:<10} {kind:<24} {:>4} of {:<5} plain threshold: {:>4}",
            ours.count, ours.of, plain.count
        );
    }
    Row::new("must-miss pairs that hit", 100.0 * wrong.value(), "%")
        .target_below(0.5)
        .note(format!(
            "{}; plain threshold of 0.85: {}",
            wrong.text(),
            plain_wrong.text()
        ))
        .print();
    Row::new("must-hit pairs that hit", 100.0 * right.value(), "%")
        .note(format!(
            "{}; plain threshold of 0.85: {}",
            right.text(),
            plain_right.text()
        ))
        .print();
    println!(
        "    without those of the same template: {}",
        other_words.text()
    );
}
