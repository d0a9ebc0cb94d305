//! Runs of goals: requests for plans, answers of planners, decisions about plans, and the guardian's finding.

use std::collections::BTreeMap;

use super::*;
use crate::runs::{
    ApprovalKind, ApprovalRequest, Found, GuardianVerdict, RiskLane, WorkflowVersion,
};

const MINUTE: i64 = 60_000;
const DAY: u64 = 86_400_000;

fn goal() -> Started {
    let params = json!({ "n": 1, "slots": { "EMAIL_1": "{EMAIL_1}" } });
    let mut started = Started::new(Json::of(&params), "asker", Millis(0));
    started.goal = Some("Write {EMAIL_1}".into());
    started
}

fn report(verdict: GuardianVerdict, score: f64) -> GuardianReport {
    GuardianReport {
        verdict,
        score,
        patterns: Vec::new(),
        redacted: BTreeMap::new(),
        degraded: Vec::new(),
    }
}

fn one_step() -> Value {
    json!({ "steps": [{ "id": "a", "tool": "t" }] })
}

fn tools() -> [Arc<Tool>; 2] {
    let risky = json!({ "risk": { "lane": "sensitive" } });
    [tool("t", &json!({})), tool("risky", &risky)]
}

fn case_of(plan: &Value, guardian: Option<GuardianReport>) -> Case {
    Case::start_goal(plan, &tools(), goal(), guardian, DAY)
}

fn case() -> Case {
    case_of(&one_step(), None)
}

fn no_plan() -> StepError {
    StepError::new("no_plan", "nobody knows how")
}

/// The only open approval.
fn asked(case: &Case) -> (u64, ApprovalRequest) {
    let mut open = case.run.open_approvals();
    let (seq, request) = open.next().unwrap();
    assert!(open.next().is_none());
    (seq, request.clone())
}

fn decide_plan(case: &mut Case, approval: u64, by: &str, plan: Option<Box<NewPlan>>) -> Effects {
    let plan = plan.map(Ok);
    case.tell(Input::Decision {
        approval,
        decision: Decision::Approved,
        by: by.into(),
        on_behalf_of: None,
        reason: None,
        input_hash: None,
        value: None,
        plan,
    })
}

#[test]
fn a_goal_is_planned_before_its_steps_run() {
    let mut case = case_of(&one_step(), Some(report(GuardianVerdict::Pass, 0.1)));
    assert_eq!(
        case.types(),
        "run_started, guardian_checked, plan_requested"
    );
    assert_eq!(case.run.status(), RunStatus::Planning);
    assert_eq!(case.run.next_due(), Some(Millis(10 * MINUTE)));
    let plan = case.new_plan();
    assert!(!case.planned(3, Ok(plan)).ignored);
    assert_eq!(case.run.status(), RunStatus::Running);
    case.answer("a", 1, good(&json!(1)));
    assert_eq!(
        case.types(),
        "run_started, guardian_checked, plan_requested, plan_ready, step_scheduled a, step_succeeded a, run_succeeded"
    );
}

#[test]
fn a_prompt_injection_is_denied_before_it_is_planned() {
    let case = case_of(&one_step(), Some(report(GuardianVerdict::Denied, 0.99)));
    assert_eq!(case.types(), "run_started, guardian_checked, run_denied");
    let (_, error) = case.run.end().unwrap();
    assert_eq!(error.unwrap().code, "injection_denied");
}

#[test]
fn a_flagged_goal_needs_approval_before_its_first_step() {
    let mut started = goal();
    started.approve_run.push("required_by_request".into());
    let flagged = report(GuardianVerdict::Flagged, 0.6);
    let mut case = Case::start_goal(&one_step(), &tools(), started, Some(flagged), DAY);
    assert_eq!(case.run.status(), RunStatus::Planning);
    let plan = case.new_plan();
    case.planned(3, Ok(plan));
    let (_, request) = asked(&case);
    assert_eq!(
        (request.kind, request.lane),
        (ApprovalKind::Run, RiskLane::Red)
    );
    assert_eq!(
        request.reasons,
        ["required_by_request", "injection_suspected"]
    );
    assert!((request.risk_score - 0.8).abs() < f64::EPSILON);
    let refused = case.decided(Decision::Approved, "asker").refused;
    assert_eq!(refused, Some(Refusal::SelfApproval));
    case.decided(Decision::Approved, "boss");
    assert_eq!(case.run.status(), RunStatus::Running);
}

