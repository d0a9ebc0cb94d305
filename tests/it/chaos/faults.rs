//! Injects the faults of a run, each at its time, while something is in flight.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{
    findings::{Findings, Flaw},
    parts::Parts,
    plan::{Dice, Fault},
    recovery::{After, Recoveries},
    run::{Client, Run},
};

/// How long a fault is delayed at most until new rows appear.
const ROWS_WAIT: Duration = Duration::from_secs(30);
/// How long a fault is delayed at most until something is in flight.
const IN_FLIGHT_WAIT: Duration = Duration::from_secs(3);
/// Time limit for two nodes to share the partitions.
const SHARING: Duration = Duration::from_secs(6);

/// After this time, writes in flight of a killed node have arrived.
const ARRIVED: Duration = Duration::from_millis(100);
/// The same for a stopped node, whose writes in the kernel and in Postgres continue.
const FROZEN: Duration = Duration::from_secs(1);

/// Totals of what was in flight at the faults, and recovery times.
#[derive(Default)]
pub struct FaultStats {
    pub faults: usize,
    pub under_way: u64,
    pub recoveries: Recoveries,
}

impl FaultStats {
    pub fn poll(&mut self, run: &Run) {
        if let Some(line) = self.recoveries.poll(&run.history, false) {
            run.print(&line);
        }
    }
}

/// Restarts nodes that exited by themselves, which is reported.
pub fn watch(run: &Run, findings: &mut Findings) {
    for (index, why) in run.nodes.ended() {
        run.print(&why);
        findings.add(Flaw::Trouble, why);
        run.nodes.start(index);
    }
}

/// Runs all faults of the plan.
pub fn run(run: &Run, parts: &Parts, clients: &[Client], findings: &mut Findings) -> FaultStats {
    let mut dice = Dice::new(run.plan.seed ^ 0xdead);
    let mut stats = FaultStats::default();
    let sending = || !run.over() && !clients.iter().all(Client::is_finished);
    for (at, fault) in run.plan.faults() {
        while run.ledger.accepted() < at {
            if !sending() {
                let what = format!("{fault:?} after {at} events: so many were never accepted");
                findings.add(Flaw::Trouble, what);
                return stats;
            }
            watch(run, findings);
            stats.poll(run);
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(dice.between(0, 200)));
        if fault == Fault::Zombie && run.nodes.len() == 1 {
            run.nodes.add();
            run.print("a second node runs");
            std::thread::sleep(SHARING);
        }
        // Half of them wait until records are processed again.
        if run.plan.bug.is_some() || dice.percent(50) {
            let (before, begun) = (run.rows(), Instant::now());
            while run.rows() == before && begun.elapsed() < ROWS_WAIT && sending() {
                watch(run, findings);
                stats.poll(run);
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        if !sending() {
            let what = format!("{fault:?}: all clients have stopped sending before it");
            findings.add(Flaw::Trouble, what);
            return stats;
        }
        // Wait until requests are in flight.
        let begun = Instant::now();
        while run.ledger.under_way() == [0; 3] && begun.elapsed() < IN_FLIGHT_WAIT {
            std::thread::sleep(Duration::from_micros(200));
        }
        let [requests, events, records] = run.ledger.under_way();
        let accepted = run.ledger.accepted();
        let waiting = accepted.saturating_sub(run.rows());
        stats.faults += 1;
        stats.under_way += (events + records).max(0) as u64;
        let injected = inject(run, parts, fault, &mut dice);
        let name = &injected.name;
        run.print(&format!(
            "{name} after {accepted} events; under way: {requests} requests ({events} events), {records} records; \
             {waiting} accepted and not yet rows"
        ));
        recover(run, parts, &injected, &mut dice, &mut stats);
    }
    stats
}

/// An injected fault.
struct InjectedFault {
    fault: Fault,
    /// Its description.
    name: String,
    /// The killed part, by its name in `scripts/stack`.
    part: String,
    at: Instant,
}

fn inject(run: &Run, parts: &Parts, fault: Fault, dice: &mut Dice) -> InjectedFault {
    let part = match fault {
        Fault::Broker if run.plan.brokers > 1 => {
            format!("kafka-{}", dice.between(1, u64::from(run.plan.brokers)))
        }
        Fault::Broker => "kafka".to_owned(),
        Fault::Postgres => "postgres".to_owned(),
        Fault::Redis => "redis".to_owned(),
        Fault::Node | Fault::Volley | Fault::Zombie => String::new(),
    };
    let at = Instant::now();
    let name = match fault {
        Fault::Node | Fault::Volley => {
            let index = dice.between(0, run.nodes.len() as u64 - 1) as usize;
            run.nodes.kill(index);
            format!("SIGKILL of node {index}")
        }
        Fault::Zombie => {
            run.nodes.signal(0, Signal::STOP);
            "SIGSTOP of node 0".into()
        }
        Fault::Broker | Fault::Postgres | Fault::Redis => {
            parts.kill(&part);
            format!("SIGKILL of {part}")
        }
    };
    InjectedFault {
        fault,
        name,
        part,
        at,
    }
}

/// Restarts what was killed, after a pause.
fn recover(
    run: &Run,
    parts: &Parts,
    injected: &InjectedFault,
    dice: &mut Dice,
    stats: &mut FaultStats,
) {
    let mut begin = |after, since, settle| {
        stats.recoveries.begin(after, since, settle, &run.history);
    };
    match injected.fault {
        Fault::Node | Fault::Volley => {
            std::thread::sleep(Duration::from_millis(dice.between(0, 500)));
            let mut after = After::NodeKilled;
            if injected.fault == Fault::Volley {
                after = After::NodesKilledInARow;
                for _ in 0..3 {
                    run.nodes.start_and_kill(dice.between(300, 2_500));
                    std::thread::sleep(Duration::from_millis(dice.between(0, 500)));
                }
            } else if dice.percent(20) {
                // Some are killed again while they start.
                after = After::NodesKilledInARow;
                run.nodes.start_and_kill(dice.between(0, 600));
            }
            run.nodes.start_all();
            begin(after, run.nodes.spawned(), ARRIVED);
        }
        Fault::Zombie => {
            begin(After::NodeFrozen, injected.at, FROZEN);
            std::thread::sleep(run.plan.stopped);
            run.nodes.signal(0, Signal::CONT);
        }
        Fault::Broker | Fault::Postgres | Fault::Redis => {
            let three = injected.part.starts_with("kafka-");
            if three {
                begin(After::OneBrokerKilled, injected.at, ARRIVED);
            }
            std::thread::sleep(Duration::from_millis(dice.between(100, 2_000)));
            parts.restart(&injected.part);
            match injected.fault {
                Fault::Broker if !three => {
                    begin(After::BrokerBack, Instant::now(), Duration::ZERO);
                }
                Fault::Postgres => begin(After::PostgresBack, Instant::now(), Duration::ZERO),
                _ => {}
            }
        }
    }
}
