//! How deep a VRL program is nested, from its text: the compiler recurses as deep, and would overflow the stack. It also takes many
//! times as long for each level.

/// The deepest nesting of a program: brackets within brackets, and operators of one chain.
pub(crate) const MOST_LEVELS: usize = 128;

/// What is known of the inside of a bracket, or of the outermost level.
#[derive(Clone, Copy, Default)]
struct Level {
    /// Operators since the expression began: each may stand within the one before it.
    chain: usize,
    /// Those of them that assign: they go on after a comma (`.a, .err = .b, .err = …`).
    assigns: usize,
    /// A line has ended after what may be the end of an expression.
    line_end: bool,
}

/// Where a program gets deeper than [`MOST_LEVELS`]. Never later than the compiler would; what is in quotes or a comment does
/// not count.
pub(crate) fn too_deep(program: &str) -> Option<usize> {
    let bytes = program.as_bytes();
    let mut outer: Vec<Level> = Vec::new();
    // Brackets and chains of all outer levels.
    let mut above = 0;
    let mut level = Level::default();
    let mut after_operator = false;
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let start = at;
        at += 1;
        match byte {
            b'\n' => level.line_end |= !after_operator,
            b' ' | b'\t' | b'\r' => {}
            b'#' => at = end(bytes, at, |b| b == b'\n'),
            b';' => level = Level::default(),
            b',' => {
                level.chain = level.assigns;
                after_operator = true;
            }
            b'"' => {
                at = quoted(bytes, at, b'"');
                level = begun(level);
                after_operator = false;
            }
            b'(' | b'[' | b'{' => {
                level = begun(level);
                above += level.chain + 1;
                outer.push(level);
                level = Level::default();
                after_operator = false;
            }
            b')' | b']' | b'}' => {
                level = outer.pop().unwrap_or_default();
                above = above.saturating_sub(level.chain + 1);
                after_operator = false;
            }
            _ if operator(*byte) => {
                at = end(bytes, at, |b| !operator(b));
                let run = &bytes[start..at];
                if run == b"->" {
                    at = variables(bytes, at);
                }
                level.line_end = false;
                level.chain += memchr::memchr_iter(b'!', run).count().max(1);
                level.assigns += usize::from(matches!(run, b"=" | b"|="));
                after_operator = true;
            }
            _ if word(*byte) => {
                at = end(bytes, at, |b| !word(b));
                after_operator = false;
                match &bytes[start..at] {
                    b"else" => {
                        level.line_end = false;
                        level.chain += 1;
                    }
                    b"abort" | b"return" => {
                        level = begun(level);
                        level.chain += 1;
                    }
                    found => {
                        level = begun(level);
                        if matches!(found, b"s" | b"r" | b"t") && bytes.get(at) == Some(&b'\'') {
                            at = quoted(bytes, at + 1, b'\'');
                        }
                    }
                }
            }
            _ => {
                level = begun(level);
                after_operator = false;
            }
        }
        if above + level.chain > MOST_LEVELS {
            return Some(start);
        }
    }
    None
}

/// The level after the start of a token: a line that ended before it ended the expression.
fn begun(level: Level) -> Level {
    if level.line_end {
        Level::default()
    } else {
        level
    }
}

fn operator(byte: u8) -> bool {
    matches!(
        byte,
        b'!' | b'&' | b'*' | b'+' | b'-' | b'/' | b'<' | b'=' | b'>' | b'?' | b'|'
    )
}

fn word(byte: u8) -> bool {
    matches!(byte, b'@' | b'_' | b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9')
}

/// The first position from `at` on with such a byte, or else the end.
fn end(bytes: &[u8], at: usize, stop: impl Fn(u8) -> bool) -> usize {
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().position(|b| stop(*b)).unwrap_or(rest.len())
}

/// The position after the closing quote.
fn quoted(bytes: &[u8], mut at: usize, quote: u8) -> usize {
    loop {
        at = end(bytes, at, |b| b == quote || b == b'\\');
        match bytes.get(at) {
            Some(b'\\') => at += 2,
            _ => return at + 1,
        }
    }
}

/// The position after the variables of a closure (`|key, value|`), whose comma and bars are no operators.
fn variables(bytes: &[u8], at: usize) -> usize {
    let bar = end(bytes, at, |b| !b.is_ascii_whitespace());
    if bytes.get(bar) == Some(&b'|') && bytes.get(bar + 1) != Some(&b'|') {
        return end(bytes, bar + 1, |b| b == b'|') + 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `count` times one text, something, and `count` times another.
    fn around(before: &str, count: usize, inner: &str, after: &str) -> String {
        [&before.repeat(count), inner, &after.repeat(count)].concat()
    }

    #[test]
    fn what_nests_is_counted() {
        for (before, inner, after) in [
            ("(", "1", ")"),
            ("[", "1", "]"),
            ("{\n", "1", "\n}"),
            ("{\"a\": ", "1", "}"),
            ("f(", "1", ")"),
            ("!", "true", ""),
            ("", "1", " + 1"),
            ("", "1", " +\n  1"),
            ("", ".a", " ?? .a"),
            (".a = ", "1", ""),
            (".a, .b = ", "1", ""),
            ("abort ", "\"x\"", ""),
            ("if true { 1 } else ", "{ 1 }", ""),
            ("if true {\n  1\n}\nelse ", "{ 1 }", ""),
            ("f(.a) -> |k, v| {", "1", "}"),
            ("1 + f(.a) -> |k, v| {", "1", "}"),
            ("# (\n(\"]\" + s')\\'' + r'\\)' + ", "1", ")"),
        ] {
            let deep = around(before, MOST_LEVELS + 1, inner, after);
            assert!(too_deep(&deep).is_some(), "{before:?} {inner} {after:?}");
            let flat = around(before, 10, inner, after);
            assert_eq!(too_deep(&flat), None, "{before:?} {inner} {after:?}");
        }
        assert_eq!(too_deep(&around("(", 500, "1", ")")), Some(MOST_LEVELS));
    }

    #[test]
    fn what_stands_beside_is_not() {
        for part in [
            ".a = -1 + .b * 2\n",
            ".a = 1; ",
            ".a, .err = to_int(.b) # (((\n",
            "if !exists(.a) && .b != 1 {\n  .c = \"((((\" + s'[[' + r'[(]\\''\n} else {\n  .d = 1\n}\n",
            "%key = .a\n",
            ".a = map_values(.b) -> |v| { v + 1 }\n",
            ".a =\n  .b ||\n  .c\n",
        ] {
            let long = part.repeat(500);
            assert_eq!(too_deep(&long), None, "{part}");
        }
        let items = "{ \"a\": .x + 1, \"b\": f(.y, z: -1) },\n".repeat(500);
        assert_eq!(too_deep(&format!(".a = [\n{items}]")), None);
    }
}
