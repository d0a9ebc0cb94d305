//! Resource use of processes from /proc: CPU by thread name, resident memory.
#![allow(dead_code, reason = "not every bench uses all of it")]

use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

/// CPU time of a process in microseconds, by thread name without trailing digits.
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

/// CPU time of a process in microseconds, including ended threads, with a resolution of 10 ms.
fn cpu_since_start(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let ticks = rest
        .split(' ')
        .skip(11)
        .take(2)
        .filter_map(|n| n.parse::<f64>().ok());
    ticks.sum::<f64>() * 10_000.0
}

/// CPU time of a process and all its descendants, in microseconds.
pub fn cpu_of_tree(pid: u32) -> f64 {
    tree(pid)
        .into_iter()
        .map(|p| cpu_by_thread(p).values().sum::<f64>())
        .sum()
}

/// A process and its descendants, found by the parents of all processes, because a list of children may be incomplete.
pub fn tree(pid: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|process| process.file_name().to_str()?.parse().ok())
        .filter_map(|process| Some((process, parent(process)?)))
        .collect();
    let mut all = vec![pid];
    let mut index = 0;
    while index < all.len() {
        let of = all[index];
        all.extend(parents.iter().filter(|(_, p)| *p == of).map(|(c, _)| c));
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

/// The peak resident memory of a process, sampled every 100 ms.
pub struct Peak {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<f64>,
}

impl Peak {
    pub fn watch(pid: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut peak = resident_mb(pid);
            while !flag.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(100));
                peak = resident_mb(pid).max(peak);
            }
            peak
        });
        Self { stop, thread }
    }

    /// In MB.
    pub fn end(self) -> f64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Processor time by part of the system from now on.
pub struct Cpu {
    pid: u32,
    part: fn(&str) -> &'static str,
    others: Vec<(&'static str, u32)>,
    before: BTreeMap<&'static str, f64>,
}

impl Cpu {
    /// Measures the threads of `pid` by part, its descendants, and `others` with theirs.
    pub fn of(pid: u32, part: fn(&str) -> &'static str, others: Vec<(&'static str, u32)>) -> Self {
        let mut cpu = Self {
            pid,
            part,
            others,
            before: BTreeMap::new(),
        };
        cpu.before = cpu.now();
        cpu
    }

    fn now(&self) -> BTreeMap<&'static str, f64> {
        let mut all = BTreeMap::new();
        let mut alive = 0.0;
        for (thread, used) in cpu_by_thread(self.pid) {
            *all.entry((self.part)(&thread)).or_default() += used;
            alive += used;
        }
        all.insert("threads that have ended", cpu_since_start(self.pid) - alive);
        let children = tree(self.pid).into_iter().skip(1);
        let children: f64 = children
            .map(|p| cpu_by_thread(p).values().sum::<f64>())
            .sum();
        all.insert("child processes", children);
        for (name, pid) in &self.others {
            all.insert(name, cpu_of_tree(*pid));
        }
        all
    }

    /// Microseconds by part since the start of the measurement, without processes that have ended.
    pub fn used(&self) -> BTreeMap<&'static str, f64> {
        let mut now = self.now();
        for (part, used) in &mut now {
            let before = self.before.get(part).copied().unwrap_or_default();
            *used = (*used - before).max(0.0);
        }
        now
    }
}

/// Processor time of this thread in microseconds.
pub fn thread_cpu() -> f64 {
    cpu_in("/proc/thread-self/schedstat")
}

/// Processor time of a single-threaded process such as a backend of Postgres, in microseconds.
pub fn process_cpu(pid: u32) -> f64 {
    cpu_in(&format!("/proc/{pid}/schedstat"))
}

fn cpu_in(path: &str) -> f64 {
    // The first field is the CPU time in nanoseconds.
    let stat = fs::read_to_string(path).unwrap_or_default();
    let nanos = stat.split(' ').next().and_then(|n| n.parse::<f64>().ok());
    nanos.unwrap_or_default() / 1000.0
}

/// The parent of a process.
pub fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(1)?.parse().ok()
}

/// The name of a process.
pub fn name(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_end().to_owned()
}

/// The process of the broker at this address, if it runs on this machine.
pub fn broker(address: &str) -> Option<u32> {
    let port = address.rsplit_once(':')?.1;
    fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let line = fs::read(process.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line);
        let mut words = line.trim_end_matches('\0').split('\0');
        words.find(|word| *word == "kafka.Kafka")?;
        let properties = fs::read_to_string(words.next()?).ok()?;
        let listens = |l: &str| l.starts_with("listeners=") && l.contains(&format!(":{port},"));
        properties
            .lines()
            .any(|l| listens(&format!("{l},")))
            .then_some(pid)
    })
}
