//! Runs the fuzz targets on their corpora, on stable Rust: each input whole, truncated and corrupted.

#[path = "../../fuzz/checks.rs"]
mod checks;

use std::{fs, path::Path};

/// Runs a target on its corpus and on variations of each input.
fn run(target: &str, check: fn(&[u8])) {
    run_some(target, check, 1);
}

/// Like [`run`], on every `step`th variation, for slow targets.
fn run_some(target: &str, check: fn(&[u8]), step: usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let files = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut count = 0;
    for file in files {
        let path = file.expect("a readable folder").path();
        let input = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        check(&input);
        for at in (0..input.len().min(2000)).step_by(step) {
            check(&input[..at]);
            for byte in [b'"', b'}', 0, 0xff, input[at] ^ 1, input[at] ^ 0x80] {
                let mut corrupted = input.clone();
                corrupted[at] = byte;
                check(&corrupted);
            }
        }
        count += 1;
    }
    assert!(count > 0, "{} is empty", folder.display());
}

#[test]
fn structured() {
    run("structured", checks::structured);
}

#[test]
fn batch() {
    run("batch", checks::batch);
}

#[test]
fn binary() {
    run("binary", checks::binary);
}

#[test]
fn avro() {
    run("avro", checks::avro);
}

#[test]
fn kafka() {
    run("kafka", checks::kafka);
}

#[test]
fn agents() {
    run("agents", checks::agents);
}

#[test]
fn csv() {
    run("csv", checks::csv);
}

#[test]
fn foreign() {
    run("foreign", checks::foreign);
}

#[test]
fn topology() {
    run_some("topology", checks::topology, 29);
}
