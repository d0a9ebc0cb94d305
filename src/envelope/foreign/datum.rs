//! Converting a datum to JSON text in one pass. The reader of the Avro library is not used because it reads truncated input as `null`,
//! recurses as deep as the input demands, and builds a tree.
//!
//! | Avro | JSON |
//! |---|---|
//! | union | the value itself |
//! | bytes, fixed | base64 |
//! | decimal, big-decimal | text with all digits, such as `"12.50"` |
//! | timestamp, date, time | RFC 3339 text; a local timestamp without an offset |
//! | uuid | text |
//! | duration | `{"months", "days", "millis"}` |
//! | NaN and the infinities | `"NaN"`, `"Infinity"`, `"-Infinity"` |
//!
//! Errors name the field.

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, civil};
use num_bigint::BigInt;
use serde::Serialize;

use super::{
    super::{Invalid, MAX_DEPTH},
    fault::{Fault, FaultKind, PathStep},
    schema::{Bytes, Int, Length, Node, NodeId, Schema},
};
use crate::base::varint::{self, VarintError};

/// The most bytes of JSON for a datum of this size. Without a limit, a few bytes could declare any number of items that take no bytes.
fn max_json_bytes(datum: usize) -> usize {
    (datum.saturating_mul(64) + (64 << 10)).min(64 << 20)
}

/// The most bytes of a decimal: 2,466 digits.
const MAX_DECIMAL: usize = 1024;
/// The most digits after the point of a decimal that brings its own scale.
const MAX_SCALE: i64 = 16_383;
const NANOS: i64 = 1_000_000_000;

impl Schema {
    /// Converts a complete datum to JSON text.
    pub fn to_json(&self, datum: &[u8]) -> Result<String, Invalid> {
        let mut reader = Reader {
            schema: self,
            datum,
            at: 0,
            max_bytes: max_json_bytes(datum.len()),
            out: Vec::with_capacity(datum.len() * 2),
        };
        // The size is checked again at the end, because the last value may be long, such as a decimal with many zeros.
        let read = reader
            .value(self.root, 0)
            .and_then(|()| reader.bounded())
            .and_then(|()| reader.ended());
        read.map_err(|fault| Invalid::payload(fault.to_string()))?;
        // Only UTF-8 was written, so this does not fail.
        String::from_utf8(reader.out).map_err(|e| Invalid::payload(format!("Avro: {e}")))
    }
}

struct Reader<'a> {
    schema: &'a Schema,
    datum: &'a [u8],
    at: usize,
    max_bytes: usize,
    out: Vec<u8>,
}

impl<'a> Reader<'a> {
    #[cold]
    fn broken(&self, what: FaultKind) -> Fault {
        Fault::at(self.at, what)
    }

    fn bounded(&self) -> Result<(), Fault> {
        if self.out.len() <= self.max_bytes {
            return Ok(());
        }
        Err(self.broken(FaultKind::TooLong(self.max_bytes)))
    }

    fn ended(&self) -> Result<(), Fault> {
        match self.datum.len() - self.at {
            0 => Ok(()),
            left => Err(self.broken(FaultKind::Rest(left))),
        }
    }

