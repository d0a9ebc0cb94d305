//! One datum as JSON text, in one pass. Written here because the library's own reader takes what is cut short for `null`, recurses as
//! deep as the input says, and builds a tree.
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

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::{SignedDuration, Timestamp, civil, tz::TimeZone};
use num_bigint::BigInt;
use serde::Serialize;

use super::{
    super::{Invalid, MAX_DEPTH},
    schema::{At, Bytes, Int, Length, Node, Schema},
};

/// The most bytes of JSON that a record may become: items without any bytes of their own are cheap to claim.
fn most(datum: usize) -> usize {
    (datum.saturating_mul(64) + (64 << 10)).min(64 << 20)
}

/// The most bytes of a decimal: 2,466 digits.
const MAX_DECIMAL: usize = 1024;
/// The most digits after the point of a decimal that brings its own scale.
const MAX_SCALE: i64 = 16_383;
const NANOS: i64 = 1_000_000_000;

impl Schema {
    /// The JSON text of a datum, which must be whole.
    pub fn json(&self, datum: &[u8]) -> Result<String, Invalid> {
        let mut reader = Reader {
            schema: self,
            datum,
            at: 0,
            most: most(datum.len()),
            out: Vec::with_capacity(datum.len() * 2),
        };
        reader.value(self.root, 0)?;
        // The last value may be a long one of few bytes, such as a decimal with many zeros.
        reader.bounded()?;
        if reader.at < datum.len() {
            return Err(Invalid::payload("Avro: bytes follow the last field"));
        }
        // Only text and numbers were written.
        String::from_utf8(reader.out).map_err(|e| Invalid::payload(format!("Avro: {e}")))
    }
}

struct Reader<'a> {
    schema: &'a Schema,
    datum: &'a [u8],
    at: usize,
    most: usize,
    out: Vec<u8>,
}

impl<'a> Reader<'a> {
    #[cold]
    fn broken(&self, what: &str) -> Invalid {
        let at = self.at;
        Invalid::payload(format!(
            "Avro: {what}, at byte {at} behind the schema's id; is it written under another schema?"
        ))
    }

    fn bounded(&self) -> Result<(), Invalid> {
        if self.out.len() <= self.most {
            return Ok(());
        }
        Err(Invalid::payload(format!(
            "Avro: as JSON it would have more than {} bytes",
            self.most
        )))
    }

    fn value(&mut self, at: At, depth: usize) -> Result<(), Invalid> {
        let schema = self.schema;
        let node = &schema.nodes[at];
        self.bounded()?;
        let nests = matches!(node, Node::Array(_) | Node::Map(_) | Node::Record(_));
        if nests && depth == MAX_DEPTH {
            return Err(Invalid::payload(format!(
                "Avro: nested deeper than {MAX_DEPTH}"
            )));
        }
        match node {
            Node::Null => self.put("null"),
            Node::Boolean => match self.take(1)? {
                [0] => self.put("false"),
                [1] => self.put("true"),
                _ => return Err(self.broken("a boolean that is none")),
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
                let index = usize::try_from(self.long()?).ok();
                let symbol = index.and_then(|index| symbols.get(index));
                let symbol = symbol.ok_or_else(|| self.broken("an enum without such a symbol"))?;
                self.json(symbol);
            }
            Node::Union(variants) => {
                let index = usize::try_from(self.long()?).ok();
                let variant = index.and_then(|index| variants.get(index));
                let variant = variant.ok_or_else(|| self.broken("a union without such a type"))?;
                self.value(*variant, depth)?;
            }
            Node::Array(items) => {
                self.put("[");
                self.blocks(|reader, first| {
                    reader.comma(first);
                    reader.value(*items, depth + 1)
                })?;
                self.put("]");
            }
            Node::Map(values) => {
                self.put("{");
                self.blocks(|reader, first| {
                    reader.comma(first);
                    let name = reader.text()?;
                    reader.json(name);
                    reader.put(":");
                    reader.value(*values, depth + 1)
                })?;
                self.put("}");
            }
            Node::Record(fields) => {
                self.put("{");
                for (number, (name, at)) in fields.iter().enumerate() {
                    self.comma(number == 0);
                    self.json(name);
                    self.put(":");
                    self.value(*at, depth + 1)?;
                }
                self.put("}");
            }
        }
        Ok(())
    }

