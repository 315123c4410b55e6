//! Checks with a finding and a remedy, shown on one screen, with one exit code.

use model::error::{Class, Code, Error, Result};
use model::escape;
use serde::Serialize;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// As it should be.
    Good,
    /// Neither good nor bad: a consequence of the present state.
    Note,
    /// It works, but a person should know about it.
    Warning,
    /// It can't work in this state.
    Bad,
}

/// One check.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What is checked.
    pub name: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// What was found.
    pub found: String,
    /// What to do; empty when it is good.
    pub remedy: String,
    /// The code of the error that ends a program in this state.
    #[serde(skip)]
    pub code: Code,
}

impl Check {
    /// As it should be.
    pub fn good(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Outcome::Good, found.into(), String::new())
    }

    /// Neither good nor bad: a consequence of the present state.
    pub fn note(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Outcome::Note, found.into(), String::new())
    }

    /// It works, but a person should know about it.
    pub fn warning(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(name, Outcome::Warning, found.into(), remedy.into())
    }

    /// It can't work in this state.
    pub fn bad(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(name, Outcome::Bad, found.into(), remedy.into())
    }

    /// From the error that a check returned.
    pub fn failed(name: &'static str, error: &Error) -> Self {
        Self::bad(name, error.to_string(), error.remedy().unwrap_or_default()).with_code(error.code())
    }

    /// With another code than that for a server's settings.
    #[must_use]
    pub fn with_code(self, code: Code) -> Self {
        Self { code, ..self }
    }

    fn new(name: &'static str, outcome: Outcome, found: String, remedy: String) -> Self {
        Self { name, outcome, found, remedy, code: Code::ServerSettings }
    }
}

/// The check of a definite error, with its code.
///
/// # Errors
/// A transient error is returned and ends the checks; a definite one becomes a bad check.
pub fn definite_or(check: Check, error: Error) -> Result<Check> {
    if error.class() == Class::Transient { Err(error) } else { Ok(check.with_code(error.code())) }
}

/// The bad checks as one error, which names all of them and has the code of the first.
///
/// # Errors
/// Definite when any check is bad.
pub fn require(checks: &[Check]) -> Result<()> {
    let bad: Vec<&Check> = checks.iter().filter(|c| c.outcome == Outcome::Bad).collect();
    let Some(first) = bad.first() else { return Ok(()) };
    let found: Vec<String> = bad.iter().map(|c| format!("{}: {}", c.name, c.found)).collect();
    let remedies: Vec<&str> = bad.iter().map(|c| c.remedy.as_str()).filter(|r| !r.is_empty()).collect();
    Err(Error::new(first.code, found.join("; ")).with_remedy(remedies.join("; ")))
}

/// Prints the checks; to be called once, at the end of the subcommand.
///
/// # Errors
/// Definite when any check is bad, with their number: each is printed with its remedy.
pub fn conclude(checks: &[Check]) -> Result<()> {
    print!("{}", render(checks));
    judge(checks)
}

/// Whether all checks are good enough.
///
/// # Errors
/// Definite when any check is bad, with their number.
pub fn judge(checks: &[Check]) -> Result<()> {
    let bad = checks.iter().filter(|check| check.outcome == Outcome::Bad).count();
    if bad == 0 {
        Ok(())
    } else {
        Err(Error::new(Code::ChecksFailed, format!("{bad} of {} checks failed", checks.len())))
    }
}

/// The checks as lines for a terminal.
pub fn render(checks: &[Check]) -> String {
    let width = checks.iter().map(|c| c.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for check in checks {
        let mark = match check.outcome {
            Outcome::Good => "ok  ",
            Outcome::Note => "note",
            Outcome::Warning => "warn",
            Outcome::Bad => "FAIL",
        };
        text.push_str(&format!("{mark}  {:width$}  {}\n", check.name, escape::shown(&check.found)));
        if !check.remedy.is_empty() {
            text.push_str(&format!("      {:width$}  what to do: {}\n", "", escape::shown(&check.remedy)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_bad_is_named_at_once() {
        let checks = [
            Check::good("log_bin", "ON"),
            Check::bad("binlog_format", "\"MIXED\"", "SET PERSIST binlog_format = ROW"),
            Check::warning("retention", "60 s", "keep them longer"),
            Check::bad("table", "no such table", "create it"),
        ];
        let error = require(&checks).expect_err("two are bad");
        assert_eq!(error.to_string(), "binlog_format: \"MIXED\"; table: no such table");
        assert_eq!(error.remedy(), Some("SET PERSIST binlog_format = ROW; create it"));
        assert!(require(&checks[..1]).is_ok());
        let want = "ok    log_bin        ON\nFAIL  binlog_format  \"MIXED\"\n                     what to do: SET PERSIST binlog_format = ROW\n";
        assert_eq!(render(&checks[..2]), want);
    }
}
