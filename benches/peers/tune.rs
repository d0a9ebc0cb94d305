//! `tune`: runs a peer with its default settings, and with each line of `tune.txt`.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{
    Parameters,
    drain::Drained,
    java::{self, Differs},
    report::{Row, median},
};

/// The lines of `tune.txt` for a peer.
pub fn read(peer: &str) -> Vec<(String, Differs)> {
    let text = std::fs::read_to_string(java::file("tune.txt")).unwrap();
    text.lines()
        .filter_map(|line| line.strip_prefix(peer)?.strip_prefix(' '))
        .map(|words| (words.to_owned(), Differs::parse(words)))
        .collect()
}

/// Runs all; `run` returns the rate and the peak memory in MB.
pub fn each(peer: &str, parameters: &Parameters, run: impl Fn(&Differs) -> (Drained, f64)) {
    let defaults = ("(as they are)".to_owned(), Differs::default());
    let mut base = None;
    for (name, differs) in std::iter::once(&defaults).chain(&parameters.tries) {
        let rounds = || {
            (0..parameters.rounds)
                .map(|_| run(differs))
                .collect::<Vec<_>>()
        };
        // The panic was reported; continue with the others.
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
