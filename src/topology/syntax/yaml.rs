//! YAML as a tree whose nodes keep their positions in the file, so that errors can be shown there.

use std::{collections::HashMap, ops::Range};

use granit_parser::{Event, Parser, ScalarStyle};

/// A value and its position.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// Bytes of the file.
    pub(crate) span: Range<usize>,
    pub(crate) kind: Kind,
    /// The tag without its `!`, such as `record`.
    pub(crate) tag: Option<String>,
}

/// A value.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Null,
    Bool(bool),
    /// As written, and as JSON has it.
    Number(String, serde_json::Number),
    Text(Text),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
}

/// A text, and the position of each part of it in the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Text {
    pub(crate) value: String,
    /// Starts of runs: offset in the value, offset in the file. Empty where the value cannot be mapped to the file.
    runs: Vec<(usize, usize)>,
    /// The range of the whole scalar.
    span: Range<usize>,
}

impl Text {
    /// A text that is a whole file.
    pub(crate) fn of_file(value: String) -> Self {
        Self {
            runs: vec![(0, 0)],
            span: 0..value.len(),
            value,
        }
    }

    /// The range in the file of a part of the value, or of the whole if that is not known.
    pub(crate) fn place(&self, part: Range<usize>) -> Range<usize> {
        let at = |offset: usize| {
            let run = self.runs.partition_point(|(value, _)| *value <= offset);
            let (value, file) = self.runs.get(run.checked_sub(1)?)?;
            Some(file + (offset - value))
        };
        let start = part.start.min(self.value.len());
        let end = part.end.clamp(start, self.value.len());
        match (at(start), at(end)) {
            (Some(start), Some(end)) => start..end.max(start),
            _ => self.span.clone(),
        }
    }
}

impl Node {
    pub(crate) fn text(&self) -> Option<&Text> {
        match &self.kind {
            Kind::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Its kind, for people.
    pub(crate) fn what(&self) -> &'static str {
        match self.kind {
            Kind::Null => "nothing",
            Kind::Bool(_) => "true or false",
            Kind::Number(..) => "a number",
            Kind::Text(_) => "text",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a mapping",
        }
    }

    /// As JSON. Keys that are no text are written as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        use serde_json::Value;
        match &self.kind {
            Kind::Null => Value::Null,
            Kind::Bool(b) => Value::Bool(*b),
            Kind::Number(_, n) => Value::Number(n.clone()),
            Kind::Text(text) => Value::String(text.value.clone()),
            Kind::List(items) => Value::Array(items.iter().map(Self::json).collect()),
            Kind::Map(entries) => Value::Object(
                entries
                    .iter()
                    .map(|(key, value)| (key.key(), value.json()))
                    .collect(),
            ),
        }
    }

    /// As the key of a mapping.
    pub(crate) fn key(&self) -> String {
        match &self.kind {
            Kind::Text(text) => text.value.clone(),
            Kind::Number(written, _) => written.clone(),
            _ => self.json().to_string(),
        }
    }
}

/// Why a file is not valid YAML, and where.
#[derive(Debug)]
pub(crate) struct NoYaml {
    pub(crate) span: Range<usize>,
    pub(crate) message: String,
}

/// Nodes that aliases may multiply to: a file of a few lines must not become gigabytes.
const MOST_NODES: usize = 100_000;

/// The one document of a file; an empty file is `Null`.
pub(crate) fn parse(text: &str) -> Result<Node, NoYaml> {
    let mut builder = Builder {
        text,
        anchors: HashMap::new(),
        nodes: 0,
    };
    let mut events = Parser::new_from_str(text);
    let mut root = None;
    while let Some(next) = events.next() {
        let (event, span) = next.map_err(|e| {
            let at = e.marker().byte_offset().unwrap_or_default();
            NoYaml {
                span: at..at,
                message: e.info(),
            }
        })?;
        let span = bytes(&span);
        match event {
            Event::DocumentStart(..) if root.is_some() => {
                return Err(NoYaml {
                    span,
                    message: "a second document; a file holds one".into(),
                });
            }
            Event::Scalar(..)
            | Event::SequenceStart(..)
            | Event::MappingStart(..)
            | Event::Alias(_) => root = Some(builder.node(&mut events, event, span)?),
            _ => {}
        }
    }
    Ok(root.unwrap_or(Node {
        span: 0..0,
        kind: Kind::Null,
        tag: None,
    }))
}

