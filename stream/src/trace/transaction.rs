//! Finds the changes of a transaction by its position.
//!
//! The records of an epoch are in the order of the source in each partition, so a partition is halved: a record tells by
//! its `pos` whether the transaction is before or behind it. The order is that of the numbers of one source's GTIDs, or
//! of binlog files and offsets. The times of the records would not do: a GTID does not say when it was committed, and
//! clocks are set.
//!
//! Halving finds, and denies nothing: GTIDs that were given by hand, or that a replica committed out of order, are not in
//! the order of their numbers, and two servers' positions can't be compared. So where it finds nothing at all, where the
//! numbers of the records it found have a gap, and in partitions whose records do not tell, the last offsets are read as
//! for a key. What is found is in the newest epoch; `--all` reads everything.

use std::cell::Cell;

use consumer::tables::Taken;
use kafka::LastRecords;
use model::change::{Op, SOURCE_HEADER, Source};
use model::error::{Code, Error, Result};
use model::escape;
use model::position::RecordPosition;
use rdkafka::message::BorrowedMessage;

use super::facts::{Facts, Limits, Standing, Trace, Traced};
use super::{Tracer, judge, read_all, sinks};
use crate::record::Raw;
use crate::search::{self, Bound, Searched, Tells};

/// Threads that halve partitions.
const SIDE_BY_SIDE: usize = 5;

/// A partition with the first offset and the end of its committed records.
struct Place<'a> {
    table: &'a Taken,
    partition: i32,
    bounds: (i64, i64),
}

/// The records that were found in a partition, and what was looked at.
type Found = (Vec<Raw>, Searched);

/// A transaction whose place can be compared with those of records.
struct Sought<'a> {
    text: &'a str,
    position: RecordPosition<'a>,
    epoch: u64,
}

impl<'a> Sought<'a> {
    fn new(text: &'a str, epoch: u64) -> Option<Self> {
        RecordPosition::parse(text, false).map(|position| Self { text, position, epoch })
    }

    /// `None` for a record that can't be compared.
    fn told_by(&self, source: &Source<'_>) -> Option<Tells> {
        if source.epoch != self.epoch {
            return Some(if source.epoch < self.epoch { Tells::Before } else { Tells::Reached });
        }
        let set = || RecordPosition::parse(&source.pos, true);
        let at = match source.op {
            Op::Snapshot => set(),
            // A snapshot deletes the rows that are gone.
            Op::Delete => RecordPosition::parse(&source.pos, false).or_else(set),
            Op::Create | Op::Update => RecordPosition::parse(&source.pos, false),
        }?;
        let is_comparable = match (&self.position, &at) {
            (RecordPosition::Gtid(one, _), RecordPosition::Gtid(other, _)) => one == other,
            (RecordPosition::Gtid(..), RecordPosition::Contains(_)) => true,
            (RecordPosition::File(..), RecordPosition::File(..)) => true,
            _ => false,
        };
        is_comparable.then(|| if self.position.may_precede(&at) { Tells::Reached } else { Tells::Before })
    }
}

fn source<'a>(message: &'a BorrowedMessage<'_>) -> Option<Source<'a>> {
    kafka::header(message, SOURCE_HEADER).and_then(|header| Source::parse(header).ok())
}

/// Whether none is missing before or between a transaction's first `most` records in a table, which are numbered from 0.
fn is_whole(found: &[&Raw], most: usize) -> bool {
    let number = |raw: &&Raw| Source::parse(raw.header.as_deref()?).ok().map(|source| source.row);
    let mut numbers: Vec<u64> = found.iter().filter_map(number).collect();
    numbers.sort_unstable();
    (0..).zip(numbers).take(most).all(|(place, number): (u64, u64)| place == number)
}

