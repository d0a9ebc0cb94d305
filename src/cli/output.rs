//! What commands print: results on standard output, everything else on standard error. Whatever a record says, it does not steer the
//! terminal, and nothing in it goes unseen ([`crate::base::printable`]).

use std::{
    borrow::Cow,
    io::{IsTerminal, Write},
};

use serde::Serialize;
use serde_json::Value;

use crate::base::printable::{printable, printable_coloured, printable_line};

/// Prints a line on standard output. A reader that went away (`| head`) is no error.
pub(super) fn line(text: &str) {
    let _ = writeln!(std::io::stdout(), "{}", printable(text));
}

/// As [`line`], with colours in it if [`colours`] says so.
pub(super) fn coloured_line(text: &str) {
    let _ = writeln!(std::io::stdout(), "{}", printable_coloured(text));
}

/// Whether standard output shows colours.
pub(super) fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Prints a note on standard error.
pub(super) fn note(text: &str) {
    crate::telemetry::print_note(text);
}

/// Prints JSON, a document a line. What is not seen is escaped: the same JSON.
pub(super) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(&serde_json::to_string(value)?);
    Ok(())
}

/// An error and its causes on one line.
pub(super) fn in_one_line(error: &anyhow::Error) -> String {
    causes(error).join(": ")
}

/// The texts of an error and its causes, without those that the one before repeats: most errors end with their cause's text.
fn causes(error: &anyhow::Error) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if texts.last().is_none_or(|before| !before.contains(&text)) {
            texts.push(text);
        }
    }
    texts
}

/// Prints an error and its causes.
pub(super) fn error(error: &anyhow::Error) {
    let label = if std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        "\x1b[1;31merror:\x1b[0m"
    } else {
        "error:"
    };
    let text = causes(error).join("\n  because ");
    let _ = writeln!(std::io::stderr(), "{label} {}", printable(&text));
}

/// A column is never made narrower than this.
const NARROWEST: usize = 8;

/// Prints rows under a heading, in columns. On a terminal that is too narrow, the widest cells are cut; never those of the
/// first column, which is what other commands want to be told.
pub(super) fn table(heading: &[&str], rows: &[Vec<String>]) {
    for line_of in laid_out(heading, rows, terminal_width()) {
        line(&line_of);
    }
}

/// A page of a list, as the port answers it, and where it goes on.
pub(super) fn page(answer: &Value, heading: &[&str], row: impl Fn(&Value) -> Vec<String>) {
    let items = answer["items"].as_array().into_iter().flatten();
    let rows: Vec<_> = items.map(row).collect();
    table(heading, &rows);
    if let Some(cursor) = answer["next_cursor"].as_str() {
        note(&format!("there are more: --cursor {cursor}"));
    }
}

/// As [`table`], with the last column as long as it is: for what must be read whole.
pub(super) fn list(heading: &[&str], rows: &[Vec<String>]) {
    for line_of in laid_out(heading, rows, None) {
        line(&line_of);
    }
}

/// A line as the terminal has room for; elsewhere all of it.
pub(super) fn fit(text: &str) -> String {
    let text = printable_line(text);
    match terminal_width() {
        Some(width) if text.chars().count() > width => {
            let cut: String = text.chars().take(width.saturating_sub(1)).collect();
            format!("{cut}…")
        }
        _ => text.into_owned(),
    }
}

/// The columns of the terminal that is written to, if it is one.
fn terminal_width() -> Option<usize> {
    let stdout = std::io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(stdout).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

fn laid_out(heading: &[&str], rows: &[Vec<String>], fit: Option<usize>) -> Vec<String> {
    // Whatever a record says, a row is one line.
    let rows = rows.iter().map(|row| {
        let cells = row.iter().map(|cell| printable_line(cell));
        cells.collect()
    });
    let rows: Vec<Vec<Cow<'_, str>>> = rows.collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells
            .map(|cell| cell.chars().count())
            .chain([heading[column].len()])
            .max()
            .unwrap_or(0)
    };
    let mut widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let gaps = 2 * heading.len().saturating_sub(1);
    if let Some(columns) = fit {
        let room = columns.saturating_sub(gaps);
        while widths.iter().sum::<usize>() > room
            && let Some(widest) = widths.iter_mut().skip(1).max().filter(|w| **w > NARROWEST)
        {
            *widest -= 1;
        }
    }
    let laid = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells
            .zip(&widths)
            .map(|(cell, width)| {
                if cell.chars().count() > *width {
                    let cut: String = cell.chars().take(width - 1).collect();
                    return format!("{cut}…");
                }
                format!("{cell:width$}")
            })
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    let heading = laid(&mut heading.iter().copied());
    let rows = rows
        .iter()
        .map(|row| laid(&mut row.iter().map(|cell| &**cell)));
    std::iter::once(heading).chain(rows).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let disk = std::io::Error::other("no space left");
        let error =
            anyhow::Error::from(crate::state::StateError::from(disk)).context("cannot start");
        let text = "cannot start: a file of the store in the data directory: no space left";
        assert_eq!(in_one_line(&error), text);
    }

    #[test]
    fn a_table_fits_the_terminal() {
        let rows = vec![
            vec!["1:2".into(), "a long text with a\nline end in it".into()],
            vec!["10:20".into(), "short".into()],
        ];
        let whole = laid_out(&["NAME", "MESSAGE"], &rows, None);
        assert_eq!(whole[1], "1:2    a long text with a line end in it");
        let cut = laid_out(&["NAME", "MESSAGE"], &rows, Some(20));
        assert!(cut.iter().all(|line| line.chars().count() <= 20), "{cut:?}");
        assert!(cut[1].ends_with('…') && cut[2].ends_with("short"));
    }

    #[test]
    fn columns_are_as_wide_as_what_is_shown() {
        let rows = vec![
            vec!["a\u{202e}b".into(), "x".into()],
            vec!["\x1b[2J".into(), "y".into()],
        ];
        let lines = laid_out(&["NAME", "M"], &rows, None);
        assert_eq!(lines[1], "a\\u202eb   x");
        assert_eq!(lines[2], "\\u001b[2J  y");
    }
}
