//! `tune`: a peer with its settings as they are, and with each line of `tune.txt`.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{
    Asked,
    drain::Drained,
    java::{self, Differs},
    report::{Row, median},
};

/// The lines of a peer.
pub fn read(peer: &str) -> Vec<(String, Differs)> {
    let text = std::fs::read_to_string(java::file("tune.txt")).unwrap();
    text.lines()
        .filter_map(|line| line.strip_prefix(peer)?.strip_prefix(' '))
        .map(|words| (words.to_owned(), Differs::parse(words)))
        .collect()
}

/// Runs them all; `run` also says the most memory in MB.
pub fn each(peer: &str, asked: &Asked, run: impl Fn(&Differs) -> (Drained, f64)) {
    let as_they_are = ("(as they are)".to_owned(), Differs::default());
    let mut base = None;
    for (name, differs) in std::iter::once(&as_they_are).chain(&asked.tries) {
        let rounds = || (0..asked.rounds).map(|_| run(differs)).collect::<Vec<_>>();
        // It has said why; the others may do better.
        let Ok(rounds) = catch_unwind(AssertUnwindSafe(rounds)) else {
            println!("{peer} {name}: FAILED");
            continue;
        };
        let rate = median(rounds.iter().map(|(drained, _)| drained.steady));
        let mut row = Row::new(format!("{peer} {name}"), rate, "rec/s");
        if let Some((drained, most)) = rounds.first() {
            row = row.note(format!("{}; {most:.0} MB", drained.note()));
        }
        row.against(*base.get_or_insert(rate), "as they are")
            .print();
    }
}
