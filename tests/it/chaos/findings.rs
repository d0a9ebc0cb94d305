//! What a check found wrong.

use std::{collections::BTreeMap, fmt};

/// A promise that did not hold.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Flaw {
    /// Accepted, and not in `events`.
    LostEvent,
    /// In `events` more than once.
    TwiceEvent,
    /// In `events`, and never sent so.
    StrangeEvent,
    /// An entity's events are not in the order of sending, or not in one partition.
    Disorder,
    /// Accepted, and not in Postgres.
    LostRow,
    /// In Postgres more than once.
    TwiceRow,
    /// In Postgres, and not so in the log.
    StrangeRow,
    /// An entity's version is not the number of its events.
    WrongVersion,
    /// A bad record is not among the dead letters.
    LostPoison,
    /// It is, but not byte for byte.
    AlteredPoison,
    /// A dead letter that was no bad record.
    StrangeDeadLetter,
    /// A node, a client or the run itself met what it should not.
    Trouble,
}

/// All that was found.
#[derive(Default)]
pub struct Findings(BTreeMap<Flaw, Vec<String>>);

impl Findings {
    pub fn add(&mut self, flaw: Flaw, what: impl Into<String>) {
        self.0.entry(flaw).or_default().push(what.into());
    }

    /// Whether it is what was to be found: any of these, or nothing at all.
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

/// How many of a kind are written out.
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
