//! The files of workflows and tools: what is wrong with them is reported at once, with its place; those of this repository are
//! right; SIGHUP reads them again.

use std::path::Path;

use omnilink::workflows::{Checked, FileKind, check, check_texts, find, kind_of};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    command::{Folder, Up, errors, omnilink, output},
    wait_until,
};

fn checked(tools: &[&str], workflows: &[&str]) -> Checked {
    let named = |kind: &str, texts: &[&str]| -> Vec<_> {
        let texts = texts.iter().enumerate();
        texts
            .map(|(n, text)| (format!("{kind}{n}.yaml"), Ok((*text).to_owned())))
            .collect()
    };
    check_texts(named("t", tools), named("w", workflows))
}

fn problems(tools: &[&str], workflows: &[&str]) -> Vec<String> {
    let checked = checked(tools, workflows);
    assert_eq!(checked.catalog.is_none(), !checked.problems.is_empty());
    let all = checked.problems.iter().map(|problem| {
        let text = problem.render(false);
        let first = text.lines().next().unwrap().to_owned();
        match problem.notes.first() {
            Some(note) => format!("{first} ({note})"),
            None => first,
        }
    });
    all.collect()
}

#[test]
fn the_files_of_this_repository_are_right() {
    let tools = find(Path::new("tools")).unwrap();
    let workflows = find(Path::new("workflows")).unwrap();
    let checked = check(&tools, &workflows);
    let text: Vec<_> = checked.problems.iter().map(|p| p.render(false)).collect();
    assert_eq!(text, Vec::<String>::new());
    let catalog = checked.catalog.unwrap();
    assert_eq!(catalog.workflows().count(), workflows.len());
    assert_eq!(
        catalog.command("expense.pay").unwrap().name,
        "expense-payment"
    );
    let folder = find(Path::new("no/such/folder")).unwrap();
    assert!(folder.is_empty());
}

#[test]
fn the_files_of_the_documentation_are_right() {
    let page = std::fs::read_to_string("docs/workflows.md").unwrap();
    let blocks = page.split("```yaml\n").skip(1);
    let texts = blocks.map(|block| block.split("```").next().unwrap());
    let of_kind = |kind: FileKind| -> Vec<(String, std::io::Result<String>)> {
        let texts = texts.clone().filter(|text| kind_of(text) == kind);
        let named = texts.enumerate();
        named
            .map(|(n, text)| (format!("{n}.yaml"), Ok(text.to_owned())))
            .collect()
    };
    let mut tools = of_kind(FileKind::Tool);
    let workflows = of_kind(FileKind::Workflow);
    assert_eq!((tools.len(), workflows.len()), (1, 1));
    for name in ["accounts.delete.yaml", "payments.transfer.yaml"] {
        let text = std::fs::read_to_string(Path::new("tools").join(name));
        tools.push((name.to_owned(), text));
    }
    let checked = check_texts(tools, workflows);
    let text: Vec<_> = checked.problems.iter().map(|p| p.render(false)).collect();
    assert_eq!(text, Vec::<String>::new());
}

#[test]
fn all_problems_of_a_workflow_are_reported_with_their_places() {
    let workflow = r#"name: 1pay
version: 1.0
comand: x
examples: ["Pay {AMOUNT} to {PERSONN}"]
bind: { sum: "{{ params.x }}", total: "{{ slots.AMOUNT }}" }
params: { type: objekt, properties: { sum: {} } }
plan:
  steps:
    - id: a
      tol: noop
    - id: b
      tool: nop
      depends_on: [c]
      input: { x: "{{ steps.a.output }}", y: 9007199254740993 }
      input: 1
on:
  - { event: "*" , when: ".type ==" }
  - { cron: "0 7 * *", tz: Mars/Olympus }
"#;
    let found = problems(&[], &[workflow]);
    let expected = [
        "w0.yaml:1:7: error: a workflow's name has 1 to 128 of A-Z a-z 0-9 . _ -, and begins with a letter",
        "w0.yaml:2:10: error: `version` must be text, and this is a number (put it in quotes)",
        "w0.yaml:3:1: error: a workflow has no `comand` (did you mean `command`?)",
        "w0.yaml:4:12: error: `{PERSONN}` is not a kind of slot (did you mean `{PERSON}`?)",
        "w0.yaml:5:14: error: there is no `params.x` here (expressions refer to `slots` here)",
        "w0.yaml:5:32: error: `params` has no property `total`",
    ];
    assert_eq!(found[..6], expected, "{found:#?}");
    let rest = found[6..].join("\n");
    for start in [
        "w0.yaml:6:17: error: not a JSON Schema:",
        "w0.yaml:9:7: error: step `a`: a step needs `tool`",
        "w0.yaml:10:7: error: step `a`: a step has no `tol` (did you mean `tool`?)",
        "w0.yaml:14:46: error: a number that a double cannot represent exactly (put it in quotes)",
        "w0.yaml:15:7: error: `input` is given twice",
        "w0.yaml:17:14: error: `event` must be a type, or the beginning of one and `.*`",
        "w0.yaml:17:",
        "w0.yaml:18:13: error: not a cron expression:",
        "w0.yaml:18:28: error: there is no time zone `Mars/Olympus`",
    ] {
        assert!(
            rest.lines().any(|line| line.starts_with(start)),
            "{start}\n{rest}"
        );
    }
    assert!(rest.contains("VRL"), "{rest}");
}

