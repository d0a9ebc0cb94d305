//! The builtin tool `sql_query`: one SELECT with the rights of a login of its own. Input `{sql, params?}`, output
//! `{rows: [{column: value}], count}`.
//!
//! The statement is prepared by itself first, so the server says whether it is one whole statement: then it can be put in brackets, as a
//! sub-select of a statement that bounds its rows and bytes, and nothing in it ends the brackets. What cannot be a sub-select is refused.
//! Values are bound, never put into the text.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use serde::Deserialize;
use serde_json::Value;
use sqlx::{
    AssertSqlSafe, Column, Either, Encode, Executor, Postgres, SqlSafeStr, Statement, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgStatement, PgTypeInfo, types::Oid},
};

use super::{
    answer::{Answer, Ended, Failed, OUTPUT_MAX, invalid_output, output_too_large, read_output},
    database::{Begun, Connections, Effect, of_error, sqlstate, within},
};
use crate::{
    config::{self, QueryLogin, SecretUrl},
    runs::{Json, StepCommand},
    store::StoreError,
};

/// A query sees one state of the database, and can change nothing.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
/// Nothing of the query stays: settings and the transaction are undone, and what is kept beyond transactions is given back.
const END: &str = "ROLLBACK; DEALLOCATE ALL; SELECT pg_advisory_unlock_all()";

/// The queries of this node.
pub(super) struct Queries {
    logins: Logins,
    max_rows: u32,
    timeout: Duration,
}

enum Logins {
    None,
    All(Arc<Connections>),
    ByTenant(BTreeMap<String, Arc<Connections>>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    sql: String,
    #[serde(default)]
    params: Vec<Value>,
}

/// A query that may go.
pub(super) struct Query {
    connections: Arc<Connections>,
    tenant: String,
    input: Input,
    max_rows: u32,
    timeout: Duration,
}

impl Queries {
    pub(super) fn new(config: &config::SqlQuery) -> Result<Self, sqlx::Error> {
        let connections = |url: &SecretUrl| Connections::new(url, "sql_query").map(Arc::new);
        let logins = match &config.login {
            None => Logins::None,
            Some(QueryLogin::All(url)) => Logins::All(connections(url)?),
            Some(QueryLogin::ByTenant(urls)) => {
                let each = urls
                    .iter()
                    .map(|(tenant, url)| Ok((tenant.to_string(), connections(url)?)));
                Logins::ByTenant(each.collect::<Result<_, sqlx::Error>>()?)
            }
        };
        Ok(Self {
            logins,
            max_rows: config.max_rows,
            timeout: config.timeout,
        })
    }

    /// What has seats and a breaker of its own: the tenant, where each has its own login.
    pub(super) fn part<'c>(&self, command: &'c StepCommand) -> Option<&'c str> {
        matches!(self.logins, Logins::ByTenant(_)).then_some(&command.tenant)
    }

    /// The query that an input describes.
    pub(super) fn query(&self, command: &StepCommand) -> Result<Query, Failed> {
        let input: Input = serde_json::from_str(&command.input)
            .map_err(|e| Failed::permanent("invalid_input", e.to_string()))?;
        if input.sql.contains('\0') {
            let message = "`sql` must not contain U+0000";
            return Err(Failed::permanent("invalid_input", message));
        }
        let connections = match &self.logins {
            Logins::None => None,
            Logins::All(connections) => Some(connections),
            Logins::ByTenant(each) => each.get(&command.tenant),
        };
        let Some(connections) = connections else {
            let message = match self.logins {
                Logins::ByTenant(_) => "`tools.sql_query.url` has no login for the run's tenant",
                _ => "`tools.sql_query.url` is not set",
            };
            return Err(Failed::permanent("tool_not_configured", message));
        };
        Ok(Query {
            connections: Arc::clone(connections),
            tenant: command.tenant.clone(),
            input,
            max_rows: self.max_rows,
            timeout: self.timeout,
        })
    }
}

impl Query {
    /// Carries it out, in so much time.
    pub(super) async fn answer(self, left: Duration) -> Answer {
        let timeout = self.timeout.min(left);
        let rows = within(timeout, Effect::None, self.rows(timeout));
        match rows.await {
            Ok(output) => Ended::Succeeded(output).into(),
            Err(answer) => answer,
        }
    }

    async fn rows(&self, timeout: Duration) -> Result<Json, Answer> {
        let begun = self.connections.begin(BEGIN, &self.tenant, timeout);
        let mut begun = begun.await?;
        let rows = self.read(&mut begun).await;
        // It has had no effect, so it does not matter how it ends; a connection that was lost is not kept.
        let _ = begun.end(END).await;
        output(rows?, self.max_rows)
    }

