//! An encoder for `COPY … (FORMAT binary)` that allocates nothing per row.
//!
//! Layout (Postgres manual, "COPY", binary format): a header; for each row a field count, and for each field a length and bytes; a
//! trailer. Text is UTF-8, `jsonb` is a version byte and JSON text, `timestamptz` is microseconds since 2000-01-01.

use std::{borrow::Cow, fmt, net::IpAddr};

use memchr::{memchr, memmem};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};

const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// 2000-01-01T00:00:00Z in microseconds since 1970.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;
const ESCAPED_NUL: &[u8] = br"\u0000";
const REPLACEMENT: &str = "\u{fffd}";

/// A buffer of encoded rows for one `COPY`.
#[derive(Debug, Default)]
pub struct CopyRows {
    bytes: Vec<u8>,
    rows: u64,
}

impl CopyRows {
    /// Starts a row with this many fields. Exactly as many field calls must follow.
    pub fn row(&mut self, fields: i16) {
        if self.bytes.is_empty() {
            self.bytes.extend_from_slice(HEADER);
        }
        self.bytes.extend_from_slice(&fields.to_be_bytes());
        self.rows += 1;
    }

    /// Writes NULL.
    pub fn null(&mut self) {
        self.bytes.extend_from_slice(&(-1_i32).to_be_bytes());
    }

    /// Writes `text`. U+0000, which Postgres cannot store, becomes U+FFFD.
    pub fn text(&mut self, value: &str) {
        if memchr(0, value.as_bytes()).is_none() {
            self.field(value.as_bytes());
        } else {
            self.field(storable_text(value).as_bytes());
        }
    }

    /// Writes `text`, or NULL.
    pub fn optional_text(&mut self, value: Option<&str>) {
        match value {
            Some(value) => self.text(value),
            None => self.null(),
        }
    }

    /// Writes `jsonb`, from valid JSON text that has gone through [`storable_json`].
    pub fn jsonb(&mut self, value: &[u8]) {
        self.length(value.len() + 1);
        self.bytes.push(1);
        self.bytes.extend_from_slice(value);
    }

    /// Writes `bytea`.
    pub fn bytes(&mut self, value: &[u8]) {
        self.field(value);
    }

    /// Writes `inet`: the address of a host.
    pub fn address(&mut self, value: IpAddr) {
        // The family's number (`PGSQL_AF_INET` and `PGSQL_AF_INET6`), bits of the network, not a `cidr`, bytes of the address.
        match value {
            IpAddr::V4(v4) => self.parts(&[&[2, 32, 0, 4], &v4.octets()]),
            IpAddr::V6(v6) => self.parts(&[&[3, 128, 0, 16], &v6.octets()]),
        }
    }

    /// Writes `integer`.
    pub fn integer(&mut self, value: i32) {
        self.field(&value.to_be_bytes());
    }

    /// Writes `bigint`.
    pub fn bigint(&mut self, value: i64) {
        self.field(&value.to_be_bytes());
    }

    /// Writes `double precision`.
    pub fn double(&mut self, value: f64) {
        self.field(&value.to_be_bytes());
    }

    /// Writes `timestamptz`, from microseconds since 1970.
    pub fn timestamp(&mut self, micros: i64) {
        self.bigint(micros.saturating_sub(POSTGRES_EPOCH));
    }

    /// Writes a field that consists of these parts.
    pub(crate) fn parts(&mut self, parts: &[&[u8]]) {
        self.length(parts.iter().map(|part| part.len()).sum());
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
    }

    /// Writes a field of [`CopyRows::each_field`].
    pub(crate) fn encoded(&mut self, field: &[u8]) {
        self.bytes.extend_from_slice(field);
    }

    /// The encoded fields of all rows, which have as many fields each: a field is its length and its bytes.
    pub(crate) fn each_field(&self, fields: usize) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.bytes.get(HEADER.len()..).unwrap_or_default();
        let mut left = 0;
        std::iter::from_fn(move || {
            if left == 0 {
                // The count of a row's fields.
                rest = rest.split_first_chunk::<2>()?.1;
                left = fields;
            }
            left -= 1;
            let (length, _) = rest.split_first_chunk()?;
            // NULL has the length -1.
            let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
            let (field, after) = rest.split_at_checked(4 + length)?;
            rest = after;
            Some(field)
        })
    }

    /// The encoded bytes of fields that were written without [`CopyRows::row`]: for each its length and its bytes.
    pub(crate) fn fields(&self) -> &[u8] {
        &self.bytes
    }

    /// The number of rows.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The encoded size in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The allocated size in bytes.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Removes all rows and keeps the allocation.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.rows = 0;
    }

    /// Runs the `COPY` and returns the number of rows that the server took. The statement names table and columns and ends in
    /// `FROM STDIN (FORMAT binary)`.
    pub async fn send(
        &self,
        connection: &mut sqlx::PgConnection,
        statement: &str,
    ) -> Result<u64, sqlx::Error> {
        let mut copy = connection.copy_in_raw(statement).await?;
        if let Err(e) = async {
            copy.send(self.bytes.as_slice()).await?;
            copy.send((-1_i16).to_be_bytes().as_slice())
                .await
                .map(|_| ())
        }
        .await
        {
            // The server's error is more useful than the broken pipe that it causes.
            return Err(copy.finish().await.err().unwrap_or(e));
        }
        copy.finish().await
    }

    fn field(&mut self, value: &[u8]) {
        self.length(value.len());
        self.bytes.extend_from_slice(value);
    }

    /// Fields are bounded by the size of a record, far below 2 GiB, so the cast never truncates.
    fn length(&mut self, len: usize) {
        self.bytes.extend_from_slice(&(len as i32).to_be_bytes());
    }
}

