//! Places in the source in a compact form: one or two words for each key instead of its text.

use std::collections::HashMap;

use model::change::Op;
use model::gtid::GtidSet;
use model::position::RecordPosition;

/// A [`RecordPosition`] whose text is stored once, in [`Places`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Gtid(u32, u64),
    File(u32, u64),
    Contains(u32),
}

/// The distinct sources, files and GTID sets.
#[derive(Debug, Default)]
pub(crate) struct Places {
    names: Vec<String>,
    name_numbers: HashMap<String, u32>,
    sets: Vec<GtidSet>,
    set_numbers: HashMap<String, u32>,
}

impl Places {
    /// Parses the `pos` of a record; `None` for an unknown format. A delete that a snapshot found has a snapshot's
    /// format.
    pub(crate) fn place(&mut self, pos: &str, op: Op) -> Option<Place> {
        // All rows of a chunk have the chunk's position.
        if op == Op::Snapshot
            && let Some(number) = self.set_numbers.get(pos)
        {
            return Some(Place::Contains(*number));
        }
        let position = match op {
            Op::Snapshot => RecordPosition::parse(pos, true),
            Op::Delete => RecordPosition::parse(pos, false).or_else(|| RecordPosition::parse(pos, true)),
            Op::Create | Op::Update => RecordPosition::parse(pos, false),
        };
        Some(match position? {
            RecordPosition::Gtid(source, number) => Place::Gtid(self.number(source), number),
            RecordPosition::File(file, offset) => Place::File(self.number(file), offset),
            RecordPosition::Contains(set) => {
                let sets = &mut self.sets;
                Place::Contains(*self.set_numbers.entry(pos.to_owned()).or_insert_with(|| {
                    sets.push(set);
                    sets.len() as u32 - 1
                }))
            }
        })
    }

    fn number(&mut self, text: &str) -> u32 {
        if let Some(number) = self.name_numbers.get(text) {
            return *number;
        }
        let number = self.names.len() as u32;
        self.names.push(text.to_owned());
        self.name_numbers.insert(text.to_owned(), number);
        number
    }

    /// The source or file of a place.
    pub(crate) fn name(&self, number: u32) -> &str {
        &self.names[number as usize]
    }

    /// The GTID set of a place that contains many transactions.
    pub(crate) fn set(&self, number: u32) -> &GtidSet {
        &self.sets[number as usize]
    }

    fn position(&self, place: Place) -> RecordPosition<'_> {
        match place {
            Place::Gtid(name, number) => RecordPosition::Gtid(self.name(name), number),
            Place::File(name, offset) => RecordPosition::File(self.name(name), offset),
            Place::Contains(set) => RecordPosition::Contains(self.set(set).clone()),
        }
    }

    /// The error in the order of `next` (epoch, place, row) after `last`; "of the record before it" follows the text.
    pub(crate) fn disorder(
        &self,
        last: (u64, Option<&Place>, u64),
        next: (u64, Option<&Place>, u64),
    ) -> Option<String> {
        if next.0 != last.0 {
            return (next.0 < last.0).then(|| format!("its epoch {} is before epoch {}", next.0, last.0));
        }
        let (last_place, next_place) = last.1.zip(next.1)?;
        if last_place == next_place {
            // Another check reports a repeated row.
            return (next.2 < last.2)
                .then(|| format!("its row {} in the transaction is before row {}", next.2, last.2));
        }
        let (a, b) = (self.position(*last_place), self.position(*next_place));
        (!a.may_precede(&b)).then(|| format!("its position {} is before {}", text(&b), text(&a)))
    }
}

fn text(position: &RecordPosition<'_>) -> String {
    match position {
        RecordPosition::Gtid(source, number) => format!("{source}:{number}"),
        RecordPosition::File(file, offset) => format!("{file}:{offset}"),
        RecordPosition::Contains(set) => format!("the snapshot at {set}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

    #[test]
    fn order_within_a_key() {
        let mut places = Places::default();
        let mut at = |n: u64| places.place(&format!("{A}:{n}"), Op::Update);
        let (four, five) = (at(4), at(5));
        let snapshot = places.place(&format!("{A}:1-4"), Op::Snapshot);
        let gone = places.place(&format!("{A}:1-4"), Op::Delete);
        assert_eq!(snapshot, gone);
        for (last, next, want) in [
            ((1, four, 0), (1, five, 0), None),
            ((1, five, 0), (1, five, 1), None),
            ((1, five, 1), (1, five, 1), None),
            ((1, five, 1), (1, five, 0), Some("its row 0 in the transaction is before row 1".to_owned())),
            ((1, five, 0), (1, four, 0), Some(format!("its position {A}:4 is before {A}:5"))),
            ((1, five, 0), (2, four, 0), None),
            ((2, four, 0), (1, five, 0), Some("its epoch 1 is before epoch 2".to_owned())),
            ((1, snapshot, 0), (1, five, 0), None),
            ((1, snapshot, 0), (1, four, 0), Some(format!("its position {A}:4 is before the snapshot at {A}:1-4"))),
        ] {
            assert_eq!(places.disorder((last.0, last.1.as_ref(), last.2), (next.0, next.1.as_ref(), next.2)), want);
        }
        assert_eq!(places.place("nonsense", Op::Create), None);
    }
}
