//! The risk rules: lane and score of a step, from its tool, the step, and the rendered input.

use serde_json::Value;

use crate::plans::{Kind, Lane, Thresholds, Tool};
use crate::runs::RiskLane;

/// How risky a step is, and why.
#[derive(Clone, PartialEq, Debug)]
pub struct Risk {
    /// The risk lane: green, yellow or red.
    pub lane: RiskLane,
    /// From 0 to 1: the highest score of the reasons.
    pub score: f64,
    /// The stable codes of the reasons.
    pub reasons: Vec<String>,
}

/// The score of the lane RED.
pub(super) const RED: f64 = 0.8;

impl Risk {
    /// Demands an approval, for a reason other than the rules.
    pub(super) fn require(&mut self, reason: &str) {
        self.lane = self.lane.max(RiskLane::Red);
        self.score = self.score.max(RED);
        self.reasons.push(reason.to_owned());
    }
}

/// How a value compares with its thresholds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Colour {
    Green,
    Yellow,
    Red,
}

/// Applies the rules to a step.
pub fn judge(tool: &Tool, irreversible: bool, input: &Value) -> Risk {
    let mut risk = Risk {
        lane: RiskLane::Green,
        score: 0.0,
        reasons: Vec::new(),
    };
    let mut raise = |lane: RiskLane, score: f64, reason: String| {
        risk.lane = risk.lane.max(lane);
        risk.score = risk.score.max(score);
        risk.reasons.push(reason);
    };
    match tool.risk.lane {
        Some(Lane::Blocked) => raise(RiskLane::Blocked, 1.0, "tool_blocked".into()),
        Some(Lane::Sensitive) => raise(RiskLane::Red, RED, "tool_sensitive".into()),
        Some(Lane::Safe) => {}
        None => raise(RiskLane::Yellow, 0.4, "tool_unknown".into()),
    }
    if irreversible {
        raise(RiskLane::Red, RED, "irreversible".into());
    }
    match tool.kind {
        Some(Kind::Delete) => raise(RiskLane::Red, RED, "kind_delete".into()),
        Some(Kind::Payment) => raise(RiskLane::Red, RED, "kind_payment".into()),
        _ => {}
    }
    let mut yellow = 0;
    for (path, thresholds) in &tool.risk.params {
        match colour_at(input, path, *thresholds) {
            Colour::Green => {}
            Colour::Yellow => {
                yellow += 1;
                raise(RiskLane::Yellow, 0.5, format!("yellow:{path}"));
            }
            Colour::Red => raise(RiskLane::Red, RED, format!("red:{path}")),
        }
    }
    if yellow >= 2 {
        raise(RiskLane::Red, RED, "several_yellow".into());
    }
    risk
}

/// Compares the value at a dotted path with its thresholds. An absent value is green. If the path leads through a value that is not an
/// object, such as a list, nothing can be compared: that is red.
fn colour_at(input: &Value, path: &str, thresholds: Thresholds) -> Colour {
    let mut value = input;
    for name in path.split('.') {
        let members = match value {
            Value::Object(members) => members,
            Value::Null => return Colour::Green,
            _ => return Colour::Red,
        };
        match members.get(name) {
            Some(member) => value = member,
            None => return Colour::Green,
        }
    }
    colour(value, thresholds)
}

/// Compares a value with its thresholds. Numeric text counts as a number, null is green, and another value that is not a number is red.
fn colour(value: &Value, thresholds: Thresholds) -> Colour {
    let number = match value {
        Value::Null => return Colour::Green,
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    let reaches = |line: Option<f64>, number: f64| line.is_some_and(|line| number >= line);
    match number.filter(|number: &f64| number.is_finite()) {
        None => Colour::Red,
        Some(number) if reaches(thresholds.red, number) => Colour::Red,
        Some(number) if reaches(thresholds.yellow, number) => Colour::Yellow,
        Some(_) => Colour::Green,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tool(definition: &Value) -> Tool {
        let mut whole = json!({ "name": "t", "description": "a tool", "worker": { "claim": {} } });
        let (whole_map, more) = (
            whole.as_object_mut().unwrap(),
            definition.as_object().unwrap(),
        );
        whole_map.extend(more.clone());
        Tool::read(&whole).unwrap()
    }

    fn lane(definition: &Value, input: &Value) -> (RiskLane, f64) {
        let risk = judge(&tool(definition), false, input);
        (risk.lane, risk.score)
    }

    #[test]
    fn what_cannot_be_compared_is_red() {
        let limits = json!({ "kind": "write", "risk": { "lane": "safe", "params": {
            "order.total": { "yellow": 1000 }
        } } });
        for absent in [
            json!({}),
            Value::Null,
            json!({ "order": null }),
            json!({ "order": {} }),
            json!({ "order": { "total": null } }),
        ] {
            assert_eq!(lane(&limits, &absent).0, RiskLane::Green, "{absent}");
        }
        for other in [
            json!({ "order": [{ "total": 5000 }] }),
            json!({ "order": "5000" }),
            json!({ "order": 1 }),
            json!({ "order": true }),
            json!({ "order": { "total": [1] } }),
            json!([{ "order": { "total": 1 } }]),
        ] {
            assert_eq!(lane(&limits, &other).0, RiskLane::Red, "{other}");
        }
    }

    #[test]
    fn lanes_follow_the_rules() {
        let safe = json!({ "kind": "read", "risk": { "lane": "safe" } });
        assert_eq!(lane(&safe, &json!({})), (RiskLane::Green, 0.0));
        assert_eq!(lane(&json!({}), &json!({})), (RiskLane::Yellow, 0.4));
        let pay = json!({ "kind": "payment", "risk": { "lane": "safe" } });
        assert_eq!(lane(&pay, &json!({})), (RiskLane::Red, 0.8));
        let limits = json!({ "kind": "write", "risk": { "lane": "safe", "params": {
            "amount": { "yellow": 1000, "red": 10_000 }, "items.count": { "yellow": 5 }
        } } });
        let of = |amount: Value, count: u32| {
            lane(
                &limits,
                &json!({ "amount": amount, "items": { "count": count } }),
            )
        };
        assert_eq!(of(json!(999.99), 1), (RiskLane::Green, 0.0));
        assert_eq!(of(json!("1000"), 1), (RiskLane::Yellow, 0.5));
        assert_eq!(of(json!(1000), 5), (RiskLane::Red, 0.8));
        assert_eq!(of(json!(10_000), 1), (RiskLane::Red, 0.8));
        assert_eq!(of(json!("a lot"), 1), (RiskLane::Red, 0.8));
        assert_eq!(of(json!([1]), 1), (RiskLane::Red, 0.8));
        assert_eq!(of(Value::Null, 1), (RiskLane::Green, 0.0));
        assert_eq!(judge(&tool(&safe), true, &json!({})).lane, RiskLane::Red);
    }
}
