//! `tools.*`: the builtin tools that use a Postgres.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{SecretUrl, secret::SecretError};
use crate::base::id::{BadTenant, Tenant};

/// The most tables.
const TABLES_MAX: usize = 200;
/// The most columns of a table.
const COLUMNS_MAX: usize = 500;
/// The most bytes of a name in Postgres.
const NAME_MAX: usize = 63;

/// The builtin tools that use a Postgres.
#[derive(Clone, Debug, Default)]
pub struct DatabaseTools {
    /// `tools.sql_query.*`.
    pub sql_query: SqlQuery,
    /// `tools.record_create.*`.
    pub record_create: RecordCreate,
}

/// `tools.sql_query.*`.
#[derive(Clone, Debug)]
pub struct SqlQuery {
    /// `tools.sql_query.url`: whose rights queries have; without it the tool is not usable.
    pub login: Option<QueryLogin>,
    /// `tools.sql_query.max_rows`: the most rows of a query.
    pub max_rows: u32,
    /// `tools.sql_query.timeout_s`: the time limit of a query.
    pub timeout: Duration,
}

impl Default for SqlQuery {
    fn default() -> Self {
        Self {
            login: None,
            max_rows: 1_000,
            timeout: Duration::from_secs(10),
        }
    }
}

/// The login that queries use, as a URL.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum QueryLogin {
    /// One for the runs of all tenants.
    All(SecretUrl),
    /// One for the runs of each tenant; runs of others cannot query.
    ByTenant(BTreeMap<Tenant, SecretUrl>),
}

impl QueryLogin {
    /// As it is shown: without passwords.
    pub(super) fn show(&self) -> Json {
        match self {
            Self::All(url) => url.to_string().into(),
            Self::ByTenant(urls) => urls
                .iter()
                .map(|(tenant, url)| (tenant.to_string(), Json::from(url.to_string())))
                .collect(),
        }
    }
}

/// Why the login cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadQueryLogin {
    #[error("must be a URL, or a map of tenants to URLs")]
    Kind,
    #[error(transparent)]
    Url(#[from] SecretError),
    #[error("`{tenant}`: {source}")]
    OfTenant {
        tenant: String,
        source: BadTenantLogin,
    },
}

/// Why the login of a tenant cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadTenantLogin {
    #[error(transparent)]
    Tenant(#[from] BadTenant),
    #[error("must be text")]
    NotText,
    #[error(transparent)]
    Url(#[from] SecretError),
}

/// Reads one URL, or a map of tenants to URLs. `url` follows references.
pub(super) fn parse_login(
    given: &Json,
    url: &dyn Fn(&str) -> Result<SecretUrl, SecretError>,
) -> Result<QueryLogin, BadQueryLogin> {
    let by_tenant = match given {
        Json::String(text) => return Ok(QueryLogin::All(url(text)?)),
        Json::Object(by_tenant) if !by_tenant.is_empty() => by_tenant,
        _ => return Err(BadQueryLogin::Kind),
    };
    let mut urls = BTreeMap::new();
    for (tenant, given) in by_tenant {
        let wrong = |source: BadTenantLogin| BadQueryLogin::OfTenant {
            tenant: tenant.clone(),
            source,
        };
        let name = Tenant::new(tenant).map_err(|e| wrong(e.into()))?;
        let text = given
            .as_str()
            .ok_or_else(|| wrong(BadTenantLogin::NotText))?;
        urls.insert(name, url(text).map_err(|e| wrong(e.into()))?);
    }
    Ok(QueryLogin::ByTenant(urls))
}

/// `tools.record_create.*`.
#[derive(Clone, Debug, Default)]
pub struct RecordCreate {
    /// `tools.record_create.url`: the database of the tables; without it the tool is not usable.
    pub url: Option<SecretUrl>,
    /// `tools.record_create.tables`.
    pub tables: Vec<RecordTable>,
}

/// A table that records are created in.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RecordTable {
    /// `schema.table`, or `table` for the first schema of the login's `search_path` that has it.
    pub name: String,
    /// The columns that steps may set.
    pub columns: Vec<String>,
    /// The column with the idempotency key of the step: text, and unique.
    pub key: String,
    /// The column that gets the tenant of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The columns of the output; all of them unless given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub returning: Vec<String>,
}

/// What is wrong with `tools.record_create.tables`, all of it.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub(super) struct BadTables(Vec<String>);

