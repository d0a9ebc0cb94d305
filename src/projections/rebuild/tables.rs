//! The new tables of a rebuild: created beside the live ones, analyzed, and attached in their place.

use sqlx::{AssertSqlSafe, PgConnection};

use crate::store::{
    StoreError,
    months::{self, MonthlyTable},
};

/// The new `events`.
pub(super) const EVENTS: MonthlyTable = MonthlyTable {
    table: "events_rebuild",
    column: "received_at",
    checked: true,
};
/// The new `entities`.
pub(super) const ENTITIES: &str = "entities_rebuild";

/// Which tables are rebuilt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RebuildTables {
    /// `omnilink.events`.
    pub events: bool,
    /// `omnilink.entities`.
    pub entities: bool,
}

impl RebuildTables {
    pub(super) fn are_all(self) -> bool {
        self.events && self.entities
    }

    /// Creates the new tables, empty, and drops those that an earlier rebuild left behind.
    pub(super) async fn create(self, connection: &mut PgConnection) -> Result<(), StoreError> {
        let events = EVENTS.table;
        let mut sql = vec![format!(
            "DROP TABLE IF EXISTS omnilink.{events}, omnilink.{ENTITIES}"
        )];
        if self.events {
            sql.extend([
                format!(
                    "CREATE TABLE omnilink.{events} (LIKE omnilink.events INCLUDING ALL) \
                     PARTITION BY RANGE (received_at)"
                ),
                format!("ALTER TABLE omnilink.{events} ENABLE ROW LEVEL SECURITY"),
                format!(
                    "CREATE TABLE omnilink.{events}_default PARTITION OF omnilink.{events} DEFAULT"
                ),
                format!("ALTER TABLE omnilink.{events}_default ENABLE ROW LEVEL SECURITY"),
            ]);
        }
        if self.entities {
            sql.extend([
                format!(
                    "CREATE TABLE omnilink.{ENTITIES} (LIKE omnilink.entities INCLUDING ALL) \
                     WITH (fillfactor = 70)"
                ),
                format!("ALTER TABLE omnilink.{ENTITIES} ENABLE ROW LEVEL SECURITY"),
            ]);
        }
        execute(connection, &sql).await
    }

    /// Collects planner statistics of the new tables, before queries use them.
    pub(super) async fn analyze(self, connection: &mut PgConnection) -> Result<(), StoreError> {
        if self.events {
            for month in months::existing(connection, EVENTS.table).await? {
                let sql = format!("ANALYZE omnilink.{}", month.partition(EVENTS.table));
                execute(connection, &[sql]).await?;
            }
        }
        if self.entities {
            execute(connection, &[format!("ANALYZE omnilink.{ENTITIES}")]).await?;
        }
        Ok(())
    }

    /// Replaces the partitions of the live tables by the new ones, in the caller's transaction.
    pub(super) async fn swap(self, transaction: &mut PgConnection) -> Result<(), StoreError> {
        if self.events {
            swap_events(transaction).await?;
        }
        if self.entities {
            swap_entities(transaction).await?;
        }
        Ok(())
    }
}

async fn swap_events(transaction: &mut PgConnection) -> Result<(), StoreError> {
    let live = months::EVENTS.table;
    let new = EVENTS.table;
    let mut sql = lock_and_drop_partitions(transaction, live).await?;
    for month in months::existing(transaction, new).await? {
        let (from, to) = (month.partition(new), month.partition(live));
        let (values, check) = (month.for_values(), months::CHECK);
        // The check constraint implies the bounds, so attaching does not scan the partition.
        sql.extend([
            format!("ALTER TABLE omnilink.{new} DETACH PARTITION omnilink.{from}"),
            format!("ALTER TABLE omnilink.{from} RENAME TO {to}"),
            format!("ALTER TABLE omnilink.{live} ATTACH PARTITION omnilink.{to} {values}"),
            format!("ALTER TABLE omnilink.{to} DROP CONSTRAINT {check}"),
        ]);
    }
    sql.extend([
        format!("ALTER TABLE omnilink.{new} DETACH PARTITION omnilink.{new}_default"),
        format!("ALTER TABLE omnilink.{new}_default RENAME TO {live}_default"),
        format!("ALTER TABLE omnilink.{live} ATTACH PARTITION omnilink.{live}_default DEFAULT"),
        format!("DROP TABLE omnilink.{new}"),
    ]);
    execute(transaction, &sql).await?;
    rename_indexes(transaction, new, live).await
}

async fn swap_entities(transaction: &mut PgConnection) -> Result<(), StoreError> {
    let mut sql = lock_and_drop_partitions(transaction, "entities").await?;
    sql.extend([
        format!("ALTER TABLE omnilink.{ENTITIES} RENAME TO entities_all"),
        "ALTER TABLE omnilink.entities ATTACH PARTITION omnilink.entities_all \
         FOR VALUES FROM (MINVALUE) TO (MAXVALUE)"
            .to_owned(),
    ]);
    execute(transaction, &sql).await?;
    rename_indexes(transaction, ENTITIES, "entities_all").await
}

/// The statements that lock a table and drop its partitions.
async fn lock_and_drop_partitions(
    connection: &mut PgConnection,
    table: &str,
) -> Result<Vec<String>, StoreError> {
    let partitions = sqlx::query_scalar::<_, String>(
        "SELECT quote_ident(c.relname) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
         WHERE i.inhparent = to_regclass('omnilink.' || $1) ORDER BY c.relname",
    )
    .bind(table)
    .fetch_all(connection)
    .await?;
    let mut sql = vec![format!(
        "LOCK TABLE omnilink.{table} IN ACCESS EXCLUSIVE MODE"
    )];
    for old in partitions {
        sql.push(format!(
            "ALTER TABLE omnilink.{table} DETACH PARTITION omnilink.{old}"
        ));
        sql.push(format!("DROP TABLE omnilink.{old}"));
    }
    Ok(sql)
}

/// Renames the indexes of a renamed table, which keep its old name: the next rebuild needs that name for its own indexes.
async fn rename_indexes(
    connection: &mut PgConnection,
    from: &str,
    to: &str,
) -> Result<(), StoreError> {
    let renames = sqlx::query_scalar::<_, String>(
        "SELECT format('ALTER INDEX omnilink.%I RENAME TO %I', c.relname, $2 || substr(c.relname, length($1) + 1)) \
         FROM pg_class c WHERE c.relnamespace = 'omnilink'::regnamespace AND c.relkind IN ('i', 'I') \
           AND starts_with(c.relname, $1) \
           AND to_regclass(format('omnilink.%I', $2 || substr(c.relname, length($1) + 1))) IS NULL",
    )
    .bind(from)
    .bind(to)
    .fetch_all(&mut *connection)
    .await?;
    for rename in renames {
        sqlx::raw_sql(AssertSqlSafe(rename))
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// Executes several statements in one round trip.
async fn execute(connection: &mut PgConnection, statements: &[String]) -> Result<(), StoreError> {
    sqlx::raw_sql(AssertSqlSafe(statements.join("; ")))
        .execute(connection)
        .await?;
    Ok(())
}
