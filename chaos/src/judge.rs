//! Checks that the topics of all tables have every change of the ledger exactly once and in order.
//!
//! Within an epoch each key has a cursor into its list of changes. A streamed record must be exactly the next change;
//! when the epoch began with a snapshot, the first record may be any change. A snapshot's record must be the state at
//! the cursor. A record of a delete has no token, so after an epoch's beginning it may be any delete; the next record
//! shows which. At the end each key's cursor must be behind its last change, and each change must have been streamed
//! once in an epoch, unless it was committed while only a snapshot could show it.
//!
//! All changes of a transaction have one position in the source, whatever table and topic they are of.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::ops::Range;

use model::change::{Op, SOURCE_HEADER, Source};
use model::position::RecordPosition;
use rdkafka::Message;
use testbed::TestBed;

use super::ledger::{Change, Kind, Ledger, Row};
use super::table::{Table, token_of};

/// The number of findings with a description.
const DESCRIBED: usize = 20;

/// The result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Committed changes that the topic does not have.
    pub lost: u64,
    /// Changes that one epoch has more than once.
    pub doubled: u64,
    /// Changes after a later one of their key.
    pub out_of_order: u64,
    /// Records that are no committed change, or have other values.
    pub wrong: u64,
    /// Changes with another position than others of their transaction, in the same topic or in another.
    pub torn: u64,
    /// Records that were checked.
    pub records: u64,
    /// Descriptions of the first findings.
    pub findings: Vec<String>,
}

impl Verdict {
    /// Whether nothing was found.
    pub fn is_clean(&self) -> bool {
        [self.lost, self.doubled, self.out_of_order, self.wrong, self.torn] == [0; 5]
    }
}

/// Compares the committed records of the topics with the ledger.
///
/// # Errors
/// When Kafka can't be read.
pub fn judge(ledger: &Ledger, bed: &TestBed) -> anyhow::Result<Verdict> {
    let mut judge = Judge::new(ledger);
    for (number, table) in ledger.tables.iter().enumerate() {
        let settings = bed.kafka_of(&table.name);
        kafka::scan(&settings, &settings.topic, &mut |message| {
            let place = format!("{}, partition {}, offset {}", table.name, message.partition(), message.offset());
            // Records of a foreign producer have no header; `verify` checks them.
            let source = kafka::header(message, SOURCE_HEADER).and_then(|header| Source::parse(header).ok());
            if let (Some(source), Some(key)) = (source, message.key()) {
                judge.record(number, key, &source, message.payload(), &place);
            }
            Ok(())
        })?;
    }
    Ok(judge.conclude())
}

/// The position of an epoch in a key's changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cursor {
    /// No record seen yet; any change may follow.
    Unset,
    /// This change comes next.
    Next(usize),
    /// After a delete, which is this change or a later one: the last one before the next record, unless the stream
    /// `omits` changes. A streamed one has the hash of its position.
    SomeDelete { from: usize, streamed: Option<u64>, omits: bool },
}

/// What the ledger has noted about an epoch of a table.
#[derive(Clone, Copy, Debug)]
struct Epoch {
    /// It repeats everything from this transaction on.
    replay: Option<u32>,
    /// The snapshots within it, beside the one that it may begin with.
    more_snapshots: u32,
}

struct Key {
    epoch: u64,
    cursor: Cursor,
    /// The first change of the key in this epoch.
    first: usize,
    /// The number of snapshots' records of the key in this epoch.
    snapshots: u32,
    /// Changes that this epoch has skipped.
    holes: Vec<usize>,
    /// Changes that any epoch has streamed.
    streamed: Vec<bool>,
    /// Changes that an epoch has skipped for good.
    passed: Vec<usize>,
    /// Streamed deletes that no record identifies.
    unknown_deletes: usize,
    /// Streamed deletes that are one of these changes: the epoch and the hash of the position of each.
    ambiguous: Vec<(u64, u64, Range<usize>)>,
}

