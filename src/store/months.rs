//! Tables partitioned by month: which partitions there are, and making those that are missing.
//!
//! A row never pays for this: it falls into the default partition when its month is missing, and is moved out of there
//! when the month is made.

use std::collections::BTreeSet;

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::StoreError;
use crate::base::clock::{Clock, Millis};

/// One at a time makes partitions, in all of a database.
const LOCK: i64 = 0x6f6d_6e69_6d6f_6e74;
/// Months that are made at all: earlier or much later ones come from broken clocks and stay in the default partition.
const FIRST: Month = Month(2000 * 12);
const AHEAD: i32 = 1;

/// The tables that are partitioned by month, all in the schema `omnilink`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ByMonth {
    /// The table.
    pub table: &'static str,
    /// The column that decides.
    pub column: &'static str,
    /// Partitions carry a check of their bounds, named [`CHECK`]: with it they can be attached elsewhere unread.
    pub checked: bool,
}

/// The name of the check of a partition's bounds.
pub(crate) const CHECK: &str = "within_month";

/// `events`.
pub const EVENTS: ByMonth = ByMonth {
    table: "events",
    column: "received_at",
    checked: false,
};

/// A calendar month in UTC: year × 12 + month from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Month(i32);

impl Month {
    /// The month of a moment.
    pub fn of(at: Millis) -> Self {
        let days = at.0.div_euclid(86_400_000);
        // Days to a civil date: Howard Hinnant's `civil_from_days`, shifted so that years begin in March.
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

    /// The month after.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Its first moment.
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

    /// Whether a partition is made for it when `now` is the time.
    pub fn sensible(self, now: Millis) -> bool {
        self >= FIRST && self.0 <= Self::of(now).0 + AHEAD
    }

    /// `2025_01`.
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

    /// Its first moment as SQL text.
    fn bound(self) -> String {
        format!(
            "{:04}-{:02}-01 00:00:00+00",
            self.0.div_euclid(12),
            self.0.rem_euclid(12) + 1
        )
    }

    /// A condition that holds for the rows of this month.
    pub(crate) fn condition(self, column: &str) -> String {
        format!(
            "{column} >= '{}' AND {column} < '{}'",
            self.bound(),
            self.next().bound()
        )
    }

    /// `FOR VALUES FROM … TO …`.
    pub(crate) fn for_values(self) -> String {
        format!(
            "FOR VALUES FROM ('{}') TO ('{}')",
            self.bound(),
            self.next().bound()
        )
    }

    /// The name of its partition.
    pub(crate) fn partition(self, table: &str) -> String {
        format!("{table}_{}", self.suffix())
    }
}

/// The months that have a partition.
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

/// Makes the partitions of this month and the next, and answers with the names of those that were missing.
pub async fn ensure_ahead(
    connection: &mut PgConnection,
    table: ByMonth,
    clock: impl Clock,
) -> Result<Vec<String>, StoreError> {
    let month = Month::of(clock.now());
    let there = existing(connection, table.table).await?;
    let mut made = Vec::new();
    for month in [month, month.next()] {
        if !there.contains(&month) {
            made.extend(ensure(connection, table, month).await?);
        }
    }
    Ok(made)
}

/// Makes the partition of a month, with the rows of that month that lie in the default partition; answers with its name,
/// or `None` if it was there. Readers and writers go on: the table itself is never locked against them, the default
/// partition for a moment. Gives up when that lock is not to be had within a
/// second: rows then go to the default partition.
pub async fn ensure(
    connection: &mut PgConnection,
    table: ByMonth,
    month: Month,
) -> Result<Option<String>, StoreError> {
    let ByMonth {
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
    fn broken_clocks_get_no_partition() {
        let now = Month(2025 * 12).start();
        assert!(Month(2025 * 12 + 1).sensible(now) && Month(2010 * 12).sensible(now));
        assert!(!Month(2025 * 12 + 2).sensible(now) && !Month(1970 * 12).sensible(now));
    }
}
