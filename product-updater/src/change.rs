//! One change of one product, and what it does to the state that it meets.
//!
//! Pure. The rule is "the last one wins" by `last_updated`, and it holds for deletes as well: a deleted product is
//! remembered with the time of its deletion, so that an older row can't bring it back. With equal times the later row in
//! the data wins. Applying the same data again therefore changes nothing, whatever part of it was applied before.

use std::collections::{HashMap, HashSet};

use pipeline::record::{Micros, Price};

/// What a product is to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) id: i32,
    /// `last_updated`.
    pub(crate) at: Micros,
    /// `None` deletes the product.
    pub(crate) row: Option<Row>,
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

/// Decides between two rows of the same product with the same time.
#[derive(Debug, Default)]
pub(crate) struct Ties {
    /// Product → its last time in the data, and the number of the last change with this time.
    last: HashMap<i32, (Micros, u64)>,
    /// Products whose state was written by this run.
    written: HashSet<i32>,
}

impl Ties {
    /// Notes a change of the data, in its order, before anything is applied.
    pub(crate) fn foresee(&mut self, number: u64, change: &Change) {
        let last = self.last.entry(change.id).or_insert((change.at, number));
        if change.at >= last.0 {
            *last = (change.at, number);
        }
    }

    /// The state of this product now comes from this run.
    pub(crate) fn wrote(&mut self, id: i32) {
        self.written.insert(id);
    }

    /// Whether the change may replace a state of the same time. When an earlier run has applied all of the data, that state
    /// comes from the last row of this time, and the rows before it must not come back.
    pub(crate) fn wins(&self, number: u64, change: &Change) -> bool {
        let superseded = self.last.get(&change.id).is_some_and(|(at, last)| *at == change.at && *last > number);
        !superseded || self.written.contains(&change.id)
    }
}

impl State {
    /// What the change does to this state; `wins_tie` is asked when both have the same time.
    pub(crate) fn effect(&self, change: &Change, wins_tie: impl FnOnce() -> bool) -> Effect {
        let time = match self {
            Self::Absent | Self::Present(None, _) => None,
            Self::Deleted(at) | Self::Present(Some(at), _) => Some(*at),
        };
        if time.is_some_and(|t| t > change.at) {
            return Effect::Older;
        }
        let tie = time == Some(change.at);
        let same = match (self, &change.row) {
            (Self::Present(_, old), Some(new)) => old.as_ref() == Some(new),
            (Self::Deleted(_), None) => true,
            _ => false,
        };
        match (self, &change.row) {
            _ if tie && same => Effect::Unchanged,
            _ if tie && !wins_tie() => Effect::Older,
            (Self::Present(..), Some(_)) => Effect::Update,
            (Self::Present(..), None) => Effect::Delete,
            (_, Some(_)) => Effect::Insert,
            (_, None) => Effect::Remember,
        }
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

    fn upsert(id: i32, at: i64, name: &str) -> Change {
        let price = Price::from_hundredths(100).expect("in range");
        Change { id, at: Micros(at), row: Some(Row { name: name.to_owned(), category: "C".to_owned(), price }) }
    }

    fn delete(id: i32, at: i64) -> Change {
        Change { id, at: Micros(at), row: None }
    }

    /// Applies the data as one run does; returns what each change did.
    fn run(table: &mut HashMap<i32, State>, data: &[Change]) -> Vec<Effect> {
        let mut ties = Ties::default();
        (0..).zip(data).for_each(|(number, change)| ties.foresee(number, change));
        let mut effects = Vec::new();
        for (number, change) in (0..).zip(data) {
            let state = table.entry(change.id).or_default();
            let effect = state.effect(change, || ties.wins(number, change));
            if !matches!(effect, Effect::Unchanged | Effect::Older) {
                *state = State::after(change);
                ties.wrote(change.id);
            }
            effects.push(effect);
        }
        effects
    }

    #[test]
    fn the_first_run_applies_and_the_second_changes_nothing() {
        use Effect::{Delete, Insert, Older, Remember, Unchanged, Update};
        for (data, first) in [
            (vec![upsert(1, 1, "a"), upsert(1, 2, "b")], vec![Insert, Update]),
            (vec![upsert(1, 2, "b"), upsert(1, 1, "a")], vec![Insert, Older]),
            (vec![upsert(1, 1, "a"), delete(1, 2)], vec![Insert, Delete]),
            (vec![delete(1, 2), upsert(1, 1, "a")], vec![Remember, Older]),
            (vec![upsert(1, 1, "a"), delete(1, 2), upsert(1, 3, "c")], vec![Insert, Delete, Insert]),
            (vec![upsert(1, 1, "a"), upsert(1, 1, "b"), upsert(1, 1, "c")], vec![Insert, Update, Update]),
            (vec![upsert(1, 1, "a"), upsert(1, 1, "a")], vec![Insert, Unchanged]),
            (vec![upsert(1, 1, "a"), delete(1, 1)], vec![Insert, Delete]),
            (vec![upsert(1, 1, "a"), delete(1, 1), upsert(1, 1, "a")], vec![Insert, Delete, Insert]),
            (vec![upsert(1, 1, "a"), upsert(1, 1, "b"), delete(1, 2)], vec![Insert, Update, Delete]),
        ] {
            let mut table = HashMap::new();
            assert_eq!(run(&mut table, &data), first, "{data:?}");
            let after = table.clone();
            let second = run(&mut table, &data);
            assert!(second.iter().all(|e| matches!(e, Unchanged | Older)), "{data:?}: {second:?}");
            assert_eq!(table, after);
            // A run that was cut off anywhere, then run again, ends with the same table.
            for cut in 0..data.len() {
                let mut table = HashMap::new();
                run(&mut table, &data[..cut]);
                run(&mut table, &data);
                assert_eq!(table, after, "{data:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn a_corrected_row_of_the_same_time_is_applied() {
        let mut table = HashMap::new();
        run(&mut table, &[upsert(1, 1, "a")]);
        assert_eq!(run(&mut table, &[upsert(1, 1, "b")]), [Effect::Update]);
    }

    #[test]
    fn a_time_of_null_is_older_than_any() {
        let state = State::Present(None, None);
        assert_eq!(state.effect(&upsert(1, 1, "a"), || false), Effect::Update);
    }
}
