//! What runs of other nodes answer to controls and decisions, read from the log.
//!
//! The runs of this node answer their followers themselves. What another run has answered is in the log: its records of `runs` have the
//! position of the control or decision as their causation, and the first of them is `refused` or not. A run that has no record of it,
//! because it is not known, has ended, or has carried out the same before, leaves an entry on `audit`, whose header
//! [`ANSWERS_HEADER`] has the causation. Both topics are read while somebody waits: the partition of the run, and the partition of the
//! sender's tenant.

use std::{sync::Arc, time::Duration};

use futures_util::future;
use serde_json::{Map, Value};
use tokio::time::timeout;
use uuid::Uuid;

use super::{
    decide::Refusal,
    followers::{Answer, Followers, Notice},
    tail::{Reading, Tail},
};
use crate::{
    audit::Entry,
    base::id::Tenant,
    commands::control::{CANCEL, DECISION, PAUSE, RESUME, SIGNAL},
    log::{Fetched, Log, Record, header, partition_for, topics::Names},
    runs::{Event, RunRecord},
};

/// The header of an audit entry that answers a control or decision: the causation that records of its run would have.
pub(super) const ANSWERS_HEADER: &str = "omnilink.answers";
/// The code of the answer for a run that does not exist, or belongs to another tenant.
pub(super) const UNKNOWN_RUN: &str = "not_found";
/// How long a request waits until the log is read; after that it may miss the answer.
const OPEN_DEADLINE: Duration = Duration::from_secs(1);

/// Reads the answers of other nodes' runs, and publishes them to the followers of this node. Cheap to clone.
#[derive(Clone)]
pub struct Answers(Arc<Shared>);

struct Shared {
    followers: Followers,
    /// The number of partitions of each topic.
    partitions: u32,
    runs: Tail,
    audit: Tail,
}

/// Answers of a run are published as long as this exists.
pub struct Listening {
    _runs: Reading,
    _audit: Reading,
}

/// A run, the position of a record of `commands`, and the answer to it; `None`: a refusal that only a later version knows.
type Answered = (Uuid, (u32, u64), Option<Answer>);

impl Answers {
    /// For the topics with these names, which have `partitions` partitions each. Nothing is read yet.
    pub fn new(log: &Arc<dyn Log>, names: &Names, partitions: u32, followers: &Followers) -> Self {
        let tail = |topic, read: fn(&Followers, &Record) -> Option<Answered>| {
            let followers = followers.clone();
            Tail::new(log, topic, move |records| {
                publish(&followers, records, read);
            })
        };
        Self(Arc::new(Shared {
            runs: tail(&names.runs, of_history),
            audit: tail(&names.audit, of_audit),
            followers: followers.clone(),
            partitions,
        }))
    }

    /// Listens to a run: the answers to records of this tenant that are appended after this has returned are published, until the result
    /// is dropped. `None`: nothing has to be read, because this node carries out the run; or it cannot be read now. Returns within a
    /// second.
    pub async fn listen(&self, run_id: &str, tenant: &Tenant) -> Option<Listening> {
        let Shared {
            followers,
            partitions,
            runs,
            audit,
        } = &*self.0;
        let partition = partition_for(run_id.as_bytes(), *partitions);
        if followers.carries(partition) {
            return None;
        }
        let of_tenant = partition_for(tenant.as_str().as_bytes(), *partitions);
        let opened = future::join(runs.read(partition), audit.read(of_tenant));
        let (runs, audit) = timeout(OPEN_DEADLINE, opened).await.ok()?;
        Some(Listening {
            _runs: runs?,
            _audit: audit?,
        })
    }

    /// Stops reading for good. Blocks until the threads have ended.
    pub fn stop(&self) {
        self.0.runs.stop();
        self.0.audit.stop();
    }
}

