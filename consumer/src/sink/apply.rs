//! Writes a batch as a whole: in two round trips when it is small and nothing of its partitions is parked.
//!
//! A statement is sent together with those that do not depend on its answer: waiting for an answer takes longer than
//! executing a small statement. PostgreSQL executes them in order. After an error it refuses those that follow, and a
//! COMMIT among them ends the transaction without its changes.

use std::collections::HashMap;

use futures_util::future::try_join_all;
use kafka::Partition;
use sinks::postgres::{follows_an_error, has_other_form, is_prepared_already, refuses_rows};

use super::applied::Applied;
use super::rows::{Rows, TableRows};
use super::session::{Outcome, Session, Table, Writer};
use super::write::Statement;

/// With fewer rows than this, the round trips dominate, and an upsert needs only one.
const FEW: usize = 32;

impl Session {
    /// Writes the whole batch or nothing.
    pub(super) async fn apply(&mut self, rows: &Rows, known: &HashMap<Partition, i64>) -> Outcome<Applied> {
        match self.write(rows, known).await {
            Ok(None) => Ok(Applied::Done(Vec::new())),
            Ok(Some(instead)) => {
                self.roll_back().await?;
                Ok(instead)
            }
            Err(error)
                if refuses_rows(&error)
                    || follows_an_error(&error)
                    || is_prepared_already(&error)
                    || has_other_form(&error) =>
            {
                self.copies &= !is_prepared_already(&error);
                // COMMIT may have ended the transaction already; PostgreSQL then only warns.
                self.roll_back().await?;
                Ok(Applied::WithCare)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes and commits the batch; returns what to do instead when it leaves the transaction open.
    async fn write(&self, rows: &Rows, known: &HashMap<Partition, i64>) -> Outcome<Option<Applied>> {
        let writers: Vec<_> = self.writers(rows).collect();
        let lock = async {
            let mut locked = Vec::with_capacity(writers.len());
            for (writer, rows) in &writers {
                locked.push(writer.lock(rows).await?);
            }
            Ok(locked)
        };
        let ((), locked) = tokio::try_join!(biased; self.begin(), lock)?;
        let mut parts = Vec::with_capacity(writers.len());
        for ((writer, rows), table) in writers.iter().zip(&locked) {
            if let Some(instead) = writer.check(table, rows, known).await? {
                return Ok(Some(instead));
            }
            let mut states = table.missing(rows);
            if table.has_parked {
                writer.replace(rows, &states).await?;
            }
            if self.copies && states.len() >= FEW {
                try_join_all(writer.deletes(rows, &states)).await?;
                states = writer.copy(rows, &states).await?;
                states.retain(|state| state.last.row.is_some());
            }
            parts.push((writer, *rows, states));
        }
        let mut statements: Vec<Statement<'_>> = Vec::new();
        for (writer, rows, states) in &parts {
            statements.extend(writer.deletes(rows, states));
            statements.extend(writer.upserts(rows, states));
            statements.push(Box::pin(writer.advance(rows)));
        }
        // The last one: each is sent when it is polled first, which happens in this order.
        statements.push(Box::pin(self.commit()));
        try_join_all(statements).await?;
        Ok(None)
    }
}

impl Writer<'_> {
    /// Returns what to do instead of storing the batch, if anything.
    async fn check(
        &self,
        table: &Table,
        rows: &TableRows,
        known: &HashMap<Partition, i64>,
    ) -> Outcome<Option<Applied>> {
        if let Some(partition) = self.set_back(table, rows, known) {
            return Ok(Some(Applied::MovedBack(partition)));
        }
        // Another consumer wrote since the look-up, or this is the first look at its offsets: dead letters may be owed.
        let differs = |(number, next): (&i32, &i64)| known.get(&self.partition(*number)) != Some(next);
        if table.next.iter().any(differs) && !self.owed(rows).await?.is_empty() {
            return Ok(Some(Applied::WithCare));
        }
        let has_limits = self.table.prepared.iter().any(|known| known.limits.any());
        let exceeds = has_limits && table.missing(rows).iter().any(|state| self.limit(rows, state).is_some());
        Ok(exceeds.then_some(Applied::WithCare))
    }
}
