//! A JSON scanner that checks (RFC 8259, and what Postgres can store) and hashes a text in one pass.
//!
//! Beyond the grammar it refuses duplicate names (compared unescaped, at every level), lone surrogates, nesting deeper than
//! [`MAX_DEPTH`], numbers that `numeric` cannot store, and numbers that take more than [`MAX_WRITTEN`] bytes together when Postgres writes
//! them out (`1e131071` becomes 131,072 digits). It builds no tree: callers walk the members of the objects that they are interested in,
//! and skip the rest. Memory is bounded by the text: 32 bytes for each name in the open objects, and one buffer for strings with escapes.

mod error;
pub(crate) mod hash;
mod number;
mod size;
mod skip;
mod string;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

pub(super) use self::error::truncated;
pub use self::error::{JsonError, Problem};
use self::{
    number::Number,
    skip::{literal, skip, spaces},
    string::{escape, special},
};
pub(crate) use self::{
    size::{written_size, written_size_at_most},
    string::{put_string, put_utf8},
};

/// The deepest nesting, including the outermost value.
pub const MAX_DEPTH: usize = 128;

/// The most bytes that all numbers of an event may take together, written out without exponents.
pub const MAX_WRITTEN: usize = 1 << 20;

/// Up to this many names of one object are compared one by one to find duplicates; more are sorted.
const LINEAR_SEARCH_MAX: usize = 16;

/// Checks a whole text and returns its canonical hash, which is the same for equal values, however they are written (order of members,
/// white space, escapes, `1` or `10e-1`).
///
/// ```
/// use omnilink::envelope::canonical_hash;
///
/// let hash = canonical_hash(br#"{"a":1,"b":[2.50]}"#);
/// assert_eq!(hash, canonical_hash(br#"{ "b": [25e-1], "\u0061": 1.0 }"#));
/// assert!(canonical_hash(br#"{"a":1,"a":2}"#).is_err());
/// ```
pub fn canonical_hash(text: &[u8]) -> Result<[u8; 16], JsonError> {
    Ok(scan(text, 0)?.to_le_bytes())
}

/// Like [`canonical_hash`], for a text that is nested `depth` levels deep in another.
pub(crate) fn scan(text: &[u8], depth: usize) -> Result<u128, JsonError> {
    let mut scanner = Scanner::new(utf8(text)?);
    scanner.depth = depth;
    scanner.spaces();
    let hash = scanner.value()?;
    scanner.end()?;
    Ok(hash)
}

/// Whether the text is an object with the member `wanted`. Reads as far as the text is valid.
pub(crate) fn has_member(text: &str, wanted: &str) -> bool {
    MemberNames::of(text).any(|(name, _)| name == wanted)
}

/// The text of the member `wanted`, if the text is an object that has it. If there are several, the last wins.
pub(crate) fn member<'a>(text: &'a str, wanted: &str) -> Option<&'a str> {
    let values =
        MemberNames::of(text).filter_map(|(name, value)| (name == wanted).then_some(value));
    let last = values.last()?;
    let end = skip(text, last).ok()?;
    Some(&text[last..end])
}

/// Iterates over the names of an object, and the positions of their values, as far as the text is valid.
struct MemberNames<'a> {
    scanner: Scanner<'a>,
    /// The position of the last member's value.
    value: Option<usize>,
}

impl<'a> MemberNames<'a> {
    fn of(text: &'a str) -> Self {
        let mut scanner = Scanner::bare(text);
        scanner.spaces();
        if !scanner.eat(b'{') {
            scanner.at = text.len();
        }
        let value = None;
        Self { scanner, value }
    }
}

impl<'a> Iterator for MemberNames<'a> {
    type Item = (Cow<'a, str>, usize);

    fn next(&mut self) -> Option<Self::Item> {
        let scanner = &mut self.scanner;
        if let Some(value) = self.value.take() {
            scanner.at = skip(scanner.text, value).ok()?;
            scanner.spaces();
            if !scanner.eat(b',') {
                return None;
            }
        }
        scanner.spaces();
        if scanner.peek() != Some(b'"') {
            return None;
        }
        let name = scanner.text().ok()?;
        scanner.spaces();
        // A name counts even if the text ends after it.
        let value = if scanner.eat(b':') {
            scanner.spaces();
            scanner.at
        } else {
            scanner.text.len()
        };
        self.value = Some(value);
        Some((name, value))
    }
}

/// U+FEFF, which some programs write at the start of UTF-8 text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The bytes without a leading byte order mark, which RFC 8259, section 8.1, allows a parser to ignore.
pub(crate) fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes)
}

