//! The output of `omnilink check` for invalid topology files: each file in `tests/topologies/wrong/` against its `.expected` text.
//! `OMNILINK_BLESS=1` updates those texts.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use omnilink::topology::{check, find, has_errors};

const WRONG: &str = "tests/topologies/wrong";

/// A file, or a folder of files that are checked together.
fn files(case: &Path) -> Vec<PathBuf> {
    if case.is_dir() {
        find(case).unwrap()
    } else {
        vec![case.to_owned()]
    }
}

#[test]
fn all_problems_are_reported_at_once() {
    let mut cases: Vec<PathBuf> = std::fs::read_dir(WRONG)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir() || path.extension().is_some_and(|x| x == "yaml"))
        .collect();
    cases.sort();
    assert!(cases.len() >= 40, "{}", cases.len());
    let bless = std::env::var_os("OMNILINK_BLESS").is_some();
    let mut wrong = Vec::new();
    let mut told = BTreeSet::new();
    let mut several = 0;
    for case in &cases {
        let checked = check(&files(case), "omnilink.");
        assert!(
            checked.set.is_none() && has_errors(&checked.problems),
            "{}",
            case.display()
        );
        several += usize::from(checked.problems.len() > 1);
        told.extend(checked.problems.iter().map(|p| p.message.clone()));
        let text: Vec<String> = checked.problems.iter().map(|p| p.render(false)).collect();
        let text = text.join("\n");
        let expected = case.with_extension("expected");
        if bless {
            std::fs::write(&expected, &text).unwrap();
        } else if std::fs::read_to_string(&expected).unwrap_or_default() != text {
            wrong.push(format!("--- {}\n{text}", expected.display()));
        }
    }
    assert!(
        wrong.is_empty(),
        "{}\nOMNILINK_BLESS=1 takes this over",
        wrong.join("\n")
    );
    assert!(several >= 30, "most files have several mistakes: {several}");
    assert!(told.len() >= 80, "{} messages", told.len());
}

#[test]
fn valid_files_have_no_problems() {
    let checked = check(
        &find(Path::new("tests/topologies/right")).unwrap(),
        "omnilink.",
    );
    let text: Vec<String> = checked.problems.iter().map(|p| p.render(false)).collect();
    assert_eq!(text, Vec::<String>::new());
    assert_eq!(checked.set.unwrap().names().count(), 7);
    assert!(
        check(&find(Path::new("no/such/folder")).unwrap(), "")
            .set
            .is_some()
    );
}
