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
/// The end of the name of a new table.
pub(super) const SUFFIX: &str = "_rebuild";

/// A table with one partition, `{name}_all`, which a rebuild replaces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Whole {
    schema: &'static str,
    name: &'static str,
    /// Storage parameters of its partition.
    with: &'static str,
}

const ENTITIES_TABLE: Whole = Whole {
    with: "WITH (fillfactor = 70)",
    ..Whole::of("omnilink", "entities")
};

/// The tables of the projection `audit`.
pub(super) const AUDIT_TABLES: &[Whole] = &[
    Whole::of("omnilink", "audit_log"),
    Whole::of("omnilink", "rejections"),
];
/// The tables of the projection `runs`.
pub(super) const RUN_TABLES: &[Whole] = &[
    Whole::filled("runs"),
    Whole::filled("run_steps"),
    Whole {
        with: "WITH (toast_tuple_target = 8160)",
        ..Whole::of("omnilink", "run_history")
    },
    Whole::of("omnilink", "approvals"),
];
/// The table of the projection `tasks`.
pub(super) const TASK_TABLES: &[Whole] = &[Whole::filled("tasks")];
/// The table of the projection `odoo`.
pub(super) const ODOO_TABLES: &[Whole] = &[Whole::of("odoo", "webhook_events")];

impl Whole {
    const fn of(schema: &'static str, name: &'static str) -> Self {
        Self {
            schema,
            name,
            with: "",
        }
    }

    /// One whose rows change often.
    const fn filled(name: &'static str) -> Self {
        Self {
            with: "WITH (fillfactor = 80)",
            ..Self::of("omnilink", name)
        }
    }

    /// The new table, with its schema.
    fn new_table(self) -> String {
        format!("{}.{}{SUFFIX}", self.schema, self.name)
    }

    /// The statements that create the new table, empty, and drop one that an earlier rebuild left behind.
    fn create(self) -> Vec<String> {
        let Self { schema, name, with } = self;
        let new = self.new_table();
        vec![
            format!("DROP TABLE IF EXISTS {new}"),
            format!("CREATE TABLE {new} (LIKE {schema}.{name} INCLUDING ALL) {with}"),
            format!("ALTER TABLE {new} ENABLE ROW LEVEL SECURITY"),
        ]
    }

    async fn swap(self, transaction: &mut PgConnection) -> Result<(), StoreError> {
        let Self { schema, name, .. } = self;
        let mut sql = lock_and_drop_partitions(transaction, schema, name).await?;
        sql.extend([
            format!("ALTER TABLE {} RENAME TO {name}_all", self.new_table()),
            format!(
                "ALTER TABLE {schema}.{name} ATTACH PARTITION {schema}.{name}_all FOR VALUES FROM (MINVALUE) TO (MAXVALUE)"
            ),
        ]);
        execute(transaction, &sql).await?;
        let (from, to) = (format!("{name}{SUFFIX}"), format!("{name}_all"));
        rename_indexes(transaction, schema, &from, &to).await
    }
}

/// The tables of one rebuild.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NewTables {
    /// `events` and `entities`.
    OfEvents(RebuildTables),
    /// Tables of other projections, which are rebuilt completely.
    Whole(&'static [Whole]),
}

impl NewTables {
    /// Whether they are all that their projections write: then a log that has lost its end, or a recreated topic, is accepted as it is.
    pub(super) fn are_all(self) -> bool {
        match self {
            Self::OfEvents(tables) => tables.events && tables.entities,
            Self::Whole(_) => true,
        }
    }

    /// Creates the new tables, empty, and drops those that an earlier rebuild left behind.
    pub(super) async fn create(self, connection: &mut PgConnection) -> Result<(), StoreError> {
        match self {
            Self::OfEvents(tables) => tables.create(connection).await,
            Self::Whole(tables) => {
                let sql: Vec<String> = tables.iter().flat_map(|table| table.create()).collect();
                execute(connection, &sql).await
            }
        }
    }

