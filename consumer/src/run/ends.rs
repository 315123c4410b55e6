//! Commits the end of a partition once everything before it is read.
//!
//! A partition ends with the marker of its last transaction, which is not a record, so the group's offset would stay at
//! that marker. If retention then empties the partition, the group's offset no longer exists, and once records follow,
//! a marker looks like an unread record. So the consumer sets the group's offsets to the ends after a quiet while and
//! before it stops, and now and then also while other partitions keep it busy.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use kafka::Partition;
use model::error::Result;

use super::{Batch, Session, Worker};
use crate::batch_error::BatchError;

/// No record has arrived for so long.
const QUIET: Duration = Duration::from_secs(3);
/// No record of a partition has arrived for so long, while other partitions had some.
const STILL: Duration = Duration::from_secs(20);

/// When to check for ends that are not committed yet.
#[derive(Debug)]
pub(super) struct Ends {
    look_at: Instant,
    compare_at: Instant,
    /// The group's offsets at the last comparison.
    before: BTreeMap<Partition, i64>,
}

impl Default for Ends {
    fn default() -> Self {
        let now = Instant::now();
        Self { look_at: now + QUIET, compare_at: now, before: BTreeMap::new() }
    }
}

impl Ends {
    /// Records have arrived.
    pub(super) fn busy(&mut self) {
        self.look_at = Instant::now() + QUIET;
    }

    fn is_due(&self, now: Instant) -> bool {
        now >= self.look_at || now >= self.compare_at
    }

    /// The group's offsets of partitions without a new record for a while.
    fn still(&mut self, now: Instant, mut committed: BTreeMap<Partition, i64>) -> BTreeMap<Partition, i64> {
        if now >= self.look_at {
            self.look_at = now + QUIET;
            return committed;
        }
        let before = std::mem::replace(&mut self.before, committed.clone());
        self.compare_at = now + STILL;
        committed.retain(|partition, next| before.get(partition) == Some(next));
        committed
    }
}

impl Worker {
    /// After a quiet while, sets the group's offsets behind the markers that end its partitions.
    pub(super) fn commit_ends(&mut self, session: &mut Session) -> Result<(), BatchError> {
        let now = Instant::now();
        if !session.ends.is_due(now) {
            return Ok(());
        }
        let mut ours = session.ends.still(now, session.group.committed());
        ours.retain(|partition, _| session.group.may_be_unfinished(*partition));
        self.commit_ends_of(session, &ours)
    }

    /// Does the same before the consumer stops, if Kafka answers.
    pub(super) fn commit_last_ends(&mut self, session: &mut Session) {
        let ours = session.group.committed();
        if let Err(error) = self.commit_ends_of(session, &ours) {
            tracing::debug!(?error, "the ends of the partitions are not committed");
        }
    }

    fn commit_ends_of(
        &mut self,
        session: &mut Session,
        partitions: &BTreeMap<Partition, i64>,
    ) -> Result<(), BatchError> {
        if partitions.is_empty() {
            return Ok(());
        }
        let from = self.starts(partitions);
        let mut ends = self.readiness.while_waiting("Kafka tells where the topics end", || self.ends(&from))?;
        ends.retain(|partition, end| !session.group.is_finished(*partition, *end));
        if ends.is_empty() {
            return Ok(());
        }
        let mut batch = Batch { metadata: session.group.metadata(), ..Batch::default() };
        ends.into_iter().for_each(|(partition, end)| batch.outcome.rows.reach(partition, end));
        self.finish(session, batch)
    }
}

impl Worker {
    /// The end of each of these partitions that has no record at or behind the given offset. Blocks.
    fn ends(&self, from: &BTreeMap<Partition, i64>) -> Result<BTreeMap<Partition, i64>> {
        let mut ends = BTreeMap::new();
        for topic in from.keys().map(|partition| partition.topic).collect::<BTreeSet<_>>() {
            let of_topic = from.iter().filter(|(partition, _)| partition.topic == topic);
            let of_topic = of_topic.map(|(partition, next)| (partition.number, *next)).collect();
            let found = kafka::ends_without_records(&self.kafka, topic.name(&self.kafka.topic), &of_topic)?;
            ends.extend(found.into_iter().map(|(number, end)| (Partition { topic, number }, end)));
        }
        Ok(ends)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_still_when_its_offset_has_not_moved_for_a_while() {
        let mut ends = Ends::default();
        let begun = ends.compare_at;
        let at = |seconds| begun + Duration::from_secs(seconds);
        let offsets = |of: &[(i32, i64)]| {
            of.iter().map(|(number, next)| (Partition::main(*number), *next)).collect::<BTreeMap<_, _>>()
        };
        let mut look = |seconds, committed: &[(i32, i64)], is_busy: bool| {
            if is_busy {
                ends.look_at = at(seconds) + QUIET;
            }
            ends.is_due(at(seconds)).then(|| ends.still(at(seconds), offsets(committed)))
        };
        assert_eq!(look(1, &[(0, 5), (1, 5)], true), Some(offsets(&[])), "nothing to compare with");
        assert_eq!(look(20, &[(0, 9), (1, 5)], true), None);
        assert_eq!(look(21, &[(0, 9), (1, 5)], true), Some(offsets(&[(1, 5)])));
        assert_eq!(look(41, &[(0, 9), (1, 6), (2, 1)], true), Some(offsets(&[(0, 9)])), "another one, and a new one");
        assert_eq!(look(43, &[(0, 9), (1, 6), (2, 1)], false), None);
        assert_eq!(
            look(44, &[(0, 9), (1, 7), (2, 1)], false),
            Some(offsets(&[(0, 9), (1, 7), (2, 1)])),
            "all are quiet"
        );
    }
}
