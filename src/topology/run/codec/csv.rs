//! CSV (RFC 4180): each row of a record is an object of texts. A row that is bad does not refuse the others.
//!
//! What programs write beside the standard: a byte order mark; a first line `sep=;` (Excel), which must say the delimiter that is
//! configured; columns without a name (the index of pandas' frames, or a delimiter at the end of each row), which are passed over.

use bytes::Bytes;
use csv::{ByteRecord, ReaderBuilder};
use vrl::value::{KeyString, ObjectMap, Value};

use super::{Part, text};
use crate::{envelope::kafka::BATCH_MAX, stream::Rejected};

/// Fields of one record: bounds what many empty ones cost.
const MAX_FIELDS: usize = 200_000;
/// Bytes of a name that a message repeats.
const SHOWN: usize = 64;
const BOM: &[u8] = b"\xef\xbb\xbf";
/// Byte order marks of UTF-16, low and high byte first.
const UTF_16: [&[u8]; 2] = [b"\xff\xfe", b"\xfe\xff"];
/// What else may stand between two fields.
const DELIMITERS: &[u8] = b",;\t|";

/// What the columns are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::topology) struct Layout {
    /// Their names; `None`: the first row of each record says them.
    pub(crate) columns: Option<Vec<String>>,
    /// What stands between two fields.
    pub(crate) delimiter: u8,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            columns: None,
            delimiter: b',',
        }
    }
}

/// A row as it stands: its fields, and its bytes.
struct Row {
    fields: ByteRecord,
    bytes: Bytes,
}

impl Layout {
    /// The rows of a record. Empty lines are none.
    pub(crate) fn rows(&self, record: &Bytes) -> Result<Vec<Result<Part, Rejected>>, Rejected> {
        let record = self.preamble(record)?;
        let mut rows = self.split(&record)?;
        let (keys, head) = match &self.columns {
            Some(names) => {
                let keys = names.iter().map(|name| Some(name.as_str().into()));
                (keys.collect(), None)
            }
            None if rows.is_empty() => return Ok(Vec::new()),
            None => {
                let head = rows.remove(0);
                (self.names(&head)?, Some(head.bytes))
            }
        };
        let several = rows.len() > 1;
        let part = |row: Row| {
            let alone = several.then(|| match &head {
                // Without its names nobody could read it.
                Some(head) => [head, &b"\n"[..], &row.bytes].concat().into(),
                None => row.bytes.clone(),
            });
            match object(&keys, &row) {
                Ok(value) => Ok(Part {
                    value,
                    json: None,
                    alone,
                }),
                Err(rejected) => Err(Rejected {
                    value: alone,
                    ..rejected
                }),
            }
        };
        Ok(rows.into_iter().map(part).collect())
    }

    /// A record without what may stand before its first row.
    fn preamble(&self, record: &Bytes) -> Result<Bytes, Rejected> {
        if UTF_16.iter().any(|mark| record.starts_with(mark)) {
            return Err(Rejected::new(
                "invalid_csv",
                "the text is UTF-16, as its byte order mark says; only UTF-8 is read",
            ));
        }
        let rest = record.strip_prefix(BOM).unwrap_or(record);
        let line = rest.split(|b| matches!(b, b'\r' | b'\n')).next();
        let line = line.unwrap_or_default();
        let unquoted = line
            .strip_prefix(b"\"")
            .and_then(|line| line.strip_suffix(b"\""))
            .unwrap_or(line);
        let said = match unquoted {
            [name @ .., said] if name.eq_ignore_ascii_case(b"sep=") => *said,
            _ => return Ok(record.slice_ref(rest)),
        };
        if said != self.delimiter {
            return Err(Rejected::new(
                "invalid_csv",
                format!(
                    "the first line says that {} stands between two fields, and the codec's `delimiter` is {}",
                    quoted(said),
                    quoted(self.delimiter)
                ),
            ));
        }
        Ok(record.slice_ref(&rest[line.len()..]))
    }