    /// Collects planner statistics of the new tables, before queries use them.
    pub(super) async fn analyze(self, connection: &mut PgConnection) -> Result<(), StoreError> {
        match self {
            Self::OfEvents(tables) => tables.analyze(connection).await,
            Self::Whole(tables) => {
                for table in tables {
                    execute(connection, &[format!("ANALYZE {}", table.new_table())]).await?;
                }
                Ok(())
            }
        }
    }

    /// Replaces the partitions of the live tables by the new ones, in the caller's transaction.
    pub(super) async fn swap(self, transaction: &mut PgConnection) -> Result<(), StoreError> {
        match self {
            Self::OfEvents(tables) => tables.swap(transaction).await,
            Self::Whole(tables) => {
                for table in tables {
                    table.swap(transaction).await?;
                }
                Ok(())
            }
        }
    }
}

/// Which tables are rebuilt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RebuildTables {
    /// `omnilink.events`.
    pub events: bool,
    /// `omnilink.entities`.
    pub entities: bool,
}

impl RebuildTables {
    async fn create(self, connection: &mut PgConnection) -> Result<(), StoreError> {
        let events = EVENTS.table;
        let mut sql = vec![
            format!("DROP TABLE IF EXISTS omnilink.{events}"),
            format!("DROP TABLE IF EXISTS omnilink.{ENTITIES}"),
        ];
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
            sql.extend(ENTITIES_TABLE.create());
        }
        execute(connection, &sql).await
    }

    async fn analyze(self, connection: &mut PgConnection) -> Result<(), StoreError> {
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

    async fn swap(self, transaction: &mut PgConnection) -> Result<(), StoreError> {
        if self.events {
            swap_events(transaction).await?;
        }
        if self.entities {
            ENTITIES_TABLE.swap(transaction).await?;
        }
        Ok(())
    }
}

async fn swap_events(transaction: &mut PgConnection) -> Result<(), StoreError> {
    let live = months::EVENTS.table;
    let new = EVENTS.table;
    let mut sql = lock_and_drop_partitions(transaction, "omnilink", live).await?;
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
    rename_indexes(transaction, "omnilink", new, live).await
}

/// The statements that lock a table and drop its partitions.
async fn lock_and_drop_partitions(
    connection: &mut PgConnection,
    schema: &str,
    table: &str,
) -> Result<Vec<String>, StoreError> {
    let partitions = sqlx::query_scalar::<_, String>(
        "SELECT quote_ident(c.relname) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
         WHERE i.inhparent = to_regclass($1 || '.' || $2) ORDER BY c.relname",
    )
    .bind(schema)
    .bind(table)
    .fetch_all(connection)
    .await?;
    let mut sql = vec![format!(
        "LOCK TABLE {schema}.{table} IN ACCESS EXCLUSIVE MODE"
    )];
    for old in partitions {
        sql.push(format!(
            "ALTER TABLE {schema}.{table} DETACH PARTITION {schema}.{old}"
        ));
        sql.push(format!("DROP TABLE {schema}.{old}"));
    }
    Ok(sql)
}

/// Renames the indexes of a renamed table, which keep its old name: the next rebuild needs that name for its own indexes.
async fn rename_indexes(
    connection: &mut PgConnection,
    schema: &str,
    from: &str,
    to: &str,
) -> Result<(), StoreError> {
    let renames = sqlx::query_scalar::<_, String>(
        "SELECT format('ALTER INDEX %I.%I RENAME TO %I', $3, c.relname, $2 || substr(c.relname, length($1) + 1)) \
         FROM pg_class c WHERE c.relnamespace = to_regnamespace($3) AND c.relkind IN ('i', 'I') \
           AND starts_with(c.relname, $1) \
           AND to_regclass(format('%I.%I', $3, $2 || substr(c.relname, length($1) + 1))) IS NULL",
    )
    .bind(from)
    .bind(to)
    .bind(schema)
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
