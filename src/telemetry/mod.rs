//! What OmniLink says about itself: logs, metrics ([`metrics`]), readiness ([`readiness`]).

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

/// What is logged unless `RUST_LOG` says otherwise.
const DEFAULT_FILTER: &str = "info,fjall=warn,lsm_tree=warn,hyper=warn,sqlx=warn";

/// Begins to log, to standard error. A second call changes nothing.
pub fn init_logs(format: LogFormat) {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // What comes from records does not steer the terminal, nor turn its text around.
        .with_writer(|| Printable(std::io::stderr()));
    let _ = match format {
        LogFormat::Text => builder
            .with_ansi(std::io::stderr().is_terminal())
            .try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}

/// Prints a line for people on standard error, beside the log.
pub fn print_note(text: &str) {
    use std::io::Write;
    // Nobody may be there to read it.
    let _ = writeln!(std::io::stderr(), "{}", printable(text));
}

/// All metrics of this process, in Prometheus's text format.
pub fn render_metrics() -> String {
    let mut text = metrics::recorder().render();
    process::render(&mut text);
    text
}
