//! The tables of the processor's keyed state.

use std::collections::BTreeMap;

use apache_avro::Error;

use crate::{
    commands::Command,
    controls::EmergencyState,
    runs::Json,
    saga::snapshot::Snapshot,
    state::{CodecError, Table, Value, Versioned},
};
use bytes::Bytes;

/// The id of a run: the bytes of its UUID.
pub(super) type RunKey = [u8; 16];

/// The start records of runs that have not ended. Each is written once.
pub(super) const STARTS: Table<RunKey, StartRow> = Table::new("starts", b's');
/// The state of these runs.
pub(super) const RUNS: Table<RunKey, Snapshot> = Table::new("runs", b'r');
/// Large texts of steps, by run, step index and [`StepText`](crate::saga::StepText).
pub(super) const TEXTS: Table<(RunKey, u32, u8), TextRow> = Table::new("texts", b't');
/// Runs that a control holds. They are woken when the controls change.
pub(super) const HELD: Table<RunKey, Mark> = Table::new("held", b'h');
/// The emergency controls, as this partition has last read them. The key is always 0.
pub(super) const CONTROLS: Table<u8, ControlsRow> = Table::new("controls", b'c');
/// The controls that the node of the lane holds by itself, as the runs were told last. The key is always 0.
pub(super) const OWN_HOLDS: Table<u8, OwnHoldsRow> = Table::new("own_holds", b'o');

/// A start record, as it was in `commands`.
pub(super) struct StartRow(pub(super) Command);

impl Value for StartRow {
    fn to_row(&self, _buffer: &mut Vec<u8>) -> Result<Bytes, CodecError> {
        let bytes = |e: Error| CodecError::new(e.to_string());
        Ok(self.0.to_bytes().map_err(bytes)?.into())
    }

    fn from_row(row: Bytes) -> Result<Self, CodecError> {
        let command = Command::decode(&row);
        let command = command.ok_or_else(|| CodecError::new("not a record of `commands`"))?;
        Ok(Self(command))
    }
}

/// A text, which is JSON.
pub(super) struct TextRow(pub(super) Json);

impl Versioned for TextRow {
    const VERSION: u8 = 1;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), CodecError> {
        out.extend_from_slice(self.0.text().as_bytes());
        Ok(())
    }

    fn decode(_version: u8, bytes: &[u8]) -> Result<Self, CodecError> {
        let text = String::from_utf8(bytes.to_vec()).map_err(|e| CodecError::new(e.to_string()))?;
        Ok(Self(Json::parse(text)?))
    }
}

/// A row without content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mark;

impl Versioned for Mark {
    const VERSION: u8 = 1;

    fn encode(&self, _out: &mut Vec<u8>) -> Result<(), CodecError> {
        Ok(())
    }

    fn decode(_version: u8, _bytes: &[u8]) -> Result<Self, CodecError> {
        Ok(Self)
    }
}

/// The emergency controls.
pub(super) struct ControlsRow(pub(super) EmergencyState);

impl Versioned for ControlsRow {
    const VERSION: u8 = 1;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), CodecError> {
        Ok(serde_json::to_writer(out, &self.0)?)
    }

    fn decode(_version: u8, bytes: &[u8]) -> Result<Self, CodecError> {
        Ok(Self(serde_json::from_slice(bytes)?))
    }
}

/// Since when the node of the lane holds each control by itself, in milliseconds since the Unix epoch.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct OwnHoldsRow(pub(super) BTreeMap<String, i64>);

impl Versioned for OwnHoldsRow {
    const VERSION: u8 = 1;

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), CodecError> {
        Ok(serde_json::to_writer(out, &self.0)?)
    }

    fn decode(_version: u8, bytes: &[u8]) -> Result<Self, CodecError> {
        Ok(Self(serde_json::from_slice(bytes)?))
    }
}
