//! Each planted bug must be found, on each log where it can occur.
//!
//! The embedded log is one process, so no other process can be a stale owner; `log_conformance` tests fencing within it.

use std::time::Duration;

use omnilink::chaos::Bug;

use super::{findings::Flaw, holds, plan::Plan, seed};
use crate::support::LogKind;

/// Two kills of OmniLink during a few hundred events, because the window of a planted bug is long enough.
fn plan(kind: LogKind, bug: Bug, finds: &'static [Flaw]) -> Plan {
    let (events, per_second) = match kind {
        LogKind::Local | LogKind::Memory => (400, 100),
        // Longer than the session timeout of a killed member.
        LogKind::Kafka => (1_200, 40),
    };
    Plan {
        events,
        per_second,
        node_kills: 2,
        volleys: 0,
        broker_kills: 0,
        postgres_kills: 0,
        quiet: Duration::from_secs(if kind == LogKind::Kafka { 20 } else { 8 }),
        bug: Some(bug.name()),
        finds,
        ..Plan::short(kind, seed())
    }
}

mod on_the_local_log {
    use super::*;

    const KIND: LogKind = LogKind::Local;

    #[test]
    fn answer_before_durable() {
        holds(plan(KIND, Bug::AnswerBeforeDurable, &[Flaw::LostEvent]));
    }

    #[test]
    fn no_transaction() {
        holds(plan(KIND, Bug::NoTransaction, &[Flaw::TwiceEvent]));
    }

    #[test]
    fn no_dedupe() {
        holds(plan(KIND, Bug::NoDedupe, &[Flaw::TwiceEvent]));
    }

    #[test]
    fn offset_before_rows() {
        holds(plan(KIND, Bug::OffsetBeforeRows, &[Flaw::LostRow]));
    }

    #[test]
    fn lossy_dlq() {
        holds(plan(KIND, Bug::LossyDlq, &[Flaw::LostPoison]));
    }
}

/// Ignored by default, because each needs its own broker and waits for session timeouts.
mod on_kafka {
    use super::*;

    const KIND: LogKind = LogKind::Kafka;

    #[test]
    #[ignore = "scripts/chaos --bug all"]
    fn answer_before_durable() {
        holds(plan(KIND, Bug::AnswerBeforeDurable, &[Flaw::LostEvent]));
    }

    #[test]
    #[ignore = "scripts/chaos --bug all"]
    fn no_transaction() {
        holds(plan(KIND, Bug::NoTransaction, &[Flaw::TwiceEvent]));
    }

    #[test]
    #[ignore = "scripts/chaos --bug all"]
    fn no_dedupe() {
        holds(plan(KIND, Bug::NoDedupe, &[Flaw::TwiceEvent]));
    }

    #[test]
    #[ignore = "scripts/chaos --bug all"]
    fn offset_before_rows() {
        holds(plan(KIND, Bug::OffsetBeforeRows, &[Flaw::LostRow]));
    }

    #[test]
    #[ignore = "scripts/chaos --bug all"]
    fn lossy_dlq() {
        holds(plan(KIND, Bug::LossyDlq, &[Flaw::LostPoison]));
    }

    #[test]
    #[ignore = "scripts/chaos --bug all"]
    fn restore_ends_early() {
        // Only a duplicate sent after a restart shows it, so there are more duplicates.
        holds(Plan {
            node_kills: 6,
            ..plan(KIND, Bug::RestoreEndsEarly, &[Flaw::TwiceEvent])
        });
    }

    /// The node is stopped for longer than its session timeout, and resumes with work on partitions that have a new owner.
    #[test]
    #[ignore = "scripts/chaos --bug all"]
    fn zombie_not_fenced() {
        let finds = &[Flaw::TwiceEvent, Flaw::TwiceRow, Flaw::WrongVersion];
        holds(Plan {
            node_kills: 0,
            zombies: 1,
            stopped: Duration::from_secs(14),
            ..plan(KIND, Bug::ZombieNotFenced, finds)
        });
    }
}
