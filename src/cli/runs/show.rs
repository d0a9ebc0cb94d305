//! `omnilink runs show`: prints a run.

use serde_json::Value;

use super::{error, text, what};
use crate::cli::{Global, output};

/// Prints a run.
pub(super) fn print(global: &Global, run: &Value) -> anyhow::Result<()> {
    if global.json {
        return output::json(run);
    }
    for line in head(run) {
        output::line(&line);
    }
    let steps = run["steps"].as_array().cloned().unwrap_or_default();
    if !steps.is_empty() {
        output::line("");
        let rows: Vec<_> = steps.iter().map(step).collect();
        let heading = [
            "STEP", "TOOL", "STATUS", "ATTEMPTS", "STARTED", "FINISHED", "NOTE",
        ];
        output::table(&heading, &rows);
    }
    let open: Vec<_> = run["approvals"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|approval| approval["status"] == "pending")
        .collect();
    for approval in open {
        output::line("");
        output::line(&format!(
            "{} waits for a decision until {}: omnilink approvals show {}",
            approval["step_id"].as_str().unwrap_or("the run"),
            text(approval, "expires_at"),
            text(approval, "id"),
        ));
    }
    Ok(())
}

/// The lines about the run as a whole.
fn head(run: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    let mut say = |name: &str, value: String| lines.push(format!("{name:<10}{value}"));
    say("run", text(run, "run_id"));
    say("status", text(run, "status"));
    say("what", what(run));
    let by = text(run, "principal");
    let by = match run["on_behalf_of"].as_str() {
        Some(user) => format!("{by} for {user}"),
        None => by,
    };
    say("asked by", by);
    say("created", text(run, "created_at"));
    if run["finished_at"].is_string() {
        say("finished", text(run, "finished_at"));
    }
    if run["retry_of"].is_string() {
        say("retry of", text(run, "retry_of"));
    }
    if let Some(output) = run.get("output") {
        say("output", output.to_string());
    }
    let failed = &run["error"];
    if failed.is_object() {
        let step = failed["failed_step_id"].as_str();
        let step = step.map_or_else(String::new, |step| format!("{step}: "));
        say("error", format!("{step}{}", error(failed)));
    }
    lines
}

fn step(step: &Value) -> Vec<String> {
    let compensation = &step["compensation"];
    let note = match (error(&step["error"]), compensation["status"].as_str()) {
        (why, Some(status)) => {
            let failed = error(&compensation["error"]);
            let undo = format!("compensation {status} {failed}");
            format!("{why} {}", undo.trim_end()).trim_start().to_owned()
        }
        (why, None) => why,
    };
    vec![
        text(step, "id"),
        text(step, "tool"),
        text(step, "status"),
        text(step, "attempts"),
        text(step, "started_at"),
        text(step, "finished_at"),
        note,
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_failed_run_says_why_and_what_was_undone() {
        let run = json!({
            "run_id": "r", "status": "failed", "workflow": { "name": "pay", "version": "1.0.0" }, "principal": "ann",
            "on_behalf_of": "bob", "created_at": "2026-01-31T12:00:00Z", "finished_at": "2026-01-31T12:00:05Z",
            "error": { "failed_step_id": "charge", "code": "http_503", "message": "busy", "compensation_results": [] }
        });
        assert_eq!(
            head(&run),
            [
                "run       r",
                "status    failed",
                "what      pay 1.0.0",
                "asked by  ann for bob",
                "created   2026-01-31T12:00:00Z",
                "finished  2026-01-31T12:00:05Z",
                "error     charge: http_503: busy",
            ]
        );
        let undone = json!({
            "id": "reserve", "tool": "t", "status": "compensation_failed", "attempts": 1,
            "compensation": { "status": "failed", "attempts": 2, "error": { "code": "gone", "message": "" } }
        });
        let row = step(&undone);
        assert_eq!(row.last().unwrap(), "compensation failed gone");
        assert_eq!(row[3..6], ["1", "-", "-"]);
    }
}
