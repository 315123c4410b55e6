//! `stream tap`: the changes as they come, readable.
//!
//! Records have the row after a change only. The row before it is the one that this reader saw last: the rows of the last
//! 100,000 keys are kept, in at most 64 MiB.
//!
//! Tables and partitions that appear meanwhile are followed too, from their first record (`tap/appeared.rs`).

mod appeared;
mod filter;
mod line;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use consumer::tables::Taken;
use kafka::{Followed, Follower, LastRecords};
use model::error::{Code, Error, Result};
use model::escape;
use model::time::Micros;
use tokio_util::sync::CancellationToken;

use crate::pipeline::Pipeline;
use crate::record::{Change, Raw, Records, Row};
use crate::search::{self, Bound};
use crate::text;
use appeared::Found;
pub use filter::Filter;
pub use line::{Colours, Tapped, line};

/// How long a poll waits; a signal is noticed after it.
const POLL: Duration = Duration::from_millis(200);
/// Offsets of a partition that `--last` looks at.
const LOOKED_AT: i64 = 200_000;
/// Keys whose rows are kept.
const MOST_KEYS: usize = 100_000;
/// Bytes of the rows that are kept.
const MOST_BYTES: usize = 64 << 20;
/// How often a broker that is away is reported.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// With the first record that is kept.
    Beginning,
    /// With the next record.
    End,
    /// With the first record that was written at or after this time.
    Time(Micros),
    /// With so many changes that pass the filter.
    Last(usize),
}

/// The rows that were seen last.
#[derive(Default)]
struct Seen {
    rows: HashMap<(usize, String), Option<Row>>,
    order: VecDeque<(usize, String)>,
    bytes: usize,
}

impl Seen {
    /// Notes the row after a change. Returns the one before, if this key was seen.
    fn put(&mut self, table: usize, key: &str, row: Option<Row>) -> Option<Option<Row>> {
        let size = |row: &Option<Row>| {
            row.as_ref().map_or(0, |row| row.0.iter().map(|(name, value)| name.len() + value.len() + 48).sum())
        };
        let place = (table, key.to_owned());
        self.bytes += size(&row) + 2 * key.len() + 96;
        let before = self.rows.insert(place.clone(), row);
        match &before {
            Some(before) => self.bytes = self.bytes.saturating_sub(size(before) + 2 * key.len() + 96),
            None => self.order.push_back(place),
        }
        while self.rows.len() > MOST_KEYS || (self.bytes > MOST_BYTES && self.rows.len() > 1) {
            let Some(oldest) = self.order.pop_front() else { break };
            let gone = self.rows.remove(&oldest);
            self.bytes = self.bytes.saturating_sub(gone.map_or(0, |row| size(&row)) + 2 * oldest.1.len() + 96);
        }
        before
    }
}

/// The rows before the deletes that `--last` finds in a partition, which it reads in windows from the end backward.
/// Without them, `--where` would take no delete.
#[derive(Default)]
struct Earlier {
    /// Those of the present window.
    seen: Seen,
    next: i64,
    /// By the offset of the delete.
    rows: BTreeMap<i64, Row>,
}

impl Earlier {
    /// Notes the row after a change of the window. Returns the row before it, if the window has that.
    fn put(&mut self, change: &Change) -> Option<Row> {
        if change.offset < self.next {
            // The records of the window before came later.
            self.seen = Seen::default();
        }
        self.next = change.offset + 1;
        if change.unreadable.is_some() {
            return None;
        }
        self.seen.put(0, &change.key, change.row.clone()).flatten()
    }

    /// Keeps the row before a delete that was found, for the last `most` ones.
    fn keep(&mut self, offset: i64, row: Row, most: usize) {
        self.rows.insert(offset, row);
        if self.rows.len() > most {
            self.rows.pop_first();
        }
    }
}

/// Topic, partition, and the offset to begin at.
type Start = (String, i32, i64);

/// A record that is shown first, with the place of its table.
struct Begun {
    table: usize,
    raw: Raw,
    /// The row before a delete, if it is known.
    before: Option<Row>,
}

/// The reader of one table's records.
struct Table {
    taken: Taken,
    records: RefCell<Records>,
    partitions: usize,
}

impl Table {
    fn new(Found { taken, partitions }: Found) -> Result<Self> {
        Ok(Self { records: RefCell::new(Records::new(&taken)?), partitions, taken })
    }
}

