//! Draws a run's plan with the state of each step, from the records of its history. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write,
};

use serde_json::Value;

use super::{error, what};
use crate::base::printable::printable_line;

/// A run and its steps.
#[derive(Default)]
pub(super) struct Picture {
    run_id: String,
    what: String,
    status: Status,
    /// A planner is asked for its plan.
    planning: bool,
    steps: Vec<Step>,
    /// Open approvals, by the `seq` of the record: the step, or `None` for the run as a whole.
    approvals: BTreeMap<u64, Option<String>>,
    /// Why the run did not succeed.
    pub(super) failure: Option<String>,
}

/// The status of the run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Status {
    #[default]
    Running,
    Planning,
    Paused,
    Cancelling,
    Compensating,
    Succeeded,
    Failed,
    Denied,
    Cancelled,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Planning => "planning",
            Self::Paused => "paused",
            Self::Cancelling => "cancelling",
            Self::Compensating => "compensating",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Denied => "denied",
            Self::Cancelled => "cancelled",
        }
    }

    fn colour(self) -> &'static str {
        match self {
            Self::Running | Self::Planning => BLUE,
            Self::Succeeded => GREEN,
            Self::Paused | Self::Cancelling | Self::Compensating => YELLOW,
            Self::Failed | Self::Denied | Self::Cancelled => RED,
        }
    }

    pub(super) fn is_final(self) -> bool {
        matches!(
            self,
            Self::Succeeded | Self::Failed | Self::Denied | Self::Cancelled
        )
    }
}

struct Step {
    id: String,
    tool: String,
    after: Vec<String>,
    /// The length of the longest path from a first step to this one.
    depth: usize,
    state: State,
    attempts: u64,
    note: String,
    began: Option<i64>,
    ended: Option<i64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Pending,
    WaitingApproval,
    Held,
    Running,
    Retry,
    Succeeded,
    Failed,
    Unknown,
    Skipped,
    Cancelled,
    Undoing,
    Undone,
    UndoFailed,
}

const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const BLUE: &str = "36";
const DIM: &str = "2";

impl State {
    /// Its symbol, name and colour.
    fn appearance(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Pending => ("·", "pending", DIM),
            Self::WaitingApproval => ("?", "waits for a decision", YELLOW),
            Self::Held => ("‖", "held", YELLOW),
            Self::Running => ("▶", "running", BLUE),
            Self::Retry => ("↻", "waits for its next attempt", YELLOW),
            Self::Succeeded => ("✓", "succeeded", GREEN),
            Self::Failed => ("✗", "failed", RED),
            Self::Unknown => ("!", "ended without an answer", RED),
            Self::Skipped => ("-", "skipped", DIM),
            Self::Cancelled => ("-", "cancelled", DIM),
            Self::Undoing => ("↩", "is being undone", YELLOW),
            Self::Undone => ("↩", "undone", YELLOW),
            Self::UndoFailed => ("✗", "could not be undone", RED),
        }
    }
}

impl Picture {
    /// Applies the next record of the history.
    pub(super) fn apply(&mut self, record: &Value) {
        let at = at(record);
        let step = record["step_id"].as_str();
        match record["type"].as_str().unwrap_or_default() {
            "run_started" => {
                let id = record["run_id"].as_str().unwrap_or_default();
                id.clone_into(&mut self.run_id);
                self.what = match what(record) {
                    none if none == "-" => record["kind"].as_str().unwrap_or("a run").to_owned(),
                    what => what,
                };
            }
            "plan_requested" => self.planning = true,
            "plan_ready" => {
                self.planning = false;
                self.steps = steps(&record["plan"]["steps"]);
            }
            "approval_requested" | "incident_opened" => {
                let seq = record["seq"].as_u64().unwrap_or_default();
                self.planning &= record["kind"] != "plan";
                self.approvals.insert(seq, step.map(str::to_owned));
                let why = record["message"].as_str().unwrap_or_default().to_owned();
                self.step(step, |step| {
                    step.state = State::WaitingApproval;
                    step.note = why;
                });
            }
            "approval_decided" | "incident_decided" => self.decided(record),
            "step_scheduled" | "step_started" => self.step(step, |step| {
                step.state = State::Running;
                step.attempts = record["attempt"].as_u64().unwrap_or(1);
                step.began = step.began.or(at);
                step.note.clear();
            }),
            "step_held" => self.step(step, |step| {
                step.state = State::Held;
                let reason = record["reason"].as_str().unwrap_or_default();
                reason.clone_into(&mut step.note);
            }),
            "step_released" => self.step(step, |step| {
                step.state = State::Pending;
                step.note.clear();
            }),
            "step_retry_scheduled" => self.ended(step, State::Retry, None, record),
            "step_succeeded" => self.ended(step, State::Succeeded, at, record),
            "step_failed" => self.ended(step, State::Failed, at, record),
            "step_unknown" => self.ended(step, State::Unknown, at, record),
            "step_skipped" => self.ended(step, State::Skipped, at, record),
            "step_cancelled" => self.ended(step, State::Cancelled, at, record),
            "compensation_started" => self.status = Status::Compensating,
            "compensation_scheduled" => self.step(step, |step| step.state = State::Undoing),
            "compensation_succeeded" => self.step(step, |step| step.state = State::Undone),
            "compensation_failed" => self.ended(step, State::UndoFailed, at, record),
            "cancel_requested" => self.status = Status::Cancelling,
            "paused" => self.status = Status::Paused,
            "resumed" => self.status = Status::Running,
            "run_succeeded" => self.status = Status::Succeeded,
            "run_failed" => self.end(Status::Failed, record),
            "run_denied" => self.end(Status::Denied, record),
            "run_cancelled" => self.end(Status::Cancelled, record),
            // Refused controls, signals, and types of later versions.
            _ => {}
        }
    }