fn bytes(span: &granit_parser::Span) -> Range<usize> {
    let start = span.start.byte_offset().unwrap_or_default();
    start..span.end.byte_offset().unwrap_or(start).max(start)
}

struct Builder<'t> {
    text: &'t str,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

impl<'t> Builder<'t> {
    fn node(
        &mut self,
        events: &mut Parser<'t, granit_parser::StrInput<'t>>,
        event: Event<'t>,
        span: Range<usize>,
    ) -> Result<Node, NoYaml> {
        self.nodes += 1;
        self.bounded(&span)?;
        let tag = event.tag().map(|tag| tag.suffix().to_owned());
        let (anchor, node) = match event {
            Event::Scalar(value, style, anchor, _) => (anchor, self.scalar(&value, style, span)),
            Event::SequenceStart(_, anchor, _) => {
                let mut items = Vec::new();
                let mut end = span.end;
                while let Some((event, span)) = self.next(events)? {
                    if matches!(event, Event::SequenceEnd) {
                        end = end.max(span.end);
                        break;
                    }
                    items.push(self.node(events, event, span)?);
                }
                let end = items
                    .last()
                    .map_or(end, |last: &Node| end.max(last.span.end));
                (anchor, (span.start..end, Kind::List(items)))
            }
            Event::MappingStart(_, anchor, _) => {
                let mut entries = Vec::new();
                let mut end = span.end;
                while let Some((event, key_span)) = self.next(events)? {
                    if matches!(event, Event::MappingEnd) {
                        end = end.max(key_span.end);
                        break;
                    }
                    let key = self.node(events, event, key_span)?;
                    let Some((event, value_span)) = self.next(events)? else {
                        break;
                    };
                    let value = self.node(events, event, value_span)?;
                    end = end.max(value.span.end);
                    entries.push((key, value));
                }
                (anchor, (span.start..end, Kind::Map(entries)))
            }
            Event::Alias(id) => {
                let mut copy = self.anchors.get(&id).cloned().ok_or_else(|| NoYaml {
                    span: span.clone(),
                    message: "an alias of something that contains it".into(),
                })?;
                self.nodes += count(&copy);
                self.bounded(&span)?;
                copy.span = span;
                return Ok(copy);
            }
            _ => {
                return Err(NoYaml {
                    span,
                    message: "a value is missing here".into(),
                });
            }
        };
        let (span, kind) = node;
        let node = Node { span, kind, tag };
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn bounded(&self, span: &Range<usize>) -> Result<(), NoYaml> {
        if self.nodes <= MOST_NODES {
            return Ok(());
        }
        Err(NoYaml {
            span: span.clone(),
            message: format!("more than {MOST_NODES} values"),
        })
    }

    /// The next event that is not a comment.
    fn next(
        &self,
        events: &mut Parser<'t, granit_parser::StrInput<'t>>,
    ) -> Result<Option<(Event<'t>, Range<usize>)>, NoYaml> {
        for next in events {
            let (event, span) = next.map_err(|e| {
                let at = e.marker().byte_offset().unwrap_or(self.text.len());
                NoYaml {
                    span: at..at,
                    message: e.info(),
                }
            })?;
            if !matches!(event, Event::Comment(..)) {
                return Ok(Some((event, bytes(&span))));
            }
        }
        Ok(None)
    }

    fn scalar(&self, value: &str, style: ScalarStyle, span: Range<usize>) -> (Range<usize>, Kind) {
        if style == ScalarStyle::Plain
            && let Some(kind) = plain(value)
        {
            return (span, kind);
        }
        let runs = match style {
            ScalarStyle::Literal => literal_runs(self.text, value, &span),
            _ => self.text[span.clone()]
                .find(value)
                .map(|at| vec![(0, span.start + at)])
                .unwrap_or_default(),
        };
        let text = Text {
            value: value.to_owned(),
            runs,
            span: span.clone(),
        };
        (span, Kind::Text(text))
    }
}

fn count(node: &Node) -> usize {
    1 + match &node.kind {
        Kind::List(items) => items.iter().map(count).sum(),
        Kind::Map(entries) => entries.iter().map(|(k, v)| count(k) + count(v)).sum(),
        _ => 0,
    }
}

/// A plain scalar that is not text, by YAML's core schema. Numbers that JSON cannot hold are text.
fn plain(value: &str) -> Option<Kind> {
    Some(match value {
        "" | "~" | "null" | "Null" | "NULL" => Kind::Null,
        "true" | "True" | "TRUE" => Kind::Bool(true),
        "false" | "False" | "FALSE" => Kind::Bool(false),
        _ => {
            let first = value.trim_start_matches(['-', '+']).bytes().next()?;
            if !first.is_ascii_digit() && first != b'.' {
                return None;
            }
            let number = value.strip_prefix('+').unwrap_or(value);
            let parsed = number.parse::<i64>().map(Into::into).ok();
            let parsed = parsed.or_else(|| number.parse::<u64>().map(Into::into).ok());
            let parsed = parsed.or_else(|| {
                let float = number.parse::<f64>().ok()?;
                serde_json::Number::from_f64(float)
            })?;
            Kind::Number(value.to_owned(), parsed)
        }
    })
}

/// Each line of a `|` block is in the file as a whole, after its indentation.
fn literal_runs(file: &str, value: &str, span: &Range<usize>) -> Vec<(usize, usize)> {
    // The span begins at the `|`, or somewhere before or in the first line that is not blank.
    let line_start = file[..span.start]
        .rfind('\n')
        .map_or(0, |newline| newline + 1);
    let mut at = if file[line_start..span.start].trim().is_empty() {
        line_start
    } else {
        let newline = file[span.start..].find('\n');
        newline.map_or(file.len(), |newline| span.start + newline + 1)
    };
    let blank = |line: &&str| line.trim().is_empty();
    // Blank lines lead in the value as well, but the span may have passed over them.
    for line in file[at..].split_inclusive('\n').take_while(blank) {
        at += line.len();
    }
    let leading: usize = value
        .split_inclusive('\n')
        .take_while(blank)
        .map(str::len)
        .sum();
    let first = file[at..].lines().next().unwrap_or_default();
    let wanted = value[leading..].lines().next().unwrap_or_default();
    let Some(indent) = first.find(wanted).filter(|_| !wanted.is_empty()) else {
        return Vec::new();
    };
    let mut runs = Vec::new();
    let mut offset = leading;
    for line in value[leading..].split_inclusive('\n') {
        let raw = file[at..].split_inclusive('\n').next().unwrap_or_default();
        let text = raw.trim_end_matches(['\n', '\r']).len();
        runs.push((offset, at + indent.min(text)));
        offset += line.len();
        at += raw.len();
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry<'a>(node: &'a Node, name: &str) -> &'a Node {
        let Kind::Map(entries) = &node.kind else {
            panic!("{node:?}");
        };
        &entries.iter().find(|(key, _)| key.key() == name).unwrap().1
    }

