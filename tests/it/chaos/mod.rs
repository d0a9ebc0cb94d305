//! Never lost, never twice: OmniLink as it is run, with real clients, while `kill -9` hits it, the broker and Postgres at
//! random moments (`docs/chaos.md`).
//!
//! A short run is part of the tests; `scripts/chaos` runs the long one, and shows that planted bugs are found.

mod check;
mod findings;
mod http;
mod ledger;
mod nodes;
mod parts;
mod plan;
mod producers;
mod rows;
mod run;

use std::time::Duration;

use findings::Flaw;
use plan::Plan;
use run::{Run, run};

use crate::support::{Kind, part};

/// `OMNILINK_CHAOS_SEED`, or another one each time.
fn seed() -> u64 {
    setting("SEED").unwrap_or_else(|| rand::random_range(1..1_000_000))
}

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(format!("OMNILINK_CHAOS_{name}")).ok()?;
    let parsed = text.parse().ok();
    assert!(parsed.is_some(), "OMNILINK_CHAOS_{name}: what is `{text}`?");
    parsed
}

/// Whether the parts can be started here: they are there when the other tests have them.
fn can_run(kind: Kind) -> bool {
    part("OMNILINK_TEST_POSTGRES").is_some()
        && (kind == Kind::Local || part("OMNILINK_TEST_KAFKA").is_some())
}

fn holds(plan: Plan) {
    if can_run(plan.kind) {
        let seed = plan.seed;
        let findings = run(plan);
        assert!(findings.is_empty(), "seed {seed}:\n{findings}");
    }
}

#[test]
fn short_on_the_local_log() {
    holds(Plan::short(Kind::Local, seed()));
}

#[test]
fn short_on_kafka() {
    holds(Plan::short(Kind::Kafka, seed()));
}

/// What `scripts/chaos` runs.
#[test]
#[ignore = "minutes: scripts/chaos"]
fn long() {
    let kind = match setting::<String>("LOG").as_deref() {
        Some("kafka") => Kind::Kafka,
        _ => Kind::Local,
    };
    let events = setting("EVENTS").unwrap_or(100_000);
    holds(Plan::long(kind, seed(), events));
}

/// Each planted bug, on the log and with the faults that bring it out soonest.
#[cfg(feature = "chaos")]
mod bugs {
    use omnilink::chaos::Bug;

    use super::*;

    fn is_found(bug: Bug, kind: Kind, by: &[Flaw], change: impl FnOnce(&mut Plan)) {
        if !can_run(kind) {
            return;
        }
        let mut plan = Plan {
            events: 400,
            per_second: 100,
            node_kills: 2,
            broker_kills: 0,
            postgres_kills: 0,
            quiet: Duration::from_secs(if kind == Kind::Kafka { 15 } else { 5 }),
            bug: Some(bug.name()),
            ..Plan::short(kind, seed())
        };
        change(&mut plan);
        let seed = plan.seed;
        let findings = run(plan);
        assert!(
            findings.any_of(by),
            "seed {seed}: {bug:?} was not found by any of {by:?}:\n{findings}"
        );
    }

    #[test]
    fn answer_before_durable_on_the_local_log() {
        is_found(
            Bug::AnswerBeforeDurable,
            Kind::Local,
            &[Flaw::LostEvent],
            |_| {},
        );
    }

    #[test]
    #[ignore = "scripts/chaos --bug all"]
    fn answer_before_durable_on_kafka() {
        is_found(
            Bug::AnswerBeforeDurable,
            Kind::Kafka,
            &[Flaw::LostEvent],
            |_| {},
        );
    }

    #[test]
    fn no_transaction_on_the_local_log() {
        is_found(Bug::NoTransaction, Kind::Local, &[Flaw::TwiceEvent], |_| {});
    }

    #[test]
    #[ignore = "scripts/chaos --bug all"]
    fn no_transaction_on_kafka() {
        is_found(Bug::NoTransaction, Kind::Kafka, &[Flaw::TwiceEvent], |_| {});
    }

    #[test]
    fn no_dedupe_on_the_local_log() {
        is_found(Bug::NoDedupe, Kind::Local, &[Flaw::TwiceEvent], |_| {});
    }

    #[test]
    #[ignore = "scripts/chaos --bug all"]
    fn no_dedupe_on_kafka() {
        is_found(Bug::NoDedupe, Kind::Kafka, &[Flaw::TwiceEvent], |_| {});
    }

    #[test]
    fn lossy_dlq_on_the_local_log() {
        is_found(Bug::LossyDlq, Kind::Local, &[Flaw::LostPoison], |_| {});
    }

    #[test]
    #[ignore = "scripts/chaos --bug all"]
    fn lossy_dlq_on_kafka() {
        is_found(Bug::LossyDlq, Kind::Kafka, &[Flaw::LostPoison], |_| {});
    }

    /// The embedded log is one process: only a lane of the same process could be a stale owner there
    /// (`log_conformance`).
    #[test]
    #[ignore = "a minute: scripts/chaos --bug all"]
    fn zombie_not_fenced_on_kafka() {
        let by = [Flaw::TwiceEvent, Flaw::TwiceRow, Flaw::WrongVersion];
        is_found(Bug::ZombieNotFenced, Kind::Kafka, &by, |plan| {
            plan.events = 1_200;
            plan.node_kills = 0;
            plan.zombies = 1;
            plan.stopped = Duration::from_secs(14);
        });
    }
}
