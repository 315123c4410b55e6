//! `consumer accept-log`: makes the present lines of a slot's log the committed ones.
//!
//! Committed lines must stay, as no consumer reads their records again; uncommitted lines must go, as their records are
//! read again. The log checkpoint may not be the last one that the log's consumer wrote, and `.committed` may be older
//! than the last commit. So the command compares each line behind the bytes known as committed, from the end, with the
//! offsets in Kafka and with the other logs ([`Done`]). An uncommitted batch is contiguous at the end, so the first
//! line that stays ends the comparison. The lines that are cut are kept beside the log ([`kept_lines`]), in case
//! Kafka's offsets are wrong.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use kafka::slots::{self, LogCheckpoint};
use kafka::{Logging, Partition, Topic, TransactionalProducer};
use model::error::{Code, Error, Result};
use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rules::line::Written;
use runtime::config::KafkaSettings;

use super::{OpenLogCheckpoint, begin_session, last, log};
use crate::kept_lines::{self, Kept};
use crate::lineage::{LineageError, Owner, Step};
use crate::lineage_error;
use crate::log_file;
use crate::log_floor;
use crate::offsets;
use crate::opening::{Committed, Found, furthest};
use crate::slot::{Slot, Slots};
use crate::slot_name::Key;
use crate::topics::Topics;

/// A limit above the number of lines of a batch.
const BATCH: usize = 1 << 20;

/// The result of [`accept`].
#[derive(Debug)]
pub(crate) struct Accepted {
    /// Committed length before, bytes; `None` without a log checkpoint.
    pub(crate) before: Option<u64>,
    /// Committed length now, bytes.
    pub(crate) after: u64,
    /// What was cut off.
    pub(crate) cut: Option<Kept>,
    /// The group has no known offset, so it reads the topic from its beginning.
    pub(crate) is_new_group: bool,
}

/// Accepts the present lines of the slot's log as committed, except those at its end that no transaction committed;
/// these go to a file beside the log.
///
/// # Errors
/// Transient when Kafka can't be reached; definite when a log can't be read, when the cut lines can't be kept, or when
/// the log replaced another one.
pub(crate) fn accept(settings: &KafkaSettings, topics: &Topics, slots: &Slots, slot: &Slot) -> Result<Accepted> {
    let path = slot.log_path();
    let owner = slot.owner()?;
    let log = log(settings, slot, &owner)?;
    let own_key = log.name.key(log.group);
    let producer = TransactionalProducer::new(settings, &own_key.transactional_id(&settings.topic))?;
    let read = || Found::read(settings, &log, &|key| readable(settings, key));
    // A refused log is accepted with its own log checkpoint, except where that log checkpoint is another log's.
    let decided = |found: &Found| match found.decide(&log) {
        Err(occupied @ LineageError::Occupied(_)) => Err(lineage_error::of(settings, slot, &occupied)),
        decided => Ok(decided.unwrap_or(Step::Continue)),
    };
    let mut found = read()?;
    if decided(&found)? == Step::TakeOver
        && let Some((key, _)) = &found.former
    {
        drop(TransactionalProducer::new(settings, &key.transactional_id(&settings.topic))?);
        found = read()?;
    }
    let step = decided(&found)?;
    // A log that was declared lost may be used again: no other log has taken over its lines.
    let has_its_lines = |m: &&LogCheckpoint| m.moved.as_ref().is_none_or(|moved| moved.to.is_empty());
    let base = found.base(step).filter(has_its_lines).map(Committed::from);
    let known = Known::look_up(settings, topics)?;
    let own = known.checkpoints.get(&own_key.0);
    let is_ours = matches!(&owner, Owner::Note(note) if note.topic == log.topic && note.group == log.group);
    let after = if is_ours || base.is_some() {
        stays(settings, topics, slots, slot, base.as_ref(), &known)?
    } else {
        // A log of another topic: its committed length can't be determined here.
        let whole = || File::open(&path).and_then(|file| log_file::whole_lines(&file, file.metadata()?.len()));
        whole().map_err(|e| unreadable(&path, e))?
    };
    let tail = Some(log_file::tail(&path, after).map_err(|e| unreadable(&path, e))?);
    let cut = kept_lines::keep(&path, after)?;
    let before = base.as_ref().map(|base| base.length);
    let mut offsets = base.map(|base| base.offsets).unwrap_or_default();
    own.iter().for_each(|own| furthest(&mut offsets, &own.offsets));
    furthest(&mut offsets, &known.in_no_log_checkpoint());
    let committed = Committed { length: after, tail, offsets };
    // The log checkpoint keeps the topic ids of its offsets; offsets from the group belong to the present topics.
    let mut ids = topics.ids(settings)?;
    if let Some(checkpoint) = found.base(step).or(own) {
        ids.remove(&Topic::MAIN);
        ids.extend(checkpoint.topic_id.clone().map(|id| (Topic::MAIN, id)));
        let others = checkpoint.topic_ids.iter();
        ids.extend(others.map(|(name, id)| (Topic::of(name, &settings.topic), id.clone())));
    }
    let checkpoint = OpenLogCheckpoint::new(settings, slot, ids);
    begin_session(slot, &log, &producer, &found, step, &committed, checkpoint)?;
    log_file::note_accepted(&path, after)?;
    log_file::LogFile::open(slot.id(), &path, after)?;
    Ok(Accepted { before, after, cut, is_new_group: known.is_empty() })
}

