//! The committed length of a slot's log: a record in a compacted topic, written in the same Kafka transaction as the
//! group's offsets.
//!
//! Invariants: a log has a log checkpoint before it has lines. After `init_transactions` of the slot's transactional
//! id, no transaction of it is open, so the log checkpoint read then is final. Log checkpoints and transactional ids
//! are separate for each group and each logs folder. [`crate::lineage`] decides whether a log is the one that its log
//! checkpoint describes, before another process is fenced and before the log is changed.
//!
//! A log checkpoint also has the offsets that its slot committed for the group. Kafka drops the offsets of a group that
//! had no member for a week; without them the consumers would read the topic from its beginning and write every line
//! twice.

pub(crate) mod accept;
pub(crate) mod forget;

use std::collections::BTreeMap;
use std::time::Duration;

use kafka::slots::{self, FolderId, LogCheckpoint, VERSION};
use kafka::{Failure, Partition, Record, Topic, TopicSpec, TransactionalProducer};
use model::error::{Code, Error, Result};
use runtime::config::KafkaSettings;
use runtime::failpoint;
use runtime::step::ConsumerStep;

use crate::folder::{self, LOG_NAME};
use crate::lineage::{Log, Note, Owner, Step};
use crate::lineage_error;
use crate::log_file;
use crate::opening::{Committed, Found, furthest};
use crate::slot::Slot;
use crate::slot_name::{Key, PARTITIONS};
use crate::start_offset;
use crate::topics::Topics;

/// How long the first read of a log checkpoint waits for open transactions: those of a running neighbour are shorter.
const GLANCE: Duration = Duration::from_millis(300);

/// The topic of the log checkpoints.
pub(crate) fn topic(settings: &KafkaSettings) -> TopicSpec {
    TopicSpec::compacted(slots::topic(settings), PARTITIONS as i32)
}

/// An open log's log checkpoint, without the committed state.
#[derive(Clone, Debug)]
pub(crate) struct OpenLogCheckpoint {
    topic: String,
    key: Key,
    checkpoint: LogCheckpoint,
}

impl OpenLogCheckpoint {
    /// Starts a new session.
    fn new(settings: &KafkaSettings, slot: &Slot, mut topics: BTreeMap<Topic, String>) -> Self {
        let id = slot.id();
        let topic_id = topics.remove(&Topic::MAIN);
        let name = |topic: Topic| topic.name(&settings.topic).to_owned();
        let checkpoint = LogCheckpoint {
            version: VERSION,
            slot: id.to_string(),
            file: format!("{id}/{LOG_NAME}"),
            group: settings.group_id.clone(),
            folder: slot.name().folder.as_ref().map_or_else(String::new, ToString::to_string),
            session: folder::random_id().to_string(),
            place: slot.place().to_owned(),
            topic_id,
            topic_ids: topics.into_iter().map(|(topic, id)| (name(topic), id)).collect(),
            ..LogCheckpoint::default()
        };
        Self { topic: slots::topic(settings), key: slot.name().key(&settings.group_id), checkpoint }
    }

    /// Notes the id of a topic that is read from now on.
    pub(crate) fn note_topic(&mut self, name: &str, id: &str) {
        self.checkpoint.topic_ids.insert(name.to_owned(), id.to_owned());
    }

    /// Adds the log checkpoint to the open transaction of the slot's producer.
    ///
    /// # Errors
    /// See [`Failure`].
    pub(crate) fn send(&self, producer: &TransactionalProducer, committed: &Committed) -> Result<(), Failure> {
        let Committed { length, tail, offsets } = committed.clone();
        let checkpoint = LogCheckpoint { length, tail, offsets, ..self.checkpoint.clone() };
        send(producer, &self.topic, &self.key, &checkpoint)
    }
}

fn send(producer: &TransactionalProducer, topic: &str, key: &Key, checkpoint: &LogCheckpoint) -> Result<(), Failure> {
    producer.send(&Record {
        topic,
        partition: Some(key.partition()),
        key: key.0.as_bytes(),
        value: Some(&checkpoint.encode()),
        header: None,
    })
}

/// The offsets that the group's slots have committed in all their folders, by partition, according to the log
/// checkpoints.
///
/// # Errors
/// Transient when Kafka can't be reached; definite when a log checkpoint can't be read, or has the offsets of another
/// topic.
pub(crate) fn offsets(settings: &KafkaSettings, topics: &Topics) -> Result<BTreeMap<Partition, i64>> {
    let mut offsets = BTreeMap::new();
    let ids = topics.ids(settings)?;
    for checkpoint in slots::log_checkpoints(settings)?.values() {
        check_topics(settings, checkpoint, &ids)?;
        furthest(&mut offsets, &checkpoint.offsets);
    }
    Ok(offsets)
}

