//! When to check whether the ends of the partitions are committed; [`super::commit_ends`] commits them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kafka::Partition;

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

    pub(super) fn is_due(&self, now: Instant) -> bool {
        now >= self.look_at || now >= self.compare_at
    }

    /// The group's offsets of partitions without a new record for a while.
    pub(super) fn still(&mut self, now: Instant, mut committed: BTreeMap<Partition, i64>) -> BTreeMap<Partition, i64> {
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
