//! Tables partitioned by month: lists the existing partitions and creates the missing ones.
//!
//! A row never waits for a partition. If its month is missing, it goes to the default partition, and is moved when the month's
//! partition is created.

use std::collections::BTreeSet;

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::StoreError;
use crate::base::clock::{Clock, Millis};

/// The key of the advisory lock that serializes the creation of partitions in a database: `omnimont` in ASCII.
const LOCK: i64 = 0x6f6d_6e69_6d6f_6e74;
/// The first month that gets a partition. Earlier rows come from wrong clocks and stay in the default partition.
const FIRST: Month = Month(2000 * 12);
/// How many months after the current one get a partition. Later rows come from wrong clocks.
const MONTHS_AHEAD: i32 = 1;

/// A table in the schema `omnilink` that is partitioned by month.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MonthlyTable {
    /// The table's name, without the schema.
    pub table: &'static str,
    /// The `timestamptz` column that determines the month.
    pub column: &'static str,
    /// Whether partitions have a check constraint on their bounds, named [`CHECK`]. With it Postgres attaches them to another
    /// table without scanning the rows.
    pub checked: bool,
}

/// The name of the check constraint on a partition's bounds.
pub(crate) const CHECK: &str = "within_month";

/// The table `events`.
pub const EVENTS: MonthlyTable = MonthlyTable {
    table: "events",
    column: "received_at",
    checked: false,
};

/// A calendar month in UTC, stored as year × 12 + month (from 0).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Month(i32);

impl Month {
    /// The month that contains a time.
    pub fn of(at: Millis) -> Self {
        let days = at.0.div_euclid(86_400_000);
        // Howard Hinnant's `civil_from_days`: days since the epoch to a civil date, with years that begin in March.
        let z = days + 719_468;
        let era = z.div_euclid(146_097);
        let day_of_era = z.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        let month = (from_march + 2) % 12;
        let year = era * 400 + year_of_era + i64::from(month < 2);
        Self((year * 12 + month) as i32)
    }

    /// The following month.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The first millisecond of the month.
    pub fn start(self) -> Millis {
        let (year, month) = (
            i64::from(self.0.div_euclid(12)),
            i64::from(self.0.rem_euclid(12)),
        );
        let (year, from_march) = if month < 2 {
            (year - 1, month + 10)
        } else {
            (year, month - 2)
        };
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let day_of_era =
            year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + (153 * from_march + 2) / 5;
        Millis((era * 146_097 + day_of_era - 719_468) * 86_400_000)
    }

    /// Whether the month gets a partition, at the time `now`.
    pub fn gets_partition(self, now: Millis) -> bool {
        self >= FIRST && self.0 <= Self::of(now).0 + MONTHS_AHEAD
    }

    /// The suffix of the partition's name, such as `2025_01`.
    fn suffix(self) -> String {
        format!(
            "{:04}_{:02}",
            self.0.div_euclid(12),
            self.0.rem_euclid(12) + 1
        )
    }

    fn parse(suffix: &str) -> Option<Self> {
        let (year, month) = suffix.split_once('_')?;
        let month: i32 = month.parse().ok().filter(|m| (1..=12).contains(m))?;
        Some(Self(year.parse::<i32>().ok()? * 12 + month - 1))
    }

    /// The start of the month as an SQL literal.
    fn bound(self) -> String {
        format!(
            "{:04}-{:02}-01 00:00:00+00",
            self.0.div_euclid(12),
            self.0.rem_euclid(12) + 1
        )
    }

    /// An SQL condition that selects the rows of this month.
    pub(crate) fn condition(self, column: &str) -> String {
        format!(
            "{column} >= '{}' AND {column} < '{}'",
            self.bound(),
            self.next().bound()
        )
    }

    /// The partition bounds: `FOR VALUES FROM … TO …`.
    pub(crate) fn for_values(self) -> String {
        format!(
            "FOR VALUES FROM ('{}') TO ('{}')",
            self.bound(),
            self.next().bound()
        )
    }

    /// The name of the partition of `table` for this month.
    pub(crate) fn partition(self, table: &str) -> String {
        format!("{table}_{}", self.suffix())
    }
}

