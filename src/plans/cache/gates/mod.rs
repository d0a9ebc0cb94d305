//! Deterministic gates: what must be equal in two templates so that the plan of one may serve the other.
//!
//! Two goals that differ in one word may be close neighbours as vectors and yet mean opposite things ("enable" and "disable"). The
//! gates compare what vectors blur. A [`Profile`] is computed once for a template; [`check`] compares two. The gates never say that
//! two goals mean the same, only that they may.

mod lexicon;
mod meanings;
mod order;
mod phrases;
mod profile;
mod signs;
mod verbs;
mod words;

pub use self::profile::Profile;
use self::{lexicon::LEXICON, profile::PRONOUN, verbs::READ};

/// Whether both templates have the same phrases, in any order.
pub fn same_phrases(one: &Profile, other: &Profile) -> bool {
    phrases::same(&one.phrases, &other.phrases)
}

/// A gate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Gate {
    /// The kinds of slots and how many there are of each.
    Slots,
    /// Numbers that are no slots, and units.
    Numbers,
    /// What is to be done: classes of verbs.
    Verb,
    /// Opposites and words that exclude each other: paid and unpaid, invoice and receipt; minus and equals signs.
    Contrast,
    /// What is negated.
    Negation,
    /// From and to, before and after; what belongs together.
    Direction,
    /// All, every, only; once or again and again.
    Scope,
    /// A question about something that changes data, and a request to do it.
    Mood,
}

impl Gate {
    /// Its name in the stages of a look-up.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Slots => "slots",
            Self::Numbers => "numbers",
            Self::Verb => "verb",
            Self::Contrast => "contrast",
            Self::Negation => "negation",
            Self::Direction => "direction",
            Self::Scope => "scope",
            Self::Mood => "mood",
        }
    }

    /// Whether the two templates mean different things for certain.
    const fn is_reversal(self) -> bool {
        matches!(self, Self::Contrast | Self::Negation | Self::Direction)
    }
}

/// Every gate, in the order in which they are named as a reason.
const GATES: [Gate; 8] = [
    Gate::Slots,
    Gate::Numbers,
    Gate::Contrast,
    Gate::Negation,
    Gate::Direction,
    Gate::Verb,
    Gate::Scope,
    Gate::Mood,
];

/// Gates that one entry of a plan may open and another one for another gate: that goals of one plan differ in their verb shows that the
/// plan does not depend on it.
const LEARNABLE: [Gate; 4] = [Gate::Numbers, Gate::Verb, Gate::Scope, Gate::Mood];

/// The gates that are closed between two templates.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Closed(u8);

impl Closed {
    const fn bit(gate: Gate) -> u8 {
        1 << gate as u8
    }

    fn with(self, gate: Gate) -> Self {
        Self(self.0 | Self::bit(gate))
    }

    /// Whether this gate is closed.
    pub const fn has(self, gate: Gate) -> bool {
        self.0 & Self::bit(gate) != 0
    }

    /// Whether no gate is closed.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What is closed if entries of one plan are compared together: of [`LEARNABLE`] gates only those that are closed for all of them.
    #[must_use]
    pub fn together_with(self, others: impl Iterator<Item = Self>) -> Self {
        let learnable = LEARNABLE
            .iter()
            .fold(0, |bits, gate| bits | Self::bit(*gate));
        let always = others.fold(self.0, |bits, other| bits & other.0);
        Self(self.0 & (always | !learnable))
    }

    /// The gate that is named as the reason.
    pub fn first(self) -> Option<Gate> {
        GATES.into_iter().find(|gate| self.has(*gate))
    }

    /// Whether the two templates mean different things for certain: they are no competitors of each other.
    pub fn is_reversal(self) -> bool {
        !self.has(Gate::Slots)
            && !self.has(Gate::Numbers)
            && self.first().is_some_and(Gate::is_reversal)
    }
}

/// Compares two templates.
pub fn check(one: &Profile, other: &Profile) -> Closed {
    let is_open = |gate| match gate {
        Gate::Slots => one.slots == other.slots,
        Gate::Numbers => numbers(one, other),
        Gate::Contrast => {
            one.signs == other.signs
                && contrast(one, other)
                && same_case(one, other)
                && same_case(other, one)
        }
        Gate::Negation => one.negated == other.negated,
        Gate::Direction => direction(one, other) && !order::exchanged(&one.placed, &other.placed),
        Gate::Verb => verb(one, other),
        Gate::Scope => scope(one, other),
        Gate::Mood => mood(one, other),
    };
    let closed = GATES.into_iter().filter(|gate| !is_open(*gate));
    closed.fold(Closed::default(), Closed::with)
}

fn numbers(one: &Profile, other: &Profile) -> bool {
    one.numbers == other.numbers && one.units == other.units
}

