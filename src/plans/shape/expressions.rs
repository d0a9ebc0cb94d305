//! Expressions in the texts of plans, as far as shapes need them: where they are, and which steps and slots they refer to.

use super::super::expression;

/// A piece of a text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Piece<'t> {
    /// Outside expressions.
    Literal(&'t str),
    /// Between the braces of an expression.
    Expression(&'t str),
}

/// The pieces of a text. An expression that is never closed is literal text.
pub(super) fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("{{") {
        let inside = &rest[start + 2..];
        let Some(end) = expression::end(inside) else {
            break;
        };
        if start > 0 {
            pieces.push(Piece::Literal(&rest[..start]));
        }
        pieces.push(Piece::Expression(&inside[..end]));
        rest = &inside[end + 2..];
    }
    if !rest.is_empty() {
        pieces.push(Piece::Literal(rest));
    }
    pieces
}

/// A token of an expression.
#[derive(Clone, Copy)]
struct Lexeme<'t> {
    text: &'t str,
    /// A name or a number.
    is_word: bool,
}

impl<'t> Lexeme<'t> {
    /// The text in quotes.
    fn quoted(self) -> Option<&'t str> {
        let quote = self
            .text
            .chars()
            .next()
            .filter(|c| matches!(c, '"' | '\''))?;
        self.text.strip_prefix(quote)?.strip_suffix(quote)
    }
}

fn lexemes(expression: &str) -> Vec<Lexeme<'_>> {
    let mut lexemes = Vec::new();
    let mut rest = expression.trim_start();
    while let Some(first) = rest.chars().next() {
        let of_word = |c: char| c.is_alphanumeric() || c == '_';
        let is_word = of_word(first);
        let length = if matches!(first, '"' | '\'') {
            let mut escaped = false;
            let end = rest[1..].find(|c| {
                let ends = c == first && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            end.map_or(rest.len(), |end| end + 2)
        } else if is_word {
            rest.find(|c| !of_word(c)).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        let (text, after) = rest.split_at(length);
        lexemes.push(Lexeme { text, is_word });
        rest = after.trim_start();
    }
    lexemes
}

/// A reference of an expression.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reference<'t> {
    /// `steps.ID`
    Step(&'t str),
    /// `slots.NAME`, and the member of its value: `slots.AMOUNT_1.value`.
    Slot(&'t str, Option<&'t str>),
}

/// The reference at a lexeme, and behind which lexeme its name ends.
fn reference<'t>(lexemes: &[Lexeme<'t>], at: usize) -> Option<(Reference<'t>, usize)> {
    let root = lexemes[at].text;
    let is_attribute = at > 0 && matches!(lexemes[at - 1].text, "." | "|");
    if is_attribute || !matches!(root, "steps" | "slots") {
        return None;
    }
    let (name, end) = attribute(lexemes, at + 1)?;
    let reference = if root == "steps" {
        Reference::Step(name)
    } else {
        Reference::Slot(name, attribute(lexemes, end).map(|(member, _)| member))
    };
    Some((reference, end))
}

/// `.name` or `["name"]`
fn attribute<'t>(lexemes: &[Lexeme<'t>], at: usize) -> Option<(&'t str, usize)> {
    let text = |n: usize| lexemes.get(at + n).map(|lexeme| lexeme.text);
    match text(0)? {
        "." => {
            let name = lexemes.get(at + 1).filter(|lexeme| lexeme.is_word)?;
            Some((name.text, at + 2))
        }
        "[" if text(2) == Some("]") => Some((lexemes[at + 1].quoted()?, at + 3)),
        _ => None,
    }
}

/// Visits the references of an expression.
pub(super) fn visit<'t>(expression: &'t str, mut visit: impl FnMut(Reference<'t>)) {
    let lexemes = lexemes(expression);
    for at in 0..lexemes.len() {
        if let Some((reference, _)) = reference(&lexemes, at) {
            visit(reference);
        }
    }
}

/// The expression in one form: without spaces that mean nothing, with other names of steps, and with the numbered names of slots
/// (`slots.DATE_1`).
pub(super) fn renamed(expression: &str, step: &dyn Fn(&str) -> Option<String>) -> String {
    let lexemes = lexemes(expression);
    let mut renamed = String::with_capacity(expression.len());
    let mut at = 0;
    let mut after_word = false;
    while at < lexemes.len() {
        let Lexeme { text, is_word } = lexemes[at];
        if is_word && after_word {
            renamed.push(' ');
        }
        let found = reference(&lexemes, at);
        let other = found.and_then(|(reference, end)| {
            let name = match reference {
                Reference::Step(id) => step(id)?,
                Reference::Slot(name, _) => numbered(name),
            };
            Some((name, end))
        });
        renamed.push_str(text);
        at += 1;
        after_word = is_word;
        if let Some((name, end)) = other {
            renamed.push('.');
            renamed.push_str(&name);
            at = end;
        }
    }
    renamed
}

/// The name of a slot with its number.
pub(super) fn numbered(name: &str) -> String {
    if name.contains('_') {
        name.to_owned()
    } else {
        format!("{name}_1")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_found_and_renamed() {
        let step = |id: &str| (id == "a").then(|| "s1".to_owned());
        for (expression, expected) in [
            ("steps.a.output.x", "steps.s1.output.x"),
            (" steps [ 'a' ] . output ", "steps.s1.output"),
            ("steps.b.output", "steps.b.output"),
            ("'steps.a' ~ steps.a.output", "'steps.a'~steps.s1.output"),
            ("params.steps.a", "params.steps.a"),
            (
                "slots.DATE if slots['DATE_2'] is defined else none",
                "slots.DATE_1 if slots.DATE_2 is defined else none",
            ),
            ("1 + 2", "1+2"),
            ("steps", "steps"),
            ("steps.", "steps."),
            ("steps['a", "steps['a"),
        ] {
            assert_eq!(renamed(expression, &step), expected, "{expression}");
        }
        let mut found = Vec::new();
        visit("slots.AMOUNT.value|int + slots.DATE_1", |reference| {
            found.push(reference);
        });
        let expected = [
            Reference::Slot("AMOUNT", Some("value")),
            Reference::Slot("DATE_1", None),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn texts_are_split() {
        let found = pieces("a {{ b }} c {{ '}}' }}{{ d");
        let expected = [
            Piece::Literal("a "),
            Piece::Expression(" b "),
            Piece::Literal(" c "),
            Piece::Expression(" '}}' "),
            Piece::Literal("{{ d"),
        ];
        assert_eq!(found, expected);
    }
}
