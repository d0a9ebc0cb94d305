//! Where personal data are in a text. Each kind has a file, which says where a match that begins at a place ends.

mod card;
mod email;
mod iban;
mod ip;
mod phone;

/// A kind of personal data.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// A mail address.
    Email,
    /// A phone number.
    Phone,
    /// The number of a payment card, with its check digit.
    Card,
    /// An IBAN, with its check digits.
    Iban,
    /// An IP address.
    Ip,
    /// A social security number; known by the name of its member alone.
    Ssn,
    /// A postal address; known by the name of its member alone.
    Address,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 7] = [
        Self::Email,
        Self::Phone,
        Self::Card,
        Self::Iban,
        Self::Ip,
        Self::Ssn,
        Self::Address,
    ];

    /// Its name in placeholders.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Email => "EMAIL",
            Self::Phone => "PHONE",
            Self::Card => "CARD",
            Self::Iban => "IBAN",
            Self::Ip => "IP",
            Self::Ssn => "SSN",
            Self::Address => "ADDRESS",
        }
    }

    /// The kind of a placeholder's name, such as `EMAIL_1`.
    pub fn of_slot(name: &str) -> Option<Self> {
        let (kind, _) = name.rsplit_once('_')?;
        Self::ALL.into_iter().find(|known| known.name() == kind)
    }

    /// The kind of the values of members of this name.
    pub fn of_member(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        match &*name {
            "email" | "emails" => Some(Self::Email),
            "phone" | "phones" => Some(Self::Phone),
            "ssn" | "ssns" => Some(Self::Ssn),
            "address" | "addresses" => Some(Self::Address),
            _ => None,
        }
    }
}

/// A stretch of a text; nothing outside of it is looked at.
#[derive(Clone, Copy)]
pub(super) struct Stretch<'t> {
    pub(super) text: &'t [char],
    pub(super) from: usize,
    pub(super) to: usize,
}

impl Stretch<'_> {
    fn get(&self, at: usize) -> Option<char> {
        (self.from..self.to).contains(&at).then(|| self.text[at])
    }

    fn before(&self, at: usize) -> Option<char> {
        self.get(at.checked_sub(1)?)
    }

    /// Whether a word begins here.
    fn begins_word(&self, at: usize) -> bool {
        self.before(at).is_none_or(|c| !c.is_alphanumeric())
    }

    /// Whether a word that reaches to here ends.
    fn ends_word(&self, at: usize) -> bool {
        self.get(at).is_none_or(|c| !c.is_alphanumeric())
    }
}

/// The personal data that begin at a place, and where they end. Takes bounded time.
pub(super) fn at(stretch: Stretch<'_>, at: usize) -> Option<(Kind, usize)> {
    let first = stretch.get(at)?;
    let found = |kind, end: Option<usize>| end.map(|end| (kind, end));
    if first.is_alphanumeric() || first == '_' {
        let email = found(Kind::Email, email::end(stretch, at));
        if email.is_some() {
            return email;
        }
    }
    if first.is_ascii_alphanumeric() && stretch.begins_word(at) {
        let found = found(Kind::Iban, iban::end(stretch, at))
            .or_else(|| found(Kind::Card, card::end(stretch, at)))
            .or_else(|| found(Kind::Ip, ip::end(stretch, at)));
        if found.is_some() {
            return found;
        }
    }
    match first {
        ':' => found(Kind::Ip, ip::end(stretch, at)),
        '+' | '(' | '0'..='9' => found(Kind::Phone, phone::end(stretch, at)),
        _ => None,
    }
}