/// The last log checkpoint of a key; `None` if it can't be read.
fn readable(settings: &KafkaSettings, key: &Key) -> Result<Option<LogCheckpoint>> {
    match last(settings, key) {
        Err(error) if !error.is_transient() => {
            tracing::warn!("it counts as 0 bytes: {error}");
            Ok(None)
        }
        read => read,
    }
}

fn unreadable(path: &Path, error: io::Error) -> Error {
    Error::new(Code::FileAccess, format!("cannot read {}", path.display())).with_source(error)
}

/// The length of the log without uncommitted lines.
fn stays(
    settings: &KafkaSettings,
    topics: &Topics,
    slots: &Slots,
    slot: &Slot,
    base: Option<&Committed>,
    known: &Known,
) -> Result<u64> {
    let path = slot.log_path();
    let read = |e| unreadable(&path, e);
    let file = match File::open(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        file => file.map_err(read)?,
    };
    let whole = base.filter(|b| log_file::examine(slot.id(), &path, b.length, b.tail).is_ok());
    let floor = log_floor::read(&path);
    let last = base.filter(|b| b.length >= floor);
    let from = match (whole, last) {
        (Some(base), _) => base.length,
        // The log has other lines than those that `.committed` describes.
        (None, Some(_)) => 0,
        (None, None) => log_file::known(&path, &file).map_err(read)?,
    };
    let end = file.metadata().and_then(|m| log_file::whole_lines(&file, m.len())).map_err(read)?;
    if end <= from {
        return Ok(from);
    }
    if base.is_none() && known.is_empty() {
        // There is no evidence that any line is uncommitted.
        return Ok(end);
    }
    let lines =
        Backwards { topics, file: &file, end, from }.take(BATCH).collect::<io::Result<Vec<Line>>>().map_err(read)?;
    let own = known.own(&slot.name().key(&settings.group_id), last, floor);
    let done = Done::look_up(settings, topics, slots, slot, &lines, known, own)?;
    // A line without partition and offset is not ours.
    Ok(end_of(end, &lines, |place| place.map_or(whole.is_none(), |place| done.here(place))))
}

/// Partition and offset of a line's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Place {
    partition: Partition,
    offset: i64,
}

impl Place {
    fn of(line: &[u8], topics: &Topics) -> Option<Self> {
        let Written { table, partition: number, offset } = Written::read(line)?;
        Some(Self { partition: Partition { topic: topics.of_line(table.as_deref()), number }, offset })
    }
}

/// A line of a log.
struct Line {
    /// The offset of its first byte.
    start: u64,
    place: Option<Place>,
}

/// The lines of a log between two ends of lines, the last one first.
struct Backwards<'a> {
    topics: &'a Topics,
    file: &'a File,
    end: u64,
    from: u64,
}

impl Iterator for Backwards<'_> {
    type Item = io::Result<Line>;

    fn next(&mut self) -> Option<Self::Item> {
        let (file, end) = (self.file, self.end);
        if end <= self.from {
            return None;
        }
        let line = || {
            let start = log_file::whole_lines(file, end - 1)?;
            let mut text = vec![0; (end - start) as usize];
            file.read_exact_at(&mut text, start)?;
            Ok(Line { start, place: Place::of(&text, self.topics) })
        };
        let line = line();
        self.end = line.as_ref().map_or(self.from, |line: &Line| line.start);
        Some(line)
    }
}

/// The end of the last line that stays; `end` is the end of the first one, and `lines` is in the order of
/// [`Backwards`].
fn end_of(end: u64, lines: &[Line], stays: impl Fn(Option<Place>) -> bool) -> u64 {
    lines.iter().take_while(|line| !stays(line.place)).last().map_or(end, |line| line.start)
}

