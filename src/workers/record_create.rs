//! The builtin tool `record_create`: a row in a table of `tools.record_create.tables`, once for each idempotency key. Input
//! `{table, values}`, output the row.
//!
//! Names of tables and columns are those of the configuration. Values are bound as one JSON document, which Postgres converts to the types
//! of the columns.

use std::{collections::BTreeMap, fmt::Write, sync::Arc, time::Duration};

use serde::Deserialize;
use serde_json::{Map, Value};
use sqlx::AssertSqlSafe;

use super::{
    answer::{Answer, Ended, Failed, OUTPUT_MAX, invalid_output, output_too_large, read_output},
    database::{Connections, Effect, of_error, within},
};
use crate::{
    config::{self, RecordTable},
    runs::{Json, StepCommand},
};

/// The time limit of a statement.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The tables of this node's configuration.
pub(super) struct Records {
    connections: Option<Arc<Connections>>,
    tables: BTreeMap<String, RecordTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    table: String,
    values: Map<String, Value>,
}

/// A row that may be made.
pub(super) struct Record {
    connections: Arc<Connections>,
    statements: Statements,
    idempotency_key: String,
    tenant: String,
    values: String,
}

/// The statements of a record.
#[derive(PartialEq, Eq, Debug)]
struct Statements {
    /// `$1` is the idempotency key, `$2` the values, `$3` the tenant, if the table has a column for it.
    insert: String,
    /// `$1` is the idempotency key, `$2` the tenant.
    read: String,
    has_tenant: bool,
}

impl Records {
    pub(super) fn new(config: &config::RecordCreate) -> Result<Self, sqlx::Error> {
        let url = config.url.as_ref();
        let connections = url.map(|url| Connections::new(url, "record_create"));
        let tables = config.tables.iter();
        Ok(Self {
            connections: connections.transpose()?.map(Arc::new),
            tables: tables
                .map(|table| (table.name.clone(), table.clone()))
                .collect(),
        })
    }

    /// The row that an input describes.
    pub(super) fn record(&self, command: &StepCommand) -> Result<Record, Failed> {
        let input: Input = serde_json::from_str(&command.input)
            .map_err(|e| Failed::permanent("invalid_input", e.to_string()))?;
        let Some(connections) = &self.connections else {
            let message = "`tools.record_create.url` is not set";
            return Err(Failed::permanent("tool_not_configured", message));
        };
        let Some(table) = self.tables.get(&input.table) else {
            let message = format!(
                "`{}` is not one of `tools.record_create.tables`",
                input.table
            );
            return Err(Failed::permanent("unknown_table", message));
        };
        if let Some(other) = input
            .values
            .keys()
            .find(|name| !table.columns.contains(name))
        {
            let message = format!("`{other}` is not one of the `columns` of `{}`", table.name);
            return Err(Failed::permanent("unknown_column", message));
        }
        let columns: Vec<_> = input.values.keys().map(String::as_str).collect();
        Ok(Record {
            connections: Arc::clone(connections),
            statements: Statements::of(table, &columns),
            idempotency_key: command.idempotency_key.clone(),
            tenant: command.tenant.clone(),
            values: Value::Object(input.values).to_string(),
        })
    }
}

impl Record {
    /// Carries it out, in so much time.
    pub(super) async fn answer(self, left: Duration) -> Answer {
        let timeout = TIMEOUT.min(left);
        match within(timeout, Effect::Possible, self.row(timeout)).await {
            Ok(row) => Ended::Succeeded(row).into(),
            Err(answer) => answer,
        }
    }

