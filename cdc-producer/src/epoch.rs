//! The beginning of an epoch: its number, its position, and the topic's earlier records.

use std::time::Instant;

use kafka::doctor;
use kafka::{Bounds, Failure, Record, TransactionalProducer};
use model::change::{SOURCE_HEADER, Source};
use model::error::{Error, Result};
use model::position::{Position, Progress, SnapshotProgress, TableState, compare_files};
use mysql::table::{ColumnPlan, SourceTable, answered};
use runtime::failpoint;

use crate::checkpoint::{CheckpointFile, Request};
use crate::endpoint::Endpoint;
use crate::locate;
use crate::probe;
use crate::publish::Target;
use crate::run::ProducerSettings;
use crate::server::Server;
use crate::status::Status;
use crate::stream::{SAY_EVERY, failed};

/// The facts about the topic when an epoch begins.
pub(crate) struct Before<'a> {
    /// The committed progress; `None` when there is none.
    pub(crate) progress: Option<&'a Progress>,
    /// The topic's partitions.
    pub(crate) bounds: &'a [Bounds],
    /// The topic's id, if it is known.
    pub(crate) id: Option<&'a str>,
}

impl Before<'_> {
    fn ends(&self) -> Vec<i64> {
        self.bounds.iter().map(|b| b.end).collect()
    }

    /// The progress, if it belongs to this topic.
    fn of_this_topic(&self, target: &Target) -> Option<&Progress> {
        self.progress.filter(|progress| check_topic(progress, self.bounds, self.id, target).is_ok())
    }

    /// The first number that no epoch in the topic has. Blocks.
    ///
    /// # Errors
    /// Transient when Kafka can't be reached.
    pub(crate) fn next_epoch(&self, settings: &ProducerSettings, status: &Status) -> Result<u64> {
        let known = self.progress.map_or(0, |p| p.epoch);
        // With the progress of this version, whose epoch numbers only grow, the topic has no higher number.
        if self.progress.is_some_and(|p| p.ends.is_some()) || self.bounds.iter().all(|b| b.begin == b.end) {
            return Ok(known + 1);
        }
        let topic = &settings.kafka.topic;
        tracing::info!(topic, "looking for the topic's last epoch, as no position tells it");
        let (mut highest, mut records, mut said) = (known, 0_u64, Instant::now());
        kafka::scan(&settings.kafka, topic, &mut |message| {
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
        Ok(highest + 1)
    }
}

/// Refuses a topic with another id than the one that was written to, or one that ends before the known end of the
/// written records.
///
/// # Errors
/// Definite, with the partition and both offsets.
pub(crate) fn check_topic(progress: &Progress, bounds: &[Bounds], id: Option<&str>, target: &Target) -> Result<()> {
    const REMEDY: &str = "to write the table into it as it is now: `cdc-producer checkpoint reset`";
    if let (Some(written), Some(now)) = (progress.topic_id.as_deref(), id)
        && written != now
    {
        return Err(Error::definite(format!(
            "topic {} was deleted and created again: its id is {now}, but the position in {} belongs to the one with id {written}",
            target.topic, target.checkpoint_topic
        ))
        .with_remedy(REMEDY));
    }
    for ends in noted(progress) {
        for (partition, (end, now)) in ends.iter().zip(bounds).enumerate() {
            if now.end < *end {
                return Err(Error::definite(format!(
                    "partition {partition} of topic {} ends at offset {}, but the position in {} says that it was written up to \
                     {end}: the topic was deleted and created again, or Kafka has lost records",
                    target.topic, now.end, target.checkpoint_topic
                ))
                .with_remedy(REMEDY));
            }
        }
    }
    Ok(())
}

/// By partition, ends of the topic that the progress has noted.
fn noted(progress: &Progress) -> impl Iterator<Item = &Vec<i64>> {
    let snapshot = progress.snapshot.as_ref().and_then(|s| s.begin.as_ref());
    [progress.ends.as_ref(), progress.complete.as_ref().map(|c| &c.end), snapshot].into_iter().flatten()
}

/// Refuses a topic whose records were written to another number of partitions, since their keys would move. The topic
/// has the configured number if somebody has raised both.
///
/// # Errors
/// Definite, with both numbers.
pub(crate) fn check_count(progress: Option<&Progress>, bounds: &[Bounds], topic: &str) -> Result<()> {
    let was_written = bounds.iter().any(|b| b.end > 0);
    let other = progress.into_iter().flat_map(noted).find(|ends| ends.len() != bounds.len());
    match other.filter(|_| was_written) {
        Some(other) => Err(kafka::recounted(topic, other.len(), bounds.len())),
        None => Ok(()),
    }
}

/// How many partitions retention has cut.
pub(crate) fn cut_partitions(bounds: &[Bounds]) -> usize {
    bounds.iter().filter(|b| b.begin > 0).count()
}

/// Notes the topic's present ends in the progress. A snapshot of a version that did not note where it began is repeated
/// from the first key, since nothing else shows which keys it has written.
pub(crate) fn resume(progress: &mut Progress, bounds: &[Bounds]) {
    let ends: Vec<i64> = bounds.iter().map(|b| b.end).collect();
    if let Some(snapshot) = &mut progress.snapshot
        && snapshot.begin.is_none()
    {
        tracing::info!(rows = snapshot.rows, "an earlier version began this snapshot: it is made from the first row");
        *snapshot = SnapshotProgress::new(ends.clone(), snapshot.rows);
    }
    // The number of partitions may differ if nothing was written.
    let snapshot = progress.snapshot.as_mut().and_then(|s| s.begin.as_mut());
    let complete = progress.complete.as_mut().map(|c| [&mut c.begin, &mut c.end]);
    complete.into_iter().flatten().chain(snapshot).for_each(|noted| noted.resize(bounds.len(), 0));
    progress.ends = Some(ends);
}

/// Notes the carried columns, and forgets the definitions of others: a column that was added or moved shifts them.
pub(crate) fn note_columns(state: &mut TableState, table: &SourceTable) {
    let names: Vec<String> = table.columns.iter().map(|column| column.name.clone()).collect();
    let is_other = if state.names.is_empty() { state.columns.len() != names.len() } else { state.names != names };
    if is_other {
        state.columns.clear();
    }
    state.names = names;
    state.key = key_of(table);
}

/// The columns of the primary key with their types, if the schema is made from the table.
fn key_of(table: &SourceTable) -> Vec<String> {
    let part = |column: &ColumnPlan| format!("{} {}", column.name, column.kind);
    if table.is_derived { table.key_columns().map(part).collect() } else { Vec::new() }
}

/// Whether the records of the topic have the keys that the table has now.
///
/// # Errors
/// Definite when the primary key has changed: keys of two forms would name one row.
pub(crate) fn check_key(committed: Option<&Progress>, table: &SourceTable, topic: &str) -> Result<()> {
    let now = key_of(table);
    let Some(before) = committed.map(|c| &c.table.key).filter(|key| !key.is_empty() && **key != now) else {
        return Ok(());
    };
    Err(Error::definite(format!(
        "{} has the primary key ({}), and the records of topic {topic} were written with the key ({})",
        table.full_name(),
        now.join(", "),
        before.join(", ")
    ))
    .with_remedy(
        "give the table its former key back, then `cdc-producer checkpoint reset`; or name another topic (kafka.topic), which a \
         snapshot fills",
    ))
}

/// Notes the schema id that the producer writes with from now on. Without a note of the offsets from which the list of
/// ids is complete, it is complete from the topic's present ends: earlier records may be from a version that did not
/// note ids.
pub(crate) fn note_schema_id(progress: &mut Progress, id: u32, bounds: &[Bounds]) {
    progress.schema_ids.get_or_insert_default().insert(id);
    progress.schema_ids_from.get_or_insert_with(|| bounds.iter().map(|b| b.end).collect());
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
    (epoch, before): (u64, Before<'_>),
    request: Request,
    seen: &mut Option<String>,
) -> Result<Option<Progress>> {
    let target = Target::new(settings);
    let (position, snapshot, complete) = match request.from {
        Some(at) => {
            let found = locate::position_at(endpoint, server, at).await;
            let position = found.map_err(|e| e.at(&file.path().display().to_string()))?;
            warn_of_gap(before.progress, &position);
            // An incomplete snapshot continues: nothing else would publish the rows that it has not read.
            let unfinished = before.progress.and_then(|p| p.snapshot.as_ref());
            let same = before.of_this_topic(&target);
            let snapshot = match same.and_then(|p| p.snapshot.clone()).filter(|s| s.begin.is_some()) {
                None => unfinished.map(|s| SnapshotProgress::new(before.ends(), s.rows)),
                snapshot => snapshot,
            };
            (position, snapshot, same.and_then(|p| p.complete.clone()))
        }
        None => {
            let position = probe::snapshot_start(endpoint, conn, server).await?;
            let snapshot = SnapshotProgress::new(before.ends(), 0);
            // A table that is missing after the position was taken has no rows at it: there is nothing to read, and
            // later rows are in the stream.
            let exists = exists(conn, &settings.mysql.database, &settings.mysql.table).await?;
            (position, if exists { Some(snapshot) } else { snapshot.swept() }, None)
        }
    };
    let known = before.of_this_topic(&target).and_then(|p| p.complete.as_ref());
    let expired = doctor::expired(before.bounds, known);
    let check = doctor::history(&target.topic, None, &settings.kafka.cleanup_policy, &expired);
    if !check.remedy.is_empty() {
        tracing::warn!(check = check.name, found = check.found, what_to_do = check.remedy);
    }
    let identified = file.identify(request, seen.as_deref())?;
    Ok(identified.map(|request| {
        *seen = Some(request.text());
        Progress {
            request: request.id.unwrap_or_default(),
            snapshot,
            ends: Some(before.ends()),
            schema_ids: before.progress.and_then(|progress| progress.schema_ids.clone()),
            // The offsets of another topic do not apply to this one.
            schema_ids_from: before.of_this_topic(&target).and_then(|progress| progress.schema_ids_from.clone()),
            topic_id: before.id.map(str::to_owned),
            complete,
            ..Progress::new(epoch, position)
        }
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
    failpoint::at("producer.identified");
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
    failpoint::at("producer.epoch-committed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use model::position::{CompleteSnapshot, KeyBound, KeyPart};
    use model::time::Micros;
    use mysql::table::Contract;

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

    fn progress(snapshot: Option<SnapshotProgress>) -> Progress {
        Progress { snapshot, ..Progress::new(2, position(None, "binlog.000002", 4)) }
    }

    fn bounds(of: &[(i64, i64)]) -> Vec<Bounds> {
        of.iter().map(|(begin, end)| Bounds { begin: *begin, end: *end }).collect()
    }

    #[test]
    fn a_topic_that_ends_too_early_is_another_one() {
        let target = Target {
            topic: "t".into(),
            checkpoint_topic: "t.checkpoint".into(),
            parked_topic: None,
            source: "d.product".into(),
        };
        let check =
            |progress: &Progress, ends: &[(i64, i64)]| check_topic(progress, &bounds(ends), None, &target).is_ok();
        let old = progress(Some(SnapshotProgress { after: None, rows: 0, begin: None, sweep: None }));
        assert!(check(&old, &[(0, 0), (0, 0)]), "an earlier version noted nothing");
        let begun = progress(Some(SnapshotProgress::new(vec![0, 7], 0)));
        assert!(check(&begun, &[(0, 0), (7, 7)]) && !check(&begun, &[(0, 9), (0, 6)]));
        let complete = Some(CompleteSnapshot { epoch: 2, begin: vec![0, 0], end: vec![3, 0] });
        let complete = Progress { complete, ..progress(None) };
        assert!(check(&complete, &[(0, 3), (0, 0)]) && !check(&complete, &[(0, 2), (0, 5)]));
        let started = Progress { ends: Some(vec![5, 5]), ..progress(None) };
        assert!(check(&started, &[(0, 5), (0, 5)]) && !check(&started, &[(0, 5), (0, 4)]));
        // Any records.
        let check = |progress: &Progress, id| check_topic(progress, &bounds(&[(0, 9), (0, 9)]), id, &target).is_ok();
        assert!(check(&started, Some("A")) && check(&started, None));
        let known = Progress { topic_id: Some("A".to_owned()), ..started };
        assert!(check(&known, Some("A")) && check(&known, None) && !check(&known, Some("B")));
    }

    #[test]
    fn records_keep_the_number_of_partitions() {
        let check = |progress: &Progress, now: &[(i64, i64)]| {
            let refused = check_count(Some(progress), &bounds(now), "t").err();
            refused.map_or_else(String::new, |e| e.to_string())
        };
        let two = "topic t has 3 partitions, as kafka.partitions says, but its records were written to 2";
        let started = Progress { ends: Some(vec![5, 0]), ..progress(None) };
        assert_eq!(check(&started, &[(0, 5), (0, 9)]), "");
        assert_eq!(check(&started, &[(0, 5), (0, 0), (0, 0)]), two);
        assert_eq!(check(&started, &[(5, 5), (0, 0), (0, 0)]), two, "its records have expired");
        assert_eq!(check(&started, &[(0, 0), (0, 0), (0, 0)]), "", "the topic is empty");
        assert_eq!(check(&progress(None), &[(0, 5)]), "", "an earlier version noted nothing");
        let begun = progress(Some(SnapshotProgress::new(vec![0, 7], 0)));
        assert_eq!(check(&begun, &[(0, 1), (0, 7), (0, 0)]), two);
        // A version without this comparison noted the new number at each start.
        let complete = Some(CompleteSnapshot { epoch: 2, begin: vec![0, 0], end: vec![3, 0] });
        let mixed = Progress { complete, ends: Some(vec![3, 4, 4]), ..progress(None) };
        assert_eq!(check(&mixed, &[(0, 3), (0, 4), (0, 4)]), two);
        assert!(check_count(None, &bounds(&[(0, 5)]), "t").is_ok());
    }

    #[test]
    fn a_topic_without_records_may_get_more_partitions() {
        let complete = Some(CompleteSnapshot { epoch: 2, begin: vec![0], end: vec![0] });
        let mut resumed =
            Progress { complete, ends: Some(vec![0]), ..progress(Some(SnapshotProgress::new(vec![0], 0))) };
        resume(&mut resumed, &bounds(&[(0, 0), (0, 0)]));
        assert!(check_count(Some(&resumed), &bounds(&[(0, 5), (0, 5)]), "t").is_ok());
        assert_eq!(resumed.snapshot, Some(SnapshotProgress::new(vec![0, 0], 0)));
    }

    #[test]
    fn partitions_that_retention_has_cut_are_counted() {
        assert_eq!(cut_partitions(&bounds(&[(0, 5), (2, 5), (9, 9)])), 2);
    }

    fn key(id: i64) -> KeyBound {
        KeyBound::One(KeyPart::Signed(id))
    }

    #[test]
    fn a_snapshot_whose_beginning_is_unknown_is_made_again() {
        let (old, now) =
            (SnapshotProgress { after: Some(key(9)), rows: 9, begin: None, sweep: None }, [(0, 5), (0, 8)]);
        let mut resumed = progress(Some(old));
        resume(&mut resumed, &bounds(&now));
        assert_eq!(resumed.snapshot, Some(SnapshotProgress::new(vec![5, 8], 9)));
        let known = SnapshotProgress { after: Some(key(9)), ..SnapshotProgress::new(vec![1, 2], 9) };
        let mut resumed = progress(Some(known.clone()));
        resume(&mut resumed, &bounds(&now));
        assert_eq!((resumed.snapshot, resumed.ends), (Some(known), Some(vec![5, 8])));
    }

    #[test]
    fn definitions_of_other_columns_are_forgotten() {
        let contract = Contract::new(model::product::SCHEMA, false).expect("the product's schema");
        let mut table = SourceTable::expected("shop", "product", &contract);
        table.is_derived = true;
        let definitions = || ["a", "b", "c", "d", "e"].map(str::to_owned).to_vec();
        let mut resumed = progress(None);
        // A version that did not note the names.
        resumed.table.columns = definitions();
        note_columns(&mut resumed.table, &table);
        assert_eq!(resumed.table.columns, definitions());
        assert!(check_key(Some(&resumed), &table, "t").is_ok());
        table.columns.swap(1, 2);
        note_columns(&mut resumed.table, &table);
        assert!(resumed.table.columns.is_empty(), "the columns have moved");
        table.columns.swap(0, 1);
        let refused = check_key(Some(&resumed), &table, "t").expect_err("another key").to_string();
        assert!(refused.contains("shop.product has the primary key (category "), "{refused}");
        assert!(check_key(None, &table, "t").is_ok());
    }

    #[test]
    fn schema_ids_are_complete_from_the_first_note() {
        let mut noting = progress(None);
        note_schema_id(&mut noting, 4, &bounds(&[(0, 5), (8, 8)]));
        note_schema_id(&mut noting, 6, &bounds(&[(0, 9), (8, 9)]));
        assert_eq!((noting.schema_ids, noting.schema_ids_from), (Some([4, 6].into()), Some(vec![5, 8])));
        // A version that noted ids, but not from which offsets.
        let mut noting = Progress { schema_ids: Some([4].into()), ..progress(None) };
        note_schema_id(&mut noting, 4, &bounds(&[(0, 5)]));
        assert_eq!((noting.schema_ids, noting.schema_ids_from), (Some([4].into()), Some(vec![5])));
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