/// The offsets that show who processed a record.
#[derive(Default)]
struct Done {
    /// By partition, the offset from which the group has processed nothing and will read.
    group: BTreeMap<Partition, i64>,
    /// The slot's own offsets, if its log checkpoint is the last that it wrote.
    own: Option<BTreeMap<Partition, i64>>,
    /// The offsets of slots in other logs folders.
    other_folders: BTreeMap<Partition, i64>,
    /// Records whose lines are committed in other logs of this folder.
    beside: HashSet<Place>,
}

impl Done {
    /// Whether the record's line belongs in this log. An unprocessed record is read again; a record that another slot
    /// has processed is in that slot's log.
    fn here(&self, place: Place) -> bool {
        let Place { partition, offset } = place;
        let has = |done: &BTreeMap<Partition, i64>| done.get(&partition).is_some_and(|next| offset < *next);
        let elsewhere = || self.own.as_ref().is_some_and(|own| !has(own)) && has(&self.other_folders);
        has(&self.group) && !self.beside.contains(&place) && !elsewhere()
    }

    /// Collects the offsets from Kafka and the lines of the folder's other logs.
    fn look_up(
        settings: &KafkaSettings,
        topics: &Topics,
        slots: &Slots,
        slot: &Slot,
        lines: &[Line],
        known: &Known,
        own: Option<BTreeMap<Partition, i64>>,
    ) -> Result<Self> {
        let mut done = Self { own, ..Self::default() };
        done.group = known.group.iter().map(|(partition, offset)| (*partition, offset.next)).collect();
        let folder = slot.name().folder.as_ref().map(ToString::to_string).unwrap_or_default();
        for checkpoint in known.checkpoints.values() {
            // Where the group's offsets are missing or were moved back, the log checkpoints give its start.
            furthest(&mut done.group, &checkpoint.offsets);
            if checkpoint.folder != folder {
                furthest(&mut done.other_folders, &checkpoint.offsets);
            }
        }
        let wanted: HashSet<Place> = lines.iter().filter_map(|line| line.place).collect();
        for (name, path) in slots.beside(slot.id())? {
            let checkpoint = readable(settings, &name.key(&settings.group_id))?.filter(|m| m.moved.is_none());
            let length = checkpoint.map_or(0, |checkpoint| checkpoint.length).max(log_floor::read(&path));
            done.beside.extend(places(&path, topics, length, &wanted).map_err(|e| unreadable(&path, e))?);
        }
        Ok(done)
    }
}

/// The state of the group in Kafka.
struct Known {
    group: BTreeMap<Partition, offsets::Committed>,
    /// The last readable log checkpoint of each key, with the highest offsets that any of its log checkpoints had.
    checkpoints: BTreeMap<String, LogCheckpoint>,
}

impl Known {
    /// Reads the group's offsets before the log checkpoints, as a neighbour may be committing.
    fn look_up(settings: &KafkaSettings, topics: &Topics) -> Result<Self> {
        let unable = |e| Error::definite("cannot make a client of Kafka").with_source(e);
        let config = kafka::consumer_config(settings, &settings.group_id);
        let consumer: BaseConsumer<Logging> = config.create_with_context(Logging::default()).map_err(unable)?;
        kafka::give_token(settings, consumer.client())?;
        let committed = offsets::committed(settings, &consumer, &topics.partitions())?;
        let group = committed.into_iter().filter_map(|(p, c)| Some((p, c?))).collect();
        Ok(Self { group, checkpoints: log_checkpoints(settings)? })
    }

    /// Whether no offset of the group is known, as on a rebuilt cluster.
    fn is_empty(&self) -> bool {
        self.group.is_empty() && self.checkpoints.values().all(|checkpoint| checkpoint.offsets.is_empty())
    }

    /// The offsets that a slot has processed, if its log checkpoint is the last one of its log: the given one, or a
    /// readable one that counts all bytes known as committed.
    fn own(&self, key: &Key, last: Option<&Committed>, floor: u64) -> Option<BTreeMap<Partition, i64>> {
        let read = self.checkpoints.get(&key.0).filter(|checkpoint| checkpoint.length >= floor);
        let mut own = last.map(|last| last.offsets.clone()).unwrap_or_default();
        read.iter().for_each(|checkpoint| furthest(&mut own, &checkpoint.offsets));
        (!own.is_empty()).then_some(own)
    }

    /// Offsets that were committed together with their lines, but that no log checkpoint has.
    fn in_no_log_checkpoint(&self) -> BTreeMap<Partition, i64> {
        let mut of_checkpoints = BTreeMap::new();
        self.checkpoints.values().for_each(|checkpoint| furthest(&mut of_checkpoints, &checkpoint.offsets));
        let noted = self.group.iter().filter(|(_, committed)| committed.noted).map(|(p, c)| (*p, c.next));
        noted.filter(|(partition, next)| of_checkpoints.get(partition).is_none_or(|known| known < next)).collect()
    }
}