#[test]
fn the_guardians_score_counts_into_approvals_and_raises_lanes() {
    let plan =
        json!({ "steps": [{ "id": "a", "tool": "approve", "input": { "message": "well?" } }] });
    let mut case = case_of(&plan, Some(report(GuardianVerdict::Pass, 0.6)));
    let plan = case.new_plan();
    case.planned(3, Ok(plan));
    let (_, request) = asked(&case);
    assert!((request.risk_score - 0.6).abs() < f64::EPSILON);
    assert_eq!(request.lane, RiskLane::Green);
    // Above `risk.approve_above`.
    let mut case = case_of(&one_step(), Some(report(GuardianVerdict::Pass, 0.9)));
    let plan = case.new_plan();
    case.planned(3, Ok(plan));
    let (_, request) = asked(&case);
    assert_eq!(
        (request.kind, request.lane),
        (ApprovalKind::Step, RiskLane::Red)
    );
    assert_eq!(request.reasons, ["injection_suspected"]);
    assert!((request.risk_score - 0.9).abs() < f64::EPSILON);
    case.decided(Decision::Approved, "boss");
    assert_eq!(case.run.status(), RunStatus::Running);
}

#[test]
fn steps_that_the_planner_marks_need_approval() {
    let plan = json!({ "steps": [{ "id": "a", "tool": "t" }, { "id": "b", "tool": "t" }] });
    let mut case = case_of(&plan, None);
    let mut plan = case.new_plan();
    let reasons = vec!["host_not_allowed".to_owned()];
    plan.ready.found.red.insert("b".into(), reasons.clone());
    case.planned(2, Ok(plan));
    let (_, request) = asked(&case);
    assert_eq!(request.step_id.as_deref(), Some("b"));
    assert_eq!((request.lane, request.reasons), (RiskLane::Red, reasons));
    assert_eq!(case.run.attempts("a", CallKind::Execute), 1);
}

#[test]
fn a_plan_with_a_blocked_tool_is_denied() {
    let blocked = tool("blocked", &json!({ "risk": { "lane": "blocked" } }));
    let plan = json!({ "steps": [{ "id": "a", "tool": "blocked" }] });
    let mut case = Case::start_goal(&plan, &[blocked], goal(), None, DAY);
    // A pause ends before the plan takes effect.
    case.tell(Input::Pause { by: "ops".into() });
    let plan = case.new_plan();
    case.planned(2, Ok(plan));
    assert_eq!(case.run.status(), RunStatus::Paused);
    case.tell(Input::Resume { by: "ops".into() });
    assert_eq!(
        case.types(),
        "run_started, plan_requested, paused, plan_ready, resumed, run_denied"
    );
}

#[test]
fn only_the_first_answer_with_a_plan_counts() {
    let mut case = case();
    let plan = case.new_plan();
    // No such request was made.
    assert!(case.planned(3, Ok(plan.clone())).ignored);
    assert!(!case.planned(2, Ok(plan.clone())).ignored);
    let second = case.planned(2, Ok(plan.clone()));
    assert!(second.ignored && second.events.is_empty());
    assert!(case.planned(2, Err(no_plan())).ignored);
    case.answer("a", 1, good(&json!(1)));
    assert!(case.planned(2, Ok(plan)).ignored);
    assert_eq!(
        case.types(),
        "run_started, plan_requested, plan_ready, step_scheduled a, step_succeeded a, run_succeeded"
    );
}

#[test]
fn a_cancelled_goal_takes_no_plan() {
    let mut case = case();
    case.tell(Input::Cancel {
        by: "ops".into(),
        reason: None,
        compensate: true,
    });
    let plan = case.new_plan();
    assert!(case.planned(2, Ok(plan)).ignored);
    assert_eq!(
        case.types(),
        "run_started, plan_requested, cancel_requested, run_cancelled"
    );
}

