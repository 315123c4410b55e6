//! Shows the progress of a long step in one line on a terminal; shows nothing elsewhere.

use std::io::{IsTerminal as _, Write as _, stderr};
use std::time::{Duration, Instant};

/// Shows a counter or a text on standard error while it lives.
pub(crate) struct Status {
    label: String,
    what: &'static str,
    count: u64,
    shown: Option<Instant>,
    on_terminal: bool,
}

impl Status {
    /// For a step that counts items named `what`; `label` is shown before them.
    pub(crate) fn new(label: &str, what: &'static str) -> Self {
        Self { label: label.to_owned(), what, count: 0, shown: None, on_terminal: stderr().is_terminal() }
    }

    /// Counts one.
    pub(crate) fn one_more(&mut self) {
        self.count += 1;
        if self.on_terminal && self.count.is_multiple_of(10_000) {
            self.show(&format!("{}{} {}", self.label, self.count, self.what));
        }
    }

    /// Shows a text, ten times a second at most.
    pub(crate) fn show(&mut self, text: &str) {
        if !self.on_terminal || self.shown.is_some_and(|t| t.elapsed() < Duration::from_millis(100)) {
            return;
        }
        self.shown = Some(Instant::now());
        // A closed terminal is no reason to stop.
        drop(write!(stderr(), "\r\x1b[K{text}"));
    }
}

impl Drop for Status {
    fn drop(&mut self) {
        if self.shown.is_some() {
            drop(write!(stderr(), "\r\x1b[K"));
        }
    }
}
