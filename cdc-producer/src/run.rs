//! Connects reader, publisher and checkpoint file in a session, and starts a new session after a transient error.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kafka::Failure;
use kafka::doctor;
use model::error::{Error, Result};
use model::position::{Progress, TableProgress};
use model::table_name::TableName;
use mysql::refused_row::Letters;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::checkpoint::CheckpointFile;
use crate::checkpoint_sync::Watched;
use crate::endpoint::{Endpoint, Reached};
use crate::history;
use crate::lag_watch;
use crate::memory::Memory;
use crate::publish::{Publisher, Stopped};
use crate::reader::{CapturedTable, Reader};
use crate::replica;
use crate::settings::{ProducerSettings, panicked};
use crate::snapshot_requests::{self, Requests};
use crate::start::{ReadyTable, Session, prepare};
use crate::status::Status;
use crate::sweep::Sweep;

/// How long a stopping producer waits for Kafka. Container engines kill after ten seconds, and the wait for blocked
/// threads follows this one.
const DRAIN: Duration = Duration::from_secs(4);

/// How one session ended without an error.
enum End {
    /// As requested.
    Stopped,
    /// A person edited the checkpoint file: begin again from its new content.
    Edited,
}

/// Runs until it is cancelled.
///
/// # Errors
/// Definite errors at once. Transient ones are retried with growing pauses, unless no session has started streaming
/// within `STARTUP_PATIENCE`.
pub async fn run(settings: ProducerSettings, status: Status, shutdown: CancellationToken) -> Result<()> {
    let endpoint = Arc::new(Endpoint::new(settings.mysql.clone()).observed_by(Arc::new(status.clone())));
    tokio::select! {
        outcome = sessions(&settings, &endpoint, &status, &shutdown) => outcome,
        never = lag_watch::watch(&endpoint, &status) => match never {},
    }
}

