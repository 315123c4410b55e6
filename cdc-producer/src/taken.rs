//! The tables that a session takes, and the topics that their rows go to.

use std::collections::BTreeMap;

use kafka::{Bounds, LastRecords, TopicSpec};
use model::error::{Code, Error, Result};
use model::position::{Progress, ServerPlace, TableProgress};
use model::table_name::TableName;
use mysql::table::{SourceTable, answered};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use runtime::config::{KafkaSettings, require_own_topic};
use tokio::runtime::Handle;

use crate::binlog_error::failed;
use crate::endpoint::Endpoint;
use crate::publish::Target;
use crate::settings::{ProducerSettings, panicked};
use crate::snapshot_requests::Requests;
use crate::table_progress;

/// Databases of the server itself, which no pattern takes.
const OF_THE_SERVER: &str = "'mysql', 'sys', 'information_schema', 'performance_schema'";

/// More tables than a batch can number are refused.
const MOST: usize = 10_000;

/// A table as the checks have found it.
pub(crate) struct FoundTable {
    pub(crate) settings: ProducerSettings,
    pub(crate) target: Target,
    pub(crate) table: SourceTable,
    pub(crate) exists: bool,
    pub(crate) schema_id: u32,
}

/// What is known of a topic when a session starts.
#[derive(Debug)]
pub(crate) struct TopicFacts {
    /// Its partitions.
    pub(crate) bounds: Vec<Bounds>,
    /// Its id, if it is known.
    pub(crate) id: Option<String>,
    /// It does not exist.
    pub(crate) is_missing: bool,
}

impl TopicFacts {
    /// By partition, its end.
    pub(crate) fn ends(&self) -> Vec<i64> {
        self.bounds.iter().map(|b| b.end).collect()
    }
}

/// The server's tables, in the order of their names.
///
/// # Errors
/// As [`failed`].
pub(crate) async fn all(conn: &mut Conn) -> Result<Vec<TableName>> {
    let query = format!(
        "SELECT table_schema, table_name FROM information_schema.tables \
         WHERE table_type = 'BASE TABLE' AND table_schema NOT IN ({OF_THE_SERVER}) ORDER BY 1, 2"
    );
    let rows: Vec<(String, String)> =
        answered(conn.query(query)).await.map_err(|e| failed("list the server's tables", e))?;
    Ok(rows.into_iter().map(|(database, table)| TableName::new(database, table)).collect())
}

/// The server's tables that the patterns take, without those that are named in full.
///
/// # Errors
/// As [`failed`].
pub(crate) async fn matching(settings: &ProducerSettings, conn: &mut Conn) -> Result<Vec<TableName>> {
    let named = settings.tables.exact();
    let mut names = all(conn).await?;
    names.retain(|name| settings.tables.takes(name) && !named.contains(name));
    Ok(names)
}

/// The settings of each table that is taken; the main table is first.
///
/// # Errors
/// Definite when no table is taken, or when two have one topic.
pub(crate) async fn tables(settings: &ProducerSettings, endpoint: &Endpoint) -> Result<Vec<ProducerSettings>> {
    let mut names = settings.tables.exact();
    if settings.tables.has_patterns() {
        names.extend(matching(settings, &mut endpoint.begin().await?).await?);
    }
    if names.is_empty() {
        return Err(nothing_taken(settings));
    }
    if names.len() > MOST {
        return Err(Error::new(Code::Setting, format!("tables takes {} tables, more than {MOST}", names.len()))
            .with_remedy("take fewer, and give the others to another producer"));
    }
    names.sort_by_key(|name| name.to_string() != settings.source());
    let mut topics = Vec::new();
    let mut tables = Vec::new();
    for name in names {
        let table = settings.of_table(&name)?;
        require_own_topic(&mut topics, &table.kafka.topic, &name)?;
        tables.push(table);
    }
    Ok(tables)
}

/// The error when no table matches.
pub(crate) fn nothing_taken(settings: &ProducerSettings) -> Error {
    let patterns: Vec<&str> = settings.tables.patterns().iter().map(|pattern| pattern.text()).collect();
    let text = format!("no table of the server matches tables: {}", patterns.join(", "));
    Error::new(Code::TableMissing, text).with_remedy(
        "correct the patterns, create a table, or grant SELECT to the user of DB_USER; `cdc-producer tables` lists all",
    )
}

/// The topics of all tables, each once.
fn wanted(tables: &[ProducerSettings]) -> Vec<TopicSpec> {
    let mut wanted: BTreeMap<String, TopicSpec> = BTreeMap::new();
    for table in tables {
        wanted.extend(Target::new(table).topics(&table.kafka).into_iter().map(|spec| (spec.name.clone(), spec)));
    }
    wanted.into_values().collect()
}

/// Checks the topics of all tables. Returns the names of those that are missing.
///
/// # Errors
/// As [`kafka::check_topics`].
pub(crate) async fn missing_topics(tables: &[ProducerSettings]) -> Result<Vec<String>> {
    let Some(first) = tables.first() else { return Ok(Vec::new()) };
    let (kafka, topics) = (first.kafka.clone(), wanted(tables));
    blocking(move || kafka::check_topics(&kafka, &topics)).await
}

