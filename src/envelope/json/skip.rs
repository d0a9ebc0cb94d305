//! Skips a value by grammar only, at any depth: this finds the end of an invalid item of a batch.

use super::{JsonError, number::Number, string::special};

/// The end of the value that starts at `at`, without leading white space. Uses one byte of memory per level of nesting.
pub(super) fn skip(text: &str, at: usize) -> Result<usize, JsonError> {
    let bytes = text.as_bytes();
    let mut at = at;
    // The closing brackets of the open arrays and objects.
    let mut open = Vec::new();
    loop {
        // A value starts here.
        at = match bytes.get(at) {
            Some(b'"') => string(bytes, at)?,
            Some(b'-' | b'0'..=b'9') => Number::read(bytes, at)?.end,
            Some(b't') => literal(bytes, at, "true")?,
            Some(b'f') => literal(bytes, at, "false")?,
            Some(b'n') => literal(bytes, at, "null")?,
            Some(b'[') => {
                let inner = spaces(bytes, at + 1);
                if bytes.get(inner) != Some(&b']') {
                    open.push(b']');
                    at = inner;
                    continue;
                }
                inner + 1
            }
            Some(b'{') => {
                let inner = spaces(bytes, at + 1);
                if bytes.get(inner) != Some(&b'}') {
                    open.push(b'}');
                    at = key(bytes, inner)?;
                    continue;
                }
                inner + 1
            }
            _ => return Err(JsonError::syntax(at, "a value")),
        };
        // A value has ended. Close the brackets that end with it, up to the next comma.
        loop {
            let Some(close) = open.last() else {
                return Ok(at);
            };
            at = spaces(bytes, at);
            match bytes.get(at) {
                Some(b) if b == close => {
                    open.pop();
                    at += 1;
                }
                Some(b',') => {
                    let next = spaces(bytes, at + 1);
                    at = if *close == b'}' {
                        key(bytes, next)?
                    } else {
                        next
                    };
                    break;
                }
                _ => return Err(JsonError::syntax(at, "a comma or a closing bracket")),
            }
        }
    }
}

/// The position after white space.
pub(super) fn spaces(bytes: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\r' | b'\t') = bytes.get(at) {
        at += 1;
    }
    at
}

/// The position after `word`.
pub(super) fn literal(bytes: &[u8], at: usize, word: &'static str) -> Result<usize, JsonError> {
    if bytes[at..].starts_with(word.as_bytes()) {
        return Ok(at + word.len());
    }
    Err(JsonError::syntax(at, "a value"))
}

/// The position after a name and its colon.
fn key(bytes: &[u8], at: usize) -> Result<usize, JsonError> {
    if bytes.get(at) != Some(&b'"') {
        return Err(JsonError::syntax(at, "a name in double quotes"));
    }
    let at = spaces(bytes, string(bytes, at)?);
    if bytes.get(at) != Some(&b':') {
        return Err(JsonError::syntax(at, "a colon"));
    }
    Ok(spaces(bytes, at + 1))
}

fn string(bytes: &[u8], at: usize) -> Result<usize, JsonError> {
    let mut at = at + 1;
    loop {
        at = special(bytes, at);
        match bytes.get(at) {
            Some(b'"') => return Ok(at + 1),
            Some(b'\\') => match bytes.get(at + 1) {
                Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => at += 2,
                Some(b'u') => {
                    let digits = bytes.get(at + 2..at + 6);
                    if !digits.is_some_and(|d| d.iter().all(u8::is_ascii_hexdigit)) {
                        return Err(JsonError::syntax(at, "four hexadecimal digits"));
                    }
                    at += 6;
                }
                _ => return Err(JsonError::syntax(at, "an escape")),
            },
            Some(_) => return Err(JsonError::syntax(at, "no bare control character")),
            None => return Err(JsonError::syntax(at, "a closing double quote")),
        }
    }
}