/// Refuses a log checkpoint with offsets of a topic whose id is another `now`.
fn check_topics(settings: &KafkaSettings, checkpoint: &LogCheckpoint, now: &BTreeMap<Topic, String>) -> Result<()> {
    for (topic, now) in now {
        let read = checkpoint.topic_id(*topic).filter(|read| read != now);
        if let Some(read) = read.filter(|_| checkpoint.offsets.keys().any(|partition| partition.topic == *topic)) {
            return Err(start_offset::other_topic(&format!(
                "topic {} was deleted and created again: its id is {now}, but {} of group {} has read the one with id {read}",
                topic.name(&settings.topic),
                checkpoint.slot,
                settings.group_id
            )));
        }
    }
    Ok(())
}

impl Found {
    /// Reads them through `read`, which gives the value of a key.
    fn read(
        settings: &KafkaSettings,
        log: &Log<'_>,
        read: &dyn Fn(&Key) -> Result<Option<LogCheckpoint>>,
    ) -> Result<Self> {
        let ours = |checkpoint: &LogCheckpoint| checkpoint.is_of(&settings.group_id);
        let mut found = Self { own: read(&log.name.key(log.group))?.filter(ours), former: None };
        for key in log.former_keys() {
            if let Some(checkpoint) = read(&key)?.filter(ours) {
                found.former = Some((key, checkpoint));
                break;
            }
        }
        Ok(found)
    }
}

fn parse(key: &Key, value: Option<Vec<u8>>) -> Result<Option<LogCheckpoint>> {
    value.map(|v| LogCheckpoint::parse(&v).map_err(|reason| slots::unreadable(&key.0, &reason))).transpose()
}

/// The final log checkpoint of a key: waits for open transactions to end.
fn last(settings: &KafkaSettings, key: &Key) -> Result<Option<LogCheckpoint>> {
    parse(key, kafka::last_record(settings, &slots::topic(settings), key.partition(), key.0.as_bytes())?)
}

/// A log that may be written to.
pub(crate) struct Opened {
    pub(crate) producer: TransactionalProducer,
    pub(crate) checkpoint: OpenLogCheckpoint,
    pub(crate) committed: Committed,
}

/// Fences the slot's current writer, and reads the committed state of its log. `point` is the failpoint after the
/// fence.
///
/// A log that the log checkpoints do not describe is refused before the fence, as far as that can be detected then:
/// another process may be writing the log that they do describe.
///
/// # Errors
/// Transient when Kafka can't be reached; definite for a log that the log checkpoints do not describe, or that lacks
/// committed lines.
pub(crate) fn open(settings: &KafkaSettings, topics: &Topics, slot: &Slot, point: ConsumerStep) -> Result<Opened> {
    let owner = slot.owner()?;
    let log = log(settings, slot, &owner)?;
    let mut ids = topics.ids(settings)?;
    let step = |found: &Found| step(settings, slot, &log, found, &ids);
    let expected = glance(settings, &log)?.map(|found| step(&found)).transpose()?;
    let producer = TransactionalProducer::new(settings, &log.name.key(log.group).transactional_id(&settings.topic))?;
    if expected != Some(Step::Continue) {
        for key in log.former_keys() {
            drop(TransactionalProducer::new(settings, &key.transactional_id(&settings.topic))?);
        }
    }
    failpoint::at(point);
    let found = Found::read(settings, &log, &|key| last(settings, key))?;
    let step = step(&found)?;
    if found.own.is_none() && step == Step::Begin {
        look_around(settings, slot)?;
    }
    let committed = found.committed(step);
    // Offsets of a topic that is not read any more stay.
    let known = found.base(step).map(|base| base.topic_ids.clone()).unwrap_or_default();
    for (name, id) in known {
        ids.entry(Topic::of(&name, &settings.topic)).or_insert(id);
    }
    let checkpoint = OpenLogCheckpoint::new(settings, slot, ids);
    let checkpoint = begin_session(slot, &log, &producer, &found, step, &committed, checkpoint)?;
    Ok(Opened { producer, checkpoint, committed })
}

/// Checks whether [`open`] would accept the slot's log; changes nothing and fences nobody. Blocks.
///
/// # Errors
/// As [`open`], as far as open transactions let it be seen.
pub(crate) fn look(settings: &KafkaSettings, topics: &Topics, slot: &Slot) -> Result<()> {
    let owner = slot.owner()?;
    let log = log(settings, slot, &owner)?;
    let Some(found) = glance(settings, &log)? else { return Ok(()) };
    let step = step(settings, slot, &log, &found, &topics.ids(settings)?)?;
    if found.own.is_none() && step == Step::Begin { look_around(settings, slot) } else { Ok(()) }
}

