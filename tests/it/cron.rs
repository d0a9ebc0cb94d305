//! Times that start workflows, on both logs, with a clock that the tests move.

use std::sync::Arc;

use omnilink::{
    base::clock::{Clock, ManualClock, Millis},
    commands::start::run_id,
    cron::Cron,
    log::Log,
    runs::Event,
    workflows::{Current, check_texts},
};

use crate::support::{LogKind, TestLog, append, on_both_logs, read_all, sagas::Processor};

on_both_logs!(
    a_time_starts_one_run_however_many_nodes_look,
    what_was_missed_is_caught_up_after_a_restart,
    a_start_without_its_mark_is_appended_again_and_counts_once,
);

/// 2026-03-01T00:00:00Z
const MIDNIGHT: Millis = Millis(1_772_323_200_000);
const HOUR: i64 = 3_600_000;

fn workflow(name: &str, on: &str) -> String {
    format!(
        "name: {name}\nversion: '1.0.0'\nplan: {{ steps: [ {{ id: s, tool: noop }} ] }}\non: [ {on} ]\n"
    )
}

fn current(files: &[String]) -> Current {
    let files = files.iter().enumerate();
    let named = files.map(|(n, text)| (format!("{n}.yaml"), Ok(text.clone())));
    Current::new(check_texts([], named).catalog.unwrap())
}

/// A node's cron on a log.
fn cron(
    log: &Arc<dyn Log>,
    sagas: &Processor,
    workflows: &Current,
    clock: &Arc<ManualClock>,
) -> Cron {
    let clock: Arc<dyn Clock> = Arc::<ManualClock>::clone(clock);
    Cron::new(Arc::clone(log), &sagas.names, workflows.clone(), clock)
}

fn run_at(workflow: &str, time: &str) -> String {
    run_id(&["cron", "default", workflow, time]).to_string()
}

fn a_time_starts_one_run_however_many_nodes_look(test_log: TestLog) {
    let sagas = Processor::start(&test_log);
    let clock = Arc::new(ManualClock::at(MIDNIGHT));
    let hourly = workflow("hourly", "{ cron: '0 * * * *' }");
    let workflows = current(&[hourly]);
    let mut a = cron(&sagas.log, &sagas, &workflows, &clock);
    let mut b = cron(&sagas.log, &sagas, &workflows, &clock);
    // The time of midnight has passed when the workflow is seen first.
    assert!(a.is_due());
    assert_eq!(a.start_due().unwrap(), 0);
    assert!(!a.is_due());
    clock.advance(HOUR - 1);
    assert!(!a.is_due());
    assert_eq!(a.start_due().unwrap(), 0);
    clock.advance(1);
    assert!(a.is_due());
    assert_eq!(a.start_due().unwrap(), 1);
    let run = run_at("hourly", "2026-03-01T01:00:00Z");
    let history = sagas.history_until(&run, "run_succeeded");
    let Some(Event::RunStarted(started)) = history[0].event() else {
        panic!("{history:?}");
    };
    assert_eq!(started.principal, "cron:hourly");
    assert_eq!(started.params.value(), serde_json::json!({}));
    assert_eq!(history[0].tenant, "default");
    // Another node reads what was started.
    assert_eq!(b.start_due().unwrap(), 0);
    clock.advance(HOUR);
    assert!(b.is_due());
    assert_eq!(b.start_due().unwrap(), 1);
    sagas.history_until(&run_at("hourly", "2026-03-01T02:00:00Z"), "run_succeeded");
    assert_eq!(a.start_due().unwrap(), 0);
    // A workflow that comes later begins then.
    let nightly = workflow(
        "nightly",
        "{ cron: '30 3 * * *', tz: Europe/Berlin, tenant: acme }",
    );
    workflows.replace(
        check_texts([], [("n".to_owned(), Ok(nightly))])
            .catalog
            .unwrap(),
    );
    assert_eq!(a.start_due().unwrap(), 0);
    clock.advance(HOUR / 2);
    assert_eq!(a.start_due().unwrap(), 1);
    let nightly = run_id(&["cron", "acme", "nightly", "2026-03-01T02:30:00Z"]);
    sagas.history_until(&nightly.to_string(), "run_succeeded");
    assert_eq!(sagas.histories(15).len(), 3);
}