struct Judge<'a> {
    ledger: &'a Ledger,
    /// By table, the ids of the rows by their keys in the topic.
    ids: Vec<HashMap<String, i64>>,
    keys: HashMap<Row, Key>,
    /// The position of each transaction in each epoch, as a hash.
    positions: HashMap<(u64, u64), u64>,
    verdict: Verdict,
    last_epoch: u64,
}

/// The error of a record.
enum Fault {
    Doubled,
    OutOfOrder,
    Torn,
    Wrong(&'static str),
}

impl<'a> Judge<'a> {
    fn new(ledger: &'a Ledger) -> Self {
        let mut ids = vec![HashMap::new(); ledger.tables.len()];
        for row in ledger.rows.keys() {
            ids[row.table].insert(ledger.tables[row.table].key_text(row.id), row.id);
        }
        let (keys, positions) = (HashMap::new(), HashMap::new());
        Self { ledger, ids, keys, positions, verdict: Verdict::default(), last_epoch: 0 }
    }

    fn record(&mut self, table: usize, key: &[u8], source: &Source<'_>, value: Option<&[u8]>, place: &str) {
        if self.ledger.tables[table].is_of_faults(key) {
            return;
        }
        self.verdict.records += 1;
        self.last_epoch = self.last_epoch.max(source.epoch);
        if source.op == Op::Delete && self.ledger.emptied.contains(&(table, source.epoch)) {
            return;
        }
        let id = std::str::from_utf8(key).ok().and_then(|key| self.ids[table].get(key));
        let outcome = match id {
            None => Err(Fault::Wrong("nobody wrote this key")),
            Some(id) => self.of_row(Row { table, id: *id }, source, value),
        };
        let (count, what) = match outcome {
            Ok(()) => return,
            Err(Fault::Doubled) => (&mut self.verdict.doubled, "doubled"),
            Err(Fault::OutOfOrder) => (&mut self.verdict.out_of_order, "out of order"),
            Err(Fault::Torn) => (&mut self.verdict.torn, "its transaction has another position"),
            Err(Fault::Wrong(why)) => (&mut self.verdict.wrong, why),
        };
        *count += 1;
        let (op, key) = (source.op.letter(), String::from_utf8_lossy(key));
        self.describe(|| format!("key {key}, {place}, op {op}, epoch {}, {}: {what}", source.epoch, source.pos));
    }

    fn of_row(&mut self, row: Row, source: &Source<'_>, value: Option<&[u8]>) -> Result<(), Fault> {
        let changes = &self.ledger.rows[&row];
        let epoch = Epoch {
            replay: self.ledger.replays.get(&source.epoch).copied(),
            more_snapshots: self.ledger.snapshots.get(&(row.table, source.epoch)).copied().unwrap_or(0),
        };
        let key = self.keys.entry(row).or_insert_with(|| Key::new(changes.len()));
        let position = BuildHasherDefault::<DefaultHasher>::default().hash_one(&source.pos);
        let streamed = key.take((&self.ledger.tables[row.table], row.id), changes, epoch, (source, position), value)?;
        let Some(index) = streamed else { return Ok(()) };
        let transaction = (source.epoch, changes[index].token.transaction());
        if *self.positions.entry(transaction).or_insert(position) == position { Ok(()) } else { Err(Fault::Torn) }
    }

    fn describe(&mut self, text: impl FnOnce() -> String) {
        if self.verdict.findings.len() < DESCRIBED {
            self.verdict.findings.push(text());
        }
    }