impl Tracer {
    /// The changes of a transaction.
    pub(super) async fn transaction(&self, tables: &[Taken], position: &str, limits: Limits) -> Result<Trace> {
        // That of a snapshot's rows is a set.
        if [false, true].iter().all(|snapshot| RecordPosition::parse(position, *snapshot).is_none()) {
            let text = format!("{} is no position of a record", escape::cut(position, 100));
            let remedy =
                "write it as the records have it, UUID:NUMBER or FILE:OFFSET: `stream tap --last 1 --json` shows one";
            return Err(Error::new(Code::CommandLine, text).with_remedy(remedy));
        }
        let first = tables.first();
        let first = first.ok_or_else(|| Error::new(Code::TableMissing, "the producer has taken no table yet"))?;
        let status = self.looker.look().await;
        let epoch = status.reached.as_ref().map(|reached| reached.epoch);
        let sought = epoch.filter(|_| limits.offsets.is_some()).and_then(|epoch| Sought::new(position, epoch));
        let (mut changes, mut searched, mut is_cut) = (Vec::new(), Vec::new(), false);
        tokio::task::block_in_place(|| {
            let mut logs = sinks::Logs::new(self.records(), &self.pipeline, &status);
            let found = self.find(tables, position, sought.as_ref(), limits)?;
            for table in tables {
                let mut records = Vec::new();
                for (place, (here, looked)) in found.iter().filter(|(place, _)| place.table.name == table.name) {
                    searched.push((place.partition, *looked));
                    records.extend_from_slice(here);
                }
                if records.is_empty() {
                    continue;
                }
                let mut here = read_all(table, &records)?;
                here.sort_by_key(|traced| traced.change.row_number);
                is_cut |= here.len() > limits.changes;
                here.truncate(limits.changes);
                logs.complete(table, &mut here)?;
                changes.extend(here);
            }
            Ok::<_, Error>(())
        })?;
        let is_first =
            |table: &&Taken| changes.first().is_some_and(|c: &Traced| c.change.table == table.name.to_string());
        let shown = tables.iter().find(is_first).unwrap_or(first);
        let trace = Trace {
            table: shown.name.to_string(),
            topic: shown.kafka.topic.clone(),
            key: None,
            partition: None,
            source: None,
            changes,
            searched,
            uncommitted: 0,
            letter: None,
            postgres: None,
            standing: Standing::default(),
            faults: status.faults.clone(),
        };
        Ok(judge::judge_transaction(Facts { trace, status }, position, is_cut))
    }

    /// Blocks.
    fn find<'a>(
        &self,
        tables: &'a [Taken],
        position: &str,
        sought: Option<&Sought<'_>>,
        limits: Limits,
    ) -> Result<Vec<(Place<'a>, Found)>> {
        let mut places = Vec::new();
        for table in tables {
            let topic = &table.kafka.topic;
            let Some(count) = self.records().partition_count(topic)?.filter(|count| *count > 0) else { continue };
            let all = (0..).zip(self.bounds(topic, count)?);
            places.extend(all.map(|(partition, bounds)| Place { table, partition, bounds }));
        }
        let halved = match sought {
            Some(sought) => self.halve_all(&places, sought, limits)?,
            None => places.iter().map(|_| None).collect(),
        };
        let of_table = |table: &Taken| -> Vec<&Raw> {
            let here = places.iter().zip(&halved).filter(|(place, _)| place.table.name == table.name);
            here.filter_map(|(_, found)| found.as_ref()).flat_map(|(found, _)| found).collect()
        };
        let is_found = halved.iter().flatten().any(|(found, _)| !found.is_empty())
            && tables.iter().all(|table| is_whole(&of_table(table), limits.changes));
        let mut all = Vec::new();
        for (place, found) in places.into_iter().zip(halved) {
            let found = match found.filter(|_| is_found) {
                Some(found) => found,
                None => self.scan(&place, position, limits)?,
            };
            all.push((place, found));
        }
        Ok(all)
    }

    /// Halves each partition, several side by side, as a probe mostly waits for Kafka, with clients that fetch little.
    fn halve_all(&self, places: &[Place<'_>], sought: &Sought<'_>, limits: Limits) -> Result<Vec<Option<Found>>> {
        let kafka = &self.pipeline.kafka;
        let halve_some = |places: &[Place<'_>]| {
            let records = LastRecords::new(kafka)?;
            let halved = places.iter().map(|place| halve(&records, place, sought, limits)).collect::<Result<Vec<_>>>();
            records.close();
            halved
        };
        std::thread::scope(|scope| {
            let shares = places.chunks(places.len().div_ceil(SIDE_BY_SIDE).max(1));
            let threads: Vec<_> = shares.map(|places| scope.spawn(|| halve_some(places))).collect();
            let mut halved = Vec::with_capacity(places.len());
            for thread in threads {
                let dead = |_| Err(Error::definite("a thread that searches the topic has died"));
                halved.extend(thread.join().unwrap_or_else(dead)?);
            }
            Ok(halved)
        })
    }

    /// The records of a transaction among the last offsets.
    fn scan(&self, place: &Place<'_>, position: &str, limits: Limits) -> Result<Found> {
        let bound = Bound { records: limits.changes + 1, offsets: limits.offsets.unwrap_or(i64::MAX) };
        let is_wanted = |message: &BorrowedMessage<'_>| source(message).is_some_and(|source| source.pos == position);
        let Place { table, partition, bounds } = place;
        search::last(self.records(), &table.kafka.topic, *partition, *bounds, bound, &is_wanted)
    }
}