/// Creates the missing topics that a start may create: at the first start all, later those of the dead letters. After a
/// first start `missing` is empty.
///
/// # Errors
/// Errors of the creation.
pub(crate) async fn create_allowed_topics(tables: &[ProducerSettings], missing: &mut Vec<String>) -> Result<()> {
    let Some(first) = tables.first().filter(|_| !missing.is_empty()) else { return Ok(()) };
    // Without progress nothing was written yet: create the topics, so that none is missing.
    let is_first_start = missing.contains(&first.kafka.checkpoint_topic);
    let parked: Vec<String> = tables.iter().filter_map(|table| Target::new(table).parked_topic).collect();
    let mut create = wanted(tables);
    create.retain(|spec| is_first_start || missing.contains(&spec.name) && parked.contains(&spec.name));
    if !create.is_empty() {
        ensure_topics(&first.kafka, create).await?;
    }
    if is_first_start {
        missing.clear();
    }
    Ok(())
}

/// Reads what is known of each topic. Blocks.
///
/// # Errors
/// Transient when Kafka can't be reached.
pub(crate) fn topic_facts(records: &LastRecords, targets: &[Target], missing: &[String]) -> Result<Vec<TopicFacts>> {
    let facts = |target: &Target| {
        if missing.contains(&target.topic) {
            return Ok(TopicFacts { bounds: empty(target), id: None, is_missing: true });
        }
        let bounds = records.bounds(&target.topic, target.partition_count())?;
        Ok(TopicFacts { bounds, id: records.topic_id(&target.topic)?, is_missing: false })
    };
    targets.iter().map(facts).collect()
}

fn empty(target: &Target) -> Vec<Bounds> {
    vec![Bounds { begin: 0, end: 0 }; target.partition_count()]
}

/// Creates the missing topics of the tables.
///
/// # Errors
/// Errors of the creation.
pub(crate) async fn create_topics(tables: &[FoundTable], topics: &mut [TopicFacts]) -> Result<()> {
    for (table, facts) in tables.iter().zip(topics.iter_mut()) {
        create_topic(table, facts).await?;
    }
    Ok(())
}

async fn create_topic(table: &FoundTable, facts: &mut TopicFacts) -> Result<()> {
    if !facts.is_missing {
        return Ok(());
    }
    let kafka = table.settings.kafka.clone();
    ensure_topics(&kafka, table.target.topics(&table.settings.kafka)).await?;
    let topic = table.target.topic.clone();
    facts.id = blocking(move || kafka::topic_id(&kafka, &topic)).await?;
    facts.is_missing = false;
    Ok(())
}

/// Brings the progress to the tables that are taken now: notes what has changed at the tables and topics that it has,
/// begins a snapshot of each table that is new, and forgets those that are not taken any more, so that a later start
/// reads them again.
///
/// # Errors
/// Definite when a topic is gone or was created again.
pub(crate) async fn resume(
    progress: &mut Progress,
    settings: &ProducerSettings,
    (tables, topics): (&[FoundTable], &mut [TopicFacts]),
    requests: &Requests,
    now: &ServerPlace,
) -> Result<()> {
    let source = settings.source();
    let names: Vec<String> = tables.iter().map(|table| table.settings.name()).collect();
    progress.tables.retain(|name, _| names.contains(name));
    if !names.contains(&source) {
        progress.main = TableProgress::default();
    }
    for ((found, facts), name) in tables.iter().zip(topics.iter_mut()).zip(&names) {
        // An earlier version noted nothing of the only table.
        let is_known = match progress.table(&source, name) {
            Some(noted) => settings.tables.is_default() || *noted != TableProgress::default(),
            None => false,
        };
        if is_known && facts.is_missing {
            return Err(Error::new(
                Code::TopicGone,
                format!(
                    "topic {} is gone, but the position in {} says that it was written",
                    found.target.topic, found.target.checkpoint_topic
                ),
            )
            .with_remedy("to write the table into a new one: `cdc-producer checkpoint reset`"));
        }
        create_topic(found, facts).await?;
        let noted = progress.table_mut(&source, name);
        if !is_known {
            tracing::info!(table = %name, topic = found.target.topic, "a table is new: its rows are read while the stream continues");
            noted.begin_snapshot(facts.ends(), now.clone());
        }
        table_progress::check_topic(noted, &facts.bounds, facts.id.as_deref(), found.target.names())?;
        note(noted, found, facts, *name == source);
        table_progress::resume(noted, &facts.bounds);
        let request = requests.get(name);
        if request.is_some() && noted.request.as_ref() != request {
            if is_known {
                tracing::info!(table = %name, "a snapshot of the table was asked for");
                noted.begin_snapshot(facts.ends(), now.clone());
            }
            noted.request = request.cloned();
        }
        // After a failover the snapshot begins again, as places of two servers can't be compared.
        if let (Some(from), Some(snapshot)) = (&mut noted.from, &mut noted.snapshot)
            && from.server_uuid != now.server_uuid
        {
            from.clone_from(now);
            (snapshot.after, snapshot.sweep) = (None, None);
        }
    }
    Ok(())
}

/// Notes the table's schema, columns and topic.
pub(crate) fn note(noted: &mut TableProgress, found: &FoundTable, facts: &TopicFacts, is_main: bool) {
    if !is_main {
        noted.topic.clone_from(&found.target.topic);
    }
    table_progress::note_schema_id(noted, found.schema_id, &found.table.schema, &facts.bounds);
    table_progress::note_columns(&mut noted.state, &found.table);
    if facts.id.is_some() {
        noted.topic_id.clone_from(&facts.id);
    }
}

/// Looking up topics blocks for as long as Kafka does not answer, so it runs in a separate thread.
async fn ensure_topics(settings: &KafkaSettings, topics: Vec<TopicSpec>) -> Result<()> {
    let (settings, runtime) = (settings.clone(), Handle::current());
    blocking(move || runtime.block_on(kafka::ensure_topics(&settings, &topics))).await
}

/// Runs work that blocks in a separate thread.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| panicked("talking to Kafka", &e))?
}