/// Follows the topics.
pub struct Tap {
    pipeline: Pipeline,
    /// The only table that is wanted.
    only: Option<String>,
    tables: Vec<Table>,
    records: LastRecords,
    filter: Filter,
    seen: Seen,
}

impl Tap {
    /// Prepares to follow the topics of the selected tables. Blocks; call it within a runtime.
    ///
    /// # Errors
    /// Usage for a table that is not taken or a column that no table has; transient when Kafka does not answer.
    pub fn new(pipeline: Pipeline, only: Option<&str>, filter: Filter) -> Result<Self> {
        let group = kafka::GroupReader::new(&pipeline.kafka)?;
        group.reach(Duration::from_secs(5))?;
        let records = LastRecords::for_search(&pipeline.kafka)?;
        let found = appeared::find(&pipeline, &records, only)?;
        let tables = found.into_iter().map(Table::new).collect::<Result<Vec<_>>>()?;
        if tables.is_empty() {
            return Err(Error::new(Code::TopicMissing, "none of the tables has a topic yet")
                .with_remedy("start the producer, which creates them"));
        }
        let only = only.map(str::to_owned);
        let tap = Self { pipeline, only, tables, records, filter, seen: Seen::default() };
        tap.check_columns()?;
        Ok(tap)
    }

    /// Whether several tables are followed, or can be once they have appeared.
    ///
    /// # Errors
    /// Usage when `tables` can't be used.
    pub fn has_several_tables(&self) -> Result<bool> {
        let wanted = self.pipeline.settings.tables()?;
        let can_grow = wanted.has_patterns() || wanted.exact().len() > 1;
        Ok(self.tables.len() > 1 || (can_grow && self.only.is_none()))
    }

    fn check_columns(&self) -> Result<()> {
        let mut columns: Vec<String> = Vec::new();
        if !self.filter.has_columns() {
            return Ok(());
        }
        for table in &self.tables {
            columns.extend(table.records.borrow().columns()?);
        }
        // Without a schema nothing is known of the columns.
        self.filter.check(&columns).map_or(Ok(()), Err)
    }

    /// Passes each change to `each` until it returns false, or until `shutdown`; with `stops`, until the present ends.
    /// Blocks.
    ///
    /// # Errors
    /// Definite when a right is missing; transient when the registry does not answer and a schema is needed.
    pub fn follow(
        mut self,
        from: From,
        stops: bool,
        shutdown: &CancellationToken,
        each: &mut dyn FnMut(&Tapped) -> Result<bool>,
    ) -> Result<()> {
        let has_any = Cell::new(false);
        let each: &mut dyn FnMut(&Tapped) -> Result<bool> = &mut |tapped| {
            has_any.set(true);
            each(tapped)
        };
        let (starts, shown) = self.starts(from)?;
        for Begun { table, raw, before } in shown {
            if let Some(before) = before {
                let key = String::from_utf8_lossy(raw.key.as_deref().unwrap_or_default());
                self.seen.put(table, &key, Some(before));
            }
            if let Some(tapped) = self.take(table, &raw)?
                && !each(&tapped)?
            {
                return Ok(());
            }
        }
        if stops {
            self.read_to_ends(&starts, shutdown, each)?;
        }
        if !has_any.get() && (stops || matches!(from, From::Last(_))) {
            let which = if self.filter == Filter::default() { "" } else { " that passes the filters" };
            eprintln!("no change{which} {}", if stops { "was found" } else { "yet; waiting for the next one" });
        }
        if stops {
            return Ok(());
        }
        let follower = Follower::new(&self.pipeline.kafka, &starts)?;
        let appeared = appeared::watch(&self.pipeline, self.only.as_deref())?;
        let mut reported: Option<Instant> = None;
        while !shutdown.is_cancelled() {
            self.follow_appeared(&follower, &appeared)?;
            match follower.next(POLL)? {
                Followed::Record(message) => {
                    let raw = Raw::of(&message);
                    let topic = rdkafka::Message::topic(&message);
                    let table = self.tables.iter().position(|table| table.taken.kafka.topic == topic);
                    if let Some(table) = table
                        && let Some(tapped) = self.take(table, &raw)?
                        && !each(&tapped)?
                    {
                        return Ok(());
                    }
                }
                Followed::Nothing => {}
                Followed::Away(reason) if reported.is_none_or(|at| at.elapsed() > REPORT_EVERY) => {
                    eprintln!("Kafka does not answer, trying again: {}", escape::shown(&reason));
                    reported = Some(Instant::now());
                }
                Followed::Away(_) => {}
            }
        }
        Ok(())
    }

