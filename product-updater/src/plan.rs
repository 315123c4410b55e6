//! Plans the writes for the changes of a chunk. Pure.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::change::{Change, Effect, Row, State};
use crate::ties::Ties;

/// Writes that may be executed in any order, since no product is both written and deleted in them.
#[derive(Debug, Default)]
pub(crate) struct Step<'a> {
    pub(crate) upserts: Vec<Upsert<'a>>,
    pub(crate) deletes: Vec<&'a Change>,
    pub(crate) remembered: Vec<&'a Change>,
    pub(crate) forgotten: Vec<i32>,
    written: BTreeSet<i32>,
    removed: BTreeSet<i32>,
}

/// A product's new state.
#[derive(Debug)]
pub(crate) struct Upsert<'a> {
    pub(crate) change: &'a Change,
    pub(crate) row: &'a Row,
    /// Whether the table does not have the product yet.
    pub(crate) is_new: bool,
}

/// The states of products after the changes so far.
#[derive(Default)]
pub(crate) struct Known {
    states: HashMap<i32, State>,
    /// Products that this chunk has written.
    written: HashSet<i32>,
}

impl Known {
    /// Begins with these states, before any write.
    pub(crate) fn new(states: HashMap<i32, State>) -> Self {
        Self { states, written: HashSet::new() }
    }

    /// The states of the products of these changes.
    pub(crate) fn of(&self, changes: &[Change]) -> Self {
        let mut part = Self::default();
        for Change { id, .. } in changes {
            part.states.insert(*id, self.states.get(id).cloned().unwrap_or_default());
            if self.written.contains(id) {
                part.written.insert(*id);
            }
        }
        part
    }

    /// Takes over the states of a part.
    pub(crate) fn take(&mut self, part: Self) {
        self.states.extend(part.states);
        self.written.extend(part.written);
    }

    /// The effect of each change, and the writes for it, in order; `None` when a tie needs [`Ties::foresee`] first.
    pub(crate) fn decide<'a>(
        &mut self,
        first: u64,
        chunk: &'a [Change],
        ties: &Ties,
    ) -> Option<(Vec<Effect>, Vec<Step<'a>>)> {
        let Self { states, written } = self;
        let mut plan = vec![Step::default()];
        let mut effects = Vec::with_capacity(chunk.len());
        for (number, change) in (first..).zip(chunk) {
            // Later rows of the chunk see the states after earlier ones.
            let state = states.entry(change.id).or_default();
            let wins = || if written.contains(&change.id) { Some(true) } else { ties.wins(number, change) };
            let effect = state.effect(change, wins)?;
            effects.push(effect);
            if !effect.writes() {
                continue;
            }
            let was_deleted = matches!(state, State::Deleted(_));
            *state = State::after(change);
            written.insert(change.id);
            let conflicts = |step: &Step<'_>| match change.row {
                Some(_) => step.removed.contains(&change.id),
                None => step.written.contains(&change.id),
            };
            if plan.last().is_none_or(conflicts) {
                plan.push(Step::default());
            }
            let Some(step) = plan.last_mut() else { continue };
            match &change.row {
                Some(row) => {
                    step.upserts.push(Upsert { change, row, is_new: effect == Effect::Insert });
                    step.written.insert(change.id);
                    if was_deleted {
                        step.forgotten.push(change.id);
                    }
                }
                None => {
                    if effect == Effect::Delete {
                        step.deletes.push(change);
                    }
                    step.remembered.push(change);
                    step.removed.insert(change.id);
                }
            }
        }
        Some((effects, plan))
    }
}
