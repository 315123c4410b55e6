//! Wires reader, publisher and checkpoint file together, and begins again after what may heal.
//!
//! The order of a start is part of exactly once: the new transactional producer is initialised first, which fences an
//! earlier one and settles what it had in flight; only then is the position read back.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pipeline::config::{KafkaSettings, MySqlSettings, RegistrySettings, Settings};
use pipeline::error::{Error, Result};
use pipeline::kafka::{self, Failure, Record, TopicSpec, TransactionalProducer};
use pipeline::position::{Progress, SnapshotProgress};
use pipeline::registry::Registry;
use pipeline::table::SourceTable;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::checkpoint::{CheckpointFile, Request, Start, Written, decide};
use crate::locate;
use crate::preflight;
use crate::publish::{Limits, Publisher, Stopped, Target};
use crate::reader::Reader;
use crate::server::{self, Server};
use crate::snapshot::Alive;
use crate::status::Status;
use crate::stream::EventStream;

/// How long a producer that was asked to stop waits for Kafka. Container engines kill after ten seconds, and blocked
/// threads are waited for after this.
const DRAIN: Duration = Duration::from_secs(4);

/// Everything a producer is told.
#[derive(Clone, Debug)]
pub struct ProducerSettings {
    /// The source.
    pub mysql: MySqlSettings,
    /// The target.
    pub kafka: KafkaSettings,
    /// The registry.
    pub registry: RegistrySettings,
    /// Folder of the checkpoint file.
    pub time_track: PathBuf,
    /// This reader's id among the server's replicas.
    pub server_id: u32,
    /// When a Kafka transaction is committed.
    pub limits: Limits,
    /// How often the server sends a heartbeat when nothing happens.
    pub heartbeat: Duration,
    /// Rows in a chunk of the snapshot.
    pub chunk_rows: usize,
    /// Bytes that may be on the way from the reader to Kafka.
    pub memory: usize,
}

impl ProducerSettings {
    /// From the settings.
    ///
    /// # Errors
    /// Usage, naming the setting.
    pub fn from(settings: &Settings) -> Result<Self> {
        let limits = Limits {
            rows: settings.number("producer.batch_rows")?,
            bytes: settings.bytes("producer.batch_bytes")?,
            linger: settings.duration("producer.linger")?,
        };
        Ok(Self {
            mysql: MySqlSettings::from(settings)?,
            kafka: KafkaSettings::from(settings)?,
            registry: RegistrySettings::from(settings)?,
            time_track: settings.path("producer.time_track"),
            server_id: settings.number("producer.server_id")?,
            limits,
            heartbeat: settings.duration("producer.heartbeat")?,
            chunk_rows: settings.number("producer.snapshot_chunk")?,
            memory: settings.bytes("producer.memory")?,
        })
    }

    /// `database.table`.
    pub fn source(&self) -> String {
        format!("{}.{}", self.mysql.database, self.mysql.table)
    }
}

/// How one session ended without an error.
enum End {
    /// As asked.
    Stopped,
    /// A person edited the checkpoint file: begin again with what it says now.
    Edited,
}

/// What is remembered from one session to the next.
#[derive(Default)]
struct Memory {
    /// Progress that this process committed or tried to commit.
    ours: Vec<Progress>,
    /// Times in a row that this process was fenced without getting anything committed.
    fenced: u32,
    /// The last time its Kafka transaction had been open for longer than it may be.
    outlived: bool,
    /// A session has once got as far as streaming.
    has_run: bool,
}

impl Memory {
    /// After a fence, which looks the same whether another producer took over or a transaction outlived its timeout:
    /// whether to try once more with the progress that is `committed`.
    fn may_go_on(&self, committed: Option<&Progress>, settings: &ProducerSettings) -> Result<()> {
        let ours = self.ours.is_empty() || committed.is_none_or(|c| self.ours.contains(c));
        if self.fenced == 0 || (ours && self.fenced == 1) {
            return Ok(());
        }
        let kafka = &settings.kafka;
        if ours && self.outlived {
            return Err(Error::definite(format!(
                "a transaction of {} takes longer than one of Kafka may be open ({} s)",
                settings.source(),
                kafka.transaction_timeout.as_secs()
            ))
            .with_remedy("raise kafka.transaction_timeout (the broker's transaction.max.timeout.ms is its limit)"));
        }
        Err(Error::definite(format!(
            "another producer with the transactional id {} is at work",
            kafka.transactional_id
        ))
        .with_remedy(
            "run one producer for a source; give another source its own kafka.topic or kafka.transactional_id",
        ))
    }
}

