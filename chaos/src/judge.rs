//! Checks that the topic has every change of the ledger exactly once and in order.
//!
//! Within an epoch each key has a cursor into its list of changes. A streamed record must be exactly the next change;
//! when the epoch began with a snapshot, the first record may be any change. A snapshot's record must be the state at
//! the cursor. A record of a delete has no token, so after an epoch's beginning it may be any delete; the next record
//! shows which. At the end each key's cursor must be behind its last change, and each change must have been streamed
//! once in an epoch, unless it was committed while only a snapshot could show it.

use std::collections::{BTreeMap, HashMap};

use model::change::{Op, SOURCE_HEADER, Source};
use model::position::RecordPosition;
use rdkafka::Message;
use runtime::config::KafkaSettings;
use testbed::Product;

use super::ledger::{Change, Kind, Ledger};
use super::token::Token;

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
    /// Records that were checked.
    pub records: u64,
    /// Descriptions of the first findings.
    pub findings: Vec<String>,
}

impl Verdict {
    /// Whether nothing was found.
    pub fn is_clean(&self) -> bool {
        (self.lost, self.doubled, self.out_of_order, self.wrong) == (0, 0, 0, 0)
    }
}

/// Compares the committed records of the topic with the ledger.
///
/// # Errors
/// When Kafka can't be read.
pub fn judge(ledger: &Ledger, settings: &KafkaSettings) -> anyhow::Result<Verdict> {
    let mut judge = Judge::new(ledger);
    kafka::scan(settings, &settings.topic, &mut |message| {
        let place = format!("partition {}, offset {}", message.partition(), message.offset());
        // Records of a foreign producer have no header; `verify` checks them.
        let source = kafka::header(message, SOURCE_HEADER).and_then(|header| Source::parse(header).ok());
        let id = message.key().and_then(|key| std::str::from_utf8(key).ok()?.parse().ok());
        if let (Some(source), Some(id)) = (source, id) {
            judge.record(id, &source, message.payload(), &place);
        }
        Ok(())
    })?;
    Ok(judge.conclude())
}

/// The position of an epoch in a key's changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cursor {
    /// No record seen yet; any change may follow.
    Unset,
    /// This change comes next.
    Next(usize),
    /// After a delete, which the next record identifies.
    SomeDelete { streamed: bool },
}

struct Key {
    epoch: u64,
    cursor: Cursor,
    /// The first change of the key in this epoch.
    first: usize,
    /// The last epoch with a snapshot's record of the key.
    snapshot_of: u64,
    /// Changes that this epoch has skipped.
    holes: Vec<usize>,
    /// Changes that any epoch has streamed.
    streamed: Vec<bool>,
    /// Changes that an epoch has skipped for good.
    passed: Vec<usize>,
}

struct Judge<'a> {
    ledger: &'a Ledger,
    keys: HashMap<i64, Key>,
    verdict: Verdict,
    last_epoch: u64,
}

/// The error of a record.
enum Fault {
    Doubled,
    OutOfOrder,
    Wrong(&'static str),
}

impl<'a> Judge<'a> {
    fn new(ledger: &'a Ledger) -> Self {
        Self { ledger, keys: HashMap::new(), verdict: Verdict::default(), last_epoch: 0 }
    }

    fn record(&mut self, id: i64, source: &Source<'_>, value: Option<&[u8]>, place: &str) {
        // Faults use ids below zero.
        if id < 0 {
            return;
        }
        self.verdict.records += 1;
        self.last_epoch = self.last_epoch.max(source.epoch);
        if source.op == Op::Delete && self.ledger.emptied.contains(&source.epoch) {
            return;
        }
        let outcome = match self.ledger.keys.get(&id) {
            None => Err(Fault::Wrong("nobody wrote this key")),
            Some(changes) => {
                let replay = self.ledger.replays.get(&source.epoch).copied();
                let key = self.keys.entry(id).or_insert_with(|| Key::new(changes.len()));
                key.take(changes, replay, source, value)
            }
        };
        let (count, what) = match outcome {
            Ok(()) => return,
            Err(Fault::Doubled) => (&mut self.verdict.doubled, "doubled"),
            Err(Fault::OutOfOrder) => (&mut self.verdict.out_of_order, "out of order"),
            Err(Fault::Wrong(why)) => (&mut self.verdict.wrong, why),
        };
        *count += 1;
        let op = source.op.letter();
        self.describe(|| format!("key {id}, {place}, op {op}, epoch {}, {}: {what}", source.epoch, source.pos));
    }

    fn describe(&mut self, text: impl FnOnce() -> String) {
        if self.verdict.findings.len() < DESCRIBED {
            self.verdict.findings.push(text());
        }
    }

