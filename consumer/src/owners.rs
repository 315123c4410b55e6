//! Partitions that the group has given to nobody.
//!
//! In cooperative rebalancing (KIP-429) a partition that moves belongs to nobody for one generation: its former owner gives
//! it up and joins once more, and then it is given away. When the owner is killed in between and comes back as the same
//! static member (KIP-345), the broker hands it the assignment of that generation without a rebalance, and nobody joins once
//! more: the partition would stand still until something else makes the group rebalance. So a member looks, after each
//! change of its assignment and every minute, whether every partition has an owner; if not, it leaves and joins again, which
//! makes the group deal anew.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::group::Group;

/// After a change, and between the looks that have to agree; a rebalance under way is over by then.
const SOON: Duration = Duration::from_secs(2);
const LATER: Duration = Duration::from_secs(60);

/// When to look next, and what the last look found.
pub(crate) struct Owners {
    next_look: Instant,
    seen_changes: u64,
    unowned: BTreeSet<i32>,
}

impl Owners {
    pub(crate) fn new() -> Self {
        Self { next_look: Instant::now() + SOON, seen_changes: 0, unowned: BTreeSet::new() }
    }

    /// Asks the group's coordinator when it is time to. Blocks for two seconds at most.
    pub(crate) fn look(&mut self, group: &Group) {
        let now = Instant::now();
        if self.seen_changes != group.changes() {
            *self = Self { seen_changes: group.changes(), ..Self::new() };
        }
        if now < self.next_look {
            return;
        }
        // No answer, or a rebalance under way: it is known later.
        let unowned = group.unowned().unwrap_or_default();
        self.next_look = now + if unowned.is_empty() { LATER } else { SOON };
        if !unowned.is_empty() && unowned == self.unowned {
            tracing::warn!(partitions = ?unowned, "the group has given partitions to nobody: joining again, so that it deals anew");
            group.rejoin();
        }
        self.unowned = unowned;
    }
}

/// The partitions of `topic` in a member's assignment as the coordinator keeps it: ConsumerProtocolAssignment, version 0 and
/// on, big endian: version i16, array of (topic: i16 length and UTF-8; array of partitions i32), user data. `None` when the
/// bytes are something else.
pub(crate) fn assigned(mut bytes: &[u8], topic: &str) -> Option<Vec<i32>> {
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
        for length in 0..ASSIGNMENT.len() - 4 {
            assert_eq!(assigned(&ASSIGNMENT[..length], "ab"), None, "{length} bytes");
        }
        assert_eq!(assigned(&[0xff, 0xff, 0, 0, 0, 0], "a"), None);
    }
}
