//! The examples in `docs/topologies.md` are right, and their tests pass.

use omnilink::stream::topology::{check, rehearse};

#[test]
fn the_examples_of_the_documentation() {
    let text = std::fs::read_to_string("docs/topologies.md").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for (number, block) in text.split("```yaml\n").skip(1).enumerate() {
        let path = dir.path().join(format!("{number}.yaml"));
        std::fs::write(&path, block.split("```").next().unwrap()).unwrap();
        files.push(path);
    }
    assert!(files.len() >= 3);
    let checked = check(&files, "omnilink.");
    let problems: Vec<_> = checked.problems.iter().map(|p| p.render(false)).collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    let outcomes = rehearse(&checked.set.unwrap(), |_| ());
    assert!(outcomes.len() >= 3);
    for outcome in outcomes {
        assert!(outcome.passed(), "{}: {:#?}", outcome.name, outcome.diff);
    }
}