/// The records of a transaction, if the partition's records tell where they are.
fn halve(records: &LastRecords, place: &Place<'_>, sought: &Sought<'_>, limits: Limits) -> Result<Option<Found>> {
    let Place { table, partition, bounds: (begin, end) } = *place;
    let topic = &table.kafka.topic;
    let tells = |message: &BorrowedMessage<'_>| source(message).and_then(|source| sought.told_by(&source));
    let Some(from) = search::halve(records, topic, partition, begin..end, &tells)? else { return Ok(None) };
    let (mut found, to, is_passed) = (Vec::new(), Cell::new(from), Cell::new(false));
    let last = end.min(from.saturating_add(limits.offsets.unwrap_or(i64::MAX)));
    records.read_range(topic, partition, from..last, &|| is_passed.get(), &mut |message| {
        if is_passed.get() {
            return Ok(());
        }
        to.set(rdkafka::Message::offset(message) + 1);
        if source(message).is_some_and(|source| source.pos == sought.text) {
            found.push(Raw::of(message));
            is_passed.set(found.len() > limits.changes);
        } else {
            is_passed.set(tells(message) == Some(Tells::Reached));
        }
        Ok(())
    })?;
    let to = if is_passed.get() { to.get() } else { last };
    Ok(Some((found, Searched { from, to, begin, is_complete: is_passed.get() || last == end })))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
    const B: &str = "4e11fa47-71ca-11e1-9e33-c80aa9429562";

    #[test]
    fn a_record_tells_where_a_transaction_is() {
        let told = |wanted: &str, op: Op, pos: String, epoch: u64| {
            let source = Source { op, ts_us: 1, pos: pos.into(), row: 0, epoch };
            Sought::new(wanted, 2).expect("a position").told_by(&source)
        };
        let (before, reached) = (Some(Tells::Before), Some(Tells::Reached));
        let wanted = &format!("{A}:23");
        for (op, pos, epoch, want) in [
            (Op::Update, format!("{A}:22"), 2, before),
            (Op::Update, format!("{A}:23"), 2, reached),
            (Op::Create, format!("{A}:24"), 2, reached),
            (Op::Create, format!("{A}:24"), 1, before),
            (Op::Create, format!("{A}:1"), 3, reached),
            (Op::Create, format!("{B}:24"), 2, None),
            (Op::Snapshot, format!("{A}:1-22,{B}:1-9"), 2, before),
            (Op::Snapshot, format!("{A}:1-23"), 2, reached),
            (Op::Delete, format!("{A}:1-22"), 2, before),
            (Op::Delete, format!("{A}:24"), 2, reached),
            (Op::Update, "binlog.000001:4".to_owned(), 2, None),
            (Op::Update, "?".to_owned(), 2, None),
        ] {
            assert_eq!(told(wanted, op, pos.clone(), epoch), want, "{op:?} {pos} {epoch}");
        }
        let wanted = "binlog.000009:300";
        for (op, pos, want) in [
            (Op::Update, "binlog.000009:200", before),
            (Op::Update, "binlog.000009:300", reached),
            (Op::Update, "binlog.1000000:4", reached),
            (Op::Snapshot, "binlog.000008:999", before),
        ] {
            assert_eq!(told(wanted, op, pos.to_owned(), 2), want, "{op:?} {pos}");
        }
        assert_eq!(told(wanted, Op::Update, format!("{A}:1"), 2), None);
        assert!(Sought::new("yesterday", 2).is_none());
    }
}
