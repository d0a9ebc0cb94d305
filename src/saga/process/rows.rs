//! The tables of the processor's keyed state.

use apache_avro::Error;

use crate::{
    commands::Command,
    controls::EmergencyState,
    saga::snapshot::Snapshot,
    state::{CodecError, Table, Value, Versioned},
};
use bytes::Bytes;

/// The id of a run: the bytes of its UUID.
pub(super) type RunKey = [u8; 16];

/// The start records of runs that have not ended. Written once.
pub(super) const STARTS: Table<RunKey, StartRow> = Table::new("starts", b's');
/// Where these runs are.
pub(super) const RUNS: Table<RunKey, Snapshot> = Table::new("runs", b'r');
/// The runs with a call that a control holds: they are woken when the controls change.
pub(super) const HELD: Table<RunKey, Mark> = Table::new("held", b'h');
/// The emergency controls, as the partition has read them. The key is always 0.
pub(super) const CONTROLS: Table<u8, ControlsRow> = Table::new("controls", b'c');

/// A start record, as it was in `commands`.
pub(super) struct StartRow(pub(super) Command);

impl Value for StartRow {
    fn to_row(&self, _buffer: &mut Vec<u8>) -> Result<Bytes, CodecError> {
        let bytes = |e: Error| CodecError::new(e.to_string());
        Ok(self.0.to_bytes().map_err(bytes)?.into())
    }

    fn from_row(row: Bytes) -> Result<Self, CodecError> {
        let command = Command::decode(&row);
        let command = command.ok_or_else(|| CodecError::new("it is no record of commands"))?;
        Ok(Self(command))
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
