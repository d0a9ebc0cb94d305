//! Whether a request was answered before a crash: the run's partition of `commands` is read from the time of the request on.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    base::clock::Millis,
    commands::{
        Command,
        plan::{KIND, PlanAnswer},
    },
    log::{Log, LogError, partition_for},
    runs::PlanRequest,
};

/// The clocks of nodes and brokers may differ by this much, in milliseconds.
const SKEW_MS: i64 = 60_000;
/// The time limit: without a result the goal is planned again, and the run takes the first answer.
const LIMIT: Duration = Duration::from_secs(10);
const POLL_WAIT: Duration = Duration::from_millis(100);

/// Whether there is an answer. Blocks.
pub(super) fn is_answered(
    log: &Arc<dyn Log>,
    commands: &str,
    request: &PlanRequest,
) -> Result<bool, LogError> {
    let partition = partition_for(request.run_id.as_bytes(), log.partitions(commands)?);
    let from = Millis(request.at.saturating_sub(SKEW_MS));
    let from = log.offset_at(commands, partition, from)?;
    let end = log.offset_range(commands, partition)?.end;
    let mut reader = log.reader(commands)?;
    reader.assign(partition, from)?;
    let (began, mut next) = (Instant::now(), from);
    let mut records = Vec::new();
    while next < end && began.elapsed() < LIMIT {
        reader.poll(POLL_WAIT, &mut records)?;
        for fetched in records.drain(..) {
            next = fetched.offset + 1;
            let value = fetched.record.value.as_deref();
            if value.is_some_and(|value| answers(value, request)) {
                return Ok(true);
            }
        }
        if reader.at_end(partition) {
            break;
        }
    }
    Ok(false)
}

fn answers(value: &[u8], request: &PlanRequest) -> bool {
    let Some(command) = Command::decode(value) else {
        return false;
    };
    if command.run_id != request.run_id || command.kind != KIND {
        return false;
    }
    let answer = serde_json::from_str::<PlanAnswer>(&command.body);
    answer.is_ok_and(|answer| i64::try_from(answer.request) == Ok(request.seq))
}
