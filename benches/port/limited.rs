//! What limits cost at full load: single events with a key and a tenant that are limited, by turns with the same where nothing is.
//! The audit log is on in both.

use crate::{
    load::Until,
    report::{Row, median},
    server::{ENTITIES, Log, Server},
};

const SECONDS: f64 = 4.0;
const ROUNDS: usize = 5;
/// So much that nothing is refused.
const POLICIES: &str = "{tenant: {limit: 10000000, window_s: 60, per: tenant}}";
const LIMITED: &str = r#"{"permissions": ["events:write"], "constraints": {"max_rpm": 100000000, "max_concurrency": 1000}}"#;
const UNLIMITED: &str =
    r#"{"permissions": ["events:write"], "constraints": {"max_rpm": 0, "max_concurrency": 0}}"#;

/// `None` without Kafka.
pub fn measure(log: Log) -> Option<()> {
    let policies = ("OMNILINK__LIMITS__POLICIES", POLICIES.to_owned());
    let mut limited = Server::up_with(log, false, &[policies])?;
    limited.key = limited.made_key(LIMITED);
    let mut unlimited = Server::up(log, false)?;
    unlimited.key = unlimited.made_key(UNLIMITED);
    let drive = |server: &Server| {
        let outcome = server.drive(1, ENTITIES, Until::Seconds(SECONDS));
        assert_eq!(outcome.refused, 0, "{}", outcome.note());
        outcome.per_second()
    };
    drive(&limited);
    drive(&unlimited);
    let rounds = (0..ROUNDS).map(|round| {
        // What comes second finds a warmer or a fuller machine.
        if round % 2 == 0 {
            let first = drive(&limited);
            (first, drive(&unlimited))
        } else {
            let first = drive(&unlimited);
            (drive(&limited), first)
        }
    });
    let (with, without): (Vec<f64>, Vec<f64>) = rounds.unzip();
    let name = log.name();
    Row::new(
        format!("{name}: single, a limited key and a policy, c=64"),
        median(with),
        "ev/s",
    )
    .against(median(without), "without limits")
    .target_ratio(0.95)
    .print();
    Some(())
}
