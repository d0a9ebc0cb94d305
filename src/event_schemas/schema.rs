//! One compiled schema.

use std::{collections::BTreeSet, ops::Range, path::Path, sync::Arc};

use jsonschema::{
    Draft, PatternOptions, ReferencingError, ValidationError, Validator, error::ValidationErrorKind,
};
use percent_encoding::percent_decode_str;
use serde_json::Value;

use super::{
    documents::{DRAFT, Documents, Retriever, is_other_draft, uri},
    fault::Fault,
    place, references,
};
use crate::envelope::canonical_hash;

/// The most bytes of one compiled pattern, and of what it remembers while it matches.
const PATTERN_BYTES: usize = 1 << 20;
/// The most errors of one kind that are searched for in a file.
const MOST_FAULTS: usize = 20;
/// With a schema that refers to itself the search for the place may take time exponential in the depth of the data: beyond this depth
/// it is left out.
const RECURSIVE_DEPTH: usize = 8;
/// The most bytes of a pointer, and of a reason, in a message.
const SHOWN: usize = 256;

/// A compiled schema.
#[derive(Debug)]
pub struct Schema {
    /// The name of its file.
    name: String,
    validator: Validator,
    /// Whether it refers to itself.
    recursive: bool,
    accepts_all: bool,
    /// Its own text, and those of the files that it refers to.
    texts: Vec<Arc<str>>,
}

/// Where a value does not fit its schema, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The JSON pointer within the value; `None`: the place was not searched.
    pointer: Option<String>,
    reason: String,
}

impl Violation {
    /// It is about the whole value.
    pub fn whole(reason: &str) -> Self {
        Self {
            pointer: Some(String::new()),
            reason: reason.to_owned(),
        }
    }

    /// The message: `under` is the pointer to the value itself, such as `/data`; `schema` names the schema.
    pub fn message(&self, under: &str, schema: &str) -> String {
        let reason = cut(&self.reason);
        match self.pointer.as_deref().map(cut) {
            Some(pointer) if under.is_empty() && pointer.is_empty() => {
                format!("the value does not fit the schema `{schema}`: {reason}")
            }
            Some(pointer) => {
                format!("`{under}{pointer}` does not fit the schema `{schema}`: {reason}")
            }
            None => format!(
                "`{under}` does not fit the schema `{schema}`: {reason} (it nests deeper than {RECURSIVE_DEPTH}, so the place was not searched)"
            ),
        }
    }
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(SHOWN)]
}

impl Schema {
    /// Reads and compiles a file. References may lead to files in its folder and below. The error has all that is wrong.
    pub fn load(file: &Path) -> Result<Self, Vec<Fault>> {
        let name = file.file_name().map(|name| name.to_string_lossy());
        let folder = file.parent().unwrap_or(Path::new(""));
        let folder = if folder.as_os_str().is_empty() {
            Path::new(".")
        } else {
            folder
        };
        let documents = Documents::new(folder);
        let schema = Self::compile(&documents, &name.unwrap_or_default());
        schema.map_err(|mut faults| {
            for fault in &mut faults {
                // As it was given: without the `./`.
                file.clone_into(&mut fault.file);
            }
            faults
        })
    }

    /// Compiles a file of a folder.
    pub(super) fn compile(documents: &Arc<Documents>, name: &str) -> Result<Self, Vec<Fault>> {
        let mut file = File {
            documents,
            name,
            text: "".into(),
            faults: Vec::new(),
        };
        match file.compile() {
            Some((validator, schema)) if file.faults.is_empty() => Ok(Self {
                name: name.to_owned(),
                validator,
                recursive: references::may_recurse(&schema),
                accepts_all: accepts_all(&schema),
                // More than it refers to, if other schemas of the folder were read before.
                texts: documents.contents().into_values().collect(),
            }),
            _ => {
                // References are followed in no certain order.
                file.faults
                    .sort_by(|a, b| (a.span.start, &a.message).cmp(&(b.span.start, &b.message)));
                Err(file.faults)
            }
        }
    }

