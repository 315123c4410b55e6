//! The beginning of an epoch: its number, its position, and the topic's earlier records.

use std::time::Instant;

use kafka::doctor;
use kafka::{Failure, Record, TransactionalProducer};
use model::change::{SOURCE_HEADER, Source};
use model::error::Result;
use model::position::{Position, Progress, SnapshotProgress, TableProgress, compare_files};
use mysql::table::{SourceTable, answered};
use runtime::config::{KafkaSettings, MySqlSettings};
use runtime::failpoint;
use runtime::step::ProducerStep;

use crate::binlog_error::failed;
use crate::checkpoint::{CheckpointFile, Request};
use crate::endpoint::Endpoint;
use crate::locate;
use crate::probe;
use crate::publish::Target;
use crate::server::Server;
use crate::settings::ProducerSettings;
use crate::snapshot_requests::Requests;
use crate::status::Status;
use crate::stream::SAY_EVERY;
use crate::table_progress;
use crate::taken::{self, FoundTable, TopicFacts, blocking};

/// The facts when an epoch begins.
pub(crate) struct Before<'a> {
    /// The committed progress; `None` when there is none.
    pub(crate) progress: Option<Progress>,
    /// The tables.
    pub(crate) tables: &'a [FoundTable],
    /// Their topics.
    pub(crate) topics: &'a [TopicFacts],
    /// Requests for snapshots, which one of all tables carries out.
    pub(crate) requests: &'a Requests,
}

impl Before<'_> {
    /// The progress of the table.
    fn of_table(&self, table: &FoundTable) -> Option<&TableProgress> {
        self.progress.as_ref()?.table(&table.settings.source(), &table.settings.name())
    }

    /// The progress of the table, if it belongs to its present topic.
    fn of_this_topic(&self, table: &FoundTable, topic: &TopicFacts) -> Option<&TableProgress> {
        let is_same = |noted: &&TableProgress| {
            table_progress::check_topic(noted, &topic.bounds, topic.id.as_deref(), table.target.names()).is_ok()
        };
        self.of_table(table).filter(is_same)
    }

    /// The first number that no epoch in the topics has.
    ///
    /// # Errors
    /// Transient when Kafka can't be reached.
    pub(crate) async fn next_epoch(&self, status: &Status) -> Result<u64> {
        let mut highest = self.progress.as_ref().map_or(0, |p| p.epoch);
        for (table, topic) in self.tables.iter().zip(self.topics) {
            // With the progress of this version, whose epoch numbers only grow, the topic has no higher number.
            let is_noted = self.of_table(table).is_some_and(|noted| noted.ends.is_some());
            if !is_noted && topic.bounds.iter().any(|b| b.begin != b.end) {
                let (kafka, status) = (table.settings.kafka.clone(), status.clone());
                highest = highest.max(blocking(move || last_epoch(&kafka, &status)).await?);
            }
        }
        Ok(highest + 1)
    }

    /// The progress of a table in the new epoch, which begins with a snapshot.
    async fn with_snapshot(&self, number: usize, conn: &mut mysql_async::Conn) -> Result<TableProgress> {
        let (table, topic) = (&self.tables[number], &self.topics[number]);
        let snapshot = SnapshotProgress::new(topic.ends(), 0);
        // A table that is missing after the position was taken has no rows at it: there is nothing to read, and later
        // rows are in the stream.
        let MySqlSettings { database, table: name, .. } = &table.settings.mysql;
        let exists = exists(conn, database, name).await?;
        let snapshot = if exists { Some(snapshot) } else { snapshot.swept() };
        let request = self.requests.get(&table.settings.name()).cloned();
        Ok(TableProgress { snapshot, request, ..self.kept(table, topic) })
    }

    /// The progress of a table in the new epoch, which repeats the changes since a time. An incomplete snapshot
    /// continues: nothing else would publish the rows that it has not read.
    fn without_snapshot(&self, number: usize) -> TableProgress {
        let (table, topic) = (&self.tables[number], &self.topics[number]);
        let unfinished = self.of_table(table).and_then(|noted| noted.snapshot.as_ref());
        let same = self.of_this_topic(table, topic);
        let snapshot = match same.and_then(|noted| noted.snapshot.clone()).filter(|s| s.begin.is_some()) {
            None => unfinished.map(|s| SnapshotProgress::new(topic.ends(), s.rows)),
            snapshot => snapshot,
        };
        let complete = same.and_then(|noted| noted.complete.clone());
        let request = self.of_table(table).and_then(|noted| noted.request.clone());
        TableProgress { snapshot, complete, request, ..self.kept(table, topic) }
    }

    /// What a new epoch keeps of the table's progress, and notes.
    fn kept(&self, table: &FoundTable, topic: &TopicFacts) -> TableProgress {
        let before = self.of_table(table);
        let mut noted = TableProgress {
            ends: Some(topic.ends()),
            schema_ids: before.and_then(|noted| noted.schema_ids.clone()),
            schema_fields: before.map(|noted| noted.schema_fields.clone()).unwrap_or_default(),
            // The offsets of another topic do not apply to this one.
            schema_ids_from: self.of_this_topic(table, topic).and_then(|noted| noted.schema_ids_from.clone()),
            ..TableProgress::default()
        };
        taken::note(&mut noted, table, topic, table.settings.source() == table.settings.name());
        noted
    }

    /// Warns of a topic in which deletes may be missing, as retention has removed records.
    fn warn_of_expired(&self) {
        for (table, topic) in self.tables.iter().zip(self.topics) {
            let known = self.of_this_topic(table, topic).and_then(|noted| noted.complete.as_ref());
            let expired = doctor::expired(&topic.bounds, known);
            let check = doctor::history(&table.target.topic, None, &table.settings.kafka.cleanup_policy, &expired);
            if !check.remedy.is_empty() {
                tracing::warn!(check = check.name, found = check.found, what_to_do = check.remedy);
            }
        }
    }
}

