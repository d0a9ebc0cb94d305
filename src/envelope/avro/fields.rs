//! Avro's binary encoding, field by field (<https://avro.apache.org/docs/1.12.0/specification/#binary-encoding>). Every record passes
//! through here, and interpreting a schema would cost more than the rest of the work.

use std::borrow::Cow;

use crate::{
    base::varint,
    envelope::{Invalid, schemas::Schema},
};

/// The size of the header before the fields.
pub(crate) const HEAD: usize = 5;

/// Appends the header of Confluent's wire format: a zero byte and the schema id.
pub(crate) fn put_head(schema: Schema, out: &mut Vec<u8>) {
    out.push(0);
    out.extend_from_slice(&schema.id.to_be_bytes());
}

pub(crate) fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    varint::put_zigzag(bytes.len() as i64, out);
    out.extend_from_slice(bytes);
}

/// Appends a value of the union of `null` and a string or bytes.
pub(crate) fn put_optional(bytes: Option<&[u8]>, out: &mut Vec<u8>) {
    match bytes {
        None => out.push(0),
        Some(bytes) => {
            out.push(2);
            put_bytes(bytes, out);
        }
    }
}

/// Appends an array: one block with all items, if there are any, and the empty block that ends it.
pub(crate) fn put_array<T>(
    items: impl ExactSizeIterator<Item = T>,
    out: &mut Vec<u8>,
    put: impl Fn(T, &mut Vec<u8>),
) {
    if items.len() > 0 {
        varint::put_zigzag(items.len() as i64, out);
        for item in items {
            put(item, out);
        }
    }
    out.push(0);
}

/// Reads one field after another; errors name the field.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(fields: &'a [u8]) -> Self {
        Self { rest: fields }
    }

    pub(crate) fn end(&self) -> Result<(), Invalid> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(Invalid::payload("Avro: bytes follow the last field"))
    }

    fn byte(&mut self, field: &'static str) -> Result<u8, Invalid> {
        let (byte, rest) = self.rest.split_first().ok_or_else(|| broken(field))?;
        self.rest = rest;
        Ok(*byte)
    }

    #[inline]
    pub(crate) fn long(&mut self, field: &'static str) -> Result<i64, Invalid> {
        varint::take_zigzag(&mut self.rest).map_err(|_| broken(field))
    }

    pub(crate) fn boolean(&mut self, field: &'static str) -> Result<bool, Invalid> {
        match self.byte(field)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(broken(field)),
        }
    }

    pub(crate) fn bytes(&mut self, field: &'static str) -> Result<&'a [u8], Invalid> {
        let length = usize::try_from(self.long(field)?).map_err(|_| broken(field))?;
        let (bytes, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or_else(|| broken(field))?;
        self.rest = rest;
        Ok(bytes)
    }

    pub(crate) fn text(&mut self, field: &'static str) -> Result<&'a str, Invalid> {
        std::str::from_utf8(self.bytes(field)?).map_err(|_| broken(field))
    }

    fn is_some(&mut self, field: &'static str) -> Result<bool, Invalid> {
        match self.long(field)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(broken(field)),
        }
    }

    pub(crate) fn optional(&mut self, field: &'static str) -> Result<Option<&'a [u8]>, Invalid> {
        if self.is_some(field)? {
            self.bytes(field).map(Some)
        } else {
            Ok(None)
        }
    }

    pub(crate) fn optional_text(
        &mut self,
        field: &'static str,
    ) -> Result<Option<Cow<'a, str>>, Invalid> {
        if self.is_some(field)? {
            self.text(field).map(|text| Some(text.into()))
        } else {
            Ok(None)
        }
    }

    /// Reads an array, which may consist of several blocks.
    pub(crate) fn array<T>(
        &mut self,
        field: &'static str,
        item: impl Fn(&mut Self) -> Result<T, Invalid>,
    ) -> Result<Vec<T>, Invalid> {
        let mut all = Vec::new();
        loop {
            let mut count = self.long(field)?;
            if count == 0 {
                return Ok(all);
            }
            if count < 0 {
                // The size of the block in bytes, which is only needed to skip it.
                self.long(field)?;
                count = count.checked_neg().ok_or_else(|| broken(field))?;
            }
            // Nothing is reserved, because a corrupt count may be huge.
            for _ in 0..count {
                all.push(item(self)?);
            }
        }
    }
}

#[cold]
pub(crate) fn broken(field: &'static str) -> Invalid {
    Invalid::payload(format!("Avro: the field `{field}` cannot be read"))
}
