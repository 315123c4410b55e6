//! One change of one product, and what it does to the state that it meets.
//!
//! Pure. The rule is "the last one wins" by `last_updated`, and it holds for deletes as well: a deleted product is
//! remembered with the time of its deletion, so that an older row can't bring it back. With equal times the later row in
//! the data wins. Applying the same data again therefore changes nothing, whatever part of it was applied before.

use pipeline::record::{Micros, Price};

/// What a product is to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) id: i32,
    /// `last_updated`.
    pub(crate) at: Micros,
    /// `None` deletes the product.
    pub(crate) row: Option<Row>,
    /// Its place in the file.
    pub(crate) place: Place,
}

/// The place of a row in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Place {
    /// The line of its first byte, from 1.
    pub(crate) line: u64,
    /// The place of its first byte.
    pub(crate) byte: u64,
}

/// A product's columns apart from key and time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) category: String,
    pub(crate) price: Price,
}

/// What is known of a product.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) enum State {
    /// Never heard of.
    #[default]
    Absent,
    /// Deleted at this time.
    Deleted(Micros),
    /// In the table; `None` is a time of NULL, older than any.
    Present(Option<Micros>, Option<Row>),
}

/// What a change does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Insert,
    Update,
    Delete,
    /// There is nothing to delete, but the time is remembered.
    Remember,
    /// It is in force already.
    Unchanged,
    /// Something newer is in force.
    Older,
}

impl Effect {
    /// Whether something is written.
    pub(crate) fn writes(self) -> bool {
        !matches!(self, Self::Unchanged | Self::Older)
    }
}

impl State {
    /// What the change does to this state; `wins_tie` is asked when both have the same time. `None` when that has no answer.
    pub(crate) fn effect(&self, change: &Change, wins_tie: impl FnOnce() -> Option<bool>) -> Option<Effect> {
        let time = match self {
            Self::Absent | Self::Present(None, _) => None,
            Self::Deleted(at) | Self::Present(Some(at), _) => Some(*at),
        };
        if time.is_some_and(|t| t > change.at) {
            return Some(Effect::Older);
        }
        let tie = time == Some(change.at);
        let same = match (self, &change.row) {
            (Self::Present(_, old), Some(new)) => old.as_ref() == Some(new),
            (Self::Deleted(_), None) => true,
            _ => false,
        };
        Some(match (self, &change.row) {
            _ if tie && same => Effect::Unchanged,
            _ if tie && !wins_tie()? => Effect::Older,
            (Self::Present(..), Some(_)) => Effect::Update,
            (Self::Present(..), None) => Effect::Delete,
            (_, Some(_)) => Effect::Insert,
            (_, None) => Effect::Remember,
        })
    }

    /// The state after the change.
    pub(crate) fn after(change: &Change) -> Self {
        match &change.row {
            Some(row) => Self::Present(Some(change.at), Some(row.clone())),
            None => Self::Deleted(change.at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_null_is_older_than_any() {
        let price = Price::from_hundredths(100).expect("in range");
        let row = Row { name: "a".to_owned(), category: "C".to_owned(), price };
        for (row, effect) in [(Some(row), Effect::Update), (None, Effect::Delete)] {
            let change = Change { id: 1, at: Micros(1), row, place: Place::default() };
            assert_eq!(State::Present(None, None).effect(&change, || Some(false)), Some(effect));
        }
    }

    #[test]
    fn a_tie_that_nobody_decides_has_no_effect_yet() {
        let change = Change { id: 1, at: Micros(1), row: None, place: Place::default() };
        assert_eq!(State::Present(Some(Micros(1)), None).effect(&change, || None), None);
    }
}
