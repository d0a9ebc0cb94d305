//! Which events.

use std::{fmt, str::FromStr};

use crate::{
    base::{clock::Millis, id::Tenant},
    envelope::Event,
    log::{Fetched, partition_for},
};

/// What an event is about. As one text it is `TYPE:ID`, where that can be cut at one place only: both may have colons in them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EntityName {
    /// Its type.
    pub kind: String,
    /// Its id.
    pub external_id: String,
}

/// Why a text names no entity.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EntityNameError {
    /// Type or id is missing.
    #[error("`{0}` is no TYPE:ID, such as order:17")]
    NoName(String),
    /// Another entity could be meant.
    #[error(
        "`{0}` has more than one colon, so it may name several entities; name type and id apart: --entity-type and --entity-id (`entity_type` and `entity_id` in a query string)"
    )]
    Ambiguous(String),
    /// Type and id were given apart, and one is empty or not there.
    #[error("an entity has a type and an id: both `entity_type` and `entity_id` are needed")]
    Incomplete,
}

impl EntityName {
    /// Of a type and an id, whatever is in them.
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
        Self::new(kind, id).map_err(|_| EntityNameError::NoName(text.to_owned()))
    }
}

impl fmt::Display for EntityName {
    /// `TYPE:ID` where that names it, else both apart.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, id) = (&self.kind, &self.external_id);
        if kind.contains(':') || id.contains(':') {
            write!(f, "type {kind:?} id {id:?}")
        } else {
            write!(f, "{kind}:{id}")
        }
    }
}

/// A type, or with a star at its end all that begin so.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TypePattern {
    /// This one.
    Exactly(String),
    /// All that begin so.
    Begins(String),
}

impl From<&str> for TypePattern {
    fn from(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(beginning) => Self::Begins(beginning.to_owned()),
            None => Self::Exactly(text.to_owned()),
        }
    }
}

impl fmt::Display for TypePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(kind) => f.write_str(kind),
            Self::Begins(beginning) => write!(f, "{beginning}*"),
        }
    }
}

impl TypePattern {
    fn matches(&self, kind: &str) -> bool {
        match self {
            Self::Exactly(wanted) => wanted == kind,
            Self::Begins(beginning) => kind.starts_with(beginning),
        }
    }
}

/// Which events; what is absent does not matter.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Query {
    /// Appended at this time or later.
    pub since: Option<Millis>,
    /// Appended before this time.
    pub until: Option<Millis>,
    /// Of this tenant; `None`: of any.
    pub tenant: Option<Tenant>,
    /// Of one of these types; empty: of any.
    pub types: Vec<TypePattern>,
    /// About this.
    pub entity: Option<EntityName>,
    /// Whether to go on with what comes, up to `until` or for ever.
    pub follow: bool,
}

impl Query {
    /// Whether it leaves anything out by what an event says.
    pub(super) fn filters(&self) -> bool {
        self.tenant.is_some() || self.entity.is_some() || !self.types.is_empty()
    }

    /// The one partition that can hold what is asked for.
    pub(super) fn partition(&self, partitions: u32) -> Option<u32> {
        let (tenant, entity) = (self.tenant.as_ref()?, self.entity.as_ref()?);
        let key = format!("{tenant}/{}/{}", entity.kind, entity.external_id);
        Some(partition_for(key.as_bytes(), partitions))
    }

    /// Whether a record can be asked for, by its key alone.
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
            // No tenant has a slash in its name.
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

    /// Whether an event is asked for.
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
    fn keys_tell_what_cannot_match() {
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
    fn a_text_names_one_entity_or_none() {
        let order: EntityName = "order:17".parse().unwrap();
        assert_eq!(order, EntityName::new("order", "17").unwrap());
        assert_eq!(order.to_string(), "order:17");
        for none in ["order", ":1", "order:", ":", ""] {
            let error = none.parse::<EntityName>().unwrap_err();
            assert_eq!(error, EntityNameError::NoName(none.into()));
        }
        for several in ["erp:sale.order:SO:1", "a:b:c", "a::b", "::", "a:b:"] {
            let error = several.parse::<EntityName>().unwrap_err();
            assert!(error.to_string().contains("--entity-type"), "{error}");
            assert_eq!(error, EntityNameError::Ambiguous(several.into()));
        }
        let apart = EntityName::new("erp:sale.order", "SO:1").unwrap();
        assert_eq!(apart.to_string(), r#"type "erp:sale.order" id "SO:1""#);
        assert!(EntityName::new("", "1").is_err() && EntityName::new("a", "").is_err());
    }

    #[test]
    fn a_star_stands_for_all_that_begin_so() {
        let matches = |pattern: &str, kind| TypePattern::from(pattern).matches(kind);
        assert!(matches("order.*", "order.paid") && matches("*", "x") && matches("a", "a"));
        assert!(!matches("order.*", "orders") && !matches("a", "ab"));
    }
}
