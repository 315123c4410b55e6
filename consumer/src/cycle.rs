//! The cycle of a batch: whether it still counts after its poll, which durable step follows which, and which offsets its
//! Kafka transaction moves. Pure: `run` carries it out, and the model of the protocol explores it.

use std::collections::BTreeMap;

use kafka::Partition;
use runtime::step::ConsumerStep;

/// The group as it was when a poll began. `M` is a member and its generation.
#[derive(Clone, Debug)]
pub struct GroupView<M> {
    /// The number of changes of the assignment.
    pub changes: u64,
    /// The member and generation under which the batch must be committed; `None` before it has joined.
    pub metadata: Option<M>,
    /// The group's offsets of our partitions.
    pub committed: BTreeMap<Partition, i64>,
}

impl<M> Default for GroupView<M> {
    fn default() -> Self {
        Self { changes: 0, metadata: None, committed: BTreeMap::new() }
    }
}

impl<M> GroupView<M> {
    /// Whether the assignment has changed since: the records are put back.
    pub fn is_overtaken(&self, changes: u64) -> bool {
        self.changes != changes
    }

    /// The offsets that the transaction moves, of those behind the batch's last records: PostgreSQL may be behind the
    /// log, which has the records below the group's offset already.
    pub fn moves(&self, next: impl Iterator<Item = (Partition, i64)>) -> BTreeMap<Partition, i64> {
        next.filter(|(partition, next)| self.committed.get(partition).is_none_or(|committed| committed < next))
            .collect()
    }
}

/// What is done with a batch next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Its rows, with the offsets behind them, are committed in PostgreSQL.
    StoreRows,
    /// Its lines are appended to the log, and their sync begins.
    AppendLines,
    /// Waits until the lines are durable.
    SyncLines,
    /// A part of its Kafka transaction, which is left out if it moves nothing.
    Transact(Part),
}

/// A part of a batch's Kafka transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// It begins, and the dead letters and the log's new length are sent.
    SendLength,
    /// The group's offsets are sent.
    SendOffsets,
    /// It is committed.
    Commit,
}

/// What follows this step of a batch; `None` when the batch is done.
pub fn next(step: ConsumerStep) -> Option<Action> {
    match step {
        ConsumerStep::Polled => Some(Action::StoreRows),
        ConsumerStep::RowsCommitted => Some(Action::AppendLines),
        ConsumerStep::Appended => Some(Action::Transact(Part::SendLength)),
        ConsumerStep::Marked => Some(Action::Transact(Part::SendOffsets)),
        ConsumerStep::OffsetsSent => Some(Action::SyncLines),
        ConsumerStep::Synced => Some(Action::Transact(Part::Commit)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_before_lines_and_lines_are_durable_before_the_commit() {
        use ConsumerStep::{Appended, Committed, Marked, OffsetsSent, Polled, RowsCommitted, Synced};
        let steps = [Polled, RowsCommitted, Appended, Marked, OffsetsSent, Synced, Committed];
        let actions = [
            Some(Action::StoreRows),
            Some(Action::AppendLines),
            Some(Action::Transact(Part::SendLength)),
            Some(Action::Transact(Part::SendOffsets)),
            Some(Action::SyncLines),
            Some(Action::Transact(Part::Commit)),
            None,
        ];
        assert_eq!(steps.map(next), actions);
    }

    #[test]
    fn only_offsets_behind_the_group_s_are_moved() {
        let at = |number, next| (Partition::main(number), next);
        let view =
            GroupView { changes: 3, metadata: Some(()), committed: BTreeMap::from([at(0, 5), at(1, 5), at(2, 5)]) };
        let moved = view.moves([at(0, 4), at(1, 5), at(2, 6), at(3, 1)].into_iter());
        assert_eq!(moved, BTreeMap::from([at(2, 6), at(3, 1)]));
        assert_eq!([3, 4].map(|changes| view.is_overtaken(changes)), [false, true]);
    }
}