/// What is wrong with one table.
#[derive(Debug, thiserror::Error)]
enum BadTable {
    #[error(transparent)]
    Form(#[from] serde_json::Error),
    #[error("`{0}` is not a valid `schema.table`: each of both has 1 to {NAME_MAX} bytes")]
    Name(String),
    #[error("`columns` must have 1 to {COLUMNS_MAX} names")]
    Columns,
    #[error("`{0}` is not a valid column: its name has 1 to {NAME_MAX} bytes")]
    Column(String),
    #[error("`{0}` stands twice in `columns`, `key` and `tenant`")]
    Twice(String),
}

/// Reads the tables.
pub(super) fn parse_tables(value: Json) -> Result<Vec<RecordTable>, BadTables> {
    let Json::Array(items) = value else {
        let takes = "must be a list, such as [{name: crm.leads, columns: [name, email], key: omnilink_key}]";
        return Err(BadTables(vec![takes.into()]));
    };
    let mut problems = Vec::new();
    if items.len() > TABLES_MAX {
        problems.push(format!("has more than {TABLES_MAX} tables"));
    }
    let mut tables: Vec<RecordTable> = Vec::new();
    for (index, item) in items.into_iter().enumerate() {
        let table = serde_json::from_value::<RecordTable>(item).map_err(BadTable::from);
        match table.and_then(RecordTable::checked) {
            Ok(table) if tables.iter().any(|other| other.name == table.name) => {
                problems.push(format!("`{}` is given twice", table.name));
            }
            Ok(table) => tables.push(table),
            Err(problem) => problems.push(format!("table {}: {problem}", index + 1)),
        }
    }
    if problems.is_empty() {
        Ok(tables)
    } else {
        Err(BadTables(problems))
    }
}

impl RecordTable {
    fn checked(self) -> Result<Self, BadTable> {
        let parts: Vec<_> = self.name.split('.').collect();
        if parts.len() > 2 || !parts.iter().all(|part| is_name(part)) {
            return Err(BadTable::Name(self.name));
        }
        if self.columns.is_empty() || self.columns.len() > COLUMNS_MAX {
            return Err(BadTable::Columns);
        }
        let own = std::iter::once(&self.key).chain(&self.tenant);
        let set: Vec<_> = self.columns.iter().chain(own).collect();
        if let Some(bad) = set
            .iter()
            .chain(&self.returning.iter().collect::<Vec<_>>())
            .find(|name| !is_name(name))
        {
            return Err(BadTable::Column((*bad).clone()));
        }
        for (n, name) in set.iter().enumerate() {
            if set[..n].contains(name) {
                return Err(BadTable::Twice((*name).clone()));
            }
        }
        Ok(self)
    }
}

fn is_name(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len()) && !name.contains('\0')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::Secret;

    #[test]
    fn a_login_is_one_url_or_one_for_each_tenant() {
        let url = |text: &str| SecretUrl::new(Secret::new(text), &["postgres"]);
        let read = |given: Json| parse_login(&given, &url);
        let one = read(json!("postgres://q:hunter2@h/d")).unwrap();
        assert_eq!(one.show(), json!("postgres://q:***@h/d"));
        let each = json!({ "acme": "postgres://a:hunter2@h/d", "beta": "postgres://b@h/d" });
        let shown = json!({ "acme": "postgres://a:***@h/d", "beta": "postgres://b@h/d" });
        assert_eq!(read(each).unwrap().show(), shown);
        for (wrong, expected) in [
            (json!(5), "must be a URL, or a map"),
            (json!({}), "must be a URL, or a map"),
            (json!("mysql://h"), "begins with `postgres://`"),
            (json!({ "a b": "postgres://h" }), "`a b`: a tenant's name"),
            (json!({ "acme": "x" }), "`acme`: must be a URL"),
        ] {
            let error = read(wrong).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn tables_are_read_and_everything_wrong_is_reported() {
        let good = json!({ "name": "crm.leads", "columns": ["name", "E-Mail"], "key": "k", "tenant": "t" });
        let parsed = parse_tables(json!([good])).unwrap();
        assert_eq!(parsed[0].columns, ["name", "E-Mail"]);
        assert_eq!(json!(parsed), json!([good]));
        let with = |field: &str, value: Json| {
            let mut table = good.clone();
            table[field] = value;
            table
        };
        let cases = [
            (
                with("name", json!("a.b.c")),
                "`a.b.c` is not a valid `schema.table`",
            ),
            (
                with("name", json!("crm.")),
                "table 1: `crm.` is not a valid `schema.table`",
            ),
            (with("columns", json!([])), "`columns` must have 1 to 500"),
            (with("columns", json!(["a", "a"])), "`a` stands twice"),
            (with("columns", json!(["t"])), "`t` stands twice"),
            (with("key", json!("")), "`` is not a valid column"),
            (
                with("returning", json!(["x".repeat(64)])),
                "x` is not a valid column",
            ),
            (with("colums", json!([])), "unknown field `colums`"),
            (json!({ "name": "a" }), "missing field `columns`"),
        ];
        for (table, expected) in cases {
            let error = parse_tables(json!([table])).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let error = parse_tables(json!([good, good, 1])).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("`crm.leads` is given twice; table 3: "));
        assert!(parse_tables(json!({})).is_err());
    }
}
