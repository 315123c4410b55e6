//! The core without one of its guards, which a test takes out between two steps: the product has no switch for it.

use crate::producer::core::tests::cluster::Cluster;
use crate::producer::core::{Offsets, Stage};
use crate::producer::slots::Membership;
use crate::wire::requests::Level;

/// A guard that is taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mutant {
    None,
    /// A batch is sent while the addition of its partition has no answer.
    ProducesEarly,
    /// The commit is sent while batches have no answer.
    EndsEarly,
    /// The commit is sent while the offsets have no answer.
    EndsBeforeOffsets,
    /// A batch that is sent again has other records.
    ChangesBatch,
    /// A batch that is sent again has another sequence.
    ChangesSequence,
    /// Another transaction begins on V1 after a request lost its answer.
    NeverStale,
    /// A transaction is aborted after its commit was sent.
    AbortsCommit,
}

/// Offsets in the header of a batch: the checksum, what it covers, and the first sequence.
const CRC: usize = 17;
const ATTRIBUTES: usize = 21;
const SEQUENCE: usize = 53;

impl Mutant {
    /// Does to the core what it would do without the guard.
    pub(super) fn apply(self, cluster: &mut Cluster) {
        let core = &mut cluster.core;
        let active = core.slots.active.clone();
        let mut is_changed = false;
        match self {
            Self::None => {}
            Self::ProducesEarly => {
                for number in active {
                    let slot = &mut core.slots.all[number];
                    if slot.membership == Membership::Asked {
                        (slot.membership, is_changed) = (Membership::In, true);
                    }
                }
            }
            Self::EndsEarly if core.stage() == Stage::Committing => {
                for number in active {
                    let is_sent = core.slots.all[number].sent.as_ref().is_some_and(|sent| sent.on_the_way);
                    if is_sent {
                        core.slots.acknowledge(number);
                        is_changed = true;
                    }
                }
            }
            Self::EndsBeforeOffsets => {
                let is_v2 = core.level == Level::V2;
                let is_sent = |offsets: &&mut Offsets| offsets.task.is_asked && (offsets.is_added || is_v2);
                for offsets in core.offsets.iter_mut().filter(is_sent) {
                    (offsets.is_done, is_changed) = (true, true);
                }
            }
            Self::EndsEarly => {}
            Self::ChangesBatch => change(cluster, |batch| {
                // The last byte of its last value: behind it is the number of headers.
                let last = batch.len() - 2;
                batch[last] = b'x';
            }),
            // Until it is sent, this is done more than once.
            Self::ChangesSequence => change(cluster, |batch| batch[SEQUENCE + 3] |= 1),
            Self::NeverStale => core.stale = None,
            Self::AbortsCommit => core.is_ending = false,
        }
        if is_changed {
            cluster.core.advance(cluster.now);
        }
    }
}

/// Changes the batches that are to be sent again.
fn change(cluster: &mut Cluster, change: impl Fn(&mut Vec<u8>)) {
    let core = &mut cluster.core;
    for slot in core.slots.active.clone() {
        let Some(sent) = core.slots.all[slot].sent.as_mut().filter(|sent| !sent.on_the_way) else { continue };
        let mut batch = sent.bytes.to_vec();
        change(&mut batch);
        let crc = crc32c::crc32c(&batch[ATTRIBUTES..]);
        batch[CRC..CRC + 4].copy_from_slice(&crc.to_be_bytes());
        sent.bytes = batch.into();
    }
}
