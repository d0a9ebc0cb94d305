//! Logs, metrics ([`metrics`]) and readiness ([`readiness`]).

pub mod metrics;
mod notices;
mod process;
pub mod readiness;

use std::io::IsTerminal;

pub use notices::{notice, notices};
pub use readiness::{Need, PartStatus, Readiness, Report, Status};
use tracing_subscriber::EnvFilter;

use crate::{
    base::printable::{Printable, printable},
    config::LogFormat,
};

/// The log filter without `RUST_LOG`.
const DEFAULT_FILTER: &str = "info,fjall=warn,lsm_tree=warn,hyper=warn,sqlx=warn";

/// Starts logging to standard error. A second call has no effect.
pub fn init_logs(format: LogFormat) {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Escapes control and bidirectional characters that come from records.
        .with_writer(|| Printable(std::io::stderr()));
    let _ = match format {
        LogFormat::Text => builder
            .with_ansi(std::io::stderr().is_terminal())
            .try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}

/// Prints a message to standard error, outside the log format.
pub fn print_note(text: &str) {
    use std::io::Write;
    // Standard error may be closed.
    let _ = writeln!(std::io::stderr(), "{}", printable(text));
}

/// All metrics of this process, in Prometheus's text format.
pub fn render_metrics() -> String {
    let mut text = metrics::recorder().render();
    process::render(&mut text);
    text
}
