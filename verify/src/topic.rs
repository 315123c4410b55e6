//! Reads the topic in one pass: the expected line of each record, and the last state of each key.
//!
//! Records after the span's end are left to the next run. For a key that was written to after the cut, each of these
//! records adds a hash.
//!
//! A pass keeps its share of the records (by their offsets), of the keys, and of the changes (by their places in the
//! source), 26 bytes a record and change and 90 to 170 a key, whatever the rows hold. Keys are known by hashes of 128 bits, rows and
//! lines by hashes of 64, which are only compared with those of the same key or record.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use model::change::{Op, SOURCE_HEADER, Source};
use model::error::Result;
use rdkafka::Message as _;
use rdkafka::message::BorrowedMessage;
use runtime::config::KafkaSettings;

use crate::contract::{Contract, KeyHash};
use crate::cut::Cut;
use crate::elsewhere::Elsewhere;
use crate::findings::{Check, Finding, Findings};
use crate::line;
use crate::partitioner::partition_of;
use crate::pass::{KeyMap, Pass, bytes_of};
use crate::place::{Place, Places};
use crate::reading::{Change, Reader};
use crate::recent::{Match, Recent};
use crate::span::Span;
use crate::status::Status;

/// The outcome for a record.
pub(crate) type Fate = u16;
/// In no log yet.
pub(crate) const UNSEEN: Fate = 0;
/// A rule filters the record out of the logs.
pub(crate) const FILTERED: Fate = Fate::MAX;
/// The record can't be read, so it must be a dead letter.
pub(crate) const UNREADABLE: Fate = Fate::MAX - 1;
/// The record is a dead letter.
pub(crate) const PARKED: Fate = Fate::MAX - 2;
/// Values from 1 to this one are the number of a log.
pub(crate) const LAST_LOG: Fate = Fate::MAX - 3;

/// The pass's records of one partition, in the order of their offsets.
#[derive(Debug, Default)]
pub(crate) struct Partition {
    pub(crate) offsets: Vec<i64>,
    /// Hashes of the records' expected lines.
    pub(crate) lines: Vec<u64>,
    pub(crate) fates: Vec<Fate>,
    /// The number of records.
    pub(crate) count: u64,
    /// The last offset of all records.
    pub(crate) last: Option<i64>,
}

/// Bytes of a record in [`Partition`].
const RECORD: usize = size_of::<i64>() + size_of::<u64>() + size_of::<Fate>();

/// The last state of one key.
#[derive(Debug)]
pub(crate) struct Key {
    /// Hash of its row; `None` when it is deleted.
    pub(crate) state: Option<u64>,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// The table has the key too.
    pub(crate) in_table: bool,
    pub(crate) epoch: u64,
    pub(crate) row: u64,
    pub(crate) place: Option<Place>,
}

/// A dead letter of a row that the producer could not carry.
#[derive(Debug)]
pub(crate) struct RowLetter {
    pub(crate) epoch: u64,
    pub(crate) place: Option<Place>,
    pub(crate) row: u64,
    /// Hash of the texts in its value.
    pub(crate) texts: u64,
    /// The row's text is too large for a record.
    pub(crate) is_large: bool,
}

/// The contents of the topic: a pass's share of them.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) pass: Pass,
    pub(crate) partitions: Vec<Partition>,
    pub(crate) keys: KeyMap<Key>,
    pub(crate) epochs: BTreeSet<u64>,
    /// Snapshot, create, update, delete.
    pub(crate) ops: [u64; 4],
    pub(crate) filtered: u64,
    pub(crate) dead_letters: u64,
    /// Dead letters of rows that the producer could not carry.
    pub(crate) refused_rows: u64,
    /// Partition and offset of the records that PostgreSQL does not store.
    pub(crate) parked: HashSet<(i32, i64)>,
    /// The last parked record of each key.
    pub(crate) last_parked: HashMap<KeyHash, (i32, i64)>,
    /// The last dead letter of each row that the producer could not carry.
    pub(crate) refused: HashMap<KeyHash, RowLetter>,
    /// Hashes of (epoch, position, row) of all these dead letters.
    pub(crate) refused_at: HashSet<u64>,
    /// Dead letters may have expired.
    pub(crate) letters_expired: bool,
    /// Keys that were written to after the cut.
    recent: HashMap<KeyHash, Recent>,
    /// Compaction may have removed older records of a key.
    compacted: bool,
    /// Why records can't be read, for the first of them.
    unreadable: HashMap<(i32, i64), String>,
    /// Hashes of (epoch, position, row).
    positions: Vec<u64>,
    pub(crate) places: Places,
}