/// Runs until it is cancelled.
///
/// # Errors
/// Definite errors at once. Transient ones are tried again with growing pauses, except when nothing has ever worked for
/// `STARTUP_PATIENCE`.
pub async fn run(settings: ProducerSettings, status: Status, shutdown: CancellationToken) -> Result<()> {
    const STARTUP_PATIENCE: Duration = Duration::from_secs(60);
    const LONGEST_PAUSE: Duration = Duration::from_secs(10);
    let file = Arc::new(CheckpointFile::lock(&settings.time_track)?);
    let started = Instant::now();
    let mut memory = Memory::default();
    let mut pause = Duration::from_millis(100);
    loop {
        let begun = Instant::now();
        let error = match session(&settings, &file, &status, &mut memory, &shutdown).await {
            Ok(End::Stopped) => return Ok(()),
            Ok(End::Edited) => continue,
            Err(error) => error,
        };
        status.failed(&error);
        if !error.is_transient() || (!memory.has_run && started.elapsed() > STARTUP_PATIENCE) {
            return Err(error);
        }
        if begun.elapsed() > LONGEST_PAUSE * 2 {
            pause = Duration::from_millis(100);
        }
        tracing::warn!(%error, what_to_do = error.remedy(), retry_in_ms = pause.as_millis() as u64, "trying again");
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// A session that is ready to stream.
struct Session {
    target: Target,
    table: SourceTable,
    schema_id: u32,
    producer: TransactionalProducer,
    progress: Progress,
    /// What the checkpoint file says.
    view: String,
    alive: Alive,
    conn: mysql_async::Conn,
    stream: EventStream,
}

async fn session(
    settings: &ProducerSettings,
    file: &Arc<CheckpointFile>,
    status: &Status,
    memory: &mut Memory,
    shutdown: &CancellationToken,
) -> Result<End> {
    // To let go of a start is what a kill would do, and safe at every moment; nothing has been read yet.
    let ready = tokio::select! {
        () = shutdown.cancelled() => return Ok(End::Stopped),
        ready = prepare(settings, file, memory) => ready?,
    };
    let Some(session) = ready else { return Ok(End::Edited) };
    let streaming = stream(settings, session, file, status, memory, shutdown);
    let late = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        end = streaming => end,
        () = late => {
            tracing::warn!("Kafka does not take the last changes in time: the next start sends them again from the committed position");
            Ok(End::Stopped)
        }
    }
}

/// Everything up to the first event; `None` when somebody has edited the checkpoint file meanwhile.
async fn prepare(settings: &ProducerSettings, file: &CheckpointFile, memory: &mut Memory) -> Result<Option<Session>> {
    let source = settings.source();
    let target = Target::new(&settings.kafka, source.clone());

    let report = preflight::mysql(&settings.mysql, settings.server_id).await?;
    for check in report.checks.iter().filter(|c| c.outcome == preflight::Outcome::Warning) {
        tracing::warn!(check = check.name, found = check.found, what_to_do = check.remedy);
    }
    preflight::require(&report.checks)?;
    let (Some(server), Some(table)) = (report.server, report.table) else {
        return Err(Error::transient("the server's checks did not come to an end"));
    };
    let schema_id = Registry::new(settings.registry.clone())?.register().await?;
    let [products, checkpoints] = target.topics(&settings.kafka);
    ensure_topic(&settings.kafka, checkpoints).await?;
    let topic_is_missing = {
        let (kafka, topic) = (settings.kafka.clone(), products.clone());
        !blocking(move || kafka::check_topics(&kafka, &[topic])).await?.is_empty()
    };

    // The state of the file is looked at first: what it refuses must not fence anybody.
    let seen = file.text()?;
    let state = file.state(seen.as_deref())?;
    let (producer, committed) = {
        let (kafka, target) = (settings.kafka.clone(), target.clone());
        blocking(move || {
            let producer = TransactionalProducer::new(&kafka, &kafka.transactional_id)?;
            let committed = target.progress(&kafka)?;
            Ok((producer, committed))
        })
        .await?
    };
    memory.may_go_on(committed.as_ref(), settings)?;

    let mut conn = server::connect(&settings.mysql).await?;
    let mut seen = seen;
    let (producer, progress) = match decide(state, committed.clone(), &source, file.path())? {
        Start::Resume(_) if topic_is_missing => {
            return Err(Error::definite(format!(
                "topic {} is gone, but the position in {} says that it was written",
                target.topic, target.checkpoint_topic
            ))
            .with_remedy("to write the table into a new one: `cdc-producer checkpoint reset`"));
        }
        Start::Resume(mut progress) => {
            server.can_resume(&mut conn, &progress.position).await?;
            if progress.position.server_uuid != server.uuid {
                // After a failover the GTIDs count; file and offset are those of the other server.
                tracing::warn!(from = progress.position.server_uuid, to = server.uuid, "reading from another server");
                progress.position.server_uuid.clone_from(&server.uuid);
                (progress.position.file, progress.position.offset) = (String::new(), 0);
            }
            (producer, *progress)
        }
        Start::Begin { epoch, request } => {
            ensure_topic(&settings.kafka, products).await?;
            let Some(progress) = begin(settings, &mut conn, &server, file, epoch, request, &mut seen).await? else {
                return Ok(None);
            };
            let first = progress.clone();
            let (producer, progress) = {
                let target = target.clone();
                blocking(move || {
                    commit_first(&producer, &target, &first).map_err(|e| Error::transient(e.to_string()))?;
                    Ok((producer, first))
                })
                .await?
            };
            (producer, progress)
        }
    };
    let view = Written::of(&progress, &source).text();
    if !file.replace(seen.as_deref(), &view)? {
        return Ok(None);
    }
    tracing::info!(
        epoch = progress.epoch,
        position = %progress.position,
        snapshot = progress.snapshot.is_some(),
        "reading {source}"
    );
    memory.ours = [progress.clone()].into_iter().chain(committed).collect();
    memory.has_run = true;

    let alive = if progress.snapshot.is_some() && progress.epoch > 1 {
        let (kafka, epoch) = (settings.kafka.clone(), progress.epoch);
        blocking(move || Alive::from_topic(&kafka, epoch)).await?
    } else {
        Alive::default()
    };
    let stream_conn = server::connect(&settings.mysql).await?;
    let stream = EventStream::open(stream_conn, &progress.position, settings.server_id, settings.heartbeat).await?;
    Ok(Some(Session { target, table, schema_id, producer, progress, view, alive, conn, stream }))
}

/// Streams until it is stopped, a person edits the checkpoint file, or something breaks.
async fn stream(
    settings: &ProducerSettings,
    session: Session,
    file: &Arc<CheckpointFile>,
    status: &Status,
    memory: &mut Memory,
    shutdown: &CancellationToken,
) -> Result<End> {
    let Session { target, table, schema_id, producer, progress, view, alive, conn, stream } = session;
    let source = settings.source();
    // A batch is at most a little over 256 KiB unless a single event is larger.
    let (batch_sender, batches) = mpsc::channel((settings.memory / (512 * 1024)).max(2));
    let (spare, spare_receiver) = mpsc::unbounded_channel();
    let (attempted, attempted_view) = watch::channel(None);
    let (committed, committed_view) = watch::channel(Some(progress.clone()));
    let publisher = Publisher {
        producer,
        target,
        limits: settings.limits,
        batches,
        spare,
        attempted,
        committed,
        status: status.clone(),
    };
    let reader = Reader {
        table,
        schema_id,
        progress,
        stream,
        conn,
        chunk_rows: settings.chunk_rows,
        alive,
        batches: batch_sender,
        spare: spare_receiver,
        position_every: Duration::from_secs(1),
        status: status.clone(),
    };
    status.streaming();

    // The reader ends first, by an error, an edit or a stop; that closes the channel, and the publisher commits what is
    // complete. A failed publisher ends the reader the same way.
    let stop = shutdown.child_token();
    let finished = CancellationToken::new();
    let handle = Handle::current();
    let publishing = tokio::task::spawn_blocking(move || publisher.run(&handle));
    let reading = {
        let stop = stop.clone();
        tokio::spawn(async move { reader.run(&stop).await })
    };
    let watching = {
        let (file, committed, finished) = (Arc::clone(file), committed_view.clone(), finished.clone());
        tokio::spawn(async move { watch_file(&file, &source, view, committed, &stop, &finished).await })
    };

    let read = reading.await.map_err(|e| panicked("reading the binlog", &e))?;
    let published = publishing.await.map_err(|e| panicked("publishing", &e))?;
    finished.cancel();
    let edited = watching.await.map_err(|e| panicked("keeping the checkpoint file", &e))?;

    let committed = committed_view.borrow().clone();
    if committed.as_ref() != memory.ours.first() {
        memory.fenced = 0;
    }
    memory.ours = committed.into_iter().chain(attempted_view.borrow().clone()).collect();
    match published {
        Ok(()) => {}
        Err(Stopped { failure, open_for }) => {
            memory.outlived = open_for.is_some_and(|t| t >= settings.kafka.transaction_timeout);
            if matches!(failure, Failure::Fenced(_)) || memory.outlived {
                memory.fenced += 1;
            }
            let message = format!("publishing to {}: {failure}", settings.kafka.topic);
            return Err(match failure {
                Failure::Refused { remedy, .. } => Error::definite(message).with_remedy(remedy),
                _ => Error::transient(message),
            });
        }
    }
    read?;
    Ok(if edited { End::Edited } else { End::Stopped })
}

/// The progress with which a new epoch begins; `None` when somebody has edited the checkpoint file since it was `seen`.
async fn begin(
    settings: &ProducerSettings,
    conn: &mut mysql_async::Conn,
    server: &Server,
    file: &CheckpointFile,
    epoch: u64,
    request: Request,
    seen: &mut Option<String>,
) -> Result<Option<Progress>> {
    let (position, snapshot) = match request.from {
        Some(at) => (locate::position_at(&settings.mysql, server, settings.server_id, at).await?, None),
        None => {
            let position = server::snapshot_start(conn, server).await?;
            // A table that is not there after the position was taken has no rows at it: there is nothing to read, and all
            // that comes is in the stream.
            let (database, table) = (&settings.mysql.database, &settings.mysql.table);
            let exists = SourceTable::exists(conn, database, table).await?;
            (position, exists.then_some(SnapshotProgress { after: None, rows: 0 }))
        }
    };
    let identified = file.identify(request, seen.as_deref())?;
    Ok(identified.map(|request| {
        *seen = Some(request.text());
        Progress {
            version: 1,
            epoch,
            request: request.id.unwrap_or_default(),
            position,
            snapshot,
            prepared: Default::default(),
        }
    }))
}

/// Commits the progress of a new epoch before its first record. Blocks.
fn commit_first(producer: &TransactionalProducer, target: &Target, progress: &Progress) -> Result<(), Failure> {
    let value = serde_json::to_vec(progress).unwrap_or_default();
    producer.begin()?;
    producer.send(&Record {
        topic: &target.checkpoint_topic,
        partition: Some(0),
        key: target.source.as_bytes(),
        value: Some(&value),
        header: None,
    })?;
    producer.commit()
}

/// Keeps the checkpoint file up to date with what is committed, until everything is `finished`. When a person edits it,
/// the file is left alone, the session is told to `stop`, and the answer is true.
async fn watch_file(
    file: &CheckpointFile,
    source: &str,
    view: String,
    mut committed: watch::Receiver<Option<Progress>>,
    stop: &CancellationToken,
    finished: &CancellationToken,
) -> bool {
    // Often enough for a person, seldom enough for a disk.
    const EVERY: Duration = Duration::from_millis(500);
    let mut written = Some(view);
    loop {
        let stopping = tokio::select! {
            () = finished.cancelled() => true,
            () = tokio::time::sleep(EVERY) => false,
        };
        let now = committed.borrow_and_update().clone();
        match file.text() {
            Ok(text) if text != written => {
                tracing::info!(file = %file.path().display(), "the checkpoint file was edited: starting anew with what it says");
                stop.cancel();
                return true;
            }
            Ok(_) => {
                let text = now.map(|p| Written::of(&p, source).text());
                if let Some(new) = text.as_ref().filter(|_| text != written) {
                    match file.replace(written.as_deref(), new) {
                        Ok(true) => written = text,
                        // Edited this very moment: the next look says so.
                        Ok(false) => continue,
                        Err(error) => {
                            tracing::error!(%error, what_to_do = error.remedy(), "the checkpoint file is out of date")
                        }
                    }
                }
            }
            Err(error) => tracing::error!(%error, what_to_do = error.remedy(), "the checkpoint file can't be read"),
        }
        if stopping {
            return false;
        }
    }
}

/// Looking a topic up blocks for as long as Kafka does not answer, so it has a thread of its own.
async fn ensure_topic(settings: &KafkaSettings, topic: TopicSpec) -> Result<()> {
    let (settings, runtime) = (settings.clone(), Handle::current());
    blocking(move || runtime.block_on(kafka::ensure_topics(&settings, &[topic]))).await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| panicked("talking to Kafka", &e))?
}

fn panicked(what: &str, error: &tokio::task::JoinError) -> Error {
    Error::definite(format!("{what} ended by a fault of the program: {error}"))
        .with_remedy("report it with the log; nothing was skipped, a start goes on from the committed position")
}
