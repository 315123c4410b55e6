//! Detects partitions without an owner in the group.
//!
//! In cooperative rebalancing (KIP-429) a partition that moves has no owner for one generation: its former owner
//! revokes it and joins again, and then the group assigns it. If the owner is killed in between and rejoins as the same
//! static member (KIP-345), the broker returns the assignment of that generation without a rebalance, and no member
//! joins again: nobody would read the partition until another rebalance.
//!
//! So a new member soon checks whether every partition has an owner, and every member checks now and then. A member
//! that twice sees the same partitions without an owner joins again. A former owner may only be slow, or may never
//! return; so the later checks are further apart than a session, after which the group has rebalanced anyway.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use kafka::Partition;

use crate::group::Group;
use crate::metrics::ConsumerMetrics;
use crate::slot_name::SlotId;

/// Between the checks of a new member; a running rebalance is over by then.
const SOON: Duration = Duration::from_secs(2);
/// Until the next check when the coordinator gave no answer.
const UNANSWERED: Duration = Duration::from_secs(10);
/// Between all other checks, at least.
const LATER: Duration = Duration::from_secs(60);

/// The time of the next check, and the result of the last one.
pub(crate) struct OrphanedPartitions {
    next_check: Instant,
    /// This member is new, and has not yet seen an owner for every partition.
    new: bool,
    later: Duration,
    unowned: BTreeSet<Partition>,
}

impl OrphanedPartitions {
    /// For a member that joins now. The slot's number spreads the members' checks and rejoins over time.
    pub(crate) fn new(slot: SlotId, session_timeout: Duration) -> Self {
        let later = LATER.max(session_timeout * 2) + Duration::from_secs(u64::from(slot.0));
        Self { next_check: Instant::now() + SOON, new: true, later, unowned: BTreeSet::new() }
    }

    /// Asks the group's coordinator when a check is due. Blocks for two seconds at most.
    pub(crate) fn check(&mut self, group: &Group, metrics: &ConsumerMetrics) {
        let now = Instant::now();
        if now < self.next_check {
            return;
        }
        let Some(unowned) = group.unowned() else {
            self.next_check = now + UNANSWERED;
            return;
        };
        metrics.unowned.set(i64::try_from(unowned.len()).unwrap_or(i64::MAX));
        if unowned.is_empty() {
            self.new = false;
        } else if unowned == self.unowned {
            tracing::warn!(partitions = ?unowned, "nobody in the group owns these partitions: joining again to be assigned partitions");
            metrics.rejoins.add(1);
            self.new = false;
            group.rejoin();
        }
        self.next_check = now + if self.new { SOON } else { self.later };
        self.unowned = unowned;
    }
}
