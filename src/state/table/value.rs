//! The values of a table as bytes.

use std::borrow::Cow;

use bytes::Bytes;

/// Why a value has no bytes, or bytes are no value.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct CodecError(Cow<'static, str>);

impl CodecError {
    /// With the reason, as the end of a sentence: `its time is missing`.
    pub fn new(why: impl Into<Cow<'static, str>>) -> Self {
        Self(why.into())
    }
}

impl From<serde_json::Error> for CodecError {
    fn from(error: serde_json::Error) -> Self {
        Self::new(error.to_string())
    }
}

/// What may be the value of a [`super::Table`], and all bytes of its row: for formats that say themselves which version they are.
/// Others implement [`Versioned`].
pub trait Value: Sized {
    /// The bytes of the row. `buffer` is empty and may be used to make them: it is there again for the next row.
    fn to_row(&self, buffer: &mut Vec<u8>) -> Result<Bytes, CodecError>;

    /// Reads what [`Value::to_row`] made, in this version or an earlier one.
    fn from_row(row: Bytes) -> Result<Self, CodecError>;
}

/// A value whose rows begin with a byte that says which version of the format they have.
///
/// JSON takes two lines:
///
/// ```
/// use omnilink::state::{CodecError, Versioned};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Step {
///     attempts: u32,
/// }
///
/// impl Versioned for Step {
///     const VERSION: u8 = 1;
///
///     fn encode(&self, out: &mut Vec<u8>) -> Result<(), CodecError> {
///         Ok(serde_json::to_writer(out, self)?)
///     }
///
///     fn decode(_version: u8, bytes: &[u8]) -> Result<Self, CodecError> {
///         Ok(serde_json::from_slice(bytes)?)
///     }
/// }
/// ```
pub trait Versioned: Sized {
    /// The version that is written; at least 1. Rows of later versions are refused.
    const VERSION: u8;

    /// Appends the value in the format of [`Versioned::VERSION`].
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), CodecError>;

    /// Reads a value of a version from 1 to [`Versioned::VERSION`].
    fn decode(version: u8, bytes: &[u8]) -> Result<Self, CodecError>;
}

impl<T: Versioned> Value for T {
    fn to_row(&self, buffer: &mut Vec<u8>) -> Result<Bytes, CodecError> {
        buffer.push(T::VERSION);
        self.encode(buffer)?;
        Ok(Bytes::copy_from_slice(buffer))
    }

    fn from_row(row: Bytes) -> Result<Self, CodecError> {
        match row.split_first() {
            Some((version, bytes)) if (1..=T::VERSION).contains(version) => {
                T::decode(*version, bytes)
            }
            Some((version, _)) => Err(CodecError::new(format!(
                "its format has version {version}, and this program reads 1 to {}",
                T::VERSION
            ))),
            None => Err(CodecError::new("it is empty")),
        }
    }
}

/// As they are.
impl Value for Bytes {
    fn to_row(&self, _: &mut Vec<u8>) -> Result<Self, CodecError> {
        Ok(self.clone())
    }

    fn from_row(row: Bytes) -> Result<Self, CodecError> {
        Ok(row)
    }
}

/// For tables whose keys say all: indexes and sets.
impl Value for () {
    fn to_row(&self, _: &mut Vec<u8>) -> Result<Bytes, CodecError> {
        Ok(Bytes::new())
    }

    fn from_row(row: Bytes) -> Result<Self, CodecError> {
        if row.is_empty() {
            Ok(())
        } else {
            Err(CodecError::new("it has a value"))
        }
    }
}

/// Big-endian.
impl Value for u64 {
    fn to_row(&self, _: &mut Vec<u8>) -> Result<Bytes, CodecError> {
        Ok(Bytes::copy_from_slice(&self.to_be_bytes()))
    }

    fn from_row(row: Bytes) -> Result<Self, CodecError> {
        let bytes = row.as_ref().try_into();
        let bytes = bytes.map_err(|_| CodecError::new("it does not have 8 bytes"))?;
        Ok(Self::from_be_bytes(bytes))
    }
}
