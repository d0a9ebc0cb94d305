//! The `omnilink` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    omnilink::cli::main()
}