    fn conclude(mut self) -> Verdict {
        let rows: BTreeMap<Row, &Vec<Change>> = self.ledger.rows.iter().map(|(row, changes)| (*row, changes)).collect();
        let replay = self.ledger.replays.get(&self.last_epoch).copied();
        for (row, changes) in rows {
            let mut key = self.keys.remove(&row).unwrap_or_else(|| Key::new(changes.len()));
            if changes.last().is_some_and(|change| change.kind == Kind::Delete) {
                key.identify(changes, changes.len());
            }
            key.identify_by_positions(changes, &self.positions);
            let last_expired = changes.last().is_some_and(|change| self.ledger.may_have_expired(row, change));
            if key.epoch == 0 && last_expired {
                continue;
            }
            let lost = key.lost(row, changes, self.ledger, replay.filter(|_| key.epoch < self.last_epoch));
            self.verdict.lost += lost.len() as u64;
            if let Some(first) = lost.first() {
                let change = &changes[*first];
                let (text, kind, many) = (change.token.text(), change.kind, lost.len());
                let (index, all, epoch, cursor) = (first, changes.len(), key.epoch, key.cursor);
                let table = &self.ledger.tables[row.table];
                let (name, id) = (table.name.clone(), table.key_text(row.id));
                self.describe(|| {
                    format!(
                        "{name}, key {id}: {many} lost, the first is {text} ({kind:?}, {index} of {all}); \
                         epoch {epoch} ends at {cursor:?}"
                    )
                });
            }
        }
        self.verdict
    }
}

impl Key {
    fn new(changes: usize) -> Self {
        Self {
            epoch: 0,
            cursor: Cursor::Next(0),
            first: 0,
            snapshots: 0,
            holes: Vec::new(),
            streamed: vec![false; changes],
            passed: Vec::new(),
            unknown_deletes: 0,
            ambiguous: Vec::new(),
        }
    }

