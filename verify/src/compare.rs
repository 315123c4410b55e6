//! Compares the table with the topic's states, and PostgreSQL with the table, in one pass over the table in key order.
//!
//! PostgreSQL is read after the table, so [`crate::rechecks`] compares its rows of keys that were written to meanwhile.

use std::collections::BTreeSet;

use model::error::Result;
use model::product::{Price, Product};
use model::time::Micros;
use mysql::refused_row::{Letters, RefusedRow};
use mysql::table::SourceTable;
use mysql_async::Conn;
use rules::product::{Capitals, Transformed};
use rules::transform::Rules;

use crate::arrival::Consumed;
use crate::cut::Cut;
use crate::findings::{Check, Finding, Findings};
use crate::gaps::{Gap, Gaps};
use crate::postgres::{self, Rows, StoredProduct};
use crate::reading::describe;
use crate::recent::Match;
use crate::rechecks::Rechecks;
use crate::source_rows;
use crate::span::Span;
use crate::status::Status;
use crate::topic::{Topic, hash, state_hash};

/// Rows read per query.
const CHUNK: usize = 5000;
/// Bytes of texts after which no more rows are read at once.
const CHUNK_BYTES: usize = 16 * 1024 * 1024;

fn text_bytes(product: &Product<'_>) -> usize {
    product.name.map_or(0, str::len) + product.category.map_or(0, str::len)
}

/// A row of the table.
struct OwnedProduct {
    id: i64,
    name: Option<String>,
    category: Option<String>,
    price: Option<Price>,
    last_updated: Option<Micros>,
}

impl OwnedProduct {
    fn of(p: &Product<'_>) -> Self {
        Self {
            id: p.id,
            name: p.name.map(str::to_owned),
            category: p.category.map(str::to_owned),
            price: p.price,
            last_updated: p.last_updated,
        }
    }

    fn borrow(&self) -> Product<'_> {
        Product {
            id: self.id,
            name: self.name.as_deref(),
            category: self.category.as_deref(),
            price: self.price,
            last_updated: self.last_updated,
        }
    }
}

/// The facts that the rows are compared with.
pub(crate) struct Comparison<'a> {
    pub(crate) topic: &'a mut Topic,
    /// The part of the topic that was read.
    pub(crate) span: &'a Span,
    pub(crate) cut: &'a Cut,
    pub(crate) consumed: &'a Consumed,
    pub(crate) rules: &'a Rules,
    /// The topic's ends after PostgreSQL's snapshot was taken; higher than those of the span if the topic was written
    /// to.
    pub(crate) ends: &'a Span,
    pub(crate) findings: &'a mut Findings,
    pub(crate) gaps: &'a mut Gaps,
    pub(crate) rechecks: &'a mut Rechecks,
    /// Keys with an older row or none in PostgreSQL, as their last record is parked.
    pub(crate) parked: BTreeSet<i64>,
    /// Keys with an older state or none in topic and PostgreSQL, as the producer could not carry the row.
    pub(crate) refused: BTreeSet<i128>,
    /// Makes the dead letter that such a row must have.
    pub(crate) letters: &'a Letters,
}