/// The months for which `table` has a partition.
pub async fn existing(
    connection: &mut PgConnection,
    table: &str,
) -> Result<BTreeSet<Month>, StoreError> {
    let names = sqlx::query_scalar::<_, String>(
        "SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
         WHERE i.inhparent = to_regclass('omnilink.' || $1)",
    )
    .bind(table)
    .fetch_all(connection)
    .await?;
    Ok(names
        .iter()
        .filter_map(|name| {
            name.strip_prefix(table)?
                .strip_prefix('_')
                .and_then(Month::parse)
        })
        .collect())
}

/// Creates the partitions of this month and the next; returns the names of those that were missing.
pub async fn ensure_ahead(
    connection: &mut PgConnection,
    table: MonthlyTable,
    clock: impl Clock,
) -> Result<Vec<String>, StoreError> {
    let month = Month::of(clock.now());
    let existing = existing(connection, table.table).await?;
    let mut created = Vec::new();
    for month in [month, month.next()] {
        if !existing.contains(&month) {
            created.extend(ensure(connection, table, month).await?);
        }
    }
    Ok(created)
}

/// Creates the partition of a month and moves the month's rows there from the default partition. Returns the partition's name, or
/// `None` if it exists already.
///
/// The table itself stays readable and writable; the default partition is locked while its rows are moved. Fails with a retriable
/// error if that lock cannot be had within a second. Until the next attempt, rows go to the default partition.
pub async fn ensure(
    connection: &mut PgConnection,
    table: MonthlyTable,
    month: Month,
) -> Result<Option<String>, StoreError> {
    let MonthlyTable {
        table,
        column,
        checked,
    } = table;
    let name = month.partition(table);
    let mut transaction = connection.begin().await?;
    sqlx::raw_sql("SET LOCAL lock_timeout = '1s'")
        .execute(&mut *transaction)
        .await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(LOCK)
        .execute(&mut *transaction)
        .await?;
    if existing(&mut transaction, table).await?.contains(&month) {
        return Ok(None);
    }
    let (condition, for_values) = (month.condition(column), month.for_values());
    let check = if checked {
        format!(", CONSTRAINT {CHECK} CHECK ({condition})")
    } else {
        String::new()
    };
    let sql = format!(
        "CREATE TABLE omnilink.{name} (LIKE omnilink.{table} INCLUDING ALL{check}); \
         ALTER TABLE omnilink.{name} ENABLE ROW LEVEL SECURITY; \
         LOCK TABLE omnilink.{table}_default IN SHARE ROW EXCLUSIVE MODE; \
         WITH moved AS (DELETE FROM omnilink.{table}_default WHERE {condition} RETURNING *) \
         INSERT INTO omnilink.{name} SELECT * FROM moved; \
         ALTER TABLE omnilink.{table} ATTACH PARTITION omnilink.{name} {for_values}"
    );
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_begin_where_the_calendar_says() {
        let cases = [
            ("1970-01-01T00:00:00Z", "1970_01"),
            ("1969-12-31T23:59:59.999Z", "1969_12"),
            ("2000-02-29T12:00:00Z", "2000_02"),
            ("2024-12-31T23:59:59.999Z", "2024_12"),
            ("2025-01-01T00:00:00Z", "2025_01"),
            ("2100-03-01T00:00:00Z", "2100_03"),
        ];
        for (text, suffix) in cases {
            let at = Millis(text.parse::<jiff::Timestamp>().unwrap().as_millisecond());
            let month = Month::of(at);
            assert_eq!(month.suffix(), suffix, "{text}");
            assert_eq!(Month::parse(suffix), Some(month));
            assert!(month.start() <= at && at < month.next().start());
            assert_eq!(Month::of(month.start()), month);
            assert_eq!(Month::of(Millis(month.start().0 - 1)).next(), month);
        }
    }

    #[test]
    fn months_far_from_now_get_no_partition() {
        let now = Month(2025 * 12).start();
        assert!(Month(2025 * 12 + 1).gets_partition(now) && Month(2010 * 12).gets_partition(now));
        assert!(!Month(2025 * 12 + 2).gets_partition(now) && !Month(1970 * 12).gets_partition(now));
    }
}
