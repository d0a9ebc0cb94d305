//! CSV (RFC 4180): each row of a record is an object of texts. A row that is bad does not refuse the others.

use bytes::Bytes;
use csv::{ByteRecord, ReaderBuilder};
use vrl::value::{KeyString, ObjectMap, Value};

use super::{Part, refused, text};
use crate::{envelope::kafka::BATCH_MAX, stream::Rejected};

/// Fields of one record: bounds what many empty ones cost.
const MAX_FIELDS: usize = 200_000;
/// Bytes of a name that a message repeats.
const SHOWN: usize = 64;
const BOM: &[u8] = b"\xef\xbb\xbf";

/// What the columns are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::stream::topology) struct Layout {
    /// Their names; `None`: the first row of each record says them.
    pub(super) columns: Option<Vec<String>>,
    /// What stands between two fields.
    pub(super) delimiter: u8,
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
    pub(super) fn rows(&self, record: &Bytes) -> Result<Vec<Result<Part, Rejected>>, Rejected> {
        let record = match record.strip_prefix(BOM) {
            Some(rest) => record.slice_ref(rest),
            None => record.clone(),
        };
        let mut rows = self.split(&record)?;
        let (names, head) = match &self.columns {
            Some(names) => (names.clone(), None),
            None if rows.is_empty() => return Ok(Vec::new()),
            None => {
                let head = rows.remove(0);
                (names(&head)?, Some(head.bytes))
            }
        };
        let keys: Vec<KeyString> = names.iter().map(|name| name.as_str().into()).collect();
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
            .map_err(|e| refused("invalid_csv", e.to_string()))?
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
                return Err(refused(
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

/// The names in the first row.
fn names(head: &Row) -> Result<Vec<String>, Rejected> {
    closed(head)?;
    let mut names: Vec<String> = Vec::with_capacity(head.fields.len());
    let mut seen = std::collections::HashSet::new();
    for field in &head.fields {
        let name = text(field)?;
        if name.is_empty() || !seen.insert(name) {
            let shown = &name[..name.floor_char_boundary(SHOWN)];
            return Err(refused(
                "invalid_csv",
                format!("the first row names the columns, and `{shown}` is empty or there twice"),
            ));
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

fn object(names: &[KeyString], row: &Row) -> Result<Value, Rejected> {
    closed(row)?;
    if row.fields.len() != names.len() {
        return Err(refused(
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
        object.insert(name.clone(), text(field)?.into());
    }
    Ok(Value::Object(object))
}

/// Quotes come in pairs. The library takes one that is open to the end of the record, rows and all.
fn closed(row: &Row) -> Result<(), Rejected> {
    if memchr::memchr_iter(b'"', &row.bytes).count() % 2 == 1 {
        return Err(refused(
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
        // What went back from the dead letters is read as it was.
        let again = Layout::default()
            .rows(good.alone.as_ref().unwrap())
            .unwrap();
        let again = again[0].as_ref().unwrap();
        assert_eq!((&again.value, &again.alone), (&good.value, &None));
        for head in ["a,a\n1,2", "a,\n1,2", "\"a\n1,2"] {
            let refused = Layout::default().rows(&head.into()).unwrap_err();
            assert_eq!(refused.code, "invalid_csv", "{head}");
        }
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
