//! The words that the gates know: verbs of business by what they do, opposites, scope, negation, fillers and synonyms.
//!
//! Written from general knowledge of business language, not from a test set. A word that is missing here makes a gate less sure,
//! never a hit more likely: what the gates do not explain lowers the evidence.

use std::{collections::HashMap, sync::LazyLock};

use super::words::stem;

/// Classes of a verb, a bit each: a verb may belong to several.
pub(super) type Classes = u128;

/// The class of verbs that only read. Every other class changes something.
pub(super) const READ: Classes = 1;

/// A class: its verbs, its verbs that are more often nouns, which count only where a verb is expected, and its nouns.
struct Class {
    verbs: &'static str,
    nouns_too: &'static str,
    nouns: &'static str,
}

const fn class(verbs: &'static str, nouns_too: &'static str, nouns: &'static str) -> Class {
    Class {
        verbs,
        nouns_too,
        nouns,
    }
}

/// The first is [`READ`].
const CLASSES: &[Class] = &[
    class(
        "show list get find display fetch retrieve lookup tell see give read look know query what which who when where whose",
        "view check search browse",
        "",
    ),
    class(
        "create add make generate compose insert build establish setup produce prepare draft",
        "open set start new file log write post",
        "creation",
    ),
    class(
        "update modify edit adjust alter amend correct revise fix",
        "change set",
        "modification adjustment amendment correction",
    ),
    class(
        "delete remove erase discard destroy wipe purge eliminate",
        "drop clear trash",
        "deletion removal",
    ),
    class(
        "send forward dispatch submit deliver transmit",
        "mail email message text post",
        "transmission",
    ),
    class(
        "notify inform warn tell",
        "alert message text ping",
        "notification",
    ),
    class("pay settle remit", "clear", ""),
    class(
        "reimburse repay",
        "return credit refund",
        "reimbursement refund",
    ),
    class(
        "cancel abort revoke annul rescind calloff",
        "void drop",
        "cancellation",
    ),
    class(
        "reserve arrange",
        "book schedule order plan",
        "reservation booking",
    ),
    class(
        "approve accept authorize authorise confirm",
        "ok okay",
        "approval authorization authorisation",
    ),
    class("reject deny decline refuse", "", "rejection refusal"),
    class("enable activate switchon reactivate", "", "activation"),
    class("disable deactivate switchoff", "", "deactivation"),
    class(
        "begin launch initiate trigger kickoff execute",
        "start run",
        "",
    ),
    class("terminate stop quit", "end halt finish", "termination"),
    class("pause suspend freeze", "hold", "suspension"),
    class("resume unpause unfreeze continue", "", "resumption"),
    class("lock ban blacklist freeze block", "", ""),
    class("unlock unblock unban unfreeze", "", ""),
    class(
        "subscribe enroll enrol join signup register",
        "",
        "registration enrollment enrolment",
    ),
    class("unsubscribe unenroll optout", "leave", ""),
    class("increase grow upgrade boost", "top raise lift", ""),
    class("decrease reduce shrink downgrade", "lower cut", "reduction"),
    class("import ingest upload", "load", ""),
    class("export download extract", "dump", ""),
    class("", "deposit", ""),
    class("withdraw", "", "withdrawal"),
    class("buy procure acquire", "order purchase", ""),
    class("sell", "", ""),
    class("assign allocate delegate", "", "allocation delegation"),
    class("unassign deallocate", "", ""),
    class("grant give allow permit", "", ""),
    class("revoke disallow forbid", "", "revocation"),
    class("archive", "", ""),
    class(
        "restore recover unarchive undelete reinstate",
        "",
        "restoration recovery",
    ),
    class("publish unveil", "post release", "publication"),
    class("unpublish takedown retract", "", ""),
    class("reopen", "open", ""),
    class("shut", "close", "closure"),
    class("merge combine join consolidate", "", ""),
    class("separate divide", "split", ""),
    class("encrypt", "", ""),
    class("decrypt", "", ""),
    class("install deploy", "", "installation deployment"),
    class("uninstall", "", ""),
    class("connect attach", "link pair", ""),
    class("disconnect detach unlink unpair", "", ""),
    class("move", "transfer wire", ""),
    class("duplicate clone replicate", "copy", ""),
    class("convert translate", "", "conversion translation"),
    class("summarize summarise", "", "summary"),
    class("calculate compute", "total sum", "calculation"),
    class("remind", "", ""),
    class("invite", "", "invitation"),
    class("uninvite", "", ""),
    class("hire recruit onboard", "", ""),
    class("dismiss offboard", "fire", "dismissal"),
    class("promote", "", "promotion"),
    class("demote", "", "demotion"),
    class("checkin", "", ""),
    class("checkout", "", ""),
    class("lend", "loan", ""),
    class("borrow", "", ""),
    class("login signin", "", ""),
    class("logout signoff signout", "", ""),
    class("renew extend prolong", "", "renewal extension"),
    class("shorten", "", ""),
    class(
        "replace swap",
        "substitute exchange",
        "replacement substitution",
    ),
    class("", "ship", ""),
    class("receive", "", ""),
    class("", "return", ""),
    class("", "charge bill invoice debit", ""),
    class("", "issue", "issuance"),
    class("", "report flag", ""),
    class(
        "verify validate audit inspect",
        "test",
        "verification validation",
    ),
    class("rename relabel", "name", ""),
    class("reschedule postpone rebook defer delay", "move", ""),
    class(
        "sync synchronize synchronise reconcile",
        "match",
        "reconciliation",
    ),
    class("escalate", "", "escalation"),
    class("deescalate", "", ""),
    class("", "share", ""),
    class("unshare", "", ""),
    class("", "print", ""),
    class("dial", "call phone ring", ""),
    class("reset", "", ""),
    class("revert undo rollback reverse", "", "reversal rollback"),
    class("redo repeat retry rerun", "", ""),
    class("hide", "", ""),
    class("unhide reveal", "", ""),
    class("follow", "", ""),
    class("unfollow", "", ""),
    class("mute silence", "", ""),
    class("unmute", "", ""),
    class("play", "", ""),
    class("skip", "", ""),
    class("respond", "answer reply", ""),
    class("compare", "", "comparison"),
    class("", "sign", "signature"),
    class("", "rate", ""),
    class("", "track monitor watch", ""),
    class("ignore", "", ""),
    class("apply", "", "application"),
    class("redeem", "", "redemption"),
    class("dispute contest", "", ""),
    class("donate", "", "donation"),
    class("resolve solve", "", "resolution"),
    class("categorize categorise classify", "tag label", ""),
    class("untag", "", ""),
];