#[test]
fn all_problems_of_a_tool_are_reported_with_their_places() {
    let tool = r#"name: approve
worker: { http: { url: "http://me:secret@host/x", secret: plain } }
kind: writes
risk: { lane: green, params: { amount: { yellow: 5, red: 1 }, x: {} } }
input_schema: { type: 7 }
compensate: { tool: undo, input: { x: "{{ params.x }}" } }
limit: { key: "{{ steps.a.output }}" }
"#;
    let found = problems(&[tool], &[]);
    let expected = [
        "t0.yaml:3:7: error: `kind` must be one of `read`, `write`, `delete`, `payment` and `message` (did you mean `write`?)",
        "t0.yaml:4:15: error: `lane` must be one of `safe`, `sensitive` and `blocked`",
        "t0.yaml:4:40: error: `yellow` must not be above `red`",
        "t0.yaml:4:66: error: a threshold needs `yellow`, `red` or both",
        "t0.yaml:6:39: error: there is no `params.x` here (expressions refer to `step.input` and `step.output` here)",
        "t0.yaml:7:8: error: `limit` needs `concurrency`, `rate` or both",
        "t0.yaml:7:15: error: there is no `steps.a.output` here (expressions refer to `params` and `input` here)",
    ];
    assert_eq!(found, expected);
    let tool = "name: approve\nworker: { http: { url: \"http://me:secret@host/x\", secret: plain } }\ninput_schema: { type: 7 }\n";
    let found = problems(&[tool], &[]);
    assert_eq!(
        found[0],
        "t0.yaml:1:7: error: `approve` is the name of a builtin tool"
    );
    assert_eq!(
        found[1],
        "t0.yaml:2:24: error: `url` must not hold a user or a password"
    );
    assert!(
        found[2].starts_with("t0.yaml:2:59: error: `secret` must be `whsec_` and base64"),
        "{found:#?}"
    );
    assert!(
        found[3].starts_with("t0.yaml:3:23: error: not a JSON Schema: "),
        "{found:#?}"
    );
    let tool = "name: a\nworker: { kafka: {} }\nlimit: { concurrency: 1 }\n";
    let found = problems(&[tool], &[]);
    let expected = "t0.yaml:3:8: error: a tool with `worker: {kafka: {}}` has no `limit`";
    assert!(
        found.len() == 1 && found[0].starts_with(expected),
        "{found:#?}"
    );
    for worker in ["{}", "{ http: {}, claim: {} }", "{ builtin: sql }", "http"] {
        assert_eq!(
            problems(&[&format!("name: a\nworker: {worker}\n")], &[]).len(),
            1,
            "{worker}"
        );
    }
}

