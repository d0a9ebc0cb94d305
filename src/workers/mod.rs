//! Carries out calls of steps: an effect over the topic `steps` that calls HTTP workers and the builtin tools that access other systems,
//! and appends the results to `commands` (`docs/workers.md`). It skips calls for other kinds of workers.
//!
//! | file | holds |
//! |---|---|
//! | `dispatch` | one step command, from the record to the result |
//! | `request`, `lease` | the request to a worker; the lease with which it completes the call later |
//! | `http_tool` | the builtin tool `http` |
//! | `sql_query`, `record_create`, `database`, `database_tools` | the builtin tools that use a Postgres, and their connections |
//! | `sealed` | the values of placeholders in a call and in its outcome |
//! | `holds` | what the emergency controls hold |
//! | `answer` | the outcome of a call, from the answer; pure |
//! | `states`, `settings`, `seats`, `pacer` | which calls of a tool are sent, queued or held |
//! | `results` | appends results |
//! | `meters` | metrics |

mod answer;
mod database;
mod database_tools;
mod dispatch;
mod holds;
mod http_tool;
mod lease;
mod meters;
mod pacer;
mod record_create;
mod request;
mod results;
mod sealed;
mod seats;
mod settings;
mod sql_query;
mod states;

use std::{io, sync::Arc, time::Duration};

pub use self::{
    answer::{OUTPUT_MAX, read_output},
    database_tools::{BadUrl, DatabaseTools},
    dispatch::Parts,
    holds::reason as held_by,
    lease::{TaskId, is_lease, lease},
    results::{NotAppended, Results},
    seats::Activity,
    settings::DEFAULT_CONCURRENCY,
    states::ToolStates,
};
use self::{dispatch::Dispatch, states::SEATS};
pub use crate::http::BreakerState;
use crate::{
    base::clock::Clock,
    log::{Log, topics::Names},
    stream::{effect, progress::Progress},
};

/// The name of the effect, and of its consumer group.
pub const NAME: &str = "workers";
/// Longer than any attempt may take: calls end at their own deadlines.
const CALL_MAX: Duration = Duration::from_hours(8 * 24);
/// How long a stop waits for calls in flight.
pub const DRAIN: Duration = Duration::from_secs(10);

/// Starts the effect on the current runtime. Dropping the returned value waits for calls in flight, at most for [`Parts::drain`];
/// calls that have not ended by then are repeated by the next owner of their partitions, with the same idempotency key.
pub fn start(
    parts: Parts,
    log: &Arc<dyn Log>,
    names: &Names,
    progress: Arc<Progress>,
) -> io::Result<effect::Running> {
    let setup = effect::Setup {
        log: Arc::clone(log),
        name: NAME.to_owned(),
        topic: names.steps.to_string(),
        dlq: Arc::clone(&names.dlq),
        concurrency: SEATS,
        deadline: CALL_MAX,
        drain: parts.drain,
        clock: Arc::<dyn Clock>::clone(&parts.clock),
        runtime: tokio::runtime::Handle::current(),
        progress,
    };
    effect::start(Arc::new(Dispatch::new(parts)), setup)
}
