//! The end of a snapshot: deletes the keys in the topic that are gone from the table, with bounded memory, while the
//! stream continues.
//!
//! When an epoch begins, it notes the end of each partition of the topic: `begin`. Once the snapshot's last row is
//! committed, each key of the table has a record at or behind `begin`. So a key is gone when its newest record is
//! before `begin` and has a value. The sweep searches for such keys in passes, in the order of partition and key:
//!
//! 1. *Collect*: reads the records before `begin`. A pass keeps as many of the smallest live keys as memory allows, and
//!    ends before the first key that does not fit.
//! 2. From now on the stream removes each key that it touches from the pass, and the present progress is committed.
//! 3. *Compare*: after that commit, reads the records from `begin` to the end and removes their keys from the pass too.
//! 4. *Delete*: the remaining keys are gone. Writes their tombstones in parts, between two transactions of the stream;
//!    then the progress moves behind the pass.
//!
//! Step 3 reads all records that were written before step 2, and the stream itself removes the later keys. A crash
//! repeats the pass: it reads the tombstones that it has already written, and writes none twice. The sweep depends
//! neither on the number of the epoch nor on the table, so a table that does not exist counts as empty.

use std::collections::BTreeSet;
use std::future::pending;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use avro::Decoder;
use avro::writer_schema::WriterSchemas;
use kafka::LastRecords;
use model::change::{Op, SOURCE_HEADER, Source};
use model::error::{Error, Result};
use model::position::{CompleteSnapshot, Progress, SweepCursor, compare_files};
use model::row::{Datum, recycle};
use model::row_key::{is_key_of, read_key};
use mysql::table::SourceTable;
use rdkafka::Message;
use rdkafka::message::BorrowedMessage;
use runtime::config::{KafkaSettings, RegistrySettings};
use runtime::failpoint;
use runtime::step::ProducerStep;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::settings::panicked;
use crate::stream::SAY_EVERY;

/// Bytes that a key takes in a pass beside its own: its place in the set and its allocation.
const KEY_BYTES: usize = 48;

/// The keys of records, in the order of their bytes.
pub type Keys = BTreeSet<Box<[u8]>>;

/// How often a quiet stream checks whether the background task has ended.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The keys of a pass that are live before `begin` and have no known newer record. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Candidates(Arc<Mutex<Keys>>);

impl Candidates {
    /// The keys, locked until the guard is dropped.
    pub fn lock(&self) -> MutexGuard<'_, Keys> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Chooses the keys of a pass from the records before `begin`, which arrive partition by partition.
#[derive(Debug)]
struct Collector {
    /// Bytes of keys.
    limit: usize,
    /// Live keys of the partitions that were read to their end.
    earlier: Keys,
    /// Live keys of the partition that is being read.
    current: Keys,
    /// Bytes of all these keys.
    held: usize,
    /// All earlier partitions are done, and in this partition the keys before `from`.
    cursor: SweepCursor,
    /// The smallest key of this partition that did not fit.
    excluded: Option<Box<[u8]>>,
}

impl Collector {
    /// A pass that begins at `cursor` and keeps at most `limit` bytes of keys, or one key.
    fn new(cursor: SweepCursor, limit: usize) -> Self {
        Self { limit, earlier: Keys::new(), current: Keys::new(), held: 0, cursor, excluded: None }
    }

    /// Takes the next record of the partition: its key, and whether it has a value.
    fn take(&mut self, key: &[u8], is_alive: bool) {
        let is_done = self.cursor.from.as_ref().is_some_and(|from| key < from.as_bytes());
        if is_done || self.excluded.as_ref().is_some_and(|first| key >= &**first) {
            return;
        }
        if !is_alive {
            if self.current.remove(key) {
                self.held -= key.len() + KEY_BYTES;
            }
            return;
        }
        if self.current.contains(key) {
            return;
        }
        self.current.insert(key.into());
        self.held += key.len() + KEY_BYTES;
        while self.held > self.limit
            && self.current.len() > 1
            && let Some(last) = self.current.pop_last()
        {
            self.held -= last.len() + KEY_BYTES;
            self.excluded = Some(last);
        }
    }

