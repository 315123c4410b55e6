//! The progress display on stderr: a bar on a terminal, else one line per file.

use std::io::{IsTerminal, Write, stderr};

use model::escape;

use crate::outcome::Outcome;

const WIDTH: u64 = 30;

/// The progress of one file, or of random changes.
pub(crate) struct Progress {
    name: String,
    total: u64,
    on_terminal: bool,
}

impl Progress {
    /// `total` has the unit of `done`.
    pub(crate) fn new(name: impl Into<String>, total: u64) -> Self {
        Self { name: name.into(), total: total.max(1), on_terminal: stderr().is_terminal() }
    }

    /// Redraws the bar.
    pub(crate) fn show(&self, done: u64, outcome: &Outcome) {
        if self.on_terminal {
            let done = done.min(self.total);
            let filled = (done * WIDTH / self.total) as usize;
            let bar = format!("{}{}", "█".repeat(filled), "░".repeat(WIDTH as usize - filled));
            self.draw(&format!("{bar} {:3} %  {} rows", done * 100 / self.total, outcome.rows));
        }
    }

    /// Draws the last state.
    pub(crate) fn end(&self, outcome: &Outcome) {
        let changes = outcome.changes();
        let rejected = match outcome.rejected {
            0 => String::new(),
            n => format!(", {n} rejected"),
        };
        self.draw(&format!("{} rows, {changes} changes{rejected}", outcome.rows));
        if self.on_terminal {
            eprintln!();
        }
    }

    fn draw(&self, text: &str) {
        let name = escape::shown(&self.name);
        if self.on_terminal {
            eprint!("\r\x1b[K{name}  {text}");
            // An error of a closed terminal can't be reported.
            let _gone = stderr().flush();
        } else {
            eprintln!("{name}: {text}");
        }
    }
}
