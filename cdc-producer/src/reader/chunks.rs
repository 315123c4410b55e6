//! Between two transactions: the snapshot's chunks, then the sweep, one table after the other.

use model::change::{Op, Source};
use model::error::Result;
use model::position::Progress;
use runtime::failpoint;
use runtime::step::ProducerStep;
use tokio_util::sync::CancellationToken;

use super::rows::table_number;
use super::{CapturedTable, Reader, State};
use crate::batch::{Batch, Change};
use crate::snapshot::{Chunk, ChunkForm, pos_of};
use crate::sweep::{Candidates, Step};

impl Reader {
    /// Between two transactions: reads the next chunk, or emits it batch by batch once the stream has reached its high
    /// watermark; after the last chunk it runs the sweep.
    pub(super) async fn snapshot(&mut self, state: &mut State, shutdown: &CancellationToken) -> Result<()> {
        while let Some(number) = self.in_snapshot(state)
            && !shutdown.is_cancelled()
        {
            let CapturedTable { name, encoder, letters, .. } = &self.tables[number];
            let epoch = self.progress.epoch;
            let position = self.progress.position.clone();
            let of_table = self.progress.table_mut(&self.source, name);
            let Some(snapshot) = &mut of_table.snapshot else { return Ok(()) };
            if snapshot.sweep.is_some() {
                return self.sweep(state, number).await;
            }
            let Some((_, chunk)) = &mut state.chunk else {
                // The server sends all requested rows, so a table of long rows gets a smaller limit.
                let limit = state.chunk_limit.clamp(1, self.chunk_rows);
                let form = ChunkForm { limit, bytes: self.chunk_bytes, parks: letters.is_some() };
                let chunk = Chunk::read(&mut self.conn, encoder, &position, snapshot.after.clone(), form).await?;
                state.chunk_limit = chunk.cut_at().unwrap_or(limit.saturating_mul(2));
                failpoint::at(ProducerStep::ChunkRead);
                state.chunk = Some((number, chunk));
                continue;
            };
            let (file, offset) = chunk.high();
            if !self.stream.has_reached(file, offset) {
                return Ok(());
            }
            let letters = letters.as_ref();
            let emitted = chunk.emit((epoch, snapshot.rows), table_number(number), letters, &mut state.batch);
            snapshot.rows = emitted.rows;
            if !emitted.is_out || emitted.after.is_some() {
                snapshot.after = emitted.after;
            } else if let Some(read) = of_table.snapshot.take() {
                let rows = read.emitted();
                of_table.snapshot = read.swept();
                log_snapshot(name, epoch, rows, of_table.snapshot.is_some());
                state.chunk_limit = self.chunk_rows;
            }
            if emitted.is_out {
                state.chunk = None;
            }
            state.moved = true;
            self.flush(state, true).await?;
        }
        Ok(())
    }

    /// The table whose snapshot is running: that of the chunk, or the first one that has one.
    fn in_snapshot(&self, state: &State) -> Option<usize> {
        let chunk = state.chunk.as_ref().map(|(number, _)| *number);
        let runs = |table: &CapturedTable| {
            self.progress.table(&self.source, &table.name).is_some_and(|progress| progress.snapshot.is_some())
        };
        chunk.or_else(|| self.tables.iter().position(runs))
    }

    /// Between two transactions: runs the next step of the sweep; see [`crate::sweep`].
    async fn sweep(&mut self, state: &mut State, number: usize) -> Result<()> {
        let Progress { epoch, position, .. } = &self.progress;
        let (epoch, pos, ts_us) = (*epoch, pos_of(position), position.committed_at.0);
        let table = &mut self.tables[number];
        let of_table = self.progress.table_mut(&self.source, &table.name);
        let Some(snapshot) = &mut of_table.snapshot else { return Ok(()) };
        let (Some(begin), Some(cursor)) = (&snapshot.begin, snapshot.sweep.clone()) else { return Ok(()) };
        match table.sweep.step(epoch, begin, cursor).await? {
            Step::Wait => return Ok(()),
            Step::Commit => {
                failpoint::at(ProducerStep::SweepCollected);
                let begin = begin.clone();
                state.moved = true;
                self.flush(state, true).await?;
                self.tables[number].sweep.compare(&begin, self.progress.clone());
                return Ok(());
            }
            Step::Delete(gone) => {
                let source = Source { op: Op::Delete, ts_us, pos: pos.into(), row: snapshot.rows, epoch };
                snapshot.rows = delete(&gone, table_number(number), source, &mut state.batch);
            }
            Step::Advance(next) => snapshot.sweep = Some(next),
            Step::Complete(complete) => {
                let rows = snapshot.emitted();
                (of_table.snapshot, of_table.complete) = (None, Some(complete));
                log_snapshot(&table.name, epoch, rows, false);
            }
        }
        state.moved = true;
        self.flush(state, true).await
    }
}

fn log_snapshot(table: &str, epoch: u64, rows: u64, is_swept_next: bool) {
    if is_swept_next {
        tracing::info!(rows, epoch, table, "every row is read; keys of the topic that are gone are deleted next");
    } else {
        tracing::info!(rows, epoch, table, "snapshot complete");
    }
}

/// Moves keys from `gone` into `batch` as deletes with this source, until the batch is full. Returns the next record
/// number.
fn delete(gone: &Candidates, table: u16, mut source: Source<'_>, batch: &mut Batch) -> u64 {
    let mut gone = gone.lock();
    while !batch.is_full()
        && let Some(key) = gone.pop_first()
    {
        batch.push(table, Change::Gone(&key), &source);
        source.row += 1;
    }
    source.row
}
