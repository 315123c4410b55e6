//! The changes that a batch makes to the tables: the last state of each row, and the offsets that it reaches. Pure.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use kafka::{Partition, Topic};
use model::row::Datum;
use model::row_key::KeyValue;

use super::layout::Layout;
use crate::sql_value::Fields;

/// The last state of one row in a batch, and the record that gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LastState {
    /// The number of its partition.
    pub(super) partition: i32,
    pub(crate) offset: i64,
    /// Index of its layout among those of the batch.
    pub(super) layout: usize,
    /// Where the values of its key are in the batch's data.
    pub(super) key: Range<usize>,
    /// Where its values are; `None` when it was deleted or filtered out.
    pub(super) row: Option<Range<usize>>,
}

#[cfg(test)]
impl LastState {
    /// Whether the row is there after it.
    pub(crate) fn is_row(&self) -> bool {
        self.row.is_some()
    }
}

/// A state of a row.
#[derive(Clone, Copy, Debug)]
pub(crate) enum State<'a> {
    /// Its values.
    Row(&'a [Datum<'a>]),
    /// It is filtered out; its values before any rule.
    Filtered(&'a [Datum<'a>]),
    /// The values of its key.
    Deleted(&'a [KeyValue<'a>]),
}

/// The changes that a batch makes to one table.
#[derive(Clone, Debug, Default)]
pub(super) struct TableRows {
    /// By the key's text.
    pub(super) last: HashMap<Vec<u8>, LastState>,
    /// The offset after the batch's last record, by the partition's number.
    pub(super) next: BTreeMap<i32, i64>,
    pub(super) layouts: Vec<Arc<Layout>>,
    /// The values of all rows and keys, as [`crate::sql_value`] encodes them.
    data: Vec<u8>,
}

impl TableRows {
    /// Sets the last state of the row with this key, from the record at this place.
    fn set(&mut self, key: &[u8], place: (i32, i64), layout: &Arc<Layout>, state: State<'_>) {
        let known = self.layouts.iter().position(|known| Arc::ptr_eq(known, layout));
        let number = known.unwrap_or_else(|| {
            self.layouts.push(Arc::clone(layout));
            self.layouts.len() - 1
        });
        let start = self.data.len();
        match state {
            State::Row(row) => layout.put_key_of(row, &mut self.data),
            State::Filtered(row) => layout.put_key_before(row, &mut self.data),
            State::Deleted(key) => layout.put_key(key, &mut self.data),
        }
        let end = self.data.len();
        let row = if let State::Row(row) = state {
            layout.put_row(row, &mut self.data);
            Some(end..self.data.len())
        } else {
            None
        };
        let (partition, offset) = place;
        let last = LastState { partition, offset, layout: number, key: start..end, row };
        match self.last.get_mut(key) {
            Some(state) => *state = last,
            None => drop(self.last.insert(key.to_vec(), last)),
        }
    }

    /// The values in this part of the data.
    pub(super) fn fields(&self, range: &Range<usize>) -> Fields<'_> {
        Fields(&self.data[range.clone()])
    }
}

/// The changes that a batch makes to the tables, by topic.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rows(pub(super) BTreeMap<Topic, TableRows>);

impl Rows {
    /// Sets the last state of the row with this key, from the record at this place.
    pub(crate) fn set(&mut self, key: &[u8], place: (Partition, i64), layout: &Arc<Layout>, state: State<'_>) {
        let (Partition { topic, number }, offset) = place;
        self.0.entry(topic).or_default().set(key, (number, offset), layout, state);
    }

    /// The batch reaches this offset of a partition.
    pub(crate) fn reach(&mut self, partition: Partition, next: i64) {
        self.0.entry(partition.topic).or_default().next.insert(partition.number, next);
    }

    /// By partition, the offset after the batch's last record.
    pub(crate) fn next(&self) -> impl Iterator<Item = (Partition, i64)> {
        self.0.iter().flat_map(|(topic, rows)| {
            rows.next.iter().map(|(number, next)| (Partition { topic: *topic, number: *number }, *next))
        })
    }

    /// Whether the batch has no record.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The last state of a row.
    #[cfg(test)]
    pub(crate) fn last(&self, topic: Topic, key: &[u8]) -> Option<&LastState> {
        self.0.get(&topic)?.last.get(key)
    }

    /// The number of rows.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.0.values().map(|rows| rows.last.len()).sum()
    }
}
