//! The findings of a check.

use std::{collections::BTreeMap, fmt};

/// A violated guarantee.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Flaw {
    /// An accepted event is missing in `events`.
    LostEvent,
    /// An event is in `events` more than once.
    TwiceEvent,
    /// `events` has an event that was not sent.
    StrangeEvent,
    /// An entity's events are not in the order of sending, or not in one partition.
    Disorder,
    /// An accepted event is missing in Postgres.
    LostRow,
    /// An event is in Postgres more than once.
    TwiceRow,
    /// A row differs from the log.
    StrangeRow,
    /// An entity's version is not the number of its events.
    WrongVersion,
    /// A bad record is missing in the dead letters.
    LostPoison,
    /// A dead letter differs from its bad record.
    AlteredPoison,
    /// A dead letter is not a bad record.
    StrangeDeadLetter,
    /// A node, a client or the run itself failed.
    Trouble,
}

/// All findings of a run.
#[derive(Default)]
pub struct Findings(BTreeMap<Flaw, Vec<String>>);

impl Findings {
    pub fn add(&mut self, flaw: Flaw, what: impl Into<String>) {
        self.0.entry(flaw).or_default().push(what.into());
    }

    /// Whether any of the wanted flaws was found, or nothing if none is wanted.
    pub fn are(&self, wanted: &[Flaw]) -> bool {
        if wanted.is_empty() {
            return self.0.is_empty();
        }
        wanted.iter().any(|flaw| self.0.contains_key(flaw))
    }

    /// Such as `LostEvent 12, Trouble 1`.
    pub fn summary(&self) -> String {
        if self.0.is_empty() {
            return "nothing".into();
        }
        let counts = self
            .0
            .iter()
            .map(|(flaw, all)| format!("{flaw:?} {}", all.len()));
        counts.collect::<Vec<_>>().join(", ")
    }
}

/// How many findings of a kind are printed.
const SHOWN: usize = 5;

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (flaw, all) in &self.0 {
            writeln!(f, "  {flaw:?}: {}", all.len())?;
            for what in all.iter().take(SHOWN) {
                writeln!(f, "    {}", what.replace('\n', "\n      "))?;
            }
        }
        Ok(())
    }
}
