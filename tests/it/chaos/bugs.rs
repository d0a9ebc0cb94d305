//! Each planted bug must be found, on each log where it can be.
//!
//! The embedded log is one process, so no process can be a stale owner there; within one, `log_conformance` looks at it.

use std::time::Duration;

use omnilink::chaos::Bug;

use super::{findings::Flaw, holds, plan::Plan, seed};
use crate::support::Kind;

/// Two kills of OmniLink amid a few hundred events: a planted bug leaves itself open for long enough.
fn plan(kind: Kind, bug: Bug, finds: &'static [Flaw]) -> Plan {
    let (events, per_second) = match kind {
        Kind::Local | Kind::Memory => (400, 100),
        // For longer than the group waits for a member that was killed.
        Kind::Kafka => (1_200, 40),
    };
    Plan {
        events,
        per_second,
        node_kills: 2,
        volleys: 0,
        broker_kills: 0,
        postgres_kills: 0,
        quiet: Duration::from_secs(if kind == Kind::Kafka { 20 } else { 8 }),
        bug: Some(bug.name()),
        finds,
        ..Plan::short(kind, seed())
    }
}

mod on_the_local_log {
    use super::*;

    const KIND: Kind = Kind::Local;

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

/// A broker of its own and a group's session for each: too long for every change.
mod on_kafka {
    use super::*;

    const KIND: Kind = Kind::Kafka;

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
        // What shows it is an event that is sent again after a restart, so there are some more of these.
        holds(Plan {
            node_kills: 6,
            ..plan(KIND, Bug::RestoreEndsEarly, &[Flaw::TwiceEvent])
        });
    }

    /// It is stopped for longer than its session lasts, and wakes with work in hand that has a new owner.
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
