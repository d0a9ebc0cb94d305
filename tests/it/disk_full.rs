//! A full disk: the embedded log refuses appends, loses nothing, and recovers by itself once there is space.

use std::{
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use omnilink::{
    base::clock::SystemClock,
    log::{
        Cleanup, Log, LogError, TopicSpec,
        local::{LocalLog, LocalOptions},
    },
};

use crate::support::{append, read_all, record, value};

/// A small tmpfs, unmounted when dropped.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(dir.path())
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: a small disk cannot be mounted here (needs root)");
            return None;
        }
        Some(Self(dir))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

fn open(dir: &Path) -> LocalLog {
    let mut options = LocalOptions::new(Arc::new(SystemClock));
    options.min_free_bytes = 16 << 20;
    let log = LocalLog::open(&dir.join("log"), options).unwrap();
    log.provision(
        &[TopicSpec {
            name: "in".into(),
            partitions: 1,
            cleanup: Cleanup::Keep,
        }],
        true,
    )
    .unwrap();
    log
}

#[test]
fn a_full_disk_refuses_appends_and_recovers() {
    let Some(disk) = Disk::new("192m") else {
        return;
    };
    let log = open(disk.0.path());
    let mut kept = 0;
    let send = |kept: &mut usize| {
        append(&log, "in", vec![record("k", &kept.to_string())]).inspect(|_| *kept += 1)
    };
    for _ in 0..50 {
        send(&mut kept).unwrap();
    }
    assert!(log.health().is_ok());
    let filler = disk.0.path().join("filler");
    let room = rustix::fs::statvfs(disk.0.path()).unwrap();
    let bytes = room.f_bavail * room.f_frsize - (8 << 20);
    std::fs::write(&filler, vec![1; bytes as usize]).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    let refused = loop {
        match send(&mut kept) {
            Ok(_) => assert!(Instant::now() < deadline, "never refused"),
            Err(error) => break error,
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(matches!(refused, LogError::DiskFull { .. }), "{refused}");
    assert!(log.health().is_err());
    // Acknowledged records can be read in the meantime.
    assert_eq!(read_all(&log, "in", kept).len(), kept);
    std::fs::remove_file(filler).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while send(&mut kept).is_err() {
        assert!(Instant::now() < deadline, "never recovered");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(log.health().is_ok());
    drop(log);
    let log = open(disk.0.path());
    let all = read_all(&log, "in", kept);
    let expected: Vec<_> = (0..kept).map(|n| n.to_string()).collect();
    assert_eq!(all.iter().map(value).collect::<Vec<_>>(), expected);
}