fn what_was_missed_is_caught_up_after_a_restart(test_log: TestLog) {
    let sagas = Processor::start(&test_log);
    let clock = Arc::new(ManualClock::at(MIDNIGHT));
    let of = |catch_up: &str| {
        let on = format!("{{ cron: '0 * * * *', catch_up: {catch_up} }}");
        workflow(catch_up, &on)
    };
    let workflows = current(&[of("last"), of("all"), of("none")]);
    let mut before = cron(&sagas.log, &sagas, &workflows, &clock);
    assert_eq!(before.start_due().unwrap(), 0);
    drop(before);
    clock.advance(3 * HOUR + HOUR / 2);
    let mut after = cron(&sagas.log, &sagas, &workflows, &clock);
    assert_eq!(after.start_due().unwrap(), 1 + 3);
    for hour in 1..=3 {
        let time = format!("2026-03-01T0{hour}:00:00Z");
        sagas.history_until(&run_at("all", &time), "run_succeeded");
    }
    sagas.history_until(&run_at("last", "2026-03-01T03:00:00Z"), "run_succeeded");
    assert_eq!(after.start_due().unwrap(), 0);
    clock.advance(HOUR / 2);
    assert_eq!(after.start_due().unwrap(), 3);
    sagas.history_until(&run_at("none", "2026-03-01T04:00:00Z"), "run_succeeded");
    sagas.history_until(&run_at("last", "2026-03-01T04:00:00Z"), "run_succeeded");
    sagas.history_until(&run_at("all", "2026-03-01T04:00:00Z"), "run_succeeded");
    assert_eq!(sagas.histories(35).len(), 1 + 3 + 3);
}

fn a_start_without_its_mark_is_appended_again_and_counts_once(test_log: TestLog) {
    let sagas = Processor::start(&test_log);
    let clock = Arc::new(ManualClock::at(MIDNIGHT));
    let hourly = workflow("hourly", "{ cron: '0 * * * *' }");
    let workflows = current(&[hourly]);
    let (mut a, mut b) = (
        cron(&sagas.log, &sagas, &workflows, &clock),
        cron(&sagas.log, &sagas, &workflows, &clock),
    );
    assert_eq!(a.start_due().unwrap() + b.start_due().unwrap(), 0);
    clock.advance(HOUR);
    // Both at once: as if one had ended between its start and its mark.
    let (one, two) = std::thread::scope(|scope| {
        let one = scope.spawn(|| a.start_due().unwrap());
        let two = scope.spawn(|| b.start_due().unwrap());
        (one.join().unwrap(), two.join().unwrap())
    });
    assert!((1..=2).contains(&(one + two)), "{one} {two}");
    let run = run_at("hourly", "2026-03-01T01:00:00Z");
    sagas.history_until(&run, "run_succeeded");
    clock.advance(HOUR);
    assert_eq!(a.start_due().unwrap() + b.start_due().unwrap(), 1);
    let next = run_at("hourly", "2026-03-01T02:00:00Z");
    sagas.history_until(&next, "run_succeeded");
    assert_eq!(sagas.histories(10).len(), 2);
}

/// The new topic is longer than what was read of the old one.
#[test]
fn marks_of_a_recreated_topic_are_read_from_its_start() {
    let Some(test_log) = TestLog::new(LogKind::Kafka) else {
        return;
    };
    let kafka = test_log.kafka_admin();
    let sagas = Processor::start(&test_log);
    let clock = Arc::new(ManualClock::at(MIDNIGHT));
    let hourly = workflow("hourly", "{ cron: '0 * * * *' }");
    let workflows = current(&[hourly]);
    let mut a = cron(&sagas.log, &sagas, &workflows, &clock);
    let mut b = cron(&sagas.log, &sagas, &workflows, &clock);
    // Its own mark is read at the second call.
    for _ in 0..2 {
        assert_eq!(a.start_due().unwrap(), 0);
    }
    clock.advance(HOUR);
    assert_eq!(b.start_due().unwrap(), 1);
    let marks = read_all(&*sagas.log, &sagas.names.cron, 2);
    let mut marks: Vec<_> = marks.into_iter().map(|mark| mark.record).collect();
    assert_eq!(marks.len(), 2);
    kafka.recreate_topic(&*sagas.log, &sagas.names.cron, 1);
    // The later one comes where `a` has read already.
    marks.reverse();
    append(&*sagas.log, &sagas.names.cron, marks).unwrap();
    assert_eq!(a.start_due().unwrap(), 0);
    assert!(!a.is_due());
}