#[test]
fn without_a_plan_a_person_gives_one() {
    let mut case = case();
    case.planned(2, Err(no_plan()));
    assert_eq!(case.run.status(), RunStatus::WaitingApproval);
    let (approval, request) = asked(&case);
    assert_eq!((approval, request.kind), (3, ApprovalKind::Plan));
    assert_eq!(request.reasons, ["no_plan"]);
    assert_eq!(request.message.as_deref(), Some("nobody knows how"));
    let input = request.input.value();
    assert_eq!(input["goal"], "Write {EMAIL_1}");
    assert_eq!(input["error"]["message"], "nobody knows how");
    // A late answer is too late.
    let plan = case.new_plan();
    assert!(case.planned(2, Ok(plan.clone())).ignored);
    let none = decide_plan(&mut case, approval, "boss", None);
    assert_eq!(none.refused, Some(Refusal::PlanRequired));
    // Work, not permission: the requester may do it.
    let taken = decide_plan(&mut case, approval, "asker", Some(plan.clone()));
    assert_eq!(taken.refused, None);
    let again = decide_plan(&mut case, approval, "asker", Some(plan.clone()));
    assert_eq!((again.refused, again.events.len()), (None, 0));
    let mut other = plan.clone();
    other.ready.hash = "01".into();
    let other = decide_plan(&mut case, approval, "asker", Some(other));
    assert_eq!(other.refused, Some(Refusal::NotOpen));
    let Event::ApprovalDecided(decided) = &taken.events[0] else {
        panic!("{:?}", taken.events);
    };
    assert_eq!(decided.plan_hash.as_deref(), Some("00"));
    case.answer("a", 1, good(&json!(1)));
    assert_eq!(
        case.types(),
        "run_started, plan_requested, approval_requested, refused, approval_decided, plan_ready, step_scheduled a, refused, \
         step_succeeded a, run_succeeded"
    );
}

#[test]
fn a_plan_fits_only_the_approval_of_a_plan() {
    let plan = json!({ "steps": [{ "id": "a", "tool": "risky" }] });
    let mut case = case_of(&plan, None);
    let plan = case.new_plan();
    case.planned(2, Ok(plan.clone()));
    let (approval, _) = asked(&case);
    let refused = decide_plan(&mut case, approval, "boss", Some(plan)).refused;
    assert_eq!(refused, Some(Refusal::NoSuchDecision));
    let mut case = self::case();
    case.planned(2, Err(no_plan()));
    let invalid = case.tell(Input::Decision {
        approval: 3,
        decision: Decision::Approved,
        by: "boss".into(),
        on_behalf_of: None,
        reason: None,
        input_hash: None,
        value: None,
        plan: Some(Err(Refusal::InvalidPlan)),
    });
    assert_eq!(invalid.refused, Some(Refusal::InvalidPlan));
    assert_eq!(case.run.status(), RunStatus::WaitingApproval);
}

#[test]
fn a_goal_that_nobody_plans_is_denied() {
    for expires in [false, true] {
        let mut case = case();
        case.planned(2, Err(no_plan()));
        if expires {
            case.wait(DAY.cast_signed());
        } else {
            case.decided(Decision::Denied, "asker");
        }
        assert_eq!(
            case.types(),
            "run_started, plan_requested, approval_requested, approval_decided, run_denied"
        );
        let code = &case.run.end().unwrap().1.unwrap().code;
        assert_eq!(
            code,
            if expires {
                "approval_expired"
            } else {
                "denied"
            }
        );
    }
}

#[test]
fn a_lost_request_is_repeated_and_then_a_person_is_asked() {
    let mut case = case();
    case.wait(10 * MINUTE - 1);
    assert_eq!(case.history.len(), 2);
    // During a pause the time stands still.
    case.tell(Input::Pause { by: "ops".into() });
    case.wait(100 * MINUTE);
    case.tell(Input::Resume { by: "ops".into() });
    case.wait(0);
    assert_eq!(case.history.len(), 4);
    case.wait(1);
    assert!(matches!(case.history[4].0, Event::PlanRequested));
    let none = StepError::new("no_plan", "there is none");
    assert!(case.planned(2, Err(none)).ignored, "it answers the first");
    case.wait(10 * MINUTE);
    assert_eq!(case.run.status(), RunStatus::Planning);
    case.wait(10 * MINUTE);
    assert_eq!(
        case.types(),
        "run_started, plan_requested, paused, resumed, plan_requested, plan_requested, approval_requested"
    );
    let (_, request) = asked(&case);
    assert_eq!(
        (request.kind, &*request.reasons),
        (ApprovalKind::Plan, &["no_plan".to_owned()][..])
    );
    assert_eq!(case.run.status(), RunStatus::WaitingApproval);
}

