//! Finds the rows of a batch that PostgreSQL refuses, by halving it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use kafka::Partition;
use sinks::postgres::refuses_rows;

use super::applied::{Applied, Parked};
use super::rows::{LastState, TableRows};
use super::session::{Careful, Keyed, Outcome, States, Writer};
use super::store_error::StoreError;

/// When halving takes longer than this, the batch is read again with fewer records.
const CARE_LIMIT: Duration = Duration::from_secs(10);

/// A state that PostgreSQL does not store, and the reason.
type Refused<'a> = (Keyed<'a>, StoreError);

impl Writer<'_> {
    /// Leaves the transaction open.
    pub(super) async fn write_carefully(&self, rows: &TableRows, known: &HashMap<Partition, i64>) -> Outcome<Careful> {
        let table = self.lock(rows).await?;
        if let Some(partition) = self.set_back(&table, rows, known) {
            return Ok(Careful::Not(Applied::MovedBack(partition)));
        }
        let mut refused = Vec::new();
        let mut states = table.missing(rows);
        states.retain(|state| match self.limit(rows, state) {
            Some(refusal) => {
                refused.push((*state, refusal));
                false
            }
            None => true,
        });
        match self.halve(rows, &states).await? {
            Some(more) => refused.extend(more),
            None => return Ok(Careful::Not(Applied::WithCare)),
        }
        if table.has_parked {
            // A state that is parked now also replaces an earlier parked state of its key.
            self.replace(rows, &table.missing(rows)).await?;
        }
        let parked = |(state, refusal): Refused<'_>| {
            let LastState { partition, offset, .. } = *state.last;
            Parked { partition: self.partition(partition), offset, key: state.parked_key(), refusal }
        };
        Ok(Careful::Written(refused.into_iter().map(parked).collect()))
    }

    /// Stores the states that PostgreSQL accepts, and finds the others by halving. `None` when that takes too long.
    async fn halve<'a>(&self, rows: &TableRows, states: &States<'a>) -> Outcome<Option<Vec<Refused<'a>>>> {
        let deadline = Instant::now() + CARE_LIMIT;
        let (mut refused, mut singles) = (Vec::new(), Vec::new());
        let mut parts: Vec<&States<'a>> = if states.is_empty() { Vec::new() } else { vec![states] };
        // Make deferred constraints report refused rows at once.
        let mut before = "SET CONSTRAINTS ALL IMMEDIATE; SAVEPOINT part";
        while !parts.is_empty() {
            let mut stored = false;
            while let Some(part) = parts.pop() {
                if Instant::now() > deadline && states.len() > 1 {
                    return Ok(None);
                }
                let error = match self.store(rows, before, part).await {
                    Ok(()) => {
                        (stored, before) = (true, "RELEASE part; SAVEPOINT part");
                        continue;
                    }
                    Err(error) if refuses_rows(&error) => error,
                    Err(error) => return Err(error),
                };
                before = "ROLLBACK TO part";
                match part {
                    [state] => singles.push((part, (*state, StoreError::of(&error)))),
                    _ => {
                        let (first, second) = part.split_at(part.len() / 2);
                        parts.extend([second, first]);
                    }
                }
            }
            // Rows stored meanwhile may have removed a conflict with other rows.
            for (part, single) in singles.drain(..) {
                if stored && single.1.is_of_constraint() {
                    parts.push(part);
                } else {
                    refused.push(single);
                }
            }
        }
        if before == "ROLLBACK TO part" {
            self.client.batch_execute(before).await?;
        }
        Ok(Some(refused))
    }

    /// Sends the statements in `before` in the same request: PostgreSQL executes them in order.
    async fn store(&self, rows: &TableRows, before: &str, states: &States<'_>) -> Outcome<()> {
        let mut statements = self.deletes(rows, states);
        statements.extend(self.upserts(rows, states));
        let (prepared, stored) = tokio::join!(biased; self.client.batch_execute(before), try_join_all(statements));
        prepared.and(stored.map(drop))
    }
}