    async fn row(&self, timeout: Duration) -> Result<Json, Answer> {
        let failed = |error| of_error(error, Effect::Possible);
        // Each statement sees what was committed before it: so the second one sees the row that the first one met.
        let begin = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";
        let begun = self.connections.begin(begin, &self.tenant, timeout);
        let mut begun = begun.await?;
        let tenant = self.statements.has_tenant.then_some(&self.tenant);
        let statement = |sql: &str| {
            let statement = sqlx::query_scalar::<_, String>(AssertSqlSafe(sql));
            statement.bind(&self.idempotency_key).persistent(false)
        };
        let mut insert = statement(&self.statements.insert).bind(&self.values);
        if let Some(tenant) = tenant {
            insert = insert.bind(tenant);
        }
        let row = match insert.fetch_optional(begun.connection()).await {
            Ok(Some(row)) => Ok(row),
            Ok(None) => {
                let mut read = statement(&self.statements.read);
                if let Some(tenant) = tenant {
                    read = read.bind(tenant);
                }
                let row = read.fetch_optional(begun.connection()).await;
                row.map_err(failed).and_then(|row| row.ok_or_else(gone))
            }
            Err(error) => Err(failed(error)),
        };
        let output = row.and_then(|row| {
            if row.len() > OUTPUT_MAX {
                return Err(output_too_large().into());
            }
            read_output(row.as_bytes()).map_err(|why| invalid_output(why).into())
        });
        let end = if output.is_ok() { "COMMIT" } else { "ROLLBACK" };
        match (begun.end(end).await, output) {
            (Ok(()), output) => output,
            // What has failed already has had no effect.
            (Err(_), Err(answer)) => Err(answer),
            (Err(error), Ok(_)) => Err(failed(error)),
        }
    }
}

/// The key is there, but not the row: it was deleted just now, or policies of the table hide it.
fn gone() -> Answer {
    let message = "there is a record with this idempotency key, but it cannot be read";
    Failed::retryable("record_not_visible", message).into()
}

impl Statements {
    /// For a record in which these columns are set; all others get their defaults.
    fn of(table: &RecordTable, columns: &[&str]) -> Self {
        let name: Vec<_> = table.name.split('.').map(quoted).collect();
        let name = name.join(".");
        let key = quoted(&table.key);
        let (mut into, mut from) = (key.clone(), "$1".to_owned());
        let mut own = format!("{key} = $1");
        if let Some(tenant) = &table.tenant {
            let tenant = quoted(tenant);
            let _ = write!(into, ", {tenant}");
            from.push_str(", $3");
            let _ = write!(own, " AND {tenant} = $2");
        }
        for column in columns {
            let column = quoted(column);
            let _ = write!(into, ", {column}");
            let _ = write!(from, ", given.{column}");
        }
        let row = if table.returning.is_empty() {
            "to_json(made.*)::text".to_owned()
        } else {
            let columns = table.returning.iter();
            let columns: Vec<_> = columns.map(|c| format!("made.{}", quoted(c))).collect();
            let columns = columns.join(", ");
            format!("(SELECT to_json(shown.*)::text FROM (SELECT {columns}) AS shown)")
        };
        Self {
            insert: format!(
                "INSERT INTO {name} AS made ({into}) SELECT {from} FROM jsonb_populate_record(NULL::{name}, $2::jsonb) AS given \
                 ON CONFLICT ({key}) DO NOTHING RETURNING {row}"
            ),
            read: format!("SELECT {row} FROM {name} AS made WHERE {own}"),
            has_tenant: table.tenant.is_some(),
        }
    }
}

/// A name as Postgres reads it exactly.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_and_values_are_not_in_the_text() {
        let mut table = RecordTable {
            name: "crm.le\"ads".into(),
            columns: vec!["name".into(), "E-Mail".into()],
            key: "k".into(),
            tenant: Some("t".into()),
            returning: Vec::new(),
        };
        let statements = Statements::of(&table, &["E-Mail"]);
        assert_eq!(
            statements.insert,
            r#"INSERT INTO "crm"."le""ads" AS made ("k", "t", "E-Mail") SELECT $1, $3, given."E-Mail" FROM jsonb_populate_record(NULL::"crm"."le""ads", $2::jsonb) AS given ON CONFLICT ("k") DO NOTHING RETURNING to_json(made.*)::text"#
        );
        table.tenant = None;
        table.returning = vec!["id".into()];
        assert_eq!(
            Statements::of(&table, &[]).read,
            r#"SELECT (SELECT to_json(shown.*)::text FROM (SELECT made."id") AS shown) FROM "crm"."le""ads" AS made WHERE "k" = $1"#
        );
    }
}
