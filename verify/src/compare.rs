//! Compares the table with the topic's states, and PostgreSQL with the table: a pass's share of the keys.
//!
//! PostgreSQL is read after the table's snapshot was taken, so [`crate::rechecks`] compares its rows of keys that were
//! written to meanwhile.

use std::collections::HashSet;

use model::error::Result;
use mysql_async::Conn;

use crate::contract::{Contract, KeyHash, row_hash};
use crate::cut::Cut;
use crate::findings::{Check, Finding, Findings};
use crate::gaps::{Gap, Gaps};
use crate::letters::Texts;
use crate::pass::KeyMap;
use crate::postgres::StoredRow;
use crate::recent::Match;
use crate::rechecks::Rechecks;
use crate::source::Source;
use crate::span::Span;
use crate::status::Status;
use crate::topic::{Consumed, Topic};

/// The facts that the rows are compared with.
pub(crate) struct Comparison<'a> {
    pub(crate) topic: &'a mut Topic,
    /// The part of the topic that was read.
    pub(crate) span: &'a Span,
    pub(crate) cut: &'a Cut,
    pub(crate) consumed: &'a Consumed,
    pub(crate) contract: &'a Contract,
    /// The topic's ends after PostgreSQL's snapshot was taken; higher than those of the span if the topic was written
    /// to.
    pub(crate) ends: &'a Span,
    pub(crate) findings: &'a mut Findings,
    pub(crate) gaps: &'a mut Gaps,
    pub(crate) rechecks: &'a mut Rechecks,
    /// Keys with an older row or none in PostgreSQL, as their last record is parked.
    pub(crate) parked: HashSet<KeyHash>,
    /// Keys with an older state or none in topic and PostgreSQL, as the producer could not carry the row.
    pub(crate) refused: HashSet<KeyHash>,
    /// Makes the dead letter that such a row must have.
    pub(crate) letters: &'a Texts,
    /// Whether transactions up to the position are not published yet: rows that differ from the topic may be of these.
    pub(crate) has_unpublished: bool,
}

