//! The kinds of slots.

/// The kind of a slot. The order decides between matches of the same length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum SlotKind {
    /// A day, a range of days, a moment, or a time of day.
    Date,
    /// A city, a country, an airport, or a region.
    Location,
    /// A person's name.
    Person,
    /// An amount of money.
    Amount,
    /// A mail address (a placeholder of the guardian).
    Email,
    /// A phone number (a placeholder of the guardian).
    Phone,
    /// The number of a payment card (a placeholder of the guardian).
    Card,
    /// An IBAN (a placeholder of the guardian).
    Iban,
    /// An IP address (a placeholder of the guardian).
    Ip,
    /// A social security number (a placeholder of the guardian).
    Ssn,
    /// A postal address (a placeholder of the guardian).
    Address,
    /// A number, with its unit.
    Number,
    /// The identifier of a document, an order, a ticket.
    Id,
    /// A web address.
    Url,
    /// A text in quotes.
    Quoted,
}

impl SlotKind {
    /// All kinds, in their order.
    pub const ALL: [Self; 15] = [
        Self::Date,
        Self::Location,
        Self::Person,
        Self::Amount,
        Self::Email,
        Self::Phone,
        Self::Card,
        Self::Iban,
        Self::Ip,
        Self::Ssn,
        Self::Address,
        Self::Number,
        Self::Id,
        Self::Url,
        Self::Quoted,
    ];

    /// Its name in templates: `DATE`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Date => "DATE",
            Self::Location => "LOCATION",
            Self::Person => "PERSON",
            Self::Amount => "AMOUNT",
            Self::Email => "EMAIL",
            Self::Phone => "PHONE",
            Self::Card => "CARD",
            Self::Iban => "IBAN",
            Self::Ip => "IP",
            Self::Ssn => "SSN",
            Self::Address => "ADDRESS",
            Self::Number => "NUMBER",
            Self::Id => "ID",
            Self::Url => "URL",
            Self::Quoted => "QUOTED",
        }
    }

    /// The kind with this name, in any case.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name().eq_ignore_ascii_case(name))
    }

    /// Whether slots of this kind are placeholders of the guardian.
    pub fn is_personal(self) -> bool {
        matches!(
            self,
            Self::Email
                | Self::Phone
                | Self::Card
                | Self::Iban
                | Self::Ip
                | Self::Ssn
                | Self::Address
        )
    }
}