    /// The name of its file, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is the same as another: its own text, and those of all files that were read for it.
    pub fn is_same(&self, other: &Self) -> bool {
        self.name == other.name && self.texts == other.texts
    }

    /// Whether any value fits it, so that no value at all does too.
    pub fn accepts_all(&self) -> bool {
        self.accepts_all
    }

    /// Checks JSON text, which is parsed here. Numbers are compared as 64-bit integers or floats.
    pub fn check(&self, text: &str) -> Result<(), Violation> {
        match serde_json::from_str(text) {
            Ok(value) => self.check_value(&value),
            // It is valid JSON: what the parser refuses is a number beyond the range of floats, or the deepest nesting of all.
            Err(error) => Err(Violation::whole(&format!("it cannot be checked: {error}"))),
        }
    }

    fn check_value(&self, value: &Value) -> Result<(), Violation> {
        // It remembers the results of references, so its time is bounded by the sizes of schema and value.
        if self.validator.is_valid(value) {
            return Ok(());
        }
        if self.recursive && depth(value) > RECURSIVE_DEPTH {
            return Err(Violation {
                pointer: None,
                reason: "a value in it does not fit".to_owned(),
            });
        }
        match self.validator.validate(value) {
            // Values are left out of the message: it is kept with dead letters, and the pointer says where they are.
            Err(error) => Err(Violation {
                pointer: Some(error.instance_path().as_str().to_owned()),
                reason: error.masked().to_string(),
            }),
            Ok(()) => Err(Violation::whole("it does not fit")),
        }
    }
}

fn accepts_all(schema: &Value) -> bool {
    match schema {
        Value::Bool(all) => *all,
        Value::Object(keywords) => keywords.keys().all(|name| {
            matches!(
                name.as_str(),
                "$schema" | "$id" | "$comment" | "title" | "description"
            )
        }),
        _ => false,
    }
}

/// How deep a value nests; a scalar: 0.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// A file that is being compiled.
struct File<'a> {
    documents: &'a Arc<Documents>,
    name: &'a str,
    text: Arc<str>,
    faults: Vec<Fault>,
}

