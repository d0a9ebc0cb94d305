//! Redraws lines on a terminal in place.

use std::io::Write;

use crate::{base::printable::printable_coloured, cli::output};

/// The lines drawn last.
#[derive(Default)]
pub(super) struct Screen {
    drawn: usize,
}

impl Screen {
    /// Replaces the lines drawn last. Lines at the end are left out if they do not fit the terminal.
    pub(super) fn draw(&mut self, lines: &[String], room: usize) {
        let mut out = String::new();
        if self.drawn > 0 {
            // Up to the first line, and clear to the end of the screen.
            out = format!("\x1b[{}A\x1b[J", self.drawn);
        }
        let shown = fitting(lines, room);
        for line in &shown {
            out.push_str(&printable_coloured(line));
            out.push('\n');
        }
        self.drawn = shown.len();
        let mut stdout = std::io::stdout().lock();
        // Ignored: if the terminal is gone, the next event ends the command.
        let _ = stdout.write_all(out.as_bytes());
        let _ = stdout.flush();
    }
}

/// The number of lines that fit the terminal.
pub(super) fn room() -> usize {
    output::terminal_size().map_or(usize::MAX, |(_, rows)| rows.saturating_sub(1).max(2))
}

/// The lines that fit; if some are left out, the last line says how many.
fn fitting(lines: &[String], room: usize) -> Vec<String> {
    if lines.len() <= room {
        return lines.to_vec();
    }
    let kept = room.saturating_sub(1);
    let mut shown = lines[..kept].to_vec();
    shown.push(format!("… {} more", lines.len() - kept));
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_counted() {
        let lines: Vec<String> = (0..5).map(|n| n.to_string()).collect();
        assert_eq!(fitting(&lines, 5), lines);
        assert_eq!(fitting(&lines, 3), ["0", "1", "… 3 more"]);
    }
}
