//! What commands print: results on standard output, everything else on standard error. Control and invisible characters in
//! records are escaped, so that they cannot steer the terminal ([`crate::base::printable`]).

use std::{
    borrow::Cow,
    io::{IsTerminal, Write},
};

use serde::Serialize;
use serde_json::Value;

use crate::base::printable::{printable, printable_coloured, printable_line};

/// Prints a line on standard output. A closed pipe (`| head`) is not an error.
pub(super) fn line(text: &str) {
    let _ = writeln!(std::io::stdout(), "{}", printable(text));
}

/// Like [`line`], for text that may contain colours ([`colours`]).
pub(super) fn coloured_line(text: &str) {
    let _ = writeln!(std::io::stdout(), "{}", printable_coloured(text));
}

/// Whether standard output is a terminal.
pub(super) fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Whether standard output shows colours.
pub(super) fn colours() -> bool {
    is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Prints a note on standard error.
pub(super) fn note(text: &str) {
    crate::telemetry::print_note(text);
}

/// Prints JSON, one document a line. Invisible characters are escaped, which leaves the JSON equivalent.
pub(super) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(&serde_json::to_string(value)?);
    Ok(())
}

/// An error and its causes on one line.
pub(super) fn in_one_line(error: &anyhow::Error) -> String {
    causes(error).join(": ")
}

/// The texts of an error and its causes, without causes whose text the previous one contains, as most errors do.
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

/// Minimum width of a column that is cut to fit, in characters.
const MIN_WIDTH: usize = 8;

/// Prints rows under a heading, in columns. On a terminal that is too narrow the widest columns are cut, except the first:
/// its names are arguments of other commands.
pub(super) fn table(heading: &[&str], rows: &[Vec<String>]) {
    for text in layout(heading, rows, terminal_width()) {
        line(&text);
    }
}

/// Prints a page of a list as the port returns it, and the cursor of the next page.
pub(super) fn page(response: &Value, heading: &[&str], row: impl Fn(&Value) -> Vec<String>) {
    let items = response["items"].as_array().into_iter().flatten();
    let rows: Vec<_> = items.map(row).collect();
    table(heading, &rows);
    if let Some(cursor) = response["next_cursor"].as_str() {
        note(&format!("more follow: --cursor {cursor}"));
    }
}

/// Like [`table`], but cuts nothing.
pub(super) fn list(heading: &[&str], rows: &[Vec<String>]) {
    for text in layout(heading, rows, None) {
        line(&text);
    }
}

/// Cuts a line to the width of the terminal; unchanged if standard output is not one.
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

/// The width of the terminal in columns, if standard output is one.
fn terminal_width() -> Option<usize> {
    terminal_size().map(|(columns, _)| columns)
}

/// The columns and rows of the terminal, if standard output is one.
pub(super) fn terminal_size() -> Option<(usize, usize)> {
    let stdout = std::io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(stdout).ok()?;
    let size = (usize::from(size.ws_col), usize::from(size.ws_row));
    Some(size).filter(|(columns, _)| *columns > 0)
}

/// The lines of a table; `max_width` in columns.
fn layout(heading: &[&str], rows: &[Vec<String>], max_width: Option<usize>) -> Vec<String> {
    // A line end in a record must not break the row.
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
    if let Some(columns) = max_width {
        let room = columns.saturating_sub(gaps);
        while widths.iter().sum::<usize>() > room
            && let Some(widest) = widths.iter_mut().skip(1).max().filter(|w| **w > MIN_WIDTH)
        {
            *widest -= 1;
        }
    }
    let padded_line = |cells: &mut dyn Iterator<Item = &str>| {
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
    let heading = padded_line(&mut heading.iter().copied());
    let rows = rows
        .iter()
        .map(|row| padded_line(&mut row.iter().map(|cell| &**cell)));
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
        let whole = layout(&["NAME", "MESSAGE"], &rows, None);
        assert_eq!(whole[1], "1:2    a long text with a line end in it");
        let cut = layout(&["NAME", "MESSAGE"], &rows, Some(20));
        assert!(cut.iter().all(|line| line.chars().count() <= 20), "{cut:?}");
        assert!(cut[1].ends_with('…') && cut[2].ends_with("short"));
    }

    #[test]
    fn columns_are_as_wide_as_what_is_shown() {
        let rows = vec![
            vec!["a\u{202e}b".into(), "x".into()],
            vec!["\x1b[2J".into(), "y".into()],
        ];
        let lines = layout(&["NAME", "M"], &rows, None);
        assert_eq!(lines[1], "a\\u202eb   x");
        assert_eq!(lines[2], "\\u001b[2J  y");
    }
}
