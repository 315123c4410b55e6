//! Reads the topic in one pass: the expected line of each record, and the last state of each key.
//!
//! Records after the span's end are left to the next run. For a key that was written to after the cut, each of these
//! records adds a hash.
//!
//! Memory: 26 bytes a record (offset, hash of its line, hash of its place in the source, and the number of its log) and
//! about 110 a key, whatever the rows hold, up to twice that while the tables have room to grow. Keys are known by hashes
//! of 128 bits, rows and lines by hashes of 64, which are only compared with those of the same key or record.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use model::change::{Op, Source};
use model::error::Result;
use rdkafka::Message as _;
use runtime::config::KafkaSettings;

use crate::contract::{Contract, KeyHash};
use crate::cut::Cut;
use crate::elsewhere::Elsewhere;
use crate::findings::{Check, Finding, Findings};
use crate::line;
use crate::partitioner::partition_of;
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

/// The records of one partition, in the order of their offsets.
#[derive(Debug, Default)]
pub(crate) struct Partition {
    pub(crate) offsets: Vec<i64>,
    /// Hashes of the records' expected lines.
    pub(crate) lines: Vec<u64>,
    pub(crate) fates: Vec<Fate>,
}

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

/// The contents of the topic.
#[derive(Debug, Default)]
pub(crate) struct Topic {
    pub(crate) partitions: Vec<Partition>,
    pub(crate) keys: HashMap<KeyHash, Key>,
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

/// The progress of the consumers.
#[derive(Debug, Default)]
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

pub(crate) fn position_hash(change: &Change<'_>) -> u64 {
    source_hash(&change.source)
}

pub(crate) fn source_hash(source: &Source<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (source.epoch, &*source.pos, source.row).hash(&mut hasher);
    hasher.finish()
}

impl Topic {
    /// Reads the topic within the span. Blocks.
    ///
    /// # Errors
    /// Transient when Kafka or the registry can't be reached; definite when one of them refuses.
    pub(crate) fn read(
        settings: &KafkaSettings,
        span: &Span,
        cut: &Cut,
        reader: &mut Reader,
        findings: &mut Findings,
    ) -> Result<Self> {
        let mut topic = Self { compacted: settings.cleanup_policy.contains("compact"), ..Self::default() };
        topic.partitions.resize_with(span.end.len(), Partition::default);
        let contract = Arc::clone(&reader.contract);
        let mut status = Status::new("records read");
        kafka::scan(settings, &settings.topic, &mut |message| {
            let (partition, offset) = (message.partition(), message.offset());
            if span.is_later(partition, offset) {
                return Ok(());
            }
            let index = partition as usize;
            let mut hash = 0;
            let fate = match reader.read(message)? {
                Ok(change) => {
                    topic.note(&change, (partition, offset), &contract, cut, findings);
                    match change.line(&contract, partition, offset) {
                        Some(line) => {
                            hash = line::parse(line.as_bytes(), &reader.floats).map_or(0, |line| line.hash);
                            UNSEEN
                        }
                        None => FILTERED,
                    }
                }
                Err(reason) => {
                    if topic.unreadable.len() < 1000 {
                        topic.unreadable.insert((partition, offset), reason);
                    }
                    UNREADABLE
                }
            };
            topic.filtered += u64::from(fate == FILTERED);
            let records = &mut topic.partitions[index];
            records.offsets.push(offset);
            records.lines.push(hash);
            records.fates.push(fate);
            status.one_more();
            Ok(())
        })?;
        Ok(topic)
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
        self.positions.push(position_hash(change));
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

    /// Number of records.
    pub(crate) fn records(&self) -> usize {
        self.partitions.iter().map(|p| p.offsets.len()).sum()
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
                        let reason = self.unreadable.get(&(partition, *offset)).map_or("", String::as_str);
                        let text = format!("the record can't be read and is no dead letter: {reason}");
                        Finding::new(Check::Unreadable, text).at(partition, *offset)
                    }),
                    _ => {}
                }
            }
        }
        behind
    }

    /// Finds places of the source that are in the topic twice, and frees the memory of the hashes.
    pub(crate) fn repeated(&mut self) -> Vec<u64> {
        let mut positions = std::mem::take(&mut self.positions);
        positions.sort_unstable();
        let mut repeated: Vec<u64> = positions.windows(2).filter(|w| w[0] == w[1]).map(|w| w[0]).collect();
        repeated.dedup();
        repeated
    }
}
