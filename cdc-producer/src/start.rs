//! The start of a session: all steps before the first event.
//!
//! The order of the steps is part of exactly once: first the new transactional producer is initialised, which fences an
//! earlier one and completes or aborts its transaction in flight; only then is the position read back. A checkpoint
//! file that is refused is found before that, so that such a start fences nobody.

use std::sync::Arc;
use std::time::Instant;

use avro::registry::Registry;
use kafka::doctor::{self, Outcome};
use kafka::{Bounds, LastRecords, TopicSpec, TransactionalProducer, UninitializedProducer};
use model::error::{Error, Result};
use model::position::Progress;
use mysql::table::SourceTable;
use runtime::config::KafkaSettings;
use runtime::failpoint;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::checkpoint::{CheckpointFile, Start, Written};
use crate::checkpoint_sync::Watched;
use crate::endpoint::Endpoint;
use crate::epoch::{self, Before};
use crate::fencing::Memory;
use crate::history::{self, Continuity};
use crate::known::Known;
use crate::plan::Encoder;
use crate::preflight;
use crate::publish::Target;
use crate::run::{ProducerSettings, panicked};
use crate::server;
use crate::status::Status;
use crate::stream::{EventStream, StreamOptions};
use crate::table_progress;

/// A session that is ready to stream.
pub(crate) struct Session {
    pub(crate) target: Target,
    pub(crate) encoder: Encoder,
    pub(crate) producer: TransactionalProducer,
    pub(crate) progress: Progress,
    /// The topic's bounds at the start.
    pub(crate) bounds: Vec<Bounds>,
    pub(crate) conn: mysql_async::Conn,
    pub(crate) stream: EventStream,
    pub(crate) continuity: Continuity,
    pub(crate) known: Known,
}

