//! What processes cost: CPU by thread name, resident memory, from /proc.

use std::{collections::BTreeMap, fs};

/// CPU-microseconds of a process by thread name (digits at the end left off).
pub fn cpu_by_thread(pid: u32) -> BTreeMap<String, f64> {
    let mut all = BTreeMap::new();
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return all;
    };
    for task in tasks.flatten() {
        let Ok(stat) = fs::read_to_string(task.path().join("stat")) else {
            continue;
        };
        let Some((head, rest)) = stat.rsplit_once(") ") else {
            continue;
        };
        let name = head.split_once('(').map_or("", |(_, n)| n);
        let name =
            name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-' || c == '#' || c == ':');
        // schedstat has nanoseconds; stat has ticks of 10 ms.
        let nanos = fs::read_to_string(task.path().join("schedstat"))
            .ok()
            .and_then(|s| s.split(' ').next().and_then(|n| n.parse::<f64>().ok()));
        let ticks: f64 = rest
            .split(' ')
            .skip(11)
            .take(2)
            .filter_map(|n| n.parse::<f64>().ok())
            .sum();
        *all.entry(name.to_owned()).or_default() += nanos.map_or(ticks * 10_000.0, |n| n / 1000.0);
    }
    all
}

/// CPU-microseconds of a process and all its descendants.
pub fn cpu_of_tree(pid: u32) -> f64 {
    tree(pid)
        .into_iter()
        .map(|p| cpu_by_thread(p).values().sum::<f64>())
        .sum()
}

/// A process and its descendants.
pub fn tree(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut index = 0;
    while index < all.len() {
        let children = fs::read_dir(format!("/proc/{}/task", all[index]))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|t| fs::read_to_string(t.path().join("children")).ok())
            .flat_map(|c| {
                c.split_whitespace()
                    .filter_map(|p| p.parse().ok())
                    .collect::<Vec<u32>>()
            });
        all.extend(children.collect::<Vec<_>>());
        index += 1;
    }
    all
}

/// Resident memory of a process in MB.
pub fn resident_mb(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status
        .lines()
        .find(|l| l.starts_with("VmRSS:"))
        .unwrap_or("VmRSS: 0 kB");
    line.split_whitespace()
        .nth(1)
        .and_then(|n| n.parse::<f64>().ok())
        .unwrap_or(0.0)
        / 1024.0
}
