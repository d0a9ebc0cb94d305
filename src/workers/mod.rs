//! What carries out the calls of steps: the effect over the topic `steps` that calls HTTP workers and the builtin tool `http`, and
//! writes how the calls ended to `commands` (`docs/workers.md`). Calls for other workers are passed over.
//!
//! | file | holds |
//! |---|---|
//! | `dispatch` | one step command, from the record to the result |
//! | `request`, `lease` | the request to a worker, what completes it later |
//! | `http_tool` | the builtin tool `http` |
//! | `holds` | what the emergency controls hold |
//! | `answer`, `retry_after` | what an answer means, pure |
//! | `states`, `settings`, `seats`, `turns`, `breaker` | which calls of a tool go, wait, or are held back |
//! | `results` | appends results, many at a time |
//! | `meters` | metrics |

mod answer;
mod breaker;
mod dispatch;
mod holds;
mod http_tool;
mod lease;
mod meters;
mod request;
mod results;
mod retry_after;
mod seats;
mod settings;
mod states;
mod turns;

use std::{io, sync::Arc, time::Duration};

pub use self::{
    answer::{OUTPUT_MAX, read_output},
    breaker::State as BreakerState,
    dispatch::Parts,
    holds::reason as held_by,
    lease::{TaskId, is_lease, lease},
    results::{NotKept, Results},
    seats::Activity,
    settings::DEFAULT_CONCURRENCY,
    states::ToolStates,
};
use self::{dispatch::Dispatch, states::SEATS};
use crate::{
    base::clock::Clock,
    log::{Log, topics::Names},
    stream::{effect, progress::Progress},
};

/// The name of the effect, and of its consumer group.
pub const NAME: &str = "workers";
/// Beyond the longest attempt: calls end by their own deadlines.
const CALL_MAX: Duration = Duration::from_hours(8 * 24);
/// How long a stop waits for calls in flight.
pub const DRAIN: Duration = Duration::from_secs(10);

/// Starts to carry out calls, on the runtime that this is called in. Dropping what it returns waits for calls in flight, for
/// [`Parts::drain`] at most; those that have not ended by then are repeated, with the same idempotency key.
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
