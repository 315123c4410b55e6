//! The table that is read, and what a statement may do to it.

use std::collections::BTreeSet;

/// The table that is read, and the known facts about it at this place of the binlog.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Its database.
    pub database: &'a str,
    /// Its name.
    pub table: &'a str,
    /// The names of the carried columns.
    pub carried: &'a [String],
    /// The definitions of these columns, in the form of [`mysql::table::ColumnPlan::definition`]; empty when
    /// unknown.
    pub columns: &'a [String],
    /// By place in `carried`, whether the records need the column: a pinned schema or the key has it.
    pub needed: &'a [bool],
    /// Whether each column of the table is carried, also a new one.
    pub takes_all: bool,
    /// Columns that the table no longer has, and of which the topic's records have values.
    pub gone: &'a BTreeSet<String>,
    /// Whether a carried column is computed from others.
    pub is_generated: bool,
    /// The server logs the rows that a foreign key changes.
    pub logs_cascades: bool,
    /// Whether a snapshot reads the table behind this place, so that only a transaction's begin and end matter.
    pub is_read_behind: bool,
    /// Tables, `database.table`, about which the producer asked the server after its binlog had reached this place.
    pub asked: Option<&'a BTreeSet<String>>,
}

/// The effect of a QUERY event on a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Begins a transaction; with XA, its identity.
    Begin(Option<String>),
    /// Commits it.
    Commit,
    /// Rolls it back.
    Rollback,
    /// Commits an XA transaction that was prepared before; the text is its identity.
    XaCommit(String),
    /// Rolls such a transaction back.
    XaRollback(String),
    /// Rolls back to a savepoint: earlier rows of the transaction may be void.
    RollbackToSavepoint,
    /// No effect on the rows of the table.
    None,
    /// The table is created.
    Created,
    /// No value changes, but the columns do.
    Redefined(Redefinition),
    /// Writes to this other table only: database and table. Its triggers may write to our table.
    Writes(String, String),
    /// The rows change, or may change, without row events.
    Unreadable(Reason),
}

/// The carried columns after a statement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redefinition {
    /// Their definitions, as in [`Subject::columns`]; an empty one is unknown.
    pub columns: Vec<String>,
    /// Those that the statement drops, in small letters.
    pub gone: Vec<String>,
}

/// Why the rows change without row events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The cause of the change.
    pub what: String,
    /// True if the rows change for certain; false if they may change.
    pub is_certain: bool,
    /// How to prevent this; empty when that is obvious.
    pub prevent: &'static str,
}

pub(super) fn changes(what: impl Into<String>) -> Effect {
    Effect::Unreadable(Reason { what: what.into(), is_certain: true, prevent: "" })
}

pub(super) fn may_change(what: impl Into<String>) -> Effect {
    Effect::Unreadable(Reason { what: what.into(), is_certain: false, prevent: "" })
}
