//! One line on the error output that says how far a run is; nothing where nobody looks.

use std::io::{self, IsTerminal, Write};

/// Columns of the bar.
const WIDTH: usize = 30;

/// The line of one run.
#[derive(Debug)]
pub struct Progress {
    is_seen: bool,
    /// Tenths of a percent that were said last.
    said: usize,
}

impl Progress {
    /// A line, when the error output is a terminal.
    pub fn new() -> Self {
        Self {
            is_seen: io::stderr().is_terminal(),
            said: usize::MAX,
        }
    }

    /// Says what share is done, from 0 to 1, and what is worth knowing.
    pub fn say(&mut self, share: f64, what: &str) {
        let done = (share.clamp(0.0, 1.0) * 1000.0) as usize;
        if self.is_seen && done != self.said {
            self.said = done;
            // A terminal that is gone misses nothing.
            let _ = write!(io::stderr(), "\r{}\x1b[K", line(share, what));
        }
    }

    /// Says how many of all there are by now.
    pub fn count(&mut self, count: u64, all: u64, what: &str) {
        let share = count as f64 / all.max(1) as f64;
        self.say(share, &format!("{count} of {all} {what}"));
    }

    /// Wipes the line.
    pub fn end(&self) {
        if self.is_seen {
            // As above.
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

fn line(share: f64, what: &str) -> String {
    let share = share.clamp(0.0, 1.0);
    let full = (share * WIDTH as f64).round() as usize;
    let (full_part, rest) = ("#".repeat(full), ".".repeat(WIDTH - full));
    format!("[{full_part}{rest}] {:>3.0} % {what}", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_as_much_bar_as_is_done() {
        let text = line(0.5, "7 frames/s");
        assert_eq!(text, "[###############...............]  50 % 7 frames/s");
        assert!(line(2.0, "").starts_with(&format!("[{}] 100 %", "#".repeat(WIDTH))));
        assert!(line(-1.0, "").starts_with("[."));
    }
}