    fn value(&mut self, at: NodeId, depth: usize) -> Result<(), Fault> {
        let schema = self.schema;
        let node = &schema.nodes[at];
        self.bounded()?;
        let nests = matches!(node, Node::Array(_) | Node::Map(_) | Node::Record(_));
        if nests && depth == MAX_DEPTH {
            return Err(self.broken(FaultKind::TooDeep));
        }
        match node {
            Node::Null => self.put("null"),
            Node::Boolean => match self.take(1)? {
                [0] => self.put("false"),
                [1] => self.put("true"),
                other => return Err(self.broken(FaultKind::Boolean(other[0]))),
            },
            Node::Int(int) => self.int(*int)?,
            Node::Float => {
                let bytes = self.array()?;
                let number = f32::from_le_bytes(bytes);
                self.float(number, f64::from(number));
            }
            Node::Double => {
                let bytes = self.array()?;
                let number = f64::from_le_bytes(bytes);
                self.float(number, number);
            }
            Node::Text => {
                let text = self.text()?;
                self.json(text);
            }
            Node::Bytes(length, meaning) => {
                let length = match length {
                    Length::Fixed(length) => *length,
                    Length::Written => self.length()?,
                };
                let bytes = self.take(length)?;
                self.bytes(bytes, *meaning)?;
            }
            Node::Enum(symbols) => {
                let number = self.long()?;
                let index = usize::try_from(number).ok();
                let symbol = index.and_then(|index| symbols.get(index));
                let unknown = || self.broken(FaultKind::Symbol(number, symbols.len()));
                self.json(symbol.ok_or_else(unknown)?);
            }
            Node::Union(variants) => {
                let number = self.long()?;
                let index = usize::try_from(number).ok();
                let variant = index.and_then(|index| variants.get(index));
                let unknown = || self.broken(FaultKind::Variant(number, variants.len()));
                self.value(*variant.ok_or_else(unknown)?, depth)?;
            }
            Node::Array(items) => {
                self.put("[");
                self.blocks(|reader, number| {
                    reader.comma(number == 0);
                    let item = reader.value(*items, depth + 1);
                    item.map_err(|fault| fault.within(PathStep::Item(number)))
                })?;
                self.put("]");
            }
            Node::Map(values) => {
                self.put("{");
                self.blocks(|reader, number| {
                    reader.comma(number == 0);
                    let name = reader.text()?;
                    reader.json(name);
                    reader.put(":");
                    let value = reader.value(*values, depth + 1);
                    value.map_err(|fault| fault.within(PathStep::Key(name.to_owned())))
                })?;
                self.put("}");
            }
            Node::Record(fields) => {
                self.put("{");
                for (number, (name, at)) in fields.iter().enumerate() {
                    self.comma(number == 0);
                    self.json(name);
                    self.put(":");
                    let value = self.value(*at, depth + 1);
                    value.map_err(|fault| fault.within(PathStep::Field(name.clone())))?;
                }
                self.put("}");
            }
        }
        Ok(())
    }

    /// Reads the blocks of an array or a map. Each has a count and that many items; if the count is negative, the block's size in bytes
    /// follows it. A count of 0 ends the blocks.
    fn blocks(
        &mut self,
        mut item: impl FnMut(&mut Self, u64) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut number = 0;
        loop {
            let count = self.long()?;
            if count == 0 {
                return Ok(());
            }
            if count < 0 {
                self.long()?;
            }
            // Each item writes something, so the limit on the text also limits this loop.
            for _ in 0..count.unsigned_abs() {
                item(self, number)?;
                number += 1;
            }
        }
    }