/// Text that Postgres can store: U+0000 becomes U+FFFD.
pub fn storable_text(text: &str) -> Cow<'_, str> {
    match memchr(0, text.as_bytes()) {
        None => Cow::Borrowed(text),
        Some(_) => Cow::Owned(text.replace('\0', REPLACEMENT)),
    }
}

/// JSON text that `jsonb` can store: the escape `\u0000` becomes `\ufffd`. The input must be valid JSON.
pub fn storable_json(json: &str) -> Cow<'_, str> {
    let bytes = json.as_bytes();
    let mut hits = memmem::find_iter(bytes, ESCAPED_NUL).peekable();
    if hits.peek().is_none() {
        return Cow::Borrowed(json);
    }
    let mut out = String::with_capacity(json.len());
    let mut from = 0;
    for at in hits {
        // After an odd number of backslashes this backslash is itself escaped, and `u0000` is plain text.
        let before = bytes[..at]
            .iter()
            .rev()
            .take_while(|b| **b == b'\\')
            .count();
        if before % 2 == 0 {
            out.push_str(&json[from..at]);
            out.push_str(r"\ufffd");
            from = at + ESCAPED_NUL.len();
        }
    }
    out.push_str(&json[from..]);
    Cow::Owned(out)
}

/// A number with fewer digits than this, and within the range of `f64`, is within that of `numeric` (Postgres manual, "Numeric
/// Types": 131,072 digits before the point, 16,383 after it).
const NUMERIC_DIGITS: usize = 16_000;

/// Whether the cast of a text to `jsonb` surely succeeds. `false`: only Postgres knows.
pub fn surely_jsonb(text: &str) -> bool {
    // U+0000 is valid JSON, but not for Postgres.
    text.len() < NUMERIC_DIGITS
        && serde_json::from_str::<Surely>(text).is_ok()
        && memmem::find(text.as_bytes(), ESCAPED_NUL).is_none()
}

/// JSON whose strings have no lone surrogates, whose numbers are within the range of `f64`, and which is not nested deeply: what
/// `serde_json` reads into owned values.
struct Surely;

impl<'de> Deserialize<'de> for Surely {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Surely {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self, A::Error> {
        while seq.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        while map.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
}

/// The JSON text of a `jsonb` value in binary format; `None` for an unknown version.
pub fn jsonb_text(binary: &[u8]) -> Option<&[u8]> {
    match binary.split_first() {
        Some((1, text)) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_that_postgres_may_refuse_is_not_sure() {
        let long = format!("[0.{}1]", "0".repeat(NUMERIC_DIGITS));
        let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
        for text in [
            "",
            "{",
            "{} 1",
            "1e999",
            r#"{"a":"\u0000"}"#,
            r#"{"\u0000":1}"#,
            r#""\ud800""#,
            &long,
            &deep,
        ] {
            assert!(!surely_jsonb(text), "{text:.50}");
        }
        for text in [
            r#"{"a":[1,-2,3.5,1e300,null,true,"\ud83d\ude00"],"b":{}}"#,
            r#""é\n""#,
            "-0.0",
        ] {
            assert!(surely_jsonb(text), "{text}");
        }
    }

    #[test]
    fn the_fields_of_rows_are_read_back() {
        let mut rows = CopyRows::default();
        assert_eq!(rows.each_field(2).count(), 0);
        for text in [Some("ab"), None] {
            rows.row(2);
            rows.optional_text(text);
            rows.address([127, 0, 0, 1].into());
        }
        let fields: Vec<_> = rows.each_field(2).collect();
        let address = [0, 0, 0, 8, 2, 32, 0, 4, 127, 0, 0, 1];
        let null = [255; 4];
        assert_eq!(
            fields,
            [&[0, 0, 0, 2, b'a', b'b'], &address[..], &null, &address]
        );
    }

    #[test]
    fn nul_becomes_the_replacement_character() {
        assert_eq!(storable_text("a\0b"), "a\u{fffd}b");
        assert_eq!(storable_json(r#"{"a":"\u0000"}"#), r#"{"a":"\ufffd"}"#);
        assert_eq!(
            storable_json(r#"["\\u0000","\\\u0000\u0000"]"#),
            r#"["\\u0000","\\\ufffd\ufffd"]"#
        );
        assert!(matches!(
            storable_json(r#"{"a":"\u0001"}"#),
            Cow::Borrowed(_)
        ));
    }

    #[test]
    fn rows_are_encoded_in_the_binary_copy_format() {
        let mut rows = CopyRows::default();
        rows.row(3);
        rows.text("hé");
        rows.null();
        rows.timestamp(POSTGRES_EPOCH + 5);
        let mut expected = HEADER.to_vec();
        expected.extend_from_slice(&[0, 3, 0, 0, 0, 3, b'h', 0xc3, 0xa9]);
        expected.extend_from_slice(&[0xff; 4]);
        expected.extend_from_slice(&[0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 5]);
        assert_eq!(rows.bytes, expected);
    }
}