/// Two words that are one verb: a verb and, at most three words later, its particle.
pub(super) const PHRASES: &[(&str, &str, &str)] = &[
    ("turn", "on", "switchon"),
    ("switch", "on", "switchon"),
    ("turn", "off", "switchoff"),
    ("switch", "off", "switchoff"),
    ("shut", "off", "switchoff"),
    ("shut", "down", "switchoff"),
    ("call", "off", "calloff"),
    ("set", "up", "setup"),
    ("sign", "up", "signup"),
    ("sign", "in", "signin"),
    ("sign", "out", "signout"),
    ("sign", "off", "approve"),
    ("log", "in", "login"),
    ("log", "out", "logout"),
    ("log", "off", "logout"),
    ("check", "in", "checkin"),
    ("check", "out", "checkout"),
    ("opt", "out", "optout"),
    ("opt", "in", "signup"),
    ("kick", "off", "kickoff"),
    ("roll", "back", "rollback"),
    ("take", "down", "takedown"),
    ("pay", "back", "repay"),
    ("look", "up", "lookup"),
    ("rid", "of", "delete"),
    ("put", "hold", "suspend"),
    ("push", "back", "postpone"),
    ("scale", "up", "increase"),
    ("scale", "down", "decrease"),
    ("write", "off", "writeoff"),
];

/// Words after which a verb is expected.
const BEFORE_VERBS: &str = "to please and then can could would will must should shall i we you let lets not just also or kindly now help \
    me first next";

