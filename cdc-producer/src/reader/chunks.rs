//! Between two transactions: the snapshot's chunks, then the sweep.

use model::change::{Op, Source};
use model::error::Result;
use model::position::Progress;
use runtime::failpoint;
use tokio_util::sync::CancellationToken;

use super::{Reader, State};
use crate::batch::{Batch, Change};
use crate::snapshot::{Chunk, ChunkForm, pos_of};
use crate::sweep::{Candidates, Step};

impl Reader {
    /// Between two transactions: reads the next chunk, or emits it batch by batch once the stream has reached its high
    /// watermark; after the last chunk it runs the sweep.
    pub(super) async fn snapshot(&mut self, state: &mut State, shutdown: &CancellationToken) -> Result<()> {
        while let Some(snapshot) = &mut self.progress.main.snapshot
            && !shutdown.is_cancelled()
        {
            if snapshot.sweep.is_some() {
                return self.sweep(state).await;
            }
            let Some(chunk) = &mut state.chunk else {
                // The server sends all requested rows, so a table of long rows gets a smaller limit.
                let limit = state.chunk_limit.clamp(1, self.chunk_rows);
                let form = ChunkForm { limit, bytes: self.chunk_bytes, parks: self.letters.is_some() };
                let (conn, position) = (&mut self.conn, &self.progress.position);
                let chunk = Chunk::read(conn, &self.encoder, position, snapshot.after.clone(), form).await?;
                state.chunk_limit = chunk.cut_at().unwrap_or(limit.saturating_mul(2));
                failpoint::at("producer.chunk-read");
                state.chunk = Some(chunk);
                continue;
            };
            let (file, offset) = chunk.high();
            if !self.stream.has_reached(file, offset) {
                return Ok(());
            }
            let letters = self.letters.as_ref();
            let emitted = chunk.emit(self.progress.epoch, snapshot.rows, letters, &mut state.batch);
            snapshot.rows = emitted.rows;
            if !emitted.is_out || emitted.after.is_some() {
                snapshot.after = emitted.after;
            } else if let Some(read) = self.progress.main.snapshot.take() {
                self.progress.main.snapshot = read.swept();
                self.log_snapshot(emitted.rows);
            }
            if emitted.is_out {
                state.chunk = None;
            }
            state.moved = true;
            self.flush(state, true).await?;
        }
        Ok(())
    }

    /// Between two transactions: runs the next step of the sweep; see [`crate::sweep`].
    async fn sweep(&mut self, state: &mut State) -> Result<()> {
        let Progress { epoch, position, .. } = &self.progress;
        let (epoch, pos, ts_us) = (*epoch, pos_of(position), position.committed_at.0);
        let Some(snapshot) = &mut self.progress.main.snapshot else { return Ok(()) };
        let (Some(begin), Some(cursor)) = (&snapshot.begin, snapshot.sweep.clone()) else { return Ok(()) };
        match self.sweep.step(epoch, begin, cursor).await? {
            Step::Wait => return Ok(()),
            Step::Commit => {
                failpoint::at("producer.sweep-collected");
                let begin = begin.clone();
                state.moved = true;
                self.flush(state, true).await?;
                self.sweep.compare(&begin, self.progress.clone());
                return Ok(());
            }
            Step::Delete(gone) => {
                let source = Source { op: Op::Delete, ts_us, pos: pos.into(), row: snapshot.rows, epoch };
                snapshot.rows = delete(&gone, source, &mut state.batch);
            }
            Step::Advance(next) => snapshot.sweep = Some(next),
            Step::Complete(complete) => {
                let rows = snapshot.rows;
                (self.progress.main.snapshot, self.progress.main.complete) = (None, Some(complete));
                self.log_snapshot(rows);
            }
        }
        state.moved = true;
        self.flush(state, true).await
    }

    fn log_snapshot(&self, rows: u64) {
        let epoch = self.progress.epoch;
        match self.progress.main.snapshot {
            Some(_) => {
                tracing::info!(rows, epoch, "every row is read; keys of the topic that are gone are deleted next")
            }
            None => tracing::info!(rows, epoch, "snapshot complete"),
        }
    }
}

/// Moves keys from `gone` into `batch` as deletes with this source, until the batch is full. Returns the next record
/// number.
fn delete(gone: &Candidates, mut source: Source<'_>, batch: &mut Batch) -> u64 {
    let mut gone = gone.lock();
    while !batch.is_full()
        && let Some(key) = gone.pop_first()
    {
        batch.push(Change::Gone(&key), &source);
        source.row += 1;
    }
    source.row
}