impl Comparison<'_> {
    /// Compares; returns the number of the table's rows.
    ///
    /// # Errors
    /// As [`source_rows::each_row`] and [`Rows::next_up_to`].
    pub(crate) async fn run(
        &mut self,
        conn: &mut Conn,
        source: &SourceTable,
        mut stored: Option<&mut Rows>,
    ) -> Result<u64> {
        let (mut count, mut after, mut scratch, mut limit) = (0, None, Vec::new(), CHUNK);
        let mut status = Status::new("rows compared");
        loop {
            let (mut chunk, mut bytes) = (Vec::new(), 0);
            let asked = limit;
            (_, after) = source_rows::each_row(conn, source, after, Some(asked), |row| {
                bytes += row.as_ref().map_or_else(|row| row.bytes(), text_bytes);
                chunk.push(row.map(|product| OwnedProduct::of(&product)));
                Ok(bytes < CHUNK_BYTES)
            })
            .await?;
            for row in &chunk {
                status.one_more();
                let row = match row {
                    Ok(row) => row,
                    Err(row) => {
                        self.not_carried(row);
                        continue;
                    }
                };
                let product = row.borrow();
                self.with_topic(&product, &mut scratch);
                if let Some(stored) = stored.as_deref_mut() {
                    let mut capitals = Capitals::default();
                    let expected = self.rules.apply(&product, &mut capitals);
                    self.with_postgres(row.id, expected.as_ref(), stored).await?;
                }
            }
            count += chunk.len() as u64;
            let is_cut = bytes >= CHUNK_BYTES;
            if chunk.len() < asked && !is_cut {
                break;
            }
            limit = if is_cut { chunk.len() } else { (asked * 2).min(CHUNK) };
        }
        if let Some(stored) = stored {
            self.with_postgres(i64::MAX, None, stored).await?;
            self.without_row();
            self.gaps.add(Gap::Parked, self.parked.len() as u64);
        }
        self.left_over();
        Ok(count)
    }

    fn with_topic(&mut self, product: &Product<'_>, scratch: &mut Vec<u8>) {
        let id = product.id;
        let state = state_hash(product, scratch);
        let outcome = self.topic.judge(id, Some(state), self.cut, self.span);
        let place = self.topic.keys.get_mut(&id).map(|key| {
            key.in_table = true;
            (key.partition, key.offset, key.state)
        });
        match outcome {
            Match::Equal => {}
            Match::Expired => self.gaps.add(Gap::Rows, 1),
            Match::Passed => self.gaps.add(Gap::PassedRows, 1),
            Match::Different if self.topic.is_too_large(product, self.letters) => {
                self.refused.insert(id.into());
                self.gaps.add(Gap::Refused, 1);
            }
            Match::Different => self.findings.add(Check::Table, || match place {
                None => {
                    let text = "the row is in the table, but no record of it is in the topic";
                    Finding::new(Check::Table, text).key(id).expected(describe(product)).found("nothing")
                }
                Some((partition, offset, state)) => {
                    let deleted = "the row is in the table, but its last record is a delete";
                    let text = if state.is_none() { deleted } else { "the row differs from its last record" };
                    Finding::new(Check::Table, text).key(id).at(partition, offset).expected(describe(product))
                }
            }),
        }
    }

    /// For a row of the table that a record can't carry: requires its dead letter.
    fn not_carried(&mut self, row: &RefusedRow) {
        let Ok(id) = row.key().parse::<i128>() else { return };
        self.refused.insert(id);
        let mut value = Vec::new();
        self.letters.write_value(row, &mut value);
        let Some(text) = self.topic.judge_refused(id, hash(&value), self.cut) else {
            self.gaps.add(Gap::Refused, 1);
            return;
        };
        self.findings.add(Check::Table, || {
            let finding =
                Finding::new(Check::Table, text).found(format!("{}: {}", self.letters.field(row.field), row.refusal));
            match i64::try_from(id) {
                Ok(id) => finding.key(id),
                Err(_) => finding,
            }
        });
    }

    /// Checks keys that exist in the topic and not in the table.
    fn left_over(&mut self) {
        let alive = self.topic.keys.iter().filter(|(_, key)| key.state.is_some() && !key.in_table);
        let mut ids: Vec<i64> = alive.map(|(id, _)| *id).collect();
        ids.sort_unstable();
        for id in ids {
            match self.topic.judge(id, None, self.cut, self.span) {
                Match::Equal => {}
                Match::Expired => self.gaps.add(Gap::Rows, 1),
                Match::Passed => self.gaps.add(Gap::PassedRows, 1),
                Match::Different => self.findings.add(Check::Table, || {
                    let text = "the table has no such row, but its last record is no delete";
                    let finding = Finding::new(Check::Table, text).key(id).expected("nothing");
                    let place = self.topic.keys.get(&id).map(|key| (key.partition, key.offset));
                    place.map_or(finding.clone(), |(partition, offset)| finding.at(partition, offset))
                }),
            }
        }
    }

    /// Compares PostgreSQL's rows up to `id`; `expected` is the row with this id.
    async fn with_postgres(&mut self, id: i64, expected: Option<&Transformed<'_>>, stored: &mut Rows) -> Result<()> {
        let mut met: Option<StoredProduct> = None;
        while let Some(row) = stored.next_up_to(id).await? {
            if self.is_behind(row.id) || self.refused.contains(&row.id.into()) {
                continue;
            }
            if row.place().is_some() && self.topic.is_parked(row.id, row.place()) {
                self.parked.insert(row.id);
                continue;
            }
            let later = row.place().filter(|(p, o)| self.is_moving(row.id) || self.span.is_later(*p, *o));
            if let Some(place) = later {
                self.rechecks.row(&row, place, self.topic.keys.get(&row.id), self.findings);
                continue;
            }
            if row.id == id && expected.is_some() {
                met = Some(row);
                break;
            }
            self.findings.add(Check::Postgres, || {
                let text = "PostgreSQL has a row that it should not have";
                Finding::new(Check::Postgres, text).key(row.id).expected("nothing").found(row.describe())
            });
        }
        let Some(expected) = expected else { return Ok(()) };
        match met {
            Some(row) if row.equals(expected) => {}
            Some(row) => self.findings.add(Check::Postgres, || {
                let text = "PostgreSQL's row differs from the table's after the rules";
                Finding::new(Check::Postgres, text).key(id).expected(postgres::describe(expected)).found(row.describe())
            }),
            None if self.is_parked(id) => {}
            None if self.rechecks.has(id) || self.is_moving(id) || self.is_behind(id) => {}
            // The row may have been deleted since.
            None if self.ends.end != self.span.end => {
                let place = self.place(id);
                self.rechecks.no_row(id, place);
            }
            None => self.findings.add(Check::Postgres, || {
                let text = "PostgreSQL lacks the row";
                Finding::new(Check::Postgres, text).key(id).expected(postgres::describe(expected)).found("nothing")
            }),
        }
        Ok(())
    }

    /// Checks keys that were written to and have no row in PostgreSQL: their last state must be a delete.
    fn without_row(&mut self) {
        for id in self.topic.recent_keys(self.cut) {
            let is_compared = self.rechecks.has(id) || self.refused.contains(&id.into());
            if !is_compared && !self.is_behind(id) && !self.is_parked(id) {
                let place = self.place(id);
                self.rechecks.no_row(id, place);
            }
        }
    }

    /// Whether a key without a row in PostgreSQL is parked; records the key if it is.
    fn is_parked(&mut self, id: i64) -> bool {
        let is_parked = self.parked.contains(&id) || self.topic.is_parked(id, None);
        if is_parked {
            self.parked.insert(id);
        }
        is_parked
    }

    /// Whether the key was written to since the table's snapshot.
    fn is_moving(&self, id: i64) -> bool {
        self.topic.recent(id, self.cut).is_some()
    }

    /// Whether the consumers have not read the key's last record yet.
    fn is_behind(&self, id: i64) -> bool {
        let key = self.topic.keys.get(&id);
        key.is_some_and(|key| self.consumed.is_behind(key.partition as usize, key.offset))
    }

    /// The place of the key's last record; without one, the place of its next record.
    fn place(&self, id: i64) -> (i32, i64) {
        let home = self.topic.home(id);
        let key = self.topic.keys.get(&id);
        key.map_or((home as i32, self.span.end[home]), |key| (key.partition, key.offset))
    }
}