impl Comparison<'_> {
    /// Compares the pass's rows; returns the number of them.
    ///
    /// # Errors
    /// As [`Source::each_row`] and [`Pass::check`].
    ///
    /// [`Pass::check`]: crate::pass::Pass::check
    pub(crate) async fn run(
        &mut self,
        conn: &mut Conn,
        source: &Source,
        mut stored: Option<KeyMap<StoredRow>>,
    ) -> Result<u64> {
        let (pass, contract) = (self.topic.pass.clone(), self.contract);
        let (mut count, mut seen, mut status) = (0, 0, Status::new(&pass.label, "rows compared"));
        let columns = contract.columns.iter().map(|column| &column.of_table);
        source
            .each_row(conn, columns, |texts| {
                seen += 1;
                status.one_more();
                let text = contract.key(texts);
                let key = KeyHash::of(&text);
                if pass.has_key(key) {
                    count += 1;
                    self.row(key, &text, texts, stored.as_mut());
                }
                let rows = || stored.as_ref().map_or(0, KeyMap::bytes);
                pass.look(seen, || self.topic.bytes() + self.rechecks.bytes() + rows())
            })
            .await?;
        if let Some(rows) = stored {
            for table in rows.into_tables() {
                let mut left: Vec<(KeyHash, StoredRow)> = table.into_iter().collect();
                left.sort_unstable_by_key(|(key, row)| (row.place(), *key));
                for (key, row) in left {
                    self.take(key, row, false);
                }
                pass.check(self.topic.bytes() + self.rechecks.bytes())?;
            }
            self.without_row();
            self.gaps.add(Gap::Parked, self.parked.len() as u64);
        }
        self.left_over();
        Ok(count)
    }

    /// Compares a row of the table with the topic and PostgreSQL.
    fn row(&mut self, key: KeyHash, text: &str, texts: &[Option<Vec<u8>>], stored: Option<&mut KeyMap<StoredRow>>) {
        let values = match self.contract.row(texts) {
            Ok(values) => values,
            Err((column, reason)) => return self.not_carried(key, text, texts, &column, &reason),
        };
        let is_published = self.with_topic(key, text, &values, texts);
        if let Some(rows) = stored {
            let expected = self.contract.plan.apply(&values);
            let stored = rows.remove(&key);
            if !is_published {
                return;
            }
            self.with_postgres(key, text, expected.as_deref(), stored);
        }
    }

    /// Returns whether the topic must have the row's state.
    fn with_topic(&mut self, key: KeyHash, text: &str, row: &[Option<String>], raw: &[Option<Vec<u8>>]) -> bool {
        let outcome = self.topic.judge(key, self.topic.home(text), Some(row_hash(row)), self.cut, self.span);
        let last = self.topic.keys.get_mut(&key).map(|last| {
            last.in_table = true;
            (last.partition, last.offset, last.state)
        });
        match outcome {
            Match::Equal => {}
            Match::Expired => self.gaps.add(Gap::Rows, 1),
            Match::Passed => self.gaps.add(Gap::PassedRows, 1),
            Match::Different if self.topic.is_too_large(key, raw, (self.contract, self.letters)) => {
                self.refused.insert(key);
                self.gaps.add(Gap::Refused, 1);
            }
            Match::Different if self.has_unpublished => {
                self.gaps.add(Gap::Unpublished, 1);
                return false;
            }
            Match::Different => self.findings.add(Check::Table, || {
                let expected = self.contract.describe(row);
                match last {
                    None => {
                        let missing = "the row is in the table, but no record of it is in the topic";
                        Finding::new(Check::Table, missing).key(text).expected(expected).found("nothing")
                    }
                    Some((partition, offset, state)) => {
                        let deleted = "the row is in the table, but its last record is a delete";
                        let why = if state.is_none() { deleted } else { "the row differs from its last record" };
                        Finding::new(Check::Table, why).key(text).at(partition, offset).expected(expected)
                    }
                }
            }),
        }
        true
    }

    /// For a row of the table that a record can't carry: requires its dead letter.
    fn not_carried(&mut self, key: KeyHash, text: &str, raw: &[Option<Vec<u8>>], column: &str, reason: &str) {
        self.refused.insert(key);
        let Some(why) = self.topic.judge_refused(key, raw, (self.contract, self.letters), self.cut) else {
            self.gaps.add(Gap::Refused, 1);
            return;
        };
        if self.has_unpublished {
            return self.gaps.add(Gap::Unpublished, 1);
        }
        self.findings
            .add(Check::Table, || Finding::new(Check::Table, why).key(text).found(format!("{column}: {reason}")));
    }

    /// Checks keys that exist in the topic and not in the table.
    fn left_over(&mut self) {
        let alive = self.topic.keys.iter().filter(|(_, last)| last.state.is_some() && !last.in_table);
        let mut keys: Vec<(i32, i64, KeyHash)> = alive.map(|(key, last)| (last.partition, last.offset, *key)).collect();
        keys.sort_unstable();
        for (partition, offset, key) in keys {
            match self.topic.judge(key, partition as usize, None, self.cut, self.span) {
                Match::Equal => {}
                Match::Expired => self.gaps.add(Gap::Rows, 1),
                Match::Passed => self.gaps.add(Gap::PassedRows, 1),
                Match::Different if self.has_unpublished => self.gaps.add(Gap::Unpublished, 1),
                Match::Different => self.findings.add(Check::Table, || {
                    let text = "the table has no such row, but its last record is no delete";
                    Finding::new(Check::Table, text).at(partition, offset).expected("nothing")
                }),
            }
        }
    }

    /// Compares PostgreSQL's row of a key with the expected one.
    fn with_postgres(
        &mut self,
        key: KeyHash,
        text: &str,
        expected: Option<&[Option<String>]>,
        stored: Option<StoredRow>,
    ) {
        let met = stored.filter(|row| self.take(key, *row, expected.is_some()));
        let Some(expected) = expected else { return };
        match met {
            Some(row) if row.hash == row_hash(expected) => {}
            Some(_) => self.findings.add(Check::Postgres, || {
                let why = "PostgreSQL's row differs from the table's after the rules";
                let expected = self.contract.describe_stored(expected);
                Finding::new(Check::Postgres, why).key(text).stored(key).expected(expected)
            }),
            None if self.is_parked(key) => {}
            None if self.rechecks.has(key) || self.is_moving(key) || self.is_behind(key) => {}
            // The row may have been deleted since.
            None if self.ends.end != self.span.end => {
                let place = self.place(key, text);
                self.rechecks.no_row(key, text, place);
            }
            None => self.findings.add(Check::Postgres, || {
                let expected = self.contract.describe_stored(expected);
                Finding::new(Check::Postgres, "PostgreSQL lacks the row").key(text).expected(expected).found("nothing")
            }),
        }
    }

    /// Takes a row of PostgreSQL; returns whether it must equal the expected row now.
    fn take(&mut self, key: KeyHash, row: StoredRow, is_expected: bool) -> bool {
        if self.is_behind(key) || self.refused.contains(&key) {
            return false;
        }
        if row.place().is_some() && self.topic.is_parked(key, row.place()) {
            self.parked.insert(key);
            return false;
        }
        let later = row.place().filter(|(p, o)| self.is_moving(key) || self.span.is_later(*p, *o));
        if let Some(place) = later {
            self.rechecks.row(key, row.hash, place, self.topic.keys.get(&key), self.findings);
            return false;
        }
        if !is_expected && !self.is_unpublished_delete(key) {
            self.findings.add(Check::Postgres, || {
                let text = "PostgreSQL has a row that it should not have";
                Finding::new(Check::Postgres, text).stored(key).expected("nothing")
            });
        }
        is_expected
    }

    /// Checks keys that were written to and have no row in PostgreSQL: their last state must be a delete.
    fn without_row(&mut self) {
        for (key, text) in self.topic.recent_keys(self.cut) {
            let is_compared = self.rechecks.has(key) || self.refused.contains(&key);
            if !is_compared && !self.is_behind(key) && !self.is_parked(key) {
                let place = self.place(key, &text);
                self.rechecks.no_row(key, &text, place);
            }
        }
    }

    /// Whether a key without a row in PostgreSQL is parked; records the key if it is.
    fn is_parked(&mut self, key: KeyHash) -> bool {
        let is_parked = self.parked.contains(&key) || self.topic.is_parked(key, None);
        if is_parked {
            self.parked.insert(key);
        }
        is_parked
    }

    /// Whether the key was written to since the table's snapshot.
    fn is_moving(&self, key: KeyHash) -> bool {
        self.topic.recent(key, self.cut).is_some()
    }

    /// Whether the consumers have not read the key's last record yet.
    fn is_behind(&self, key: KeyHash) -> bool {
        let last = self.topic.keys.get(&key);
        last.is_some_and(|last| self.consumed.is_behind(last.partition as usize, last.offset))
    }

    /// Whether the table lacks a row that the topic has, as its delete may not be published yet.
    fn is_unpublished_delete(&self, key: KeyHash) -> bool {
        let last = self.topic.keys.get(&key);
        self.has_unpublished && last.is_some_and(|last| last.state.is_some() && !last.in_table)
    }

    /// The place of the key's last record; without one, the place of its next record.
    fn place(&self, key: KeyHash, text: &str) -> (i32, i64) {
        let home = self.topic.home(text);
        let last = self.topic.keys.get(&key);
        last.map_or((home as i32, self.span.end[home]), |last| (last.partition, last.offset))
    }
}
