//! Errors and warnings about files, each shown with its line and a caret.

use std::{
    borrow::Cow,
    fmt::Write,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Serialize;

use crate::event_schemas::Fault;

/// A file that was read.
#[derive(PartialEq, Eq, Debug)]
pub struct SourceFile {
    /// Its name, as shown.
    pub name: String,
    /// Its contents.
    pub text: String,
}

impl SourceFile {
    /// Line and column (in characters), both from 1.
    fn line_column(&self, at: usize) -> (usize, usize) {
        let at = self.text.floor_char_boundary(at.min(self.text.len()));
        let before = &self.text[..at];
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.matches('\n').count() + 1;
        (line, before[start..].chars().count() + 1)
    }

    fn line(&self, number: usize) -> &str {
        self.text.lines().nth(number - 1).unwrap_or_default()
    }
}

/// Error or warning.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// The file can be used, but may not do what its author meant.
    Warning,
}

/// An error or a warning.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// The file that it is in.
    pub file: Arc<SourceFile>,
    /// The bytes of the file that it is about.
    pub span: Range<usize>,
    /// Error or warning.
    pub severity: Severity,
    /// What is wrong, for people.
    pub message: String,
    /// What to do about it.
    pub notes: Vec<String>,
}

/// A problem as JSON.
#[derive(Serialize)]
pub struct Shown<'a> {
    file: &'a str,
    line: usize,
    column: usize,
    severity: Severity,
    message: &'a str,
    notes: &'a [String],
}

impl Problem {
    /// The problem with its file, line and column.
    pub fn shown(&self) -> Shown<'_> {
        let (line, column) = self.file.line_column(self.span.start);
        Shown {
            file: &self.file.name,
            line,
            column,
            severity: self.severity,
            message: &self.message,
            notes: &self.notes,
        }
    }

    /// `file:LINE:COLUMN: error: …`, the line, and carets under the bytes that it is about.
    pub fn render(&self, colour: bool) -> String {
        let (line, column) = self.file.line_column(self.span.start);
        let (bold, red, blue, off) = if colour {
            let red = match self.severity {
                Severity::Error => "\x1b[1;31m",
                Severity::Warning => "\x1b[1;33m",
            };
            ("\x1b[1m", red, "\x1b[1;34m", "\x1b[0m")
        } else {
            ("", "", "", "")
        };
        let label = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let text = without_secrets(self.file.line(line));
        let number = line.to_string();
        let margin = " ".repeat(number.len());
        // Tabs stay tabs, so that the caret is under its text.
        let pad: String = text
            .chars()
            .take(column - 1)
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        let meant = self.file.text.get(self.span.clone()).unwrap_or_default();
        let meant = meant.lines().next().unwrap_or_default().trim_end();
        let carets = "^".repeat(meant.chars().count().max(1));
        let mut out = format!(
            "{bold}{}:{line}:{column}: {red}{label}:{off}{bold} {}{off}\n",
            self.file.name, self.message
        );
        // A `String` never refuses text.
        let _ = writeln!(out, "{blue}{margin} |{off}");
        let _ = writeln!(out, "{blue}{number} |{off} {text}");
        let _ = writeln!(out, "{blue}{margin} |{off} {pad}{red}{carets}{off}");
        for note in &self.notes {
            let _ = writeln!(out, "{blue}{margin} ={off} {note}");
        }
        out
    }
}

/// Collects the problems of one file.
pub(crate) struct Problems {
    file: Arc<SourceFile>,
    pub(crate) found: Vec<Problem>,
}

impl Problems {
    pub(crate) fn of(file: Arc<SourceFile>) -> Self {
        Self {
            file,
            found: Vec::new(),
        }
    }

    /// The path of a file that this file names: relative paths start at its folder.
    pub(crate) fn beside(&self, path: &str) -> PathBuf {
        let folder = Path::new(&self.file.name).parent();
        folder.unwrap_or(Path::new("")).join(path)
    }

    /// Adds an error, and returns it so that a note can be added.
    pub(crate) fn error(
        &mut self,
        span: &Range<usize>,
        message: impl Into<String>,
    ) -> &mut Problem {
        self.add(span, Severity::Error, message.into())
    }

    pub(crate) fn warning(
        &mut self,
        span: &Range<usize>,
        message: impl Into<String>,
    ) -> &mut Problem {
        self.add(span, Severity::Warning, message.into())
    }

    fn add(&mut self, span: &Range<usize>, severity: Severity, message: String) -> &mut Problem {
        self.found.push(Problem {
            file: Arc::clone(&self.file),
            span: span.clone(),
            severity,
            message,
            notes: Vec::new(),
        });
        let last = self.found.len() - 1;
        &mut self.found[last]
    }
}

impl Problem {
    pub(crate) fn note(&mut self, note: impl Into<String>) -> &mut Self {
        self.notes.push(note.into());
        self
    }
}

impl From<Fault> for Problem {
    /// An error in a schema file.
    fn from(fault: Fault) -> Self {
        Self {
            file: Arc::new(SourceFile {
                name: fault.file.display().to_string(),
                text: fault.text.to_string(),
            }),
            span: fault.span,
            severity: Severity::Error,
            message: fault.message,
            notes: fault.note.into_iter().collect(),
        }
    }
}

/// A line in which the value of each `secret` is masked, unless it is a reference: excerpts are kept in the logs of builds.
fn without_secrets(line: &str) -> Cow<'_, str> {
    const FIELD: &str = "secret";
    let mut shown = Cow::Borrowed(line);
    let mut from = 0;
    while let Some(found) = line[from..].find(FIELD) {
        from += found + FIELD.len();
        let rest = line[from..].trim_start_matches(['"', '\'']).trim_start();
        let Some(value) = rest.strip_prefix(':') else {
            continue;
        };
        let value = value.trim_start();
        let value = value.strip_prefix(['"', '\'']).unwrap_or(value);
        let start = line.len() - value.len();
        let end = value.find(['"', '\'', ',', '}', ' ', '#']);
        let value = &value[..end.unwrap_or(value.len())];
        if value.starts_with("env:") || value.starts_with("file:") {
            continue;
        }
        // A mask of as many bytes: positions in the line stay as they are.
        shown
            .to_mut()
            .replace_range(start..start + value.len(), &"*".repeat(value.len()));
    }
    shown
}

/// Sorts problems by file and position, and removes duplicates.
pub(crate) fn sort(problems: &mut Vec<Problem>) {
    problems.sort_by(|a, b| {
        (&a.file.name, a.span.start, &a.message).cmp(&(&b.file.name, b.span.start, &b.message))
    });
    problems.dedup();
}

/// Whether any of them is an error, so that the files cannot be used.
pub fn has_errors(problems: &[Problem]) -> bool {
    problems.iter().any(|p| p.severity == Severity::Error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpts_show_no_secrets() {
        for (line, shown) in [
            (
                "worker: { http: { secret: hunter2, url: x } }",
                "worker: { http: { secret: *******, url: x } }",
            ),
            (r#"{"secret":"hunter2"}"#, r#"{"secret":"*******"}"#),
            ("  secret: whsec_a+b/c=", "  secret: ************"),
            ("secret: env:PAY_SECRET", "secret: env:PAY_SECRET"),
            ("secret: 'file:pay.secret'", "secret: 'file:pay.secret'"),
            (
                "description: a secret, told to nobody",
                "description: a secret, told to nobody",
            ),
            ("secret:", "secret:"),
        ] {
            assert_eq!(without_secrets(line), shown);
        }
    }
}
