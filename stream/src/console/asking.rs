//! What a view asks for: messages, a change in full, a row's history, counts of values, a trace, schemas, dead letters.
//!
//! Invariant: each question reads a bounded number of offsets, and few are answered at a time.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use avro::registry::Registry;
use consumer::tables::Taken;
use kafka::LastRecords;
use model::error::{Code, Error, Result};
use rdkafka::Message as _;
use rdkafka::message::BorrowedMessage;
use runtime::config::RegistrySettings;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::shown::{Before, Shown};
use super::values;
use crate::letters::{self, Kind, Letter};
use crate::pipeline::{Pipeline, one};
use crate::record::{Raw, Records, Row};
use crate::search::{self, Bound, Searched};
use crate::trace::{Limits, Tracer, Wanted};

/// Questions that are answered at a time; others wait.
const TURNS: usize = 2;
/// Messages of a page.
const MESSAGES: usize = 50;
/// Offsets of a page: markers of transactions have offsets too.
const PAGE: i64 = 5_000;
/// Changes and offsets of a history.
const HISTORY: Bound = Bound { records: 1_000, offsets: 2_000_000 };
/// Offsets in which the row before a change is looked for.
const BEFORE: Bound = Bound { records: 1, offsets: 500_000 };
/// Records whose rows are counted.
const RECORDS: usize = 20_000;
/// Dead letters that are read, and those that are shown.
const LETTERS: i64 = 20_000;
const SHOWN_LETTERS: usize = 500;
/// Characters of a dead letter's value that are shown.
const PREVIEW: usize = 4_000;
const TRACE: Limits = Limits { changes: 20, offsets: Some(2_000_000) };

/// A question about a topic.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Place {
    pub(super) topic: String,
    #[serde(default)]
    pub(super) partition: Option<i32>,
    #[serde(default)]
    pub(super) from: Option<i64>,
    #[serde(default)]
    pub(super) offset: Option<i64>,
}

/// A question about a row or a change.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Asked {
    pub(super) table: String,
    #[serde(default)]
    pub(super) key: Option<String>,
    #[serde(default)]
    pub(super) partition: Option<i32>,
    #[serde(default)]
    pub(super) offset: Option<i64>,
}

/// Answers questions.
pub(super) struct Answerer {
    pipeline: Pipeline,
    turns: Semaphore,
    /// Clients that rest.
    clients: Mutex<Vec<LastRecords>>,
    tracer: tokio::sync::Mutex<Option<Tracer>>,
}

impl Answerer {
    pub(super) fn new(pipeline: Pipeline) -> Self {
        let (clients, tracer) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { pipeline, turns: Semaphore::new(TURNS), clients, tracer }
    }

    /// Runs a question that reads Kafka, when it is its turn. The client of one that failed is not used again.
    async fn reading<T>(&self, read: impl FnOnce(&LastRecords) -> Result<T>) -> Result<T> {
        let _turn = self.turns.acquire().await;
        tokio::task::block_in_place(|| {
            let rested = self.clients.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let client = rested.map_or_else(|| LastRecords::for_search(&self.pipeline.kafka), Ok)?;
            let answer = read(&client);
            match &answer {
                Ok(_) => self.clients.lock().unwrap_or_else(PoisonError::into_inner).push(client),
                Err(_) => client.close(),
            }
            answer
        })
    }

    fn of_topic(&self, records: &LastRecords, topic: &str) -> Result<Taken> {
        let tables = self.pipeline.known_tables(records)?;
        tables.into_iter().find(|table| table.kafka.topic == topic).ok_or_else(|| {
            Error::new(Code::CommandLine, format!("{topic} is no topic of a table that is taken"))
                .with_remedy("choose one from the list of topics")
        })
    }

    /// The latest messages of a topic or partition, or those from an offset on.
    pub(super) async fn messages(&self, place: &Place) -> Result<Value> {
        self.reading(|records| {
            let table = self.of_topic(records, &place.topic)?;
            let bounds = bounds(records, &place.topic, place.partition)?;
            let mut found = Vec::new();
            for (partition, (begin, end)) in bounds {
                match place.from {
                    Some(from) => found.extend(page(records, &place.topic, partition, from.max(begin), end)?),
                    None => {
                        let bound = Bound { records: MESSAGES, offsets: PAGE };
                        found.extend(search::last(records, &place.topic, partition, (begin, end), bound, &|_| true)?.0);
                    }
                }
            }
            if place.partition.is_none() {
                found.sort_by_key(|raw| (raw.written, raw.partition, raw.offset));
            }
            let kept = if place.from.is_some() { 0 } else { found.len().saturating_sub(MESSAGES) };
            let mut reader = Records::new(&table)?;
            let mut messages = Vec::new();
            for raw in &found[kept..] {
                messages.push(Shown::new(&place.topic, reader.read(raw)?.0, Before::Unknown).short());
            }
            Ok(json!({ "messages": messages }))
        })
        .await
    }