/// A whole body as text, without its byte order mark.
pub(crate) fn document(bytes: &[u8]) -> Result<&str, JsonError> {
    utf8(without_mark(bytes))
}

/// The bytes as text.
pub(crate) fn utf8(bytes: &[u8]) -> Result<&str, JsonError> {
    std::str::from_utf8(bytes).map_err(|e| JsonError::new(e.valid_up_to(), Problem::Utf8))
}

struct Name {
    hash: u128,
    at: usize,
}

/// An object that is being read.
pub(crate) struct Members {
    /// The index of its first name on the scanner's stack.
    base: usize,
    hash: hash::Object,
}

/// A value, with its contents if it is a string.
pub(crate) enum Value<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool,
    /// A number, and whether it is written as an integer.
    Number { integer: bool },
    /// A string, unescaped.
    Text(Cow<'a, str>),
    /// An array or an object.
    Compound,
}

/// Scans a text from start to end.
pub(crate) struct Scanner<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    /// The size of the numbers so far, written out, in bytes.
    written: usize,
    /// The names of all open objects.
    names: Vec<Name>,
    /// The content of the last string that had escapes.
    unescaped: String,
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self {
            names: Vec::with_capacity(2 * LINEAR_SEARCH_MAX),
            ..Self::bare(text)
        }
    }

    /// A scanner that reserves no memory for names.
    fn bare(text: &'a str) -> Self {
        Self {
            text,
            at: 0,
            depth: 0,
            written: 0,
            names: Vec::new(),
            unescaped: String::new(),
        }
    }

    /// The position in the text, in bytes.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// Continues at `at` with another event, outside all objects.
    pub(crate) fn restart(&mut self, at: usize) {
        self.at = at;
        self.depth = 0;
        self.written = 0;
        self.names.clear();
    }

    /// The end of the value that starts at `start`, checked by grammar only.
    pub(crate) fn skip_from(&self, start: usize) -> Result<usize, JsonError> {
        skip(self.text, start)
    }

    /// Whether `{"events": […` is next.
    pub(crate) fn at_events(&self) -> bool {
        let bytes = self.text.as_bytes();
        let literal = |at: usize, text: &[u8]| {
            let at = spaces(bytes, at);
            bytes
                .get(at..)
                .is_some_and(|rest| rest.starts_with(text))
                .then_some(at + text.len())
        };
        literal(self.at, b"{")
            .and_then(|at| literal(at, b"\"events\""))
            .and_then(|at| literal(at, b":"))
            .is_some_and(|at| literal(at, b"[").is_some())
    }

    /// The text from `start` to the current position.
    pub(crate) fn since(&self, start: usize) -> &'a str {
        &self.text[start..self.at]
    }

    /// The next byte.
    pub(crate) fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Steps over `byte` if it is next.
    pub(crate) fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// Steps over white space.
    pub(crate) fn spaces(&mut self) {
        // The fast path: most texts have none.
        if self.peek().is_some_and(|b| b <= b' ') {
            self.at = spaces(self.text.as_bytes(), self.at);
        }
    }

    /// Checks that only white space follows.
    pub(crate) fn end(&mut self) -> Result<(), JsonError> {
        self.spaces();
        if self.at < self.text.len() {
            return Err(JsonError::new(self.at, Problem::Trailing));
        }
        Ok(())
    }

    /// A syntax error at the current position.
    pub(crate) fn expected(&self, what: &'static str) -> JsonError {
        JsonError::syntax(self.at, what)
    }

    /// The error that the value at the current position is not `what`.
    pub(crate) fn not(&self, what: &'static str) -> JsonError {
        JsonError::new(self.at, Problem::Kind(what))
    }

    /// Enters the object that starts here.
    pub(crate) fn enter_object(&mut self) -> Result<Members, JsonError> {
        self.enter()?;
        Ok(Members {
            base: self.names.len(),
            hash: hash::Object::default(),
        })
    }

    /// Steps to the next member's name; `false` at the object's end.
    pub(crate) fn next_member(&mut self, members: &Members) -> Result<bool, JsonError> {
        self.spaces();
        let first = self.names.len() == members.base;
        match self.peek() {
            Some(b'}') => {
                self.at += 1;
                return Ok(false);
            }
            Some(b',') if !first => {
                self.at += 1;
                self.spaces();
            }
            _ if first => {}
            _ => return Err(self.expected("a comma or a closing bracket")),
        }
        if self.peek() == Some(b'"') {
            return Ok(true);
        }
        Err(self.expected("a name in double quotes"))
    }

    /// Reads a member's name, up to its value; returns the name and its hash.
    pub(crate) fn name(&mut self, members: &Members) -> Result<(Cow<'a, str>, u128), JsonError> {
        let at = self.at;
        let text = self.text()?;
        let hash = hash::key(text.as_bytes());
        self.record_name(members.base, hash, at)?;
        Ok((text, hash))
    }

    fn name_hash(&mut self, members: &Members) -> Result<u128, JsonError> {
        let at = self.at;
        let plain = self.string()?;
        let hash = hash::key(self.content(plain));
        self.record_name(members.base, hash, at)?;
        Ok(hash)
    }

    /// Adds a member's value to the object's hash.
    pub(crate) fn insert(members: &mut Members, name: u128, value: u128) {
        members.hash.insert(name, value);
    }

    /// Leaves the object after its last member; returns its hash.
    pub(crate) fn leave_object(&mut self, members: &Members) -> Result<u128, JsonError> {
        self.depth -= 1;
        let own = &mut self.names[members.base..];
        if own.len() > LINEAR_SEARCH_MAX {
            own.sort_unstable_by_key(|name| (name.hash, name.at));
            if let Some(pair) = own.windows(2).find(|pair| pair[0].hash == pair[1].hash) {
                let at = pair[1].at;
                return Err(self.duplicate(at));
            }
        }
        self.names.truncate(members.base);
        Ok(members.hash.finish())
    }

    /// Reads any value; returns its hash.
    pub(crate) fn value(&mut self) -> Result<u128, JsonError> {
        let bytes = self.text.as_bytes();
        match self.peek() {
            Some(b'"') => {
                let plain = self.string()?;
                Ok(hash::string(self.content(plain)))
            }
            Some(b'{') => self.object(),
            Some(b'[') => self.array(),
            Some(b'-' | b'0'..=b'9') => Ok(self.number()?.1),
            Some(b't') => {
                self.at = literal(bytes, self.at, "true")?;
                Ok(hash::TRUE)
            }
            Some(b'f') => {
                self.at = literal(bytes, self.at, "false")?;
                Ok(hash::FALSE)
            }
            Some(b'n') => {
                self.at = literal(bytes, self.at, "null")?;
                Ok(hash::NULL)
            }
            _ => Err(self.expected("a value")),
        }
    }

    /// Reads any value; returns its kind, with a string's contents, and its hash.
    pub(crate) fn scalar(&mut self) -> Result<(Value<'a>, u128), JsonError> {
        match self.peek() {
            Some(b'"') => {
                let text = self.text()?;
                let hash = hash::string(text.as_bytes());
                Ok((Value::Text(text), hash))
            }
            Some(b'-' | b'0'..=b'9') => {
                let (integer, hash) = self.number()?;
                Ok((Value::Number { integer }, hash))
            }
            first => {
                let hash = self.value()?;
                let value = match first {
                    Some(b'n') => Value::Null,
                    Some(b't' | b'f') => Value::Bool,
                    _ => Value::Compound,
                };
                Ok((value, hash))
            }
        }
    }

    /// Reads a number; returns whether it is written as an integer, and its hash.
    fn number(&mut self) -> Result<(bool, u128), JsonError> {
        let bytes = self.text.as_bytes();
        let number = Number::read(bytes, self.at)?;
        let (hash, written) = number.measure(bytes)?;
        self.written += written;
        if self.written > MAX_WRITTEN {
            return Err(JsonError::new(self.at, Problem::Numbers));
        }
        self.at = number.end;
        Ok((number.is_plain_integer(), hash))
    }

    /// Reads a string, unescaped.
    fn text(&mut self) -> Result<Cow<'a, str>, JsonError> {
        Ok(match self.string()? {
            Some((start, end)) => Cow::Borrowed(&self.text[start..end]),
            None => Cow::Owned(self.unescaped.clone()),
        })
    }

    fn object(&mut self) -> Result<u128, JsonError> {
        let mut members = self.enter_object()?;
        while self.next_member(&members)? {
            let name = self.name_hash(&members)?;
            let value = self.value()?;
            Self::insert(&mut members, name, value);
        }
        self.leave_object(&members)
    }

    fn array(&mut self) -> Result<u128, JsonError> {
        self.enter()?;
        let mut hash = hash::Array::default();
        self.spaces();
        if !self.eat(b']') {
            loop {
                hash.push(self.value()?);
                self.spaces();
                if self.eat(b']') {
                    break;
                }
                if !self.eat(b',') {
                    return Err(self.expected("a comma or a closing bracket"));
                }
                self.spaces();
            }
        }
        self.depth -= 1;
        Ok(hash.finish())
    }

    /// Steps over an opening bracket.
    fn enter(&mut self) -> Result<(), JsonError> {
        if self.depth == MAX_DEPTH {
            return Err(JsonError::new(self.at, Problem::Depth));
        }
        self.depth += 1;
        self.at += 1;
        Ok(())
    }

    /// Records a name, fails if it is a duplicate, and steps to its value.
    fn record_name(&mut self, base: usize, hash: u128, at: usize) -> Result<(), JsonError> {
        let own = &self.names[base..];
        if own.len() <= LINEAR_SEARCH_MAX && own.iter().any(|name| name.hash == hash) {
            return Err(self.duplicate(at));
        }
        self.names.push(Name { hash, at });
        self.spaces();
        if !self.eat(b':') {
            return Err(self.expected("a colon"));
        }
        self.spaces();
        Ok(())
    }

    #[cold]
    fn duplicate(&mut self, at: usize) -> JsonError {
        self.at = at;
        let name = self.text().map(Cow::into_owned).unwrap_or_default();
        JsonError::new(at, Problem::Duplicate(truncated(&name).to_owned()))
    }

    /// The content of the string that was just read.
    fn content(&self, plain: Option<(usize, usize)>) -> &[u8] {
        match plain {
            Some((start, end)) => &self.text.as_bytes()[start..end],
            None => self.unescaped.as_bytes(),
        }
    }

    /// Reads a string; returns the range of its content, or `None` if it has escapes: then its content is in `unescaped`.
    #[inline]
    fn string(&mut self) -> Result<Option<(usize, usize)>, JsonError> {
        let start = self.at + 1;
        let end = special(self.text.as_bytes(), start);
        if self.text.as_bytes().get(end) == Some(&b'"') {
            self.at = end + 1;
            return Ok(Some((start, end)));
        }
        self.escaped_string(start, end)?;
        Ok(None)
    }

    /// Continues to read a string that has no escapes from `start` to `end`.
    #[cold]
    fn escaped_string(&mut self, mut start: usize, mut end: usize) -> Result<(), JsonError> {
        let bytes = self.text.as_bytes();
        self.unescaped.clear();
        loop {
            self.unescaped.push_str(&self.text[start..end]);
            match bytes.get(end) {
                Some(b'"') => break,
                Some(b'\\') => {}
                Some(_) => return Err(JsonError::syntax(end, "no bare control character")),
                None => return Err(JsonError::syntax(end, "a closing double quote")),
            }
            let (character, next) = escape(bytes, end)?;
            self.unescaped.push(character);
            start = next;
            end = special(bytes, start);
        }
        self.at = end + 1;
        Ok(())
    }
}
