//! `POST /v1/tasks/claim` and `/v1/tasks/heartbeat`, for workers that fetch their work. The queue and the leases are in a table.
//!
//! ```text
//!   claim ─► leases, in one transaction ─► first claims are reported to the runs ─► refused ones are left out ─► answer
//! ```

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::Json;
use futures_util::{StreamExt, stream::FuturesUnordered};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use tokio::time::timeout;
use uuid::Uuid;

use super::{
    audit::{read, store},
    caller::{Caller, Permitted, Sent},
    claimed_values::{self, Failed},
};
use crate::{
    api::{
        problem::STALE_LEASE,
        tasks::{
            CLAIM_MAX, ClaimTasks, ClaimedTask, ClaimedTasks, ExtendedLease, Heartbeat, HeldTool,
            LEASE_MAX_S, LEASE_S, TOOLS_MAX, WAIT_MAX_S,
        },
    },
    base::{clock::Millis, hex::hex},
    commands::{
        Command,
        result::{CLAIMED, StepClaimed},
    },
    log::{Append, Position},
    port::{
        gate,
        problem::{Problem, Refused},
    },
    runs::{CallKind, idempotency_key},
    saga::{Answer, Follower, Notice},
    store::{
        Store,
        tasks::{self, Allowed, ClaimedRow, Claimer, LeaseHash, Standing, Wanted},
    },
    telemetry::metrics::TASK_CLAIMS,
    workers::{TaskId, held_by},
};

/// The bytes of a lease. Its text has twice as many digits, and its length differs from that of a 202's lease.
const LEASE_BYTES: usize = 24;
/// The time limit for the append.
const APPEND_DEADLINE: Duration = Duration::from_secs(5);
/// How long a run has to confirm that it knows the task. Without an answer the task is handed out, and a result that comes too late is
/// undone.
const ANSWER_DEADLINE: Duration = Duration::from_secs(1);
/// How often the answers of runs on other nodes are polled.
const ANSWER_EVERY: Duration = Duration::from_millis(50);
/// How often a waiting claim checks the controls.
const CONTROLS_EVERY: Duration = Duration::from_millis(500);
/// The pause of a claim that was woken but got no task: a limit holds the tasks back, or other claims were faster.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// The parameters of a claim.
struct ClaimRequest {
    tools: Vec<String>,
    max: usize,
    wait: Duration,
    lease: Duration,
}

/// `POST /v1/tasks/claim`.
pub(crate) async fn claim(Sent(caller, body): Sent<Caller>) -> Result<Json<ClaimedTasks>, Refused> {
    let request: ClaimTasks = caller.body(body)?;
    let claim_request = ClaimRequest::of(&caller, request)?;
    let caller = caller.permit()?;
    let shared = &caller.shared;
    let until = Instant::now() + claim_request.wait;
    let mut slot = None;
    loop {
        // This is checked in the loop because an operator may disable workers while the claim waits.
        let open = gate::kill_switch(shared).and_then(|()| gate::feature(shared, "workers"));
        open.map_err(|problem| caller.refuse(problem))?;
        let (wanted, held) = claim_request.wanted(&caller);
        if !wanted.is_empty() {
            let store = store(&caller)?;
            let tasks = claim_tasks(&caller, &store, &claim_request, &wanted).await?;
            if !tasks.is_empty() {
                return Ok(Json(ClaimedTasks { tasks, held }));
            }
        }
        if Instant::now() >= until || shared.stopping.is_cancelled() {
            let tasks = Vec::new();
            return Ok(Json(ClaimedTasks { tasks, held }));
        }
        if slot.is_none() {
            let entered = shared.waits.enter();
            slot = Some(entered.map_err(|problem| caller.refuse(problem))?);
        } else if held.is_empty() {
            pause(&caller, until, RETRY_PAUSE).await;
        }
        let tools = wanted.into_iter().map(|wanted| wanted.tool).collect();
        wait(&caller, tools, until, &claim_request).await;
    }
}

/// Waits until a task may be available, a control changes, or the time is over.
async fn wait(
    caller: &Permitted,
    tools: Vec<String>,
    until: Instant,
    claim_request: &ClaimRequest,
) {
    let shared = &caller.shared;
    let known = tools.len();
    let tenant = caller.key.tenant.as_str();
    let mut waiting = shared.claim_waits.wait(&shared.tables, tenant, tools);
    while Instant::now() < until && !shared.stopping.is_cancelled() {
        tokio::select! {
            () = waiting.woken() => return,
            () = pause(caller, until, CONTROLS_EVERY) => {}
        }
        let closed =
            gate::kill_switch(shared).is_err() || shared.controls.disabled("workers").is_some();
        if closed || claim_request.wanted(caller).0.len() != known {
            return;
        }
    }
}