    /// A change with all its values, and the row before it.
    pub(super) async fn change(&self, place: &Place) -> Result<Value> {
        self.reading(|records| {
            let table = self.of_topic(records, &place.topic)?;
            let (partition, offset) = (place.partition.unwrap_or(0), place.offset.unwrap_or(0));
            let bounds = bounds(records, &place.topic, Some(partition))?.into_iter().next().map(|(_, bounds)| bounds);
            let (begin, end) = bounds.unwrap_or((0, 0));
            let found = (begin..end).contains(&offset).then(|| search::at(records, &place.topic, partition, offset));
            let raw = found.transpose()?.flatten().ok_or_else(|| {
                let text = format!("there is no committed record at offset {offset} of partition {partition}");
                Error::new(Code::CommandLine, text).with_remedy("it may have expired; choose one from the list")
            })?;
            let key = raw.key.clone();
            let is_same = |message: &BorrowedMessage<'_>| message.key() == key.as_deref();
            let (before, searched) = search::last(records, &place.topic, partition, (begin, offset), BEFORE, &is_same)?;
            let mut reader = Records::new(&table)?;
            let before = match before.last() {
                Some(before) => reader.read(before)?.0.row.map_or(Before::Nothing, Before::Row),
                None if searched.is_complete => Before::Nothing,
                None => Before::Unknown,
            };
            let size = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
            Ok(json!({
                "change": Shown::new(&place.topic, reader.read(&raw)?.0, before),
                "key_bytes": size(&raw.key),
                "value_bytes": size(&raw.value),
                "header": raw.header.as_deref().map(String::from_utf8_lossy),
            }))
        })
        .await
    }

    /// The changes of a row that are kept, the latest ones.
    pub(super) async fn history(&self, asked: &Asked) -> Result<Value> {
        let key = asked.key.clone().unwrap_or_default();
        self.reading(|records| {
            let table = one(self.pipeline.known_tables(records)?, Some(&asked.table))?;
            let topic = &table.kafka.topic;
            let count = bounds(records, topic, None)?.len();
            let partition = kafka::partition_of(key.as_bytes(), i32::try_from(count).unwrap_or(1));
            let (_, bounds) = bounds(records, topic, Some(partition))?.into_iter().next().unwrap_or_default();
            let is_same = |message: &BorrowedMessage<'_>| message.key() == Some(key.as_bytes());
            let (found, searched) = search::last(records, topic, partition, bounds, HISTORY, &is_same)?;
            let mut reader = Records::new(&table)?;
            let mut before = if reaches_begin(&searched) { Before::Nothing } else { Before::Unknown };
            let mut changes = Vec::new();
            for raw in &found {
                let change = reader.read(raw)?.0;
                let row = change.row.clone().map_or(Before::Nothing, Before::Row);
                changes.push(Shown::new(topic, change, std::mem::replace(&mut before, row)).short());
            }
            Ok(json!({ "table": asked.table, "topic": topic, "partition": partition, "changes": changes, "searched": searched }))
        })
        .await
    }

    /// By column, the values of the rows that the latest records leave.
    pub(super) async fn values(&self, asked: &Asked) -> Result<Value> {
        self.reading(|records| {
            let table = one(self.pipeline.known_tables(records)?, Some(&asked.table))?;
            let topic = &table.kafka.topic;
            let bounds = bounds(records, topic, None)?;
            let most = RECORDS / bounds.len().max(1);
            let bound = Bound { records: most, offsets: 2 * most as i64 };
            let mut reader = Records::new(&table)?;
            let (mut rows, mut count, mut is_complete, mut latest) = (Vec::<Row>::new(), 0, true, Vec::new());
            for (partition, bounds) in bounds {
                let (found, searched) = search::last(records, topic, partition, bounds, bound, &|_| true)?;
                is_complete &= reaches_begin(&searched);
                count += found.len();
                // The last state of each key; all records of a key are in one partition.
                let last: HashMap<&[u8], &Raw> =
                    found.iter().map(|raw| (raw.key.as_deref().unwrap_or_default(), raw)).collect();
                for raw in last.values() {
                    rows.extend(reader.read(raw)?.0.row);
                }
                latest.extend(last.values().map(|raw| (raw.written, raw.key.clone().unwrap_or_default())));
            }
            latest.sort_unstable_by(|a, b| b.cmp(a));
            let latest = latest.into_iter().take(15).map(|(written, key)| {
                json!({ "key": String::from_utf8_lossy(&key), "committed_at": written.map(|at| at.to_string()) })
            });
            Ok(json!({
                "records": count,
                "rows": rows.len(),
                "is_complete": is_complete,
                "latest": latest.collect::<Vec<_>>(),
                "columns": values::columns(rows.iter()),
            }))
        })
        .await
    }