    fn conclude(mut self) -> Verdict {
        let ids: BTreeMap<i64, &Vec<Change>> = self.ledger.keys.iter().map(|(id, changes)| (*id, changes)).collect();
        let replay = self.ledger.replays.get(&self.last_epoch).copied();
        for (id, changes) in ids {
            let key = self.keys.remove(&id).unwrap_or_else(|| Key::new(changes.len()));
            let last_expired = changes.last().is_some_and(|change| self.ledger.may_have_expired(id, change));
            if key.epoch == 0 && last_expired {
                continue;
            }
            let lost = key.lost(id, changes, self.ledger, replay.filter(|_| key.epoch < self.last_epoch));
            self.verdict.lost += lost.len() as u64;
            if let Some(first) = lost.first() {
                let change = &changes[*first];
                let (text, kind, many) = (change.token.text(), change.kind, lost.len());
                let (index, all, epoch, cursor) = (first, changes.len(), key.epoch, key.cursor);
                self.describe(|| {
                    format!("key {id}: {many} lost, the first is {text} ({kind:?}, {index} of {all}); epoch {epoch} ends at {cursor:?}")
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
            snapshot_of: 0,
            holes: Vec::new(),
            streamed: vec![false; changes],
            passed: Vec::new(),
        }
    }

    fn take(
        &mut self,
        changes: &[Change],
        replay: Option<u32>,
        source: &Source<'_>,
        value: Option<&[u8]>,
    ) -> Result<(), Fault> {
        if source.epoch < self.epoch {
            return Err(Fault::OutOfOrder);
        }
        if source.epoch > self.epoch {
            self.passed.append(&mut self.holes);
            self.epoch = source.epoch;
            (self.cursor, self.first) = match replay {
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
                self.delete(changes, snapshot)
            }
            (Op::Delete, Some(_)) => Err(Fault::Wrong("a delete with a value")),
            (_, None) => Err(Fault::Wrong("no value")),
            (op, Some(value)) => {
                let index = find(changes, value)?;
                match op {
                    Op::Snapshot => self.snapshot(index),
                    _ => self.stream(changes, index, op),
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
    fn snapshot(&mut self, index: usize) -> Result<(), Fault> {
        if self.snapshot_of == self.epoch {
            return Err(Fault::Doubled);
        }
        self.snapshot_of = self.epoch;
        match self.cursor {
            Cursor::Unset => (self.cursor, self.first) = (Cursor::Next(index + 1), index + 1),
            Cursor::Next(next) if next > index + 1 => return Err(Fault::OutOfOrder),
            Cursor::Next(next) => {
                // Changes in between would have been streamed before.
                self.holes.extend(next..=index);
                self.cursor = Cursor::Next(index + 1);
            }
            Cursor::SomeDelete { .. } => {
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
            Cursor::SomeDelete { streamed } => {
                let Some(delete) = changes[..index].iter().rposition(|change| change.kind == Kind::Delete) else {
                    return Err(Fault::OutOfOrder);
                };
                self.streamed[delete] |= streamed;
                self.holes.extend(delete + 1..index);
            }
        }
        self.cursor = Cursor::Next(index + 1);
        Ok(())
    }

    fn delete(&mut self, changes: &[Change], snapshot: bool) -> Result<(), Fault> {
        let is_delete = |index: usize| changes.get(index).is_some_and(|change| change.kind == Kind::Delete);
        match self.cursor {
            Cursor::SomeDelete { .. } => return Err(Fault::Doubled),
            Cursor::Unset if !changes.iter().any(|change| change.kind == Kind::Delete) => {
                return Err(Fault::Wrong("it was never deleted"));
            }
            Cursor::Unset => self.cursor = Cursor::SomeDelete { streamed: !snapshot },
            Cursor::Next(next) if snapshot => {
                if !next.checked_sub(1).is_some_and(is_delete) {
                    return Err(Fault::Wrong("it was not deleted at that time"));
                }
            }
            Cursor::Next(next) => {
                let Some(index) = (next..changes.len()).find(|index| is_delete(*index)) else {
                    let seen = next.checked_sub(1).is_some_and(is_delete);
                    return Err(if seen { Fault::Doubled } else { Fault::Wrong("it was not deleted after that") });
                };
                self.holes.extend(next..index);
                self.streamed[index] = true;
                self.cursor = Cursor::Next(index + 1);
            }
        }
        Ok(())
    }

    /// The changes that the topic does not have. `replay` is set when the last epoch should have this key's changes
    /// from that transaction on, and does not have them.
    fn lost(&self, id: i64, changes: &[Change], ledger: &Ledger, replay: Option<u32>) -> Vec<usize> {
        let collapsed =
            |index: &usize| ledger.may_collapse(&changes[*index]) || ledger.may_have_expired(id, &changes[*index]);
        let mut streamed = self.streamed.clone();
        let last_is = |kind| changes.last().is_some_and(|change| change.kind == kind);
        // The topic must have the last state in any form; a delete of a key that it never had needs no record.
        let next = match self.cursor {
            Cursor::Next(next) => next,
            Cursor::SomeDelete { streamed: by_stream } if last_is(Kind::Delete) => {
                streamed[changes.len() - 1] |= by_stream;
                changes.len()
            }
            Cursor::SomeDelete { .. } => {
                changes.iter().rposition(|change| change.kind == Kind::Delete).unwrap_or(0) + 1
            }
            Cursor::Unset => 0,
        };
        let gone = next == 0 || changes[next - 1].kind == Kind::Delete;
        let end_is_known = next == changes.len() || (gone && last_is(Kind::Delete));
        let mut lost: Vec<usize> = self.holes.iter().chain(&self.passed).copied().filter(|i| !collapsed(i)).collect();
        lost.extend((0..changes.len()).filter(|index| !streamed[*index] && !collapsed(index)));
        if !end_is_known {
            lost.push(changes.len() - 1);
        }
        if let Some(from) = replay {
            lost.extend(changes.partition_point(|change| change.at < from)..changes.len());
        }
        lost.sort_unstable();
        lost.dedup();
        lost
    }
}

/// The change that produced this value.
fn find(changes: &[Change], value: &[u8]) -> Result<usize, Fault> {
    let product = Product::decode(value).map_err(|_| Fault::Wrong("a value of another form"))?;
    let token = product.name.and_then(Token::of_name).ok_or(Fault::Wrong("a name without a token"))?;
    let index = changes.binary_search_by_key(&token, |change| change.token);
    let index = index.map_err(|_| Fault::Wrong("this change of it was never committed"))?;
    if token.state().is(&product) { Ok(index) } else { Err(Fault::Wrong("other values than what was committed")) }
}

#[cfg(test)]
mod tests;