/// The share of a pass that a record belongs to.
struct Takes {
    record: bool,
    key: bool,
    change: bool,
}

impl Takes {
    fn of(pass: &Pass, message: &BorrowedMessage<'_>) -> Self {
        if pass.is_only() {
            return Self { record: true, key: true, change: true };
        }
        let key = message.key().and_then(|key| std::str::from_utf8(key).ok());
        let source = kafka::header(message, SOURCE_HEADER).and_then(|header| Source::parse(header).ok());
        Self {
            record: pass.has_record(message.partition(), message.offset()),
            key: key.is_some_and(|key| pass.has_key(KeyHash::of(key))),
            change: source.is_some_and(|source| pass.has_change(source_hash(&source))),
        }
    }
}

/// The progress of the consumers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Consumed {
    /// The records that they have not read yet, as text; `None` when there are none.
    pub(crate) missing: Option<String>,
    /// The group's offset of each partition, where it has one.
    pub(crate) next: Vec<Option<i64>>,
}

impl Consumed {
    /// Whether the group has certainly not read this record.
    pub(crate) fn is_behind(&self, partition: usize, offset: i64) -> bool {
        self.missing.is_some() && self.next.get(partition).copied().flatten().is_some_and(|next| offset >= next)
    }
}

/// The hash of a change's place in the source.
pub(crate) fn source_hash(source: &Source<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (source.epoch, &*source.pos, source.row).hash(&mut hasher);
    hasher.finish()
}

impl Topic {
    fn new(pass: &Pass, settings: &KafkaSettings, partitions: usize) -> Self {
        let mut topic = Self {
            pass: pass.clone(),
            partitions: Vec::new(),
            keys: KeyMap::default(),
            epochs: BTreeSet::new(),
            ops: [0; 4],
            filtered: 0,
            dead_letters: 0,
            refused_rows: 0,
            parked: HashSet::new(),
            last_parked: HashMap::new(),
            refused: HashMap::new(),
            refused_at: HashSet::new(),
            letters_expired: false,
            recent: HashMap::new(),
            compacted: settings.cleanup_policy.contains("compact"),
            unreadable: HashMap::new(),
            positions: Vec::new(),
            places: Places::default(),
        };
        topic.partitions.resize_with(partitions, Partition::default);
        topic
    }

    /// Reads the pass's share of the topic within the span. Blocks.
    ///
    /// # Errors
    /// Transient when Kafka or the registry can't be reached; definite when one of them refuses; as [`Pass::check`].
    pub(crate) fn read(
        settings: &KafkaSettings,
        span: &Span,
        cut: &Cut,
        reader: &mut Reader,
        pass: &Pass,
        findings: &mut Findings,
    ) -> Result<Self> {
        let mut topic = Self::new(pass, settings, span.end.len());
        let mut status = Status::new(&pass.label, "records read");
        let mut records = 0;
        kafka::scan(settings, &settings.topic, &mut |message| {
            if span.is_later(message.partition(), message.offset()) {
                return Ok(());
            }
            status.one_more();
            records += 1;
            pass.look(records, || topic.bytes())?;
            topic.take(message, cut, reader, findings)
        })?;
        pass.check(topic.bytes())?;
        Ok(topic)
    }

    /// Takes what the pass has of a record.
    fn take(
        &mut self,
        message: &BorrowedMessage<'_>,
        cut: &Cut,
        reader: &mut Reader,
        findings: &mut Findings,
    ) -> Result<()> {
        let (partition, offset) = (message.partition(), message.offset());
        self.partitions[partition as usize].last = Some(offset);
        let takes = Takes::of(&self.pass, message);
        if !(takes.record || takes.key || takes.change) {
            return Ok(());
        }
        let mut hash = 0;
        let contract = Arc::clone(&reader.contract);
        let fate = match reader.read(message)? {
            Ok(change) => {
                if takes.change {
                    self.positions.push(source_hash(&change.source));
                }
                if takes.key {
                    self.note(&change, (partition, offset), &contract, cut, findings);
                }
                match takes.record.then(|| change.line(&contract, partition, offset)).flatten() {
                    Some(line) => {
                        hash = line::parse(line.as_bytes(), &reader.floats).map_or(0, |line| line.hash);
                        UNSEEN
                    }
                    None => FILTERED,
                }
            }
            Err(reason) => {
                if takes.record && self.unreadable.len() < 1000 {
                    self.unreadable.insert((partition, offset), reason);
                }
                UNREADABLE
            }
        };
        if !takes.record {
            return Ok(());
        }
        self.filtered += u64::from(fate == FILTERED);
        let records = &mut self.partitions[partition as usize];
        records.offsets.push(offset);
        records.lines.push(hash);
        records.fates.push(fate);
        records.count += 1;
        Ok(())
    }