/// Every verb that changes something has its like in the other text.
fn verb(one: &Profile, other: &Profile) -> bool {
    let found = |all: &Profile, of: &Profile| {
        let mut changing = all.actions.iter().filter(|classes| **classes & READ == 0);
        changing.all(|classes| of.actions.iter().any(|like| classes & like != 0))
    };
    found(one, other) && found(other, one)
}

/// Where both texts have words of a line of contrasts, they share one.
fn contrast(one: &Profile, other: &Profile) -> bool {
    let lines = |all: &'_ Profile| {
        all.contrasts
            .iter()
            .map(|(line, _)| *line)
            .collect::<Vec<_>>()
    };
    let mut both = lines(one);
    both.dedup();
    both.retain(|line| other.contrasts.iter().any(|(l, _)| l == line));
    both.iter().all(|line| {
        let mut columns = one.contrasts.iter().filter(|(l, _)| l == line);
        columns.any(|place| other.contrasts.contains(place))
    })
}

/// No word is written there only in another case that makes another word of it.
fn same_case(one: &Profile, other: &Profile) -> bool {
    one.cased.iter().all(|word| {
        let lower = word.to_lowercase();
        let mut there = other.cased.iter();
        other.cased.contains(word) || there.all(|other| other.to_lowercase() != lower)
    })
}

/// Slots of a kind that occurs more than once have the same roles and numbers in the same order; one alone has no opposite role; numbers
/// are bounds in both or in none; and no word stands under another preposition or has changed places with another.
fn direction(one: &Profile, other: &Profile) -> bool {
    let repeated = |kind: &str| one.roles.iter().filter(|(k, ..)| k == kind).count() > 1;
    let same = one.roles.iter().zip(&other.roles).all(|(one, other)| {
        let (kind, _, role) = one;
        let counts = matches!(kind.as_str(), "AMOUNT" | "NUMBER");
        let fits = fits(role, other.2) && !(counts && is_bound(role) != is_bound(other.2));
        one == other || (!repeated(kind) && kind != "PERSON" && fits)
    });
    same && !crossed(one, other) && !crossed(other, one)
}

/// Whether two roles of a slot may be the same: unless both are directions, and different ones.
fn fits(one: &str, other: &str) -> bool {
    one == other || !is_directed(one) || !is_directed(other)
}

/// Roles of which another excludes it.
fn is_directed(role: &str) -> bool {
    matches!(
        role,
        "from" | "to" | "before" | "after" | "than" | "over" | "under" | "against" | "instead"
    )
}

/// Roles of a number that is a limit: `over {AMOUNT}`.
fn is_bound(role: &str) -> bool {
    matches!(role, "over" | "under" | "than")
}

/// The most words under prepositions that are compared with each other; longer goals must have the same ones.
const DIRECTED_MAX: usize = 64;

fn crossed(one: &Profile, other: &Profile) -> bool {
    if one.directed.len().max(other.directed.len()) > DIRECTED_MAX {
        return one.directed != other.directed;
    }
    one.directed.iter().any(|(role, word)| {
        let mut elsewhere = other.directed.iter().filter(|(_, w)| w == word).peekable();
        if elsewhere.peek().is_some() {
            // Under an opposite preposition alone, or under that of a word which has its own.
            let swapped = |to: &'static str| {
                let mut there = one.directed.iter().filter(|(r, _)| *r == to);
                there.any(|(_, w)| w != word && other.directed.contains(&(*role, w.clone())))
            };
            return elsewhere.all(|(to, _)| !fits(role, to) || (to != role && swapped(to)));
        }
        // Without a role in the other text; there, a word has its role that has none here.
        let moved = |(r, w): &(&'static str, String)| {
            let known = w == PRONOUN || one.content.binary_search(w).is_ok();
            r == role && known && !one.directed.iter().any(|(_, x)| x == w)
        };
        other.content.binary_search(word).is_ok() && other.directed.iter().any(moved)
    })
}

/// `only` and repetition are equal; `all` may be left out only where nothing is changed.
fn scope(one: &Profile, other: &Profile) -> bool {
    let reads = one.reads() && other.reads();
    one.only == other.only && one.recurring == other.recurring && (one.all == other.all || reads)
}

fn mood(one: &Profile, other: &Profile) -> bool {
    let changes = one.changes() && other.changes();
    let asks = |of: &Profile| of.question || of.marked;
    // Without a known verb nothing says that it only reads.
    let unknown = |of: &Profile| of.actions.is_empty() && !of.question;
    let by_mark = one.marked != other.marked && unknown(one) && unknown(other);
    one.caused == other.caused
        && one.conditional == other.conditional
        && (asks(one) == asks(other) || !(changes || by_mark))
}