/// Words of which at most one meaning can be meant: words in one column of `|` mean about the same, those of different columns of a
/// line exclude each other.
const CONTRASTS: &[&str] = &[
    "enabled active activated | disabled inactive deactivated off",
    "paid settled | unpaid outstanding unsettled owed",
    "open opened pending unresolved | closed resolved solved completed finished done",
    "approved accepted | rejected denied declined refused",
    "overdue late | upcoming",
    "daily | weekly | biweekly fortnightly | monthly | quarterly | yearly annual annually | hourly | nightly",
    "morning | afternoon | evening | night",
    "second | minute | hour | day | week | month | quarter | year",
    "km kilometer kilometre | mile | meter metre m | foot feet | inch | cm centimeter centimetre",
    "kg kilogram kilo | pound lb | gram g | ounce oz | ton tonne",
    "celsius | fahrenheit | kelvin",
    "liter litre | gallon | pint | ml milliliter | cup | tablespoon | teaspoon",
    "euro eur | dollar usd | yen jpy | franc chf | gbp sterling | rupee inr | peso | yuan cny",
    "kb | mb | gb | tb",
    "new newest latest recent last | old oldest earliest first previous",
    "next | previous last",
    "maximum max most highest largest biggest longest top best | minimum min least lowest smallest shortest bottom worst",
    "high higher | low lower | medium",
    "more over above exceeding greater larger bigger | less under below fewer smaller",
    "before until prior | after since following",
    "increase rise gain | decrease fall drop loss",
    "income revenue earning inflow | expense spending cost outflow expenditure",
    "debit | credit",
    "checking current | savings saving",
    "incoming inbound received | outgoing outbound sent",
    "internal | external",
    "public | private",
    "gross | net",
    "draft | final",
    "customer client buyer | supplier vendor seller | employee staff worker | partner | contractor | lead prospect | investor",
    "manager boss supervisor | subordinate assistant",
    "tenant renter | landlord owner",
    "sender | recipient receiver",
    "sales | marketing | finance accounting | hr | legal | engineering development | support | procurement purchasing | operations",
    "production prod live | staging | test testing sandbox | dev",
    "email mail | sms text | phone call | slack | letter | fax | whatsapp | teams",
    "pdf | csv | excel xlsx spreadsheet | json | xml | word docx",
    "invoice bill | quote quotation | receipt | contract agreement | ticket case issue | expense | order | payment | payslip \
     | reminder | statement",
    "billing | shipping delivery",
    "left | right",
    "inside | outside",
    "upward | downward",
    "north northern | south southern | east eastern | west western",
    "inclusive including included | exclusive excluding without excluded except",
    "full complete whole | partial part half",
    "permanent permanently | temporary temporarily",
    "manual manually | automatic automatically",
    "urgent immediately now asap | later",
    "departure departing depart outbound | arrival arriving arrive",
    "oneway | roundtrip return",
    "domestic | international",
    "read | write | execute",
    "admin administrator | member | guest | viewer | editor",
    "business | economy | personal private",
    "hot warm | cold cool",
    "red | green | blue | yellow | black | white | orange | purple",
    "small | medium | large",
    "breakfast | lunch | dinner supper",
    "hotel | flight | train | car | bus | taxi cab",
    "today | tomorrow | yesterday",
    "visible shown | hidden",
    "valid | invalid expired",
    "success successful succeeded | failure failed",
    "start starting begin beginning | end ending finish",
    "original | copy",
    "single once | recurring repeated",
    "buy purchase | sell sale",
    "lock locked | unlock unlocked",
    "subscribed | unsubscribed",
    "verified | unverified",
    "read | unread",
    "assigned | unassigned",
    "published | unpublished",
    "archived | restored",
    "taxable | exempt",
    "password | username | pin",
    "address | phone | name",
];

/// Words that mean the same; none of them is in [`CONTRASTS`] with another meaning.
const SYNONYMS: &[&str] = &[
    "customer client",
    "supplier vendor",
    "employee staff worker",
    "invoice bill",
    "document file paper",
    "meeting appointment call",
    "outstanding unpaid owed",
    "report summary overview",
    "trip journey travel",
    "flight fly plane",
    "money cash fund",
    "user account login",
    "company firm organization organisation business",
    "project job",
    "item article product",
    "amount sum total",
    "team group crew",
    "error bug fault failure",
    "salary pay wage paycheck",
    "vacation holiday leave pto",
    "number count quantity many",
    "price cost rate",
    "contact person",
    "purchase order buy",
    "picture photo image",
    "repair fix",
    "quick fast",
    "urgent asap immediate",
    "status state progress",
    "info information detail",
    "due owed owe",
    "ticket case issue",
    "reminder alert",
    "delivery shipment shipping",
    "quote quotation offer",
    "agreement contract",
    "car vehicle auto",
    "doctor physician",
    "movie film",
    "song track music",
    "balance money",
];

