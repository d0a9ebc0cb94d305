//! `examples/shop`: the commands in README.md and the how-tos are run as written, and their output is compared.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use omnilink::{
    log::{Cleanup, TopicSpec},
    topology::{check, find, rehearse, render},
};
use serde_json::Value;

use crate::support::{
    LogKind, TestLog,
    command::{Folder, Up, errors},
    env_or_skip,
    pages::{blocks, follow, has, shell},
    read_all, value,
};

const EXAMPLE: &str = "examples/shop";
/// The number of lines in `lines.csv`.
const LINES: usize = 295;

/// Copies its topologies into a folder, with another topic instead of `shop.lines`.
pub fn topologies(dir: &Path, topic: &str) {
    let to = dir.join("topologies");
    std::fs::create_dir_all(&to).unwrap();
    for file in find(&Path::new(EXAMPLE).join("topologies")).unwrap() {
        let text = std::fs::read_to_string(&file).unwrap();
        let text = text.replace("shop.lines", topic);
        std::fs::write(to.join(file.file_name().unwrap()), text).unwrap();
    }
}

/// A copy of the example with a running node.
struct Shop {
    dir: Folder,
    up: Up,
}

impl Shop {
    fn open() -> Self {
        Self::with(|_| ())
    }

    /// With changes to the files before the node starts.
    fn with(change: impl FnOnce(&Path)) -> Self {
        let dir = Folder::new();
        for entry in std::fs::read_dir(EXAMPLE).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
            }
        }
        topologies(dir.path(), "shop.lines");
        change(dir.path());
        let up = Up::start_with(dir.path(), &[]);
        Self { dir, up }
    }

    /// Runs commands in a shell and returns their output.
    fn run(&self, commands: &str) -> String {
        let settings = [("OMNILINK_URL", self.up.url.as_str())];
        shell(self.dir.path(), &self.up, commands, &settings)
    }

    /// Waits until Postgres has this many events.
    fn events(&self, expected: usize) {
        let deadline = Instant::now() + Duration::from_mins(3);
        let count =
            "psql \"$(cat data/postgres.url)\" -Atc 'SELECT count(*) FROM omnilink.events' || true";
        while self.run(count).trim() != expected.to_string() {
            assert!(
                Instant::now() < deadline,
                "{}\n{}",
                self.run(count),
                errors(self.dir.path())
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

#[test]
fn its_own_tests_pass() {
    let files = find(&Path::new(EXAMPLE).join("topologies")).unwrap();
    let checked = check(&files, "omnilink.");
    let problems: Vec<_> = checked.problems.iter().map(|p| p.render(false)).collect();
    assert_eq!(problems, Vec::<String>::new());
    let outcomes = rehearse(&checked.set.unwrap(), |_| ());
    assert!(outcomes.len() >= 7, "{}", outcomes.len());
    for outcome in &outcomes {
        assert!(outcome.passed(), "{}", render(outcome, false));
    }
}

#[test]
fn the_tour_and_the_how_tos_with_it() {
    if !has("python3", &["--version"]) || !has("psql", &["--version"]) {
        return;
    }
    let shop = Shop::open();
    // An event for each line as posted, for the order and the product of each valid line, and for customers' orders.
    let events = 2 * LINES + LINES - 2 + 55;
    let tour = blocks("README.md", "## A shop in five minutes");
    follow(&tour, |line| {
        if line.starts_with("psql") {
            shop.events(events);
        }
        shop.run(line)
    });
    // Sending the file again changes nothing.
    let again = shop.run("python3 produce.py lines.csv");
    assert_eq!(again, "295 duplicate\n");
    shop.events(events);
    let questions = blocks("examples/shop/README.md", "## Questions");
    follow(&questions, |line| shop.run(line));

    replayed(&shop);

    // The rejected line is processed after the redrive.
    let page = "docs/how-to/change-a-mapping-safely.md";
    let change = blocks(page, "# Change a mapping safely");
    follow(&change[..2], |line| shop.run(line));
    let (of_test, of_program) = (&change[2], &change[3]);
    assert_eq!((&*of_test.0, &*of_program.0), ("yaml", "diff"));
    let file = shop.dir.path().join("topologies/lines.yaml");
    let mut text = std::fs::read_to_string(&file).unwrap();
    // The dead letter becomes a failing test.
    text.push_str(&of_test.1);
    std::fs::write(&file, &text).unwrap();
    let failing = shop.run("omnilink test || true");
    assert!(failing.contains("1 of 8 tests failed"), "{failing}");
    for line in of_program.1.lines() {
        let (sign, line) = line.split_at(1);
        match sign {
            "-" => {
                assert_eq!(text.matches(line).count(), 1, "{line}");
                text = text.replace(line, "\u{0}");
            }
            _ => text = text.replace('\u{0}', line),
        }
    }
    std::fs::write(&file, &text).unwrap();
    let reloaded = || errors(shop.dir.path()).matches("were reloaded").count();
    let before = reloaded();
    follow(&change[4..], |line| {
        // The node must have the new mapping before the redrive.
        let deadline = Instant::now() + Duration::from_mins(1);
        while line.contains("redrive") && reloaded() == before {
            assert!(Instant::now() < deadline, "{}", errors(shop.dir.path()));
            std::thread::sleep(Duration::from_millis(100));
        }
        shop.run(line)
    });
    shop.events(events + 2);
    assert_eq!(shop.up.stop(), 0);
}

/// A record of `events` that one topology rejected is redriven to that topology alone; others have processed it already.
#[test]
fn a_redrive_to_one_topology_is_not_a_second_event() {
    let needs = ["python3", "psql", "jq"];
    if !needs.iter().all(|program| has(program, &["--version"])) {
        return;
    }
    let right = std::fs::read_to_string("examples/shop/topologies/customers.yaml").unwrap();
    let wrong = right.replace("string!(.entity.external_id)", "int!(.entity.external_id)");
    let shop = Shop::with(|dir| {
        // Its tests would fail.
        std::fs::write(dir.join("topologies/customers.yaml"), &wrong).unwrap();
        let file = dir.join("lines.csv");
        let text = std::fs::read_to_string(&file).unwrap();
        let some: Vec<&str> = text.lines().take(1 + 40).collect();
        std::fs::write(file, some.join("\n")).unwrap();
    });
    shop.run("python3 produce.py lines.csv");
    shop.events(40 * 3);
    let letters = || {
        let listed = shop.run("omnilink dlq list --limit 1000 --json");
        serde_json::from_str::<Value>(&listed).unwrap()["items"].clone()
    };
    let deadline = Instant::now() + Duration::from_mins(1);
    let refused = shop.run(
        "psql \"$(cat data/postgres.url)\" -Atc \"SELECT count(*) FROM omnilink.events WHERE data ? 'customer'\"",
    );
    let refused: usize = refused.trim().parse().unwrap();
    while letters().as_array().unwrap().len() < refused {
        assert!(Instant::now() < deadline, "{}", letters());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(
        letters()
            .as_array()
            .unwrap()
            .iter()
            .all(|l| l["stage"] == "topology.customers")
    );
    std::fs::write(shop.dir.path().join("topologies/customers.yaml"), right).unwrap();
    shop.run("kill -HUP $(pidof omnilink)");
    while !errors(shop.dir.path()).contains("were reloaded") {
        assert!(Instant::now() < deadline, "{}", errors(shop.dir.path()));
        std::thread::sleep(Duration::from_millis(100));
    }
    let back = shop.run("omnilink dlq redrive --all");
    assert!(back.starts_with(&format!("{refused} redriven")), "{back}");
    let sql = |sql: &str| {
        let text = shop.run(&format!("psql \"$(cat data/postgres.url)\" -Atc \"{sql}\""));
        text.trim().parse::<usize>().unwrap()
    };
    let orders =
        sql("SELECT count(DISTINCT entity_id) FROM omnilink.events WHERE data ? 'customer'");
    shop.events(40 * 3 + orders);
    // Nothing is in flight any more.
    let behind = "omnilink lag --json | jq '[.items[].records] | add'";
    while shop.run(behind).trim() != "0" {
        assert!(Instant::now() < deadline, "{}", shop.run("omnilink lag"));
    }
    shop.events(40 * 3 + orders);
    assert_eq!(
        sql("SELECT count(DISTINCT (source, id)) FROM omnilink.events"),
        40 * 3 + orders
    );
    assert_eq!(
        sql("SELECT sum(version) FROM omnilink.entities WHERE entity_type = 'order'"),
        40
    );
    assert_eq!(
        shop.run("omnilink replay --json | wc -l").trim(),
        (40 * 3 + orders).to_string()
    );
    assert_eq!(letters().as_array().unwrap().len(), refused);
    shop.run("omnilink rebuild events entities");
    shop.events(40 * 3 + orders);
    assert_eq!(
        sql("SELECT sum(version) FROM omnilink.entities WHERE entity_type = 'order'"),
        40
    );
    assert_eq!(shop.up.stop(), 0);
}

/// Follows `docs/how-to/replay-into-a-notebook.md`.
fn replayed(shop: &Shop) {
    let page = "docs/how-to/replay-into-a-notebook.md";
    let blocks = blocks(page, "# Replay into a notebook");
    let ours = |text: &str| {
        let ours = [
            ("order:17", "order:710002"),
            ("acme", "default"),
            ("2026-01-31T12:00:00Z", "2100-01-01T00:00:00Z"),
            ("2026-01-01", "2020-01-01"),
            ("2026-02-01", "2100-01-01"),
        ];
        let key = "export OMNILINK_KEY=$(cat data/admin.key)\n".to_owned();
        ours.iter()
            .fold(key + text, |text, (from, to)| text.replace(from, to))
    };
    let mut printed = String::new();
    follow(&blocks, |line| {
        // `--follow` ends only with a signal.
        if !line.contains("--follow") {
            printed.push_str(&shop.run(&ours(line)));
        }
        String::new()
    });
    assert!(printed.contains(r#""external_id":"710002""#), "{printed}");
    let lines = shop.run("wc -l < january.ndjson");
    assert_eq!(lines.trim(), (3 * LINES - 2 + 55).to_string());
    for (language, program) in &blocks {
        let needs = match program.lines().next() {
            Some(line) if language == "python" => line,
            _ => continue,
        };
        if !program.contains("--follow")
            && has("python3", &["-c", &format!("{needs}\nimport pandas")])
        {
            std::fs::write(shop.dir.path().join("notebook.py"), program).unwrap();
            shop.run("python3 notebook.py");
        }
    }
}

#[test]
fn its_lines_on_kafka() {
    let Some(test_log) = TestLog::new(LogKind::Kafka) else {
        return;
    };
    if !has("python3", &["--version"]) {
        return;
    }
    let brokers = env_or_skip("OMNILINK_TEST_KAFKA").unwrap();
    let log = test_log.open("a");
    let topic = test_log.topic("shop.lines");
    let spec = TopicSpec {
        name: topic.as_str().into(),
        partitions: 4,
        cleanup: Cleanup::Keep,
    };
    log.provision(&[spec], true).unwrap();
    let run = |command: &str| {
        let done = Command::new("bash")
            .current_dir(EXAMPLE)
            .args(["-euo", "pipefail", "-c", command])
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.success(), "{command}: {error}");
        String::from_utf8(done.stdout).unwrap()
    };
    let printed = run("python3 produce.py --print lines.csv");
    let mut expected: Vec<Value> = Vec::new();
    let as_json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let page = std::fs::read_to_string("examples/shop/README.md").unwrap();
    let kcat = "python3 produce.py --print lines.csv | kcat -P -b localhost:9092 -t shop.lines";
    let python = "python3 produce.py --kafka localhost:9092 lines.csv";
    let (by_kcat, by_python) = (
        kcat.replace("shop.lines", &topic),
        format!("{python} --topic {topic}"),
    );
    for (command, ours, needs, arguments) in [
        (kcat, by_kcat, "kcat", &["-V"][..]),
        (
            python,
            by_python,
            "python3",
            &["-c", "import confluent_kafka"],
        ),
    ] {
        assert!(page.contains(command), "{command}");
        if !has(needs, arguments) {
            continue;
        }
        let ours = ours.replace("localhost:9092", &brokers);
        run(&ours);
        expected.extend(printed.lines().map(as_json));
        let mut came: Vec<Value> = read_all(&*log, &topic, expected.len())
            .iter()
            .map(|fetched| as_json(&value(fetched)))
            .collect();
        let by_text = |value: &Value| value.to_string();
        came.sort_by_key(by_text);
        expected.sort_by_key(by_text);
        assert_eq!(came, expected, "{command}");
    }
}