#[test]
fn files_are_checked_together() {
    let tool = |name: &str, more: &str| format!("name: {name}\nworker: {{ claim: {{}} }}\n{more}");
    let workflow = |name: &str, version: &str, more: &str| {
        format!(
            "name: {name}\nversion: \"{version}\"\nplan: {{ steps: [ {{ id: s, tool: pay }} ] }}\n{more}"
        )
    };
    let pay = tool("pay", "");
    let twice = problems(&[&pay, &pay], &[]);
    assert_eq!(
        twice,
        ["t1.yaml:1:7: error: there is another tool `pay`, in t0.yaml"]
    );
    let undo = tool("pay", "compensate: { tool: repay }\n");
    let found = problems(&[&undo], &[]);
    assert_eq!(found, ["t0.yaml:3:21: error: there is no tool `repay`"]);
    // A tool may be undone by one of a later file.
    assert!(problems(&[&undo, &tool("repay", "")], &[]).is_empty());

    let a = workflow("a", "1.0.0", "command: go\n");
    let found = problems(
        &[&pay],
        &[
            &a,
            &workflow("a", "1.0.0", ""),
            &workflow("b", "1.0.0", "command: go\n"),
        ],
    );
    assert_eq!(
        found,
        [
            "w1.yaml:2:10: error: there is another workflow `a` of version 1.0.0, in w0.yaml",
            "w2.yaml:4:10: error: the command `go` is that of workflow `a` already",
        ]
    );
    let higher = [
        &*a,
        &*workflow("a", "1.10.0", "command: go\n"),
        &*workflow("a", "1.9.0", ""),
        &*workflow("a", "2.0.0-rc.1", ""),
    ];
    let catalog = checked(&[&pay], &higher).catalog.unwrap();
    let version =
        |w: Option<&std::sync::Arc<omnilink::workflows::Workflow>>| w.unwrap().version.to_string();
    assert_eq!(version(catalog.workflow("a", None)), "1.10.0");
    assert_eq!(
        version(catalog.workflow("a", Some("2.0.0-rc.1"))),
        "2.0.0-rc.1"
    );
    assert_eq!(version(catalog.command("go")), "1.10.0");
    assert!(catalog.workflow("a", Some("3.0.0")).is_none());

    let clock = workflow(
        "c",
        "1.0.0",
        "params: { required: [x] }\non: [ { cron: \"* * * * *\" } ]\n",
    );
    let found = problems(&[&pay], &[&clock]);
    assert!(
        found[0].starts_with("w0.yaml:5:7: error: a time starts it without params"),
        "{found:?}"
    );
    let large = tool(
        "pay",
        &format!("description: \"{}\"\n", "x".repeat(510_000)),
    );
    let found = problems(&[&large], &[&a]);
    assert!(
        found[0].contains("w0.yaml:3:7: error: the plan has "),
        "{found:?}"
    );
    assert!(
        found[0].contains("a start takes 507904 of both together"),
        "{found:?}"
    );
    assert_eq!(problems(&[], &["name: a\n  b: [\n"]).len(), 1);
}

/// A schema never asks the network: a reference to it is an error.
#[test]
fn schemas_stay_where_they_are() {
    let tool = "name: a\nworker: { claim: {} }\ninput_schema: { $ref: \"https://example.com/schema.json\" }\n";
    let found = problems(&[tool], &[]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("not a JSON Schema"), "{found:?}");
}

const TOOL: &str = "name: pay\nworker: { claim: {} }\n";
const WORKFLOW: &str = "name: w\nversion: \"1.0.0\"\nplan: { steps: [ { id: s, tool: pay } ] }\n";

