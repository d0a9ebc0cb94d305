//! What a record is keyed by.

use bytes::Bytes;

use crate::topology::{
    syntax::model::{KeyField, KeyFields},
    vrl::document::Document,
};
use crate::{base::id::Tenant, envelope::json::put_string, stream::Rejected};

/// Enough bytes for most keys.
const USUAL: usize = 96;

/// The values of a key's fields: a JSON array, in one piece.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct KeyValues {
    array: Bytes,
    /// Where each value ends in the array.
    ends: Vec<u32>,
}

impl Default for KeyValues {
    fn default() -> Self {
        Self {
            array: Bytes::from_static(b"[]"),
            ends: Vec::new(),
        }
    }
}

impl KeyValues {
    /// The fields of a record, all of which it must have.
    pub(crate) fn read(
        fields: &KeyFields,
        document: &Document,
        tenant: Option<&Tenant>,
    ) -> Result<Self, Rejected> {
        let mut all = Writer::with_room(fields.fields.len());
        for field in &fields.fields {
            let missing = || {
                let message = format!("the record has no `{field}`, by which it is keyed");
                Rejected::new("missing_key", message)
            };
            all.add(|out| match field {
                KeyField::Tenant => {
                    put_string(tenant.ok_or_else(missing)?.as_str(), out);
                    Ok(())
                }
                KeyField::Field(path) => match document.put(path, out) {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(missing()),
                    Err(e) => {
                        let message = format!(
                            "`{field}`, by which the record is keyed, has no JSON form: {e}"
                        );
                        Err(Rejected::new(e.code(), message))
                    }
                },
            })?;
        }
        Ok(all.end())
    }

    /// From the JSON text of each value.
    pub(crate) fn of_texts(texts: &[&str]) -> Self {
        let mut all = Writer::with_room(texts.len());
        for text in texts {
            let Ok(()) = all.add(|out| {
                out.extend_from_slice(text.as_bytes());
                Ok::<(), std::convert::Infallible>(())
            });
        }
        all.end()
    }

    /// The values as a JSON array.
    pub(crate) fn array(&self) -> &Bytes {
        &self.array
    }

    /// The JSON text of each value.
    pub(crate) fn texts(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        // After the bracket or the comma.
        let mut from = 1;
        self.ends.iter().map(move |end| {
            let end = *end as usize;
            let text = &self.array[from..end];
            from = end + 1;
            text
        })
    }
}

struct Writer {
    array: Vec<u8>,
    ends: Vec<u32>,
}

impl Writer {
    fn with_room(values: usize) -> Self {
        let mut array = Vec::with_capacity(USUAL);
        array.push(b'[');
        Self {
            array,
            ends: Vec::with_capacity(values),
        }
    }

    fn add<E>(&mut self, put: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
        if !self.ends.is_empty() {
            self.array.push(b',');
        }
        put(&mut self.array)?;
        self.ends.push(self.array.len() as u32);
        Ok(())
    }

    fn end(mut self) -> KeyValues {
        self.array.push(b']');
        KeyValues {
            array: self.array.into(),
            ends: self.ends,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(paths: &[&str]) -> KeyFields {
        let field = |path: &&str| match *path {
            "tenant" => KeyField::Tenant,
            path => KeyField::Field(vrl::path::parse_value_path(path).unwrap()),
        };
        KeyFields {
            fields: paths.iter().map(field).collect(),
        }
    }

    fn document(json: &'static str) -> Document {
        Document::read(&Bytes::from_static(json.as_bytes())).unwrap()
    }

    #[test]
    fn values_are_one_array_and_each_by_itself() {
        let tenant = Tenant::new("acme").unwrap();
        let document = document(r#"{"a":{"b":"x, \"y\""},"n":1.50,"o":{"z":[1],"a":true}}"#);
        let keyed = fields(&["tenant", "a.b", "n", "o"]);
        let values = KeyValues::read(&keyed, &document, Some(&tenant)).unwrap();
        let array = br#"["acme","x, \"y\"",1.5,{"a":true,"z":[1]}]"#;
        assert_eq!(&values.array()[..], array);
        let texts: Vec<_> = values.texts().map(String::from_utf8_lossy).collect();
        let expected = [r#""acme""#, r#""x, \"y\"""#, "1.5", r#"{"a":true,"z":[1]}"#];
        assert_eq!(texts, expected);
        assert_eq!(KeyValues::of_texts(&expected), values);
        let none = KeyValues::of_texts(&[]);
        assert_eq!((&none.array()[..], none.texts().len()), (&b"[]"[..], 0));
        assert_eq!(none, KeyValues::default());
    }

    #[test]
    fn a_field_that_is_not_there_or_null_is_missing() {
        let document = document(r#"{"a":null}"#);
        for (path, tenant) in [("a", Some("acme")), ("b", Some("acme")), ("tenant", None)] {
            let tenant = tenant.map(|name| Tenant::new(name).unwrap());
            let refused =
                KeyValues::read(&fields(&[path]), &document, tenant.as_ref()).unwrap_err();
            assert_eq!(refused.code, "missing_key");
            assert!(
                refused.message.contains(&format!("`{path}`")),
                "{}",
                refused.message
            );
        }
    }
}
