//! Handles a PostgreSQL that is behind the log (enabled later, or set back): the consumer reads from PostgreSQL's
//! offset.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use kafka::committed_progress;
use kafka::{Partition, Topic, after_gap};
use runtime::config::KafkaSettings;
use tokio_util::sync::CancellationToken;

use super::{Session, Worker};
use crate::batch_error::BatchError;
use crate::sink::{self, Rows};

impl Worker {
    /// The start offset of each partition: the log's or PostgreSQL's, whichever is lower.
    pub(super) fn starts(&self, committed: &BTreeMap<Partition, i64>) -> BTreeMap<Partition, i64> {
        let start = |(partition, offset): (&Partition, &i64)| {
            let table = self.sink.as_ref().and_then(|s| s.known(*partition));
            (*partition, table.map_or(*offset, |t| t.min(*offset)))
        };
        committed.iter().map(start).collect()
    }

    /// Looks up PostgreSQL's offset of newly assigned partitions, and seeks back to it.
    pub(super) fn catch_up(&mut self, session: &mut Session) -> Result<(), BatchError> {
        let Some(sink) = &mut self.sink else { return Ok(()) };
        let changes = session.group.changes();
        if changes != session.seen_changes {
            // Other members may have written more in the meantime.
            sink.forget();
            self.parking.forget();
            session.seen_changes = changes;
        }
        let committed = session.group.committed();
        let new: Vec<Partition> = committed.keys().copied().filter(|p| sink.known(*p).is_none()).collect();
        if new.is_empty() {
            return Ok(());
        }
        let known = self.readiness.postgres.during(|| self.runtime.block_on(sink.next_offsets(&new)))?;
        let differs =
            |(partition, next): &(&Partition, &i64)| committed.get(partition).is_some_and(|offset| offset != *next);
        let different: Vec<Partition> = known.iter().filter(differs).map(|(partition, _)| *partition).collect();
        if different.is_empty() {
            return Ok(());
        }
        let bounds = session.group.bounds(&different)?;
        let mut snapshots: BTreeMap<Topic, Vec<i64>> = BTreeMap::new();
        let (mut behind, mut passed) = (BTreeMap::new(), Rows::default());
        for (partition, (low, end)) in bounds {
            let (next, offset) = (known[&partition], committed[&partition]);
            let Some(table) = self.tables.get(&partition.topic) else { continue };
            let (topic, number) = (&table.kafka.topic, partition.number);
            if next > end {
                return Err(BatchError::Fatal(sink::exceeds(topic, &table.name, number, next, end)));
            }
            match after_gap(next, (low, end)) {
                None => {
                    let snapshot = match snapshots.entry(partition.topic) {
                        Entry::Occupied(known) => known.into_mut(),
                        Entry::Vacant(unknown) => unknown.insert(snapshot_begin(&table.kafka, &self.shutdown)?),
                    };
                    let begin = usize::try_from(number).ok().and_then(|p| snapshot.get(p)).filter(|b| **b >= low);
                    let Some(begin) = begin else {
                        return Err(BatchError::Fatal(sink::lacks(topic, number, next, low)));
                    };
                    tracing::info!(%partition, from = begin, "PostgreSQL begins with the last snapshot");
                    passed.reach(partition, *begin);
                    if *begin < offset {
                        behind.insert(partition, *begin);
                    }
                }
                Some(from) if from > next => passed.reach(partition, from),
                Some(from) if from < offset => {
                    tracing::info!(%partition, from, to = offset, "PostgreSQL is behind the log and catches up");
                    behind.insert(partition, from);
                }
                Some(_) => {}
            }
        }
        if !passed.is_empty() {
            self.readiness.postgres.during(|| self.runtime.block_on(sink.apply(&passed, false)))?;
        }
        session.group.seek(&behind).map_err(BatchError::at_start)
    }
}

/// By partition, the begin offset of the last snapshot, complete or running: from there on the topic has every row of
/// the source. Empty when it is not known.
fn snapshot_begin(kafka: &KafkaSettings, shutdown: &CancellationToken) -> Result<Vec<i64>, BatchError> {
    match committed_progress::look_up(kafka, &|| shutdown.is_cancelled()) {
        Err(error) if error.is_transient() => Err(error.into()),
        Err(error) => {
            tracing::warn!(remedy = error.remedy(), "{error}");
            Ok(Vec::new())
        }
        Ok(None) => Ok(Vec::new()),
        Ok(Some(progress)) => {
            let running = progress.main.snapshot.and_then(|snapshot| snapshot.begin);
            Ok(running.or(progress.main.complete.map(|complete| complete.begin)).unwrap_or_default())
        }
    }
}
