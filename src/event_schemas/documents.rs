//! The files of a folder that schemas may refer to.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    path::{Component, Path, PathBuf},
    sync::{Arc, OnceLock},
};

use jsonschema::{Retrieve, Uri};
use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::Value;

/// What the URI of a file begins with: its path within the folder follows.
pub(super) const BASE: &str = "event-schemas:///";

/// The largest schema file, in bytes.
pub(super) const MAX_BYTES: u64 = 1 << 20;
/// The most files of a folder and its subfolders.
const MAX_FILES: usize = 1000;
/// The most entries of them: a folder named by mistake, such as `/`, is not searched for long.
const MAX_ENTRIES: usize = 10_000;

/// What stays as it is in a URI's path.
const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'.')
    .remove(b'-')
    .remove(b'_')
    .remove(b'~')
    .remove(b'*');

/// A folder, and what was read of it. A file is read once, so that all schemas see the same contents.
pub(super) struct Documents {
    root: PathBuf,
    read: Mutex<BTreeMap<String, Arc<str>>>,
    /// Files by the `$id` of their schema.
    ids: OnceLock<BTreeMap<String, String>>,
}

/// Why a reference leads nowhere.
#[derive(Debug, thiserror::Error)]
enum NotFound {
    #[error("`{0}` is not in this folder, and references to a network are not followed")]
    Remote(String),
    #[error("`{0}` is outside of the folder")]
    Outside(String),
    #[error("`{name}` cannot be read: {error}")]
    Unreadable { name: String, error: io::Error },
    #[error("`{name}` is not valid JSON: {error}")]
    NotJson {
        name: String,
        error: serde_json::Error,
    },
    #[error("`{0}` is not a valid schema")]
    Invalid(String),
    #[error("`{0}` is not a schema of JSON Schema 2020-12: it has another `$schema`")]
    OtherDraft(String),
}

/// The URI of the meta-schema of 2020-12.
pub(super) const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";

/// Whether a schema says that it is of another version.
pub(super) fn is_other_draft(schema: &Value) -> bool {
    schema
        .get("$schema")
        .is_some_and(|given| given.as_str().map(|uri| uri.trim_end_matches('#')) != Some(DRAFT))
}

/// The URI of a file by its path within the folder.
pub(super) fn uri(name: &str) -> String {
    format!("{BASE}{}", utf8_percent_encode(name, PATH))
}

impl Documents {
    pub(super) fn new(root: &Path) -> Arc<Self> {
        Arc::new(Self {
            root: root.to_owned(),
            read: Mutex::default(),
            ids: OnceLock::new(),
        })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The contents of a file by its path within the folder.
    pub(super) fn text(&self, name: &str) -> io::Result<Arc<str>> {
        if let Some(text) = self.read.lock().get(name) {
            return Ok(Arc::clone(text));
        }
        let mut text = String::new();
        let file = std::fs::File::open(self.path(name))?;
        file.take(MAX_BYTES + 1).read_to_string(&mut text)?;
        if text.len() as u64 > MAX_BYTES {
            let message = format!("it has more than {MAX_BYTES} bytes");
            return Err(io::Error::other(message));
        }
        let text: Arc<str> = text.into();
        self.read.lock().insert(name.to_owned(), Arc::clone(&text));
        Ok(text)
    }

    /// All that was read: path within the folder, and contents.
    pub(super) fn contents(&self) -> BTreeMap<String, Arc<str>> {
        self.read.lock().clone()
    }

    /// The names of the files of the folder and its subfolders that end in `.json`, sorted. Names that begin with a dot are left out.
    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        let mut open = vec![PathBuf::new()];
        let mut entries = 0;
        while let Some(dir) = open.pop() {
            for entry in std::fs::read_dir(self.root.join(&dir))? {
                let entry = entry?;
                entries += 1;
                let Ok(name) = entry.file_name().into_string() else {
                    continue;
                };
                if name.starts_with('.') {
                    continue;
                }
                let path = dir.join(&name);
                if entry.file_type()?.is_dir() {
                    open.push(path);
                } else if Path::new(&name)
                    .extension()
                    .is_some_and(|end| end == "json")
                    && self.root.join(&path).is_file()
                {
                    names.extend(path.to_str().map(str::to_owned));
                }
                if names.len() > MAX_FILES || entries > MAX_ENTRIES {
                    let message = format!(
                        "there are more than {MAX_FILES} schemas, or {MAX_ENTRIES} entries"
                    );
                    return Err(io::Error::other(message));
                }
            }
        }
        names.sort();
        Ok(names)
    }

    /// The file whose schema has this `$id`.
    fn with_id(&self, id: &str) -> Option<&str> {
        let ids = self.ids.get_or_init(|| {
            let mut ids = BTreeMap::new();
            for name in self.names().unwrap_or_default() {
                let schema = self.text(&name).ok();
                let schema: Option<Value> =
                    schema.and_then(|text| serde_json::from_str(&text).ok());
                if let Some(id) = schema.as_ref().and_then(|schema| schema["$id"].as_str()) {
                    ids.insert(id.trim_end_matches('#').to_owned(), name);
                }
            }
            ids
        });
        ids.get(id).map(String::as_str)
    }

    fn find(&self, uri: &str) -> Result<Value, NotFound> {
        let uri = uri.split('#').next().unwrap_or(uri);
        let name = if let Some(path) = uri.strip_prefix(BASE) {
            let name = percent_decode_str(path).decode_utf8_lossy().into_owned();
            let inside = |part: Component<'_>| matches!(part, Component::Normal(_));
            if !Path::new(&name).components().all(inside) {
                return Err(NotFound::Outside(name));
            }
            name
        } else if let Some(name) = self.with_id(uri) {
            name.to_owned()
        } else {
            return Err(NotFound::Remote(uri.to_owned()));
        };
        let text = match self.text(&name) {
            Ok(text) => text,
            Err(error) => return Err(NotFound::Unreadable { name, error }),
        };
        let schema: Value = match serde_json::from_str(&text) {
            Ok(schema) => schema,
            Err(error) => return Err(NotFound::NotJson { name, error }),
        };
        if is_other_draft(&schema) {
            return Err(NotFound::OtherDraft(name));
        }
        if !jsonschema::draft202012::meta::is_valid(&schema) {
            return Err(NotFound::Invalid(name));
        }
        Ok(schema)
    }
}

/// Reads what references lead to.
pub(super) struct Retriever(pub(super) Arc<Documents>);

impl Retrieve for Retriever {
    fn retrieve(
        &self,
        uri: &Uri<String>,
    ) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.0.find(uri.as_str())?)
    }
}
