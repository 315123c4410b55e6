//! Why PostgreSQL does not store a record.

use model::escape;

/// Why PostgreSQL does not store a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoreError {
    pub(crate) sqlstate: String,
    /// The column, if known.
    pub(crate) column: Option<String>,
    /// The server's message, without the details, which may contain values.
    pub(crate) reason: String,
}

impl StoreError {
    pub(super) fn of(error: &tokio_postgres::Error) -> Self {
        let Some(error) = error.as_db_error() else {
            return Self { sqlstate: String::new(), column: None, reason: error.to_string() };
        };
        Self {
            sqlstate: error.code().code().to_owned(),
            column: error.column().map(str::to_owned),
            reason: escape::shown(error.message()).into_owned(),
        }
    }

    /// Whether rows of other keys may have caused it.
    pub(super) fn is_of_constraint(&self) -> bool {
        self.sqlstate.starts_with("23")
    }

    /// The reason, unless a program inside the database wrote it, which may have put values into it.
    pub(crate) fn loggable(&self) -> &str {
        let known = ["22001", "22003", "22021", "22P05", "54000"].contains(&self.sqlstate.as_str());
        if known || self.is_of_constraint() { &self.reason } else { "see the dead letter" }
    }
}
