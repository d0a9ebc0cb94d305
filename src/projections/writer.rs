//! Batches on their way: written one after the other over one connection, by tasks of the runtime. A second one waits
//! behind the first, so that Postgres never waits for us while there is work.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use sqlx::PgConnection;
use tokio::{sync::oneshot, task::JoinHandle};

use super::{
    assemble::Batch,
    error::ProjectionError,
    link::{DEADLINE, Link},
    target::Target,
    write::{self, Place},
};
use crate::store::StoreError;

/// Batches on their way at once.
const DEPTH: usize = 2;

/// A batch that was written.
pub(super) struct Written {
    pub(super) batch: Batch,
    pub(super) place: Place,
    /// The transaction's.
    pub(super) number: u64,
}

struct Failed {
    error: ProjectionError,
    /// If it is good still, and its transaction over.
    connection: Option<PgConnection>,
}

struct Flight {
    task: JoinHandle<Result<Batch, Failed>>,
    place: Place,
    number: u64,
}

/// Where the connection is.
enum Held {
    /// There is none yet.
    Not,
    Here(PgConnection),
    /// With a batch; comes when that was written, never if it was not.
    Away(oneshot::Receiver<PgConnection>),
}

/// Writes batches in the order in which they are given.
pub(super) struct Writer {
    link: Link,
    target: Arc<Target>,
    held: Held,
    flights: VecDeque<Flight>,
}

impl Writer {
    pub(super) fn new(link: Link, target: Arc<Target>) -> Self {
        Self {
            link,
            target,
            held: Held::Not,
            flights: VecDeque::new(),
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.flights.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.flights.len() >= DEPTH
    }

    /// Gives it a batch, of transaction `number`. A batch behind one that fails is not written.
    pub(super) fn send(&mut self, batch: Batch, place: Place, number: u64) {
        let (give, next) = oneshot::channel();
        let held = std::mem::replace(&mut self.held, Held::Away(next));
        let (link, target) = (self.link.clone(), Arc::clone(&self.target));
        let task = self.link.runtime.spawn(async move {
            let mut connection = match held {
                Held::Not => None,
                Held::Here(connection) => Some(connection),
                // The one before has its own deadline.
                Held::Away(before) => match before.await {
                    Ok(connection) => Some(connection),
                    Err(_) => return Err(ProjectionError::Fenced.into()),
                },
            };
            let writing = async {
                let mut connection = link.connection(&mut connection).await?;
                let result = write::write(&mut connection, &target, &batch.rows, place).await;
                Ok::<_, ProjectionError>((connection, result))
            };
            let _call = link.call();
            match tokio::time::timeout(DEADLINE, writing).await {
                Ok(Ok((connection, Ok(())))) => {
                    // Nobody waits for it any more after a reset.
                    let _ = give.send(connection);
                    Ok(batch)
                }
                Ok(Ok((connection, Err(error)))) => Err(Failed {
                    connection: error.spares_connection().then_some(connection),
                    error,
                }),
                Ok(Err(error)) => Err(Failed::from(error)),
                Err(_) => Err(ProjectionError::from(StoreError::Timeout("writing a batch")).into()),
            }
        });
        self.flights.push_back(Flight {
            task,
            place,
            number,
        });
    }

    /// The next batch that was written: if it is done, or once it is, within `patience`. `None`: none is done, or
    /// there is none.
    pub(super) fn next(
        &mut self,
        patience: Option<Duration>,
    ) -> Result<Option<Written>, ProjectionError> {
        let Some(flight) = self.flights.front() else {
            return Ok(None);
        };
        if patience.is_none() && !flight.task.is_finished() {
            return Ok(None);
        }
        let Some(mut flight) = self.flights.pop_front() else {
            return Ok(None);
        };
        let late = || ProjectionError::from(StoreError::Timeout("writing a batch"));
        let flown = self.link.wait("writing a batch", async {
            let flown = tokio::time::timeout(patience.unwrap_or(DEADLINE), &mut flight.task).await;
            // A task fails only with the runtime.
            flown.map_err(|_| late())?.map_err(|_| late())
        });
        match flown {
            Ok(Ok(batch)) => Ok(Some(Written {
                batch,
                place: flight.place,
                number: flight.number,
            })),
            Ok(Err(failed)) => {
                self.abandon();
                if let Some(connection) = failed.connection {
                    self.held = Held::Here(connection);
                }
                Err(failed.error)
            }
            Err(error) => {
                // With the connection the transaction ends, unless it was committed: the table will tell.
                flight.task.abort();
                self.abandon();
                Err(error)
            }
        }
    }

    /// Drops what is on its way, and the connection with the transaction that may be open on it.
    pub(super) fn abandon(&mut self) {
        for flight in self.flights.drain(..) {
            flight.task.abort();
        }
        self.held = Held::Not;
    }

    /// The connection, for other use while no batch is on its way; [`Writer::keep`] gives it back.
    pub(super) async fn connection(&mut self) -> Result<PgConnection, ProjectionError> {
        let mut kept = match std::mem::replace(&mut self.held, Held::Not) {
            Held::Not => None,
            Held::Here(connection) => Some(connection),
            Held::Away(next) => next.await.ok(),
        };
        self.link.connection(&mut kept).await
    }

    pub(super) fn keep(&mut self, connection: PgConnection) {
        self.held = Held::Here(connection);
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