    pub(super) fn status(&self) -> Status {
        match self.status {
            Status::Running if self.planning => Status::Planning,
            status => status,
        }
    }

    fn step(&mut self, id: Option<&str>, change: impl FnOnce(&mut Step)) {
        let step = id.and_then(|id| self.steps.iter_mut().find(|step| step.id == id));
        if let Some(step) = step {
            change(step);
        }
    }

    fn ended(&mut self, id: Option<&str>, state: State, at: Option<i64>, record: &Value) {
        let why = error(&record["error"]);
        self.step(id, |step| {
            step.state = state;
            step.ended = at.filter(|_| step.began.is_some());
            step.note = why;
        });
    }

    fn decided(&mut self, record: &Value) {
        let approval = record["approval"].as_u64().unwrap_or_default();
        let step = self.approvals.remove(&approval).flatten();
        let decision = record["decision"].as_str().unwrap_or_default();
        let by = record["by"].as_str().unwrap_or_default();
        let state = match decision {
            "approved" | "retry" => State::Pending,
            // The record that ends the step follows.
            "skip" | "fail" => State::Failed,
            _ => State::Cancelled,
        };
        let note = format!("{decision} by {by}");
        self.step(step.as_deref(), |step| {
            step.state = state;
            step.note = note;
        });
    }

    fn end(&mut self, status: Status, record: &Value) {
        self.status = status;
        let failed = &record["error"];
        let step = failed["failed_step_id"].as_str();
        let step = step.map_or_else(String::new, |step| format!("{step}: "));
        self.failure = Some(format!("{step}{}", error(failed)));
    }

    /// The picture at a time, in milliseconds since the Unix epoch, in lines of at most `width` characters.
    pub(super) fn lines(&self, now: i64, width: usize, colours: bool) -> Vec<String> {
        let paint = |text: String, colour: &str| {
            let text = cut(&text, width);
            if colours {
                format!("\x1b[{colour}m{text}\x1b[0m")
            } else {
                text
            }
        };
        let status = self.status();
        let head = format!("{}  {}  {}", self.run_id, self.what, status.name());
        let mut lines = vec![paint(head, status.colour())];
        let names = self
            .steps
            .iter()
            .map(|s| 2 * s.depth + s.id.chars().count());
        let names = names.max().unwrap_or(0);
        let tools = self.steps.iter().map(|s| s.tool.chars().count());
        let tools = tools.max().unwrap_or(0);
        for step in &self.steps {
            let (symbol, state, colour) = step.state.appearance();
            let name = format!("{:indent$}{}", "", step.id, indent = 2 * step.depth);
            // Writing to a `String` cannot fail.
            let mut line = format!("{symbol} {name:<names$}  {:<tools$}  {state}", step.tool);
            if step.attempts > 1 {
                let _ = write!(line, ", attempt {}", step.attempts);
            }
            let end = step.ended.or((step.state == State::Running).then_some(now));
            if let (Some(began), Some(end)) = (step.began, end) {
                let _ = write!(line, ", {}", duration(end - began));
            }
            if !step.note.is_empty() {
                let _ = write!(line, ": {}", step.note);
            } else if step.state == State::Pending && !step.after.is_empty() {
                let _ = write!(line, " (after {})", step.after.join(", "));
            }
            lines.push(paint(line, colour));
        }
        if !self.status.is_final() {
            for seq in self.approvals.keys() {
                let hint = format!("  omnilink approvals show {}.{seq}", self.run_id);
                lines.push(paint(hint, YELLOW));
            }
        }
        lines
    }
}

