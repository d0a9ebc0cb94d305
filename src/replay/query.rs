//! The selection of events.

use std::{fmt, str::FromStr};

use crate::{
    base::{clock::Millis, id::Tenant},
    envelope::Event,
    log::{Fetched, partition_for},
};

/// The type and id of an entity. Its text form is `TYPE:ID`, which is accepted only with a single colon, because type and id may both
/// contain colons.
///
/// ```
/// use omnilink::replay::EntityName;
///
/// let order: EntityName = "order:17".parse()?;
/// assert_eq!(order, EntityName::new("order", "17")?);
/// assert!("erp:sale.order:17".parse::<EntityName>().is_err());
/// # Ok::<(), omnilink::replay::EntityNameError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EntityName {
    /// The entity's type.
    pub kind: String,
    /// The entity's id.
    pub external_id: String,
}

/// Why a text is not the name of an entity.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EntityNameError {
    /// Type or id is missing.
    #[error("`{0}` is not of the form TYPE:ID, such as order:17")]
    Malformed(String),
    /// The text can be split in more than one way.
    #[error(
        "`{0}` has more than one colon, so it may name several entities; give type and id separately: --entity-type and --entity-id (`entity_type` and `entity_id` in a query string)"
    )]
    Ambiguous(String),
    /// Type and id were given separately, and one is missing or empty.
    #[error("an entity has a type and an id: both `entity_type` and `entity_id` are needed")]
    Incomplete,
}

impl EntityName {
    /// The name for a type and an id, which may contain any characters.
    pub fn new(kind: &str, external_id: &str) -> Result<Self, EntityNameError> {
        if kind.is_empty() || external_id.is_empty() {
            return Err(EntityNameError::Incomplete);
        }
        Ok(Self {
            kind: kind.to_owned(),
            external_id: external_id.to_owned(),
        })
    }
}

impl FromStr for EntityName {
    type Err = EntityNameError;

    fn from_str(text: &str) -> Result<Self, EntityNameError> {
        let (kind, id) = text.split_once(':').unwrap_or_default();
        if id.contains(':') {
            return Err(EntityNameError::Ambiguous(text.to_owned()));
        }
        Self::new(kind, id).map_err(|_| EntityNameError::Malformed(text.to_owned()))
    }
}

impl fmt::Display for EntityName {
    /// `TYPE:ID` if that is unambiguous, otherwise type and id in quotes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, id) = (&self.kind, &self.external_id);
        if kind.contains(':') || id.contains(':') {
            write!(f, "type {kind:?} id {id:?}")
        } else {
            write!(f, "{kind}:{id}")
        }
    }
}

/// A pattern for event types: `order.paid`, or `order.*` for all types with the prefix `order.`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TypePattern {
    /// Exactly this type.
    Exact(String),
    /// All types with this prefix.
    Prefix(String),
}

impl From<&str> for TypePattern {
    fn from(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(prefix) => Self::Prefix(prefix.to_owned()),
            None => Self::Exact(text.to_owned()),
        }
    }
}

impl fmt::Display for TypePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(kind) => f.write_str(kind),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
        }
    }
}

impl TypePattern {
    fn matches(&self, kind: &str) -> bool {
        match self {
            Self::Exact(wanted) => wanted == kind,
            Self::Prefix(prefix) => kind.starts_with(prefix),
        }
    }
}

/// A selection of events. A criterion that is absent matches all events.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Query {
    /// Only events appended at this time or later.
    pub since: Option<Millis>,
    /// Only events appended before this time.
    pub until: Option<Millis>,
    /// Only events of this tenant.
    pub tenant: Option<Tenant>,
    /// Only events of one of these types; empty: of any type.
    pub types: Vec<TypePattern>,
    /// Only events about this entity.
    pub entity: Option<EntityName>,
    /// Whether to continue with new events, up to `until` or without end.
    pub follow: bool,
}

impl Query {
    /// Whether it has criteria other than the append time.
    pub(super) fn has_filters(&self) -> bool {
        self.tenant.is_some() || self.entity.is_some() || !self.types.is_empty()
    }

