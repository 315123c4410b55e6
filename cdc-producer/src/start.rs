//! The start of a session: all steps before the first event.
//!
//! The order of the steps is part of exactly once: first the new transactional producer is initialised, which fences an
//! earlier one and completes or aborts its transaction in flight; only then is the position read back. A checkpoint
//! file that is refused is found before that, so that such a start fences nobody. Nothing is written, neither a schema
//! nor a topic, before MySQL has passed all checks.

use std::time::Instant;

use avro::registry::Registry;
use futures_util::future::try_join_all;
use kafka::doctor::{self, Outcome};
use kafka::{LastRecords, TransactionalProducer, UninitializedProducer};
use model::error::{Error, Result};
use model::position::{Progress, ServerPlace};
use mysql::table::SourceTable;
use mysql_async::Conn;
use runtime::failpoint;
use runtime::step::ProducerStep;
use tokio::sync::watch;

use crate::checkpoint::{CheckpointFile, Start, Written};
use crate::checkpoint_sync::Watched;
use crate::endpoint::Endpoint;
use crate::epoch::{self, Before};
use crate::history::{self, Continuity};
use crate::known::Known;
use crate::memory::Memory;
use crate::plan::Encoder;
use crate::preflight;
use crate::publish::Target;
use crate::server::{self, Server};
use crate::settings::{ProducerSettings, panicked};
use crate::snapshot_requests::{self, Requests};
use crate::status::Status;
use crate::stream::{EventStream, StreamOptions};
use crate::table_progress;
use crate::taken::{self, FoundTable, TopicFacts, blocking};

/// A session that is ready to stream.
pub(crate) struct Session {
    /// The tables, by their numbers.
    pub(crate) tables: Vec<ReadyTable>,
    pub(crate) producer: TransactionalProducer,
    pub(crate) progress: Progress,
    pub(crate) conn: Conn,
    pub(crate) stream: EventStream,
    pub(crate) continuity: Continuity,
    /// The requests for snapshots that it has followed.
    pub(crate) requests: Requests,
}

/// A table that is ready to be read.
pub(crate) struct ReadyTable {
    pub(crate) settings: ProducerSettings,
    pub(crate) target: Target,
    pub(crate) encoder: Encoder,
    pub(crate) known: Known,
    /// Partitions of its topic that retention has cut.
    pub(crate) cut_partitions: usize,
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
    let begun = Instant::now();
    let done = |what| tracing::debug!(after_ms = begun.elapsed().as_millis() as u64, "start: {what}");
    let taken = taken::tables(settings, endpoint).await?;
    let report = preflight::mysql(endpoint, &taken);
    let (report, ids, mut missing, (producer, records)) = tokio::try_join!(
        async { report.await.inspect(|_| done("MySQL is checked")) },
        async { registered(&taken).await.inspect(|_| done("the schemas are looked up")) },
        async { taken::missing_topics(&taken).await.inspect(|_| done("the topics are looked up")) },
        async { connect(settings).await.inspect(|_| done("Kafka's clients are connected")) },
    )?;
    for check in report.checks.iter().filter(|c| c.outcome == Outcome::Warning) {
        tracing::warn!(check = check.name, found = check.found, what_to_do = check.remedy);
    }
    doctor::require(&report.checks)?;
    let logs_cascades = report.logs_cascades;
    let Some(server) = report.server else {
        return Err(Error::transient("the server's checks did not come to an end"));
    };
    let mut tables = Vec::new();
    for ((settings, found), id) in taken.iter().zip(report.tables).zip(ids) {
        let Some(mut table) = found.table else {
            return Err(Error::transient("the checks of the tables did not come to an end"));
        };
        table.longest_value = settings.kafka.longest_value();
        let schema_id = match id {
            Some(id) => id,
            None => register(settings, &mut table).await?,
        };
        let (settings, target) = (settings.clone(), Target::new(settings));
        tables.push(FoundTable { settings, target, table, exists: found.exists, schema_id });
    }
    taken::create_allowed_topics(&taken, &mut missing).await?;
    // The file is checked first: a refused one must not fence anybody.
    let text = match file.text() {
        Err(error) if !memory.has_run => return Err(error),
        text => text,
    };
    if let (false, Ok(text)) = (memory.has_run, &text) {
        file.state(text.as_deref())?;
    }
    let requests = match snapshot_requests::read(&settings.time_track) {
        Err(error) if memory.has_run => {
            tracing::warn!(%error, what_to_do = error.remedy(), "the requests for snapshots can't be followed");
            Requests::new()
        }
        requests => requests?,
    };
    let target = Target::new(settings);
    if memory.fencing.fences() > 0 {
        // A producer that must exit does so before it fences the other one once more.
        let (kafka, target) = (settings.kafka.clone(), target.clone());
        let committed = blocking(move || target.progress(LastRecords::new(&kafka)?)).await?;
        memory.may_go_on(committed.as_ref(), settings)?;
    }
    let looked_up: Vec<Target> = tables.iter().map(|table| table.target.clone()).collect();
    let (producer, committed, mut topics) = blocking(move || {
        producer.connect(&target.checkpoint_topic);
        let producer = producer.initialise()?;
        failpoint::at(ProducerStep::Initialised);
        // The transactions of earlier producers with this id have ended now, and none of them can write any more.
        let topics = taken::topic_facts(&records, &looked_up, &missing)?;
        Ok((producer, target.progress(records)?, topics))
    })
    .await?;
    done("an earlier producer is fenced, and the progress is read");
    memory.may_go_on(committed.as_ref(), settings)?;
    for (table, topic) in tables.iter().zip(&topics) {
        let noted = committed.as_ref().and_then(|progress| progress.table(&source, &table.settings.name()));
        table_progress::check_count(noted, &topic.bounds, &table.target.topic)?;
        table_progress::check_key(noted, &table.table, &table.target.topic)?;
    }

