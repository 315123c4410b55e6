//! Sends a record again that the consumers could not read when it came, exactly once.
//!
//! The record goes behind all others of its key, so it must be the last one of its key until the very commit. The
//! producer could write a later one meanwhile; so the record is sent with the producer's own transactional id. Kafka
//! fences the running producer at that moment, and its later transactions come after ours: a producer that finds the
//! progress to be its own initialises again and continues. If it does so before our commit, ours is refused, and nothing
//! was sent. A note in the topic of the dead letters is committed with the record: a second replay finds it, and
//! `verify` takes the first record for what it is, a dead letter.

use consumer::tables::Taken;
use kafka::{Failure, LastRecords, Record, TransactionalProducer, committed_progress};
use model::change::SOURCE_HEADER;
use model::error::{Code, Error, Result};
use serde::Serialize;

use super::desk::{Desk, LISTED};
use crate::letters::{self, Kind, Letter, way_into_postgres};
use crate::record::{Change, Raw, Records};

/// What was sent: the form of `dlq replay --json`.
#[derive(Clone, Debug, Serialize)]
pub struct Sent {
    /// The topic.
    pub topic: String,
    /// The key.
    pub key: String,
    /// The partition.
    pub partition: i32,
    /// The offset of the first record.
    pub before: i64,
    /// The offset of the record that was sent; `null` when the topic does not show it yet.
    pub offset: Option<i64>,
}

/// The note's header `origin`.
#[derive(Serialize)]
struct Origin<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
    reason: &'static str,
    sent_again: bool,
}

/// Sends the record of a letter again. Blocks.
///
/// # Errors
/// Definite, with the reason and the way back, when that would not be sound; transient when the producer writes at this
/// very moment, or Kafka does not answer: then nothing was sent.
pub fn replay(desk: &Desk, table: Option<&str>, offset: i64) -> Result<Sent> {
    let (table, letter) = desk.letter(table, offset)?;
    require(desk, &table, &letter)?;
    let kafka = &desk.pipeline.kafka;
    let producer = TransactionalProducer::new(kafka, &kafka.transactional_id)?;
    // What was in flight is settled now, and no other producer can commit before this one does.
    let (raw, change) = require(desk, &table, &letter)?;
    desk.require_settled(&table, raw.partition)?;
    send(&producer, &table, &raw).map_err(|failure| match failure {
        Failure::Fenced(_) => {
            Error::transient("the producer began to write again at this very moment, and nothing was sent")
                .with_remedy("run the command again; stop the producer for that time if it happens again")
        }
        failure => failure.into_error("cannot send the record again"),
    })?;
    drop(producer);
    let sent = LastRecords::for_search(kafka).and_then(|records| {
        let fresh = Desk { pipeline: desk.pipeline.clone(), records, tables: Vec::new() };
        fresh.later(&table, &letter)
    });
    Ok(Sent {
        topic: table.kafka.topic.clone(),
        key: change.key,
        partition: raw.partition,
        before: raw.offset,
        offset: sent.ok().flatten().map(|raw| raw.offset),
    })
}

fn send(producer: &TransactionalProducer, table: &Taken, raw: &Raw) -> Result<(), Failure> {
    let topic = &table.kafka.topic;
    let header = raw.header.as_deref().map(|header| (SOURCE_HEADER, header));
    let key = raw.key.as_deref().unwrap_or_default();
    let value = raw.value.as_deref();
    let origin = Origin { topic, partition: raw.partition, offset: raw.offset, reason: "sent again", sent_again: true };
    let origin = serde_json::to_vec(&origin).unwrap_or_default();
    let letters = kafka::TopicSpec::dead_letters(&table.kafka).name;
    producer.begin()?;
    producer.send(&Record { topic, partition: Some(raw.partition), key, value, header })?;
    let note = Some(("origin", origin.as_slice()));
    producer.send(&Record { topic: &letters, partition: Some(0), key, value: None, header: note })?;
    producer.commit()
}

/// Checks that the record may be sent again.
fn require(desk: &Desk, table: &Taken, letter: &Letter) -> Result<(Raw, Change)> {
    let name = &table.name;
    let refuse = |text: String, remedy: String| Err(Error::new(Code::ChecksFailed, text).with_remedy(remedy));
    let snapshot = format!("`cdc-producer snapshot {name}` sends every row of the table as it is now");
    match letter.kind {
        Kind::Record => {}
        Kind::Row => {
            let text = format!(
                "letter {} is a row of MySQL: it is not sent again, since the row itself is the source",
                letter.offset
            );
            return refuse(text, format!("correct the row in {name}: the change arrives as any other; or {snapshot}"));
        }
        Kind::Postgres => {
            let text =
                format!("letter {} is in the topic and in a log: only PostgreSQL does not have it", letter.offset);
            return refuse(text, way_into_postgres(letter.sqlstate.as_deref()).to_owned());
        }
        Kind::SentAgain => {
            return refuse(
                format!("letter {} notes that a record was sent again", letter.offset),
                "nothing".to_owned(),
            );
        }
        Kind::Foreign => {
            return refuse(
                format!("letter {} is of another program", letter.offset),
                "nothing here: ask the owner of the program that wrote it".to_owned(),
            );
        }
    }
    let mut was_sent = false;
    letters::each(&desk.records, table, LISTED, &mut |other| {
        was_sent |= other.kind == Kind::SentAgain
            && (other.partition, other.record_offset) == (letter.partition, letter.record_offset);
    })?;
    if was_sent {
        return refuse(format!("letter {} was sent again already", letter.offset), "nothing".to_owned());
    }
    let Some(raw) = desk.original(table, letter)? else {
        return refuse("the topic no longer has the record".to_owned(), snapshot);
    };
    let (change, decoder) = Records::new(table)?.read(&raw)?;
    if let Some(reason) = change.unreadable.as_deref().or(change.op.is_none().then_some("it has no header source")) {
        return refuse(format!("the record still can't be read: {reason}"), format!("if a row is missing: {snapshot}"));
    }
    let key = raw.key.as_deref().unwrap_or_default();
    if let Some(decoder) = decoder
        && !crate::record::has_key(&decoder, &raw)
    {
        return refuse(
            "the record's key is not that of its value".to_owned(),
            format!("if a row is missing: {snapshot}"),
        );
    }
    if kafka::partition_of(key, table.kafka.partitions) != raw.partition {
        return refuse(
            "the record is not in the partition of its key".to_owned(),
            format!("if a row is missing: {snapshot}"),
        );
    }
    if let Some(later) = desk.later(table, letter)? {
        let text = format!(
            "the row has a later change, at partition {} offset {}: this one would set it back",
            later.partition, later.offset
        );
        return refuse(text, "nothing: the later change counts".to_owned());
    }
    let progress = committed_progress::now(&desk.records, &desk.pipeline.kafka)?;
    if progress.as_ref().map(|progress| progress.epoch) != change.epoch {
        let text = format!("the record is of epoch {}, and a later replay has begun", change.epoch.unwrap_or(0));
        return refuse(text, format!("the replay has sent the row as it was then; if it is missing: {snapshot}"));
    }
    Ok((raw, change))
}
