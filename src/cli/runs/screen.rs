//! Lines on a terminal that are drawn again in place.

use std::io::Write;

use crate::{base::printable::printable_coloured, cli::output};

/// The lines drawn last.
#[derive(Default)]
pub(super) struct Screen {
    drawn: usize,
}

impl Screen {
    /// Draws these lines in place of the last ones. What the terminal has no room for is left out, at the end.
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
        // A terminal that is gone ends the command with the next event.
        let _ = stdout.write_all(out.as_bytes());
        let _ = stdout.flush();
    }
}

/// How many lines the terminal has room for.
pub(super) fn room() -> usize {
    output::terminal_size().map_or(usize::MAX, |(_, rows)| rows.saturating_sub(1).max(2))
}

/// As many lines as there is room for; the last one says how many are left out.
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
