//! Polls the records of a batch, and converts each at once, so that none is kept.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use kafka::Partition;
use model::time::Micros;
use rdkafka::message::{BorrowedMessage, Message as _};

use super::table::polled;
use super::{BATCH_BYTES, Batch, POLL, Worker};
use crate::batch::BatchContext;
use crate::batch_error::BatchError;
use crate::cycle::GroupView;
use crate::dead_letter::Letters;
use crate::group::Group;

/// Consecutive records of one partition. Kafka's client gives hundreds of a partition before those of the next one, so
/// that a record looks up nothing by its partition.
struct Run {
    partition: Partition,
    /// The first offset that the log does not have yet.
    log_from: i64,
    /// The offset behind the last record.
    next: i64,
    /// When the last record was written to Kafka.
    written: Option<Micros>,
}

impl Batch {
    fn add(&mut self, run: Option<Run>) {
        let Some(Run { partition, next, written, .. }) = run else { return };
        self.outcome.rows.reach(partition, next);
        if let Some(written) = written {
            self.newest.insert(partition, written);
        }
    }
}

/// The client library waits whole milliseconds, and spends the rest of one asking again without a pause.
fn whole_milliseconds(wait: Duration) -> Duration {
    wait - Duration::from_nanos((wait.subsec_nanos() % 1_000_000).into())
}

impl Worker {
    /// Polls until there are enough records, or until the time is over and no more have arrived. A rebalance meanwhile
    /// discards the batch.
    pub(super) fn poll_batch(&mut self, group: &Group) -> Result<Batch, BatchError> {
        let view = GroupView { changes: group.changes(), metadata: group.metadata(), committed: group.committed() };
        let mut batch = Batch { group: view, ..Batch::default() };
        let (mut bytes, mut deadline, mut run) = (0, None, None::<Run>);
        let most = self.parking.part().map_or(self.batch_rows, |part| part.min(self.batch_rows));
        while batch.records < most && bytes < BATCH_BYTES {
            let wait = deadline.map_or(POLL, |d: Instant| d.saturating_duration_since(Instant::now()));
            let message = group.poll(whole_milliseconds(wait))?;
            if batch.group.is_overtaken(group.changes()) {
                batch.add(run);
                return self.put_back(group, &batch);
            }
            let Some(message) = message else { break };
            deadline.get_or_insert_with(|| self.finished + self.batch_linger);
            bytes += message.key_len() + message.payload_len();
            self.convert(&message, &mut batch, &mut run)?;
        }
        batch.add(run);
        self.tables.values_mut().for_each(|table| table.schemas.forget_unknown());
        Ok(batch)
    }

    /// Converts a record, unless it is of a partition that is not ours.
    #[inline]
    fn convert(
        &mut self,
        message: &BorrowedMessage<'_>,
        batch: &mut Batch,
        run: &mut Option<Run>,
    ) -> Result<(), BatchError> {
        let record = polled(message, &self.kafka.topic);
        let Some(table) = self.tables.get_mut(&record.partition.topic) else { return Ok(()) };
        if run.as_ref().is_none_or(|run| run.partition != record.partition) {
            let Some(log_from) = batch.group.committed.get(&record.partition).copied() else { return Ok(()) };
            let next = Run { partition: record.partition, log_from, next: log_from, written: None };
            batch.add(run.replace(next));
        }
        let Some(run) = run else { return Ok(()) };
        batch.records += 1;
        if !table.knows(&record) {
            self.readiness.registry.during(|| table.look_up_schema(&record))?;
        }
        let context = BatchContext {
            letters: Letters { topic: &table.kafka.topic, table: &table.name, room: table.room },
            decoders: table.schemas.decoders(),
            log_from: run.log_from,
            with_rows: self.sink.is_some(),
            keep: self.parking.part().is_some(),
        };
        batch.outcome.take(&record, context, &mut table.scratch)?;
        run.next = record.offset + 1;
        run.written = message.timestamp().to_millis().map(|written| Micros(written * 1_000)).or(run.written);
        Ok(())
    }

    fn put_back(&self, group: &Group, batch: &Batch) -> Result<Batch, BatchError> {
        let mut again: BTreeSet<Partition> = batch.outcome.rows.next().map(|(partition, _)| partition).collect();
        self.metrics.dropped.add(u64::from(!again.is_empty()));
        again.extend(group.take_moved());
        let mut starts = self.starts(&group.committed());
        starts.retain(|partition, _| again.contains(partition));
        group.seek(&starts).map_err(BatchError::at_start)?;
        Ok(Batch::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_has_no_part_of_a_millisecond() {
        let waits = [0, 999, 1_000, 4_999, 100_000, 61_000_001].map(Duration::from_micros);
        let wanted = [0, 0, 1, 4, 100, 61_000].map(Duration::from_millis);
        assert_eq!(waits.map(whole_milliseconds), wanted);
    }

    #[test]
    fn a_batch_has_the_last_of_each_partition() {
        let run = |number, next, written: Option<i64>| {
            Some(Run { partition: Partition::main(number), log_from: 0, next, written: written.map(Micros) })
        };
        let mut batch = Batch::default();
        for run in [None, run(1, 5, Some(10)), run(2, 3, Some(11)), run(1, 9, Some(12)), run(2, 4, None), None] {
            batch.add(run);
        }
        let next: Vec<_> = batch.outcome.rows.next().collect();
        assert_eq!(next, [(Partition::main(1), 9), (Partition::main(2), 4)]);
        assert_eq!(batch.newest, [(Partition::main(1), Micros(12)), (Partition::main(2), Micros(11))].into());
    }
}