    /// An estimate of the bytes for so many records and keys.
    pub(crate) fn bytes_of(records: u64, keys: u64) -> u64 {
        records * (RECORD + size_of::<u64>()) as u64 + KeyMap::<Key>::bytes_for(keys)
    }

    /// The bytes of everything that grows with the topic.
    pub(crate) fn bytes(&self) -> usize {
        // With the text of a key and some states of it.
        const RECENT: usize = 80;
        let records: usize = self.partitions.iter().map(|records| records.offsets.len()).sum();
        records * RECORD
            + self.positions.len() * size_of::<u64>()
            + self.keys.bytes()
            + bytes_of(&self.recent)
            + self.recent.len() * RECENT
            + bytes_of(&self.last_parked)
            + bytes_of(&self.refused)
            + (self.parked.len() + self.refused_at.len()) * 2 * size_of::<(i32, i64)>()
    }

    /// Frees the memory of the records, when their lines have been compared.
    pub(crate) fn drop_records(&mut self) {
        for records in &mut self.partitions {
            (records.offsets, records.lines, records.fates) = Default::default();
        }
    }

    fn note(
        &mut self,
        change: &Change<'_>,
        (partition, offset): (i32, i64),
        contract: &Contract,
        cut: &Cut,
        findings: &mut Findings,
    ) {
        let source = &change.source;
        let (key, hash) = (change.key, change.hash);
        let right = self.home(key);
        if right != partition as usize {
            findings.add(Check::Partition, || {
                let text = format!("the record belongs into partition {right}, but it is in {partition}");
                Finding::new(Check::Partition, text).key(key).at(partition, offset)
            });
        }
        self.epochs.insert(source.epoch);
        self.ops[match source.op {
            Op::Snapshot => 0,
            Op::Create => 1,
            Op::Update => 2,
            Op::Delete => 3,
        }] += 1;
        let place = self.places.place(&source.pos, source.op);
        if place.is_none() {
            findings.add(Check::Order, || {
                let text = format!("the position {:?} is of no known form", source.pos);
                Finding::new(Check::Order, text).key(key).at(partition, offset)
            });
        }
        let state = change.state(contract);
        let (epoch, row) = (source.epoch, source.row);
        let new = Key { state, partition, offset, in_table: false, epoch, row, place };
        let old = self.keys.insert(hash, new);
        self.remember(change, old.as_ref().map(|old| old.state), place, cut);
        if let Some(old) = old
            && let Some(reason) =
                self.places.disorder((old.epoch, old.place.as_ref(), old.row), (epoch, place.as_ref(), row))
        {
            findings.add(Check::Order, || {
                let text =
                    format!("{reason} of the record before it (partition {}, offset {})", old.partition, old.offset);
                Finding::new(Check::Order, text).key(key).at(partition, offset)
            });
        }
    }

    /// Keeps the states of a key since the cut.
    fn remember(&mut self, change: &Change<'_>, old: Option<Option<u64>>, place: Option<Place>, cut: &Cut) {
        let hash = change.hash;
        let Some(place) = place.filter(|place| cut.is_after_low(&self.places, *place)) else {
            // A replay repeats the changes from before the cut, and then those after it.
            self.recent.remove(&hash);
            return;
        };
        let compacted = self.compacted;
        match self.recent.entry(hash) {
            Entry::Occupied(mut recent) => recent.get_mut().push(old.flatten()),
            Entry::Vacant(vacant) => drop(vacant.insert(Recent::new(change.key, old, compacted))),
        }
        if change.source.op == Op::Snapshot || matches!(place, Place::Contains(_)) {
            self.recent.entry(hash).and_modify(Recent::passed_by_snapshot);
        }
    }