    /// The partition was read to its end. Returns whether the pass continues with the next one: it does if there is
    /// room for more than a few of its keys.
    fn end_partition(&mut self) -> bool {
        self.earlier.append(&mut self.current);
        match self.excluded.take() {
            Some(first) => self.cursor.from = Some(String::from_utf8_lossy(&first).into_owned()),
            None => self.cursor = SweepCursor { partition: self.cursor.partition + 1, from: None },
        }
        self.cursor.from.is_none() && self.held <= self.limit / 2
    }
}

/// One pass.
#[derive(Clone, Debug)]
struct Pass {
    gone: Candidates,
    /// The begin of this pass, and the begin of the next one.
    from: SweepCursor,
    next: SweepCursor,
}

/// The state of the pass in the background.
#[derive(Debug)]
enum Stage {
    Idle,
    Collecting(JoinHandle<Result<Pass>>),
    Collected(Pass),
    /// In the last pass the task returns the offsets behind the last records.
    Comparing(Pass, JoinHandle<Result<Vec<i64>>>),
    Deleting(Pass, Vec<i64>),
}

/// The reader's next action, between two transactions.
#[derive(Debug)]
pub enum Step {
    /// Nothing: the background task is running.
    Wait,
    /// Commit the progress as it is, then call [`Sweep::compare`] with it.
    Commit,
    /// Delete some of these keys, which are gone, and remove them from the set; then call [`Sweep::step`] again.
    Delete(Candidates),
    /// Every key before this cursor is done.
    Advance(SweepCursor),
    /// Every key is done.
    Complete(CompleteSnapshot),
}

/// The sweep of one session.
#[derive(Debug)]
pub struct Sweep {
    topic: Arc<Topic>,
    committed: watch::Receiver<Option<Progress>>,
    /// Bytes of keys in a pass.
    limit: usize,
    stage: Stage,
}

#[derive(Debug)]
struct Topic {
    settings: KafkaSettings,
    registry: RegistrySettings,
    table: SourceTable,
    partitions: usize,
    /// The session has ended: background reads stop.
    stop: AtomicBool,
}

impl Drop for Sweep {
    fn drop(&mut self) {
        self.topic.stop.store(true, Ordering::Relaxed);
    }
}

impl Sweep {
    /// A sweep of the records of this table that keeps at most `memory` bytes of keys; `committed` receives the progress
    /// that is in Kafka.
    pub fn new(
        (settings, registry): (KafkaSettings, RegistrySettings),
        table: SourceTable,
        committed: watch::Receiver<Option<Progress>>,
        memory: usize,
    ) -> Self {
        let partitions = usize::try_from(settings.partitions).unwrap_or(0);
        let topic = Arc::new(Topic { settings, registry, table, partitions, stop: AtomicBool::new(false) });
        Self { topic, committed, limit: memory, stage: Stage::Idle }
    }

    /// The keys from which the stream must remove those that it touches; `None` while there are none.
    pub fn candidates(&self) -> Option<MutexGuard<'_, Keys>> {
        match &self.stage {
            Stage::Idle | Stage::Collecting(_) => None,
            Stage::Collected(pass) | Stage::Comparing(pass, _) | Stage::Deleting(pass, _) => Some(pass.gone.lock()),
        }
    }

    /// Whether a pass is running.
    pub fn is_running(&self) -> bool {
        !matches!(self.stage, Stage::Idle)
    }

