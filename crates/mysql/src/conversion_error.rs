//! The error of a value that a record cannot carry.

use std::borrow::Cow;

/// Why a value can't be carried, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct ConversionError {
    /// The reason.
    pub reason: String,
    /// An imperative sentence.
    pub remedy: Cow<'static, str>,
    /// The column's type is the cause, so other rows are refused as well.
    pub of_column: bool,
}

impl ConversionError {
    /// With this reason and remedy.
    pub fn new(reason: impl Into<String>, remedy: impl Into<Cow<'static, str>>) -> Self {
        Self { reason: reason.into(), remedy: remedy.into(), of_column: false }
    }

    /// As [`ConversionError::new`], where the column's type is the cause.
    pub fn of_column(reason: impl Into<String>, remedy: impl Into<Cow<'static, str>>) -> Self {
        Self { of_column: true, ..Self::new(reason, remedy) }
    }
}