/// Waits for `most`, but at most until `until` or until the node stops.
async fn pause(caller: &Permitted, until: Instant, most: Duration) {
    let left = until.saturating_duration_since(Instant::now());
    tokio::select! {
        () = tokio::time::sleep(left.min(most)) => {}
        () = caller.shared.stopping.cancelled() => {}
    }
}

impl ClaimRequest {
    fn of(caller: &Caller, request: ClaimTasks) -> Result<Self, Refused> {
        let mut tools = request.tools.ok_or_else(|| caller.missing("tools"))?;
        tools.sort_unstable();
        tools.dedup();
        if tools.is_empty() || tools.len() > TOOLS_MAX || tools.iter().any(String::is_empty) {
            let wrong = format!("`tools` must have 1 to {TOOLS_MAX} names");
            return Err(caller.invalid(wrong));
        }
        let max = request.max.unwrap_or(1);
        if !(1..=CLAIM_MAX).contains(&max) {
            return Err(caller.invalid(format!("`max` must be 1 to {CLAIM_MAX}")));
        }
        let wait_s = request.wait_s.unwrap_or(0);
        if wait_s > WAIT_MAX_S {
            return Err(caller.invalid(format!("`wait_s` must be at most {WAIT_MAX_S}")));
        }
        let lease = lease_time(caller, request.lease_s)?;
        Ok(Self {
            tools,
            max,
            wait: Duration::from_secs(wait_s),
            lease: lease.unwrap_or(Duration::from_secs(LEASE_S)),
        })
    }

    /// The tools whose tasks may run now, with their limits in force, and the tools that a control holds.
    fn wanted(&self, caller: &Permitted) -> (Vec<Wanted>, Vec<HeldTool>) {
        let emergency = caller.shared.controls.emergency();
        let catalog = caller.shared.workflows.get();
        let (mut wanted, mut held) = (Vec::new(), Vec::new());
        for tool in &self.tools {
            let definition = catalog.tool(tool).map(|definition| &definition.tool);
            let kind = definition.and_then(|tool| tool.kind);
            if let Some(reason) = held_by(&emergency, tool, kind) {
                held.push(HeldTool {
                    tool: tool.clone(),
                    reason: reason.into_owned(),
                });
                continue;
            }
            let limit = definition.and_then(|tool| tool.limit.as_ref());
            wanted.push(Wanted {
                tool: tool.clone(),
                limit: limit.map(|limit| Allowed {
                    concurrency: limit.concurrency,
                    rate: limit.rate.map(|rate| (rate.limit, rate.window_s)),
                    keyed: limit.key.is_some(),
                }),
            });
        }
        (wanted, held)
    }
}

fn lease_time(caller: &Caller, seconds: Option<u64>) -> Result<Option<Duration>, Refused> {
    match seconds {
        Some(0 | LEASE_TOO_LONG_S..) => {
            Err(caller.invalid(format!("`lease_s` must be 1 to {LEASE_MAX_S}")))
        }
        seconds => Ok(seconds.map(Duration::from_secs)),
    }
}

const LEASE_TOO_LONG_S: u64 = LEASE_MAX_S + 1;

/// The hash of a lease made by [`claim_tasks`]; `None` if the text is not one.
pub(super) fn hash(lease: &str) -> Option<LeaseHash> {
    let digits = lease.len() == 2 * LEASE_BYTES && lease.bytes().all(|b| b.is_ascii_hexdigit());
    digits.then(|| Sha256::digest(lease.as_bytes()).into())
}