async fn sessions(
    settings: &ProducerSettings,
    endpoint: &Arc<Endpoint>,
    status: &Status,
    shutdown: &CancellationToken,
) -> Result<()> {
    const STARTUP_PATIENCE: Duration = Duration::from_secs(60);
    const LONGEST_PAUSE: Duration = Duration::from_secs(10);
    let file = Arc::new(CheckpointFile::lock(&settings.time_track)?);
    let started = Instant::now();
    let mut memory = Memory::default();
    let mut pause = Duration::from_millis(100);
    loop {
        let begun = Instant::now();
        memory.advanced = false;
        let ended = session(settings, endpoint, &file, status, &mut memory, shutdown).await;
        status.ended();
        let error = match ended {
            Ok(End::Stopped) => return Ok(()),
            Ok(End::Edited) => continue,
            Err(error) => error,
        };
        status.failed(&error);
        if !error.is_transient() || (!memory.has_run && started.elapsed() > STARTUP_PATIENCE) {
            return Err(error);
        }
        if memory.advanced || begun.elapsed() > LONGEST_PAUSE * 2 {
            pause = Duration::from_millis(100);
        }
        let (code, retry_in_ms) = (error.code().name(), pause.as_millis() as u64);
        tracing::warn!(%error, code, what_to_do = error.remedy(), retry_in_ms, "trying again");
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn session(
    settings: &ProducerSettings,
    endpoint: &Arc<Endpoint>,
    file: &Arc<CheckpointFile>,
    status: &Status,
    memory: &mut Memory,
    shutdown: &CancellationToken,
) -> Result<End> {
    // Dropping a start has the effect of a kill, which is safe at every moment; nothing has been read yet.
    let ready = tokio::select! {
        () = shutdown.cancelled() => return Ok(End::Stopped),
        ready = prepare(settings, endpoint, file, memory, status) => ready?,
    };
    let Some(session) = ready else { return Ok(End::Edited) };
    let streaming = stream(settings, endpoint, session, file, status, memory, shutdown);
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

/// Streams until it is stopped, a person edits the checkpoint file, or an error occurs.
async fn stream(
    settings: &ProducerSettings,
    endpoint: &Arc<Endpoint>,
    session: Session,
    file: &Arc<CheckpointFile>,
    status: &Status,
    memory: &mut Memory,
    shutdown: &CancellationToken,
) -> Result<End> {
    let Session { tables, producer, progress, conn, stream, continuity, requests } = session;
    let source = settings.source();
    // A batch holds at most twice its limit, 512 KiB, unless a single event is larger.
    let (batch_sender, batches) = mpsc::channel((settings.memory / (512 * 1024)).max(2));
    let (recycled, recycled_receiver) = mpsc::unbounded_channel();
    let (attempted, attempted_view) = watch::channel(None);
    let (committed, committed_view) = watch::channel(Some(progress.clone()));
    let names: Vec<TableName> = tables
        .iter()
        .map(|table| TableName::new(&table.settings.mysql.database, &table.settings.mysql.table))
        .collect();
    let cut_partitions = tables.iter().map(|table| table.cut_partitions).sum();
    let publisher = Publisher {
        producer,
        targets: tables.iter().map(|table| table.target.clone()).collect(),
        limits: settings.limits,
        batches,
        recycled,
        attempted,
        committed,
        status: status.clone(),
    };
    let captured = tables.into_iter().map(|table| captured(table, &committed_view)).collect();
    let reader = Reader {
        tables: captured,
        source: source.clone(),
        discovers: settings.tables.has_patterns().then(|| settings.clone()),
        unknown: TableProgress::default(),
        progress,
        stream,
        continuity,
        endpoint: Arc::clone(endpoint),
        conn,
        chunk_rows: settings.chunk_rows,
        chunk_bytes: settings.memory,
        batches: batch_sender,
        recycled: recycled_receiver,
        position_every: Duration::from_secs(1),
        status: status.clone(),
    };
    status.streaming(&reader.progress, cut_partitions);

    // The reader ends first, by an error, an edit or a stop; that closes the channel, and the publisher commits the
    // complete transactions. A failed publisher also closes the channel, which ends the reader.
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
        let (endpoint, status, stop) = (endpoint.aside(), status.clone(), stop.clone());
        let mut sync = std::mem::take(&mut memory.checkpoint_sync);
        tokio::spawn(async move {
            let (file, source, endpoint, status) = (&*file, source.as_str(), &endpoint, &status);
            let watched = Watched { file, source, endpoint, status, committed };
            let edited = sync.watch(&watched, &stop, &finished).await;
            (edited, sync)
        })
    };

    let watching_requests = {
        let (folder, finished, stop) = (settings.time_track.clone(), finished.clone(), stop.clone());
        tokio::spawn(async move { watch_requests(&folder, &requests, &stop, &finished).await })
    };
    let watching_history = {
        let (endpoint, committed, stop, finished) =
            (endpoint.aside(), committed_view.clone(), stop.clone(), finished.clone());
        tokio::spawn(async move { watch_history(&endpoint, &names, &committed, &stop, &finished).await })
    };

    let read = reading.await.map_err(|e| panicked("reading the binlog", &e))?;
    let published = publishing.await.map_err(|e| panicked("publishing", &e))?;
    finished.cancel();
    let (edited, sync) = watching.await.map_err(|e| panicked("keeping the checkpoint file", &e))?;
    memory.checkpoint_sync = sync;
    let asked = watching_requests.await.map_err(|e| panicked("following requests for snapshots", &e))?;
    let history = watching_history.await.map_err(|e| panicked("asking for the server's history", &e))?;

    memory.advanced |= memory.fencing.end(committed_view.borrow().clone(), attempted_view.borrow().clone());
    match published {
        Ok(()) => {}
        Err(Stopped { failure, open_for }) => {
            let is_fence = matches!(failure, Failure::Fenced(_));
            memory.fencing.fail(is_fence, open_for.is_some_and(|t| t >= settings.kafka.transaction_timeout));
            if open_for.is_some() {
                status.aborted();
            }
            if is_fence {
                status.fenced();
            }
            let topic = &settings.kafka.topic;
            let what = format!("publishing to Kafka topic {topic} or its topics .checkpoint and .dlq");
            return Err(failure.into_error(&what));
        }
    }
    read.and(history)?;
    Ok(if edited || asked { End::Edited } else { End::Stopped })
}

fn captured(table: ReadyTable, committed: &watch::Receiver<Option<Progress>>) -> CapturedTable {
    let ReadyTable { settings, target, encoder, known, .. } = table;
    let letters = target.parked_topic.is_some().then(|| Letters::new(&settings.kafka, encoder.table()));
    let name = settings.name();
    let clients = (settings.kafka, settings.registry);
    let sweep = Sweep::new(clients, encoder.table().clone(), committed.clone(), settings.memory);
    CapturedTable { name, encoder, letters, sweep, known }
}

/// Looks regularly whether a person has asked for a snapshot of a table since the session began; then cancels `stop` and
/// returns true.
async fn watch_requests(
    folder: &Path,
    followed: &Requests,
    stop: &CancellationToken,
    finished: &CancellationToken,
) -> bool {
    const EVERY: Duration = Duration::from_millis(500);
    loop {
        tokio::select! {
            () = finished.cancelled() => return false,
            () = tokio::time::sleep(EVERY) => {}
        }
        // A damaged file is reported by the next start.
        if snapshot_requests::read(folder).is_ok_and(|requests| requests != *followed) {
            stop.cancel();
            return true;
        }
    }
}

/// Checks regularly, each time on a new connection, that the server of the session still has the committed history and
/// writes every change to its binlog; otherwise cancels `stop`. Ends when `finished` is cancelled.
///
/// # Errors
/// Definite when the history was reset; as [`Endpoint::connect`] when the connection reaches another server. Other
/// errors are retried, since the stream notices an unreachable server anyway.
async fn watch_history(
    endpoint: &Endpoint,
    tables: &[TableName],
    committed: &watch::Receiver<Option<Progress>>,
    stop: &CancellationToken,
    finished: &CancellationToken,
) -> Result<()> {
    const EVERY: Duration = Duration::from_secs(5);
    loop {
        let ask = async {
            tokio::time::sleep(EVERY).await;
            // Read before the server is queried, so that the server can be behind it only after a reset.
            let Some(progress) = committed.borrow().clone() else { return Ok(None) };
            let mut conn = match endpoint.reach().await? {
                Reached::Same(conn) => conn,
                Reached::Other(error) => return Ok(Some(error)),
            };
            doctor::require(&replica::checks(&mut conn, tables).await?)?;
            history::check(endpoint, &mut conn, &progress.position).await?;
            Ok(None)
        };
        let answer: Result<Option<Error>> = tokio::select! {
            () = finished.cancelled() => return Ok(()),
            answer = ask => answer,
        };
        match answer {
            Ok(Some(error)) => {
                stop.cancel();
                return Err(error);
            }
            Err(error) if !error.is_transient() => {
                stop.cancel();
                return Err(error);
            }
            Err(error) => tracing::debug!(%error, "cannot ask for the server's history"),
            Ok(None) => {}
        }
    }
}
