//! A start: everything up to the first event.
//!
//! Its order is part of exactly once: the new transactional producer is initialised first, which fences an earlier one and
//! settles what it had in flight; only then is the position read back. What the checkpoint file refuses is found before
//! that, so that it fences nobody.

use std::time::Instant;

use pipeline::config::KafkaSettings;
use pipeline::doctor::{self, Outcome};
use pipeline::error::{Error, Result};
use pipeline::failpoint;
use pipeline::kafka::{self, Bounds, LastRecords, TopicSpec, TransactionalProducer, Unfenced};
use pipeline::position::Progress;
use pipeline::registry::Registry;
use pipeline::table::SourceTable;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::checkpoint::{CheckpointFile, Start, Written};
use crate::endpoint::Endpoint;
use crate::epoch::{self, Before};
use crate::fencing::Memory;
use crate::history::{self, Continuity};
use crate::known::Known;
use crate::preflight;
use crate::publish::Target;
use crate::run::{ProducerSettings, panicked};
use crate::server;
use crate::status::Status;
use crate::stream::{EventStream, StreamOptions};
use crate::view::Watched;

/// A session that is ready to stream.
pub(crate) struct Session {
    pub(crate) target: Target,
    pub(crate) table: SourceTable,
    pub(crate) schema_id: u32,
    pub(crate) producer: TransactionalProducer,
    pub(crate) progress: Progress,
    /// What the topic held at the start.
    pub(crate) bounds: Vec<Bounds>,
    pub(crate) conn: mysql_async::Conn,
    pub(crate) stream: EventStream,
    pub(crate) continuity: Continuity,
    pub(crate) known: Known,
}

