//! How long a look-up takes among 10,000 entries, beside the embedding alone.

use std::time::Instant;

use omnilink::plans::cache::{Lookup, Settings};

use crate::{
    data::Clinc,
    goals::Goals,
    production::Production,
    report::{Row, percentile},
    shuffled,
};

const ENTRIES: usize = 10_000;
const LOOKUPS: usize = 1_000;

pub fn measure(goals: &mut Goals, clinc: &Clinc) {
    println!("\n-- latency at {ENTRIES} entries");
    let known = shuffled(goals, clinc.split("train"));
    let mut production = Production::new(Settings::default());
    let since = |begun: Instant| begun.elapsed().as_secs_f64() * 1e3;
    let mut writes = Vec::new();
    for (intent, goal) in known.iter().take(ENTRIES) {
        let begun = Instant::now();
        production.plan(goal, intent, &Lookup::default());
        writes.push(since(begun));
    }
    let asked: Vec<_> = clinc.split("test").into_iter().take(LOOKUPS).collect();
    // Vectors are computed anew below; the goals are those of before.
    let texts: Vec<_> = asked
        .iter()
        .map(|sentence| sentence.text.as_str())
        .collect();
    let of = goals.of(&texts);
    let (mut embedding, mut search, mut all, mut exact) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (text, goal) in texts.iter().zip(of) {
        let begun = Instant::now();
        let mut goal = Goals::anew(text, goal);
        let templated = since(begun);
        let begun = Instant::now();
        let tokens = goals.model().tokens(&goal.text).unwrap();
        let vector = goals.model().vectors(&[tokens]).unwrap();
        embedding.push(since(begun));
        goal.vector = vector[0].to_vec();
        let begun = Instant::now();
        production.ask(&goal);
        search.push(since(begun));
        all.push(templated + embedding.last().unwrap() + search.last().unwrap());
        let (_, known) = &known[exact.len() % ENTRIES];
        let begun = Instant::now();
        let answer = production.ask(known);
        exact.push(since(begun));
        assert!(answer.intent.is_some());
    }
    for (name, values) in [
        ("embedding alone", &embedding),
        ("search and gates", &search),
        ("template, embedding, search and gates", &all),
        ("the same template", &exact),
    ] {
        for (percent, share) in [("p50", 0.5), ("p99", 0.99)] {
            let row = Row::new(
                format!("{name}, {percent}"),
                percentile(values.clone(), share),
                "ms",
            );
            match (name, percent) {
                ("template, embedding, search and gates", "p50") => {
                    row.target_below(1.3 * percentile(embedding.clone(), 0.5) + 0.3)
                        .print();
                }
                ("the same template", "p50") => row.target_below(0.2).print(),
                _ => row.print(),
            }
        }
    }
    // A write now and then fits the metric anew.
    Row::new(
        "write of an entry, p50",
        percentile(writes.clone(), 0.5),
        "ms",
    )
    .print();
    writes.sort_by(f64::total_cmp);
    let fits: Vec<_> = writes
        .iter()
        .rev()
        .take(3)
        .map(|ms| format!("{ms:.0} ms"))
        .collect();
    println!(
        "    the three longest writes, which fit the metric: {}",
        fits.join(", ")
    );
}
