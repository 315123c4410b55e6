//! The line of a change in a log, and the row in PostgreSQL.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::PathBuf;

use avro::Decoder;
use consumer::slot_name::{Key, Name};
use consumer::tables::Taken;
use kafka::slots::LogCheckpoint;
use kafka::{LastRecords, Partition, slots};
use model::error::{Error, Result};
use model::time::Micros;
use rdkafka::Message as _;
use rules::line::LineForm;
use rules::transform::{Capitals, Rules};
use runtime::config::{PINNED_SCHEMA, PostgresSettings, line_form};
use sinks::postgres::{Access, Target, failed};
use tokio::time::{Duration, timeout};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};

use super::facts::{InLog, Parked, StoredRow, Traced, parsed};
use crate::letters;
use crate::log_line::{LogFile, Place};
use crate::pipeline::Pipeline;
use crate::record::Raw;
use crate::status::Status;

/// The time that PostgreSQL has to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Offsets of the dead letters that are looked at.
pub(super) const LETTERS: i64 = 20_000;
/// Log checkpoints that are read behind a record, to find the one that committed its line.
const CHECKPOINTS: i64 = 2_000;
/// Partitions of the topic of the log checkpoints.
const SLOT_PARTITIONS: usize = 16;

/// Whether a rule leaves the record out.
pub(crate) fn is_filtered(rules: &Rules, decoder: &Decoder, raw: &Raw) -> bool {
    let Some((_, body)) = raw.value.as_deref().and_then(|value| avro::split(value).ok()) else { return false };
    let mut row = Vec::new();
    let mut capitals = Capitals::default();
    match (rules.compile(decoder.schema()), decoder.decode(body, &mut row)) {
        (Ok(transform), Ok(())) => !transform.apply(&mut row, &mut capitals),
        _ => false,
    }
}

/// The logs of the group's consumers, as far as they are known: those of the logs folder here, and of members elsewhere.
pub(crate) struct Logs<'a> {
    records: &'a LastRecords,
    pipeline: &'a Pipeline,
    status: &'a Status,
    /// Read when the first line is looked for.
    logs: Option<Vec<Log>>,
    commits: Commits,
}

impl<'a> Logs<'a> {
    pub(crate) fn new(records: &'a LastRecords, pipeline: &'a Pipeline, status: &'a Status) -> Self {
        Self { records, pipeline, status, logs: None, commits: Commits::default() }
    }

    /// Adds to each change of a table whether the group has read it, and its line; blocks.
    ///
    /// # Errors
    /// Transient when Kafka does not answer; definite when a log can't be read.
    pub(crate) fn complete(&mut self, table: &Taken, changes: &mut [Traced]) -> Result<()> {
        let shown = self.status.tables.iter().find(|shown| shown.topic == table.kafka.topic);
        let Some(shown) = shown else { return Ok(()) };
        for traced in changes {
            let (partition, offset) = (traced.change.partition, traced.change.offset);
            let committed = shown.partitions.iter().find(|p| p.number as i32 == partition).and_then(|p| p.committed);
            traced.is_consumed = committed.is_some_and(|committed| committed > offset);
            if !traced.is_consumed || traced.no_log.is_some() {
                continue;
            }
            let mut logs = match self.logs.take() {
                Some(logs) => logs,
                None => Log::of(self.records, self.pipeline, self.status)?,
            };
            self.find_line(table, &mut logs, traced)?;
            if traced.log.is_none() {
                traced.no_log = Some(missing(self.records, table, &logs, partition, offset)?);
            }
            self.logs = Some(logs);
        }
        Ok(())
    }

    fn find_line(&mut self, table: &Taken, logs: &mut [Log], traced: &mut Traced) -> Result<()> {
        let (number, offset) = (traced.change.partition, traced.change.offset);
        let partition = Partition::of(&table.kafka.topic, number, &self.pipeline.kafka.topic);
        // A nested line has the name of the record.
        let record = match table.settings.text("schema_registry.pinned") {
            "product" => avro::schema::parse(PINNED_SCHEMA).map(|schema| schema.name).unwrap_or_default(),
            _ => {
                let [database, name] =
                    [&table.name.database, &table.name.table].map(|name| avro::schema::adjusted(name));
                format!("{database}.{name}")
            }
        };
        let is_nested = line_form(&table.settings) == LineForm::Nested;
        let place = Place::new(is_nested.then_some(record.as_str()), number, offset);
        for log in logs.iter_mut().filter(|log| log.may_have(partition, offset)) {
            let Some(line) = log.file.as_mut().map(|file| file.find(&place)).transpose()?.flatten() else { continue };
            let committed_by = self.commits.of(self.records, self.pipeline, log, partition, traced)?;
            let (slot, file) = (log.slot.clone(), log.path.clone());
            traced.log = Some(InLog { slot, file, byte: line.begin, committed_by, line: line.text });
            return Ok(());
        }
        Ok(())
    }
}