    /// The rows as JSON texts: one more than allowed where there are more, and nothing for those beyond the allowed bytes.
    async fn read(&self, begun: &mut Begun<'_>) -> Result<Vec<Option<String>>, Answer> {
        let failed = |error| of_error(error, Effect::None);
        if begun.is_reader() {
            // A query could set `omnilink.tenant` back.
            let others = "SELECT EXISTS (SELECT FROM omnilink.reader_grants WHERE role = session_user AND tenant <> $1)";
            let others = sqlx::query_scalar::<_, bool>(others)
                .bind(&self.tenant)
                .persistent(false);
            if others.fetch_one(begun.connection()).await.map_err(failed)? {
                let message = "the login of `tools.sql_query.url` may read other tenants than the run's: give each tenant a login of its own";
                return Err(Failed::permanent("tenants_not_separated", message).into());
            }
        }
        let values: Vec<_> = self.input.params.iter().map(Bound::of).collect();
        let types: Vec<_> = values.iter().map(Bound::type_info).collect();
        let sql = self.input.sql.trim_end().trim_end_matches(';');
        let statement = AssertSqlSafe(sql).into_sql_str();
        let prepared = begun.connection().prepare_with(statement, &types);
        check(&prepared.await.map_err(failed)?, values.len())?;

        let bounded = format!(
            "SELECT CASE WHEN sum(octet_length(line)) OVER (ROWS UNBOUNDED PRECEDING) <= {OUTPUT_MAX} THEN line END \
             FROM (SELECT to_json(omnilink_row.*)::text AS line FROM (\n{sql}\n) AS omnilink_row LIMIT {}) AS lines",
            u64::from(self.max_rows) + 1
        );
        let mut query = sqlx::query_scalar::<_, Option<String>>(AssertSqlSafe(bounded));
        for value in values {
            query = query.bind(value);
        }
        let rows = query.persistent(false).fetch_all(begun.connection()).await;
        rows.map_err(|error| match sqlstate(&error) {
            // By itself the statement is right: it cannot be a sub-select.
            Some("42601" | "0A000") => not_a_query(&StoreError::from(error).to_string()).into(),
            _ => failed(error),
        })
    }
}

/// Whether the statement gives rows that can be objects, and takes so many parameters.
fn check(statement: &PgStatement, params: usize) -> Result<(), Failed> {
    if statement.columns().is_empty() {
        return Err(not_a_query("it gives no columns"));
    }
    let mut names = BTreeSet::new();
    for column in statement.columns() {
        if !names.insert(column.name()) {
            let message = format!("two columns are named `{}`: rename one", column.name());
            return Err(Failed::permanent("duplicate_column", message));
        }
    }
    let takes = match statement.parameters() {
        Some(Either::Left(types)) => types.len(),
        Some(Either::Right(count)) => count,
        None => 0,
    };
    if takes != params {
        let message = format!("`sql` takes {takes} values, and `params` has {params}");
        return Err(Failed::permanent("invalid_input", message));
    }
    Ok(())
}

fn not_a_query(why: &str) -> Failed {
    let message = format!("`sql` must be one SELECT: {why}");
    Failed::permanent("not_a_query", message)
}

fn output(rows: Vec<Option<String>>, max_rows: u32) -> Result<Json, Answer> {
    let count = rows.len();
    if count > max_rows as usize {
        let message =
            format!("it gives more than {max_rows} rows (`tools.sql_query.max_rows`): add a LIMIT");
        return Err(Failed::permanent("too_many_rows", message).into());
    }
    let Some(rows) = rows.into_iter().collect::<Option<Vec<_>>>() else {
        return Err(output_too_large().into());
    };
    let text = format!(r#"{{"rows":[{}],"count":{count}}}"#, rows.join(","));
    if text.len() > OUTPUT_MAX {
        return Err(output_too_large().into());
    }
    read_output(text.as_bytes()).map_err(|why| invalid_output(why).into())
}

/// A value of `params`.
#[derive(Clone, PartialEq, Debug)]
enum Bound<'v> {
    /// Its type is what the statement needs.
    Null,
    Boolean(bool),
    Whole(i64),
    Number(f64),
    Text(&'v str),
    /// A list or an object, as `jsonb`.
    Json(String),
}

impl<'v> Bound<'v> {
    fn of(value: &'v Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(boolean) => Self::Boolean(*boolean),
            Value::Number(number) => match number.as_i64() {
                Some(whole) => Self::Whole(whole),
                None => Self::Number(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => Self::Text(text),
            Value::Array(_) | Value::Object(_) => Self::Json(value.to_string()),
        }
    }

    /// Its type, by the number that it has in every Postgres.
    fn type_info(&self) -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(match self {
            Self::Null => 705,
            Self::Boolean(_) => 16,
            Self::Whole(_) => 20,
            Self::Number(_) => 701,
            Self::Text(_) => 25,
            Self::Json(_) => 3802,
        }))
    }
}

impl Type<Postgres> for Bound<'_> {
    fn type_info() -> PgTypeInfo {
        Bound::Null.type_info()
    }
}

impl Encode<'_, Postgres> for Bound<'_> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        match self {
            Self::Null => return Ok(IsNull::Yes),
            Self::Boolean(boolean) => buffer.push(u8::from(*boolean)),
            Self::Whole(whole) => buffer.extend_from_slice(&whole.to_be_bytes()),
            Self::Number(number) => buffer.extend_from_slice(&number.to_be_bytes()),
            Self::Text(text) => buffer.extend_from_slice(text.as_bytes()),
            Self::Json(text) => {
                // The version of the format.
                buffer.push(1);
                buffer.extend_from_slice(text.as_bytes());
            }
        }
        Ok(IsNull::No)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(self.type_info())
    }
}
