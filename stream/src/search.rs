//! Finds records in a partition from its end backward, in windows that grow, up to a bound.

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
}