    /// Returns when [`Sweep::step`] would not return [`Step::Wait`]; never while no pass is running.
    pub async fn ready(&self) {
        loop {
            // `step` reads the task's result, since a task that has ended may be awaited only once.
            match &self.stage {
                Stage::Idle => pending().await,
                Stage::Collecting(task) if !task.is_finished() => {}
                Stage::Comparing(_, task) if !task.is_finished() => {}
                _ => return,
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The next step of the sweep at `cursor`, for the snapshot that began `epoch` at `begin`.
    ///
    /// # Errors
    /// Transient when Kafka can't be reached, definite when it refuses.
    pub async fn step(&mut self, epoch: u64, begin: &[i64], cursor: SweepCursor) -> Result<Step> {
        let (stage, step) = match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Idle => (Stage::Collecting(self.spawn_collect(begin.to_vec(), cursor)), Step::Wait),
            Stage::Collecting(task) if task.is_finished() => {
                let pass = task.await.map_err(|e| panicked("reading the topic", &e))??;
                (Stage::Collected(pass), Step::Commit)
            }
            Stage::Comparing(pass, task) if task.is_finished() => {
                let ends = task.await.map_err(|e| panicked("reading the topic", &e))??;
                failpoint::at(ProducerStep::SweepCompared);
                (Stage::Deleting(pass, ends), Step::Wait)
            }
            Stage::Deleting(pass, ends) => {
                if !pass.gone.lock().is_empty() {
                    let step = Step::Delete(pass.gone.clone());
                    (Stage::Deleting(pass, ends), step)
                } else if pass.next.partition < self.topic.partitions {
                    (Stage::Idle, Step::Advance(pass.next.clone()))
                } else {
                    let complete = CompleteSnapshot { epoch, begin: begin.to_vec(), end: ends };
                    (Stage::Idle, Step::Complete(complete))
                }
            }
            waiting => (waiting, Step::Wait),
        };
        self.stage = stage;
        Ok(step)
    }

    /// Call it after the progress `marked` was handed over for [`Step::Commit`], while the stream removes the keys that
    /// it touches. Once that progress is committed, it compares the keys with the records since `begin`.
    pub fn compare(&mut self, begin: &[i64], marked: Progress) {
        if let Stage::Collected(pass) = std::mem::replace(&mut self.stage, Stage::Idle) {
            let task = self.spawn_compare(begin.to_vec(), pass.clone(), marked);
            self.stage = Stage::Comparing(pass, task);
        }
    }

    fn spawn_collect(&self, begin: Vec<i64>, from: SweepCursor) -> JoinHandle<Result<Pass>> {
        let (topic, limit) = (Arc::clone(&self.topic), self.limit);
        tokio::task::spawn_blocking(move || {
            let (records, mut reading) = (LastRecords::new(&topic.settings)?, topic.reading()?);
            let mut collector = Collector::new(from.clone(), limit);
            while let Some(end) = begin.get(collector.cursor.partition) {
                topic.read(
                    &records,
                    &mut reading,
                    collector.cursor.partition,
                    0..*end,
                    &mut |key, record| match record {
                        Found::State | Found::Foreign => collector.take(key, true),
                        Found::Tombstone => collector.take(key, false),
                        Found::ForeignTombstone => {}
                    },
                )?;
                if !collector.end_partition() {
                    break;
                }
            }
            let gone = Candidates(Arc::new(Mutex::new(collector.earlier)));
            Ok(Pass { gone, from, next: collector.cursor })
        })
    }

    fn spawn_compare(&self, begin: Vec<i64>, pass: Pass, marked: Progress) -> JoinHandle<Result<Vec<i64>>> {
        let (topic, mut committed) = (Arc::clone(&self.topic), self.committed.clone());
        tokio::spawn(async move {
            let reached = committed.wait_for(|c| c.as_ref().is_some_and(|c| includes(c, &marked))).await.map(drop);
            reached.map_err(|_| Error::transient("the publisher has stopped"))?;
            let read = tokio::task::spawn_blocking(move || {
                let (records, mut reading) = (LastRecords::new(&topic.settings)?, topic.reading()?);
                // Read after the commit, so that all records of the commit are before these ends.
                let bounds = records.bounds(&topic.settings.topic, topic.partitions)?;
                let behind = pass.next.partition + usize::from(pass.next.from.is_some());
                for partition in pass.from.partition..behind {
                    if pass.gone.lock().is_empty() {
                        break;
                    }
                    topic.read(
                        &records,
                        &mut reading,
                        partition,
                        begin[partition]..bounds[partition].end,
                        &mut |key, record| {
                            if matches!(record, Found::State | Found::Tombstone) {
                                pass.gone.lock().remove(key);
                            }
                        },
                    )?;
                }
                let is_last = pass.next.partition == topic.partitions;
                let partitions = (0..).zip(bounds).filter(|_| is_last);
                partitions.map(|(partition, bounds)| topic.behind_last(&records, partition, bounds.end)).collect()
            });
            read.await.map_err(|e| panicked("reading the topic", &e))?
        })
    }
}

/// What a record of the topic says of its key. A record that consumers can't decode must not decide which products the sweep
/// deletes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    State,
    Tombstone,
    Foreign,
    ForeignTombstone,
}

/// Tells what the records say. It decodes each value by its writer's schema, as the consumers do.
struct Reading {
    schemas: WriterSchemas<Decoder>,
    table: SourceTable,
    buffer: Vec<u8>,
    row: Vec<Datum<'static>>,
}

impl Reading {
    fn found(&mut self, key: &[u8], message: &BorrowedMessage<'_>) -> Result<Found> {
        let source = kafka::header(message, SOURCE_HEADER).and_then(|header| Source::parse(header).ok());
        Ok(match (message.payload(), source.map(|source| source.op == Op::Delete)) {
            (Some(value), Some(false)) if self.is_of_key(value, key, message)? => Found::State,
            (None, Some(true)) => Found::Tombstone,
            (Some(_), _) => Found::Foreign,
            (None, _) => Found::ForeignTombstone,
        })
    }