    /// The latest dead letters of all tables.
    pub(super) async fn letters(&self) -> Result<Value> {
        self.reading(|records| {
            let (mut found, mut is_all) = (Vec::new(), true);
            for table in self.pipeline.known_tables(records)? {
                let topic = &table.kafka.topic;
                is_all &= letters::each(records, &table, LETTERS, &mut |letter| found.push((topic.clone(), letter)))?;
            }
            found.sort_by(|(_, a), (_, b)| (&b.written_at, b.offset).cmp(&(&a.written_at, a.offset)));
            is_all &= found.len() <= SHOWN_LETTERS;
            let letters: Vec<Value> =
                found.iter().take(SHOWN_LETTERS).map(|(topic, letter)| shown(topic, letter)).collect();
            Ok(json!({ "letters": letters, "is_all": is_all }))
        })
        .await
    }

    /// The versions of a topic's schema, the latest first.
    pub(super) async fn schema(&self, topic: &str) -> Result<Value> {
        let table = self.reading(|records| self.of_topic(records, topic)).await?;
        let registry = RegistrySettings::from(&table.settings)?;
        let subject = registry.subject.clone();
        let mut versions = Registry::new(registry)?.versions().await?;
        versions.reverse();
        let versions = versions.iter().map(|version| json!({ "version": version.number, "schema": version.text }));
        Ok(json!({ "subject": subject, "versions": versions.collect::<Vec<_>>() }))
    }

    /// The life of a row.
    pub(super) async fn trace(&self, asked: &Asked) -> Result<Value> {
        let wanted = match (asked.partition, asked.offset, &asked.key) {
            (Some(partition), Some(offset), _) => Wanted::Offset(partition, offset),
            (_, _, Some(key)) => Wanted::Key(key.clone()),
            _ => return Err(Error::new(Code::CommandLine, "a trace needs a key, or a partition and an offset")),
        };
        let mut tracer = self.tracer.lock().await;
        if tracer.is_none() {
            *tracer = Some(Tracer::new(self.pipeline.clone())?);
        }
        let answer = match tracer.as_ref() {
            Some(tracer) => tracer.trace(&wanted, Some(&asked.table), TRACE).await,
            None => Err(Error::definite("no tracer")),
        };
        if answer.is_err() {
            *tracer = None;
        }
        let mut answer =
            serde_json::to_value(answer?).map_err(|e| Error::definite("the trace has no JSON form").with_source(e))?;
        answer["asked"] = json!({ "partition": asked.partition, "offset": asked.offset });
        Ok(answer)
    }
}

fn reaches_begin(searched: &Searched) -> bool {
    searched.from <= searched.begin
}

/// By partition, the first offset and the end of the committed records.
fn bounds(records: &LastRecords, topic: &str, only: Option<i32>) -> Result<Vec<(i32, (i64, i64))>> {
    let count = records.partition_count(topic)?.ok_or_else(|| {
        Error::new(Code::TopicMissing, format!("topic {topic} is not there yet"))
            .with_remedy("start the producer, which creates it")
    })?;
    let ends = records.stable_ends(topic, count)?;
    let all = records.bounds(topic, count)?.into_iter().zip(ends).map(|(bounds, end)| (bounds.begin, end));
    let mut all: Vec<(i32, (i64, i64))> = (0..).zip(all).collect();
    if let Some(only) = only {
        all.retain(|(partition, _)| *partition == only);
        if all.is_empty() {
            let text = format!("topic {topic} has no partition {only}");
            return Err(Error::new(Code::CommandLine, text).with_remedy(format!("name one below {count}")));
        }
    }
    Ok(all)
}

/// The messages of a partition from an offset on.
fn page(records: &LastRecords, topic: &str, partition: i32, from: i64, end: i64) -> Result<Vec<Raw>> {
    let found = std::cell::RefCell::new(Vec::new());
    let is_full = || found.borrow().len() >= MESSAGES;
    records.read_range(topic, partition, from..end.min(from.saturating_add(PAGE)), &is_full, &mut |message| {
        if !is_full() {
            found.borrow_mut().push(Raw::of(message));
        }
        Ok(())
    })?;
    Ok(found.into_inner())
}

fn shown(topic: &str, letter: &Letter) -> Value {
    let mut shown = serde_json::to_value(letter).unwrap_or_default();
    shown["record_topic"] = topic.into();
    let text = letter.value.as_deref().map(|value| match letter.kind {
        Kind::Row => String::from_utf8_lossy(value).into_owned(),
        _ => value.iter().map(|byte| format!("{byte:02x} ")).take(PREVIEW / 3).collect(),
    });
    shown["preview"] = text.map(|text| text.chars().take(PREVIEW).collect::<String>()).into();
    shown
}
