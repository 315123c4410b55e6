//! The consumer's loop: poll a batch, transform it, write it to each output, commit it.
//!
//! A batch has three steps: the PostgreSQL transaction, then the append to the log, then one Kafka transaction with the
//! dead letters, the log checkpoint with its new length, and the group's offsets. The Kafka transaction decides whether
//! the batch counts; the log's fdatasync runs beside it and ends before its commit is sent. After a crash, a kill or an
//! error at each point, this is left and repaired:
//!
//! | it ended | what is left | what repairs it |
//! |---|---|---|
//! | while polling or transforming | nothing | the records are read again |
//! | after PostgreSQL's commit | rows, and `product_offsets` ahead of the group | the batch is read again; PostgreSQL skips the rows that it has |
//! | in mid-append, or before the commit | torn or whole lines behind the committed length | the next start cuts them off; if the owner does not return, a neighbour does ([`crate::recover`]) |
//! | in mid-commit, outcome unknown | either of two states | `init_transactions` of the successor ends the transaction; the log checkpoint read then shows the outcome |
//! | after the commit | nothing open | – |
//!
//! Fencing: the producer's epoch fences an older process of the same slot. The group metadata, taken *before* the batch
//! was polled, fences a member whose partitions may have moved since. A process that was stopped for long is refused by
//! one of the two, rolls its batch back and reconnects; it held its slot's lock all the time, so no other process wrote
//! to the folder. A rebalance during polling discards the polled batch, whose records are read again.
//!
//! PostgreSQL may be behind the log (it was enabled later, or its offsets were set back). The consumer then reads from
//! PostgreSQL's offset and writes those records only to PostgreSQL until it has caught up.

mod catch_up;
mod commit_ends;
mod ends;
mod poll;
mod rows;
mod table;
mod tables;
mod write;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use kafka::{GroupMember, Partition, Topic, TransactionalProducer};
use model::error::{Error, Result};
use model::time::Micros;
use runtime::config::{KafkaSettings, PostgresSettings, Settings};
use runtime::{failpoint, program::Context, step::ConsumerStep};
use tokio::runtime::{Handle, Runtime};
use tokio_util::sync::CancellationToken;

use crate::batch::Outcome;
use crate::batch_error::{Backoff, BatchError, Fences};
use crate::cycle::GroupView;
use crate::group::Group;
use crate::log_checkpoint::{self, OpenLogCheckpoint, Opened};
use crate::log_file::LogFile;
use crate::log_sync::LogSync;
use crate::metrics::ConsumerMetrics;
use crate::orphaned_partitions::OrphanedPartitions;
use crate::parking::Parking;
use crate::readiness::Readiness;
use crate::sink::Sink;
use crate::slot::{Slot, Slots};
use crate::slot_name::SlotId;
use crate::tables::Taken;
use crate::topics::Topics;
use crate::{command, doctor, recover};
use ends::Ends;
use table::Table;

/// After a signal, the next start rolls back a batch that takes longer than this.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(25);
/// The time that clients get to close between batches; leaving them open is safe and has the effect of a kill.
const CLOSING_LIMIT: Duration = Duration::from_millis(1500);
/// The time that a broker needs to restart.
const SHORTEST_TRANSACTION: Duration = Duration::from_secs(30);
/// The length of one poll; a signal is noticed after it.
const POLL: Duration = Duration::from_millis(100);
/// How often to ping PostgreSQL while there is nothing to write to it.
const PING_EVERY: Duration = Duration::from_secs(5);
/// How often to ask Kafka for the number of the topic's partitions, and the time limit for the answer.
const ASK_EVERY: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(1);
/// The limit for keys and values of a batch; a single record may exceed it.
const BATCH_BYTES: usize = 16 << 20;