    fn is_of_key(&mut self, value: &[u8], key: &[u8], message: &BorrowedMessage<'_>) -> Result<bool> {
        let (partition, offset) = (message.partition(), message.offset());
        self.schemas.look_up(Some(value), partition, offset)?;
        if avro::split(value).is_err() {
            return Ok(false);
        }
        // A registry that has lost a schema must not make the rows that were written with it look gone.
        let Ok(found) = self.schemas.decoders().find(value, partition, offset) else { return Ok(true) };
        let mut row = recycle(std::mem::take(&mut self.row));
        let is_decoded = found.decoder.decode(found.body, &mut row).is_ok();
        let is_of_key = is_decoded && is_key_of(found.decoder.schema(), &row, key, &mut self.buffer);
        self.row = recycle(row);
        Ok(is_of_key)
    }

    /// Whether a row of the table may have the key.
    fn is_key(&self, key: &[u8]) -> bool {
        read_key(&self.table.schema, key).is_ok()
    }
}

impl Topic {
    fn reading(&self) -> Result<Reading> {
        let table = self.table.clone();
        let pinned = (!table.is_derived).then_some(&*table.schema_text);
        let make = Box::new(|text: &str| Decoder::new(text));
        let schemas = WriterSchemas::new(self.registry.clone(), self.settings.clone(), pinned, make)?;
        Ok(Reading { schemas, table, buffer: Vec::new(), row: Vec::new() })
    }

    /// Hands the committed records of a partition whose key is the plain form of an id that belongs there to `each`.
    fn read(
        &self,
        records: &LastRecords,
        reading: &mut Reading,
        partition: usize,
        range: Range<i64>,
        each: &mut dyn FnMut(&[u8], Found),
    ) -> Result<()> {
        let stops = || self.stop.load(Ordering::Relaxed);
        let (end, mut said) = (range.end, Instant::now());
        records.read_range(&self.settings.topic, partition as i32, range, &stops, &mut |message| {
            if said.elapsed() >= SAY_EVERY {
                said = Instant::now();
                tracing::info!(partition, offset = message.offset(), end, "looking for keys that are gone");
            }
            let is_here = |key: &&[u8]| {
                reading.is_key(key) && kafka::partition_of(key, self.partitions as i32) == partition as i32
            };
            if let Some(key) = message.key().filter(is_here) {
                each(key, reading.found(key, message)?);
            }
            Ok(())
        })?;
        if stops() { Err(Error::transient("the session has ended")) } else { Ok(()) }
    }

    /// The offset behind the last committed record before `end`; 0 if there is none.
    fn behind_last(&self, records: &LastRecords, partition: usize, end: i64) -> Result<i64> {
        let (stops, take) =
            (|| self.stop.load(Ordering::Relaxed), |message: &BorrowedMessage<'_>| Some(message.offset() + 1));
        let last = records.last_before(&self.settings.topic, partition as i32, end, &stops, &take)?;
        if stops() { Err(Error::transient("the session has ended")) } else { Ok(last.unwrap_or(0)) }
    }
}

/// Whether `committed` includes everything that was handed over up to `marked`: the stream has come as far, and so have
/// the snapshots, which do not move while a pass is compared.
fn includes(committed: &Progress, marked: &Progress) -> bool {
    let (a, b) = (&committed.position, &marked.position);
    committed.snapshots().eq(marked.snapshots())
        && compare_files(&a.file, &b.file).then(a.offset.cmp(&b.offset)).is_ge()
}

#[cfg(test)]
mod tests;
