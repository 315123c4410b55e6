//! One change of one product, and its effect on the product's present state.
//!
//! Pure. The newest `last_updated` wins, for deletes as well: the time of a deletion is stored, so that an older row
//! can't restore the product. With equal times the later row in the data wins. So applying all data again changes
//! nothing, and applying it after a part of it was applied gives the same result.

use model::time::Micros;

use crate::amount::Amount;

/// The new state of a product.
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
    /// The offset of its first byte.
    pub(crate) byte: u64,
}

/// A product's columns apart from key and time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) category: String,
    pub(crate) price: Amount,
}

/// The known state of a product.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) enum State {
    /// Not in the table, and not known to be deleted.
    #[default]
    Absent,
    /// Deleted at this time.
    Deleted(Micros),
    /// In the table; `None` is a time of NULL, which is older than any other.
    Present(Option<Micros>, Option<Row>),
}

/// The effect of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Insert,
    Update,
    Delete,
    /// There is nothing to delete, but the time of the deletion is stored.
    Remember,
    /// The state is already the same.
    Unchanged,
    /// The state is newer.
    Older,
}

impl Effect {
    /// Whether the change writes something.
    pub(crate) fn writes(self) -> bool {
        !matches!(self, Self::Unchanged | Self::Older)
    }
}

impl State {
    /// The effect of the change on this state; `wins_tie` is called when both have the same time. `None` when it can't
    /// decide.
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
        let price = Amount::from_hundredths(100).expect("in range");
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