    #[test]
    fn every_part_of_a_text_is_found_in_its_file() {
        let file = "a: plain one\nb: 'quoted one'\nc: |\n\n    first ünd\n      second\n\n    third\nd: |2\n   x\n  y\ne: \"esc\\\"aped\"\nf: [1, -2.5, ~, yes, 0x1, \"1\"]\n- g\n";
        let file = file.trim_end_matches("- g\n");
        let root = parse(file).unwrap();
        for (name, words) in [
            ("a", &["plain", "one"][..]),
            ("b", &["quoted", "one"]),
            ("c", &["first", "ünd", "second", "third"]),
            ("d", &["x", "y"]),
        ] {
            let text = entry(&root, name).text().unwrap();
            for word in words {
                let at = text.value.find(word).unwrap();
                assert_eq!(&file[text.place(at..at + word.len())], *word, "{name}");
            }
        }
        let escaped = entry(&root, "e").text().unwrap();
        assert_eq!(escaped.value, "esc\"aped");
        assert!(file[escaped.place(1..2)].contains("esc"));
        let list = entry(&root, "f").json();
        assert_eq!(list, serde_json::json!([1, -2.5, null, "yes", "0x1", "1"]));
    }

    #[test]
    fn aliases_copy_and_are_bounded() {
        let root = parse("a: &x {b: 1}\nc: *x\n").unwrap();
        assert_eq!(entry(&root, "c").json(), serde_json::json!({"b": 1}));
        let mut bomb = vec!["a0: &a0 [1,1,1,1,1,1,1,1,1,1]".to_owned()];
        for n in 1..7 {
            let before = vec![format!("*a{}", n - 1); 10].join(",");
            bomb.push(format!("a{n}: &a{n} [{before}]"));
        }
        let bomb = bomb.join("\n");
        assert!(parse(&bomb).unwrap_err().message.contains("more than"));
        assert!(parse("a: [1").is_err());
        assert!(parse("a: 1\n---\nb: 2\n").is_err());
        assert!(matches!(parse("# nothing\n").unwrap().kind, Kind::Null));
    }
}
