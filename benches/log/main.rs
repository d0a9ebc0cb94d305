//! Only the embedded log: synced appends in waves, like those of 64 connections.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stdout
)]

use std::{sync::Arc, time::Instant};

use omnilink::{
    base::clock::SystemClock,
    log::{
        Append, Cleanup, Log, Record, TopicSpec,
        local::{LocalLog, LocalOptions},
    },
};

#[path = "../common/disk.rs"]
mod disk;
#[path = "../common/machine.rs"]
mod machine;
#[path = "../common/report.rs"]
mod report;

use report::Row;

fn main() {
    let limit = disk::measure();
    for (batch, wave, rounds) in [(1, 64, 4000), (50, 16, 1500)] {
        let dir = disk::scratch();
        let log = LocalLog::open(dir.path(), LocalOptions::new(Arc::new(SystemClock))).unwrap();
        let topic: Arc<str> = "in".into();
        log.provision(
            &[TopicSpec {
                name: Arc::clone(&topic),
                partitions: 8,
                cleanup: Cleanup::Keep,
            }],
            true,
        )
        .unwrap();
        let value = bytes::Bytes::from(vec![b'x'; 600]);
        let pid = std::process::id();
        let (start, cpu) = (Instant::now(), machine::cpu_by_thread(pid));
        let mut n = 0u64;
        for _ in 0..rounds {
            let waiting: Vec<_> = (0..wave)
                .map(|_| {
                    let records = (0..batch)
                        .map(|_| {
                            n += 1;
                            Append {
                                topic: Arc::clone(&topic),
                                record: Record {
                                    key: Some(n.to_string().into()),
                                    value: Some(value.clone()),
                                    headers: vec![],
                                },
                            }
                        })
                        .collect();
                    log.append(records, None)
                })
                .collect();
            for one in waiting {
                one.blocking_recv().unwrap().unwrap();
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        Row::new(
            format!("log: synced appends of {batch} x 600 B, wave {wave}"),
            n as f64 / seconds,
            "rec/s",
        )
        .against(limit.syncs, "synced writes of 16 KiB")
        .print();
        for (name, after) in machine::cpu_by_thread(pid) {
            let used = after - cpu.get(&name).copied().unwrap_or_default();
            if used > 0.0 {
                println!("    {name:<20} {:.2} us CPU a record", used / n as f64);
            }
        }
        println!("    resident {:.0} MB", machine::resident_mb(pid));
    }
}
