//! The state of a membership that the rebalance callbacks and the loop share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use kafka::{GroupMember, Partition};
use model::error::Error;

/// What the rebalance callbacks pass to the loop.
#[derive(Default)]
pub(crate) struct State {
    /// Our partitions, and the offset of each from which records are not committed yet.
    pub(crate) committed: BTreeMap<Partition, i64>,
    /// The partitions of `committed` whose group offset differs or has no note.
    pub(crate) unnoted: BTreeSet<Partition>,
    /// By partition, this slot's last committed offset.
    pub(crate) done: BTreeMap<Partition, i64>,
    /// By partition, the number of offsets that the topic no longer had when the group first read it.
    pub(crate) missing: BTreeMap<Partition, i64>,
    pub(crate) changes: u64,
    /// Partitions that this member keeps although other members committed further offsets; they must be read from those
    /// offsets.
    pub(crate) moved: BTreeSet<Partition>,
    /// Our member and generation as of the last change.
    pub(crate) metadata: Option<Arc<GroupMember>>,
    pub(crate) failed: Option<Error>,
    /// The client is closing: it no longer looks for its coordinator, so offsets can't be looked up.
    pub(crate) closing: bool,
    /// When a broker last sent anything.
    pub(crate) last_answer: Option<Instant>,
    /// Each partition as of the last statistics.
    pub(crate) seen: BTreeMap<Partition, Seen>,
}

/// A partition in the client's statistics.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// Its end.
    pub(crate) end: i64,
    /// Everything up to its end has been fetched and polled.
    pub(crate) drained: bool,
}
