//! What the load committed, written down by itself at commit: per key the changes in their order.
//!
//! Nothing in it comes from the binlog. A change takes 16 bytes.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use pipeline::kafka::partition_of;

use super::token::Token;

/// Partitions of the topic.
const PARTITIONS: i32 = 10;

/// What a change did to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The key was not there.
    Create,
    /// It was there.
    Update,
    /// It is gone.
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
    /// Takes over a committed transaction.
    pub(crate) fn commit(&mut self, changes: &[(i64, Kind, Token)]) {
        let at = self.next;
        self.next += 1;
        self.changes += changes.len() as u64;
        for &(id, kind, token) in changes {
            self.keys.entry(id).or_default().push(Change { token, at, kind });
        }
    }

    /// Changes in all.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Transactions in all.
    pub fn transactions(&self) -> u32 {
        self.next
    }

    /// From the transaction `from` on changes may be in the topic as a snapshot's state only, until
    /// [`Ledger::collapse_until_here`].
    pub(crate) fn collapse_from(&mut self, from: u32) {
        self.collapsed.push(from..u32::MAX);
    }

    /// The topic is created again, or another one is used: its epochs and partitions are not those noted so far, and all
    /// changes up to now may be in it as a snapshot's state only.
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

    /// Whether it may be in the topic as a snapshot's state only.
    pub(crate) fn may_collapse(&self, change: &Change) -> bool {
        self.collapsed.iter().any(|range| range.contains(&change.at))
    }

    /// All records that the partition has now may expire.
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