fn publish(
    followers: &Followers,
    records: &[Fetched],
    read: fn(&Followers, &Record) -> Option<Answered>,
) {
    let mut last = None;
    for fetched in records {
        if !followers.any() {
            return;
        }
        let Some((run, (partition, offset), answer)) = read(followers, &fetched.record) else {
            continue;
        };
        // The first record tells how the input was answered; there may be hundreds.
        if last.replace((partition, offset)) == Some((partition, offset)) {
            continue;
        }
        let Some(answer) = answer else {
            continue;
        };
        let notice = Notice::Answered {
            partition,
            offset,
            answer,
        };
        followers.publish(&run, &notice);
    }
}

/// The answer in a record of `runs`, if the run has followers.
fn of_history(followers: &Followers, record: &Record) -> Option<Answered> {
    let run = Uuid::try_parse_ascii(record.key.as_deref()?).ok()?;
    if !followers.follows(&run) {
        return None;
    }
    let record = RunRecord::decode(record.value.as_deref()?)?;
    let position = position(record.causation.as_deref()?)?;
    let answer = match record.event() {
        Some(Event::Refused { code, .. }) => refused(&code),
        _ => Some(Answer::Done),
    };
    Some((run, position, answer))
}

/// The answer in an entry of `audit`, if it is one and the run has followers.
fn of_audit(followers: &Followers, record: &Record) -> Option<Answered> {
    let causation = header(&record.headers, ANSWERS_HEADER)?;
    let position = position(std::str::from_utf8(causation).ok()?)?;
    let entry = Entry::decode(record.value.as_deref()?)?;
    let run = Uuid::try_parse(entry.resource_id.as_deref()?).ok()?;
    if !followers.follows(&run) {
        return None;
    }
    let detail: Map<String, Value> = serde_json::from_str(&entry.detail).ok()?;
    let answer = match detail.get("code").and_then(Value::as_str) {
        None => Some(Answer::Done),
        Some(UNKNOWN_RUN) => Some(Answer::UnknownRun),
        Some(code) => refused(code),
    };
    Some((run, position, answer))
}

/// The position of a control or decision, from the causation `KIND:PARTITION:OFFSET` of its records; `None` for other kinds.
fn position(causation: &str) -> Option<(u32, u64)> {
    let (kind, position) = causation.split_once(':')?;
    if ![CANCEL, PAUSE, RESUME, SIGNAL, DECISION].contains(&kind) {
        return None;
    }
    let (partition, offset) = position.split_once(':')?;
    Some((partition.parse().ok()?, offset.parse().ok()?))
}

