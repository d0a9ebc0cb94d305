//! `keys create --first` on Kafka: one key, however many processes create it at the same moment.

use std::{fs, path::Path, process::Child};

use omnilink::controls::Token;
use serde_json::{Value, json};

use crate::support::{
    LogKind, TestLog,
    command::{Folder, Up, omnilink, output},
    env_or_skip,
};

fn configure(dir: &Path, prefix: &str) {
    let config = json!({
        "kafka": { "brokers": [env_or_skip("OMNILINK_TEST_KAFKA").unwrap()] },
        "topics": { "prefix": prefix, "partitions": 1 },
        "secret_key": ["7hSFfRqJm1xlPwRhUsdV6ZbZ8P6X5s1yJwFqYbH7xCA="],
    });
    fs::write(dir.join("omnilink.yaml"), config.to_string()).unwrap();
}

fn create(dir: &Path, data_dir: &str) -> Child {
    omnilink(
        dir,
        &[
            "keys",
            "create",
            "--first",
            "--json",
            "--data-dir",
            data_dir,
        ],
    )
    .stdout(std::process::Stdio::piped())
    .stderr(std::process::Stdio::piped())
    .spawn()
    .unwrap()
}

/// The ids and tokens of the keys that were created; all others must have been refused.
fn winners(children: Vec<Child>) -> Vec<(String, String)> {
    let mut won = Vec::new();
    for child in children {
        let output = child.wait_with_output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            let made: Value = serde_json::from_slice(&output.stdout).unwrap();
            let text = |field: &str| made[field].as_str().unwrap().to_owned();
            won.push((text("id"), text("key")));
            continue;
        }
        assert_eq!(output.status.code(), Some(1), "{error}");
        let refused = [
            "there are keys already",
            "another process is creating the first key",
        ];
        assert!(refused.iter().any(|text| error.contains(text)), "{error}");
    }
    won
}

/// The keys that a node lists with this one.
fn listed(dir: &Path, key: &str) -> Vec<String> {
    let up = Up::start_with(dir, &["--without", "projections"]);
    let mut list = omnilink(dir, &["keys", "list", "--json", "--data-dir", "data"]);
    let list = list.env("OMNILINK_URL", &up.url).env("OMNILINK_KEY", key);
    let (code, out, error) = output(list);
    assert_eq!(code, 0, "{error}");
    assert_eq!(up.stop(), 0);
    let listed: Value = serde_json::from_str(&out).unwrap();
    let items = listed["items"].as_array().unwrap();
    items
        .iter()
        .map(|item| item["id"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn of_many_machines_one_creates_the_first_key() {
    for round in 0..3 {
        let Some(test_log) = TestLog::new(LogKind::Kafka) else {
            return;
        };
        let dir = Folder::new();
        let dir = dir.path();
        configure(dir, &test_log.prefix);
        // Each machine has a data directory of its own; two processes share the first.
        let data_dirs = ["a", "b", "c", "a"];
        let children = data_dirs
            .iter()
            .map(|data_dir| create(dir, data_dir))
            .collect();
        let won = winners(children);
        assert_eq!(won.len(), 1, "round {round}");
        let (id, key) = &won[0];
        // One machine has the key's file, and nothing else is left.
        let files = ["a", "b", "c"].map(|data_dir| {
            assert!(!dir.join(data_dir).join("admin.key.pending").exists());
            fs::read_to_string(dir.join(data_dir).join("admin.key")).ok()
        });
        let kept: Vec<_> = files.iter().flatten().collect();
        assert_eq!(kept.len(), 1, "round {round}");
        assert_eq!(kept[0].trim(), key);
        // Not again.
        assert!(winners(vec![create(dir, "d")]).is_empty());
        if round == 0 {
            assert_eq!(listed(dir, key), [id.as_str()]);
        }
    }
}

/// A process that was killed after it wrote the key's record has left the token; the next one completes its work.
#[test]
fn what_a_killed_process_left_is_completed() {
    let Some(test_log) = TestLog::new(LogKind::Kafka) else {
        return;
    };
    let dir = Folder::new();
    let dir = dir.path();
    configure(dir, &test_log.prefix);
    let won = winners(vec![create(dir, "a")]);
    let file = dir.join("a/admin.key");
    let pending = dir.join("a/admin.key.pending");
    fs::rename(&file, &pending).unwrap();
    assert_eq!(winners(vec![create(dir, "a")]), won);
    assert_eq!(fs::read_to_string(&file).unwrap().trim(), won[0].1);
    assert!(!pending.exists());
    // One that was killed before left a token that opens nothing.
    fs::write(&pending, Token::generate().reveal()).unwrap();
    assert!(winners(vec![create(dir, "a")]).is_empty());
    assert_eq!(fs::read_to_string(&file).unwrap().trim(), won[0].1);
    assert!(!pending.exists());
}
