//! The monthly partitions of `events`, created before a batch needs them.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use sqlx::PgConnection;

use super::link::Link;
use crate::{
    base::clock::Millis,
    store::months::{self, Month, MonthlyTable},
};

/// The pause after a partition could not be created.
const RETRY_PAUSE: Duration = Duration::from_mins(1);

/// The months that are known to have a partition.
#[derive(Debug, Default)]
pub(super) struct MonthlyPartitions {
    existing: BTreeSet<Month>,
    /// After a failure no partition is created before this time.
    retry_at: Option<Instant>,
}

impl MonthlyPartitions {
    pub(super) fn set_existing(&mut self, months: BTreeSet<Month>) {
        self.existing = months;
    }

    /// Creates the missing partitions for the months of a batch. If that fails, rows go to the default partition, and are moved when the
    /// partition is created later.
    pub(super) fn create_missing(
        &mut self,
        link: &Link,
        idle: &mut Option<PgConnection>,
        table: MonthlyTable,
        months: &BTreeSet<Month>,
        now: Millis,
    ) {
        // The next month as well, so that its partition exists when it begins.
        let last = months.last().filter(|month| **month == Month::of(now));
        let wanted = months.iter().copied().chain(last.map(|month| month.next()));
        let missing: Vec<Month> = wanted
            .filter(|month| !self.existing.contains(month) && month.gets_partition(now))
            .collect();
        if self.retry_at.is_some_and(|at| Instant::now() < at) {
            return;
        }
        for month in missing {
            let created = link.wait("creating a partition", async {
                let mut connection = link.connection(idle).await?;
                months::ensure(&mut connection, table, month).await?;
                *idle = Some(connection);
                Ok(())
            });
            match created {
                Ok(()) => {
                    self.existing.insert(month);
                }
                Err(error) => {
                    self.retry_at = Some(Instant::now() + RETRY_PAUSE);
                    tracing::warn!(?month, %error, "cannot create a partition; its rows go to the default partition");
                    return;
                }
            }
        }
    }
}
