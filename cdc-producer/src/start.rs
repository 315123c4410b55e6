//! A start: everything up to the first event.
//!
//! Its order is part of exactly once: the new transactional producer is initialised first, which fences an earlier one and
//! settles what it had in flight; only then is the position read back. What the checkpoint file refuses is found before
//! that, so that it fences nobody.

use std::time::Instant;

use pipeline::config::KafkaSettings;
use pipeline::error::{Error, Result};
use pipeline::failpoint;
use pipeline::kafka::{self, Failure, LastRecords, Record, TopicSpec, TransactionalProducer, Unfenced};
use pipeline::position::{Progress, SnapshotProgress};
use pipeline::registry::Registry;
use pipeline::table::SourceTable;
use tokio::runtime::Handle;

use crate::checkpoint::{CheckpointFile, Request, Start, Written, decide};
use crate::fencing::Memory;
use crate::locate;
use crate::preflight;
use crate::publish::Target;
use crate::run::{ProducerSettings, panicked};
use crate::server::{self, Server};
use crate::snapshot::Alive;
use crate::stream::EventStream;

/// A session that is ready to stream.
pub(crate) struct Session {
    pub(crate) target: Target,
    pub(crate) table: SourceTable,
    pub(crate) schema_id: u32,
    pub(crate) producer: TransactionalProducer,
    pub(crate) progress: Progress,
    /// What the checkpoint file says.
    pub(crate) view: String,
    pub(crate) alive: Alive,
    pub(crate) conn: mysql_async::Conn,
    pub(crate) stream: EventStream,
}

/// Everything up to the first event; `None` when somebody has edited the checkpoint file meanwhile.
pub(crate) async fn prepare(
    settings: &ProducerSettings,
    file: &CheckpointFile,
    memory: &mut Memory,
) -> Result<Option<Session>> {
    let source = settings.source();
    let target = Target::new(&settings.kafka, source.clone());

    let begun = Instant::now();
    let done = |what| tracing::debug!(after_ms = begun.elapsed().as_millis() as u64, "start: {what}");
    let registry = settings.registry.clone();
    // As a task of its own: to begin with TLS keeps a core busy for a while, here and for MySQL.
    let registering = tokio::spawn(async move { Registry::new(registry)?.register().await });
    let register = async { registering.await.map_err(|e| panicked("registering the schema", &e))? };
    let look_up = async {
        let (kafka, topics) = (settings.kafka.clone(), target.topics(&settings.kafka));
        let missing = blocking(move || kafka::check_topics(&kafka, &topics)).await?;
        // Without progress nothing was written yet: both are made, and none is missing then.
        if missing.contains(&target.checkpoint_topic) {
            ensure_topics(&settings.kafka, target.topics(&settings.kafka)).await?;
            return Ok(false);
        }
        Ok(missing.contains(&target.topic))
    };
    // Made meanwhile; nobody is fenced yet.
    let connect = {
        let (kafka, topic) = (settings.kafka.clone(), target.checkpoint_topic.clone());
        blocking(move || {
            let (producer, records) = (Unfenced::new(&kafka, &kafka.transactional_id)?, LastRecords::new(&kafka)?);
            records.connect(&topic);
            Ok((producer, records))
        })
    };
    let report = preflight::mysql(&settings.mysql);
    let (report, schema_id, topic_is_missing, (producer, records)) = tokio::try_join!(
        async { report.await.inspect(|_| done("MySQL is checked")) },
        async { register.await.inspect(|_| done("the schema is registered")) },
        async { look_up.await.inspect(|_| done("the topics are looked up")) },
        async { connect.await.inspect(|_| done("Kafka's clients are connected")) },
    )?;
    for check in report.checks.iter().filter(|c| c.outcome == preflight::Outcome::Warning) {
        tracing::warn!(check = check.name, found = check.found, what_to_do = check.remedy);
    }
    preflight::require(&report.checks)?;
    let (Some(server), Some(table)) = (report.server, report.table) else {
        return Err(Error::transient("the server's checks did not come to an end"));
    };
    // The state of the file is looked at first: what it refuses must not fence anybody.
    let seen = file.text()?;
    let state = file.state(seen.as_deref())?;
    if memory.fenced > 0 {
        // Whoever has to leave does so before it fences the other one once more.
        let (kafka, target) = (settings.kafka.clone(), target.clone());
        let committed = blocking(move || target.progress(LastRecords::new(&kafka)?)).await?;
        memory.may_go_on(committed.as_ref(), settings)?;
    }
    let (producer, committed) = {
        let target = target.clone();
        blocking(move || {
            producer.connect(&target.checkpoint_topic);
            let producer = producer.initialise()?;
            failpoint::at("producer.initialised");
            let committed = target.progress(records)?;
            Ok((producer, committed))
        })
        .await?
    };
    done("an earlier producer is fenced, and the progress is read");
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
            if topic_is_missing {
                ensure_topics(&settings.kafka, target.topics(&settings.kafka)).await?;
            }
            let Some(progress) = begin(settings, &mut conn, &server, file, epoch, request, &mut seen).await? else {
                return Ok(None);
            };
            let first = progress.clone();
            let (producer, progress) = {
                let target = target.clone();
                blocking(move || {
                    failpoint::at("producer.identified");
                    let what = format!("cannot begin epoch {epoch} in {}", target.checkpoint_topic);
                    commit_first(&producer, &target, &first).map_err(|e| e.into_error(&what))?;
                    failpoint::at("producer.epoch-committed");
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
    done("the position is settled");
    let stream_conn = server::connect(&settings.mysql).await?;
    let stream = EventStream::open(stream_conn, &progress.position, settings.server_id, settings.heartbeat).await?;
    Ok(Some(Session { target, table, schema_id, producer, progress, view, alive, conn, stream }))
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
        Some(at) => {
            let found = locate::position_at(&settings.mysql, server, settings.server_id, at).await;
            (found.map_err(|e| e.at(&file.path().display().to_string()))?, None)
        }
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

/// Looking topics up blocks for as long as Kafka does not answer, so it has a thread of its own.
async fn ensure_topics(settings: &KafkaSettings, topics: [TopicSpec; 2]) -> Result<()> {
    let (settings, runtime) = (settings.clone(), Handle::current());
    blocking(move || runtime.block_on(kafka::ensure_topics(&settings, &topics))).await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| panicked("talking to Kafka", &e))?
}