/// Everything up to the first event; `None` when somebody has edited the checkpoint file meanwhile.
pub(crate) async fn prepare(
    settings: &ProducerSettings,
    endpoint: &Endpoint,
    file: &CheckpointFile,
    memory: &mut Memory,
    status: &Status,
) -> Result<Option<Session>> {
    let source = settings.source();
    let target = Target::new(settings);

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
        if target.parked_topic.as_ref().is_some_and(|topic| missing.contains(topic)) {
            ensure_topics(&settings.kafka, vec![TopicSpec::dead_letters(&settings.kafka)]).await?;
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
    let report = preflight::mysql(endpoint);
    let (report, schema_id, topic_is_missing, (producer, records)) = tokio::try_join!(
        async { report.await.inspect(|_| done("MySQL is checked")) },
        async { register.await.inspect(|_| done("the schema is registered")) },
        async { look_up.await.inspect(|_| done("the topics are looked up")) },
        async { connect.await.inspect(|_| done("Kafka's clients are connected")) },
    )?;
    for check in report.checks.iter().filter(|c| c.outcome == Outcome::Warning) {
        tracing::warn!(check = check.name, found = check.found, what_to_do = check.remedy);
    }
    doctor::require(&report.checks)?;
    let (table_exists, logs_cascades) = (report.table_exists, report.logs_cascades);
    let (Some(server), Some(mut table)) = (report.server, report.table) else {
        return Err(Error::transient("the server's checks did not come to an end"));
    };
    table.longest_text = settings.kafka.longest_text();
    // The state of the file is looked at first: what it refuses must not fence anybody.
    let text = match file.text() {
        Err(error) if !memory.has_run => return Err(error),
        text => text,
    };
    if let (false, Ok(text)) = (memory.has_run, &text) {
        file.state(text.as_deref())?;
    }
    if memory.fenced > 0 {
        // Whoever has to leave does so before it fences the other one once more.
        let (kafka, target) = (settings.kafka.clone(), target.clone());
        let committed = blocking(move || target.progress(LastRecords::new(&kafka)?)).await?;
        memory.may_go_on(committed.as_ref(), settings)?;
    }
    let partitions = usize::try_from(settings.kafka.partitions).unwrap_or(0);
    let (producer, committed, bounds, topic_id) = {
        let target = target.clone();
        blocking(move || {
            producer.connect(&target.checkpoint_topic);
            let producer = producer.initialise()?;
            failpoint::at("producer.initialised");
            // Whatever an earlier producer wrote is settled now, and nobody else writes.
            let bounds = if topic_is_missing { Vec::new() } else { records.bounds(&target.topic, partitions)? };
            let topic_id = if topic_is_missing { None } else { records.topic_id(&target.topic)? };
            let committed = target.progress(records)?;
            Ok((producer, committed, bounds, topic_id))
        })
        .await?
    };
    let bounds = if topic_is_missing { vec![Bounds { begin: 0, end: 0 }; partitions] } else { bounds };
    done("an earlier producer is fenced, and the progress is read");
    memory.may_go_on(committed.as_ref(), settings)?;
    epoch::check_count(committed.as_ref(), &bounds, &target.topic)?;

    let mut conn = endpoint.connect().await?;
    let watched = Watched { file, source: &source, endpoint, status, committed: watch::channel(committed.clone()).1 };
    let mut seen = text.as_ref().ok().cloned().flatten();
    let mut continuity = Continuity::new(server.purged.clone(), None);
    let (producer, progress) = match memory.view.start(&watched, text).await? {
        Start::Resume(_) if topic_is_missing => {
            return Err(Error::definite(format!(
                "topic {} is gone, but the position in {} says that it was written",
                target.topic, target.checkpoint_topic
            ))
            .with_remedy("to write the table into a new one: `cdc-producer checkpoint reset`"));
        }
        Start::Resume(mut progress) => {
            epoch::check_topic(&progress, &bounds, topic_id.as_deref(), &target)?;
            epoch::note_schema_id(&mut progress, schema_id, &bounds);
            progress.topic_id = topic_id.or(progress.topic_id);
            epoch::resume(&mut progress, &bounds);
            let proven = history::resume(endpoint, &server, &progress.position).await?;
            let (from, to) = (&progress.position.server_uuid, &server.uuid);
            if from != to {
                tracing::warn!(from, to, "reading from another server");
                if let Some(asked) = &mut progress.table.asked {
                    (asked.file, asked.offset) = server::binlog_end(&mut conn).await?;
                }
            }
            progress.position = proven.position;
            continuity = proven.continuity;
            (producer, *progress)
        }
        Start::Begin { epoch, request } => {
            let mut topic_id = topic_id;
            if topic_is_missing {
                ensure_topics(&settings.kafka, target.topics(&settings.kafka)).await?;
                let (kafka, topic) = (settings.kafka.clone(), target.topic.clone());
                topic_id = blocking(move || kafka::topic_id(&kafka, &topic)).await?;
            }
            let before = committed.clone();
            let (before_bounds, before_settings, status) = (bounds.clone(), settings.clone(), status.clone());
            let highest = blocking(move || {
                Before { progress: before.as_ref(), bounds: &before_bounds, id: None }
                    .next_epoch(&before_settings, &status)
            });
            let epoch = highest.await?.max(epoch);
            let before = Before { progress: committed.as_ref(), bounds: &bounds, id: topic_id.as_deref() };
            let begun =
                epoch::begin(settings, (endpoint, &mut conn), &server, file, (epoch, before), request, &mut seen)
                    .await?;
            let Some(mut first) = begun else { return Ok(None) };
            epoch::note_schema_id(&mut first, schema_id, &bounds);
            let target = target.clone();
            blocking(move || epoch::commit_first(&producer, &target, &first).map(|()| (producer, first))).await?
        }
    };
    let view = Written::of(&progress, &source).text();
    if !memory.view.begin(file, seen.as_deref(), view, status)? {
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

    done("the position is settled");
    if !table_exists && SourceTable::exists(&mut conn, &table.database, &table.table).await? {
        // The checks that it passes now are those of the next start.
        return Err(Error::transient(format!("the table {source} was created while the producer started")));
    }
    let known = Known::now(&mut conn, &table, table_exists, logs_cascades).await?;
    let ProducerSettings { server_id, heartbeat, max_event, .. } = *settings;
    let options = StreamOptions { server_id, heartbeat, max_event };
    let stream = EventStream::open(endpoint, &progress.position, options).await?;
    Ok(Some(Session { target, table, schema_id, producer, progress, bounds, conn, stream, continuity, known }))
}

/// Looking topics up blocks for as long as Kafka does not answer, so it has a thread of its own.
async fn ensure_topics(settings: &KafkaSettings, topics: Vec<TopicSpec>) -> Result<()> {
    let (settings, runtime) = (settings.clone(), Handle::current());
    blocking(move || runtime.block_on(kafka::ensure_topics(&settings, &topics))).await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| panicked("talking to Kafka", &e))?
}