    /// The names in the first row; a column without one is passed over.
    fn names(&self, head: &Row) -> Result<Vec<Option<KeyString>>, Rejected> {
        closed(head)?;
        let invalid = |why: String| Rejected::new("invalid_csv", why);
        let one = |b: &u8| *b != self.delimiter && head.bytes.contains(b);
        if head.fields.len() == 1
            && !head.bytes.contains(&b'"')
            && let Some(other) = DELIMITERS.iter().copied().find(|b| one(b))
        {
            return Err(invalid(format!(
                "the first row names one column, `{}`: the codec's `delimiter` is {}, and {} seems to stand between its fields",
                shown(&String::from_utf8_lossy(&head.bytes)),
                quoted(self.delimiter),
                quoted(other)
            )));
        }
        let mut names = Vec::with_capacity(head.fields.len());
        let mut seen = std::collections::HashSet::new();
        for field in &head.fields {
            let name = text(field)?;
            if name.trim().is_empty() {
                names.push(None);
                continue;
            }
            if !seen.insert(name) {
                return Err(invalid(format!(
                    "the first row names the columns, and `{}` is there twice",
                    shown(name)
                )));
            }
            names.push(Some(name.into()));
        }
        if seen.is_empty() {
            return Err(invalid(
                "the first row names the columns, and all its fields are empty".into(),
            ));
        }
        Ok(names)
    }

    fn split(&self, record: &Bytes) -> Result<Vec<Row>, Rejected> {
        let mut reader = ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .delimiter(self.delimiter)
            .from_reader(&record[..]);
        let mut rows = Vec::new();
        let mut left = MAX_FIELDS;
        let mut start = 0;
        let mut fields = ByteRecord::new();
        // It reads from memory and takes any number of fields, so nothing can go wrong.
        while reader
            .read_byte_record(&mut fields)
            .map_err(|e| Rejected::new("invalid_csv", e.to_string()))?
        {
            let end = reader.position().byte() as usize;
            let whole = record.get(start..end).unwrap_or_default();
            let line_end = |b: &u8| matches!(b, b'\r' | b'\n');
            let from = whole.iter().position(|b| !line_end(b)).unwrap_or(0);
            let to = whole
                .iter()
                .rposition(|b| !line_end(b))
                .map_or(0, |at| at + 1);
            let count = fields.len();
            if rows.len() > BATCH_MAX || count > left {
                return Err(Rejected::new(
                    "batch_too_large",
                    format!(
                        "a record has at most {BATCH_MAX} rows and {MAX_FIELDS} fields; send several"
                    ),
                ));
            }
            left -= count;
            rows.push(Row {
                fields: std::mem::take(&mut fields),
                bytes: record.slice_ref(&whole[from.min(to)..to]),
            });
            start = end;
        }
        Ok(rows)
    }
}

/// A row by its columns' names. Fields that have none are passed over; at its end there may be more of them, or fewer, where they
/// say nothing.
fn object(names: &[Option<KeyString>], row: &Row) -> Result<Value, Rejected> {
    closed(row)?;
    let named = names
        .iter()
        .rposition(Option::is_some)
        .map_or(0, |at| at + 1);
    let rest = row.fields.iter().skip(names.len());
    if row.fields.len() < named || rest.into_iter().any(|field| !field.is_empty()) {
        return Err(Rejected::new(
            "wrong_columns",
            format!(
                "the row has {} fields, and there are {} columns",
                row.fields.len(),
                names.len()
            ),
        ));
    }
    let mut object = ObjectMap::new();
    for (name, field) in names.iter().zip(&row.fields) {
        if let Some(name) = name {
            object.insert(name.clone(), text(field)?.into());
        }
    }
    Ok(Value::Object(object))
}

/// As much of a name as a message repeats.
fn shown(name: &str) -> &str {
    &name[..name.floor_char_boundary(SHOWN)]
}

/// A delimiter, for a message.
fn quoted(byte: u8) -> String {
    match byte {
        b'\t' => "a tab".into(),
        b' '..=b'~' => format!("`{}`", char::from(byte)),
        other => format!("the byte 0x{other:02x}"),
    }
}

