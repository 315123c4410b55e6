//! What could not be asked: a server that is away, a right that is missing. The rest of the facts is shown all the same.

use model::error::{Class, Code, Error, Result};
use serde::Serialize;

/// A part of the pipeline that gave no answer.
#[derive(Clone, Debug, Serialize)]
pub struct Fault {
    /// Which part: `MySQL`, `Kafka`, `PostgreSQL`, `logs folder`, an address of metrics.
    pub part: String,
    /// The name of the error's code.
    pub error: &'static str,
    /// Whether it refuses the login, a right or the request, which stays so until a person acts; else it is away.
    pub refuses: bool,
    /// Why.
    pub reason: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub what_to_do: Option<String>,
    #[serde(skip)]
    code: Code,
}

impl Fault {
    /// From the error of the part.
    pub fn new(part: impl Into<String>, error: &Error) -> Self {
        Self {
            part: part.into(),
            error: error.code().name(),
            refuses: error.class() == Class::Definite,
            reason: error.to_string(),
            what_to_do: error.remedy().map(str::to_owned),
            code: error.code(),
        }
    }

    /// The word before it on a terminal.
    pub(crate) fn label(&self) -> &'static str {
        if self.refuses { "REFUSED" } else { "AWAY" }
    }

    /// What the part does instead of an answer.
    pub(crate) fn what_it_does(&self) -> &'static str {
        if self.refuses { "refuses" } else { "does not answer" }
    }
}

/// Keeps the answer, or notes why there is none.
pub(crate) fn noted<T>(part: &str, answer: Result<T>, faults: &mut Vec<Fault>) -> Option<T> {
    answer.map_err(|error| faults.push(Fault::new(part, &error))).ok()
}

/// The error with which a command ends that could not ask every part.
///
/// # Errors
/// With the code of the first fault, if there is one.
pub(crate) fn conclude(faults: &[Fault]) -> Result<()> {
    let Some(first) = faults.first() else { return Ok(()) };
    let mut parts: Vec<&str> = faults.iter().map(|fault| fault.part.as_str()).collect();
    parts.dedup();
    Err(Error::new(first.code, format!("not everything could be asked: {}", parts.join(", ")))
        .with_remedy(first.what_to_do.clone().unwrap_or_else(|| "see above".to_owned())))
}