/// `None` for a code that only a later version knows.
fn refused(code: &str) -> Option<Answer> {
    let mut all = Refusal::ALL.into_iter();
    all.find(|refusal| refusal.code() == code).map(Answer::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        audit::Outcome,
        base::clock::{Millis, SystemClock},
        log::{Append, memory::MemoryLog},
        saga::Follower,
    };

    const PARTITIONS: u32 = 4;

    /// A log, and the followers of a node that carries out no run.
    struct Case {
        log: Arc<dyn Log>,
        names: Names,
        followers: Followers,
        answers: Answers,
        tenant: Tenant,
        run: Uuid,
    }

    impl Case {
        fn new() -> Self {
            let log: Arc<dyn Log> = Arc::new(MemoryLog::new(Arc::new(SystemClock)));
            let names = Names::new("t.");
            log.provision(&names.specs(PARTITIONS), true).unwrap();
            let followers = Followers::default();
            Self {
                answers: Answers::new(&log, &names, PARTITIONS, &followers),
                log,
                names,
                followers,
                tenant: Tenant::new("acme").unwrap(),
                run: Uuid::from_u128(7),
            }
        }

        async fn listen(&self) -> Option<Listening> {
            self.answers
                .listen(&self.run.to_string(), &self.tenant)
                .await
        }

        async fn append(&self, topic: &Arc<str>, record: Record) {
            let append = Append {
                topic: Arc::clone(topic),
                record,
            };
            self.log.append(vec![append], None).await.unwrap().unwrap();
        }

        /// Appends a record of the run's history.
        async fn happened(&self, event: &Event, causation: &str) {
            let run_id = self.run.to_string();
            let of = (self.tenant.as_str(), &*run_id);
            let record = RunRecord::new(of, 1, event, Millis(1), Some(causation));
            self.append(&self.names.runs, record.encode().unwrap())
                .await;
        }

        /// Appends an entry of the audit log that answers a control; `code`: of a refusal.
        async fn audited(&self, code: Option<&str>, causation: &str) {
            let code = code.map(|code| ("code".to_owned(), code.into()));
            let entry = Entry::new(Some(&self.tenant), "pause", Outcome::Failed, Millis(1))
                .resource("run", &self.run.to_string())
                .detail(code.into_iter().collect());
            let mut record = entry.encode().unwrap();
            let causation = causation.to_owned();
            record
                .headers
                .push((ANSWERS_HEADER.to_owned(), Some(causation.into())));
            self.append(&self.names.audit, record).await;
        }
    }

    async fn next(follower: &mut Follower) -> ((u32, u64), Answer) {
        let next = timeout(Duration::from_secs(10), follower.next());
        match next.await.unwrap().unwrap() {
            Notice::Answered {
                partition,
                offset,
                answer,
            } => ((partition, offset), answer),
            Notice::Ended(run) => panic!("{run:?}"),
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn answers_are_read_from_histories_and_the_audit_log() {
        let case = Case::new();
        let paused = Event::Paused { by: "ann".into() };
        case.happened(&paused, "pause:1:1").await;
        let mut follower = case.followers.follow(case.run);
        let listening = case.listen().await.unwrap();
        case.happened(&paused, "result:1:2").await;
        case.happened(&paused, "pause:1:3").await;
        assert_eq!(next(&mut follower).await, ((1, 3), Answer::Done));
        let refused = Event::Refused {
            what: "pause".into(),
            by: "ann".into(),
            code: "already_paused".into(),
        };
        case.happened(&refused, "pause:1:4").await;
        let of_refusal = Answer::from(Refusal::Paused);
        assert_eq!(next(&mut follower).await, ((1, 4), of_refusal));
        let ended = Answer::from(Refusal::Ended);
        for (code, answer) in [
            (Some("not_found"), Answer::UnknownRun),
            (Some("run_ended"), ended),
            (None, Answer::Done),
        ] {
            case.audited(Some("of_a_later_version"), "pause:1:5").await;
            case.audited(code, "pause:1:6").await;
            assert_eq!(next(&mut follower).await, ((1, 6), answer));
        }
        drop(listening);
        case.answers.stop();
        assert!(case.listen().await.is_none());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nothing_is_read_for_runs_of_this_node() {
        let case = Case::new();
        let run_id = case.run.to_string();
        let partition = partition_for(run_id.as_bytes(), PARTITIONS);
        let other = case.followers.carry((partition + 1) % PARTITIONS);
        assert!(case.listen().await.is_some());
        let carried = case.followers.carry(partition);
        assert!(case.listen().await.is_none());
        drop((other, carried));
        assert!(case.listen().await.is_some());
    }

    #[test]
    fn many_records_of_one_control_are_one_notice() {
        let (followers, run) = (Followers::default(), Uuid::from_u128(7));
        let mut follower = followers.follow(run);
        let run_id = run.to_string();
        let event = Event::Paused { by: "ann".into() };
        let record = |causation| {
            let record = RunRecord::new(("acme", &run_id), 1, &event, Millis(1), Some(causation));
            Fetched {
                topic: 0,
                partition: 1,
                offset: 0,
                timestamp: Millis(1),
                record: record.encode().unwrap(),
            }
        };
        let records = ["cancel:1:3", "cancel:1:3", "signal:1:4"].map(record);
        publish(&followers, &records, of_history);
        drop(followers);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let answered = runtime.block_on(async {
            [next(&mut follower).await, next(&mut follower).await].map(|(position, _)| position)
        });
        assert_eq!(answered, [(1, 3), (1, 4)]);
    }
}
