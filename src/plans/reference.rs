//! The references of an expression, found in its text: names other than keywords, filters, tests, attributes and keyword
//! arguments, each with the attributes that follow it.

/// A name and its attributes: `steps.pay.output.id` and `steps["pay"].output.id` are both `steps`, `pay`, `output`, `id`. It ends
/// before an attribute that is computed (`params[params.x]`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Reference(pub(super) Vec<String>);

const KEYWORDS: [&str; 13] = [
    "and", "or", "not", "in", "is", "if", "else", "true", "false", "none", "True", "False", "None",
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Token<'t> {
    Name(&'t str),
    Text(&'t str),
    Number,
    Sign(&'t str),
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let in_name = |c: char| c.is_alphanumeric() || c == '_';
        let (token, length) = if first == '"' || first == '\'' {
            let mut escaped = false;
            let end = rest[1..].find(|c| {
                let ends = c == first && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            // An expression that does not compile may have an unclosed quote.
            let end = end.map_or(rest.len(), |end| end + 1);
            (Token::Text(&rest[1..end]), (end + 1).min(rest.len()))
        } else if first.is_ascii_digit() {
            let end = rest.find(|c| !in_name(c) && c != '.').unwrap_or(rest.len());
            (Token::Number, end)
        } else if in_name(first) {
            let end = rest.find(|c| !in_name(c)).unwrap_or(rest.len());
            (Token::Name(&rest[..end]), end)
        } else {
            let double = ["==", "!=", "<=", ">=", "//", "**"];
            let sign = double.iter().find(|sign| rest.starts_with(**sign));
            let length = sign.map_or(first.len_utf8(), |sign| sign.len());
            (Token::Sign(&rest[..length]), length)
        };
        tokens.push(token);
        rest = rest[length..].trim_start();
    }
    tokens
}

/// All references of an expression, which must compile.
pub(super) fn references(expression: &str) -> Vec<Reference> {
    let tokens = tokens(expression);
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let Token::Name(name) = token else {
            continue;
        };
        let before = at.checked_sub(1).map(|before| tokens[before]);
        let not_a_reference = match before {
            // An attribute, a filter, a test: `is defined`, `is not defined`.
            Some(Token::Sign("." | "|") | Token::Name("is")) => true,
            Some(Token::Name("not")) => {
                at.checked_sub(2).map(|before| tokens[before]) == Some(Token::Name("is"))
            }
            // A keyword argument.
            Some(Token::Sign("(" | ",")) => tokens.get(at + 1) == Some(&Token::Sign("=")),
            _ => false,
        };
        if not_a_reference || KEYWORDS.contains(name) {
            continue;
        }
        found.push(Reference(path(name, &tokens[at + 1..])));
    }
    found.sort();
    found.dedup();
    found
}

/// The name of a filter or a test.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Called<'t> {
    /// After `|`.
    Filter(&'t str),
    /// After `is` or `is not`.
    Test(&'t str),
}

/// The filters and tests of an expression, which must compile.
pub(super) fn called(expression: &str) -> Vec<Called<'_>> {
    let tokens = tokens(expression);
    let all = tokens.iter().enumerate().filter_map(|(at, token)| {
        let Token::Name(name) = *token else {
            return None;
        };
        match tokens[..at] {
            [.., Token::Sign("|")] => Some(Called::Filter(name)),
            [.., Token::Name("is"), Token::Name("not")] => Some(Called::Test(name)),
            [.., Token::Name("is")] if name != "not" => Some(Called::Test(name)),
            _ => None,
        }
    });
    all.collect()
}

fn path(name: &str, mut rest: &[Token<'_>]) -> Vec<String> {
    let mut path = vec![name.to_owned()];
    loop {
        rest = match rest {
            [Token::Sign("."), Token::Name(attribute), rest @ ..]
            | [
                Token::Sign("["),
                Token::Text(attribute),
                Token::Sign("]"),
                rest @ ..,
            ] => {
                path.push((*attribute).to_owned());
                rest
            }
            _ => return path,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(expression: &str) -> Vec<String> {
        let all = references(expression).into_iter();
        all.map(|Reference(path)| path.join(".")).collect()
    }

    #[test]
    fn filters_and_tests_are_found() {
        let expected = [
            Called::Filter("default"),
            Called::Test("defined"),
            Called::Filter("upper"),
            Called::Test("none"),
        ];
        let expression =
            "(params.a|default('x|y')) if params.b is defined else params.c | upper is not none";
        assert_eq!(called(expression), expected);
    }

    #[test]
    fn references_are_names_with_their_attributes() {
        for (expression, expected) in [
            ("params.x", vec!["params.x"]),
            ("steps.pay.output.id", vec!["steps.pay.output.id"]),
            ("steps['pay'][\"output\"].id", vec!["steps.pay.output.id"]),
            ("steps[params.x].output", vec!["params.x", "steps"]),
            (
                "steps.a.output[1:params.n]",
                vec!["params.n", "steps.a.output"],
            ),
            (
                "params.x|default(steps.b.output, boolean=true)",
                vec!["params.x", "steps.b.output"],
            ),
            (
                "params.x is not defined and not slots.y",
                vec!["params.x", "slots.y"],
            ),
            (
                "params.x is divisibleby(params.n)",
                vec!["params.n", "params.x"],
            ),
            ("'steps.x' ~ \"a\\\"steps\" ~ 1.5 ~ 2e5", vec![]),
            ("{'a': params.b, params.c: 1}", vec!["params.b", "params.c"]),
            ("params.xs|map(attribute='x')|join(', ')", vec!["params.xs"]),
            (
                "other if params.a == None else none",
                vec!["other", "params.a"],
            ),
            ("(params).x", vec!["params"]),
            ("[steps][0]", vec!["steps"]),
            ("params.not.is", vec!["params.not.is"]),
            ("params . x", vec!["params.x"]),
            ("äh.x", vec!["äh.x"]),
        ] {
            assert_eq!(found(expression), expected, "{expression}");
        }
    }
}