/// Words that say nothing about what is to be done.
const FILLERS: &str = "a an the this that these those my our your their his her its me us i we you he she it they them myself \
    please kindly hey hi hello ok okay thanks thank just really actually simply quickly asap now right so well also too \
    can could would will shall should may might must let lets want wanna wish need like love going gonna go able possible \
    do does did done is are was were be been being am have has had having get got \
    to of for at in on by as with about from into onto and or then there here if \
    help try trying some any something thing one us what which who whose how when where why tell show give know see \
    make sure using use via per each new up out \
    question wondering wonder curious figure say said look looking";

const NEGATIONS: &str =
    "not no never without except excluding none neither nor unless exclude cannot nothing";
const ALL: &str = "all every each entire whole everything everyone both";
const ONLY: &str = "only solely exclusively";
const NUMBER_WORDS: &str = "two three four five six seven eight nine ten eleven twelve fifteen twenty thirty forty fifty sixty seventy \
    eighty ninety hundred thousand million dozen double twice triple half quarter couple third";
const UNITS: &str = "second minute hour day week month year quarter percent euro eur dollar usd pound lb yen kg kilo kilogram gram \
    ounce ton km kilometer kilometre mile meter metre foot inch liter litre gallon pint cup tablespoon teaspoon piece unit box pallet \
    person people guest seat night copy page kb mb gb tb degree celsius fahrenheit share point step item row time";
/// Prepositions that give what follows them a direction, and what they are written as.
const DIRECTIONS: &[(&str, &str)] = &[
    ("from", "from"),
    ("to", "to"),
    ("into", "to"),
    ("onto", "to"),
    ("toward", "to"),
    ("before", "before"),
    ("until", "before"),
    ("till", "before"),
    ("after", "after"),
    ("since", "after"),
    ("with", "with"),
    ("by", "by"),
    ("than", "than"),
    ("over", "over"),
    ("above", "over"),
    ("under", "under"),
    ("below", "under"),
    ("instead", "instead"),
    ("between", "between"),
    ("against", "against"),
    ("for", "for"),
    ("via", "via"),
    ("through", "via"),
];

/// Other words before a slot that give it a role.
const ROLES: &[&str] = &[
    "about", "of", "on", "in", "at", "as", "and", "or", "like", "per",
];

/// Everything about words that is looked up by stem.
pub(super) struct Lexicon {
    verbs: HashMap<String, Classes>,
    nouns_too: HashMap<String, Classes>,
    nouns: HashMap<String, Classes>,
    before_verbs: Vec<&'static str>,
    /// Line and column of [`CONTRASTS`].
    contrasts: HashMap<String, Vec<(u16, u16)>>,
    synonyms: HashMap<String, Vec<u16>>,
    fillers: Vec<String>,
    units: Vec<String>,
}

