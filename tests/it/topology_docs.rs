//! The examples in `docs/topologies.md` are right, their tests pass, and they leave no step and no option out.

use std::path::Path;

use omnilink::topology::{check, rehearse, render};

const PAGE: &str = "docs/topologies.md";

fn examples() -> Vec<String> {
    let text = std::fs::read_to_string(PAGE).unwrap();
    let blocks = text.split("```yaml\n").skip(1);
    blocks
        .map(|block| block.split("```").next().unwrap().to_owned())
        .collect()
}

#[test]
fn the_examples_of_the_documentation() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("system")).unwrap();
    let mut files = Vec::new();
    for (number, example) in examples().iter().enumerate() {
        let folder = if example.starts_with("# system/") {
            "system"
        } else {
            "."
        };
        let path = dir.path().join(folder).join(format!("{number}.yaml"));
        std::fs::write(&path, example).unwrap();
        files.push(path);
    }
    assert!(files.len() >= 7);
    let checked = check(&files, "omnilink.");
    let problems: Vec<_> = checked.problems.iter().map(|p| p.render(false)).collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    let outcomes = rehearse(&checked.set.unwrap(), |_| ());
    assert!(outcomes.len() >= 6);
    for outcome in outcomes {
        assert!(outcome.passed(), "{}", render(&outcome, false));
    }
}

/// A key that is none, which `check` answers with those that are.
const NONE: &str = "qqqqqqqq";

/// The names in backquotes with which `check` answers a file, in the message or note that begins so.
fn told(dir: &Path, file: &str, begins: &str) -> Vec<String> {
    let path = dir.join("probe.yaml");
    std::fs::write(&path, file).unwrap();
    let checked = check(&[path], "omnilink.");
    let mut said = checked.problems.iter().flat_map(|problem| {
        let notes = problem.notes.iter().map(String::as_str);
        notes.chain([problem.message.as_str()])
    });
    let text = said
        .find_map(|text| text.strip_prefix(begins))
        .unwrap_or_else(|| panic!("`{begins}` is not said of\n{file}"));
    let names: Vec<String> = text
        .split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect();
    assert!(!names.is_empty(), "{text}");
    names
}

/// Whether an example uses an option of something: what `opener` begins, up to the next step or part of the file.
fn uses(examples: &[String], opener: &str, option: &str) -> bool {
    examples.iter().any(|example| {
        example.match_indices(opener).any(|(at, _)| {
            let text = &example[at + opener.len()..];
            let ends = ["\n  - ", "\nsteps:", "\ntests:"];
            let end = ends.iter().filter_map(|end| text.find(end)).min();
            text[..end.unwrap_or(text.len())].contains(option)
        })
    })
}

#[test]
fn every_step_and_option_has_an_example() {
    let dir = tempfile::tempdir().unwrap();
    let examples = examples();
    let with = |part: &str, text: &str| {
        let part = format!("\n{part}: ");
        let whole =
            "\nname: x\nsource: { topic: x }\nsteps: [ { route: [ { to: drop } ] } ]\ntests: []\n";
        let (before, after) = whole.split_once(&part).unwrap();
        let after = after.split_once('\n').unwrap().1;
        format!("{before}{part}{text}\n{after}")
    };
    let step = |text: &str| {
        with(
            "steps",
            &format!("[ {text}, {{ route: [ {{ to: drop }} ] }} ]"),
        )
    };
    let mut left_out = Vec::new();
    let mut count = 0;
    // `of`: what an example of an option begins with, and then holds.
    let mut look = |file: &str, begins: &str, of: &dyn Fn(&str) -> (String, String)| {
        for option in told(dir.path(), file, begins) {
            count += 1;
            let (opener, holds) = of(&option);
            if !uses(&examples, &opener, &holds) {
                left_out.push(format!("{opener} {holds}"));
            }
        }
    };
    let within = |opener: &str| {
        let opener = opener.to_owned();
        move |option: &str| (opener.clone(), format!("{option}:"))
    };
    look(&format!("{NONE}: 1"), "it has", &|key| {
        (format!("{key}:"), String::new())
    });
    let source = with("source", &format!("{{ topic: x, {NONE}: 1 }}"));
    look(&source, "it has", &within("\nsource:"));
    let codec = with("source", &format!("{{ topic: x, codec: {NONE} }}"));
    look(&codec, "there are", &|codec| {
        ("\nsource:".into(), format!("codec: {codec}"))
    });
    look(&step(&format!("{NONE}: 1")), "there are", &|step| {
        (format!("\n  - {step}"), String::new())
    });
    for kind in ["normalise", "dedupe", "rate_limit"] {
        let file = step(&format!("{{ {kind}: {{ {NONE}: 1 }} }}"));
        look(&file, "it has", &within(&format!("\n  - {kind}:")));
    }
    let over = format!("{{ policy: p, limit: 1, window: 1s, over: {NONE} }}");
    let over = step(&format!("{{ rate_limit: {over} }}"));
    look(&over, "`over` must be", &|over| {
        ("\n  - rate_limit:".into(), format!("over: {over}"))
    });
    let rule = with(
        "steps",
        &format!("[ {{ route: [ {{ to: drop, {NONE}: 1 }} ] }} ]"),
    );
    look(&rule, "it has", &within("\n  - route:"));
    let test = with("tests", &format!("[ {{ {NONE}: 1 }} ]"));
    look(&test, "it has", &within("\ntests:\n  - "));
    let record = format!("[ {{ name: x, given: [ !record {{ {NONE}: 1 }} ], then: {{}} }} ]");
    look(&with("tests", &record), "it has", &within("!record"));
    // What a program knows of its record.
    for name in "key headers tenant topic partition offset timestamp".split(' ') {
        count += 1;
        if !uses(&examples, "\n  - map:", &format!("%{name}"))
            && !uses(&examples, "\n  - normalise:", &format!("%{name}"))
        {
            left_out.push(format!("%{name}"));
        }
    }
    assert_eq!(left_out, Vec::<String>::new());
    assert!(count >= 40, "{count}");
}
