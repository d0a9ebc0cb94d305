//! Measures OmniLink beside the limits of the same machine in the same run; `scripts/bench` is the door.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stdout
)]

mod load;
mod machine;
mod port;
mod report;

fn main() {
    // `cargo bench` adds `--bench`; `cargo test` runs this with `--test`-like flags and wants nothing.
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with("--"))
        .collect();
    let names: Vec<&str> = args.iter().map(String::as_str).collect();
    match names.as_slice() {
        ["local" | "kafka", ..] => port::run(&names),
        // Load alone, for a profiler beside it: address, key, connections, batch, seconds.
        ["drive", address, key, connections, batch, seconds] => {
            port::drive_only(address, key, connections, batch, seconds);
        }
        // The bare answer that the port is measured against, in a process of its own.
        ["bare", address] => port::bare(address),
        _ => println!("parts: local | kafka [accept | sustained | latency]; see scripts/bench"),
    }
}
