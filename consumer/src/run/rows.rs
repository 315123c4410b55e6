//! The worker's writes to PostgreSQL: a batch's rows, and its parked records.

use std::time::Instant;

use runtime::failpoint;
use runtime::step::ConsumerStep;

use super::Worker;
use crate::batch::Outcome;
use crate::batch_error::BatchError;
use crate::sink::{Applied, Parked};

impl Worker {
    /// Writes the batch to PostgreSQL; returns the parked records that need a dead letter. `None` when it must be read
    /// again in parts.
    pub(super) fn write_rows(&mut self, outcome: &Outcome, records: usize) -> Result<Option<Vec<Parked>>, BatchError> {
        let Some(sink) = &mut self.sink else { return Ok(Some(Vec::new())) };
        let with_care = self.parking.part().is_some();
        let applied = self.readiness.postgres.during(|| self.runtime.block_on(sink.apply(&outcome.rows, with_care)))?;
        self.pinged = Instant::now();
        let Applied::Done(owed) = applied else {
            self.parking.begin(records);
            return Ok(None);
        };
        failpoint::at(ConsumerStep::RowsCommitted);
        Ok(Some(owed))
    }

    /// Notes that their dead letters are committed.
    pub(super) fn note_parked(&mut self, owed: &[Parked]) -> Result<(), BatchError> {
        let Some(sink) = self.sink.as_mut().filter(|_| !owed.is_empty()) else { return Ok(()) };
        for (topic, table) in &self.tables {
            let parked: Vec<&Parked> = owed.iter().filter(|parked| parked.partition.topic == *topic).collect();
            self.metrics.parked(&table.name, &parked);
        }
        self.parking.note_written(owed);
        Ok(self.readiness.postgres.during(|| self.runtime.block_on(sink.note_letters(owed)))?)
    }
}
