//! `stream trace`: the life of a row, from its commit in MySQL over the topic and a log to PostgreSQL, and where it
//! stands.
//!
//! How it finds things without reading a topic from its beginning: all changes of a key are in one partition (murmur2 of
//! the key); that partition is read from its end backward, in windows up to a bound; PostgreSQL's row has the offset that
//! wrote it, so the last stored change is read directly, however old it is; the line is found in the log by halving the
//! file (`log_line.rs`), and when it was committed by the time of the record in the topic of the log checkpoints. The
//! changes of a transaction are found by halving each partition (`transaction.rs`).

mod facts;
mod judge;
mod render;
mod row;
mod sinks;
mod transaction;

use consumer::tables::Taken;
use kafka::LastRecords;
use model::error::{Code, Error, Result};

use crate::fault::noted;
use crate::letters::{self, Letter};
use crate::pipeline::{Pipeline, one, select};
use crate::record::{Raw, Records, Row};
use crate::search::{self, Bound, Searched};
use crate::status::Looker;
use facts::Facts;
pub use facts::{Hop, InLog, Limits, Parked, SourceRow, Standing, StoredRow, Trace, Traced, Wanted};
pub use render::render;
pub(crate) use sinks::stored as stored_row;

/// Asks the parts about rows.
pub struct Tracer {
    pipeline: Pipeline,
    looker: Looker,
}

impl Tracer {
    /// Prepares to ask.
    ///
    /// # Errors
    /// Usage when a setting can't be used.
    pub fn new(pipeline: Pipeline) -> Result<Self> {
        Ok(Self { looker: Looker::new(pipeline.clone())?, pipeline })
    }

    fn records(&self) -> &LastRecords {
        self.looker.records()
    }

    /// Traces a row, or a transaction. Call it within a runtime of several threads.
    ///
    /// # Errors
    /// Usage for a table that is not taken, and for what is no key of it or no place in the topic; transient when Kafka
    /// does not answer, as nothing can be told then.
    pub async fn trace(&self, wanted: &Wanted, table: Option<&str>, limits: Limits) -> Result<Trace> {
        let tables = tokio::task::block_in_place(|| {
            self.looker.reach()?;
            self.pipeline.known_tables(self.records())
        })?;
        match wanted {
            Wanted::Position(position) => self.transaction(&select(tables, table)?, position, limits).await,
            Wanted::Key(key) => self.row(&one(tables, table)?, key, None, limits).await,
            Wanted::Offset(partition, offset) => {
                let table = one(tables, table)?;
                let raw = tokio::task::block_in_place(|| self.at(&table, *partition, *offset))?;
                let key = String::from_utf8_lossy(raw.key.as_deref().unwrap_or_default()).into_owned();
                self.row(&table, &key, Some(raw), limits).await
            }
        }
    }

    /// The record at a place; blocks.
    fn at(&self, table: &Taken, partition: i32, offset: i64) -> Result<Raw> {
        let topic = &table.kafka.topic;
        let count = self.count(table)?;
        let place = usize::try_from(partition).ok().filter(|place| *place < count).ok_or_else(|| {
            Error::new(Code::CommandLine, format!("topic {topic} has no partition {partition}"))
                .with_remedy(format!("name one from 0 to {}", count - 1))
        })?;
        let (begin, end) = self.bounds(topic, count)?[place];
        let found =
            if (begin..end).contains(&offset) { search::at(self.records(), topic, partition, offset)? } else { None };
        found.ok_or_else(|| {
            let reason = if offset < begin {
                format!("it has expired: the first offset that is kept is {begin}")
            } else if offset >= end {
                format!("the committed records end before {end}")
            } else {
                "it is the marker of a transaction, or of one that was aborted".to_owned()
            };
            let text = format!("there is no record at offset {offset} of partition {partition} of {topic}: {reason}");
            Error::new(Code::CommandLine, text)
                .with_remedy("`stream status` shows the ends, `stream tap --last 10` the last records")
        })
    }

    fn count(&self, table: &Taken) -> Result<usize> {
        let topic = &table.kafka.topic;
        self.records().partition_count(topic)?.filter(|count| *count > 0).ok_or_else(|| {
            Error::new(Code::TopicMissing, format!("topic {topic} of {} is not there", table.name))
                .with_remedy("start the producer, which creates it")
        })
    }

    /// By partition, the first offset and the end of the committed records.
    fn bounds(&self, topic: &str, count: usize) -> Result<Vec<(i64, i64)>> {
        let ends = self.records().stable_ends(topic, count)?;
        let begins = self.records().bounds(topic, count)?;
        Ok(begins.into_iter().zip(ends).map(|(bounds, end)| (bounds.begin, end)).collect())
    }

