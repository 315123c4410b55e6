//! Publishes batches in Kafka transactions, each with the progress it brings: the only place where progress moves.
//!
//! Invariant: a Kafka transaction ends at the end of a transaction of the source, and the progress record in it says
//! exactly that end. The publisher blocks, so it has a thread of its own.

use std::time::{Duration, Instant};

use pipeline::config::{KafkaSettings, OnRefused};
use pipeline::error::{Error, Result};
use pipeline::failpoint;
use pipeline::kafka::{Failure, LastRecords, Record, TopicSpec, TransactionalProducer};
use pipeline::position::{CHECKPOINT_SUFFIX, Progress};
use pipeline::record::SOURCE_HEADER;
use pipeline::refused_row::ORIGIN_HEADER;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use crate::batch::Batch;
use crate::run::ProducerSettings;
use crate::status::Status;

/// How often Kafka is asked for a sign of life, and for the number of the topic's partitions.
const ASK_KAFKA_EVERY: Duration = Duration::from_secs(2);

/// How long a Kafka transaction gathers records while more wait, as over a slow link: far below `kafka.transaction_timeout`.
const LONGEST: Duration = Duration::from_secs(5);

/// When a Kafka transaction is committed: whichever comes first, at the next end of a transaction of the source. Small and
/// soon when nothing more waits, large when there is a backlog.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Records.
    pub rows: usize,
    /// Bytes.
    pub bytes: usize,
    /// Time since the last commit, when nothing more waits to be sent: a change after a quiet moment goes out at once.
    pub linger: Duration,
}

/// Where the records go.
#[derive(Clone, Debug)]
pub struct Target {
    /// Topic of the products.
    pub topic: String,
    /// Topic of the progress.
    pub checkpoint_topic: String,
    /// Topic of the dead letters; `None` when a row that can't be carried stops the stream.
    pub parked_topic: Option<String>,
    /// `database.table`, the key of the progress.
    pub source: String,
}

impl Target {
    /// The topics as configured.
    pub fn new(settings: &ProducerSettings) -> Self {
        let topic = settings.kafka.topic.clone();
        let parks = settings.on_refused == OnRefused::DeadLetter;
        let parked_topic = parks.then(|| TopicSpec::dead_letters(&settings.kafka).name);
        Self { checkpoint_topic: format!("{topic}{CHECKPOINT_SUFFIX}"), topic, parked_topic, source: settings.source() }
    }

    /// The topics that must be there.
    pub fn topics(&self, settings: &KafkaSettings) -> Vec<TopicSpec> {
        let mut topics = vec![TopicSpec::products(settings), TopicSpec::compacted(self.checkpoint_topic.clone(), 1)];
        topics.extend(self.parked_topic.as_ref().map(|_| TopicSpec::dead_letters(settings)));
        topics
    }

