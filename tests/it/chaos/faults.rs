//! The faults of a run, each at its moment, with something under way.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{
    findings::{Findings, Flaw},
    parts::Parts,
    plan::{Dice, Fault},
    run::{Client, Run},
};

/// How long rows are waited for before a fault.
const FLOW: Duration = Duration::from_secs(30);
/// How long a moment with something under way is waited for.
const MOMENT: Duration = Duration::from_secs(3);
/// How long two nodes may take to share the partitions.
const SHARING: Duration = Duration::from_secs(6);

/// What was under way at the faults, summed up.
#[derive(Default)]
pub struct Met {
    pub faults: usize,
    pub under_way: u64,
    /// From a fault until rows grew again: the longest, of those that no other fault came between.
    pub longest: Duration,
    /// When the last fault came, and how many rows there were.
    last: Option<(Instant, u64)>,
}

impl Met {
    fn look(&mut self, run: &Run) {
        if let Some((since, rows)) = self.last
            && run.rows() > rows
        {
            self.last = None;
            self.longest = self.longest.max(since.elapsed());
            run.say(&format!(
                "rows grow again after {:.1} s",
                since.elapsed().as_secs_f64()
            ));
        }
    }
}

/// Restarts nodes that ended by themselves, which none should.
pub fn watch(run: &Run, findings: &mut Findings) {
    for (index, why) in run.nodes.ended() {
        run.say(&why);
        findings.add(Flaw::Trouble, why);
        run.nodes.start(index);
    }
}

/// Lets all faults of the plan come.
pub fn run(run: &Run, parts: &Parts, clients: &[Client], findings: &mut Findings) -> Met {
    let mut dice = Dice::new(run.plan.seed ^ 0xdead);
    let mut met = Met::default();
    let sending = || !run.over() && !clients.iter().all(Client::is_finished);
    for (at, fault) in run.plan.faults() {
        while run.ledger.accepted() < at {
            if !sending() {
                let what = format!("{fault:?} after {at} events never came");
                findings.add(Flaw::Trouble, what);
                return met;
            }
            watch(run, findings);
            met.look(run);
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(dice.between(0, 200)));
        if fault == Fault::Zombie && run.nodes.len() == 1 {
            run.nodes.add();
            run.say("a second node runs");
            std::thread::sleep(SHARING);
        }
        // Half of them not into a time in which nothing is read anyway, for the group waits for a member that was killed.
        if run.plan.bug.is_some() || dice.percent(50) {
            let (before, begun) = (run.rows(), Instant::now());
            while run.rows() == before && begun.elapsed() < FLOW && sending() {
                watch(run, findings);
                met.look(run);
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        if !sending() {
            let what = format!("{fault:?} found nobody sending any more");
            findings.add(Flaw::Trouble, what);
            return met;
        }
        // Not into a moment between two requests.
        let begun = Instant::now();
        while run.ledger.under_way() == [0; 3] && begun.elapsed() < MOMENT {
            std::thread::sleep(Duration::from_micros(200));
        }
        let [requests, events, records] = run.ledger.under_way();
        let accepted = run.ledger.accepted();
        let waiting = accepted.saturating_sub(run.rows());
        met.faults += 1;
        met.under_way += (events + records).max(0) as u64;
        met.last = Some((Instant::now(), run.rows()));
        let name = strike(run, parts, fault, &mut dice);
        run.say(&format!(
            "{name} after {accepted} events; under way: {requests} requests ({events} events), {records} records; \
             {waiting} accepted and not yet rows"
        ));
        mend(run, parts, fault, &mut dice);
    }
    met
}

/// Says what it did.
fn strike(run: &Run, parts: &Parts, fault: Fault, dice: &mut Dice) -> String {
    match fault {
        Fault::Node => {
            let index = dice.between(0, run.nodes.len() as u64 - 1) as usize;
            run.nodes.kill(index);
            return format!("SIGKILL of node {index}");
        }
        Fault::Broker => parts.kill("kafka"),
        Fault::Postgres => parts.kill("postgres"),
        Fault::Redis => parts.kill("redis"),
        Fault::Zombie => {
            run.nodes.signal(0, Signal::STOP);
            return "SIGSTOP of node 0".into();
        }
    }
    format!("SIGKILL of {fault:?}")
}

/// Brings back what is gone, after a while.
fn mend(run: &Run, parts: &Parts, fault: Fault, dice: &mut Dice) {
    let part = match fault {
        Fault::Node => {
            std::thread::sleep(Duration::from_millis(dice.between(0, 500)));
            // Some die again while they start.
            if dice.percent(20) {
                run.nodes.start_and_kill(dice.between(0, 600));
            }
            run.nodes.start_all();
            return;
        }
        Fault::Zombie => {
            std::thread::sleep(run.plan.stopped);
            run.nodes.signal(0, Signal::CONT);
            return;
        }
        Fault::Broker => "kafka",
        Fault::Postgres => "postgres",
        Fault::Redis => "redis",
    };
    std::thread::sleep(Duration::from_millis(dice.between(100, 2_000)));
    parts.restart(part);
}