    /// The only partition that can contain matching events, if tenant and entity are given.
    pub(super) fn partition(&self, partitions: u32) -> Option<u32> {
        let (tenant, entity) = (self.tenant.as_ref()?, self.entity.as_ref()?);
        let key = format!("{tenant}/{}/{}", entity.kind, entity.external_id);
        Some(partition_for(key.as_bytes(), partitions))
    }

    /// Whether a record may match, judged by its key alone.
    pub(super) fn key_may_match(&self, record: &Fetched) -> bool {
        let key = record.record.key.as_deref().unwrap_or_default();
        let tenant = self
            .tenant
            .as_ref()
            .map(|tenant| tenant.as_str().as_bytes());
        let rest = match tenant {
            Some(tenant) => match key.strip_prefix(tenant) {
                Some([b'/', rest @ ..]) => rest,
                _ => return false,
            },
            // A tenant's name cannot contain a slash.
            None => match key.iter().position(|b| *b == b'/') {
                Some(at) => &key[at + 1..],
                None => return false,
            },
        };
        self.entity.as_ref().is_none_or(|entity| {
            let kind = entity.kind.as_bytes();
            rest.strip_prefix(kind)
                .and_then(|rest| rest.strip_prefix(b"/"))
                .is_some_and(|id| id == entity.external_id.as_bytes())
        })
    }

    /// Whether an event matches.
    pub(super) fn matches(&self, event: &Event<'_>) -> bool {
        self.tenant.as_ref().is_none_or(|t| *t == event.tenant)
            && (self.types.is_empty() || self.types.iter().any(|t| t.matches(&event.kind)))
            && self.entity.as_ref().is_none_or(|wanted| {
                event.entity.as_ref().is_some_and(|entity| {
                    *entity.kind == wanted.kind && *entity.external_id == wanted.external_id
                })
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Record;

    fn keyed(key: &str) -> Fetched {
        Fetched {
            topic: 0,
            partition: 0,
            offset: 0,
            timestamp: Millis(0),
            record: Record {
                key: Some(key.to_owned().into()),
                ..Record::default()
            },
        }
    }

    #[test]
    fn records_are_excluded_by_their_keys() {
        let entity = EntityName::new("order", "a/b:c").unwrap();
        let mut query = Query {
            entity: Some(entity),
            ..Query::default()
        };
        assert!(query.key_may_match(&keyed("acme/order/a/b:c")));
        assert!(query.key_may_match(&keyed("other/order/a/b:c")));
        assert!(!query.key_may_match(&keyed("acme/order/a")));
        query.tenant = Some(Tenant::new("acme").unwrap());
        assert!(query.key_may_match(&keyed("acme/order/a/b:c")));
        assert!(!query.key_may_match(&keyed("acme2/order/a/b:c")));
    }

    #[test]
    fn only_unambiguous_entity_names_are_parsed() {
        let order: EntityName = "order:17".parse().unwrap();
        assert_eq!(order, EntityName::new("order", "17").unwrap());
        assert_eq!(order.to_string(), "order:17");
        for malformed in ["order", ":1", "order:", ":", ""] {
            let error = malformed.parse::<EntityName>().unwrap_err();
            assert_eq!(error, EntityNameError::Malformed(malformed.into()));
        }
        for ambiguous in ["erp:sale.order:SO:1", "a:b:c", "a::b", "::", "a:b:"] {
            let error = ambiguous.parse::<EntityName>().unwrap_err();
            assert!(error.to_string().contains("--entity-type"), "{error}");
            assert_eq!(error, EntityNameError::Ambiguous(ambiguous.into()));
        }
        let with_colons = EntityName::new("erp:sale.order", "SO:1").unwrap();
        assert_eq!(
            with_colons.to_string(),
            r#"type "erp:sale.order" id "SO:1""#
        );
        assert!(EntityName::new("", "1").is_err() && EntityName::new("a", "").is_err());
    }

    #[test]
    fn a_trailing_star_matches_a_prefix() {
        let matches = |pattern: &str, kind| TypePattern::from(pattern).matches(kind);
        assert!(matches("order.*", "order.paid") && matches("*", "x") && matches("a", "a"));
        assert!(!matches("order.*", "orders") && !matches("a", "ab"));
    }
}
