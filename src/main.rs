//! The `omnilink` binary.

use std::process::ExitCode;

/// Many small allocations that live for one request: jemalloc keeps them apart, and gives memory back.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    omnilink::cli::main()
}