/// Runs the program until it is stopped; the loop runs in a separate thread, as its clients block.
///
/// # Errors
/// Usage and definite errors; transient errors are retried without limit.
pub(crate) async fn run(context: Context) -> Result<()> {
    let settings = &context.settings;
    let mut kafka = KafkaSettings::from(settings)?;
    // The open transaction of a lost member blocks the new owner of its partitions; it must not outlast the session.
    kafka.transaction_timeout = kafka.transaction_timeout.min(kafka.session_timeout.max(SHORTEST_TRANSACTION));
    if context.arguments.subcommand_name() == Some("doctor") {
        return doctor::run(settings).await;
    }
    let slots = Slots::open(&settings.path("consumer.logs"), settings.number("consumer.slots")?)?;
    if let Some(done) = command::asked(&context.arguments, settings, &kafka, &slots).await {
        return done;
    }
    let (in_hand, shutdown, handle) = (Arc::<AtomicBool>::default(), context.shutdown.clone(), Handle::current());
    let (done, outcome) = tokio::sync::oneshot::channel();
    let busy = Arc::clone(&in_hand);
    let thread = move || {
        let _entered = handle.enter();
        let worked = Worker::new(&context, kafka, slots, busy).and_then(|mut worker| worker.work());
        done.send(worked).unwrap_or_default();
    };
    std::thread::Builder::new()
        .name("consumer".to_owned())
        .spawn(thread)
        .map_err(|e| Error::definite("cannot start a thread").with_source(e))?;
    let late = async {
        shutdown.cancelled().await;
        let since = Instant::now();
        tokio::time::sleep(CLOSING_LIMIT).await;
        while in_hand.load(Ordering::Relaxed) && since.elapsed() < SHUTDOWN_LIMIT {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::select! {
        result = outcome => result.unwrap_or_else(|_| Err(Error::definite("the consumer's thread has died"))),
        () = late => {
            if in_hand.load(Ordering::Relaxed) {
                tracing::warn!("not ended within {SHUTDOWN_LIMIT:?}; the next start rolls back what was not committed");
            } else {
                tracing::info!("Kafka's clients do not close in time and are left; no batch was in hand");
            }
            Ok(())
        }
    }
}

/// The consumer's state without its clients, which are created again after some errors.
struct Worker {
    /// The main table's, with what belongs to the group.
    kafka: KafkaSettings,
    settings: Settings,
    topics: Topics,
    /// Tables that were found while it runs.
    appeared: Receiver<Vec<Taken>>,
    tables: BTreeMap<Topic, Table>,
    slots: Slots,
    sink: Option<Sink>,
    parking: Parking,
    batch_rows: usize,
    batch_linger: Duration,
    metrics: ConsumerMetrics,
    readiness: Readiness,
    /// When the last batch was done; a batch after a quiet moment does not wait for more records.
    finished: Instant,
    /// When PostgreSQL last answered.
    pinged: Instant,
    /// A batch is being written and committed.
    in_hand: Arc<AtomicBool>,
    log_sync: LogSync,
    /// Drives PostgreSQL's connection in this thread, and only while it waits, so that an answer wakes no other thread.
    runtime: Runtime,
    shutdown: CancellationToken,
}

/// The clients of one membership.
struct Session {
    producer: TransactionalProducer,
    checkpoint: OpenLogCheckpoint,
    log: LogFile,
    /// The slot's committed offset of each partition.
    done: BTreeMap<Partition, i64>,
    group: Group,
    orphaned: OrphanedPartitions,
    ends: Ends,
    /// When Kafka was last asked for the number of the topic's partitions.
    asked: Instant,
    /// The count of assignment changes that the sink has processed.
    seen_changes: u64,
}

/// The results of records that were polled together: each record is freed once it is processed.
#[derive(Default)]
struct Batch {
    outcome: Outcome,
    records: usize,
    group: GroupView<Arc<GroupMember>>,
    /// By partition, when the last record was written to Kafka.
    newest: BTreeMap<Partition, Micros>,
}

impl Worker {
    fn new(context: &Context, kafka: KafkaSettings, slots: Slots, in_hand: Arc<AtomicBool>) -> Result<Self> {
        let settings = &context.settings;
        let (found, appeared) = channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        crate::tables::watch(settings.clone(), kafka.clone(), found, context.shutdown.clone())?;
        let mut worker = Self {
            settings: settings.clone(),
            appeared,
            topics: Topics::default(),
            tables: BTreeMap::new(),
            sink: PostgresSettings::from(settings)?.map(|postgres| Sink::new(&postgres)).transpose()?,
            parking: Parking::default(),
            batch_rows: settings.number("consumer.batch_rows")?,
            batch_linger: settings.duration("consumer.batch_linger")?,
            metrics: ConsumerMetrics::new(context.metrics.clone()),
            readiness: Readiness::new(context.health.clone()),
            finished: Instant::now(),
            pinged: Instant::now(),
            in_hand,
            log_sync: LogSync::start()?,
            runtime: runtime.map_err(|e| Error::definite("cannot start the thread's runtime").with_source(e))?,
            shutdown: context.shutdown.clone(),
            kafka,
            slots,
        };
        for table in crate::tables::named(settings)? {
            worker.take(&table)?;
        }
        Ok(worker)
    }

    /// Claims a slot and works in it until it is stopped.
    fn work(&mut self) -> Result<()> {
        let (mut backoff, mut fences) = (Backoff::new(), Fences::default());
        let slot = loop {
            match self.slots.claim() {
                Err(error) if error.is_transient() && !self.shutdown.is_cancelled() => self.tell(&error),
                claimed => break claimed?,
            }
            backoff.wait(&self.runtime, &self.shutdown);
        };
        tracing::info!(slot = %slot.name(), log = %slot.log_path().display(), "slot claimed");
        // The level of errors, so that each line that the log's filter lets through names the slot.
        let span = tracing::error_span!("consumer", slot = %slot.name());
        let _entered = span.enter();
        self.metrics.show_slot(slot.name());
        self.readiness.claimed(slot.name());
        let changed = self.start_recovery(span.clone())?;
        while !self.shutdown.is_cancelled() {
            let opened = self.open(&slot, &changed);
            let (session, ended) = match opened {
                Ok(mut session) => {
                    let ended = self.work_in(&mut session, &mut backoff);
                    (Some(session), ended)
                }
                Err(error) => (None, Err(error)),
            };
            self.readiness.kafka.rest();
            // Report it before the clients are closed, which takes as long as Kafka takes.
            if let Err(BatchError::Retry(error) | BatchError::Reconnect { error, .. }) = &ended {
                self.tell(error);
            }
            self.readiness.while_waiting("the clients of Kafka are closed", || drop(session));
            match ended {
                // No transaction is open and the log is cut: no neighbour needs to recover the slot, unless the disk is
                // full.
                Ok(()) => match slot.mark_recovered() {
                    Err(error) if !error.is_transient() => return Err(error),
                    _ => break,
                },
                Err(BatchError::Fatal(error)) => return Err(error),
                Err(BatchError::Reconnect { fenced: true, .. }) => {
                    self.metrics.fences.add(1);
                    fences.note(slot.id(), Instant::now())?;
                }
                Err(BatchError::Rebalanced | BatchError::Retry(_) | BatchError::Reconnect { .. }) => {}
            }
            self.metrics.restarts.add(1);
            backoff.wait(&self.runtime, &self.shutdown);
        }
        self.say_stopped(slot.id());
        Ok(())
    }

    /// Starts the thread that recovers the slots of consumers that are gone; each message makes it look.
    fn start_recovery(&self, span: tracing::Span) -> Result<Sender<()>> {
        let (changed, on_change) = channel();
        let (kafka, topics) = (self.kafka.clone(), self.topics.clone());
        let (slots, shutdown) = (self.slots.clone(), self.shutdown.clone());
        std::thread::Builder::new()
            .name("recover".to_owned())
            .spawn(move || span.in_scope(|| recover::run(&kafka, &topics, &slots, &on_change, &shutdown)))
            .map_err(|e| Error::definite("cannot start a thread").with_source(e))?;
        Ok(changed)
    }

    fn say_stopped(&self, slot: SlotId) {
        tracing::info!(%slot, lines = self.metrics.lines.get(), commits = self.metrics.commits.get(), "stopped");
    }

    fn tell(&mut self, error: &Error) {
        self.readiness.failed(error);
        tracing::warn!(code = error.code().name(), remedy = error.remedy(), "trying again: {error}");
    }

    /// Creates the clients, and recovers from what the last ones left.
    fn open(&mut self, slot: &Slot, changed: &Sender<()>) -> Result<Session, BatchError> {
        self.take_known()?;
        let topics = doctor::wanted(&self.kafka, &self.topics);
        self.runtime.block_on(kafka::ensure_topics(&self.kafka, &topics)).map_err(BatchError::at_start)?;
        let opened = log_checkpoint::open(&self.kafka, &self.topics, slot, ConsumerStep::Initialised)
            .map_err(BatchError::at_start)?;
        let Opened { producer, checkpoint, committed } = opened;
        let log = LogFile::open(slot.id(), &slot.log_path(), committed.length)?;
        let group =
            Group::join(&self.kafka, self.topics.clone(), slot.name(), committed.offsets.clone(), changed.clone())?;
        // From now on, a silent broker counts as a failure.
        self.readiness.kafka.wait();
        let (done, orphaned) = (committed.offsets, OrphanedPartitions::new(slot.id(), self.kafka.session_timeout));
        let (ends, asked) = (Ends::default(), Instant::now());
        Ok(Session { producer, checkpoint, log, done, group, orphaned, ends, asked, seen_changes: 0 })
    }

    /// Works until it is stopped or the clients are unusable.
    fn work_in(&mut self, session: &mut Session, backoff: &mut Backoff) -> Result<(), BatchError> {
        while !self.shutdown.is_cancelled() {
            match self.step(session) {
                Ok(true) => backoff.reset(),
                Ok(false) => {}
                Err(BatchError::Rebalanced) => {
                    tracing::info!("a rebalance overtook the batch, it is put back");
                    self.metrics.dropped.add(1);
                    self.roll_back(session)?;
                    // Wait for the next heartbeat, which brings the rebalance; until then the same batch would be
                    // refused again.
                    Backoff::new().wait(&self.runtime, &self.shutdown);
                }
                Err(BatchError::Retry(error)) => {
                    self.tell(&error);
                    self.metrics.retries.add(1);
                    self.roll_back(session)?;
                    backoff.wait(&self.runtime, &self.shutdown);
                }
                // Leave the file: its end may or may not be committed, which the log checkpoint shows in the next
                // session.
                Err(other) => return Err(other),
            }
        }
        self.commit_last_ends(session);
        Ok(())
    }

    fn roll_back(&mut self, session: &mut Session) -> Result<(), BatchError> {
        session.log.roll_back().map_err(BatchError::at_start)?;
        let starts = self.starts(&session.group.committed());
        session.group.seek(&starts).map_err(BatchError::at_start)
    }

    /// Processes one batch. `false` when there was nothing to do.
    fn step(&mut self, session: &mut Session) -> Result<bool, BatchError> {
        session.producer.may_begin().map_err(BatchError::broken)?;
        if session.asked.elapsed() > ASK_EVERY {
            for table in self.tables.values() {
                session
                    .producer
                    .answers(&table.kafka.topic, table.kafka.partitions, PATIENCE)
                    .map_err(BatchError::broken)?;
            }
            session.asked = Instant::now();
        }
        self.take_appeared(session)?;
        self.catch_up(session)?;
        session.orphaned.check(&session.group, &self.metrics);
        self.metrics.missing.set(session.group.missing());
        let batch = self.poll_batch(&session.group)?;
        self.readiness.answered(session.group.last_answer());
        session.log.check()?;
        let has_records = !batch.outcome.rows.is_empty();
        if has_records {
            session.ends.busy();
            self.metrics.polled();
            failpoint::at(ConsumerStep::Polled);
            self.finish(session, &batch)?;
        } else {
            self.idle(&session.group)?;
        }
        self.commit_ends(session)?;
        Ok(has_records)
    }

    /// There is nothing to do: pings PostgreSQL when it is time to.
    fn idle(&mut self, group: &Group) -> Result<(), BatchError> {
        if self.pinged.elapsed() > PING_EVERY
            && let Some(sink) = &mut self.sink
        {
            let parked = self.readiness.postgres.during(|| self.runtime.block_on(sink.ping()))?;
            self.metrics.parked_keys.set(parked);
            self.pinged = Instant::now();
        }
        let last_answer = group.last_answer();
        if last_answer.is_some() {
            self.readiness.idle(group.changes() > 0);
        }
        self.metrics.show_lag(&group.lag(), last_answer.filter(|_| !self.readiness.is_failing()));
        Ok(())
    }
}