/// A log of which the group has a log checkpoint.
struct Log {
    key: Key,
    slot: String,
    path: PathBuf,
    /// `None` when it is on another machine.
    file: Option<LogFile>,
    checkpoint: LogCheckpoint,
}

impl Log {
    fn of(records: &LastRecords, pipeline: &Pipeline, status: &Status) -> Result<Vec<Self>> {
        let kafka = &pipeline.kafka;
        let topic = slots::topic(kafka);
        let Some(count) = records.partition_count(&topic)? else { return Ok(Vec::new()) };
        let ends = records.stable_ends(&topic, count)?;
        let root = pipeline.settings.path("consumer.logs");
        let here = slots::Folder::read(&root).ok().flatten().map(|folder| folder.id);
        let names = status.consumers.iter().map(|consumer| &consumer.name).chain(&status.free_slots);
        let mut logs = Vec::new();
        for name in names.filter_map(|name| Name::parse(name)) {
            let key = name.key(&kafka.group_id);
            let end = ends.get(key.partition() as usize).copied().unwrap_or(0);
            let read = |message: &rdkafka::message::BorrowedMessage<'_>| {
                (message.key() == Some(key.0.as_bytes())).then(|| message.payload().map(<[u8]>::to_vec))
            };
            let last = records.last_before(&topic, key.partition(), end, &|| false, &read)?.flatten();
            let checkpoint = last.and_then(|value| LogCheckpoint::parse(&value).ok());
            let Some(checkpoint) = checkpoint.filter(|checkpoint| checkpoint.moved.is_none()) else { continue };
            let is_here = name.folder.is_some() && name.folder == here;
            let slot = name.slot.to_string();
            let path = root.join(&slot).join("consumer_log.json");
            let file = is_here.then(|| LogFile::new(path.clone(), checkpoint.length));
            logs.push(Self { key, slot, path, file, checkpoint });
        }
        Ok(logs)
    }

    /// Whether it may have the line of a record.
    fn may_have(&self, partition: Partition, offset: i64) -> bool {
        self.checkpoint.offsets.get(&partition).is_some_and(|next| *next > offset)
    }
}

/// The log checkpoints that were read for the changes so far, by their key: those of a transaction's other changes are
/// mostly among them.
#[derive(Default)]
struct Commits(BTreeMap<String, Window>);

/// Consecutive log checkpoints of a log, with the times at which they were written, milliseconds since 1970.
struct Window {
    /// The first one was written at this time or later.
    from: Micros,
    /// The offset behind the last one that was read, and that at which reading ends.
    next: i64,
    end: i64,
    checkpoints: Vec<(i64, BTreeMap<Partition, i64>)>,
}

impl Window {
    /// Those that were written from this time on; none is read yet.
    fn new(records: &LastRecords, pipeline: &Pipeline, log: &Log, from: Micros) -> Result<Self> {
        let topic = slots::topic(&pipeline.kafka);
        let at = |offsets: Vec<Option<i64>>| offsets.get(log.key.partition() as usize).copied().flatten();
        let next = at(records.offsets_since(&topic, SLOT_PARTITIONS, from.0 / 1_000)?);
        let ends = records.stable_ends(&topic, SLOT_PARTITIONS)?;
        let end = ends.get(log.key.partition() as usize).copied().unwrap_or(0);
        let next = next.unwrap_or(end);
        Ok(Self { from, next, end: end.min(next + CHECKPOINTS), checkpoints: Vec::new() })
    }

    /// When the first of them was written that has the line of a record; reads on until there is one.
    fn first_with(
        &mut self,
        records: &LastRecords,
        pipeline: &Pipeline,
        log: &Log,
        (partition, offset): (Partition, i64),
    ) -> Result<Option<i64>> {
        let has = |offsets: &BTreeMap<_, _>| offsets.get(&partition).is_some_and(|next| *next > offset);
        if let Some((at, _)) = self.checkpoints.iter().find(|(_, offsets)| has(offsets)) {
            return Ok(Some(*at));
        }
        let found = Cell::new(None);
        let (topic, range) = (slots::topic(&pipeline.kafka), self.next..self.end);
        records.read_range(&topic, log.key.partition(), range, &|| found.get().is_some(), &mut |message| {
            self.next = message.offset() + 1;
            let checkpoint = message.payload().and_then(|value| LogCheckpoint::parse(value).ok());
            let checkpoint = checkpoint.filter(|_| message.key() == Some(log.key.0.as_bytes()));
            if let Some((checkpoint, at)) = checkpoint.zip(message.timestamp().to_millis()) {
                found.set(has(&checkpoint.offsets).then_some(at));
                self.checkpoints.push((at, checkpoint.offsets));
            }
            Ok(())
        })?;
        if found.get().is_none() {
            self.next = self.end;
        }
        Ok(found.get())
    }
}

