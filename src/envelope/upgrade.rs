//! Converting records of older schema versions to the current version, by Avro's schema resolution. Slow, and rarely needed.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use apache_avro::{reader::datum::GenericDatumReader, writer::datum::GenericDatumWriter};
use parking_lot::Mutex;

use super::{Invalid, avro::fields::put_head, schemas::Schema};

/// The largest allocation for one value of a record: the library allocates a value's declared length before it reads the value.
const MAX_ALLOCATION: usize = 16 << 20;

/// Converts a record from the schema `written` to the schema `current`. Input and output are in Confluent's wire format.
pub(super) fn upgrade(
    written: &Schema,
    current: &Schema,
    record: &[u8],
) -> Result<Vec<u8>, Invalid> {
    apache_avro::util::max_allocation_bytes(MAX_ALLOCATION);
    let failed = |e: apache_avro::Error| Invalid::payload(format!("Avro: {e}"));
    let (writer, reader) = (
        parsed(written).map_err(failed)?,
        parsed(current).map_err(failed)?,
    );
    let mut rest = record.get(5..).unwrap_or_default();
    let value = GenericDatumReader::builder(&writer)
        .reader_schema(&reader)
        .build()
        .and_then(|r| r.read_value(&mut rest))
        .map_err(failed)?;
    if !rest.is_empty() {
        return Err(Invalid::payload("Avro: bytes follow the last field"));
    }
    let mut out = Vec::with_capacity(record.len() + 64);
    put_head(*current, &mut out);
    GenericDatumWriter::builder(&reader)
        .build()
        .and_then(|w| w.write_value(&mut out, value))
        .map_err(failed)?;
    Ok(out)
}

/// A parsed schema, cached by its text.
fn parsed(schema: &Schema) -> Result<Arc<apache_avro::Schema>, apache_avro::Error> {
    static PARSED: OnceLock<Mutex<HashMap<&'static str, Arc<apache_avro::Schema>>>> =
        OnceLock::new();
    let mut parsed = PARSED.get_or_init(Mutex::default).lock();
    if let Some(found) = parsed.get(schema.text) {
        return Ok(Arc::clone(found));
    }
    let new = Arc::new(apache_avro::Schema::parse_str(schema.text)?);
    parsed.insert(schema.text, Arc::clone(&new));
    Ok(new)
}