    fn int(&mut self, int: Int) -> Result<(), Fault> {
        let number = self.long()?;
        if matches!(int, Int::Short | Int::Date | Int::Time(1_000))
            && i32::try_from(number).is_err()
        {
            return Err(self.broken(FaultKind::Int(number)));
        }
        let epoch = civil::date(1970, 1, 1);
        match int {
            Int::Short | Int::Long => self.json(&number),
            Int::Date => {
                let days = SignedDuration::from_hours(number * 24);
                let date = epoch.checked_add(days).ok().filter(|d| d.year() >= 0);
                let date = date.ok_or_else(|| self.broken(FaultKind::Date(number)))?;
                self.json(&date.to_string());
            }
            Int::Time(per_second) => {
                let nanos = number.checked_mul(NANOS / per_second);
                let of_day = nanos.filter(|n| (0..86_400 * NANOS).contains(n));
                let time = of_day.and_then(|of_day| {
                    let of_day = SignedDuration::from_nanos(of_day);
                    civil::Time::midnight().checked_add(of_day).ok()
                });
                let time = time.ok_or_else(|| self.broken(FaultKind::Time(number, per_second)))?;
                self.json(&time.to_string());
            }
            Int::Timestamp(per_second, utc) => {
                let seconds = number.div_euclid(per_second);
                let rest = number.rem_euclid(per_second) * (NANOS / per_second);
                // Computed with civil times, because jiff's timestamps end before the last day of year 9999.
                let since = SignedDuration::new(seconds, rest as i32);
                let at = epoch.at(0, 0, 0, 0).checked_add(since).ok();
                let at = at.filter(|at| at.year() >= 0);
                let beyond = || self.broken(FaultKind::Timestamp(number, per_second));
                let text = at.ok_or_else(beyond)?.to_string();
                if utc {
                    self.json(&format_args!("{text}Z"));
                } else {
                    self.json(&text);
                }
            }
        }
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8], meaning: Bytes) -> Result<(), Fault> {
        match meaning {
            Bytes::Plain => self.json(&STANDARD.encode(bytes)),
            Bytes::Decimal(scale) => {
                let text = self.decimal(bytes, scale)?;
                self.json(&text);
            }
            Bytes::BigDecimal => {
                let mut inner = Reader {
                    schema: self.schema,
                    datum: bytes,
                    at: 0,
                    max_bytes: 0,
                    out: Vec::new(),
                };
                let length = inner.length()?;
                let unscaled = inner.take(length)?;
                let scale = inner.long()?;
                if !(0..=MAX_SCALE).contains(&scale) || inner.at < bytes.len() {
                    return Err(self.broken(FaultKind::BigDecimal(scale)));
                }
                let text = self.decimal(unscaled, scale as usize)?;
                self.json(&text);
            }
            Bytes::Uuid => {
                let uuid = uuid::Uuid::from_slice(bytes);
                let uuid = uuid.map_err(|_| self.broken(FaultKind::Uuid(bytes.len())))?;
                self.json(&uuid.to_string());
            }
            Bytes::Duration => {
                let part = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
                let parts = [part(0), part(4), part(8)].map(|part| part.map(u32::from_le_bytes));
                let [Some(months), Some(days), Some(millis)] = parts else {
                    return Err(self.broken(FaultKind::Duration(bytes.len())));
                };
                let text = format!("{{\"months\":{months},\"days\":{days},\"millis\":{millis}}}");
                self.put(&text);
            }
        }
        Ok(())
    }

    /// A decimal from its unscaled value, a big-endian integer in two's complement.
    fn decimal(&self, unscaled: &[u8], scale: usize) -> Result<String, Fault> {
        if unscaled.len() > MAX_DECIMAL {
            return Err(self.broken(FaultKind::Decimal(unscaled.len(), MAX_DECIMAL)));
        }
        let number = BigInt::from_signed_bytes_be(unscaled);
        let mut digits = number.magnitude().to_string();
        if digits.len() <= scale {
            digits.insert_str(0, &"0".repeat(scale + 1 - digits.len()));
        }
        if scale > 0 {
            digits.insert(digits.len() - scale, '.');
        }
        if number.sign() == num_bigint::Sign::Minus {
            digits.insert(0, '-');
        }
        Ok(digits)
    }

    fn float(&mut self, written: impl Serialize, number: f64) {
        if number.is_finite() {
            self.json(&written);
        } else if number.is_nan() {
            self.put("\"NaN\"");
        } else if number > 0.0 {
            self.put("\"Infinity\"");
        } else {
            self.put("\"-Infinity\"");
        }
    }

    fn put(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    fn comma(&mut self, first: bool) {
        if !first {
            self.put(",");
        }
    }

    fn json(&mut self, value: &(impl Serialize + ?Sized)) {
        // Serializing text or a finite number into a `Vec` cannot fail.
        let _ = serde_json::to_writer(&mut self.out, value);
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Fault> {
        let rest = &self.datum[self.at..];
        let taken = rest.get(..length);
        let taken = taken.ok_or_else(|| self.broken(FaultKind::CutShort(length, rest.len())))?;
        self.at += length;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// Reads a zigzag varint.
    fn long(&mut self) -> Result<i64, Fault> {
        let mut rest = &self.datum[self.at..];
        let long = varint::take_zigzag(&mut rest);
        self.at = self.datum.len() - rest.len();
        long.map_err(|error| match error {
            VarintError::Truncated => self.broken(FaultKind::CutShort(1, 0)),
            VarintError::TooLong => self.broken(FaultKind::Long),
        })
    }

    fn length(&mut self) -> Result<usize, Fault> {
        let length = self.long()?;
        usize::try_from(length).map_err(|_| self.broken(FaultKind::Length(length)))
    }

    fn text(&mut self) -> Result<&'a str, Fault> {
        let length = self.length()?;
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes).map_err(|_| self.broken(FaultKind::Text))
    }
}
