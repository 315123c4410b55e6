//! Publishes batches in Kafka transactions, each with its progress: the only place where progress moves.
//!
//! Invariant: a Kafka transaction ends at the end of a transaction of the source, and its progress record has exactly
//! that position. The publisher blocks, so it has a separate thread.

use std::time::{Duration, Instant};

use kafka::{Failure, LastRecords, Record, TopicSpec, TransactionalProducer};
use model::change::SOURCE_HEADER;
use model::error::{Code, Error, Result};
use model::position::Progress;
use mysql::refused_row::ORIGIN_HEADER;
use runtime::config::{KafkaSettings, OnRefused};
use runtime::failpoint;
use runtime::step::ProducerStep;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use crate::batch::Batch;
use crate::open_transaction::OpenTransaction;
use crate::settings::{Limits, ProducerSettings};
use crate::status::Status;

/// How often to check that Kafka answers, and the number of the topic's partitions.
const ASK_KAFKA_EVERY: Duration = Duration::from_secs(2);

/// Maximum time that a Kafka transaction gathers records while more are waiting, e.g. over a slow link: far below
/// `kafka.transaction_timeout`.
const LONGEST: Duration = Duration::from_secs(5);

/// The topics of the records.
#[derive(Clone, Debug)]
pub struct Target {
    /// Topic of the table.
    pub topic: String,
    /// Its number of partitions.
    pub partitions: i32,
    /// Topic of the progress.
    pub checkpoint_topic: String,
    /// Topic of the dead letters; `None` when a row that can't be carried stops the stream.
    pub parked_topic: Option<String>,
    /// The main table, `database.table`, the key of the progress.
    pub source: String,
}

impl Target {
    /// The topic of the table and that of the progress.
    pub fn names(&self) -> (&str, &str) {
        (&self.topic, &self.checkpoint_topic)
    }

    /// The number of the topic's partitions.
    pub fn partition_count(&self) -> usize {
        usize::try_from(self.partitions).unwrap_or(0)
    }

    /// The topics as configured.
    pub fn new(settings: &ProducerSettings) -> Self {
        let KafkaSettings { topic, checkpoint_topic, partitions, .. } = settings.kafka.clone();
        let parks = settings.on_refused == OnRefused::DeadLetter;
        let parked_topic = parks.then(|| TopicSpec::dead_letters(&settings.kafka).name);
        Self { checkpoint_topic, topic, partitions, parked_topic, source: settings.source() }
    }

    /// The required topics.
    pub fn topics(&self, settings: &KafkaSettings) -> Vec<TopicSpec> {
        let mut topics = vec![TopicSpec::products(settings), TopicSpec::compacted(self.checkpoint_topic.clone(), 1)];
        topics.extend(self.parked_topic.as_ref().map(|_| TopicSpec::dead_letters(settings)));
        topics
    }

    /// The committed progress; `None` when none was ever committed. Blocks.
    ///
    /// # Errors
    /// Transient when Kafka can't be reached; definite when the record can't be read.
    pub fn progress(&self, records: LastRecords) -> Result<Option<Progress>> {
        let Some(bytes) = records.find(&self.checkpoint_topic, 0, self.source.as_bytes())? else { return Ok(None) };
        let unreadable = |reason: String| {
            Error::new(
                Code::ProgressUnreadable,
                format!("the progress of {} in {}: {reason}", self.source, self.checkpoint_topic),
            )
            .with_remedy("was it written by a newer version of this program?")
        };
        let progress: Progress = serde_json::from_slice(&bytes).map_err(|e| unreadable(e.to_string()))?;
        if progress.version == 1 {
            Ok(Some(progress))
        } else {
            Err(unreadable(format!("version {}", progress.version)))
        }
    }
}

/// A publisher with its channels.
pub struct Publisher {
    /// Its producer.
    pub producer: TransactionalProducer,
    /// Where the records of each table go, by its number; there is one at least.
    pub targets: Vec<Target>,
    /// When it commits.
    pub limits: Limits,
    /// Full batches.
    pub batches: mpsc::Receiver<Batch>,
    /// Empty batches for reuse.
    pub recycled: mpsc::UnboundedSender<Batch>,
    /// The progress that it tries to commit next; the outcome is unknown when the publisher fails.
    pub attempted: watch::Sender<Option<Progress>>,
    /// The committed progress.
    pub committed: watch::Sender<Option<Progress>>,
    /// Where it reports.
    pub status: Status,
}

/// How a publisher failed; its open transaction is either committed as a whole or not at all.
#[derive(Debug)]
pub struct Stopped {
    /// Why.
    pub failure: Failure,
    /// How long its transaction was open; `None` without one.
    pub open_for: Option<Duration>,
}

struct Open {
    since: Instant,
    transaction: OpenTransaction<Progress>,
}

impl Publisher {
    /// Publishes until the channel is closed, then commits the complete transactions. Run it on a blocking thread.
    ///
    /// # Errors
    /// The failure of a transaction.
    pub fn run(mut self, runtime: &Handle) -> Result<(), Stopped> {
        let mut open = None;
        self.publish(runtime, &mut open)
            .map_err(|failure| Stopped { failure, open_for: open.map(|o: Open| o.since.elapsed()) })
    }

