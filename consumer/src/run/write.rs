//! A batch on its way through its durable steps, in the order of [`cycle::next`].

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Instant;

use kafka::{Failure, Partition, TransactionalProducer};
use model::error::Error;
use runtime::failpoint;
use runtime::step::ConsumerStep;

use super::{Batch, Session, Worker};
use crate::batch_error::BatchError;
use crate::commit::Commit;
use crate::cycle::{self, Action, Part};
use crate::dead_letter::DeadLetter;
use crate::folder::unwritable;
use crate::log_sync::LineSync;
use crate::opening::Committed;
use crate::parking;
use crate::sink::Parked;

/// The contents of a batch's Kafka transaction.
#[derive(Default)]
struct Prepared {
    /// The slot's state with this batch.
    committed: Committed,
    /// The offsets that it moves.
    offsets: BTreeMap<Partition, i64>,
    /// These, and offsets that stay where they are.
    of_group: BTreeMap<Partition, i64>,
    /// The dead letters of records that PostgreSQL does not store.
    letters: Vec<DeadLetter>,
}

impl Worker {
    /// Writes a batch to each output and commits it.
    pub(super) fn finish(&mut self, session: &mut Session, batch: &Batch) -> Result<(), BatchError> {
        self.in_hand.store(true, Ordering::Relaxed);
        let written = self.write(session, batch);
        self.in_hand.store(false, Ordering::Relaxed);
        if written? { Ok(()) } else { self.roll_back(session) }
    }

    /// `false` when the batch must be read again in parts.
    fn write(&mut self, session: &mut Session, batch: &Batch) -> Result<bool, BatchError> {
        let (mut owed, mut prepared, mut sync) = (Vec::new(), Prepared::default(), None);
        self.readiness.busy();
        let mut step = ConsumerStep::Polled;
        while let Some(action) = cycle::next(step) {
            step = match action {
                Action::StoreRows => {
                    let Some(parked) = self.write_rows(&batch.outcome, batch.records)? else { return Ok(false) };
                    owed = parked;
                    ConsumerStep::RowsCommitted
                }
                Action::AppendLines => {
                    let length = self.append(session, &batch.outcome.lines)?;
                    failpoint::at(ConsumerStep::Appended);
                    sync = (!batch.outcome.lines.is_empty()).then(|| self.log_sync.begin(session.log.sync()));
                    let Some(transaction) = self.prepare(session, batch, &owed, length)? else { break };
                    prepared = transaction;
                    ConsumerStep::Appended
                }
                Action::SyncLines => {
                    self.end_sync(session, sync.take())?;
                    failpoint::at(ConsumerStep::Synced);
                    ConsumerStep::Synced
                }
                Action::Transact(part) => self.transact(session, batch, &prepared, part)?,
            };
        }
        if step == ConsumerStep::Committed {
            self.note_committed(session, batch, prepared);
        }
        self.note_parked(&owed)?;
        self.parking.done(batch.records);
        self.readiness.done();
        self.finished = Instant::now();
        self.metrics.show_lag(&session.group.lag(), session.group.last_answer());
        Ok(true)
    }

    /// Appends the lines; returns the log's new length.
    fn append(&mut self, session: &mut Session, lines: &[u8]) -> Result<u64, BatchError> {
        let log = &mut session.log;
        // A person may have cut the file during the PostgreSQL transaction.
        log.check()?;
        let appended = self.readiness.disk.during(|| log.append(lines));
        Ok(appended.map_err(|e| unwritable(log.path(), e))?)
    }

    /// Waits until the lines are durable; without that, the transaction is aborted.
    fn end_sync(&self, session: &Session, sync: Option<LineSync>) -> Result<(), BatchError> {
        let Some(mut sync) = sync else { return Ok(()) };
        let synced = self.readiness.disk.during(|| sync.wait());
        synced.map_err(|e| self.give_up(&session.producer, unwritable(session.log.path(), e).into()))
    }

    /// The Kafka transaction of the batch; `None` when it needs none.
    fn prepare(
        &mut self,
        session: &Session,
        batch: &Batch,
        owed: &[Parked],
        length: u64,
    ) -> Result<Option<Prepared>, BatchError> {
        let Batch { outcome, group, .. } = batch;
        let of = |topic| self.tables.get(&topic).map(|table| (&table.kafka, table.name.as_str()));
        let letters = self.parking.letters(&of, owed, outcome, &group.committed)?;
        let offsets = group.moves(outcome.rows.next());
        if offsets.is_empty() && letters.is_empty() {
            return Ok(None);
        }
        let tail = session.log.tail(length).map_err(|e| unwritable(session.log.path(), e))?;
        let mut committed = Committed { length, tail: Some(tail), offsets: session.done.clone() };
        committed.offsets.extend(&offsets);
        let mut of_group = parking::stay(owed, &offsets, &group.committed);
        of_group.extend(&offsets);
        Ok(Some(Prepared { committed, offsets, of_group, letters }))
    }

    /// Carries out a part of the transaction; returns the step that is done.
    fn transact(
        &self,
        session: &Session,
        batch: &Batch,
        prepared: &Prepared,
        part: Part,
    ) -> Result<ConsumerStep, BatchError> {
        let lost = || BatchError::Retry(Error::transient("the consumer is not a member of its group yet"));
        let commit = Commit {
            settings: &self.kafka,
            topics: &self.topics,
            checkpoint: &session.checkpoint,
            committed: &prepared.committed,
            offsets: &prepared.of_group,
            member: batch.group.metadata.as_deref().ok_or_else(lost)?,
            letters: [&batch.outcome.dead, &prepared.letters],
        };
        let outcome = self.readiness.while_waiting("Kafka commits the batch", || commit.run(&session.producer, part));
        outcome.map_err(|failure| self.abort(&session.producer, failure))
    }

    /// Aborts the transaction after a failure, if it can be aborted.
    fn abort(&self, producer: &TransactionalProducer, failure: Failure) -> BatchError {
        self.metrics.aborts.add(1);
        let is_abortable = failure.is_abortable();
        let why = BatchError::of(failure);
        if is_abortable { self.give_up(producer, why) } else { why }
    }

    /// Aborts the transaction; returns why the batch is not committed.
    fn give_up(&self, producer: &TransactionalProducer, why: BatchError) -> BatchError {
        match self.readiness.while_waiting("Kafka aborts the batch", || producer.abort()) {
            Ok(()) => why,
            Err(failure) => BatchError::broken(failure),
        }
    }

    fn note_committed(&mut self, session: &mut Session, batch: &Batch, prepared: Prepared) {
        let length = prepared.committed.length;
        session.done = prepared.committed.offsets;
        session.log.note_committed(length);
        session.group.note_committed(&prepared.offsets);
        self.metrics.committed(length, &batch.newest);
        self.metrics.count(&batch.outcome);
    }
}
