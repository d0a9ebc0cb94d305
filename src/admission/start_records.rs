//! Start records on `commands`, of which one record of `ingress` may lead to a bounded number of bytes.

use std::sync::Arc;

use crate::{
    commands::Command,
    log::record_size,
    stream::{Context, Rejected},
};

/// The most bytes of starts that one record leads to: a batch has many items, and each start carries its plan.
const STARTS_MAX: usize = 64 << 20;

/// Appends start records.
pub(super) struct StartRecords {
    commands: Arc<str>,
    /// Bytes of the starts of the current record.
    bytes: usize,
}

impl StartRecords {
    pub(super) fn new(commands: Arc<str>) -> Self {
        Self { commands, bytes: 0 }
    }

    /// Called for each record of `ingress`, before its starts.
    pub(super) fn next_record(&mut self) {
        self.bytes = 0;
    }

    /// Appends one to the partition of its run.
    pub(super) fn append(
        &mut self,
        command: &Command,
        cx: &mut Context<'_>,
    ) -> Result<(), Rejected> {
        let record = command
            .encode()
            .map_err(|e| Rejected::new("invalid_payload", e.to_string()))?;
        let size = record_size(&record);
        if self.bytes + size > STARTS_MAX {
            let message = format!("a record may lead to {STARTS_MAX} bytes of starts");
            return Err(Rejected::new("record_too_large", message));
        }
        cx.try_emit(&self.commands, record)?;
        self.bytes += size;
        Ok(())
    }
}