#[test]
fn a_plan_counts_also_as_the_answer_to_an_earlier_request() {
    let mut case = case();
    case.wait(10 * MINUTE);
    assert_eq!(case.types(), "run_started, plan_requested, plan_requested");
    let plan = case.new_plan();
    assert!(!case.planned(2, Ok(plan.clone())).ignored);
    assert_eq!(case.run.status(), RunStatus::Running);
    assert!(case.planned(3, Ok(plan)).ignored, "it has one");
}

#[test]
fn a_goal_that_a_language_model_flags_needs_approval_with_a_persons_plan_too() {
    let mut case = case();
    let found = Found {
        flagged: true,
        degraded: vec!["planner_unavailable".into()],
        ..Found::default()
    };
    let error = StepError::new("no_plan", "there is none");
    let outcome = Err(Box::new(Unplanned { error, found }));
    case.tell(Input::Plan {
        request: 2,
        outcome,
    });
    let (seq, request) = asked(&case);
    assert_eq!(request.kind, ApprovalKind::Plan);
    assert_eq!(request.reasons, ["no_plan", "injection_suspected"]);
    assert_eq!(
        request.input.value()["degraded"],
        json!(["planner_unavailable"])
    );
    let plan = case.new_plan();
    decide_plan(&mut case, seq, "boss", Some(plan));
    let (_, request) = asked(&case);
    assert_eq!(request.kind, ApprovalKind::Run);
    assert_eq!(request.reasons, ["injection_suspected"]);
}

#[test]
fn an_answer_in_the_log_takes_precedence_over_the_next_request() {
    let mut case = case();
    case.now = 30 * MINUTE;
    let plan = case.new_plan();
    assert!(!case.planned(2, Ok(plan)).ignored);
    assert_eq!(case.run.status(), RunStatus::Running);
}

#[test]
fn a_paused_run_takes_the_plan_and_begins_when_it_is_resumed() {
    let mut case = case();
    case.tell(Input::Pause { by: "ops".into() });
    let plan = case.new_plan();
    assert!(!case.planned(2, Ok(plan)).ignored);
    assert_eq!(case.run.status(), RunStatus::Paused);
    case.tell(Input::Resume { by: "ops".into() });
    assert_eq!(
        case.types(),
        "run_started, plan_requested, paused, plan_ready, resumed, step_scheduled a"
    );
}

#[test]
fn a_plan_is_requested_when_the_run_is_due() {
    let mut started = goal();
    started.run_at = Some(Millis(5_000));
    let mut case = Case::start_goal(&one_step(), &tools(), started, None, DAY);
    assert_eq!(case.run.status(), RunStatus::Queued);
    assert_eq!(case.run.next_due(), Some(Millis(5_000)));
    case.wait(5_000);
    assert_eq!(case.run.status(), RunStatus::Planning);
}

#[test]
fn the_time_limit_of_a_plan_counts_from_the_plan() {
    let plan = json!({ "steps": [{ "id": "a", "tool": "wait", "input": { "signal": "go" } }], "timeout_s": 60 });
    let mut case = case_of(&plan, None);
    assert_eq!(case.run.deadline, Some(Millis(7 * DAY.cast_signed())));
    case.now = 9 * MINUTE;
    let plan = case.new_plan();
    case.planned(2, Ok(plan));
    assert_eq!(case.run.deadline, Some(Millis(10 * MINUTE)));
    case.wait(MINUTE);
    let error = case.run.end().unwrap().1.unwrap();
    assert!(
        ["run_timeout", "wait_timeout"].contains(&&*error.code),
        "{error:?}"
    );
}

#[test]
fn nothing_is_requested_while_the_kill_switch_is_on() {
    let mut started = goal();
    started.run_at = Some(Millis(1_000));
    let mut case = Case::start_goal(&one_step(), &tools(), started, None, DAY);
    *case.in_force.borrow_mut() = Some(("kill_switch", 500));
    case.wait(1_000);
    assert_eq!(case.types(), "run_started, run_held");
    assert_eq!(case.run.status(), RunStatus::Queued);
    assert!(case.run.waits_for_controls());
    assert_eq!(case.run.next_due(), None);
    case.wait(MINUTE);
    *case.in_force.borrow_mut() = None;
    case.wait(0);
    assert_eq!(
        case.types(),
        "run_started, run_held, run_released, plan_requested"
    );
    // An answer is taken, but an overdue one is not requested again.
    *case.in_force.borrow_mut() = Some(("kill_switch", case.now));
    case.wait(30 * MINUTE);
    assert!(matches!(
        case.history.last(),
        Some((Event::RunHeld { .. }, _))
    ));
    assert_eq!(case.run.next_due(), None);
    let plan = case.new_plan();
    assert!(!case.planned(4, Ok(plan)).ignored);
    assert_eq!(case.run.status(), RunStatus::Running);
}

