//! The limits of the disk.
#![allow(dead_code, reason = "not every bench uses all of it")]

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::PathBuf,
    time::{Duration, Instant},
};

use crate::report::{Row, percentile};

const TIME: Duration = Duration::from_secs(2);
const SYNCED: usize = 16 << 10;
const FILE: u64 = 64 << 20;
const BLOCK: usize = 1 << 20;
const MAX_BYTES: u64 = 4 << 30;

/// The folder for data of benches: on a disk, unlike `/tmp` on some systems.
pub fn folder() -> PathBuf {
    std::env::var_os("OMNILINK_BENCH_DIR").map_or_else(|| "/var/tmp".into(), Into::into)
}

/// A temporary folder there.
pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(folder()).unwrap()
}

pub struct Disk {
    /// Writes of 16 KiB into a preallocated file, each synced, per second.
    pub syncs: f64,
    /// Duration of one in milliseconds: p50 and p99.
    pub sync_ms: (f64, f64),
    /// Sequential writes, synced at the end, in MB per second.
    pub write_mb: f64,
}

/// Measures for 2 s each, and prints.
pub fn measure() -> Disk {
    let folder = scratch();
    let file = File::create(folder.path().join("synced")).unwrap();
    let zeros = vec![0; BLOCK];
    for at in (0..FILE).step_by(BLOCK) {
        file.write_all_at(&zeros, at).unwrap();
    }
    file.sync_all().unwrap();
    let bytes = vec![b'x'; SYNCED];
    let mut taken = Vec::new();
    let (start, mut at) = (Instant::now(), 0);
    while start.elapsed() < TIME {
        let began = Instant::now();
        file.write_all_at(&bytes, at).unwrap();
        file.sync_data().unwrap();
        taken.push(began.elapsed().as_secs_f64() * 1000.0);
        at = (at + SYNCED as u64) % FILE;
    }
    let syncs = taken.len() as f64 / start.elapsed().as_secs_f64();
    let sync_ms = (percentile(taken.clone(), 0.5), percentile(taken, 0.99));

    let file = File::create(folder.path().join("written")).unwrap();
    let (start, mut at) = (Instant::now(), 0);
    while start.elapsed() < TIME && at < MAX_BYTES {
        file.write_all_at(&zeros, at).unwrap();
        at += BLOCK as u64;
    }
    file.sync_data().unwrap();
    let write_mb = at as f64 / 1e6 / start.elapsed().as_secs_f64();

    Row::new("limit: disk, 16 KiB + fdatasync", syncs, "a second")
        .note(format!("p50 {:.2} ms, p99 {:.2} ms", sync_ms.0, sync_ms.1))
        .print();
    Row::new("limit: disk, written in sequence", write_mb, "MB/s").print();
    Disk {
        syncs,
        sync_ms,
        write_mb,
    }
}
