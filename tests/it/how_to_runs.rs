//! Runs the how-to about runs from the first command to the last, on the embedded log.

use std::time::Duration;

use crate::support::{
    command::{Folder, Up},
    pages::{blocks, follow, has, shell},
};

const RUN: &str = "2d6f4b40-8efa-5cbc-b3e2-be245f7cbd62";

#[test]
fn control_runs() {
    if !has("psql", &["--version"]) || !has("jq", &["--version"]) || !has("curl", &["--version"]) {
        return;
    }
    let page = "docs/how-to/control-runs.md";
    let title = "# Control runs and decide approvals";
    let folder = Folder::new();
    let dir = folder.path();
    std::fs::create_dir(dir.join("workflows")).unwrap();
    let blocks = blocks(page, title);
    let yaml = blocks.iter().find(|(language, _)| language == "yaml");
    std::fs::write(dir.join("workflows/expense.yaml"), &yaml.unwrap().1).unwrap();
    let up = Up::start(dir);
    let settings = [("OMNILINK_URL", up.url.as_str())];
    let run = |line: &str| {
        let line = line.replace("http://127.0.0.1:7700", &up.url);
        // The commands find the admin's key in the folder of the node.
        let line = format!("export OMNILINK_KEY=\"$(cat data/admin.key)\"; {line}");
        shell(dir, &up, &line, &settings)
    };
    follow(&blocks, |line| {
        // Rows come a moment later than the answers.
        if line.contains("list") || line.contains("show") {
            let list = if line.contains("runs") {
                "omnilink runs list"
            } else {
                "omnilink approvals list"
            };
            wait(|| run(&format!("{list} || true")).contains(RUN));
        }
        if line.contains("audit") {
            wait(|| run(line).matches(RUN).count() == 3);
        }
        run(line)
    });
}

fn wait(mut until: impl FnMut() -> bool) {
    for _ in 0..100 {
        if until() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("it did not come within 10 s");
}
