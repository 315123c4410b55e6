//! Reads the topic in one pass: the expected line of each record, and the last state of each key.
//!
//! Records after the span's end are left to the next run. For a key that was written to after the cut, each of these
//! records adds a hash.
//!
//! Memory: 26 bytes a record (offset, hash of its line, hash of its place in the source, and the number of its log) and
//! about 90 a key, up to twice that while the tables have room to grow; 1.4 million records of 460,000 keys took 217 MB
//! with all clients. Hashes have 64 bits: among a million records, two are equal by accident once in 40 million runs,
//! and [`crate::explain`] compares the text of those.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Instant;

use model::change::{Op, Source};
use model::error::Result;
use model::product::Product;
use mysql::refused_row::{Letters, TOO_LARGE};
use rdkafka::Message as _;
use rules::transform::Rules;
use runtime::config::KafkaSettings;

use crate::arrival::Consumed;
use crate::cut::Cut;
use crate::elsewhere::Elsewhere;
use crate::findings::{Check, Finding, Findings};
use crate::partitioner::partition_of;
use crate::place::{Place, Places};
use crate::reading::{Change, DeadLetter, Reader};
use crate::recent::{Match, Recent};
use crate::span::{Bounds, Span};
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
    /// Hash of its Avro value; `None` when the product is deleted.
    pub(crate) state: Option<u64>,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// The table has the key too.
    pub(crate) in_table: bool,
    epoch: u64,
    row: u64,
    place: Option<Place>,
}

/// A dead letter of a row that the producer could not carry.
#[derive(Debug)]
struct RowLetter {
    epoch: u64,
    place: Option<Place>,
    row: u64,
    /// Hash of its value.
    value: u64,
    /// Hash of name and category, where the row's text is too large for a record.
    large: Option<u64>,
}

/// The texts of a dead letter's value.
#[derive(serde::Deserialize)]
struct Texts<'a> {
    #[serde(borrow)]
    name: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow)]
    category: Option<std::borrow::Cow<'a, str>>,
}

fn texts_hash(name: Option<&str>, category: Option<&str>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (name, category).hash(&mut hasher);
    hasher.finish()
}

/// The contents of the topic.
#[derive(Debug, Default)]
pub(crate) struct Topic {
    pub(crate) partitions: Vec<Partition>,
    pub(crate) keys: HashMap<i64, Key>,
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
    last_parked: HashMap<i64, (i32, i64)>,
    /// The last dead letter of each row that the producer could not carry.
    refused: HashMap<i128, RowLetter>,
    /// Hashes of (epoch, position, row) of all these dead letters.
    refused_at: HashSet<u64>,
    /// Dead letters may have expired.
    letters_expired: bool,
    /// Keys that were written to after the cut.
    recent: HashMap<i64, Recent>,
    /// Compaction may have removed older records of a key.
    compacted: bool,
    /// Why records can't be read, for the first of them.
    unreadable: HashMap<(i32, i64), String>,
    /// Hashes of (epoch, position, row).
    positions: Vec<u64>,
    places: Places,
    scratch: Vec<u8>,
}

pub(crate) fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// The hash of a product's state.
pub(crate) fn state_hash(product: &Product<'_>, scratch: &mut Vec<u8>) -> u64 {
    scratch.clear();
    avro::encode_value(product, scratch);
    hash(scratch)
}

pub(crate) fn position_hash(change: &Change<'_>) -> u64 {
    source_hash(&change.source)
}