    /// The blocks of an array or a map: a count, perhaps negative and with a size, and so many items; a count of 0 ends it.
    fn blocks(
        &mut self,
        mut item: impl FnMut(&mut Self, bool) -> Result<(), Invalid>,
    ) -> Result<(), Invalid> {
        let mut first = true;
        loop {
            let count = self.long()?;
            if count == 0 {
                return Ok(());
            }
            if count < 0 {
                self.long()?;
            }
            // Each item writes something, so that the bound of the text bounds this too.
            for _ in 0..count.unsigned_abs() {
                item(self, first)?;
                first = false;
            }
        }
    }

    fn int(&mut self, int: Int) -> Result<(), Invalid> {
        let number = self.long()?;
        if matches!(int, Int::Short | Int::Date | Int::Time(1_000))
            && i32::try_from(number).is_err()
        {
            return Err(self.broken("an int of more than 32 bits"));
        }
        let beyond = || Invalid::payload("Avro: a time lies outside the years 0 to 9999");
        match int {
            Int::Short | Int::Long => self.json(&number),
            Int::Date => {
                let epoch = civil::date(1970, 1, 1);
                let days = SignedDuration::from_hours(number * 24);
                let date = epoch.checked_add(days).ok().filter(|d| d.year() >= 0);
                self.json(&date.ok_or_else(beyond)?.to_string());
            }
            Int::Time(per_second) => {
                let nanos = number.checked_mul(NANOS / per_second);
                let of_day = nanos.filter(|n| (0..86_400 * NANOS).contains(n));
                let of_day = of_day.ok_or_else(|| self.broken("a time beyond its day"))?;
                let time = civil::Time::midnight().checked_add(SignedDuration::from_nanos(of_day));
                self.json(&time.map_err(|_| beyond())?.to_string());
            }
            Int::Timestamp(per_second, utc) => {
                let nanos = i128::from(number) * i128::from(NANOS / per_second);
                let at = Timestamp::from_nanosecond(nanos).map_err(|_| beyond())?;
                let local = at.to_zoned(TimeZone::UTC).datetime();
                if local.year() < 0 {
                    return Err(beyond());
                }
                if utc {
                    self.json(&at.to_string());
                } else {
                    self.json(&local.to_string());
                }
            }
        }
        Ok(())
    }

    fn bytes(&mut self, bytes: &[u8], meaning: Bytes) -> Result<(), Invalid> {
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
                    most: 0,
                    out: Vec::new(),
                };
                let length = inner.length()?;
                let unscaled = inner.take(length)?;
                let scale = inner.long()?;
                if !(0..=MAX_SCALE).contains(&scale) || inner.at < bytes.len() {
                    return Err(self.broken("a big-decimal that cannot be written"));
                }
                let text = self.decimal(unscaled, scale as usize)?;
                self.json(&text);
            }
            Bytes::Uuid => {
                let uuid = uuid::Uuid::from_slice(bytes);
                let uuid = uuid.map_err(|_| self.broken("a uuid of other than 16 bytes"))?;
                self.json(&uuid.to_string());
            }
            Bytes::Duration => {
                let part = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
                let parts = [part(0), part(4), part(8)].map(|part| part.map(u32::from_le_bytes));
                let [Some(months), Some(days), Some(millis)] = parts else {
                    return Err(self.broken("a duration of other than 12 bytes"));
                };
                let text = format!("{{\"months\":{months},\"days\":{days},\"millis\":{millis}}}");
                self.put(&text);
            }
        }
        Ok(())
    }

    /// An unscaled whole number, two's complement, with the point put in.
    fn decimal(&self, unscaled: &[u8], scale: usize) -> Result<String, Invalid> {
        if unscaled.len() > MAX_DECIMAL {
            return Err(self.broken("a decimal of more than 1024 bytes"));
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
        // Texts and finite numbers always have a JSON form, and a `Vec` never refuses bytes.
        let _ = serde_json::to_writer(&mut self.out, value);
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Invalid> {
        let rest = &self.datum[self.at..];
        let taken = rest.get(..length);
        let taken = taken.ok_or_else(|| self.broken("it ends too soon"))?;
        self.at += length;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Invalid> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// Zigzag, then seven bits a byte, the lowest first.
    fn long(&mut self) -> Result<i64, Invalid> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(self.broken("a number of more than 64 bits"))
    }

    fn length(&mut self) -> Result<usize, Invalid> {
        let length = self.long()?;
        usize::try_from(length).map_err(|_| self.broken("a length below zero"))
    }

    fn text(&mut self) -> Result<&'a str, Invalid> {
        let length = self.length()?;
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes).map_err(|_| self.broken("a text that is no UTF-8"))
    }
}