/// Claims available tasks and reports first claims to their runs.
async fn claim_tasks(
    caller: &Permitted,
    store: &Store,
    claim_request: &ClaimRequest,
    wanted: &[Wanted],
) -> Result<Vec<ClaimedTask>, Refused> {
    let random = std::iter::repeat_with(|| hex(&rand::random::<[u8; LEASE_BYTES]>()));
    let leases: Vec<String> = random.take(claim_request.max).collect();
    let hashes: Vec<LeaseHash> = leases.iter().filter_map(|lease| hash(lease)).collect();
    let claimer = Claimer {
        tenant: caller.key.tenant.as_str(),
        principal: &caller.key.principal,
        lease: claim_request.lease,
    };
    let claimed = read(caller, tasks::claim(store, wanted, claimer, &hashes)).await?;
    if claimed.is_empty() {
        return Ok(Vec::new());
    }
    let mut grants = Vec::with_capacity(claimed.len());
    let mut failed = Vec::new();
    let (secrets, catalog) = (&caller.shared.tools.secrets, caller.shared.workflows.get());
    for (place, mut row) in claimed {
        let lease = hashes[place];
        match claimed_values::bind(secrets, &catalog, &mut row) {
            Ok(()) => grants.push(Grant {
                first: FirstClaim::of(caller, &row),
                lease: leases[place].clone(),
                hash: lease,
                row,
            }),
            Err(error) => failed.push(Failed { row, lease, error }),
        }
    }
    claimed_values::fail(caller, store, failed).await?;
    report_first_claims(caller, store, &mut grants).await?;
    let mut tasks = Vec::with_capacity(grants.len());
    for grant in grants {
        if grant.first.as_ref().is_some_and(|first| first.refused) {
            TASK_CLAIMS.counter(&["refused"]).increment(1);
            // The run no longer needs the task, but the queue does not know that yet.
            read(
                caller,
                tasks::forget(store, claimer.tenant, &grant.row.task_id, &grant.hash),
            )
            .await?;
            continue;
        }
        TASK_CLAIMS.counter(&["granted"]).increment(1);
        tasks.push(grant.into_task(caller)?);
    }
    Ok(tasks)
}

/// A task with its lease.
struct Grant {
    row: ClaimedRow,
    lease: String,
    hash: LeaseHash,
    /// `None` if the run already knows an earlier claim.
    first: Option<FirstClaim>,
}

/// A claim that the run does not know yet.
struct FirstClaim {
    run: Uuid,
    claimed: StepClaimed,
    known: bool,
    refused: bool,
}

impl FirstClaim {
    fn of(caller: &Permitted, row: &ClaimedRow) -> Option<Self> {
        if row.deadline.is_some() {
            return None;
        }
        let id = TaskId::parse(&row.task_id)?;
        let now = caller.shared.clock.now().0;
        Some(Self {
            run: Uuid::parse_str(id.run_id).ok()?,
            claimed: StepClaimed {
                step_id: id.step_id.to_owned(),
                attempt: id.attempt,
                kind: id.kind,
                deadline: Millis(now.saturating_add(row.timeout_ms)),
            },
            known: false,
            refused: false,
        })
    }

    fn apply(&mut self, answer: &Answer) {
        self.known = true;
        if let Answer::Started { deadline } = answer {
            self.claimed.deadline = *deadline;
        }
        self.refused = matches!(
            answer,
            Answer::Ignored | Answer::UnknownRun | Answer::Refused { .. }
        );
    }
}

/// Reports first claims to their runs, and waits for the answers.
async fn report_first_claims(
    caller: &Permitted,
    store: &Store,
    grants: &mut [Grant],
) -> Result<(), Refused> {
    let shared = &caller.shared;
    let (mut appends, mut followers, mut places) = (Vec::new(), Vec::new(), Vec::new());
    for (place, grant) in grants.iter().enumerate() {
        let Some(first) = &grant.first else {
            continue;
        };
        let command = Command {
            tenant: caller.key.tenant.to_string(),
            run_id: grant.row.run_id.clone(),
            kind: CLAIMED.to_owned(),
            at: shared.clock.now().0.saturating_mul(1000),
            principal: caller.key.principal.clone(),
            on_behalf_of: caller.on_behalf_of.clone(),
            traceparent: grant.row.traceparent.clone(),
            tracestate: grant.row.tracestate.clone(),
            body: serde_json::to_string(&first.claimed).map_err(|e| caller.invalid(e))?,
        };
        appends.push(Append {
            topic: Arc::clone(&shared.tools.names.commands),
            record: command.encode().map_err(|e| caller.invalid(e))?,
        });
        // The follower is created before the record is appended, so that no answer is missed.
        followers.push(shared.followers.follow(first.run));
        places.push(place);
    }
    if appends.is_empty() {
        return Ok(());
    }
    let appended = shared.tools.log.append(appends, None);
    let Ok(Ok(Ok(positions))) = timeout(APPEND_DEADLINE, appended).await else {
        // The leases expire.
        return Err(caller.refuse(Problem::log_unavailable()));
    };
    let mut answers: FuturesUnordered<_> = places
        .iter()
        .zip(positions)
        .zip(followers)
        .map(|((place, position), follower)| answer(*place, position, follower))
        .collect();
    let until = Instant::now() + ANSWER_DEADLINE;
    while places.iter().any(|place| is_open(&grants[*place])) && Instant::now() < until {
        let next = timeout(ANSWER_EVERY, answers.next()).await;
        if let Ok(Some((place, Some(answer)))) = next {
            if let Some(first) = &mut grants[place].first {
                first.apply(&answer);
            }
            continue;
        }
        if let Ok(None) = next {
            tokio::time::sleep(ANSWER_EVERY).await;
        }
        poll_queue(caller, store, grants).await?;
    }
    Ok(())
}