fn source_hash(source: &Source<'_>) -> u64 {
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
        rules: &Rules,
        reader: &mut Reader,
        findings: &mut Findings,
    ) -> Result<Self> {
        let mut topic = Self { compacted: settings.cleanup_policy.contains("compact"), ..Self::default() };
        topic.partitions.resize_with(span.end.len(), Partition::default);
        let (mut line, mut status) = (Vec::new(), Status::new("records read"));
        kafka::scan(settings, &settings.topic, &mut |message| {
            let (partition, offset) = (message.partition(), message.offset());
            if span.is_later(partition, offset) {
                return Ok(());
            }
            let index = partition as usize;
            line.clear();
            let fate = match reader.read(message)? {
                Ok(change) => {
                    let written = change.line(rules, partition, offset, &mut line);
                    topic.note(&change, (partition, offset), message.key().unwrap_or_default(), cut, findings);
                    if written { UNSEEN } else { FILTERED }
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
            records.lines.push(hash(&line));
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
        key: &[u8],
        cut: &Cut,
        findings: &mut Findings,
    ) {
        let source = &change.source;
        let id = change.id;
        let right = partition_of(key, self.partitions.len());
        if right != partition as usize {
            findings.add(Check::Partition, || {
                let text = format!("the record belongs into partition {right}, but it is in {partition}");
                Finding::new(Check::Partition, text).key(id).at(partition, offset)
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
                Finding::new(Check::Order, text).key(id).at(partition, offset)
            });
        }
        let state = change.product.as_ref().map(|p| state_hash(p, &mut self.scratch));
        let (epoch, row) = (source.epoch, source.row);
        let new = Key { state, partition, offset, in_table: false, epoch, row, place };
        let old = self.keys.insert(id, new);
        self.remember(id, old.as_ref().map(|old| old.state), source.op, place, cut);
        if let Some(old) = old
            && let Some(reason) =
                self.places.disorder((old.epoch, old.place.as_ref(), old.row), (epoch, place.as_ref(), row))
        {
            findings.add(Check::Order, || {
                let text =
                    format!("{reason} of the record before it (partition {}, offset {})", old.partition, old.offset);
                Finding::new(Check::Order, text).key(id).at(partition, offset)
            });
        }
    }

    /// Keeps the states of a key since the cut.
    fn remember(&mut self, id: i64, old: Option<Option<u64>>, op: Op, place: Option<Place>, cut: &Cut) {
        let Some(place) = place.filter(|place| cut.is_after_low(&self.places, *place)) else {
            // A replay repeats the changes from before the cut, and then those after it.
            self.recent.remove(&id);
            return;
        };
        let compacted = self.compacted;
        match self.recent.entry(id) {
            Entry::Occupied(mut recent) => recent.get_mut().push(old.flatten()),
            Entry::Vacant(vacant) => drop(vacant.insert(Recent::new(old, compacted))),
        }
        if op == Op::Snapshot || matches!(place, Place::Contains(_)) {
            self.recent.entry(id).and_modify(Recent::passed_by_snapshot);
        }
    }

    /// Whether the key was written to after the cut, by changes that the server has made.
    pub(crate) fn recent(&self, id: i64, cut: &Cut) -> Option<&Recent> {
        let place = self.keys.get(&id)?.place?;
        self.recent.get(&id).filter(|_| cut.is_recent(&self.places, place))
    }

    /// The keys for which [`Topic::recent`] is `Some`.
    pub(crate) fn recent_keys(&self, cut: &Cut) -> Vec<i64> {
        let mut ids: Vec<i64> = self.recent.keys().copied().filter(|id| self.recent(*id, cut).is_some()).collect();
        ids.sort_unstable();
        ids
    }

    /// Whether the records allow the table's row (`None`: there is no row).
    pub(crate) fn judge(&self, id: i64, row: Option<u64>, cut: &Cut, span: &Span) -> Match {
        let may_have_expired = span.has_expired(self.home(id));
        match self.keys.get(&id) {
            None if row.is_none() => Match::Equal,
            None if may_have_expired => Match::Expired,
            None => Match::Different,
            Some(key) if key.state == row => Match::Equal,
            Some(_) => self.recent(id, cut).map_or(Match::Different, |recent| recent.judge(row, may_have_expired)),
        }
    }

    /// The partition of a key.
    pub(crate) fn home(&self, id: i64) -> usize {
        partition_of(id.to_string().as_bytes(), self.partitions.len())
    }

    /// Number of records.
    pub(crate) fn records(&self) -> usize {
        self.partitions.iter().map(|p| p.offsets.len()).sum()
    }

    /// Reads the dead letters. Blocks.
    ///
    /// # Errors
    /// Transient when Kafka can't be reached; definite when a dead letter has no readable origin.
    pub(crate) fn read_dead_letters(
        &mut self,
        settings: &KafkaSettings,
        deadline: Instant,
        findings: &mut Findings,
    ) -> Result<()> {
        let topic = format!("{}.dlq", settings.topic);
        let Some(bounds) = Bounds::of(settings, &topic)? else { return Ok(()) };
        let (span, _) = bounds.settled(deadline)?;
        self.letters_expired = span.first.iter().any(|first| *first > 0);
        kafka::scan(settings, &topic, &mut |message| {
            let letter = DeadLetter::read(message)?;
            if letter.topic != settings.topic {
                return Ok(());
            }
            if letter.sink == "postgres" {
                self.take_parked(&letter, findings);
                return Ok(());
            }
            if let Some((id, source)) = letter.of_row(message)? {
                let place = self.places.place(&source.pos, source.op);
                let value = hash(message.payload().unwrap_or_default());
                let texts: Option<Texts<'_>> = serde_json::from_slice(message.payload().unwrap_or_default()).ok();
                let large = texts.filter(|_| letter.reason.ends_with(TOO_LARGE));
                let large = large.map(|texts| texts_hash(texts.name.as_deref(), texts.category.as_deref()));
                self.refused.insert(id, RowLetter { epoch: source.epoch, place, row: source.row, value, large });
                self.refused_rows += 1;
                if !self.refused_at.insert(source_hash(&source)) {
                    findings.add(Check::Doubled, || {
                        let text = format!(
                            "the change {} row {} of epoch {} of the row {id} is parked twice",
                            source.pos, source.row, source.epoch
                        );
                        Finding::new(Check::Doubled, text)
                    });
                }
                return Ok(());
            }
            let records = usize::try_from(letter.partition).ok().and_then(|i| self.partitions.get_mut(i));
            let Some(records) = records else { return Ok(()) };
            // A record that is not found may have expired.
            let Ok(i) = records.offsets.binary_search(&letter.offset) else { return Ok(()) };
            if records.fates[i] == PARKED {
                findings.add(Check::Doubled, || {
                    Finding::new(Check::Doubled, "the record is a dead letter twice")
                        .at(letter.partition, letter.offset)
                });
            } else {
                self.dead_letters += 1;
            }
            if matches!(records.fates[i], UNSEEN | FILTERED) {
                findings.add(Check::Parked, || {
                    let text = format!("it can be read, but it is a dead letter: {}", letter.reason);
                    Finding::new(Check::Parked, text).at(letter.partition, letter.offset)
                });
            }
            records.fates[i] = PARKED;
            Ok(())
        })?;
        Ok(())
    }

    /// Counts a dead letter of a record that PostgreSQL does not store; the record's line is in a log all the same.
    fn take_parked(&mut self, letter: &DeadLetter, findings: &mut Findings) {
        let place = (letter.partition, letter.offset);
        if !self.parked.insert(place) {
            findings.add(Check::Doubled, || {
                let text = "the record is parked for PostgreSQL twice";
                Finding::new(Check::Doubled, text).key(letter.key).at(letter.partition, letter.offset)
            });
        }
        let last = self.last_parked.entry(letter.key).or_insert(place);
        *last = place.max(*last);
    }

    /// Whether the key's last state or a later one is parked, so that PostgreSQL has an older row or none: `stored` is
    /// the record of its row.
    pub(crate) fn is_parked(&self, id: i64, stored: Option<(i32, i64)>) -> bool {
        let (Some(key), Some((partition, offset))) = (self.keys.get(&id), self.last_parked.get(&id)) else {
            return false;
        };
        let older = stored.is_none_or(|(p, o)| p != *partition || o < *offset);
        older && *partition == key.partition && *offset >= key.offset
    }

    /// Marks a row of the table that can't be carried. Its last dead letter must have the value with this hash; returns
    /// the error text if it has not.
    pub(crate) fn judge_refused(&mut self, id: i128, value: u64, cut: &Cut) -> Option<&'static str> {
        let recent = i64::try_from(id).ok().filter(|id| self.recent(*id, cut).is_some());
        if let Some(key) = i64::try_from(id).ok().and_then(|id| self.keys.get_mut(&id)) {
            key.in_table = true;
        }
        let Some(letter) = self.refused.get(&id) else {
            // Carried again since, or its dead letter may have expired.
            let missing = "the row can't be carried, and no dead letter tells of it; to write one: `cdc-producer checkpoint reset`";
            return (recent.is_none() && !self.letters_expired).then_some(missing);
        };
        if recent.is_some() || letter.place.is_some_and(|place| cut.is_after_low(&self.places, place)) {
            return None;
        }
        if letter.value != value {
            return Some("the row can't be carried, and its last dead letter tells of another state");
        }
        // A new epoch deletes a product whose row it could not carry.
        let key = i64::try_from(id).ok().and_then(|id| self.keys.get(&id)).filter(|key| key.state.is_some())?;
        let last = (key.epoch, key.place.as_ref(), key.row);
        let order = self.places.disorder(last, (letter.epoch, letter.place.as_ref(), letter.row));
        order.map(|_| "the row can't be carried, and its last dead letter is older than its last record")
    }

    /// Whether the row's last dead letter says that its text is too large for a record. The limit is the producer's: this program
    /// may be given another one, and the producer may have had another one before.
    pub(crate) fn is_too_large(&self, product: &Product<'_>, letters: &Letters) -> bool {
        let shown = |text: Option<&str>| text.map(|text| letters.shown(text));
        self.refused.get(&product.id.into()).is_some_and(|letter| {
            letter.large == Some(texts_hash(shown(product.name).as_deref(), shown(product.category).as_deref()))
        })
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