/// Runs all steps before the first event; `None` when somebody has edited the checkpoint file meanwhile.
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
    let (registry, contract) = (settings.registry.clone(), Arc::clone(&settings.contract));
    // A separate task, as the TLS handshake keeps a core busy for a while, here and at MySQL.
    let registering = tokio::spawn(async move {
        // A schema that the table decides waits for the look at the table.
        if contract.all { Ok(None) } else { Registry::new(registry)?.register(&contract.text).await.map(Some) }
    });
    let register = async { registering.await.map_err(|e| panicked("registering the schema", &e))? };
    let look_up = async {
        let (kafka, topics) = (settings.kafka.clone(), target.topics(&settings.kafka));
        let missing = blocking(move || kafka::check_topics(&kafka, &topics)).await?;
        // Without progress nothing was written yet: create the topics, so that none is missing.
        if missing.contains(&target.checkpoint_topic) {
            ensure_topics(&settings.kafka, target.topics(&settings.kafka)).await?;
            return Ok(false);
        }
        if target.parked_topic.as_ref().is_some_and(|topic| missing.contains(topic)) {
            ensure_topics(&settings.kafka, vec![TopicSpec::dead_letters(&settings.kafka)]).await?;
        }
        Ok(missing.contains(&target.topic))
    };
    // Created in parallel; this fences nobody yet.
    let connect = {
        let (kafka, topic) = (settings.kafka.clone(), target.checkpoint_topic.clone());
        blocking(move || {
            let (producer, records) =
                (UninitializedProducer::new(&kafka, &kafka.transactional_id)?, LastRecords::new(&kafka)?);
            records.connect(&topic);
            Ok((producer, records))
        })
    };
    let report = preflight::mysql(endpoint, &settings.contract);
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
    table.longest_value = settings.kafka.longest_value();
    let schema_id = match schema_id {
        Some(id) => id,
        None => Registry::new(settings.registry.clone())?.register(&table.schema_text).await?,
    };
    // The file is checked first: a refused one must not fence anybody.
    let text = match file.text() {
        Err(error) if !memory.has_run => return Err(error),
        text => text,
    };
    if let (false, Ok(text)) = (memory.has_run, &text) {
        file.state(text.as_deref())?;
    }
    if memory.fenced > 0 {
        // A producer that must exit does so before it fences the other one once more.
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
            // The transactions of earlier producers with this id have ended now, and none of them can write any more.
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
    let main = committed.as_ref().map(|progress| &progress.main);
    table_progress::check_count(main, &bounds, &target.topic)?;
    table_progress::check_key(main, &table, &target.topic)?;

    let mut conn = endpoint.connect().await?;
    let watched = Watched { file, source: &source, endpoint, status, committed: watch::channel(committed.clone()).1 };
    let mut seen = text.as_ref().ok().cloned().flatten();
    // Consumers take a noted id that the registry has lost for that of the topic's pinned schema, if it has one.
    let notes_ids = !table.is_derived || table.schema.name != table.contract.schema.name;
    let mut continuity = Continuity::new(server.purged.clone(), None);
    let (producer, progress) = match memory.checkpoint_sync.start(&watched, text).await? {
        Start::Resume(_) if topic_is_missing => {
            return Err(Error::definite(format!(
                "topic {} is gone, but the position in {} says that it was written",
                target.topic, target.checkpoint_topic
            ))
            .with_remedy("to write the table into a new one: `cdc-producer checkpoint reset`"));
        }
        Start::Resume(mut progress) => {
            table_progress::check_topic(&progress.main, &bounds, topic_id.as_deref(), &target)?;
            if notes_ids {
                table_progress::note_schema_id(&mut progress.main, schema_id, &bounds);
            }
            table_progress::note_columns(&mut progress.main.state, &table);
            progress.main.topic_id = topic_id.or(progress.main.topic_id);
            table_progress::resume(&mut progress.main, &bounds);
            let proven = history::resume(endpoint, &server, &progress.position).await?;
            let (from, to) = (&progress.position.server_uuid, &server.uuid);
            if from != to {
                tracing::warn!(from, to, "reading from another server");
                if let Some(asked) = &mut progress.main.state.asked {
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
            if notes_ids {
                table_progress::note_schema_id(&mut first.main, schema_id, &bounds);
            }
            table_progress::note_columns(&mut first.main.state, &table);
            let target = target.clone();
            blocking(move || epoch::commit_first(&producer, &target, &first).map(|()| (producer, first))).await?
        }
    };
    let written = Written::of(&progress, &source).text();
    if !memory.checkpoint_sync.begin(file, seen.as_deref(), written, status)? {
        return Ok(None);
    }
    tracing::info!(
        epoch = progress.epoch,
        position = %progress.position,
        snapshot = progress.main.snapshot.is_some(),
        "reading {source}"
    );
    memory.ours = [progress.clone()].into_iter().chain(committed).collect();
    memory.has_run = true;

    done("the position is settled");
    if !table_exists && SourceTable::exists(&mut conn, &table.database, &table.table).await? {
        // The next start checks the new table.
        return Err(Error::transient(format!("the table {source} was created while the producer started")));
    }
    let known = Known::now(&mut conn, &table, table_exists, logs_cascades).await?;
    let ProducerSettings { server_id, heartbeat, max_event, .. } = *settings;
    let options = StreamOptions { server_id, heartbeat, max_event };
    let stream = EventStream::open(endpoint, &progress.position, options).await?;
    let encoder = Encoder::new(table, schema_id);
    Ok(Some(Session { target, encoder, producer, progress, bounds, conn, stream, continuity, known }))
}

/// Looking up topics blocks for as long as Kafka does not answer, so it runs in a separate thread.
async fn ensure_topics(settings: &KafkaSettings, topics: Vec<TopicSpec>) -> Result<()> {
    let (settings, runtime) = (settings.clone(), Handle::current());
    blocking(move || runtime.block_on(kafka::ensure_topics(&settings, &topics))).await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| panicked("talking to Kafka", &e))?
}