    /// Whether the key was written to after the cut, by changes that the server has made.
    pub(crate) fn recent(&self, key: KeyHash, cut: &Cut) -> Option<&Recent> {
        let place = self.keys.get(&key)?.place?;
        self.recent.get(&key).filter(|_| cut.is_recent(&self.places, place))
    }

    /// The keys for which [`Topic::recent`] is `Some`, in the order of their texts.
    pub(crate) fn recent_keys(&self, cut: &Cut) -> Vec<(KeyHash, String)> {
        let is_recent = |(hash, _): &(&KeyHash, &Recent)| self.recent(**hash, cut).is_some();
        let keys = self.recent.iter().filter(is_recent).map(|(hash, recent)| (*hash, recent.key.clone()));
        let mut keys: Vec<(KeyHash, String)> = keys.collect();
        keys.sort_by(|a, b| a.1.cmp(&b.1));
        keys
    }

    /// Whether the records allow the table's row (`None`: there is no row); `home` is the key's partition.
    pub(crate) fn judge(&self, key: KeyHash, home: usize, row: Option<u64>, cut: &Cut, span: &Span) -> Match {
        let may_have_expired = span.has_expired(home);
        match self.keys.get(&key) {
            None if row.is_none() => Match::Equal,
            None if may_have_expired => Match::Expired,
            None => Match::Different,
            Some(last) if last.state == row => Match::Equal,
            Some(_) => self.recent(key, cut).map_or(Match::Different, |recent| recent.judge(row, may_have_expired)),
        }
    }

    /// The partition of a key.
    pub(crate) fn home(&self, key: &str) -> usize {
        partition_of(key.as_bytes(), self.partitions.len())
    }

    /// The number of records of a partition from `next` on; an estimate by the pass's share of them.
    pub(crate) fn unread(&self, partition: usize, next: Option<i64>) -> u64 {
        // The end of a partition counts transaction markers, so compare with the last record.
        let records = &self.partitions[partition];
        if next.zip(records.last).is_some_and(|(next, last)| next > last) || records.last.is_none() {
            return 0;
        }
        let read = records.offsets.partition_point(|offset| next.is_some_and(|next| *offset < next));
        self.pass.of_all((records.offsets.len() - read) as u64).max(1)
    }

    /// Whether some record is in no log.
    pub(crate) fn misses_lines(&self) -> bool {
        self.partitions.iter().any(|p| p.fates.contains(&UNSEEN))
    }

    /// Reports records that are in no log, except those that the consumers have not read yet; returns the number of the
    /// latter.
    pub(crate) fn report_missing(&self, consumed: &Consumed, elsewhere: &Elsewhere, findings: &mut Findings) -> u64 {
        let mut behind = 0;
        for (partition, records) in self.partitions.iter().enumerate() {
            let index = partition;
            let partition = partition as i32;
            for (offset, fate) in records.offsets.iter().zip(&records.fates) {
                match *fate {
                    UNSEEN | UNREADABLE if consumed.is_behind(index, *offset) => behind += 1,
                    UNSEEN if elsewhere.may_have(partition, *offset) => findings.add(Check::Elsewhere, || {
                        let text =
                            format!("the record may be in a logs folder that was not given: {}", elsewhere.describe());
                        Finding::new(Check::Elsewhere, text).at(partition, *offset)
                    }),
                    UNSEEN => findings.add(Check::Lost, || {
                        Finding::new(Check::Lost, "the record is in no log").at(partition, *offset)
                    }),
                    UNREADABLE => findings.add(Check::Unreadable, || {
                        let reason = self.unreadable.get(&(partition, *offset));
                        let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
                        let text = format!("the record can't be read and is no dead letter{reason}");
                        Finding::new(Check::Unreadable, text).at(partition, *offset)
                    }),
                    _ => {}
                }
            }
        }
        behind
    }

    /// Finds the changes that are in the topic more than once: their hashes, in order. Frees the memory of the others.
    pub(crate) fn repeated(&mut self) -> Vec<u64> {
        let mut positions = std::mem::take(&mut self.positions);
        positions.sort_unstable();
        positions.windows(2).filter(|w| w[0] == w[1]).map(|w| w[0]).collect()
    }
}