impl Commits {
    /// When the log checkpoint was written that has a line first, among those behind the time of the line's record.
    fn of(
        &mut self,
        records: &LastRecords,
        pipeline: &Pipeline,
        log: &Log,
        partition: Partition,
        traced: &Traced,
    ) -> Result<Option<String>> {
        let Some(written) = parsed(traced.change.written_at.as_ref()) else { return Ok(None) };
        let mut window = match self.0.remove(&log.key.0).filter(|window| window.from <= written) {
            Some(window) => window,
            None => Window::new(records, pipeline, log, written)?,
        };
        let at = window.first_with(records, pipeline, log, (partition, traced.change.offset))?;
        self.0.insert(log.key.0.clone(), window);
        Ok(at.map(|ms| Micros(ms * 1_000).to_string()))
    }
}

/// Why no log here has the line of a record that the group has read.
fn missing(records: &LastRecords, table: &Taken, logs: &[Log], partition: i32, offset: i64) -> Result<String> {
    let mut letter = None;
    letters::each(records, table, LETTERS, &mut |found| {
        if found.kind == letters::Kind::Record
            && (found.partition, found.record_offset) == (Some(partition), Some(offset))
        {
            letter = Some(format!("it is a dead letter: {}", found.reason));
        }
    })?;
    if let Some(letter) = letter {
        return Ok(letter);
    }
    let elsewhere: Vec<&str> =
        logs.iter().filter(|log| log.file.is_none()).map(|log| log.checkpoint.place.as_str()).collect();
    Ok(if elsewhere.is_empty() {
        "no log of this machine's folder (consumer.logs) has its line".to_owned()
    } else {
        format!("its line is not here; other logs of the group are in {}", elsewhere.join(", "))
    })
}

/// The row of the key in PostgreSQL; `None` when it is off.
///
/// # Errors
/// Transient when it does not answer; definite when a right is missing.
pub(crate) async fn stored(table: &Taken, key: &str) -> Result<Option<StoredRow>> {
    let Some(settings) = PostgresSettings::from(&table.settings)? else { return Ok(None) };
    let target = Target::from(&settings, "stream trace")?;
    let silent = || Error::transient(format!("{}: no answer within {} s", target.what(), PATIENCE.as_secs()));
    timeout(PATIENCE, find(&target, &settings, table, key)).await.unwrap_or_else(|_| Err(silent())).map(Some)
}

const KEY: &str = "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod) FROM pg_index i
    JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place) ON true
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
    WHERE n.nspname = $1 AND c.relname = $2 AND i.indisprimary ORDER BY k.place";

const PARKED: &str = "SELECT k.partition, k.\"offset\", k.column_name, k.sqlstate, k.reason FROM product_parked k
    WHERE k.topic = $1 AND k.replaced_by IS NULL AND coalesce(to_jsonb(k) ->> 'key', k.id::text) = $2
    ORDER BY k.\"offset\" DESC LIMIT 1";

async fn find(target: &Target, settings: &PostgresSettings, table: &Taken, key: &str) -> Result<StoredRow> {
    let mut stored = StoredRow {
        table: format!("{}.{}", settings.schema, settings.table),
        exists: false,
        partition: None,
        offset: None,
        committed_at: None,
        row: None,
        next: Vec::new(),
        parked: None,
    };
    let client = match target.connect().await {
        // The consumers create it.
        Err(e) if e.code() == Some(&SqlState::INVALID_CATALOG_NAME) => return Ok(stored),
        connected => connected.map_err(|e| failed(&target.what(), e))?,
    };
    let failed = |e| failed("cannot read the row in PostgreSQL", e);
    client.batch_execute(&target.begin(Access::Read)).await.map_err(failed)?;
    let names: [(&(dyn ToSql + Sync), Type); 2] = [(&settings.schema, Type::TEXT), (&settings.table, Type::TEXT)];
    let columns: Vec<(String, String)> =
        client.query_typed(KEY, &names).await.map_err(failed)?.iter().map(|row| (row.get(0), row.get(1))).collect();
    let parts = parts(key, columns.len());
    if !columns.is_empty() && parts.len() == columns.len() {
        let values: Vec<String> = parts.iter().zip(&columns).map(|(part, (_, kind))| value(part, kind)).collect();
        let query = select(settings, &columns);
        let params: Vec<(&(dyn ToSql + Sync), Type)> =
            values.iter().map(|value| (value as &(dyn ToSql + Sync), Type::TEXT)).collect();
        if let Some(row) = client.query_typed(&query, &params).await.map_err(failed)?.first() {
            stored.exists = true;
            (stored.partition, stored.offset) = (row.get(0), row.get(1));
            stored.row = serde_json::value::RawValue::from_string(row.get(2)).ok();
            stored.committed_at = row.get(3);
        }
    }
    let topic: [(&(dyn ToSql + Sync), Type); 1] = [(&table.kafka.topic, Type::TEXT)];
    let there = "SELECT to_regclass('product_offsets') IS NOT NULL AND to_regclass('product_parked') IS NOT NULL";
    if !client.query_typed(there, &[]).await.map_err(failed)?.first().is_some_and(|row| row.get(0)) {
        return Ok(stored);
    }
    let next = "SELECT partition, next_offset FROM product_offsets WHERE topic = $1";
    let next = client.query_typed(next, &topic).await.map_err(failed)?;
    stored.next = next.iter().map(|row| (row.get(0), row.get(1))).collect();
    let of_key: [(&(dyn ToSql + Sync), Type); 2] = [(&table.kafka.topic, Type::TEXT), (&key, Type::TEXT)];
    stored.parked = client.query_typed(PARKED, &of_key).await.map_err(failed)?.first().map(|row| Parked {
        partition: row.get(0),
        offset: row.get(1),
        column: row.get(2),
        sqlstate: row.get(3),
        reason: row.get(4),
    });
    Ok(stored)
}

