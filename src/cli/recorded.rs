//! Entries of the audit log about what a command does on the log itself, without a node: the same as the port of a node records.

use serde_json::{Map, Value};

use super::{output, runtime};
use crate::{
    audit::{self, Entry, Outcome},
    base::{
        clock::{Clock, SystemClock},
        id::Tenant,
    },
    log::{Log, topics::Names},
};

/// Who runs this command: `cli:USER@HOST`.
pub(super) fn user() -> String {
    let named = ["USER", "LOGNAME"].into_iter();
    let mut named = named.filter_map(|name| std::env::var(name).ok());
    let user = named.find(|user| !user.is_empty());
    let user = user.unwrap_or_else(|| rustix::process::getuid().as_raw().to_string());
    let system = rustix::system::uname();
    format!("cli:{user}@{}", system.nodename().to_string_lossy())
}

/// An entry about the user of this command. `tenant`: whose data it concerns; `None`: the whole installation.
pub(super) fn entry(
    tenant: Option<&Tenant>,
    action: &str,
    (kind, id): (&str, &str),
    detail: Map<String, Value>,
) -> Entry {
    Entry::new(tenant, action, Outcome::Ok, SystemClock.now())
        .by(&user(), None)
        .resource(kind, id)
        .detail(detail)
}

/// Appends entries. As on a node the work goes on if the log does not take them, which is said.
pub(super) fn record(log: &dyn Log, names: &Names, entries: &[Entry]) -> anyhow::Result<()> {
    let appended = runtime()?.block_on(audit::append(log, &names.audit, entries));
    if let Err(error) = appended {
        output::note(&format!("the audit log has no entry of this: {error}"));
    }
    Ok(())
}