    fn publish(&mut self, runtime: &Handle, open: &mut Option<Open>) -> Result<(), Failure> {
        let (mut committed_at, mut asked_at) = (Instant::now(), Instant::now());
        let mut asked = 0;
        loop {
            if asked_at.elapsed() >= ASK_KAFKA_EVERY {
                // One topic after the other.
                let target = &self.targets[asked % self.targets.len()];
                if self.producer.answers(&target.topic, target.partitions, ASK_KAFKA_EVERY)? {
                    self.status.kafka_answered();
                }
                asked += 1;
                asked_at = Instant::now();
            }
            // At the end of a source transaction the wait is at most the linger; within one there is nothing to commit
            // yet.
            let to_commit = open.as_ref().and_then(|o| o.transaction.end());
            let wait = to_commit.map_or(ASK_KAFKA_EVERY, |_| self.limits.linger.saturating_sub(committed_at.elapsed()));
            let batch = runtime.block_on(async { tokio::time::timeout(wait, self.batches.recv()).await.ok() });
            match batch {
                Some(Some(batch)) => {
                    if open.as_ref().is_some_and(|o| o.transaction.comes_before(batch.end.as_ref())) {
                        self.commit_open(open)?;
                        committed_at = Instant::now();
                    }
                    let status = self.status.clone();
                    status.while_waiting("Kafka takes the records", || self.add(batch, open))?;
                }
                Some(None) => {
                    // The transaction stays open within a source transaction; the next producer's `init_transactions`
                    // aborts it.
                    return self.commit_open(open);
                }
                // The linger is over and the commit follows below, or there is no batch yet.
                None => {}
            }
            let in_time = |o: &Open| match self.batches.is_empty() {
                true => committed_at.elapsed() >= self.limits.linger,
                false => o.since.elapsed() >= LONGEST,
            };
            let Limits { rows, bytes, .. } = self.limits;
            let full = |o: &Open| o.transaction.rows >= rows || o.transaction.bytes >= bytes || in_time(o);
            if open.as_ref().is_some_and(|o| o.transaction.end().is_some() && full(o)) {
                self.commit_open(open)?;
                committed_at = Instant::now();
            }
        }
    }

    fn add(&self, mut batch: Batch, open: &mut Option<Open>) -> Result<(), Failure> {
        if open.is_none() {
            self.producer.begin()?;
            failpoint::at(ProducerStep::Begun);
        }
        let open = open.get_or_insert_with(|| Open { since: Instant::now(), transaction: OpenTransaction::default() });
        let snapshot = batch.end.as_ref().and_then(|end| end.snapshots().flatten().next());
        let point = match snapshot {
            None => ProducerStep::Sending,
            Some(snapshot) if snapshot.sweep.is_none() => ProducerStep::ChunkSending,
            Some(_) => ProducerStep::SweepSending,
        };
        for (index, entry) in batch.iter().enumerate() {
            let target = &self.targets[entry.table];
            let (topic, partition, header) = match &target.parked_topic {
                Some(parked) if entry.is_parked => (parked, 0, ORIGIN_HEADER),
                _ => (&target.topic, kafka::partition_of(entry.key, target.partitions), SOURCE_HEADER),
            };
            let partition = Some(partition);
            let header = Some((header, entry.header));
            self.producer.send(&Record { topic, partition, key: entry.key, value: entry.value, header })?;
            if index == batch.len() / 2 {
                failpoint::at(point);
            }
        }
        let sent = self.producer.in_flight();
        self.producer.poll()?;
        if self.producer.in_flight() < sent {
            self.status.kafka_answered();
        }
        open.transaction.add(batch.len(), batch.parked(), batch.bytes(), batch.end.take());
        batch.clear();
        // When the reader is gone, nobody needs the memory.
        drop(self.recycled.send(batch));
        Ok(())
    }

    fn commit_open(&self, open: &mut Option<Open>) -> Result<(), Failure> {
        if let Some(Open { transaction, .. }) = open
            && let Some(end) = transaction.end()
        {
            self.commit(transaction.rows - transaction.parked, transaction.parked, end.clone())?;
            *open = None;
        }
        Ok(())
    }

    fn commit(&self, rows: usize, parked: usize, end: Progress) -> Result<(), Failure> {
        let value = serde_json::to_vec(&end)
            .map_err(|e| Failure::Broken(format!("the progress can't be written as JSON: {e}")))?;
        self.producer.send(&Record {
            topic: &self.targets[0].checkpoint_topic,
            partition: Some(0),
            key: self.targets[0].source.as_bytes(),
            value: Some(&value),
            header: None,
        })?;
        self.status.while_waiting("Kafka takes the records", || self.producer.flush())?;
        self.attempted.send_replace(Some(end.clone()));
        failpoint::at(ProducerStep::Sent);
        self.status.while_waiting("Kafka commits", || self.producer.commit())?;
        failpoint::at(ProducerStep::Committed);
        self.status.committed(rows, parked, &end);
        self.committed.send_replace(Some(end));
        Ok(())
    }
}
