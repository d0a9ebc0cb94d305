//! The folder of event schemas: which file is for which types.

use std::{collections::HashMap, io, path::Path, str::Utf8Error, sync::Arc};

use percent_encoding::percent_decode_str;

use super::{documents::Documents, fault::Fault, schema::Schema};

/// Why the name of a schema file is not a type, or a pattern of types.
#[derive(Debug, thiserror::Error)]
enum NameError {
    #[error("the name is not UTF-8 when percent-decoded")]
    NotUtf8(#[source] Utf8Error),
    #[error("`*` can only be at the end of a type")]
    Wildcard,
    #[error("the name of the file has no type")]
    NoType,
    /// Another file, of this name, is for the same type.
    #[error("`{0}` is for the same type")]
    SameType(String),
}

/// Schemas by the types of the events that they are for.
#[derive(Default)]
pub struct Set {
    exact: HashMap<String, Arc<Schema>>,
    /// By what the type begins with.
    prefixes: HashMap<String, Arc<Schema>>,
    /// The different lengths of the prefixes, the longest first.
    lengths: Vec<usize>,
}

impl Set {
    /// Whether there is no schema.
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.prefixes.is_empty()
    }

    /// How many schemas there are.
    pub fn len(&self) -> usize {
        self.exact.len() + self.prefixes.len()
    }

    /// The schema for a type: that of its exact name, else that of the longest prefix.
    pub fn of(&self, kind: &str) -> Option<&Arc<Schema>> {
        self.exact.get(kind).or_else(|| {
            let prefixes = self.lengths.iter().filter_map(|length| kind.get(..*length));
            let mut found = prefixes.filter_map(|prefix| self.prefixes.get(prefix));
            found.next()
        })
    }
}

/// Reads the schemas of a folder; one that does not exist has none. Files in subfolders are for references alone. The error has all that
/// is wrong with all files.
pub fn load(folder: &Path) -> Result<Set, Vec<Fault>> {
    let documents = Documents::new(folder);
    let names = match documents.names() {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            return Err(vec![Fault {
                file: folder.to_owned(),
                text: "".into(),
                span: 0..0,
                message: format!("cannot be read: {error}"),
                note: None,
            }]);
        }
    };
    let mut set = Set::default();
    let mut faults = Vec::new();
    for name in names {
        let of_type = !name.contains(std::path::MAIN_SEPARATOR);
        let schema = match Schema::compile(&documents, &name) {
            Ok(schema) => Arc::new(schema),
            Err(mut found) => {
                faults.append(&mut found);
                continue;
            }
        };
        if of_type && let Err(error) = set.add(&name, schema) {
            faults.push(Fault {
                file: documents.path(&name),
                text: documents.text(&name).unwrap_or_default(),
                span: 0..0,
                message: error.to_string(),
                note: Some("such as `order.paid.json`, or `order.*.json` for all types that begin with `order.`".into()),
            });
        }
    }
    set.lengths = set.prefixes.keys().map(String::len).collect();
    set.lengths.sort_unstable_by(|a, b| b.cmp(a));
    set.lengths.dedup();
    if faults.is_empty() {
        Ok(set)
    } else {
        Err(faults)
    }
}

impl Set {
    /// Adds a schema by the name of its file. Percent-encoding in a name is decoded, for what file systems do not take (`/` is `%2F`).
    fn add(&mut self, name: &str, schema: Arc<Schema>) -> Result<(), NameError> {
        let stem = name.strip_suffix(".json").unwrap_or(name);
        let decoded = percent_decode_str(stem).decode_utf8();
        let pattern = decoded.map_err(NameError::NotUtf8)?;
        let (map, key) = match pattern.strip_suffix('*') {
            Some(prefix) => (&mut self.prefixes, prefix),
            None => (&mut self.exact, &*pattern),
        };
        if key.contains('*') {
            return Err(NameError::Wildcard);
        }
        if key.is_empty() && !pattern.ends_with('*') {
            return Err(NameError::NoType);
        }
        match map.insert(key.to_owned(), schema) {
            None => Ok(()),
            Some(other) => Err(NameError::SameType(other.name().to_owned())),
        }
    }
}
