//! The differences that were found: counted by kind, the first few of each kind kept.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::contract::KeyHash;

/// Kinds of differences, in the order of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Check {
    /// The time limit passed before everything had arrived.
    Waiting,
    /// A record that can't be read and has no dead letter.
    Unreadable,
    /// A dead letter of a readable record.
    Parked,
    /// A record in another partition than its key's.
    Partition,
    /// A place of the source that is twice in one epoch.
    Repeated,
    /// Records of a key that are not in the order of the source.
    Order,
    /// A record in no log.
    Lost,
    /// A record in none of the given logs, which a log in another folder may have.
    Elsewhere,
    /// A record more than once in the logs.
    Doubled,
    /// A line that belongs to no record.
    Stranger,
    /// A line that differs from its record's expected line.
    Wrong,
    /// Lines of one partition that are not in the order of offsets.
    LineOrder,
    /// A last line without a newline.
    Torn,
    /// The table differs from the topic.
    Table,
    /// PostgreSQL differs from the table.
    Postgres,
}

impl Check {
    /// For a heading.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Waiting => "not arrived in time",
            Self::Unreadable => "records that can't be read and are no dead letters",
            Self::Parked => "dead letters that can be read",
            Self::Partition => "records in a wrong partition",
            Self::Repeated => "changes more than once in the topic",
            Self::Order => "records out of the source's order",
            Self::Lost => "records in no log",
            Self::Elsewhere => "records in no log of the folders that were given, but perhaps in another folder",
            Self::Doubled => "records more than once in the logs",
            Self::Stranger => "lines of no record",
            Self::Wrong => "lines that differ from their record",
            Self::LineOrder => "lines out of order",
            Self::Torn => "torn lines",
            Self::Table => "table and topic differ",
            Self::Postgres => "PostgreSQL and table differ",
        }
    }
}

/// One difference.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Finding {
    /// Its kind.
    pub(crate) check: Check,
    /// The description of the difference.
    pub(crate) text: String,
    /// The key of the row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
    /// The key of PostgreSQL's row, which is read again for its text.
    #[serde(skip)]
    pub(crate) stored: Option<KeyHash>,
    /// The partition of its record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) partition: Option<i32>,
    /// The offset of its record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) offset: Option<i64>,
    /// The expected state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expected: Option<String>,
    /// The state that was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) found: Option<String>,
}

impl Finding {
    pub(crate) fn new(check: Check, text: impl Into<String>) -> Self {
        Self {
            check,
            text: text.into(),
            key: None,
            stored: None,
            partition: None,
            offset: None,
            expected: None,
            found: None,
        }
    }

    pub(crate) fn key(self, key: impl Into<String>) -> Self {
        Self { key: Some(key.into()), ..self }
    }

    pub(crate) fn stored(self, key: KeyHash) -> Self {
        Self { stored: Some(key), ..self }
    }

    pub(crate) fn at(self, partition: i32, offset: i64) -> Self {
        Self { partition: Some(partition), offset: Some(offset), ..self }
    }

    pub(crate) fn expected(self, text: impl Into<String>) -> Self {
        Self { expected: Some(text.into()), ..self }
    }

    pub(crate) fn found(self, text: impl Into<String>) -> Self {
        Self { found: Some(text.into()), ..self }
    }

    /// The place of the record concerned.
    pub(crate) fn place(&self) -> Option<(i32, i64)> {
        self.partition.zip(self.offset)
    }
}

/// All differences: the counts of all, and the details of the first of each kind.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    counts: BTreeMap<Check, u64>,
    first: BTreeMap<Check, Vec<Finding>>,
}

impl Findings {
    /// How many of each kind to keep.
    pub(crate) const FIRST: usize = 10;

    /// Counts a difference, and keeps it if it is among the first of its kind.
    pub(crate) fn add(&mut self, check: Check, detail: impl FnOnce() -> Finding) {
        *self.counts.entry(check).or_default() += 1;
        let first = self.first.entry(check).or_default();
        if first.len() < Self::FIRST {
            first.push(detail());
        }
    }

    /// Counts differences without their details.
    pub(crate) fn count_further(&mut self, check: Check, count: u64) {
        if count > 0 {
            *self.counts.entry(check).or_default() += count;
        }
    }

    /// Adds those of a pass.
    pub(crate) fn add_all(&mut self, other: Self) {
        for (check, count) in other.counts {
            *self.counts.entry(check).or_default() += count;
        }
        for (check, findings) in other.first {
            let first = self.first.entry(check).or_default();
            first.extend(findings);
            first.truncate(Self::FIRST);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    pub(crate) fn count(&self, check: Check) -> u64 {
        self.counts.get(&check).copied().unwrap_or(0)
    }

    /// Each kind that was found, with its number.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (Check, u64)> {
        self.counts.iter().map(|(check, count)| (*check, *count))
    }

    /// The ones that were kept, by kind.
    pub(crate) fn first(&self) -> impl Iterator<Item = &Finding> {
        self.first.values().flatten()
    }

    pub(crate) fn first_mut(&mut self) -> impl Iterator<Item = &mut Finding> {
        self.first.values_mut().flatten()
    }
}