    let mut conn = endpoint.connect().await?;
    let watched = Watched { file, source: &source, endpoint, status, committed: watch::channel(committed.clone()).1 };
    let mut seen = text.as_ref().ok().cloned().flatten();
    let mut continuity = Continuity::new(server.purged.clone(), None);
    let start = memory.checkpoint_sync.start(&watched, text).await?;
    let (producer, progress) = match start {
        Start::Resume(progress) => {
            let mut progress = *progress;
            let (file, offset) = server::binlog_end(&mut conn).await?;
            let now = ServerPlace { server_uuid: server.uuid.clone(), file, offset };
            taken::resume(&mut progress, settings, (&tables, &mut topics), &requests, &now).await?;
            continuity = resume_position(&mut progress, endpoint, &server, &mut conn).await?;
            (producer, progress)
        }
        Start::Begin { epoch, request } => {
            taken::create_topics(&tables, &mut topics).await?;
            let before = Before { progress: committed.clone(), tables: &tables, topics: &topics, requests: &requests };
            let epoch = before.next_epoch(status).await?.max(epoch);
            let begun =
                epoch::begin(settings, (endpoint, &mut conn), &server, file, (epoch, &before), request, &mut seen);
            let Some(first) = begun.await? else { return Ok(None) };
            let checkpoint = Target::new(settings);
            blocking(move || epoch::commit_first(&producer, &checkpoint, &first).map(|()| (producer, first))).await?
        }
    };
    let written = Written::of(&progress, &source).text();
    if !memory.checkpoint_sync.begin(file, seen.as_deref(), written, status)? {
        return Ok(None);
    }
    let names: Vec<String> = tables.iter().map(|table| table.settings.name()).collect();
    tracing::info!(
        epoch = progress.epoch,
        position = %progress.position,
        snapshot = progress.is_in_snapshot(),
        "reading {}", names.join(", ")
    );
    memory.fencing.begin(progress.clone(), committed);
    memory.has_run = true;

    done("the position is settled");
    let mut ready = Vec::new();
    for (found, topic) in tables.into_iter().zip(topics) {
        ready.push(make_ready(found, &topic, &mut conn, logs_cascades).await?);
    }
    let ProducerSettings { server_id, heartbeat, max_event, .. } = *settings;
    let options = StreamOptions { server_id, heartbeat, max_event };
    let stream = EventStream::open(endpoint, &progress.position, options).await?;
    Ok(Some(Session { tables: ready, producer, progress, conn, stream, continuity, requests }))
}

/// Proves that the server still has the history before the committed position, and follows a failover.
async fn resume_position(
    progress: &mut Progress,
    endpoint: &Endpoint,
    server: &Server,
    conn: &mut Conn,
) -> Result<Continuity> {
    let proven = history::resume(endpoint, server, &progress.position).await?;
    let (from, to) = (&progress.position.server_uuid, &server.uuid);
    if from != to {
        tracing::warn!(from, to, "reading from another server");
        for table in progress.tables.values_mut().chain([&mut progress.main]) {
            if let Some(asked) = &mut table.state.asked {
                (asked.file, asked.offset) = server::binlog_end(conn).await?;
            }
        }
    }
    progress.position = proven.position;
    Ok(proven.continuity)
}

async fn make_ready(found: FoundTable, topic: &TopicFacts, conn: &mut Conn, logs_cascades: bool) -> Result<ReadyTable> {
    let FoundTable { settings, target, table, exists, schema_id } = found;
    if !exists && SourceTable::exists(conn, &table.database, &table.table).await? {
        // The next start checks the new table.
        return Err(Error::transient(format!(
            "the table {} was created while the producer started",
            table.full_name()
        )));
    }
    let known = Known::now(conn, &table, exists, logs_cascades).await?;
    let cut_partitions = table_progress::cut_partitions(&topic.bounds);
    let encoder = Encoder::new(table, schema_id).skipping_unchanged(settings.skips_unchanged);
    Ok(ReadyTable { settings, target, encoder, known, cut_partitions })
}

/// By table, the id of a schema that does not depend on the table, if it is registered. Separate tasks, as a TLS
/// handshake keeps a core busy for a while, here and at MySQL.
async fn registered(tables: &[ProducerSettings]) -> Result<Vec<Option<u32>>> {
    try_join_all(tables.iter().map(|table| {
        let (registry, contract) = (table.registry.clone(), table.contract.clone());
        let looking = tokio::spawn(async move {
            if contract.all { Ok(None) } else { Registry::new(registry)?.registered(&contract.text).await }
        });
        async { looking.await.map_err(|e| panicked("looking up the schema", &e))? }
    }))
    .await
}

/// Registers the schema of a table.
async fn register(settings: &ProducerSettings, table: &mut SourceTable) -> Result<u32> {
    let registry = Registry::new(settings.registry.clone())?;
    if table.is_derived {
        let earlier = registry.earlier(&table.schema_text).await?;
        let schemas = earlier.iter().map(|version| &version.schema);
        table.require_given(schemas.clone())?;
        table.keep_spelling(schemas);
    }
    registry.register(&table.schema_text).await
}

/// Connects the clients in parallel with other steps; this fences nobody yet.
async fn connect(settings: &ProducerSettings) -> Result<(UninitializedProducer, LastRecords)> {
    let kafka = settings.kafka.clone();
    blocking(move || {
        let (producer, records) =
            (UninitializedProducer::new(&kafka, &kafka.transactional_id)?, LastRecords::new(&kafka)?);
        records.connect(&kafka.checkpoint_topic);
        Ok((producer, records))
    })
    .await
}