fn put(dir: &Path, file: &str, text: &str) {
    let path = dir.join(file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

#[test]
fn check_covers_all_kinds_of_files() {
    let dir = TempDir::new().unwrap();
    let run = |args: &[&str]| output(&mut omnilink(dir.path(), args));
    put(dir.path(), "tools/pay.yaml", TOOL);
    put(dir.path(), "workflows/w.yaml", WORKFLOW);
    put(dir.path(), "topologies/bad.yaml", "nam: b\n");
    let (code, text, _) = run(&["check", "workflows/w.yaml", "tools/pay.yaml"]);
    assert_eq!((code, &*text), (0, "2 files checked, no errors\n"));
    put(
        dir.path(),
        "workflows/bad.yaml",
        "name: bad\nversion: \"1.0.0\"\nplan: { steps: [ { id: s, tool: pays } ] }\n",
    );
    let (code, text, error) = run(&["check"]);
    assert_eq!(code, 1);
    let told = "workflows/bad.yaml:3:33: error: step `s`: there is no tool `pays`\n  |\n3 | plan: { steps: [ { id: s, tool: pays } ] }\n  |                                 ^^^^\n  = did you mean `pay`?\n";
    assert!(text.contains(told), "{text}");
    assert!(
        text.contains("topologies/bad.yaml:1:1: error: a topology has no `nam`"),
        "{text}"
    );
    assert!(error.contains("in 2 files"), "{error}");
    let (code, json, _) = run(&["check", "--json", "workflows/bad.yaml"]);
    assert_eq!(code, 1);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["items"].as_array().unwrap().len(), 1);
    assert_eq!(json["items"][0]["line"], 3);
    std::fs::remove_file(dir.path().join("topologies/bad.yaml")).unwrap();
    let (code, _, error) = run(&["up"]);
    assert_eq!(code, 1);
    assert!(
        error.contains("1 error in ") && error.contains("workflows/bad.yaml"),
        "{error}"
    );
}

#[test]
fn sighup_reads_the_files_again() {
    let dir = Folder::new();
    put(dir.path(), "tools/pay.yaml", TOOL);
    put(dir.path(), "workflows/w.yaml", WORKFLOW);
    let up = Up::start(dir.path());
    let hang_up = || {
        let pid = rustix::process::Pid::from_child(&up.child);
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    };
    put(
        dir.path(),
        "workflows/w2.yaml",
        &WORKFLOW.replace("name: w", "name: w2"),
    );
    hang_up();
    wait_until("reloaded", || {
        errors(dir.path()).contains("workflows and tools were read again")
    });
    put(dir.path(), "workflows/w3.yaml", "name: w3\n");
    hang_up();
    wait_until("an error", || {
        errors(dir.path()).contains("workflows and tools were not read again")
    });
    let told = errors(dir.path());
    assert!(
        told.contains("w3.yaml:1:1: error: a workflow needs `version`"),
        "{told}"
    );
    assert_eq!(up.stop(), 0);
}

#[test]
fn sql_has_no_expressions() {
    let workflow = r#"name: q
version: "1.0.0"
plan:
  steps:
    - { id: a, tool: sql_query, input: { sql: "SELECT * FROM t WHERE x = '{{ params.x }}'" } }
    - { id: b, tool: sql_query, input: "{{ params }}" }
    - { id: c, tool: sql_query, input: { sql: "SELECT $1", params: ["{{ params.x }}"] } }
    - { id: d, tool: own.query, input: { sql: "{{ params.sql }}" } }
    - { id: e, tool: sql_query, input: { sql: "SELECT 1", limit: 5 } }
    - { id: f, tool: record_create, input: { table: "{{ params.x }}", values: {} } }
"#;
    let tool = "name: own.query\nkind: read\nworker: { builtin: sql_query }\ncompensate: { tool: sql_query, input: { sql: \"{{ step.input.sql }}\" } }";
    let note =
        "`sql` must be text without expressions (write $1, $2 … in it, and the values in `params`)";
    let found = problems(&[tool], &[workflow]);
    let expected = [
        format!("t0.yaml:4:46: error: {note}"),
        format!("w0.yaml:5:47: error: step `a`: {note}"),
        format!("w0.yaml:6:40: error: step `b`: {note}"),
        format!("w0.yaml:8:47: error: step `d`: {note}"),
    ];
    assert_eq!(found[..4], expected, "{found:#?}");
    let rest = &found[4..];
    assert!(
        rest.len() == 1 && rest[0].contains("step `e`: not an input of `sql_query`"),
        "{found:#?}"
    );
}

#[test]
fn a_wait_names_signals_that_can_be_sent() {
    let (good, long) = ("é".repeat(128), "é".repeat(129));
    let workflow = format!(
        r#"name: q
version: "1.0.0"
plan:
  steps:
    - {{ id: a, tool: wait, input: {{ signal: "{good}" }} }}
    - {{ id: b, tool: wait, input: {{ signal: "{long}" }} }}
    - {{ id: c, tool: wait, input: {{ any: [go, "{long}"], timeout_s: "{{{{ params.x }}}}" }} }}
    - {{ id: d, tool: wait, input: {{ signal: "a\tb" }} }}
"#
    );
    let found = problems(&[], &[&workflow]);
    let message = "a signal has a name of 1 to 256 bytes without control characters";
    assert_eq!(found.len(), 3, "{found:#?}");
    for (found, step) in found.iter().zip(["b", "c", "d"]) {
        assert!(
            found.ends_with(&format!("error: step `{step}`: {message}")),
            "{found}"
        );
    }
}