    /// Processes the next record of the key, whose position has this hash; returns the change that it streams, if that
    /// is known.
    fn take(
        &mut self,
        (table, id): (&Table, i64),
        changes: &[Change],
        epoch: Epoch,
        (source, position): (&Source<'_>, u64),
        value: Option<&[u8]>,
    ) -> Result<Option<usize>, Fault> {
        if source.epoch < self.epoch {
            return Err(Fault::OutOfOrder);
        }
        if source.epoch > self.epoch {
            self.passed.append(&mut self.holes);
            self.leave_unknown();
            self.epoch = source.epoch;
            self.snapshots = 0;
            (self.cursor, self.first) = match epoch.replay {
                Some(from) => {
                    let first = changes.partition_point(|change| change.at < from);
                    (Cursor::Next(first), first)
                }
                None => (Cursor::Unset, 0),
            };
        }
        match (source.op, value) {
            (Op::Delete, None) => {
                let snapshot = matches!(RecordPosition::parse(&source.pos, true), Some(RecordPosition::Contains(_)))
                    && RecordPosition::parse(&source.pos, false).is_none_or(|p| !matches!(p, RecordPosition::Gtid(..)));
                if snapshot { self.sweep(changes, epoch).map(|()| None) } else { self.delete(changes, position, epoch) }
            }
            (Op::Delete, Some(_)) => Err(Fault::Wrong("a delete with a value")),
            (_, None) => Err(Fault::Wrong("no value")),
            (op, Some(value)) => {
                let index = find(table, id, changes, value)?;
                match op {
                    Op::Snapshot => self.snapshot(index, epoch).map(|()| None),
                    _ => self.stream(changes, index, op).map(|()| Some(index)),
                }
            }
        }
    }

    /// Processes a streamed create or update.
    fn stream(&mut self, changes: &[Change], index: usize, op: Op) -> Result<(), Fault> {
        let kind = if op == Op::Create { Kind::Create } else { Kind::Update };
        if changes[index].kind != kind {
            return Err(Fault::Wrong("another op than what was committed"));
        }
        self.before(changes, index)?;
        self.streamed[index] = true;
        Ok(())
    }

    /// Processes a snapshot's record with the state after change `index`.
    fn snapshot(&mut self, index: usize, epoch: Epoch) -> Result<(), Fault> {
        self.snapshots += 1;
        if self.snapshots > 1 + epoch.more_snapshots {
            return Err(Fault::Doubled);
        }
        match self.cursor {
            Cursor::Unset => (self.cursor, self.first) = (Cursor::Next(index + 1), index + 1),
            Cursor::Next(next) if next > index + 1 => return Err(Fault::OutOfOrder),
            Cursor::Next(next) => {
                // Changes in between would have been streamed before.
                self.holes.extend(next..=index);
                self.cursor = Cursor::Next(index + 1);
            }
            Cursor::SomeDelete { from, .. } if index < from => return Err(Fault::OutOfOrder),
            Cursor::SomeDelete { .. } => {
                self.leave_unknown();
                self.holes.push(index);
                self.cursor = Cursor::Next(index + 1);
            }
        }
        Ok(())
    }

    /// Moves the cursor behind `index`, and records the skipped changes.
    fn before(&mut self, changes: &[Change], index: usize) -> Result<(), Fault> {
        match self.cursor {
            Cursor::Unset => self.first = index,
            Cursor::Next(next) if index < next => {
                let hole = self.holes.iter().position(|hole| *hole == index);
                if hole.is_none() && index >= self.first {
                    return Err(Fault::Doubled);
                }
                hole.map(|hole| self.holes.swap_remove(hole));
                self.streamed[index] = true;
                return Err(Fault::OutOfOrder);
            }
            Cursor::Next(next) => self.holes.extend(next..index),
            Cursor::SomeDelete { from, .. } => {
                let delete = (from..index).rfind(|earlier| changes[*earlier].kind == Kind::Delete);
                self.holes.extend(delete.ok_or(Fault::OutOfOrder)? + 1..index);
                self.identify(changes, index);
            }
        }
        self.cursor = Cursor::Next(index + 1);
        Ok(())
    }

    /// Processes a streamed delete; returns which one it is, if that is known already.
    fn delete(&mut self, changes: &[Change], position: u64, epoch: Epoch) -> Result<Option<usize>, Fault> {
        let mut deletes = (0..changes.len()).filter(|index| changes[*index].kind == Kind::Delete);
        // The stream of a table that is read again omits what was committed before that, also the row's creation
        // between two deletes.
        let omits = epoch.more_snapshots > 0;
        let from = match self.cursor {
            Cursor::Unset => deletes.next().ok_or(Fault::Wrong("it was never deleted"))?,
            Cursor::SomeDelete { streamed, .. } if !omits || streamed == Some(position) => return Err(Fault::Doubled),
            Cursor::SomeDelete { from, streamed, .. } => {
                let mut later = deletes.skip_while(|index| *index < from).skip(usize::from(streamed.is_some()));
                let from = later.next().ok_or(Fault::Doubled)?;
                self.leave_unknown();
                from
            }
            Cursor::Next(next) => {
                let seen = next.checked_sub(1).is_some_and(|last| changes[last].kind == Kind::Delete);
                let mut later = deletes.skip_while(|index| *index < next);
                let none = if seen { Fault::Doubled } else { Fault::Wrong("it was not deleted after that") };
                let index = later.next().ok_or(none)?;
                if !omits || later.next().is_none() {
                    self.holes.extend(next..index);
                    self.streamed[index] = true;
                    self.cursor = Cursor::Next(index + 1);
                    return Ok(Some(index));
                }
                index
            }
        };
        self.cursor = Cursor::SomeDelete { from, streamed: Some(position), omits };
        Ok(None)
    }

    /// Processes a delete of a snapshot: the table does not have a row that the topic has.
    fn sweep(&mut self, changes: &[Change], epoch: Epoch) -> Result<(), Fault> {
        let is_delete = |index: usize| changes.get(index).is_some_and(|change| change.kind == Kind::Delete);
        let from = match self.cursor {
            Cursor::SomeDelete { .. } => return Err(Fault::Doubled),
            Cursor::Unset => {
                (0..changes.len()).find(|index| is_delete(*index)).ok_or(Fault::Wrong("it was never deleted"))?
            }
            Cursor::Next(next) => {
                let omitted = (next..changes.len()).find(|index| is_delete(*index) && epoch.more_snapshots > 0);
                match omitted {
                    Some(delete) => delete,
                    None if next.checked_sub(1).is_some_and(is_delete) => return Ok(()),
                    None => return Err(Fault::Wrong("it was not deleted at that time")),
                }
            }
        };
        self.cursor = Cursor::SomeDelete { from, streamed: None, omits: epoch.more_snapshots > 0 };
        Ok(())
    }

    /// Notes the delete that the cursor is behind, which is before change `end`.
    fn identify(&mut self, changes: &[Change], end: usize) {
        let Cursor::SomeDelete { from, streamed: Some(position), omits } = self.cursor else { return };
        let mut deletes = (from..end).rev().filter(|index| changes[*index].kind == Kind::Delete);
        match (deletes.next(), deletes.next()) {
            (Some(_), Some(_)) if omits => self.ambiguous.push((self.epoch, position, from..end)),
            (Some(delete), _) => self.streamed[delete] = true,
            (None, _) => {}
        }
    }

    /// Identifies the ambiguous deletes by the positions of their transactions, which other rows show.
    fn identify_by_positions(&mut self, changes: &[Change], positions: &HashMap<(u64, u64), u64>) {
        for (epoch, position, range) in std::mem::take(&mut self.ambiguous) {
            let position_of = |index: &usize| positions.get(&(epoch, changes[*index].token.transaction()));
            let may_be = |index: &usize| {
                changes[*index].kind == Kind::Delete && position_of(index).is_none_or(|known| *known == position)
            };
            let mut left: Vec<usize> = range.filter(may_be).collect();
            if left.iter().any(|index| position_of(index).is_some()) {
                left.retain(|index| position_of(index).is_some());
            }
            match left[..] {
                [delete] => self.streamed[delete] = true,
                _ => self.unknown_deletes += 1,
            }
        }
    }

    /// Leaves a delete that nothing identifies, so that it may be any.
    fn leave_unknown(&mut self) {
        self.unknown_deletes += usize::from(matches!(self.cursor, Cursor::SomeDelete { streamed: Some(_), .. }));
    }

    /// The changes that the topic does not have. `replay` is set when the last epoch should have this key's changes
    /// from that transaction on, and does not have them.
    fn lost(&self, row: Row, changes: &[Change], ledger: &Ledger, replay: Option<u32>) -> Vec<usize> {
        let collapsed = |index: &usize| {
            ledger.may_collapse(row, &changes[*index]) || ledger.may_have_expired(row, &changes[*index])
        };
        let last_is = |kind| changes.last().is_some_and(|change| change.kind == kind);
        // The topic must have the last state in any form; a delete of a key that it never had needs no record.
        let next = match self.cursor {
            Cursor::Next(next) => next,
            Cursor::SomeDelete { .. } if last_is(Kind::Delete) => changes.len(),
            Cursor::SomeDelete { .. } => {
                changes.iter().rposition(|change| change.kind == Kind::Delete).unwrap_or(0) + 1
            }
            Cursor::Unset => 0,
        };
        let gone = next == 0 || changes[next - 1].kind == Kind::Delete;
        let end_is_known = next == changes.len() || (gone && last_is(Kind::Delete));
        let mut lost: Vec<usize> = self.holes.iter().chain(&self.passed).copied().filter(|i| !collapsed(i)).collect();
        lost.extend((0..changes.len()).filter(|index| !self.streamed[*index] && !collapsed(index)));
        if !end_is_known {
            lost.push(changes.len() - 1);
        }
        if let Some(from) = replay {
            lost.extend(changes.partition_point(|change| change.at < from)..changes.len());
        }
        lost.sort_unstable();
        lost.dedup();
        let mut unknown = self.unknown_deletes;
        lost.retain(|index| {
            let is_known = changes[*index].kind != Kind::Delete || unknown == 0;
            unknown -= usize::from(!is_known);
            is_known
        });
        lost
    }
}

/// The change that produced this value.
fn find(table: &Table, id: i64, changes: &[Change], value: &[u8]) -> Result<usize, Fault> {
    let (_, value) = avro::split(value).map_err(|_| Fault::Wrong("a value of another form"))?;
    let token = token_of(value).ok_or(Fault::Wrong("a row without a token"))?;
    let index = changes.binary_search_by_key(&token, |change| change.token);
    let index = index.map_err(|_| Fault::Wrong("this change of it was never committed"))?;
    let is_right = table.is(value, id, token, changes[index].extras);
    if is_right { Ok(index) } else { Err(Fault::Wrong("other values than what was committed")) }
}

#[cfg(test)]
mod tests;
