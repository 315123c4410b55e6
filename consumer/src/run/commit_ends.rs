//! Commits the end of a partition once everything before it is read.
//!
//! A partition ends with the marker of its last transaction, which is not a record, so the group's offset would stay at
//! that marker. If retention then empties the partition, the group's offset no longer exists, and once records follow,
//! a marker looks like an unread record. So the consumer sets the group's offsets to the ends after a quiet while and
//! before it stops, and now and then also while other partitions keep it busy.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use kafka::Partition;
use model::error::Result;

use super::{Batch, Session, Worker};
use crate::batch_error::BatchError;
use crate::cycle::GroupView;

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
        let view = GroupView { metadata: session.group.metadata(), ..GroupView::default() };
        let mut batch = Batch { group: view, ..Batch::default() };
        ends.into_iter().for_each(|(partition, end)| batch.outcome.rows.reach(partition, end));
        self.finish(session, &batch)
    }

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
