//! The standard process metrics of Prometheus, read from `/proc/self` at each scrape.

use std::fmt::Write;

use super::metrics::{
    Definition, PROCESS_CPU_SECONDS, PROCESS_MAX_FDS, PROCESS_OPEN_FDS, PROCESS_RESIDENT_BYTES,
    PROCESS_START_TIME, PROCESS_VIRTUAL_BYTES,
};

/// Ticks per second in `/proc/self/stat`: `USER_HZ`, which is 100 on all Linux architectures that OmniLink supports.
const TICKS_PER_SECOND: f64 = 100.0;

/// Appends the metrics in the text format. Values that cannot be read are omitted.
pub(super) fn render(out: &mut String) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The process name, in parentheses, may contain spaces: fields are counted from after it.
    let stat: Vec<&str> = match stat.rsplit_once(')') {
        Some((_, rest)) => rest.split_ascii_whitespace().collect(),
        None => Vec::new(),
    };
    let number = |index: usize| stat.get(index)?.parse::<f64>().ok();
    if let (Some(user), Some(system)) = (number(11), number(12)) {
        sample(
            out,
            &PROCESS_CPU_SECONDS,
            (user + system) / TICKS_PER_SECOND,
        );
    }
    if let (Some(started), Some(booted)) = (number(19), boot_time()) {
        sample(
            out,
            &PROCESS_START_TIME,
            booted + started / TICKS_PER_SECOND,
        );
    }
    if let Some(bytes) = number(20) {
        sample(out, &PROCESS_VIRTUAL_BYTES, bytes);
    }
    if let Some(bytes) = resident_bytes() {
        sample(out, &PROCESS_RESIDENT_BYTES, bytes);
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        // One of them is the open directory itself.
        sample(
            out,
            &PROCESS_OPEN_FDS,
            files.count().saturating_sub(1) as f64,
        );
    }
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    if let Some(most) = files.current {
        sample(out, &PROCESS_MAX_FDS, most as f64);
    }
}

fn sample(out: &mut String, metric: &Definition, value: f64) {
    let Definition {
        name, kind, help, ..
    } = metric;
    let kind = kind.name();
    // Writing to a `String` cannot fail.
    let _ = writeln!(
        out,
        "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"
    );
}

/// The boot time of the machine, in seconds since the Unix epoch.
fn boot_time() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

fn resident_bytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024.0)
}
