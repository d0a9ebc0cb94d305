//! The examples in `docs/topologies.md` are valid, their tests pass, and every step and option has an example.

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

/// The schemas of the page: a block of JSON below the name of its file.
fn schemas() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(PAGE).unwrap();
    let blocks: Vec<&str> = text.split("```json\n").collect();
    let named = blocks.windows(2).map(|pair| {
        let name = pair[0].trim_end().trim_end_matches(':');
        let name = name.trim_end_matches('`').rsplit('`').next().unwrap();
        let schema = pair[1].split("```").next().unwrap();
        (name.to_owned(), schema.to_owned())
    });
    named.collect()
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
    for (name, schema) in schemas() {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, schema).unwrap();
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

/// An unknown key, for which `check` lists the known ones.
const UNKNOWN: &str = "qqqqqqqq";

/// The names in backquotes in the message or note of `check` that begins with `begins`.
fn listed_names(dir: &Path, file: &str, begins: &str) -> Vec<String> {
    let path = dir.join("probe.yaml");
    std::fs::write(&path, file).unwrap();
    let checked = check(&[path], "omnilink.");
    let mut texts = checked.problems.iter().flat_map(|problem| {
        let notes = problem.notes.iter().map(String::as_str);
        notes.chain([problem.message.as_str()])
    });
    let text = texts
        .find_map(|text| text.strip_prefix(begins))
        .unwrap_or_else(|| panic!("no text begins with `{begins}` for\n{file}"));
    let names: Vec<String> = text
        .split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect();
    assert!(!names.is_empty(), "{text}");
    names
}

/// Whether an example contains `option` between `opener` and the next step or section.
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
    let mut missing = Vec::new();
    let mut count = 0;
    // `of`: the opener of an option's example, and the text that it must contain.
    let mut check_options = |file: &str, begins: &str, of: &dyn Fn(&str) -> (String, String)| {
        for option in listed_names(dir.path(), file, begins) {
            count += 1;
            let (opener, holds) = of(&option);
            if !uses(&examples, &opener, &holds) {
                missing.push(format!("{opener} {holds}"));
            }
        }
    };
    let within = |opener: &str| {
        let opener = opener.to_owned();
        move |option: &str| (opener.clone(), format!("{option}:"))
    };
    check_options(&format!("{UNKNOWN}: 1"), "it has", &|key| {
        (format!("{key}:"), String::new())
    });
    let source = with("source", &format!("{{ topic: x, {UNKNOWN}: 1 }}"));
    check_options(&source, "it has", &within("\nsource:"));
    let codec = with("source", &format!("{{ topic: x, codec: {UNKNOWN} }}"));
    check_options(&codec, "there are", &|codec| {
        ("\nsource:".into(), format!("codec: {codec}"))
    });
    check_options(&step(&format!("{UNKNOWN}: 1")), "there are", &|step| {
        (format!("\n  - {step}"), String::new())
    });
    for kind in ["normalise", "validate", "dedupe", "rate_limit"] {
        let file = step(&format!("{{ {kind}: {{ {UNKNOWN}: 1 }} }}"));
        check_options(&file, "it has", &within(&format!("\n  - {kind}:")));
    }
    let over = format!("{{ policy: p, limit: 1, window: 1s, over: {UNKNOWN} }}");
    let over = step(&format!("{{ rate_limit: {over} }}"));
    check_options(&over, "`over` must be", &|over| {
        ("\n  - rate_limit:".into(), format!("over: {over}"))
    });
    let rule = with(
        "steps",
        &format!("[ {{ route: [ {{ to: drop, {UNKNOWN}: 1 }} ] }} ]"),
    );
    check_options(&rule, "it has", &within("\n  - route:"));
    let test = with("tests", &format!("[ {{ {UNKNOWN}: 1 }} ]"));
    check_options(&test, "it has", &within("\ntests:\n  - "));
    let record = format!("[ {{ name: x, given: [ !record {{ {UNKNOWN}: 1 }} ], then: {{}} }} ]");
    check_options(&with("tests", &record), "it has", &within("!record"));
    // The metadata of a record in programs.
    for name in "key headers tenant topic partition offset timestamp".split(' ') {
        count += 1;
        if !uses(&examples, "\n  - map:", &format!("%{name}"))
            && !uses(&examples, "\n  - normalise:", &format!("%{name}"))
        {
            missing.push(format!("%{name}"));
        }
    }
    assert_eq!(missing, Vec::<String>::new());
    assert!(count >= 40, "{count}");
}
