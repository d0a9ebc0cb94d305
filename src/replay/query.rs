//! Which events.

use std::{fmt, str::FromStr};

use crate::{
    clock::Millis,
    envelope::Event,
    id::Tenant,
    log::{Fetched, partition_for},
};

/// What an event is about, as the command line names it: `TYPE:ID`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EntityName {
    /// Its type; in the text it ends at the first colon.
    pub kind: String,
    /// Its id, which may have colons.
    pub external_id: String,
}

impl FromStr for EntityName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some((kind, id)) if !kind.is_empty() && !id.is_empty() => Ok(Self {
                kind: kind.to_owned(),
                external_id: id.to_owned(),
            }),
            _ => Err(format!("`{text}` is no TYPE:ID, such as order:17")),
        }
    }
}

impl fmt::Display for EntityName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.external_id)
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
    /// Whose.
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
        let entity: EntityName = "order:a/b:c".parse().unwrap();
        assert_eq!(entity.external_id, "a/b:c");
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
        assert!("order".parse::<EntityName>().is_err() && ":1".parse::<EntityName>().is_err());
    }

    #[test]
    fn a_star_stands_for_all_that_begin_so() {
        let matches = |pattern: &str, kind| TypePattern::from(pattern).matches(kind);
        assert!(matches("order.*", "order.paid") && matches("*", "x") && matches("a", "a"));
        assert!(!matches("order.*", "orders") && !matches("a", "ab"));
    }
}
