//! The end of a partition, committed when everything before it is read.
//!
//! A partition ends with the marker of its last transaction, which is no record: the group would stay at the offset of that
//! marker. When retention then empties the partition, the group's next offset is one that is gone, and nobody can tell a
//! marker from an unread record any more. So after a quiet while, and before a consumer stops, the group's offsets are set to
//! the ends.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pipeline::kafka;

use super::{Batch, Session, Worker};
use crate::setback::Setback;

/// No record has come for so long.
const QUIET: Duration = Duration::from_secs(3);

/// When to look for ends that are not committed yet.
#[derive(Debug)]
pub(super) struct Ends {
    look_at: Instant,
}

impl Default for Ends {
    fn default() -> Self {
        Self { look_at: Instant::now() + QUIET }
    }
}

impl Ends {
    /// There are records.
    pub(super) fn busy(&mut self) {
        self.look_at = Instant::now() + QUIET;
    }
}

impl Worker {
    /// After a quiet while: sets the group's offsets behind the markers that end its partitions.
    pub(super) fn commit_ends(&mut self, session: &mut Session) -> Result<(), Setback> {
        if Instant::now() < session.ends.look_at {
            return Ok(());
        }
        session.ends.busy();
        let mut ours = session.group.committed();
        ours.retain(|partition, _| session.group.may_be_unfinished(*partition));
        self.commit_ends_of(session, &ours)
    }

    /// The same before it stops, if Kafka answers.
    pub(super) fn commit_last_ends(&mut self, session: &mut Session) {
        let ours = session.group.committed();
        if let Err(setback) = self.commit_ends_of(session, &ours) {
            tracing::debug!(?setback, "the ends of the partitions are not committed");
        }
    }

    fn commit_ends_of(&mut self, session: &mut Session, partitions: &BTreeMap<i32, i64>) -> Result<(), Setback> {
        if partitions.is_empty() {
            return Ok(());
        }
        let from = self.starts(partitions);
        let read = || kafka::ends_without_records(&self.kafka, &self.kafka.topic, &from);
        let mut ends = self.readiness.while_waiting("Kafka tells where the topic ends", read)?;
        ends.retain(|partition, end| !session.group.is_finished(*partition, *end));
        if ends.is_empty() {
            return Ok(());
        }
        let mut batch = Batch { metadata: session.group.metadata(), ..Batch::default() };
        batch.outcome.rows.next = ends;
        self.finish(session, batch)
    }
}