/// The highest number of an epoch among the records of the topic. Blocks.
fn last_epoch(kafka: &KafkaSettings, status: &Status) -> Result<u64> {
    let topic = &kafka.topic;
    tracing::info!(topic, "looking for the topic's last epoch, as no position tells it");
    let (mut highest, mut records, mut said) = (0, 0_u64, Instant::now());
    kafka::scan(kafka, topic, &mut |message| {
        records += 1;
        status.progress();
        if said.elapsed() >= SAY_EVERY {
            said = Instant::now();
            status.working(&format!("looking for the last epoch of topic {topic}: {records} records read"));
        }
        let header = kafka::header(message, SOURCE_HEADER).and_then(|h| Source::parse(h).ok());
        // A foreign record may claim any.
        let possible = header.map(|source| source.epoch).filter(|epoch| *epoch <= u64::from(u32::MAX));
        highest = highest.max(possible.unwrap_or(0));
        Ok(())
    })?;
    Ok(highest)
}

/// The progress at the start of a new epoch; `None` when somebody has edited the checkpoint file since it was `seen`.
///
/// # Errors
/// Errors of the queries; definite when no position for a time can be found.
pub(crate) async fn begin(
    settings: &ProducerSettings,
    (endpoint, conn): (&Endpoint, &mut mysql_async::Conn),
    server: &Server,
    file: &CheckpointFile,
    (epoch, before): (u64, &Before<'_>),
    request: Request,
    seen: &mut Option<String>,
) -> Result<Option<Progress>> {
    let position = match request.from {
        Some(at) => {
            let found = locate::position_at(endpoint, server, at).await;
            let position = found.map_err(|e| e.at(&file.path().display().to_string()))?;
            warn_of_gap(before.progress.as_ref(), &position);
            position
        }
        None => probe::snapshot_start(endpoint, conn, server).await?,
    };
    let mut progress = Progress::new(epoch, position);
    for (number, table) in before.tables.iter().enumerate() {
        let noted = match request.from {
            Some(_) => before.without_snapshot(number),
            None => before.with_snapshot(number, conn).await?,
        };
        *progress.table_mut(&settings.source(), &table.settings.name()) = noted;
    }
    before.warn_of_expired();
    let identified = file.identify(request, seen.as_deref())?;
    Ok(identified.map(|request| {
        *seen = Some(request.text());
        progress.request = request.id.unwrap_or_default();
        progress
    }))
}

/// Whether the table exists. Unlike [`SourceTable::exists`] it fails for a table that this user may not see, instead of
/// treating it as missing, which would delete all of its products in the topic.
///
/// # Errors
/// Definite when the user may not read the table.
async fn exists(conn: &mut mysql_async::Conn, database: &str, table: &str) -> Result<bool> {
    use mysql_async::prelude::Queryable;
    const NO_SUCH_DATABASE: u16 = 1049;
    const NO_SUCH_TABLE: u16 = 1146;
    if SourceTable::exists(conn, database, table).await? {
        return Ok(true);
    }
    let quoted = |name: &str| name.replace('`', "``");
    let query = format!("SELECT 1 FROM `{}`.`{}` LIMIT 0", quoted(database), quoted(table));
    match answered(conn.query_drop(query)).await {
        Ok(()) => Ok(true),
        Err(mysql_async::Error::Server(e)) if [NO_SUCH_DATABASE, NO_SUCH_TABLE].contains(&e.code) => {
            tracing::warn!(
                table = format!("{database}.{table}"),
                "the table does not exist: its products are deleted in the topic"
            );
            Ok(false)
        }
        Err(e) => Err(failed(&format!("see whether the table {database}.{table} exists"), e)),
    }
}

/// Warns when a person requests changes from a time behind the committed position.
fn warn_of_gap(before: Option<&Progress>, position: &Position) {
    if let Some(before) = before
        && leaves_gap(&before.position, position)
    {
        tracing::warn!(
            published_until = %before.position.committed_at,
            from = %position.committed_at,
            what_to_do = "`cdc-producer checkpoint reset` brings the table as it is now",
            "changes between the committed position and this time are left out: what they changed or deleted stays in the \
             topic as it was"
        );
    }
}

/// Whether `next` is behind `before`, with transactions in between. Positions of two servers without common GTIDs can't
/// be compared.
fn leaves_gap(before: &Position, next: &Position) -> bool {
    match (&before.gtid_set, &next.gtid_set) {
        (Some(before), Some(next)) => !before.contains_all(next),
        _ => {
            before.server_uuid == next.server_uuid
                && compare_files(&before.file, &next.file).then(before.offset.cmp(&next.offset)).is_lt()
        }
    }
}

/// Commits the progress of a new epoch before its first record. Blocks.
///
/// # Errors
/// Errors of the transaction.
pub(crate) fn commit_first(producer: &TransactionalProducer, target: &Target, progress: &Progress) -> Result<()> {
    failpoint::at(ProducerStep::Identified);
    let commit = || -> Result<(), Failure> {
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
    };
    let what = format!("cannot begin epoch {} in {}", progress.epoch, target.checkpoint_topic);
    commit().map_err(|e| e.into_error(&what))?;
    failpoint::at(ProducerStep::EpochCommitted);
    Ok(())
}

#[cfg(test)]
mod tests {
    use model::time::Micros;

    use super::*;

    const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

    fn position(gtids: Option<&str>, file: &str, offset: u64) -> Position {
        Position {
            server_uuid: UUID.to_owned(),
            gtid_set: gtids.map(|numbers| format!("{UUID}:{numbers}").parse().expect("a set")),
            file: file.to_owned(),
            offset,
            committed_at: Micros(0),
            anchor: None,
        }
    }

    #[test]
    fn a_gap_is_what_lies_between_two_positions() {
        let gtid = |numbers| position(Some(numbers), "binlog.000009", 4);
        let file = |file, offset| position(None, file, offset);
        for (before, next, want) in [
            (gtid("1-5"), gtid("1-7"), true),
            (gtid("1-5"), gtid("1-5"), false),
            (gtid("1-5"), gtid("1-3"), false),
            (file("binlog.000009", 4), file("binlog.000010", 4), true),
            (file("binlog.000009", 4), file("binlog.000009", 4), false),
            (file("binlog.000009", 9), file("binlog.000009", 4), false),
            (Position { server_uuid: "other".into(), ..file("a.1", 4) }, file("b.2", 4), false),
        ] {
            assert_eq!(leaves_gap(&before, &next), want, "{before} {next}");
        }
    }
}