fn split(words: &'static str) -> impl Iterator<Item = &'static str> {
    words.split_whitespace()
}

/// The words of the lexicon.
pub(super) static LEXICON: LazyLock<Lexicon> = LazyLock::new(|| {
    let mut lexicon = Lexicon {
        verbs: HashMap::new(),
        nouns_too: HashMap::new(),
        nouns: HashMap::new(),
        before_verbs: split(BEFORE_VERBS).collect(),
        contrasts: HashMap::new(),
        synonyms: HashMap::new(),
        fillers: split(FILLERS).map(stem).collect(),
        units: split(UNITS).map(stem).collect(),
    };
    for (n, class) in CLASSES.iter().enumerate() {
        for (words, map) in [
            (class.verbs, &mut lexicon.verbs),
            (class.nouns_too, &mut lexicon.nouns_too),
            (class.nouns, &mut lexicon.nouns),
        ] {
            for word in split(words) {
                *map.entry(stem(word)).or_default() |= 1 << n;
            }
        }
    }
    for (line, columns) in CONTRASTS.iter().enumerate() {
        for (column, words) in columns.split('|').enumerate() {
            for word in words.split_whitespace() {
                // Participles say more than their stem: `paid` is not `pay`.
                let places = lexicon.contrasts.entry(word.to_owned()).or_default();
                places.push((line as u16, column as u16));
            }
        }
    }
    for (n, words) in SYNONYMS.iter().enumerate() {
        for word in words.split_whitespace() {
            let groups = lexicon.synonyms.entry(stem(word)).or_default();
            groups.push(n as u16);
        }
    }
    lexicon.fillers.sort_unstable();
    lexicon.units.sort_unstable();
    lexicon
});

impl Lexicon {
    /// The classes of a verb that is nothing else.
    pub(super) fn verb(&self, stem: &str) -> Option<Classes> {
        self.verbs.get(stem).copied()
    }

    /// The classes of a word where a verb is expected.
    pub(super) fn verb_in_place(&self, stem: &str) -> Option<Classes> {
        let both = |map: &HashMap<String, Classes>| map.get(stem).copied().unwrap_or_default();
        let classes = both(&self.verbs) | both(&self.nouns_too);
        (classes != 0).then_some(classes)
    }

    /// The classes of the noun of a verb (`cancellation`).
    pub(super) fn noun(&self, stem: &str) -> Option<Classes> {
        self.nouns.get(stem).copied()
    }

    pub(super) fn expects_verb(&self, word: &str) -> bool {
        self.before_verbs.contains(&word)
    }

    /// Which meanings a word has, as line and column of the table of contrasts. Found as written, without its plural, or by stem.
    pub(super) fn contrasts(&self, word: &str) -> &[(u16, u16)] {
        let singular = word.strip_suffix('s').unwrap_or(word);
        let found = self.contrasts.get(word);
        found
            .or_else(|| self.contrasts.get(singular))
            .map_or(&[], Vec::as_slice)
    }

    pub(super) fn synonymous(&self, one: &str, other: &str) -> bool {
        let groups = |stem: &str| self.synonyms.get(stem).map_or(&[][..], Vec::as_slice);
        one == other
            || groups(one)
                .iter()
                .any(|group| groups(other).contains(group))
    }

    pub(super) fn is_filler(&self, stem: &str) -> bool {
        self.fillers
            .binary_search_by(|f| f.as_str().cmp(stem))
            .is_ok()
    }

    pub(super) fn is_unit(&self, stem: &str) -> bool {
        self.units
            .binary_search_by(|u| u.as_str().cmp(stem))
            .is_ok()
    }
}

/// Whether a word is one of a list.
fn is_in(word: &str, words: &'static str) -> bool {
    split(words).any(|other| other == word)
}

pub(super) fn is_negation(word: &str) -> bool {
    is_in(word, NEGATIONS)
}

pub(super) fn is_all(word: &str) -> bool {
    is_in(word, ALL)
}

pub(super) fn is_only(word: &str) -> bool {
    is_in(word, ONLY)
}

pub(super) fn is_number(word: &str) -> bool {
    is_in(word, NUMBER_WORDS)
}

/// The direction that a preposition gives.
pub(super) fn direction(word: &str) -> Option<&'static str> {
    let found = DIRECTIONS.iter().find(|(from, _)| *from == word);
    found.map(|(_, direction)| *direction)
}

/// The role that a preposition gives to the slot behind it.
pub(super) fn role(word: &str) -> Option<&'static str> {
    let other = || ROLES.iter().find(|role| **role == word).copied();
    direction(word).or_else(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_no_more_classes_than_bits_and_no_contrast_within_a_column() {
        assert!(CLASSES.len() <= Classes::BITS as usize, "{}", CLASSES.len());
        for words in SYNONYMS {
            let words: Vec<_> = words.split(' ').collect();
            for one in &words {
                for other in &words {
                    let (one, other) = (LEXICON.contrasts(one), LEXICON.contrasts(other));
                    let line = one
                        .iter()
                        .find(|(line, _)| other.iter().any(|(l, _)| l == line));
                    if let Some((line, _)) = line {
                        let column = |all: &[(u16, u16)]| {
                            all.iter().find(|(l, _)| l == line).map(|(_, c)| *c)
                        };
                        assert_eq!(column(one), column(other), "{words:?}");
                    }
                }
            }
        }
    }
}