fn is_open(grant: &Grant) -> bool {
    grant.first.as_ref().is_some_and(|first| !first.known)
}

/// Checks the queue for the answers of runs on other nodes.
async fn poll_queue(
    caller: &Permitted,
    store: &Store,
    grants: &mut [Grant],
) -> Result<(), Refused> {
    let open: Vec<usize> = (0..grants.len()).filter(|n| is_open(&grants[*n])).collect();
    let ids: Vec<&str> = open.iter().map(|n| &*grants[*n].row.task_id).collect();
    let standings = tasks::standings(store, caller.key.tenant.as_str(), &ids);
    let standings = read(caller, standings).await?;
    for (place, standing) in open.into_iter().zip(standings) {
        if let Some(first) = &mut grants[place].first {
            first.known = standing != Standing::Unconfirmed;
            first.refused = standing == Standing::Over;
            if let Standing::Started { deadline } = standing {
                first.claimed.deadline = deadline;
            }
        }
    }
    Ok(())
}

/// Waits for the run's answer to the record at this position.
async fn answer(
    place: usize,
    position: Position,
    mut follower: Follower,
) -> (usize, Option<Answer>) {
    while let Some(notice) = follower.next().await {
        if let Notice::Answered {
            partition,
            offset,
            answer,
        } = notice
            && (partition, offset) == (position.partition, position.offset)
        {
            return (place, Some(answer));
        }
    }
    (place, None)
}

impl Grant {
    fn into_task(self, caller: &Permitted) -> Result<ClaimedTask, Refused> {
        let raw = |text: String| RawValue::from_string(text).map_err(|e| caller.invalid(e));
        let row = self.row;
        let deadline = match (row.deadline, &self.first) {
            (Some(deadline), _) => deadline,
            (None, Some(first)) => first.claimed.deadline,
            (None, None) => row.lease_expires_at,
        };
        let kind = match row.kind.as_str() {
            "compensate" => CallKind::Compensate,
            _ => CallKind::Execute,
        };
        Ok(ClaimedTask {
            idempotency_key: row
                .idempotency_key
                .unwrap_or_else(|| idempotency_key(&row.run_id, &row.step_id, kind)),
            task_id: row.task_id,
            lease: self.lease,
            lease_expires_at: row.lease_expires_at.min(deadline),
            tenant: caller.key.tenant.to_string(),
            run_id: row.run_id,
            workflow: row.workflow,
            step_id: row.step_id,
            attempt: row.attempt,
            kind: row.kind,
            tool: row.tool,
            input: raw(row.input)?,
            deadline,
            execute: row.execute.map(raw).transpose()?,
            error: row.error.map(raw).transpose()?,
            traceparent: row.traceparent,
            tracestate: row.tracestate,
        })
    }
}

/// `POST /v1/tasks/heartbeat`.
pub(crate) async fn extend(
    Sent(caller, body): Sent<Caller>,
) -> Result<axum::response::Response, Refused> {
    use axum::response::IntoResponse;
    let request: Heartbeat = caller.body(body)?;
    let missing = |field: &str| caller.missing(field);
    let task_id = request
        .task_id
        .as_deref()
        .ok_or_else(|| missing("task_id"))?;
    let lease = request.lease.as_deref().ok_or_else(|| missing("lease"))?;
    let time = lease_time(&caller, request.lease_s)?;
    let caller = caller.permit()?;
    let hash = hash(lease).ok_or_else(|| caller.refuse(stale()))?;
    let store = store(&caller)?;
    let of = (caller.key.tenant.as_str(), task_id);
    let extended = read(&caller, tasks::extend(&store, of, &hash, time)).await?;
    let extended = extended.ok_or_else(|| caller.refuse(stale()))?;
    let answer = ExtendedLease {
        task_id,
        lease_expires_at: extended.lease_expires_at,
        deadline: extended.deadline,
    };
    Ok(Json(answer).into_response())
}

/// The lease is not the latest one of an open task.
pub(super) fn stale() -> Problem {
    let detail = "`lease` is not the latest one of the task, or the task is over";
    Problem::new(&STALE_LEASE, detail)
}
