//! Batches in flight: tasks of the runtime write them one after the other over one connection. A second batch waits behind the first, so
//! that Postgres is never idle while there is work.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use sqlx::PgConnection;
use tokio::{sync::oneshot, task::JoinHandle};

use super::{
    assemble::Batch,
    error::ProjectionError,
    link::{Link, TIMEOUT},
    target::Target,
    write::{self, TransactionPart},
};
use crate::store::StoreError;

/// The most batches in flight.
const MAX_IN_FLIGHT: usize = 2;

/// A batch that was written.
pub(super) struct Written {
    pub(super) batch: Batch,
    pub(super) part: TransactionPart,
    /// The number of its transaction.
    pub(super) number: u64,
}

struct Failed {
    error: ProjectionError,
    /// The connection, if it can still be used; its transaction has ended.
    connection: Option<PgConnection>,
}

struct InFlight {
    task: JoinHandle<Result<Batch, Failed>>,
    part: TransactionPart,
    number: u64,
}

/// The state of the connection.
enum ConnectionState {
    /// There is no connection.
    None,
    /// Open, and not in use.
    Idle(PgConnection),
    /// In use by the last batch in flight, which sends it back if it succeeds.
    InUse(oneshot::Receiver<PgConnection>),
}

/// Writes batches in the order in which they are given.
pub(super) struct Writer {
    link: Link,
    target: Arc<Target>,
    connection: ConnectionState,
    in_flight: VecDeque<InFlight>,
}

impl Writer {
    pub(super) fn new(link: Link, target: Arc<Target>) -> Self {
        Self {
            link,
            target,
            connection: ConnectionState::None,
            in_flight: VecDeque::new(),
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.in_flight.len() >= MAX_IN_FLIGHT
    }

    /// Starts to write a batch of transaction `number`, after the batches in flight. If one of these fails, this batch is not written.
    pub(super) fn send(&mut self, batch: Batch, part: TransactionPart, number: u64) {
        let (return_connection, returned) = oneshot::channel();
        let state = std::mem::replace(&mut self.connection, ConnectionState::InUse(returned));
        let (link, target) = (self.link.clone(), Arc::clone(&self.target));
        let task = self.link.runtime.spawn(async move {
            let mut connection = match state {
                ConnectionState::None => None,
                ConnectionState::Idle(connection) => Some(connection),
                // The previous batch has its own timeout.
                ConnectionState::InUse(previous) => match previous.await {
                    Ok(connection) => Some(connection),
                    Err(_) => return Err(ProjectionError::Fenced.into()),
                },
            };
            let writing = async {
                let mut connection = link.connection(&mut connection).await?;
                let result = write::write(&mut connection, &target, &batch.rows, part).await;
                Ok::<_, ProjectionError>((connection, result))
            };
            let _call = link.call();
            match tokio::time::timeout(TIMEOUT, writing).await {
                Ok(Ok((connection, Ok(())))) => {
                    // After a reset the receiver is gone.
                    let _ = return_connection.send(connection);
                    Ok(batch)
                }
                Ok(Ok((connection, Err(error)))) => Err(Failed {
                    connection: error.keeps_connection().then_some(connection),
                    error,
                }),
                Ok(Err(error)) => Err(Failed::from(error)),
                Err(_) => Err(ProjectionError::from(StoreError::Timeout("writing a batch")).into()),
            }
        });
        self.in_flight.push_back(InFlight { task, part, number });
    }

    /// The oldest batch in flight, once it is written. With a `timeout` waits for it, and fails if that takes longer; without one
    /// returns `None` if the batch is not written yet. Also returns `None` if no batch is in flight.
    pub(super) fn next_written(
        &mut self,
        timeout: Option<Duration>,
    ) -> Result<Option<Written>, ProjectionError> {
        let Some(oldest) = self.in_flight.front() else {
            return Ok(None);
        };
        if timeout.is_none() && !oldest.task.is_finished() {
            return Ok(None);
        }
        let Some(mut oldest) = self.in_flight.pop_front() else {
            return Ok(None);
        };
        let timed_out = || ProjectionError::from(StoreError::Timeout("writing a batch"));
        let result = self.link.wait("writing a batch", async {
            let joined = tokio::time::timeout(timeout.unwrap_or(TIMEOUT), &mut oldest.task).await;
            // Joining the task only fails when the runtime shuts down.
            joined.map_err(|_| timed_out())?.map_err(|_| timed_out())
        });
        match result {
            Ok(Ok(batch)) => Ok(Some(Written {
                batch,
                part: oldest.part,
                number: oldest.number,
            })),
            Ok(Err(failed)) => {
                self.abandon();
                if let Some(connection) = failed.connection {
                    self.connection = ConnectionState::Idle(connection);
                }
                Err(failed.error)
            }
            Err(error) => {
                // Closing the connection ends the transaction. Whether it was committed before is read from the table.
                oldest.task.abort();
                self.abandon();
                Err(error)
            }
        }
    }

    /// Drops the batches in flight, and the connection with the transaction that may be open on it.
    pub(super) fn abandon(&mut self) {
        for batch in self.in_flight.drain(..) {
            batch.task.abort();
        }
        self.connection = ConnectionState::None;
    }

    /// Takes the connection for other use while no batch is in flight; [`Writer::put_back`] returns it.
    pub(super) async fn connection(&mut self) -> Result<PgConnection, ProjectionError> {
        let mut idle = match std::mem::replace(&mut self.connection, ConnectionState::None) {
            ConnectionState::None => None,
            ConnectionState::Idle(connection) => Some(connection),
            ConnectionState::InUse(returned) => returned.await.ok(),
        };
        self.link.connection(&mut idle).await
    }

    pub(super) fn put_back(&mut self, connection: PgConnection) {
        self.connection = ConnectionState::Idle(connection);
    }
}

impl From<ProjectionError> for Failed {
    fn from(error: ProjectionError) -> Self {
        Self {
            error,
            connection: None,
        }
    }
}