    /// Follows the tables and partitions that have appeared, from their first record.
    fn follow_appeared(&mut self, follower: &Follower, appeared: &Receiver<Vec<Found>>) -> Result<()> {
        // Without a look nothing is new; the end of the looks is logged there.
        for found in appeared.try_recv().unwrap_or_default() {
            let (name, topic, count) =
                (found.taken.name.to_string(), found.taken.kafka.topic.clone(), found.partitions);
            let known = self.tables.iter_mut().find(|table| table.taken.kafka.topic == topic);
            let before = known.as_ref().map_or(0, |table| table.partitions);
            if count <= before {
                continue;
            }
            let start = |partition: usize| (topic.clone(), partition as i32, 0);
            follower.add(&(before..count).map(start).collect::<Vec<_>>())?;
            let what = match known {
                Some(table) => {
                    table.partitions = count;
                    format!("topic {topic} of {name} has {count} partitions now and had {before}: the new ones are")
                }
                None => {
                    self.tables.push(Table::new(found)?);
                    format!("{name} has appeared: its topic {topic} is")
                }
            };
            eprintln!("{} followed from the first record", escape::shown(&what));
        }
        Ok(())
    }

    /// Reads each partition to its present end, one after the other.
    fn read_to_ends(
        &mut self,
        starts: &[Start],
        shutdown: &CancellationToken,
        each: &mut dyn FnMut(&Tapped) -> Result<bool>,
    ) -> Result<()> {
        let records = LastRecords::for_search(&self.pipeline.kafka)?;
        let is_done = Cell::new(false);
        for (topic, partition, start) in starts {
            let Some(table) = self.tables.iter().position(|table| table.taken.kafka.topic == *topic) else { continue };
            let ends = records.stable_ends(topic, self.tables[table].partitions)?;
            let end = ends.get(*partition as usize).copied().unwrap_or(0);
            let stops = || is_done.get() || shutdown.is_cancelled();
            records.read_range(topic, *partition, *start..end, &stops, &mut |message| {
                if let Some(tapped) = self.take(table, &Raw::of(message))? {
                    is_done.set(!each(&tapped)?);
                }
                Ok(())
            })?;
            if stops() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The offsets to begin at, and the changes that are shown before.
    fn starts(&self, from: From) -> Result<(Vec<Start>, Vec<Begun>)> {
        let (mut starts, mut shown) = (Vec::new(), Vec::new());
        for (place, table) in self.tables.iter().enumerate() {
            let (topic, count) = (&table.taken.kafka.topic, table.partitions);
            let ends = self.records.stable_ends(topic, count)?;
            let bounds = self.records.bounds(topic, count)?;
            let since = match from {
                From::Time(at) => self.records.offsets_since(topic, count, at.0 / 1_000)?,
                _ => Vec::new(),
            };
            for (number, (end, bounds)) in ends.into_iter().zip(bounds).enumerate() {
                let start = match from {
                    From::Beginning => bounds.begin,
                    From::End | From::Last(_) => end,
                    From::Time(_) => since.get(number).copied().flatten().unwrap_or(end),
                };
                starts.push((topic.clone(), number as i32, start));
                if let From::Last(most) = from {
                    let bound = Bound { records: most, offsets: LOOKED_AT };
                    let (failed, earlier) = (RefCell::new(None), RefCell::new(Earlier::default()));
                    let passes = |message: &rdkafka::message::BorrowedMessage<'_>| {
                        let passes = self.passes(table, &Raw::of(message), &mut earlier.borrow_mut(), most);
                        passes.unwrap_or_else(|error| {
                            failed.borrow_mut().get_or_insert(error);
                            false
                        })
                    };
                    let (found, _) =
                        search::last(&self.records, topic, number as i32, (bounds.begin, end), bound, &passes)?;
                    if let Some(error) = failed.into_inner() {
                        return Err(error);
                    }
                    let mut rows = earlier.into_inner().rows;
                    shown.extend(found.into_iter().map(|raw| {
                        let before = rows.remove(&raw.offset);
                        Begun { table: place, raw, before }
                    }));
                }
            }
        }
        shown.sort_by_key(|Begun { raw, .. }| (raw.written, raw.partition, raw.offset));
        if let From::Last(most) = from {
            shown.drain(..shown.len().saturating_sub(most));
        }
        Ok((starts, shown))
    }

    /// Whether `--last`, which shows `most` changes, takes a record.
    fn passes(&self, table: &Table, raw: &Raw, earlier: &mut Earlier, most: usize) -> Result<bool> {
        if !self.filter.takes_key(raw.key.as_deref()) {
            return Ok(false);
        }
        let (change, _) = table.records.borrow_mut().read(raw)?;
        if !self.filter.has_columns() {
            return Ok(self.filter.takes(&change, None));
        }
        let before = earlier.put(&change);
        let takes = self.filter.takes(&change, before.as_ref());
        if let Some(before) = before.filter(|_| takes && change.row.is_none()) {
            earlier.keep(change.offset, before, most);
        }
        Ok(takes)
    }

    /// The change of a record, if it passes the filter.
    fn take(&mut self, table: usize, raw: &Raw) -> Result<Option<Tapped>> {
        if !self.filter.takes_key(raw.key.as_deref()) {
            return Ok(None);
        }
        let (change, _) = self.tables[table].records.borrow_mut().read(raw)?;
        let before =
            if change.unreadable.is_none() { self.seen.put(table, &change.key, change.row.clone()) } else { None };
        if !self.filter.takes(&change, before.as_ref().and_then(Option::as_ref)) {
            return Ok(None);
        }
        let is_before_known = before.is_some() || change.op == Some("c");
        Ok(Some(Tapped { change, before: before.flatten(), is_before_known }))
    }
}

/// Writes each change to standard output; ends quietly when its reader has gone.
///
/// # Errors
/// As [`Tap::follow`].
pub(crate) fn print(tap: Tap, from: From, stops: bool, is_json: bool, shutdown: &CancellationToken) -> Result<()> {
    let (colours, several) = (Colours::of_terminal(), tap.has_several_tables()?);
    tap.follow(from, stops, shutdown, &mut |tapped| {
        if is_json { text::write_json(tapped) } else { text::write(&line(tapped, several, colours)) }
    })
}

/// A change, for tests of what uses one.
#[cfg(test)]
pub(crate) fn change_for_test() -> Change {
    filter::tests::change("u", Some(["1", "null"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_seen_last_are_kept_within_their_bounds() {
        let row = |text: &str| Some(Row(vec![("a".to_owned(), text.to_owned())]));
        let mut seen = Seen::default();
        assert_eq!(seen.put(0, "1", row("x")), None);
        assert_eq!(seen.put(1, "1", row("y")), None);
        assert_eq!(seen.put(0, "1", None), Some(row("x")));
        assert_eq!(seen.put(0, "1", row("z")), Some(None));
        let bytes = seen.bytes;
        seen.put(0, "1", row("w"));
        assert_eq!(seen.bytes, bytes, "a row of the same size takes the place of the one before");
        let large = "x".repeat(MOST_BYTES / 4);
        (0..9).for_each(|key| drop(seen.put(2, &key.to_string(), row(&large))));
        assert!(seen.bytes <= MOST_BYTES && seen.rows.len() == 3 && seen.order.len() == 3, "{}", seen.rows.len());
        assert_eq!(seen.put(2, "8", None), Some(row(&large)));
        assert_eq!(seen.put(0, "1", None), None, "the oldest ones are forgotten");
    }

    #[test]
    fn the_row_before_a_delete_is_one_of_the_same_window() {
        let change = |op, offset, values| Change { offset, ..filter::tests::change(op, values) };
        let mug = |offset| change("u", offset, Some(["1", "\"Mug\""]));
        let gone = |offset| change("d", offset, None);
        let mut earlier = Earlier::default();
        assert_eq!(earlier.put(&gone(20)), None);
        assert_eq!(earlier.put(&mug(21)), None);
        assert_eq!(earlier.put(&gone(22)), mug(0).row);
        // The window before the first one.
        assert_eq!(earlier.put(&gone(10)), None, "what came later is not before");
        assert_eq!(earlier.put(&mug(11)), None);
        let unreadable = Change { unreadable: Some("no schema".to_owned()), ..gone(12) };
        assert_eq!(earlier.put(&unreadable), None);
        assert_eq!(earlier.put(&gone(13)), mug(0).row);
        for offset in [30, 32, 10, 12] {
            earlier.keep(offset, Row::default(), 3);
        }
        assert_eq!(earlier.rows.into_keys().collect::<Vec<_>>(), [12, 30, 32], "the last ones are shown");
    }
}