    async fn row(&self, table: &Taken, key: &str, asked: Option<Raw>, limits: Limits) -> Result<Trace> {
        let mut faults = Vec::new();
        let key = row::normalised(key);
        let mut source = noted("MySQL", row::read(table, &key).await, &mut faults);
        if let Some(Err(reason)) = source.as_ref().map(|found| found.as_ref()) {
            return Err(reason.to_usage());
        }
        let mut source = source.take().and_then(std::result::Result::ok);
        let stored = sinks::stored(table, &key).await;
        let stored = noted("PostgreSQL", stored, &mut faults).flatten();
        let mut read = tokio::task::block_in_place(|| self.key(table, &key, stored.as_ref(), asked, limits))?;
        // A change between the two looks: the topic is ahead of the row that was read.
        if source.as_ref().is_some_and(|source| !source.is_in(read.last_row())) {
            let again = noted("MySQL", row::read(table, &key).await, &mut faults);
            source = again.and_then(std::result::Result::ok).or(source);
        }
        let letter = tokio::task::block_in_place(|| self.letter(table, &key))?;
        let status = self.looker.look().await;
        let stored = noted("PostgreSQL", sinks::stored(table, &key).await, &mut Vec::new()).flatten().or(stored);
        tokio::task::block_in_place(|| {
            sinks::Logs::new(self.records(), &self.pipeline, &status).complete(table, &mut read.changes)
        })?;
        let at = stored.as_ref().and_then(StoredRow::place);
        for traced in &mut read.changes {
            traced.is_in_postgres = at == Some((traced.change.partition, traced.change.offset));
        }
        faults.extend(
            status
                .faults
                .iter()
                .filter(|f| !faults.iter().any(|known| known.part == f.part))
                .cloned()
                .collect::<Vec<_>>(),
        );
        let trace = Trace {
            table: table.name.to_string(),
            topic: table.kafka.topic.clone(),
            key: Some(key),
            partition: Some(read.partition),
            source,
            changes: read.changes,
            searched: vec![(read.partition, read.searched)],
            uncommitted: read.uncommitted,
            letter,
            postgres: stored,
            standing: Standing::default(),
            faults,
        };
        Ok(judge::judge(Facts { trace, status }))
    }
}

/// The changes of a key.
struct OfKey {
    partition: i32,
    changes: Vec<Traced>,
    searched: Searched,
    uncommitted: u64,
}

impl OfKey {
    /// The row after the last change; `None` when it is deleted or unknown.
    fn last_row(&self) -> Option<&Row> {
        self.changes.last()?.change.row.as_ref()
    }
}

impl Tracer {
    /// Reads the changes of a key; blocks.
    fn key(
        &self,
        table: &Taken,
        key: &str,
        stored: Option<&StoredRow>,
        asked: Option<Raw>,
        limits: Limits,
    ) -> Result<OfKey> {
        let (topic, count) = (&table.kafka.topic, self.count(table)?);
        let partition = kafka::partition_of(key.as_bytes(), count as i32);
        let bounds = self.bounds(topic, count)?[partition as usize];
        let bound = Bound { records: limits.changes, offsets: limits.offsets.unwrap_or(i64::MAX) };
        let is_wanted =
            |message: &rdkafka::message::BorrowedMessage<'_>| rdkafka::Message::key(message) == Some(key.as_bytes());
        let (mut found, searched) = search::last(self.records(), topic, partition, bounds, bound, &is_wanted)?;
        // The change that PostgreSQL has may be older than what was looked at.
        if let Some((partition_of_row, offset)) = stored.and_then(StoredRow::place)
            && partition_of_row == partition
            && (bounds.0..searched.from).contains(&offset)
        {
            found.extend(search::at(self.records(), topic, partition, offset)?);
        }
        found.extend(asked);
        found.sort_by_key(|raw| raw.offset);
        found.dedup_by_key(|raw| raw.offset);
        let written = self.records().bounds(topic, count)?[partition as usize].end;
        let mut uncommitted = 0;
        if written > bounds.1 {
            self.records().read_written(topic, partition, bounds.1..written, &mut |message| {
                uncommitted += u64::from(is_wanted(message));
                Ok(())
            })?;
        }
        Ok(OfKey { partition, changes: read_all(table, &found)?, searched, uncommitted })
    }

    /// The last dead letter of the key, among the last ones; blocks.
    fn letter(&self, table: &Taken, key: &str) -> Result<Option<Letter>> {
        let mut last = None;
        letters::each(self.records(), table, sinks::LETTERS, &mut |letter| {
            if letter.key_bytes == key.as_bytes() {
                last = Some(letter);
            }
        })?;
        Ok(last)
    }
}

/// Reads records; blocks.
fn read_all(table: &Taken, found: &[Raw]) -> Result<Vec<Traced>> {
    let mut records = Records::new(table)?;
    let rules = runtime::config::rules(&table.settings)?;
    let mut changes = Vec::new();
    for raw in found {
        let (change, decoder) = records.read(raw)?;
        let is_filtered = decoder.is_some_and(|decoder| sinks::is_filtered(&rules, &decoder, raw));
        let no_log = if let Some(reason) = &change.unreadable {
            Some(format!("it can't be read, so it is a dead letter: {reason}"))
        } else {
            is_filtered.then(|| "a rule (rules.drop) leaves it out of logs and PostgreSQL".to_owned())
        };
        changes.push(Traced { change, is_consumed: false, log: None, no_log, is_in_postgres: false });
    }
    Ok(changes)
}