/// The statement that reads a row by the columns of its key, with their types.
fn select(settings: &PostgresSettings, columns: &[(String, String)]) -> String {
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let is = |(place, (name, kind)): (usize, &(String, String))| {
        format!("t.{} = ${}::text::{kind}", quoted(name), place + 1)
    };
    let condition = columns.iter().enumerate().map(is).collect::<Vec<_>>().join(" AND ");
    format!(
        "SELECT t.source_partition, t.source_offset,
            (to_jsonb(t) - 'source_partition' - 'source_offset')::text,
            CASE WHEN current_setting('track_commit_timestamp') = 'on'
                THEN to_char(pg_xact_commit_timestamp(t.xmin) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') END
        FROM {}.{} t WHERE {condition}",
        quoted(&settings.schema),
        quoted(&settings.table)
    )
}

/// The texts of a key's columns.
fn parts(key: &str, columns: usize) -> Vec<String> {
    if columns == 1 {
        return vec![key.to_owned()];
    }
    let parts: Vec<serde_json::Value> = serde_json::from_str(key).unwrap_or_default();
    parts.iter().map(|part| part.as_str().map_or_else(|| part.to_string(), str::to_owned)).collect()
}

/// A part of a key as PostgreSQL reads it: bytes are hexadecimal in both.
fn value(part: &str, kind: &str) -> String {
    if kind == "bytea" { format!("\\x{part}") } else { part.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_read_by_its_key_with_the_types_of_the_columns() {
        assert_eq!(parts("[1,2]", 1), ["[1,2]"]);
        assert_eq!(parts(r#"[17,"a\"b"]"#, 2), ["17", "a\"b"]);
        assert_eq!(parts("no array", 2), [""; 0]);
        assert_eq!((value("00ff", "bytea"), value("00ff", "text")), ("\\x00ff".to_owned(), "00ff".to_owned()));
        let settings = PostgresSettings::at(runtime::config::Secret::new("postgres://x/y"));
        let columns = [("id".to_owned(), "bigint".to_owned()), ("a\"b".to_owned(), "numeric(5,2)".to_owned())];
        let text = select(&settings, &columns);
        assert!(
            text.ends_with(
                r#"FROM "public"."product" t WHERE t."id" = $1::text::bigint AND t."a""b" = $2::text::numeric(5,2)"#
            ),
            "{text}"
        );
    }

    #[test]
    fn a_rule_leaves_a_record_out_by_its_text() {
        let schema =
            r#"{"type":"record","name":"r","fields":[{"name":"id","type":"long"},{"name":"kind","type":"string"}]}"#;
        let decoder = Decoder::new(schema).expect("a schema");
        let filter = rules::transform::Filter { column: "kind".to_owned(), equals: "test".to_owned() };
        let rules = Rules { drop: vec![filter], ..Rules::default() };
        let raw = |kind: &str| {
            let mut value = Vec::new();
            avro::prefix(1, &mut value);
            avro::encode::long(7, &mut value);
            avro::encode::bytes(kind.as_bytes(), &mut value);
            Raw { partition: 0, offset: 0, written: None, key: None, value: Some(value), header: None }
        };
        assert!(is_filtered(&rules, &decoder, &raw("test")) && !is_filtered(&rules, &decoder, &raw("TEST")));
        assert!(!is_filtered(&rules, &decoder, &Raw { value: None, ..raw("test") }), "a delete is carried");
    }
}
