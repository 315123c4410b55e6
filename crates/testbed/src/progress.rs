//! Shows the progress of everything that takes longer than a second: spinners on a terminal, plain lines otherwise.
//!
//! All progress goes to stderr; stdout has only results.

use std::io::IsTerminal;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Reports the present action of a step.
pub type Say<'a> = &'a dyn Fn(&str);

/// A running step. When it is dropped without [`Step::done`], its spinner vanishes, as the error is shown.
pub struct Step {
    name: String,
    started: Instant,
    bar: Option<ProgressBar>,
}

fn terminal() -> Option<&'static MultiProgress> {
    static BARS: OnceLock<Option<MultiProgress>> = OnceLock::new();
    BARS.get_or_init(|| std::io::stderr().is_terminal().then(MultiProgress::new)).as_ref()
}

/// Shows the step `name` with its present action.
pub fn step(name: impl Into<String>, doing: &str) -> Step {
    let name = name.into();
    let bar = terminal().map(|bars| {
        let bar = bars.add(ProgressBar::new_spinner());
        let style = ProgressStyle::with_template("  {spinner} {prefix:12} {msg} ({elapsed})");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.set_prefix(name.clone());
        bar.enable_steady_tick(Duration::from_millis(120));
        bar
    });
    let step = Step { name, started: Instant::now(), bar };
    step.say(doing);
    step
}

/// Prints a separate line between the spinners.
pub fn note(line: &str) {
    match terminal() {
        Some(bars) => bars.suspend(|| eprintln!("{line}")),
        None => eprintln!("{line}"),
    }
}

impl Step {
    /// Shows the present action.
    pub fn say(&self, doing: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(doing.to_owned()),
            None => eprintln!("  … {:12} {doing}", self.name),
        }
    }

    /// Changes the message of a spinner; plain output does not show it.
    pub fn tick(&self, doing: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(doing.to_owned());
        }
    }

    /// Ends the step with a permanent line.
    pub fn done(self, result: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        note(&format!("  ✓ {:12} {result} ({:.1} s)", self.name, self.started.elapsed().as_secs_f64()));
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
