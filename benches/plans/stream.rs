//! A stream of goals from an empty cache on: intents by a Zipf law, and a planner that knows the intent.

use std::collections::{BTreeMap, HashSet};

use omnilink::plans::cache::{Exact, Settings, VectorIndex};

use crate::{
    PLAIN, SEED, Split,
    data::{Clinc, Random, Zipf},
    goals::{Goal, Goals},
    production::Production,
    report::Row,
    shuffled,
    statistics::Share,
};

const GOALS: usize = 10_000;

/// What happened to the goals of a stream.
#[derive(Default)]
struct Outcome {
    planned: Share,
    wrong: Share,
    /// Goals that were asked before, word for word, and the others.
    repeated: Share,
    others: Share,
    others_wrong: Share,
}

impl Outcome {
    fn add(&mut self, repeated: bool, hit: Option<bool>) {
        self.planned.add(hit.is_none());
        self.wrong.add(hit == Some(false));
        if repeated {
            self.repeated.add(hit.is_some());
        } else {
            self.others.add(hit.is_some());
            self.others_wrong.add(hit == Some(false));
        }
    }

    fn print(&self, name: &str) {
        Row::new(format!("{name}: fewer calls to the planner"), 100.0 * (1.0 - self.planned.value()), "%")
            .note(format!(
                "false hits, of all goals: {}; exact repeats that hit: {}; others that hit: {}, falsely: {}",
                self.wrong.text(),
                self.repeated.text(),
                self.others.text(),
                self.others_wrong.text()
            ))
            .print();
    }
}

pub fn measure(goals: &mut Goals, clinc: &Clinc, split: Split) {
    println!(
        "\n-- a stream of {GOALS} goals of CLINC150 {}",
        split.clinc()
    );
    let sentences = shuffled(goals, clinc.split(split.clinc()));
    let mut by_intent: BTreeMap<&str, Vec<&Goal>> = BTreeMap::new();
    for (intent, goal) in &sentences {
        by_intent.entry(intent).or_default().push(goal);
    }
    let mut intents: Vec<_> = by_intent.into_iter().collect();
    let mut random = Random(SEED);
    random.shuffle(&mut intents);
    let zipf = Zipf::new(intents.len());
    let stream: Vec<(&str, &Goal)> = (0..GOALS)
        .map(|_| {
            let (intent, goals) = &intents[zipf.draw(&mut random)];
            (*intent, goals[random.below(goals.len())])
        })
        .collect();

    let mut production = Production::new(Settings::default());
    let mut ours = Outcome::default();
    let (mut index, mut plans) = (Exact::default(), Vec::new());
    let mut plain = Outcome::default();
    let mut seen = HashSet::new();
    for (intent, goal) in stream {
        let repeated = !seen.insert(&goal.text);
        let answer = production.serve(goal, intent);
        ours.add(repeated, answer.intent.map(|found| found == intent));
        let nearest = index.search(&goal.vector, 1).first().copied();
        let nearest = nearest.filter(|(_, score)| f64::from(*score) >= PLAIN);
        plain.add(repeated, nearest.map(|(n, _)| plans[n as usize] == intent));
        if nearest.is_none() {
            index.insert(plans.len() as u32, &goal.vector);
            plans.push(intent);
        }
    }
    ours.print("cache");
    plain.print("plain threshold of 0.85");
}