#[test]
fn a_request_is_not_overdue_because_of_the_kill_switch() {
    let mut case = case();
    *case.in_force.borrow_mut() = Some(("kill_switch", 0));
    case.wait(30 * MINUTE);
    *case.in_force.borrow_mut() = None;
    case.wait(0);
    assert_eq!(
        case.types(),
        "run_started, plan_requested, run_held, run_released"
    );
    assert_eq!(case.run.next_due(), Some(Millis(40 * MINUTE)));
}

#[test]
fn expressions_refer_to_slots_and_to_the_params_of_the_plan() {
    let plan = json!({ "steps": [
        { "id": "a", "tool": "noop", "input": { "to": "{{ slots.EMAIL_1 }}", "on": "{{ slots.DATE }}", "n": "{{ params.n }}" } },
        { "id": "b", "tool": "noop", "when": "{{ slots.DATE == '2026-12-01' }}" }
    ], "output": "at {{ slots.DATE }}" });
    let mut case = case_of(&plan, None);
    let mut plan = case.new_plan();
    plan.ready.found = Box::new(Found {
        params: Some(Json::of(&json!({ "n": 5 }))),
        slots: [
            ("EMAIL_1".to_owned(), json!("{EMAIL_1}")),
            ("DATE".to_owned(), json!("2026-12-01")),
        ]
        .into(),
        ..Found::default()
    });
    case.planned(2, Ok(plan));
    let outputs = case.run.execution("a").output.unwrap().value();
    assert_eq!(
        outputs,
        json!({ "to": "{EMAIL_1}", "on": "2026-12-01", "n": 5 })
    );
    let (output, _) = case.run.end().unwrap();
    assert_eq!(output.unwrap().value(), "at 2026-12-01");
}

#[test]
fn the_workflow_that_a_planner_chose_may_need_approval() {
    let mut started = goal();
    started.approve_tools.push("pay".into());
    let mut case = Case::start_goal(&one_step(), &tools(), started, None, DAY);
    let mut plan = case.new_plan();
    plan.ready.workflow = Some(WorkflowVersion {
        name: "pay".into(),
        version: "1.0.0".into(),
    });
    case.planned(2, Ok(plan));
    let (_, request) = asked(&case);
    assert_eq!(
        (request.kind, &*request.reasons),
        (ApprovalKind::Run, &["required_by_key".to_owned()][..])
    );
}

/// A goal that is repeated has its plan from the beginning.
#[test]
fn a_repeated_goal_keeps_slots_red_steps_and_the_finding() {
    let plan = json!({ "steps": [{ "id": "a", "tool": "t", "input": "{{ slots.DATE }}" }] });
    let compiled = compile(&plan, &tools());
    let mut ready = ready();
    ready.found.slots.insert("DATE".into(), json!("2026-12-01"));
    ready
        .found
        .red
        .insert("a".into(), vec!["host_not_allowed".into()]);
    let new = NewPlan { compiled, ready };
    let flagged = report(GuardianVerdict::Flagged, 0.95);
    let (mut run, effects) = start_goal(goal(), Some(flagged), Some(new), &env(0, &no_hold));
    let types: Vec<_> = effects.events.iter().map(Event::name).collect();
    let expected = [
        "run_started",
        "guardian_checked",
        "plan_ready",
        "approval_requested",
    ];
    assert_eq!(types, expected);
    let approved = decision_on(4, Decision::Approved, "boss");
    decide(&mut run, approved, &env(1, &no_hold));
    let (_, request) = run.open_approvals().next().unwrap();
    assert_eq!(request.reasons, ["host_not_allowed"]);
    assert_eq!(request.input.value(), "2026-12-01");
    assert!((request.risk_score - 0.95).abs() < f64::EPSILON);
}