impl File<'_> {
    fn fault(&mut self, span: Range<usize>, message: String, note: Option<&str>) {
        self.faults.push(Fault {
            file: self.documents.path(self.name),
            text: Arc::clone(&self.text),
            span,
            message,
            note: note.map(str::to_owned),
        });
    }

    fn fault_at(&mut self, pointer: &str, message: String, note: Option<&str>) {
        self.fault(place::of_value(&self.text, pointer), message, note);
    }

    fn compile(&mut self) -> Option<(Validator, Value)> {
        match self.documents.text(self.name) {
            Ok(text) => self.text = text,
            Err(error) => {
                self.fault(0..0, format!("cannot be read: {error}"), None);
                return None;
            }
        }
        if let Err(error) = canonical_hash(self.text.as_bytes()) {
            let at = error.at();
            self.fault(at..at, error.to_string(), None);
            return None;
        }
        let schema: Value = match serde_json::from_str(&self.text) {
            Ok(schema) => schema,
            Err(error) => {
                self.fault(0..0, error.to_string(), None);
                return None;
            }
        };
        if is_other_draft(&schema) {
            let message = "only JSON Schema 2020-12 is supported".to_owned();
            self.fault_at(
                "/$schema",
                message,
                Some(&format!("`$schema` is `{DRAFT}`, or left out")),
            );
            return None;
        }
        let meta = jsonschema::draft202012::meta::validator();
        // Each vocabulary of the meta-schema finds some of them again.
        let errors = meta.iter_errors(&schema);
        let errors = errors.map(|error| (error.instance_path().to_string(), error.to_string()));
        let errors: BTreeSet<(String, String)> = errors.take(8 * MOST_FAULTS).collect();
        for (pointer, message) in errors.into_iter().take(MOST_FAULTS) {
            self.fault_at(&pointer, message, None);
        }
        if !self.faults.is_empty() {
            return None;
        }
        self.build(schema)
    }

    /// The compiler stops at the first error: to find all of them, what is wrong is taken out and the rest is compiled again.
    fn build(&mut self, schema: Value) -> Option<(Validator, Value)> {
        let mut rest = schema.clone();
        for _ in 0..MOST_FAULTS {
            let built = jsonschema::options()
                .with_draft(Draft::Draft202012)
                .with_base_uri(uri(self.name))
                .with_retriever(Retriever(Arc::clone(self.documents)))
                .with_pattern_options(
                    // Linear in the text, unlike the default, which backtracks.
                    PatternOptions::regex()
                        .size_limit(PATTERN_BYTES)
                        .dfa_size_limit(PATTERN_BYTES),
                )
                .should_validate_formats(true)
                .should_ignore_unknown_formats(false)
                .build(&rest);
            let error = match built {
                Ok(validator) => return Some((validator, schema)),
                Err(error) => error,
            };
            let (pointer, message) = Self::explain(&rest, &error);
            let note = match error.kind() {
                ValidationErrorKind::Referencing(_) => {
                    Some("references lead to this file, or to files in its folder")
                }
                ValidationErrorKind::Format { .. } if pointer.ends_with("/pattern") => Some(
                    "patterns have no look-around and no back-references, so that matching takes linear time",
                ),
                _ => None,
            };
            self.fault_at(&pointer, message, note);
            if !take_out(&mut rest, &pointer) {
                return None;
            }
        }
        None
    }

    /// The pointer to the keyword that an error of the compiler is about, and the message.
    fn explain(schema: &Value, error: &ValidationError<'_>) -> (String, String) {
        if let ValidationErrorKind::Referencing(why) = error.kind() {
            let message = match why {
                ReferencingError::Unretrievable { source, .. } => source.to_string(),
                why => why.to_string(),
            };
            let references = references::all(schema);
            let meant = references.iter().find(|one| leads_to(one.to, why));
            let pointer = meant.map_or(String::new(), |one| one.pointer.clone());
            return (pointer, message);
        }
        let pointer = error.instance_path().as_str().to_owned();
        let message = match schema.pointer(&pointer) {
            Some(format) if pointer.ends_with("/format") => format!("there is no format {format}"),
            _ => error.to_string(),
        };
        (pointer, message)
    }
}

/// Whether an error is about this reference. The error names where it leads to, not where it is.
fn leads_to(reference: &str, error: &ReferencingError) -> bool {
    let (path, fragment) = reference.split_once('#').unwrap_or((reference, ""));
    match error {
        ReferencingError::Unretrievable { uri, .. } => {
            let path = path.trim_start_matches("./").trim_start_matches("../");
            let uri = uri.split('#').next().unwrap_or(uri);
            let before = uri.strip_suffix(path);
            !path.is_empty()
                && before.is_some_and(|before| before.is_empty() || before.ends_with('/'))
        }
        ReferencingError::PointerToNowhere { pointer }
        | ReferencingError::InvalidPercentEncoding { pointer, .. }
        | ReferencingError::InvalidArrayIndex { pointer, .. } => {
            fragment == pointer || percent_decode_str(fragment).decode_utf8_lossy() == *pointer
        }
        ReferencingError::NoSuchAnchor { anchor } | ReferencingError::InvalidAnchor { anchor } => {
            fragment == anchor
        }
        _ => error.to_string().contains(reference),
    }
}

/// Takes a member out of a schema; `false`: there is none.
fn take_out(schema: &mut Value, pointer: &str) -> bool {
    let Some((parent, name)) = pointer.rsplit_once('/') else {
        return false;
    };
    let name = name.replace("~1", "/").replace("~0", "~");
    schema
        .pointer_mut(parent)
        .and_then(Value::as_object_mut)
        .is_some_and(|members| members.remove(&name).is_some())
}