/// Words of `one` that neither occur in one of the others nor have a synonym there, fillers left out.
pub fn unexplained(one: &Profile, others: &[&Profile]) -> usize {
    let explains = |other: &Profile, word: &String| {
        other.content.binary_search(word).is_ok()
            || other.content.iter().any(|o| LEXICON.synonymous(word, o))
    };
    let explained = |word: &&String| others.iter().any(|other| explains(other, word));
    one.content.iter().filter(|word| !explained(word)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(one: &str, other: &str) -> Option<Gate> {
        let (one, other) = (Profile::new(one), Profile::new(other));
        let closed = check(&one, &other);
        assert_eq!(
            closed.is_empty(),
            check(&other, &one).is_empty(),
            "{one:?} {other:?}"
        );
        closed.first()
    }

    /// Pairs as the gates see them: templates.
    #[test]
    fn each_gate_closes_for_its_differences() {
        for (expected, one, other) in [
            (
                Gate::Slots,
                "Book flight to {LOCATION}",
                "Book flight to {LOCATION} {DATE}",
            ),
            (Gate::Slots, "Mail {EMAIL}", "Mail {PERSON}"),
            (
                Gate::Slots,
                "Compare {DATE_1} and {DATE_2}",
                "Compare {DATE}",
            ),
            (
                Gate::Slots,
                "Ship {NUMBER:kg} of rice",
                "Ship {NUMBER:lb} of rice",
            ),
            (
                Gate::Direction,
                "Remind {PERSON_1} about {PERSON_2}",
                "About {PERSON_1}, remind {PERSON_2}",
            ),
            (
                Gate::Numbers,
                "Keep logs for {NUMBER} days",
                "Keep logs for {NUMBER} months",
            ),
            (Gate::Numbers, "Send the q3 report", "Send the q4 report"),
            (
                Gate::Numbers,
                "Book a table for two",
                "Book a table for six",
            ),
            (
                Gate::Numbers,
                "Give {PERSON} a {NUMBER}% discount",
                "Give {PERSON} a {NUMBER} euro discount",
            ),
            (Gate::Verb, "Approve expense {ID}", "Submit expense {ID}"),
            (Gate::Verb, "Cancel order {ID}", "Refund order {ID}"),
            (Gate::Verb, "Delete order {ID}", "Show order {ID}"),
            (
                Gate::Verb,
                "Give {PERSON} the discount",
                "Show {PERSON} the discount",
            ),
            (Gate::Verb, "Draft the notice", "Post the notice"),
            (Gate::Verb, "Draft the notice", "Send the notice"),
            (Gate::Verb, "Clear invoice {ID}", "Delete invoice {ID}"),
            (Gate::Verb, "Clear the cache", "Settle the cache"),
            (
                Gate::Verb,
                "Clear the invoice drafts",
                "Pay the invoice drafts",
            ),
            (
                Gate::Verb,
                "Turn on two-factor for {EMAIL}",
                "Turn two-factor off for {EMAIL}",
            ),
            (
                Gate::Verb,
                "Archive project {ID}",
                "Archive project {ID} and notify the owner",
            ),
            (Gate::Contrast, "List unpaid invoices", "List paid invoices"),
            (
                Gate::Contrast,
                "Send the weekly report",
                "Send the monthly report",
            ),
            (
                Gate::Contrast,
                "Who is the supplier?",
                "Who is the customer?",
            ),
            (
                Gate::Contrast,
                "Export orders as pdf",
                "Export orders as csv",
            ),
            (
                Gate::Negation,
                "Ship orders with gift wrap",
                "Ship orders without gift wrap",
            ),
            (Gate::Negation, "Notify the team", "Do not notify the team"),
            (
                Gate::Negation,
                "List orders except returns",
                "List orders except samples",
            ),
            (
                Gate::Negation,
                "Schicke {PERSON} die Rechnung",
                "Schicke {PERSON} keine Rechnung",
            ),
            (
                Gate::Negation,
                "Supprimez les dossiers de {PERSON}",
                "Ne supprimez pas les dossiers de {PERSON}",
            ),
            (Gate::Negation, "J'envoie le devis", "Je n'envoie le devis"),
            (
                Gate::Negation,
                "Reserva el hotel con desayuno",
                "Reserva el hotel sin desayuno",
            ),
            (
                Gate::Negation,
                "Inviare il contratto a {PERSON}",
                "Non inviare il contratto a {PERSON}",
            ),
            (
                Gate::Negation,
                "Verwijder de dossiers van {PERSON}",
                "Verwijder de dossiers van {PERSON} niet",
            ),
            (
                Gate::Negation,
                "Apague os arquivos",
                "Não apague os arquivos",
            ),
            (
                Gate::Direction,
                "Transfer {AMOUNT} from {LOCATION_1} to {LOCATION_2}",
                "Transfer {AMOUNT} to {LOCATION_1} from {LOCATION_2}",
            ),
            (
                Gate::Direction,
                "Show mails from {PERSON}",
                "Show mails to {PERSON}",
            ),
            (
                Gate::Direction,
                "Move the files from archive to backup",
                "Move the files from backup to archive",
            ),
            (
                Gate::Direction,
                "Merge dev into main",
                "Merge main into dev",
            ),
            (
                Gate::Direction,
                "Replace oil with butter",
                "Replace butter with oil",
            ),
            (
                Gate::Contrast,
                "Refund the order of {PERSON}",
                "Refund the invoice of {PERSON}",
            ),
            (
                Gate::Scope,
                "Delete invoices of {PERSON}",
                "Delete all invoices of {PERSON}",
            ),
            (Gate::Scope, "Mail the managers", "Mail only the managers"),
            (
                Gate::Scope,
                "Back up the database on {DATE}",
                "Back up the database every {DATE}",
            ),
            (
                Gate::Mood,
                "How do I cancel my subscription?",
                "Cancel my subscription",
            ),
        ] {
            assert_eq!(gate(one, other), Some(expected), "{one} / {other}");
        }
    }

    #[test]
    fn swapped_phrases_conditions_and_scope_are_told_apart() {
        for (expected, one, other) in [
            (
                Gate::Direction,
                "Copy the notes of the back room to the front room",
                "Copy the notes of the front room to the back room",
            ),
            (
                Gate::Direction,
                "Mail the offer of {PERSON}",
                "Mail {PERSON} the offer",
            ),
            (
                Gate::Mood,
                "Tell me that the gate is open",
                "Tell me if the gate is open",
            ),
            (
                Gate::Mood,
                "Delete the old backups?",
                "Delete the old backups",
            ),
            (Gate::Mood, "Backups vernichten?", "Backups vernichten"),
            (Gate::Contrast, "Send IT the list", "Send it the list"),
            (
                Gate::Contrast,
                "Archive Report.pdf",
                "Archive report.pdf, please",
            ),
            (Gate::Scope, "Paint the doors", "Paint all doors"),
            (Gate::Numbers, "Water the plants", "Water one plant"),
        ] {
            assert_eq!(gate(one, other), Some(expected), "{one} / {other}");
        }
    }

    #[test]
    fn other_words_for_the_same_pass() {
        for (one, other) in [
            (
                "Book flight to {LOCATION} {DATE}",
                "Please book me a flight to {LOCATION} for {DATE}",
            ),
            ("Cancel order {ID}", "I want to cancel the order {ID}"),
            ("Cancel order {ID}", "Cancellation of order {ID}, please"),
            ("Turn off the alarm", "Switch the alarm off"),
            ("Show my invoices", "List all my invoices"),
            ("Delete the draft", "Remove the draft"),
            ("Draft the notice", "Write the notice"),
            (
                "Could you delete the old backups?",
                "Delete the old backups",
            ),
            ("Delete the old backups, please?", "Delete the old backups"),
            ("My orders?", "What are my orders?"),
            ("SEND IT THE LIST", "Send it the list"),
            (
                "It is late, send it the list",
                "it is late, send it the list.",
            ),
            ("Archive Report.pdf", "Please archive Report.pdf."),
            ("Give me my invoices", "Show my invoices"),
            ("Give {PERSON} the discount", "Grant {PERSON} the discount"),
            ("Clear invoice {ID}", "Pay invoice {ID}"),
            ("Please clear the cache", "Wipe the cache"),
            (
                "Transfer {AMOUNT} from checking to savings",
                "Move {AMOUNT} out of checking to savings",
            ),
            ("What's my balance?", "Tell me my balance"),
            (
                "Send {EMAIL} the contract",
                "E-mail the contract to {EMAIL}",
            ),
            ("Don't renew my plan", "Please do not renew my plan"),
            (
                "Merge dev into main",
                "Please merge the dev branch into main",
            ),
        ] {
            assert_eq!(gate(one, other), None, "{one} / {other}");
        }
    }

    #[test]
    fn what_is_not_explained_is_counted() {
        let count =
            |one: &str, other: &str| unexplained(&Profile::new(one), &[&Profile::new(other)]);
        assert_eq!(
            count("Show open orders", "Please show me the open orders"),
            0
        );
        assert_eq!(count("Show client {PERSON}", "Show customer {PERSON}"), 0);
        assert_eq!(count("Ship to the warehouse", "Ship to the shop"), 1);
        assert_eq!(count("Show orders", "Show blocked orders"), 0);
        assert_eq!(count("Show blocked orders", "Show orders"), 1);
    }
}
