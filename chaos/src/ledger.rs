//! The load's own record of its commits: per key, the changes in order.
//!
//! Nothing in it comes from the binlog. A change takes 16 bytes.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use kafka::partition_of;

use super::token::Token;

/// Partitions of the topic.
const PARTITIONS: i32 = 10;

/// The kind of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The key did not exist.
    Create,
    /// The key existed.
    Update,
    /// The key is deleted.
    Delete,
}

/// One committed change of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) token: Token,
    /// The number of its transaction in the ledger.
    pub(crate) at: u32,
    pub(crate) kind: Kind,
}

/// The committed changes.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    pub(crate) keys: HashMap<i64, Vec<Change>>,
    /// The number of the next transaction.
    next: u32,
    changes: u64,
    /// Transactions whose changes may be in the topic only as the state of a snapshot.
    collapsed: Vec<Range<u32>>,
    /// Epochs that replay everything from this transaction on.
    pub(crate) replays: HashMap<u64, u32>,
    /// Epochs in which the table does not exist: they delete every key.
    pub(crate) emptied: HashSet<u64>,
    /// Records of the topic have expired.
    pub(crate) expired: bool,
    /// By partition, the first transaction whose records can't have expired; those of earlier ones may have.
    kept: HashMap<i32, u32>,
}

impl Ledger {
    /// Adds a committed transaction.
    pub(crate) fn commit(&mut self, changes: &[(i64, Kind, Token)]) {
        let at = self.next;
        self.next += 1;
        self.changes += changes.len() as u64;
        for &(id, kind, token) in changes {
            self.keys.entry(id).or_default().push(Change { token, at, kind });
        }
    }

    /// The total number of changes.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// The total number of transactions.
    pub fn transactions(&self) -> u32 {
        self.next
    }

    /// Until [`Ledger::collapse_until_here`], changes from the transaction `from` on may be in the topic only as a
    /// snapshot's state.
    pub(crate) fn collapse_from(&mut self, from: u32) {
        self.collapsed.push(from..u32::MAX);
    }

    /// The topic is created again, or another one is used: the recorded epochs and partitions do not apply to it, and
    /// all changes up to now may be in it only as a snapshot's state.
    pub(crate) fn begin_topic(&mut self) {
        self.replays.clear();
        self.emptied.clear();
        self.kept.clear();
        self.collapse_from(0);
    }

    /// The next change must be streamed again.
    pub(crate) fn collapse_until_here(&mut self) {
        let next = self.next;
        self.collapsed.iter_mut().filter(|range| range.end == u32::MAX).for_each(|range| range.end = next);
    }

    /// The epoch contains every change from here on.
    pub(crate) fn replay_from_here(&mut self, epoch: u64) {
        self.replays.insert(epoch, self.next);
    }

    /// Whether the change may be in the topic only as a snapshot's state.
    pub(crate) fn may_collapse(&self, change: &Change) -> bool {
        self.collapsed.iter().any(|range| range.contains(&change.at))
    }

    /// All present records of the partition may expire.
    pub(crate) fn expire(&mut self, partition: i32) {
        self.expired = true;
        self.kept.insert(partition, self.next);
    }

    /// Whether the record of this change of the key may have expired.
    pub(crate) fn may_have_expired(&self, id: i64, change: &Change) -> bool {
        let kept = || self.kept.get(&partition_of(id.to_string().as_bytes(), PARTITIONS));
        !self.kept.is_empty() && kept().is_some_and(|kept| change.at < *kept)
    }
}
