//! Partitions that the group has given to nobody.
//!
//! In cooperative rebalancing (KIP-429) a partition that moves belongs to nobody for one generation: its former owner gives
//! it up and joins once more, and then it is given away. When the owner is killed in between and comes back as the same
//! static member (KIP-345), the broker hands it the assignment of that generation without a rebalance, and nobody joins once
//! more: the partition would stand still until something else makes the group rebalance.
//!
//! So a member that has just come looks soon whether every partition has an owner, and every member looks now and then. One
//! that sees the same partitions without an owner twice joins again. For a former owner that is only slow, or is never coming
//! back, the later looks are further apart than a session, after which the group has rebalanced by itself.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::group::Group;
use crate::numbers::Numbers;
use crate::slot::SlotId;

/// Between the looks of a member that has just come; a rebalance under way is over by then.
const SOON: Duration = Duration::from_secs(2);
/// Until the next look when the coordinator gave no answer.
const UNANSWERED: Duration = Duration::from_secs(10);
/// Between all other looks, at the least.
const LATER: Duration = Duration::from_secs(60);

/// When to look next, and what the last look found.
pub(crate) struct Owners {
    next_look: Instant,
    /// This member has just come, and has not yet seen every partition owned.
    new: bool,
    later: Duration,
    unowned: BTreeSet<i32>,
}

impl Owners {
    /// For a member that joins now. The slot's number keeps members from looking, and joining again, all at once.
    pub(crate) fn new(slot: SlotId, session_timeout: Duration) -> Self {
        let later = LATER.max(session_timeout * 2) + Duration::from_secs(u64::from(slot.0));
        Self { next_look: Instant::now() + SOON, new: true, later, unowned: BTreeSet::new() }
    }

    /// Asks the group's coordinator when it is time to. Blocks for two seconds at most.
    pub(crate) fn look(&mut self, group: &Group, numbers: &Numbers) {
        let now = Instant::now();
        if now < self.next_look {
            return;
        }
        let Some(unowned) = group.unowned() else {
            self.next_look = now + UNANSWERED;
            return;
        };
        numbers.unowned.set(i64::try_from(unowned.len()).unwrap_or(i64::MAX));
        if unowned.is_empty() {
            self.new = false;
        } else if unowned == self.unowned {
            tracing::warn!(partitions = ?unowned, "nobody in the group owns these partitions: joining again to be assigned partitions");
            numbers.rejoins.add(1);
            self.new = false;
            group.rejoin();
        }
        self.next_look = now + if self.new { SOON } else { self.later };
        self.unowned = unowned;
    }
}

/// The partitions of `topic` in a member's assignment as the coordinator keeps it: ConsumerProtocolAssignment, version 0 and
/// on, big endian: version i16, array of (topic: i16 length and UTF-8; array of partitions i32), user data. `None` when the
/// bytes are something else.
pub(crate) fn assigned(mut bytes: &[u8], topic: &str) -> Option<Vec<i32>> {
    // Of a member that was given nothing some brokers keep nothing.
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    let version = i16::from_be_bytes(take(&mut bytes)?);
    let topics = i32::from_be_bytes(take(&mut bytes)?);
    let mut partitions = Vec::new();
    for _ in 0..topics {
        let length = usize::try_from(i16::from_be_bytes(take(&mut bytes)?)).ok()?;
        let (name, rest) = bytes.split_at_checked(length)?;
        bytes = rest;
        for _ in 0..i32::from_be_bytes(take(&mut bytes)?) {
            let partition = i32::from_be_bytes(take(&mut bytes)?);
            if name == topic.as_bytes() {
                partitions.push(partition);
            }
        }
    }
    (version >= 0).then_some(partitions)
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASSIGNMENT: &[u8] = &[
        0, 1, // version
        0, 0, 0, 2, // topics
        0, 1, b'a', 0, 0, 0, 1, 0, 0, 0, 7, // a: 7
        0, 2, b'a', b'b', 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 1, 2, // ab: 0, 258
        0xff, 0xff, 0xff, 0xff, // no user data
    ];

    #[test]
    fn partitions_of_the_topic_alone() {
        assert_eq!(assigned(ASSIGNMENT, "ab"), Some(vec![0, 258]));
        assert_eq!(assigned(ASSIGNMENT, "a"), Some(vec![7]));
        assert_eq!(assigned(ASSIGNMENT, "b"), Some(vec![]));
    }

    #[test]
    fn bytes_that_are_no_assignment() {
        assert_eq!(assigned(&[], "ab"), Some(vec![]));
        for length in 1..ASSIGNMENT.len() - 4 {
            assert_eq!(assigned(&ASSIGNMENT[..length], "ab"), None, "{length} bytes");
        }
        assert_eq!(assigned(&[0xff, 0xff, 0, 0, 0, 0], "a"), None);
    }
}
