//! Items that could not be compared, with the reason; they count neither as equal nor as different.

use std::collections::BTreeMap;

use serde::Serialize;

/// Kinds of items that could not be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Gap {
    /// Partitions whose older records have expired.
    Partitions,
    /// Lines of records that have expired.
    Lines,
    /// Rows of the table whose record has expired.
    Rows,
    /// Rows that a snapshot of the producer passed during this run.
    PassedRows,
    /// Rows of PostgreSQL whose record has expired.
    PostgresRows,
    /// Keys whose last record is parked for PostgreSQL.
    Parked,
    /// Rows of the table that the producer could not carry.
    Refused,
    /// Rows that differ from the topic, while the producer has not published every transaction.
    Unpublished,
}

impl Gap {
    fn what(self) -> &'static str {
        match self {
            Self::Partitions => "partitions that no longer begin at offset 0",
            Self::Lines => "lines of expired records",
            Self::Rows => "rows of the table whose last record has expired",
            Self::PassedRows => "rows of the table that a snapshot passed meanwhile",
            Self::PostgresRows => "rows of PostgreSQL whose last record has expired",
            Self::Parked => "keys that are parked for PostgreSQL",
            Self::Refused => "rows of the table that a record can't carry",
            Self::Unpublished => "rows that differ from the topic so far",
        }
    }

    fn why(self) -> &'static str {
        match self {
            Self::Partitions => "their older records have expired, so nothing tells whether each of these is in a log",
            Self::Lines | Self::Rows | Self::PostgresRows => "the topic tells nothing of them",
            Self::Parked => "PostgreSQL refused their last record, and has an older row of them or none",
            Self::Refused => "their dead letters have this state, and the topic has an older one or none",
            Self::Unpublished => "the producer has not published all transactions, and these may be among them",
            Self::PassedRows => "the topic does not have each of their changes",
        }
    }
}

/// One kind with its number, as it is printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct NotCompared {
    pub(crate) what: &'static str,
    pub(crate) count: u64,
    pub(crate) why: &'static str,
}

/// Numbers by kind.
#[derive(Debug, Default)]
pub(crate) struct Gaps(BTreeMap<Gap, u64>);

impl Gaps {
    /// Adds `count` of a kind.
    pub(crate) fn add(&mut self, gap: Gap, count: u64) {
        if count > 0 {
            *self.0.entry(gap).or_default() += count;
        }
    }

    /// Adds those of a pass.
    pub(crate) fn add_all(&mut self, other: &Self) {
        other.0.iter().for_each(|(gap, count)| self.add(*gap, *count));
    }

    pub(crate) fn count(&self, gap: Gap) -> u64 {
        self.0.get(&gap).copied().unwrap_or(0)
    }

    /// Each kind with a number above zero.
    pub(crate) fn list(&self) -> Vec<NotCompared> {
        self.0.iter().map(|(gap, count)| NotCompared { what: gap.what(), count: *count, why: gap.why() }).collect()
    }
}
