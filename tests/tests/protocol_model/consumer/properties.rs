//! The promise, and the windows that must be reached for it to mean something.

use runtime::step::ConsumerStep as Done;
use stateright::Property;

use super::Consumers;
use super::world::{Faults, Lock, PARTITIONS, Process, RECORDS, Slot, State, Step};
use crate::check::is_quiet;

pub(super) const ONCE: &str = "each record in one log, once and in order";
/// Or a crash doubles.
pub(super) const AGREED: &str = "the offsets are those of the logs";
pub(super) const KEPT: &str = "what is committed is on the disk";
pub(super) const TABLE: &str = "PostgreSQL takes each record once and in order";

pub(super) fn of(faults: &Faults) -> Vec<Property<Consumers>> {
    fn log(slot: &Slot, partition: usize) -> Vec<u8> {
        slot.lines.iter().take(slot.checkpoint).filter(|l| l.0 == partition).map(|l| l.1).collect()
    }
    fn in_the_logs(state: &State, partition: usize) -> Vec<u8> {
        let mut all = state.slots.iter().flat_map(|s| log(s, partition)).collect::<Vec<_>>();
        all.sort_unstable();
        all
    }
    let mut properties = vec![
        Property::always(ONCE, |_, s: &State| {
            (0..PARTITIONS).all(|p| {
                let all = in_the_logs(s, p);
                all.iter().copied().eq(0..all.len() as u8) && s.slots.iter().all(|s| log(s, p).is_sorted())
            })
        }),
        Property::always(AGREED, |_, s: &State| {
            (0..PARTITIONS).all(|p| in_the_logs(s, p).len() == usize::from(s.offsets[p]))
        }),
        Property::always(KEPT, |_, s: &State| s.slots.iter().all(|s| s.checkpoint <= s.lines.len())),
        Property::always(TABLE, |_, s: &State| !s.table_wrong),
        Property::always("in the end all is there, and no more", |model, s: &State| {
            let clean = s.slots.iter().all(|s| s.lines.len() == s.checkpoint);
            (s.offsets == RECORDS && s.table == RECORDS && clean) || !is_quiet(model, s)
        }),
        Property::sometimes("all is there after every fault", |_, s: &State| {
            s.offsets == RECORDS && s.left == Faults::default()
        }),
    ];
    let Faults { crashes, stops, stalls, timeouts, .. } = *faults;
    if crashes > 0 {
        properties.push(Property::sometimes("a crash leaves lines that nobody committed", |_, s: &State| {
            s.slots.iter().any(|s| s.lock.is_none() && s.committing.is_none() && s.lines.len() > s.checkpoint)
        }));
        properties.push(Property::sometimes("a crash leaves a decided commit that nobody sees", |_, s: &State| {
            s.slots.iter().any(|s| s.lock.is_none() && s.committing.is_some())
        }));
        properties.push(Property::sometimes("a neighbour recovers a slot", |_, s: &State| {
            s.slots.iter().any(|s| s.lock == Some(Lock::Recovering) && s.lines.len() > s.checkpoint)
        }));
    }
    if stops > 0 {
        properties.push(Property::sometimes("a zombie has written records that are another's", |_, s: &State| {
            let zombie = |p: &Process| {
                p.step == Step::After(Done::Appended)
                    && p.batch.iter().any(|l| s.owners[l.0].is_some_and(|o| Some(o) != p.slot))
            };
            s.processes.iter().any(zombie)
        }));
        properties.push(Property::sometimes("a zombie has written, and the group is empty", |_, s: &State| {
            s.members == [None, None] && s.processes.iter().any(|p| p.step == Step::After(Done::Appended))
        }));
    }
    if stalls > 0 {
        properties.push(Property::sometimes("a late commit finds its transaction open", |_, s: &State| {
            s.late.iter().any(|(slot, epoch)| s.slots[*slot].epoch == *epoch && s.slots[*slot].open.is_some())
        }));
    }
    if timeouts > 0 {
        properties.push(Property::sometimes("a transaction outlives its timeout", |_, s: &State| {
            s.processes.iter().zip(&s.slots).any(|(p, s)| p.step == Step::After(Done::Synced) && p.epoch != s.epoch)
        }));
    }
    properties
}