/// Quotes come in pairs. The library takes one that is open to the end of the record, rows and all.
fn closed(row: &Row) -> Result<(), Rejected> {
    if memchr::memchr_iter(b'"', &row.bytes).count() % 2 == 1 {
        return Err(Rejected::new(
            "invalid_csv",
            "a double quote is not closed, or stands in a field without quotes",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn layout(columns: &[&str], delimiter: u8) -> Layout {
        let columns = columns.iter().map(|name| (*name).to_owned()).collect();
        Layout {
            columns: Some(columns),
            delimiter,
        }
    }

    /// Each row's values, or its code.
    fn read(layout: &Layout, text: &[u8]) -> Vec<Result<Vec<String>, String>> {
        let rows = layout.rows(&Bytes::copy_from_slice(text)).unwrap();
        let values = |part: Part| match part.value {
            Value::Object(object) => object
                .values()
                .map(|v| v.to_string_lossy().into())
                .collect(),
            other => panic!("{other}"),
        };
        rows.into_iter()
            .map(|row| row.map(values).map_err(|r| r.code.into_owned()))
            .collect()
    }

    #[expect(
        clippy::unnecessary_wraps,
        reason = "it is compared with what was read"
    )]
    fn row(values: &[&str]) -> Result<Vec<String>, String> {
        Ok(values.iter().map(|v| (*v).to_owned()).collect())
    }

    #[test]
    fn rows_quotes_and_line_ends() {
        let two = layout(&["a", "b"], b',');
        assert_eq!(read(&two, b"1,2"), [row(&["1", "2"])]);
        assert_eq!(
            read(&two, b"\xef\xbb\xbf1,2\r\n\r\n\n3,\r\n"),
            [row(&["1", "2"]), row(&["3", ""])]
        );
        assert_eq!(
            read(&two, b"\"x,\"\"y\"\"\r\nz\",\"\"\n,\n"),
            [row(&["x,\"y\"\r\nz", ""]), row(&["", ""])]
        );
        assert_eq!(
            read(&layout(&["a", "b"], b';'), "ä;1,5".as_bytes()),
            [row(&["ä", "1,5"])]
        );
        for nothing in [&b""[..], b"\n\r\n", b"\xef\xbb\xbf"] {
            assert_eq!(read(&two, nothing), []);
            assert_eq!(read(&Layout::default(), nothing), []);
        }
    }

    #[test]
    fn a_bad_row_does_not_refuse_the_others() {
        let two = layout(&["a", "b"], b',');
        let err = |code: &str| Err(code.to_owned());
        assert_eq!(
            read(&two, b"1,2\n3\n\xff,4\n5,6,7\n8,9\n5\" pipe,1\n"),
            [
                row(&["1", "2"]),
                err("wrong_columns"),
                err("invalid_utf8"),
                err("wrong_columns"),
                row(&["8", "9"]),
                err("invalid_csv"),
            ]
        );
        // What is never closed reaches to the end, and says so.
        let open = two.rows(&Bytes::from_static(b"1,2\n\"3,4\n5,6\n")).unwrap();
        assert_eq!(open.len(), 2);
        let rejected = open[1].as_ref().unwrap_err();
        assert_eq!(rejected.code, "invalid_csv");
        assert_eq!(rejected.value.as_deref(), Some(&b"\"3,4\n5,6"[..]));
    }

    #[test]
    fn the_first_row_names_the_columns() {
        let rows = Layout::default()
            .rows(&Bytes::from_static(b"id,\"of,x\"\r\n1,2\r\n3\r\n"))
            .unwrap();
        let good = rows[0].as_ref().unwrap();
        assert_eq!(good.value.to_string(), r#"{ "id": "1", "of,x": "2" }"#);
        assert_eq!(good.alone.as_deref(), Some(&b"id,\"of,x\"\n1,2"[..]));
        let bad = rows[1].as_ref().unwrap_err();
        assert_eq!(bad.code, "wrong_columns");
        assert_eq!(bad.value.as_deref(), Some(&b"id,\"of,x\"\n3"[..]));
        // A redriven record is read like the original.
        let again = Layout::default()
            .rows(good.alone.as_ref().unwrap())
            .unwrap();
        let again = again[0].as_ref().unwrap();
        assert_eq!((&again.value, &again.alone), (&good.value, &None));
        let refused = [
            ("a,a\n1,2", "`a` is there twice"),
            (",\n1,2", "all its fields are empty"),
            ("\"a\n1,2", "not closed"),
            (
                "sep=;\na;b\n1;2",
                "`;` stands between two fields, and the codec's `delimiter` is `,`",
            ),
            ("\u{feff}\"SEP=\t\"\r\na\tb", "a tab stands"),
            ("a;b\n1;2", "`;` seems to stand between its fields"),
            ("a\tb\n1\t2", "a tab seems"),
        ];
        for (text, why) in refused {
            let refused = Layout::default().rows(&text.into()).unwrap_err();
            assert_eq!(refused.code, "invalid_csv", "{text}");
            assert!(refused.message.contains(why), "{text}: {}", refused.message);
        }
        let utf_16 = Bytes::from_static(b"\xff\xfea\0,\0b\0");
        let refused = Layout::default().rows(&utf_16).unwrap_err();
        assert_eq!(refused.code, "invalid_csv");
        assert!(refused.message.contains("UTF-16"));
    }

    #[test]
    fn columns_without_a_name_are_passed_over() {
        let read = |text: &str| {
            let rows = Layout::default().rows(&Bytes::copy_from_slice(text.as_bytes()));
            let rows = rows.unwrap().into_iter().map(|row| match row {
                Ok(part) => part.value.to_string(),
                Err(rejected) => rejected.code.into_owned(),
            });
            rows.collect::<Vec<_>>()
        };
        let row = r#"{ "a": "x", "b": "y" }"#;
        // pandas' index; a delimiter at the end of each row, or of some; an empty column in the middle.
        assert_eq!(read(",a,b\n0,x,y\n1,x,y\n"), [row, row]);
        assert_eq!(read("\u{feff}\" \",a,b\n0,x,y\n"), [row]);
        assert_eq!(read("a,b,\r\nx,y,\r\nx,y\r\nx,y,,,\r\n"), [row, row, row]);
        assert_eq!(
            read("a,b\nx,y,\nx,y,z\nx\nx,y\n"),
            [row, "wrong_columns", "wrong_columns", row]
        );
        assert_eq!(read("a,,b\nx,?,y\nx,y\n"), [row, "wrong_columns"]);
        // What says the delimiter that is configured is no row.
        assert_eq!(read("sep=,\r\na,b\r\nx,y\r\n"), [row]);
        assert_eq!(read("\"sep=,\"\na,b\nx,y\n"), [row]);
        assert_eq!(read("sep\n1\n"), [r#"{ "sep": "1" }"#]);
        // A quoted name may hold what looks like another delimiter.
        assert_eq!(read("\"a;b\"\n1\n"), [r#"{ "a;b": "1" }"#]);
        let two = layout(&["a", "b"], b';');
        let rows = two
            .rows(&Bytes::from_static(b"sep=;\nx;y;\n;;;z\n"))
            .unwrap();
        assert_eq!(rows[0].as_ref().unwrap().value.to_string(), row);
        assert_eq!(rows[1].as_ref().unwrap_err().code, "wrong_columns");
    }

    #[test]
    fn there_is_an_end_to_rows_and_fields() {
        let one = layout(&["a"], b',');
        let code = |rows: Result<_, Rejected>| rows.map(|_: Vec<_>| ()).unwrap_err().code;
        assert!(one.rows(&"1\n".repeat(BATCH_MAX).into()).is_ok());
        let many = "1\n".repeat(BATCH_MAX + 2);
        assert_eq!(code(one.rows(&many.into())), "batch_too_large");
        let wide = ",".repeat(MAX_FIELDS);
        assert_eq!(code(one.rows(&wide.into())), "batch_too_large");
    }

    proptest! {
        #[test]
        fn what_a_writer_quotes_comes_back(rows in vec(vec("[a,;\"\r\n ä]{0,6}", 2), 1..5)) {
            let mut writer = csv::WriterBuilder::new()
                .quote_style(csv::QuoteStyle::Always)
                .from_writer(Vec::new());
            for row in &rows {
                writer.write_record(row).unwrap();
            }
            let text = writer.into_inner().unwrap();
            let expected: Vec<Result<Vec<String>, String>> = rows.iter().cloned().map(Ok).collect();
            prop_assert_eq!(read(&layout(&["a", "b"], b','), &text), expected);
        }
    }
}