/// The steps of a plan, in its order.
fn steps(plan: &Value) -> Vec<Step> {
    let plan = plan.as_array().cloned().unwrap_or_default();
    let text = |step: &Value, name: &str| step[name].as_str().unwrap_or_default().to_owned();
    let after = |step: &Value| {
        let names = step["depends_on"].as_array().into_iter().flatten();
        let names = names.filter_map(Value::as_str).map(str::to_owned);
        names.collect::<Vec<_>>()
    };
    let before: HashMap<String, Vec<String>> = plan
        .iter()
        .map(|step| (text(step, "id"), after(step)))
        .collect();
    let mut depths = HashMap::new();
    let steps = plan.iter().map(|step| {
        let id = text(step, "id");
        Step {
            depth: depth(&id, &before, &mut depths, plan.len()),
            tool: text(step, "tool"),
            after: after(step),
            id,
            state: State::Pending,
            attempts: 0,
            note: String::new(),
            began: None,
            ended: None,
        }
    });
    steps.collect()
}

/// Computes [`Step::depth`]. `left` bounds the recursion, in case a damaged plan has a cycle.
fn depth(
    id: &str,
    before: &HashMap<String, Vec<String>>,
    known: &mut HashMap<String, usize>,
    left: usize,
) -> usize {
    if let Some(depth) = known.get(id) {
        return *depth;
    }
    if left == 0 {
        return 0;
    }
    let of = before.get(id).into_iter().flatten();
    let depth = of
        .map(|name| 1 + depth(name, before, known, left - 1))
        .max()
        .unwrap_or(0);
    known.insert(id.to_owned(), depth);
    depth
}

/// When a record was written, in milliseconds since the Unix epoch.
fn at(record: &Value) -> Option<i64> {
    let at: jiff::Timestamp = record["at"].as_str()?.parse().ok()?;
    Some(at.as_millisecond())
}

fn duration(ms: i64) -> String {
    match ms.max(0) {
        ms @ 0..1000 => format!("{ms} ms"),
        ms @ 1000..60_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        ms @ 60_000..3_600_000 => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1000),
        ms => format!("{} h {} min", ms / 3_600_000, ms % 3_600_000 / 60_000),
    }
}