    /// The committed progress; `None` when there never was any. Blocks.
    ///
    /// # Errors
    /// Transient when Kafka can't be reached; definite when the record is of another form.
    pub fn progress(&self, records: LastRecords) -> Result<Option<Progress>> {
        let Some(bytes) = records.find(&self.checkpoint_topic, 0, self.source.as_bytes())? else { return Ok(None) };
        let unreadable = |reason: String| {
            Error::definite(format!("the progress of {} in {}: {reason}", self.source, self.checkpoint_topic))
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

/// A publisher and what it needs.
pub struct Publisher {
    /// Its producer.
    pub producer: TransactionalProducer,
    /// Where records go.
    pub target: Target,
    /// When it commits.
    pub limits: Limits,
    /// Full batches.
    pub batches: mpsc::Receiver<Batch>,
    /// Empty batches, to be filled again.
    pub spare: mpsc::UnboundedSender<Batch>,
    /// What it tries to commit next; its outcome is unknown when the publisher fails.
    pub attempted: watch::Sender<Option<Progress>>,
    /// What is committed.
    pub committed: watch::Sender<Option<Progress>>,
    /// Where it reports.
    pub status: Status,
}

/// How a publisher failed; what it held is either committed whole or not at all.
#[derive(Debug)]
pub struct Stopped {
    /// Why.
    pub failure: Failure,
    /// Since when its transaction was open; `None` when none was.
    pub open_for: Option<Duration>,
}

struct Open {
    since: Instant,
    rows: usize,
    /// Dead letters among them.
    parked: usize,
    bytes: usize,
    /// The progress to commit; `None` within a transaction of the source.
    end: Option<Progress>,
}

impl Publisher {
    /// Publishes until the channel is closed, then commits what is complete. To be run on a blocking thread.
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
        loop {
            if asked_at.elapsed() >= ASK_KAFKA_EVERY {
                if self.producer.answers(&self.target.topic, ASK_KAFKA_EVERY)? {
                    self.status.kafka_answered();
                }
                asked_at = Instant::now();
            }
            // At the end of a source transaction the linger bounds the wait; within one there is nothing to commit yet.
            let to_commit = open.as_ref().filter(|o| o.end.is_some());
            let wait = to_commit.map_or(ASK_KAFKA_EVERY, |_| self.limits.linger.saturating_sub(committed_at.elapsed()));
            let batch = runtime.block_on(async { tokio::time::timeout(wait, self.batches.recv()).await.ok() });
            match batch {
                Some(Some(batch)) => {
                    // A transaction of the source that is longer than a batch has one of Kafka's to itself: should it not
                    // come to its end, what was complete before it is not held up.
                    if batch.end.is_none() && open.as_ref().is_some_and(|o| o.end.is_some()) {
                        self.commit_open(open)?;
                        committed_at = Instant::now();
                    }
                    let status = self.status.clone();
                    status.while_waiting("Kafka takes the records", || self.add(batch, open))?;
                }
                Some(None) => {
                    // Half a transaction stays open; the next producer's init aborts it.
                    return self.commit_open(open);
                }
                // The linger is over, and it is committed below; or nothing came.
                None => {}
            }
            let in_time = |o: &Open| match self.batches.is_empty() {
                true => committed_at.elapsed() >= self.limits.linger,
                false => o.since.elapsed() >= LONGEST,
            };
            let full = |o: &Open| o.rows >= self.limits.rows || o.bytes >= self.limits.bytes || in_time(o);
            if open.as_ref().is_some_and(|o| o.end.is_some() && full(o)) {
                self.commit_open(open)?;
                committed_at = Instant::now();
            }
        }
    }

    fn add(&self, mut batch: Batch, open: &mut Option<Open>) -> Result<(), Failure> {
        if open.is_none() {
            self.producer.begin()?;
            failpoint::at("producer.begun");
        }
        let open = open.get_or_insert_with(|| Open { since: Instant::now(), rows: 0, parked: 0, bytes: 0, end: None });
        let point = match batch.end.as_ref().and_then(|end| end.snapshot.as_ref()) {
            None => "producer.sending",
            Some(snapshot) if snapshot.sweep.is_none() => "producer.chunk-sending",
            Some(_) => "producer.sweep-sending",
        };
        for (index, entry) in batch.iter().enumerate() {
            let (topic, partition, header) = match &self.target.parked_topic {
                Some(parked) if entry.is_parked => (parked, Some(0), ORIGIN_HEADER),
                _ => (&self.target.topic, None, SOURCE_HEADER),
            };
            let header = Some((header, entry.header));
            self.producer.send(&Record { topic, partition, key: entry.key, value: entry.value, header })?;
            if index == batch.len() / 2 {
                failpoint::at(point);
            }
        }
        let sent = self.producer.in_flight();
        self.producer.poll();
        // The poll itself takes one event, which may be of any kind; acknowledgements come by the batch.
        if self.producer.in_flight() + 1 < sent {
            self.status.kafka_answered();
        }
        open.rows += batch.len();
        open.parked += batch.parked();
        open.bytes += batch.bytes();
        open.end = batch.end.take();
        batch.clear();
        // The reader may be gone already; then nobody wants the memory.
        drop(self.spare.send(batch));
        Ok(())
    }

    fn commit_open(&self, open: &mut Option<Open>) -> Result<(), Failure> {
        if let Some(Open { rows, parked, end: Some(end), .. }) = open {
            self.commit(*rows - *parked, *parked, end.clone())?;
            *open = None;
        }
        Ok(())
    }

    fn commit(&self, rows: usize, parked: usize, end: Progress) -> Result<(), Failure> {
        let value = serde_json::to_vec(&end).map_err(|e| {
            tracing::error!(error = %e, "the progress can't be written as JSON");
            Failure::Broken(rdkafka::error::KafkaError::Canceled)
        })?;
        self.producer.send(&Record {
            topic: &self.target.checkpoint_topic,
            partition: Some(0),
            key: self.target.source.as_bytes(),
            value: Some(&value),
            header: None,
        })?;
        self.attempted.send_replace(Some(end.clone()));
        failpoint::at("producer.sent");
        self.status.while_waiting("Kafka commits", || self.producer.commit())?;
        failpoint::at("producer.committed");
        self.status.committed(rows, parked, &end);
        self.committed.send_replace(Some(end));
        Ok(())
    }
}
