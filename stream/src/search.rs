//! Finds records in a partition: from its end backward, in windows that grow, up to a bound; or by halving it, where the
//! records tell on which side of them lies what is wanted.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ops::Range;

use kafka::LastRecords;
use model::error::Result;
use rdkafka::Message as _;
use rdkafka::message::BorrowedMessage;
use serde::Serialize;

use crate::record::Raw;

/// The offsets of the first window.
const FIRST_WINDOW: i64 = 2_000;
/// Each window has so many times the offsets of the one before.
const GROWTH: i64 = 8;

/// The bounds of a search.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    /// Records that are wanted.
    pub(crate) records: usize,
    /// Offsets that are looked at.
    pub(crate) offsets: i64,
}

/// What was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Searched {
    /// The first offset that was looked at.
    pub from: i64,
    /// The offset behind the last one.
    pub to: i64,
    /// The first offset that the partition still has.
    pub begin: i64,
    /// Whether the whole partition was looked at, or all that was wanted was found.
    pub is_complete: bool,
}

/// The next window before `before`, of a partition that begins at `begin`; `None` when the bound or the beginning is
/// reached. `done` offsets were looked at.
fn window(before: i64, begin: i64, done: i64, size: i64, bound: i64) -> Option<Range<i64>> {
    let size = size.min(bound - done);
    (size > 0 && before > begin).then(|| (before - size).max(begin)..before)
}

/// The last records that are `wanted`, oldest first, before `end`, which must be at most the last stable offset. Blocks.
///
/// # Errors
/// As [`LastRecords::read_range`].
pub(crate) fn last(
    records: &LastRecords,
    topic: &str,
    partition: i32,
    (begin, end): (i64, i64),
    bound: Bound,
    wanted: &dyn Fn(&BorrowedMessage<'_>) -> bool,
) -> Result<(Vec<Raw>, Searched)> {
    let mut found: VecDeque<Raw> = VecDeque::new();
    let (mut before, mut size) = (end, FIRST_WINDOW);
    while found.len() < bound.records
        && let Some(range) = window(before, begin, end - before, size, bound.offsets)
    {
        let mut here: VecDeque<Raw> = VecDeque::new();
        let room = bound.records - found.len();
        records.read_range(topic, partition, range.clone(), &|| false, &mut |message| {
            if wanted(message) {
                if here.len() == room {
                    here.pop_front();
                }
                here.push_back(Raw::of(message));
            }
            Ok(())
        })?;
        here.into_iter().rev().for_each(|raw| found.push_front(raw));
        (before, size) = (range.start, size * GROWTH);
    }
    let is_complete = before <= begin || found.len() >= bound.records;
    Ok((found.into(), Searched { from: before, to: end, begin, is_complete }))
}

/// What a record tells about the place of what is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tells {
    /// The record is before what is wanted.
    Before,
    /// The record is wanted, or behind what is wanted.
    Reached,
}

/// An offset from which on all that is wanted is found, some [`FIRST_WINDOW`] offsets before it at most; `None` when the
/// records do not tell. Blocks.
///
/// # Errors
/// As [`LastRecords::read_range`].
pub(crate) fn halve(
    records: &LastRecords,
    topic: &str,
    partition: i32,
    range: Range<i64>,
    tells: &dyn Fn(&BorrowedMessage<'_>) -> Option<Tells>,
) -> Result<Option<i64>> {
    halve_by(range, &mut |range| {
        let told = Cell::new(None);
        records.read_range(topic, partition, range, &|| told.get().is_some(), &mut |message| {
            if told.get().is_none() {
                told.set(tells(message).map(|tells| (message.offset(), tells)));
            }
            Ok(())
        })?;
        Ok(told.get())
    })
}

/// The first record of a range that tells something, with its offset.
type Probe<'a> = &'a mut dyn FnMut(Range<i64>) -> Result<Option<(i64, Tells)>>;

fn halve_by(range: Range<i64>, probe: Probe<'_>) -> Result<Option<i64>> {
    let (mut low, mut high) = (range.start, range.end);
    while high - low > FIRST_WINDOW {
        let middle = low + (high - low) / 2;
        match probe(middle..high.min(middle + FIRST_WINDOW))? {
            Some((offset, Tells::Before)) => low = offset + 1,
            Some((_, Tells::Reached)) => high = middle,
            None => return Ok(None),
        }
    }
    Ok(Some(low))
}

/// The committed record at an offset. Blocks.
///
/// # Errors
/// As [`LastRecords::read_range`].
pub(crate) fn at(records: &LastRecords, topic: &str, partition: i32, offset: i64) -> Result<Option<Raw>> {
    let mut found = None;
    records.read_range(topic, partition, offset..offset + 1, &|| false, &mut |message| {
        if message.offset() == offset {
            found = Some(Raw::of(message));
        }
        Ok(())
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_grow_backward_to_the_beginning_or_the_bound() {
        let windows = |begin: i64, end: i64, bound: i64| {
            let (mut before, mut size, mut all) = (end, FIRST_WINDOW, Vec::new());
            while let Some(range) = window(before, begin, end - before, size, bound) {
                (before, size) = (range.start, size * GROWTH);
                all.push(range);
            }
            all
        };
        assert_eq!(windows(0, 100, 1_000).first(), Some(&(0..100)));
        assert_eq!(windows(50, 50, 1_000), []);
        assert_eq!(windows(0, 100_000, 20_000), [98_000..100_000, 82_000..98_000, 80_000..82_000]);
        assert_eq!(windows(97_000, 100_000, 20_000), [98_000..100_000, 97_000..98_000]);
    }

    #[test]
    fn halving_ends_shortly_before_what_is_wanted() {
        // Every second offset is a marker, and some records tell nothing.
        let find = |end: i64, wanted: i64, silent: Range<i64>| {
            let mut probes = 0;
            let found = halve_by(0..end, &mut |range| {
                probes += 1;
                let mut offsets = range.filter(|offset| offset % 2 == 0 && !silent.contains(offset));
                Ok(offsets.next().map(|at| (at, if at < wanted { Tells::Before } else { Tells::Reached })))
            });
            (found.expect("no error"), probes)
        };
        for wanted in [0, 1, 2, 499_999, 500_000, 500_002, 999_998, 2_000_000] {
            let (found, probes) = find(1_000_000, wanted, 0..0);
            let found = found.expect("it is found");
            let gap = wanted.min(1_000_000) - found;
            assert!((0..=FIRST_WINDOW + 2).contains(&gap) && probes < 11, "{wanted}: {found} {probes}");
        }
        assert_eq!(find(100, 50, 0..0), (Some(0), 0));
        assert!(find(1_000_000, 600_000, 500_000..501_000).0.is_some());
        assert_eq!(find(1_000_000, 600_000, 500_000..503_000).0, None, "a stretch that tells nothing");
    }
}