/// Cuts a text to one line of at most `width` characters.
fn cut(text: &str, width: usize) -> String {
    let text = printable_line(text);
    if text.chars().count() <= width {
        return text.into_owned();
    }
    let cut: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{cut}…")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A second after the run began.
    const NOW: i64 = 1_769_860_801_000;

    fn picture(records: &[Value]) -> Picture {
        let mut picture = Picture::default();
        let plan = json!({ "steps": [
            { "id": "reserve", "tool": "stock" }, { "id": "price", "tool": "noop" },
            { "id": "pay", "tool": "payment", "depends_on": ["reserve", "price"] },
            { "id": "tell", "tool": "emit", "depends_on": ["pay"] }
        ]});
        picture.apply(&json!({
            "seq": 1, "type": "run_started", "run_id": "r", "workflow": { "name": "order", "version": "1.0.0" }
        }));
        picture.apply(&json!({ "seq": 2, "type": "plan_ready", "plan": plan }));
        for record in records {
            picture.apply(record);
        }
        picture
    }

    fn at(ms: i64, mut record: Value) -> Value {
        let at = jiff::Timestamp::from_millisecond(NOW - 1000 + ms).unwrap();
        record["at"] = at.to_string().into();
        record
    }

    #[test]
    fn a_plan_is_drawn_as_it_goes() {
        let picture = picture(&[
            at(
                0,
                json!({ "type": "step_scheduled", "step_id": "reserve", "attempt": 1 }),
            ),
            at(
                0,
                json!({ "type": "step_scheduled", "step_id": "price", "attempt": 1 }),
            ),
            at(
                40,
                json!({ "type": "step_succeeded", "step_id": "price", "attempt": 1, "output": 5 }),
            ),
            at(
                90,
                json!({ "type": "step_retry_scheduled", "step_id": "reserve", "attempt": 1, "error": { "code": "busy", "message": "" } }),
            ),
            at(
                200,
                json!({ "type": "step_scheduled", "step_id": "reserve", "attempt": 2 }),
            ),
        ]);
        assert_eq!(
            picture.lines(NOW, 200, false),
            [
                "r  order 1.0.0  running",
                "▶ reserve   stock    running, attempt 2, 1.0 s",
                "✓ price     noop     succeeded, 40 ms",
                "·   pay     payment  pending (after reserve, price)",
                "·     tell  emit     pending (after pay)",
            ]
        );
        let coloured = picture.lines(NOW, 12, true);
        assert_eq!(coloured[2], "\x1b[32m✓ price    …\x1b[0m");
        assert!(!picture.status().is_final());
    }

    #[test]
    fn what_people_are_asked_is_shown_until_they_decide() {
        let approvals = at(
            0,
            json!({ "seq": 3, "type": "approval_requested", "step_id": "pay", "message": "5 EUR" }),
        );
        let one = picture(std::slice::from_ref(&approvals));
        let lines = one.lines(NOW, 200, false);
        assert_eq!(lines[3], "?   pay     payment  waits for a decision: 5 EUR");
        assert_eq!(lines[5], "  omnilink approvals show r.3");
        let denied = json!({ "seq": 4, "type": "approval_decided", "approval": 3, "decision": "denied", "by": "ann" });
        let ended = json!({ "seq": 5, "type": "run_denied", "error": { "failed_step_id": "pay", "code": "denied", "message": "too much" } });
        let two = picture(&[approvals, denied, ended]);
        let lines = two.lines(NOW, 200, false);
        assert_eq!(lines.len(), 5);
        assert_eq!(lines[0], "r  order 1.0.0  denied");
        assert_eq!(lines[3], "-   pay     payment  cancelled: denied by ann");
        assert_eq!(two.failure.as_deref(), Some("pay: denied: too much"));
    }

    #[test]
    fn a_goal_is_shown_while_it_is_planned() {
        let mut picture = Picture::default();
        picture
            .apply(&json!({ "seq": 1, "type": "run_started", "run_id": "r", "goal": "Pay Ann" }));
        assert_eq!(picture.lines(NOW, 200, false), ["r  Pay Ann  running"]);
        picture.apply(&json!({ "seq": 2, "type": "plan_requested" }));
        assert_eq!(picture.lines(NOW, 200, false), ["r  Pay Ann  planning"]);
        picture.apply(
            &json!({ "seq": 3, "type": "approval_requested", "kind": "plan", "message": "no plan" }),
        );
        assert_eq!(
            picture.lines(NOW, 200, false),
            ["r  Pay Ann  running", "  omnilink approvals show r.3"]
        );
        picture.apply(&json!({ "seq": 4, "type": "approval_decided", "approval": 3, "decision": "approved", "by": "ann" }));
        let plan = json!({ "steps": [{ "id": "a", "tool": "noop" }] });
        picture.apply(&json!({ "seq": 5, "type": "plan_ready", "plan": plan }));
        let lines = picture.lines(NOW, 200, false);
        assert_eq!(lines, ["r  Pay Ann  running", "· a  noop  pending"]);
    }

    #[test]
    fn what_is_undone_is_shown() {
        let of = |kind: &str| json!({ "type": kind, "step_id": "reserve", "attempt": 1 });
        let picture = picture(&[
            at(0, of("step_scheduled")),
            at(5, of("step_succeeded")),
            json!({ "type": "cancel_requested", "by": "ann", "compensate": true }),
            json!({ "type": "step_cancelled", "step_id": "pay" }),
            json!({ "type": "compensation_started" }),
            at(9, of("compensation_scheduled")),
            at(9, of("compensation_succeeded")),
        ]);
        let lines = picture.lines(NOW, 200, false);
        assert_eq!(lines[0], "r  order 1.0.0  compensating");
        assert_eq!(lines[1], "↩ reserve   stock    undone, 5 ms");
        assert_eq!(lines[3], "-   pay     payment  cancelled");
    }

    #[test]
    fn damaged_plans_and_times_are_bounded() {
        let loops = json!([{ "id": "a", "depends_on": ["b"] }, { "id": "b", "depends_on": ["a"] }]);
        assert_eq!(steps(&loops).len(), 2);
        assert_eq!(duration(-5), "0 ms");
        assert_eq!(duration(61_500), "1 min 1 s");
        assert_eq!(duration(7_260_000), "2 h 1 min");
    }
}
