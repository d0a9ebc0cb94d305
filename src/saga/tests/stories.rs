//! Random plans, and random stimuli for their runs.

use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use super::model::{Action, Choice, Condition, EXPIRY, Plan, Planner, Reused, Step, WorkerAnswer};

/// Something that happens to a run.
#[derive(Clone, Debug)]
pub(super) enum Stimulus {
    Wait(i64),
    /// Time passes, and the next input comes before the timer.
    Away(i64),
    /// A result of an open call, or of a call that was never made.
    Result(prop::sample::Index, WorkerAnswer),
    /// Another result of a call that was answered before.
    Repeat(prop::sample::Index, WorkerAnswer),
    /// A call is reported as not made, or as not made this time.
    Held(prop::sample::Index, i64, bool),
    Decide(prop::sample::Index, Choice, bool),
    /// A planner answers a request, with the plan or without one.
    Planned(prop::sample::Index, bool),
    Cancel(bool),
    Pause,
    Resume,
    Signal(char, i64),
    Hold(bool),
}

/// A plan, and stimuli for its run.
pub(super) fn story() -> impl Strategy<Value = (Plan, Vec<Stimulus>)> {
    (plan(), prop::collection::vec(stimulus(), 0..60))
}

fn plan() -> impl Strategy<Value = Plan> {
    let timeout = prop_oneof![5 => Just(100_000_i64), 1 => 20_i64..200];
    (
        prop::collection::vec(step(), 1..7),
        timeout,
        prop::option::weighted(0.1, 1_i64..30),
        prop::bool::weighted(0.1),
        prop_oneof![8 => Just(0_u8), 2 => Just(1), 1 => Just(2)],
        prop_oneof![
            8 => Just(None),
            2 => Just(Some(Planner::Plans)),
            1 => Just(Some(Planner::Fails)),
            1 => Just(Some(Planner::Silent)),
        ],
    )
        .prop_map(|(steps, timeout, run_at, approve, repeats, goal)| {
            let steps = steps.iter().enumerate().map(|(n, step)| {
                let mut step = step.at(n, &steps);
                // Only the retry of another run reuses results.
                step.reused = step.reused.filter(|_| repeats == 1);
                step
            });
            Plan {
                steps: steps.collect(),
                timeout,
                run_at: run_at.filter(|_| repeats != 2),
                approve,
                goal: goal.filter(|_| repeats == 0),
                undoes: repeats == 2,
            }
        })
}

/// A step whose dependencies are not resolved to indexes yet.
#[derive(Clone, Debug)]
struct StepDraft {
    does: Action,
    on: Vec<prop::sample::Index>,
    when: u8,
    step: Step,
}

impl StepDraft {
    fn at(&self, n: usize, all: &[Self]) -> Step {
        let mut on: Vec<_> = match n {
            0 => Vec::new(),
            _ => self.on.iter().map(|on| on.index(n)).collect(),
        };
        on.sort_unstable();
        on.dedup();
        let number = |of: &&usize| !matches!(all[**of].does, Action::Sleep(_) | Action::Approve);
        let when = match (self.when, on.iter().find(number)) {
            (0, _) => Condition::Never,
            (1 | 2, Some(of)) => Condition::Output(*of),
            _ => Condition::Always,
        };
        Step {
            does: self.does,
            on,
            when,
            ..self.step.clone()
        }
    }
}

fn step() -> impl Strategy<Value = StepDraft> {
    let does = prop_oneof![
        6 => Just(Action::Work),
        1 => Just(Action::Risky),
        1 => Just(Action::Listed),
        2 => (0_i64..5).prop_map(Action::Noop),
        1 => (1_i64..40).prop_map(Action::Sleep),
        1 => (any::<bool>(), 1_i64..60).prop_map(|(any, timeout)| Action::Signal { any, timeout }),
        1 => Just(Action::Approve),
    ];
    (
        does,
        prop::collection::vec(any::<prop::sample::Index>(), 0..3),
        0_u8..12,
        prop::bool::weighted(0.7),
        prop::bool::weighted(0.2),
        1_u32..4,
        prop::option::weighted(0.2, 5_i64..60),
        prop_oneof![
            3 => Just(None),
            4 => (0_i64..5).prop_map(|output| Some(Reused::Succeeded(output))),
            1 => (0_i64..5).prop_map(|output| Some(Reused::Skipped(output))),
        ],
    )
        .prop_map(
            |(does, on, when, compensated, incident, attempts, deadline, reused)| StepDraft {
                does,
                on,
                when,
                step: Step {
                    does,
                    on: Vec::new(),
                    when: Condition::Always,
                    compensated,
                    incident,
                    attempts,
                    deadline,
                    reused,
                },
            },
        )
}

fn says() -> impl Strategy<Value = WorkerAnswer> {
    let bad = (
        prop::bool::weighted(0.7),
        prop::bool::weighted(0.6),
        prop_oneof![2 => Just(0_i64), 1 => 1_i64..10],
    );
    prop_oneof![
        1 => (0_i64..5).prop_map(WorkerAnswer::Good),
        1 => bad.prop_map(|(retryable, answered, after)| WorkerAnswer::Bad { retryable, answered, after }),
    ]
}

fn stimulus() -> impl Strategy<Value = Stimulus> {
    let index = any::<prop::sample::Index>;
    let decides = prop_oneof![
        3 => Just(Choice::Approved),
        1 => Just(Choice::Plan),
        1 => Just(Choice::Denied),
        2 => Just(Choice::Retry),
        1 => (0_i64..5).prop_map(Choice::Skip),
        1 => Just(Choice::Fail),
    ];
    let wait =
        prop_oneof![15 => 1_i64..10, 10 => 10_i64..30, 5 => Just(EXPIRY), 1 => Just(600_i64)];
    prop_oneof![
        8 => (index(), says()).prop_map(|(at, says)| Stimulus::Result(at, says)),
        3 => (index(), says()).prop_map(|(at, says)| Stimulus::Repeat(at, says)),
        4 => wait.clone().prop_map(Stimulus::Wait),
        2 => wait.prop_map(Stimulus::Away),
        1 => (index(), 1_i64..10, any::<bool>()).prop_map(|(at, seconds, maybe)| Stimulus::Held(at, seconds, maybe)),
        3 => (index(), decides, prop::bool::weighted(0.1)).prop_map(|(at, decides, by)| Stimulus::Decide(at, decides, by)),
        3 => (index(), prop::bool::weighted(0.7)).prop_map(|(at, plans)| Stimulus::Planned(at, plans)),
        1 => prop::bool::weighted(0.8).prop_map(Stimulus::Cancel),
        1 => Just(Stimulus::Pause),
        2 => Just(Stimulus::Resume),
        2 => (prop::sample::select(vec!['a', 'b', 'c']), 0_i64..5).prop_map(|(name, data)| Stimulus::Signal(name, data)),
        2 => any::<bool>().prop_map(Stimulus::Hold),
    ]
}

/// The story of a seed.
pub(super) fn story_of(seed: u64) -> (Plan, Vec<Stimulus>) {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    story().new_tree(&mut runner).unwrap().current()
}