/// The last readable log checkpoint of each key of the group, with the highest offsets that any of its log checkpoints
/// had in the same topic: the last one may have been set back.
fn log_checkpoints(settings: &KafkaSettings) -> Result<BTreeMap<String, LogCheckpoint>> {
    let mut checkpoints: BTreeMap<String, LogCheckpoint> = BTreeMap::new();
    kafka::scan(settings, &slots::topic(settings), &mut |message| {
        let checkpoint = message.payload().and_then(|value| LogCheckpoint::parse(value).ok());
        if let Some(mut checkpoint) = checkpoint.filter(|checkpoint| checkpoint.is_of(&settings.group_id)) {
            let key = String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned();
            if let Some(before) = checkpoints.get(&key).filter(|before| before.topic_id == checkpoint.topic_id) {
                furthest(&mut checkpoint.offsets, &before.offsets);
            }
            checkpoints.insert(key, checkpoint);
        }
        Ok(())
    })?;
    Ok(checkpoints)
}

/// Those of the `wanted` records whose lines are in the first `length` bytes of a log.
fn places(path: &Path, topics: &Topics, length: u64, wanted: &HashSet<Place>) -> io::Result<Vec<Place>> {
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file?.take(length),
    };
    let mut found = Vec::new();
    for line in BufReader::new(file).split(b'\n') {
        found.extend(Place::of(&line?, topics).filter(|place| wanted.contains(place)));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(partition: i32, offset: i64) -> Place {
        Place { partition: Partition::main(partition), offset }
    }

    fn offsets<const N: usize>(of: [(i32, i64); N]) -> BTreeMap<Partition, i64> {
        of.into_iter().map(|(partition, next)| (Partition::main(partition), next)).collect()
    }

    #[test]
    fn a_line_stays_when_its_record_is_done_and_nowhere_else() {
        let done = Done {
            group: offsets([(0, 10), (1, 10), (2, 10)]),
            own: Some(offsets([(0, 10), (1, 5), (2, 5)])),
            other_folders: offsets([(0, 9), (1, 8)]),
            beside: [at(2, 7)].into(),
        };
        for (place, want) in [
            (at(0, 9), true),
            (at(0, 10), false),
            (at(3, 0), false),
            (at(1, 4), true),
            (at(1, 7), false),
            (at(1, 8), true),
            (at(2, 6), true),
            (at(2, 7), false),
        ] {
            assert_eq!(done.here(place), want, "{place:?}");
        }
        // The log checkpoint is not the slot's last one: a line that may be in another folder stays.
        assert!(Done { own: None, ..done }.here(at(1, 7)));
    }

    #[test]
    fn only_an_uncommitted_end_goes() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("log");
        let line = |offset: i64| format!("{{\"id\":1,\"partition\":0,\"offset\":{offset},\"source_ts\":null}}\n");
        let topics = Topics::default();
        let text = format!("{}{}{{\"id\":1}}\n{}{}", line(7), line(3), line(8), line(9));
        std::fs::write(&path, &text).expect("written");
        let file = File::open(&path).expect("the file");
        let all = Backwards { topics: &topics, file: &file, end: text.len() as u64, from: 0 };
        let lines: Vec<Line> = all.collect::<io::Result<_>>().expect("lines");
        let places: Vec<_> = lines.iter().map(|line| line.place).collect();
        assert_eq!(places, [Some(at(0, 9)), Some(at(0, 8)), None, Some(at(0, 3)), Some(at(0, 7))]);
        let end = |next: i64, unknown: bool| {
            end_of(text.len() as u64, &lines, |place| place.map_or(unknown, |place| place.offset < next)) as usize
        };
        assert_eq!(end(10, true), text.len());
        assert_eq!(end(9, true), text.len() - line(9).len());
        assert_eq!(end(5, true), text.len() - 2 * line(9).len(), "the line of nobody stays");
        assert_eq!(end(5, false), 2 * line(9).len());
        assert_eq!(end(0, false), 0);
        let wanted = [at(0, 3), at(0, 9), at(1, 3)].into();
        assert_eq!(super::places(&path, &topics, text.len() as u64 - 1, &wanted).expect("lines"), [at(0, 3), at(0, 9)]);
        assert_eq!(super::places(&path, &topics, 2 * line(9).len() as u64, &wanted).expect("lines"), [at(0, 3)]);
    }
}
