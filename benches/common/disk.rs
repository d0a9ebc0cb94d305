//! What the disk gives to anyone.
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
const MOST: u64 = 4 << 30;

/// Where benches keep their data: on a disk, which `/tmp` may not be.
pub fn folder() -> PathBuf {
    std::env::var_os("OMNILINK_BENCH_DIR").map_or_else(|| "/var/tmp".into(), Into::into)
}

/// A folder there that is gone at the end.
pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(folder()).unwrap()
}

pub struct Disk {
    /// 16 KiB written into a preallocated file and synced, one after the other, a second.
    pub syncs: f64,
    /// How long one takes, in milliseconds: half of them, and 99 of 100.
    pub sync_ms: (f64, f64),
    /// MB a second, written one after the other and synced at the end.
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
    while start.elapsed() < TIME && at < MOST {
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