/// The step for the log, whose lines must be those that its log checkpoint counts.
fn step(
    settings: &KafkaSettings,
    slot: &Slot,
    log: &Log<'_>,
    found: &Found,
    ids: &BTreeMap<Topic, String>,
) -> Result<Step> {
    let step = found.decide(log).map_err(|r| lineage_error::of(settings, slot, &r))?;
    if let Some(checkpoint) = found.base(step) {
        check_topics(settings, checkpoint, ids)?;
        examine(slot, checkpoint)?;
    }
    Ok(step)
}

fn log<'a>(settings: &'a KafkaSettings, slot: &'a Slot, owner: &'a Owner) -> Result<Log<'a>> {
    let path = slot.log_path();
    let length = match std::fs::metadata(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => 0,
        found => found
            .map_err(|e| Error::new(Code::FileAccess, format!("cannot read {}", path.display())).with_source(e))?
            .len(),
    };
    let (topic, group) = (settings.topic.as_str(), settings.group_id.as_str());
    Ok(Log { length, topic, group, name: slot.name(), owner, legacy: slot.is_legacy() })
}

/// Reads the log checkpoints without fencing; `None` when an open transaction may hide the last ones.
fn glance(settings: &KafkaSettings, log: &Log<'_>) -> Result<Option<Found>> {
    let hidden = std::cell::Cell::new(false);
    let topic = slots::topic(settings);
    let found = Found::read(settings, log, &|key| match kafka::last_record_within(
        settings,
        &topic,
        key.partition(),
        key.0.as_bytes(),
        GLANCE,
    )? {
        Some(value) => parse(key, value),
        None => {
            hidden.set(true);
            Ok(None)
        }
    })?;
    Ok((!hidden.get()).then_some(found))
}

/// Checks that the log has the lines that its log checkpoint counts.
fn examine(slot: &Slot, checkpoint: &LogCheckpoint) -> Result<()> {
    let examined = log_file::examine(slot.id(), &slot.log_path(), checkpoint.length, checkpoint.tail);
    let elsewhere = !checkpoint.place.is_empty() && checkpoint.place != slot.place();
    match examined {
        Err(error) if elsewhere => Err(lineage_error::older_copy(slot, &checkpoint.place, &error)),
        examined => examined,
    }
}

/// Before the first line of a slot without a log checkpoint: refuses if a former folder of this place is gone, and logs
/// the group's other folders.
fn look_around(settings: &KafkaSettings, slot: &Slot) -> Result<()> {
    let own = slot.name().folder.as_ref().map_or("", FolderId::as_str);
    let mut others: BTreeMap<String, (Vec<String>, u64)> = BTreeMap::new();
    for checkpoint in slots::log_checkpoints(settings)?.into_values().filter(|m| m.moved.is_none() && m.length > 0) {
        if !checkpoint.folder.is_empty() && checkpoint.folder != own {
            let (places, bytes) = others.entry(checkpoint.folder).or_default();
            places.push(checkpoint.place);
            *bytes += checkpoint.length;
        }
    }
    // A folder that was also opened at another place has moved there.
    let here = |(_, (places, _)): &(&String, &(Vec<String>, u64))| places.iter().all(|p| p == slot.place());
    if let Some((folder, (_, bytes))) = others.iter().find(here) {
        return Err(lineage_error::gone(slot, folder, *bytes));
    }
    if !others.is_empty() {
        let others: Vec<String> =
            others.iter().map(|(folder, (places, _))| format!("{folder} at {}", places[0])).collect();
        let (slot, others) = (slot.name(), others.join(", "));
        tracing::info!(%slot, others, "the group has logs in other folders too; verify needs all of them (consumer.logs)");
    }
    Ok(())
}

/// Writes a new session into `.owner` and then, with the committed state, into the log checkpoint. For a log that is
/// taken over, the same transaction marks its former log checkpoint as moved.
fn begin_session(
    slot: &Slot,
    log: &Log<'_>,
    producer: &TransactionalProducer,
    found: &Found,
    step: Step,
    committed: &Committed,
    checkpoint: OpenLogCheckpoint,
) -> Result<OpenLogCheckpoint> {
    let own = log.name.key(log.group);
    let former = found.former.as_ref().filter(|_| step == Step::TakeOver);
    let note = found.note(log, step, &checkpoint.checkpoint.session);
    slot.note_owner(note.clone())?;
    let commit = || {
        producer.begin()?;
        checkpoint.send(producer, committed)?;
        if let Some((key, former)) = former {
            let moved = former.moved_to(log.group, &own.0, slot.place());
            send(producer, &checkpoint.topic, key, &moved)?;
        }
        producer.commit()
    };
    commit().map_err(|e: Failure| e.into_error(&format!("cannot write the log checkpoint of {}", slot.id())))?;
    if let Some((key, _)) = former {
        slot.note_owner(Note { checkpoint: own, ..note })?;
        tracing::info!(slot = %slot.name(), from = key.0, bytes = committed.length, "took the log over");
    }
    Ok(checkpoint)
}
