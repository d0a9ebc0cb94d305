//! The values of placeholders as sealed text: base64 of a JSON object by name (`EMAIL_1`), encrypted with `secret_key`.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;

use crate::{
    controls::SecretKeys,
    guardian::{Kind, Slot},
};

/// The maximum size of the sealed text, in bytes.
pub const SEALED_MAX: usize = 128 * 1024;

/// What is sealed here opens nowhere else, and nothing else opens here.
const PURPOSE: &[u8] = b"omnilink slots 1\0";

/// The sealed values cannot be opened: none of the keys in `secret_key` sealed them for this run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the values of the placeholders cannot be opened: no key in `secret_key` sealed them for this run"
)]
pub struct Unreadable;

/// Seals values for one run.
pub fn seal(secrets: &SecretKeys, run_id: &str, slots: &[Slot]) -> String {
    let values: BTreeMap<&str, &Value> = slots
        .iter()
        .map(|slot| (&*slot.name, &slot.value))
        .collect();
    // Texts and numbers always have a JSON form.
    let plain = serde_json::to_vec(&values).unwrap_or_default();
    STANDARD.encode(secrets.seal(&plain, &place(run_id)))
}

/// Seals the values of one run again for another, which repeats it.
pub fn reseal(
    secrets: &SecretKeys,
    sealed: &str,
    from_run: &str,
    to_run: &str,
) -> Result<String, Unreadable> {
    let slots = open(secrets, from_run, sealed)?;
    Ok(seal(secrets, to_run, &slots))
}

/// Opens what was sealed for a run.
pub(super) fn open(
    secrets: &SecretKeys,
    run_id: &str,
    sealed: &str,
) -> Result<Vec<Slot>, Unreadable> {
    let sealed = STANDARD.decode(sealed).map_err(|_| Unreadable)?;
    let plain = secrets.open(&sealed, &place(run_id));
    let plain = plain.map_err(|_| Unreadable)?;
    let values: BTreeMap<String, Value> = serde_json::from_slice(&plain).map_err(|_| Unreadable)?;
    let slots = values.into_iter().filter_map(|(name, value)| {
        let kind = Kind::of_slot(&name)?;
        Some(Slot { kind, name, value })
    });
    Ok(slots.collect())
}

fn place(run_id: &str) -> Vec<u8> {
    [PURPOSE, run_id.as_bytes()].concat()
}
