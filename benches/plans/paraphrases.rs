//! Other words for what was asked before: sentences of each intent went through the cache, then others are looked up.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use omnilink::plans::cache::{Exact, Settings, VectorIndex};

use crate::{
    PLAIN, Split,
    data::Clinc,
    goals::{Goal, Goals},
    head::Head,
    production::Production,
    report::Row,
    shuffled,
    statistics::{Point, Scored, Share, curve, hit_ratio_at},
    svg::{Series, draw},
};

/// Examples of a class for the few-shot head.
const SHOTS: usize = 8;
/// The precision at which methods are compared.
const PRECISION: f64 = 0.995;

/// What a method did at its threshold.
#[derive(Default)]
struct Outcome {
    /// Of all goals that got a plan, those that got a wrong one.
    wrong: Share,
    /// Of all goals whose plan is cached, those that got it.
    right: Share,
}

impl Outcome {
    fn add(&mut self, hit: Option<bool>, could: bool) {
        if let Some(right) = hit {
            self.wrong.add(!right);
        }
        if could {
            self.right.add(hit == Some(true));
        }
    }

    fn print(&self, name: &str) {
        Row::new(
            format!("{name}: right, of goals that could be"),
            100.0 * self.right.value(),
            "%",
        )
        .note(format!(
            "right: {}; wrong, of all hits: {}",
            self.right.text(),
            self.wrong.text()
        ))
        .print();
    }

    fn point(&self) -> Point {
        let right = self.wrong.of - self.wrong.count;
        Point {
            hit_ratio: right as f64 / self.right.of.max(1) as f64,
            precision: Share {
                of: self.wrong.of,
                count: right,
            },
        }
    }
}

/// The first `most` sentences of each intent.
fn few(mut all: Vec<(String, Goal)>, most: usize) -> Vec<(String, Goal)> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    all.retain(|(intent, _)| {
        let count = counts.entry(intent.clone()).or_default();
        *count += 1;
        *count <= most
    });
    all
}

pub fn measure(goals: &mut Goals, clinc: &Clinc, split: Split, most: usize, show: bool) {
    println!(
        "\n-- {} of CLINC150 after {most} of train for each intent",
        split.clinc()
    );
    let known = few(shuffled(goals, clinc.split("train")), most);
    let asked = shuffled(goals, clinc.split(split.clinc()));
    let mut production = Production::new(Settings::default());
    let mut index = Exact::default();
    let mut cached = BTreeSet::new();
    for (n, (intent, goal)) in known.iter().enumerate() {
        production.serve(goal, intent);
        index.insert(n as u32, &goal.vector);
        cached.insert((intent.as_str(), goal.kinds.as_slice()));
    }
    let head = |most| {
        Head::new(
            known.iter().map(|(intent, goal)| (intent.as_str(), goal)),
            most,
        )
    };
    let heads = [head(SHOTS), head(usize::MAX)];

    let (mut ours, mut plain) = (Outcome::default(), Outcome::default());
    let mut by_template = Share::default();
    let (mut of_ours, mut of_plain) = (Vec::new(), Vec::new());
    let mut of_heads = [Vec::new(), Vec::new()];
    for (intent, goal) in &asked {
        let could = cached.contains(&(intent.as_str(), goal.kinds.as_slice()));
        let answer = production.ask(goal);
        by_template.add(
            answer
                .lookup
                .hit
                .as_ref()
                .is_some_and(|hit| hit.evidence.is_none()),
        );
        ours.add(answer.intent.as_ref().map(|found| found == intent), could);
        if let Some(found) = answer
            .intent
            .as_ref()
            .filter(|found| show && *found != intent)
        {
            println!("    wrong: {:?} ({intent}) got {found}", goal.text);
        }
        of_ours.extend(answer.candidate.map(|(found, score)| Scored {
            score,
            right: found == *intent,
        }));
        let nearest = index
            .search(&goal.vector, 1)
            .first()
            .copied()
            .unwrap_or_default();
        let (score, right) = (f64::from(nearest.1), known[nearest.0 as usize].0 == *intent);
        plain.add((score >= PLAIN).then_some(right), could);
        of_plain.push(Scored { score, right });
        for (head, scored) in heads.iter().zip(&mut of_heads) {
            let (found, score) = head.answer(goal);
            scored.push(Scored {
                score,
                right: found == intent,
            });
        }
    }
    ours.print("cache");
    plain.print("plain threshold of 0.85");
    println!("    by the same template: {}", by_template.text());
    let mut outside = Share::default();
    for (intent, goal) in shuffled(goals, clinc.split(split.out_of_scope())) {
        let answer = production.ask(&goal);
        outside.add(answer.intent.is_some());
        if let Some(found) = answer.intent.filter(|_| show) {
            println!("    wrong: {:?} ({intent}) got {found}", goal.text);
        }
    }
    println!("    goals of no intent that hit: {}", outside.text());

    let [few_shot, all_shots] = of_heads;
    let could = ours.right.of;
    let series = |name: &str, scored, marked| Series {
        name: name.to_owned(),
        points: curve(scored, could),
        marked,
    };
    let all = [
        series("cache (mark: in use)", of_ours, Some(ours.point())),
        series(
            "similarity alone (mark: 0.85)",
            of_plain,
            Some(plain.point()),
        ),
        series("few-shot head, 8 examples of a class", few_shot, None),
        series("the same head, all examples", all_shots, None),
    ];
    for series in &all {
        let ratio = hit_ratio_at(&series.points, PRECISION);
        let name = series.name.split(" (").next().unwrap_or_default();
        Row::new(
            format!("at a precision of 99.5 %: {name}"),
            100.0 * ratio,
            "%",
        )
        .print();
    }
    let file = format!("plans-{}-{most}.svg", split.clinc());
    let title = format!(
        "CLINC150 {}, {most} goals of each intent before",
        split.clinc()
    );
    let path = goals.target().join(file);
    fs::write(&path, draw(&title, &all)).unwrap();
    println!("    curves: {}", path.display());
}
