//! What there is: the group, the slots, the processes, PostgreSQL.

use std::collections::BTreeMap;

use consumer::batch_error::BatchError;
use consumer::cycle::{self, GroupView};
use consumer::lineage::{Log, Note, Owner};
use consumer::opening::{Found, Settlement};
use consumer::slot_name::{Name, SlotId};
use consumer::start_offset::{Facts, judge};
use kafka::slots::{FolderId, LogCheckpoint};
use kafka::{Failure, Partition};
use runtime::step::ConsumerStep;

/// Records of each partition.
pub(super) const RECORDS: [u8; PARTITIONS] = [2, 1];
pub(super) const PARTITIONS: usize = 2;
/// Records of a batch.
pub(super) const BATCH: usize = 2;

#[derive(Clone, Debug, Default, Hash, PartialEq, Eq)]
pub(super) struct Faults {
    pub(super) crashes: u8,
    pub(super) power_losses: u8,
    /// Processes that stand still for longer than their session.
    pub(super) stops: u8,
    /// Commits whose sender stops waiting before they arrive, or of which a copy arrives late.
    pub(super) stalls: u8,
    /// Transactions that outlive their timeout.
    pub(super) timeouts: u8,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub(super) struct State {
    /// The group's.
    pub(super) offsets: [u8; PARTITIONS],
    pub(super) generation: u8,
    /// The member that has the slot's name: the epoch of its producer tells it from others before it.
    pub(super) members: [Option<u8>; 2],
    /// Slots, by partition.
    pub(super) owners: [Option<usize>; PARTITIONS],
    pub(super) slots: [Slot; 2],
    pub(super) processes: [Process; 2],
    /// Commits that arrive late: slot and epoch.
    pub(super) late: Vec<(usize, u8)>,
    /// What PostgreSQL has, by partition; and whether it ever took a record out of its turn.
    pub(super) table: [u8; PARTITIONS],
    pub(super) table_wrong: bool,
    pub(super) left: Faults,
}

/// Partition and offset.
pub(super) type Line = (usize, u8);

#[derive(Clone, Debug, Default, Hash, PartialEq, Eq)]
pub(super) struct Slot {
    /// The newest epoch of its transactional id.
    pub(super) epoch: u8,
    pub(super) open: Option<Transaction>,
    pub(super) committing: Option<Transaction>,
    /// The committed length, as a reader of committed data sees it.
    pub(super) checkpoint: usize,
    pub(super) lines: Vec<Line>,
    /// Lines that outlive a power loss.
    pub(super) synced: usize,
    pub(super) lock: Option<Lock>,
    /// Its log may end with lines that nobody committed.
    pub(super) unsettled: bool,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(super) enum Lock {
    Held,
    Recovering,
}

#[derive(Clone, Debug, Default, Hash, PartialEq, Eq)]
pub(super) struct Transaction {
    /// In the log checkpoint.
    pub(super) length: Option<usize>,
    pub(super) offsets: [Option<u8>; PARTITIONS],
}

#[derive(Clone, Debug, Default, Hash, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) slot: Option<usize>,
    pub(super) step: Step,
    pub(super) epoch: u8,
    /// The committed length, as it knows it.
    pub(super) length: usize,
    /// `None` when it knows that it is no member any more.
    pub(super) generation: Option<u8>,
    /// Its partitions, as it knows them, with their committed offsets.
    pub(super) owned: [Option<u8>; PARTITIONS],
    pub(super) batch: Vec<Line>,
    /// The generation that the batch was polled under.
    pub(super) polled_under: Option<u8>,
    /// The slot that its other thread recovers, and that slot's log checkpoint.
    pub(super) recovers: Option<(usize, usize)>,
}

#[derive(Clone, Copy, Debug, Default, Hash, PartialEq, Eq, PartialOrd)]
pub(super) enum Step {
    /// It has no clients.
    #[default]
    Apart,
    /// The first thing is done: `init_transactions`; without the guard, the log checkpoint is read.
    Beginning,
    Polling,
    /// Behind this step of the program's.
    After(ConsumerStep),
    /// With an error that only a person can repair.
    Ended,
    /// Without the guard: the offsets are still to be committed.
    Owing,
}

impl Slot {
    /// `init_transactions`; not before what is being committed is done.
    pub(super) fn init(&mut self) -> Option<u8> {
        if self.committing.is_some() {
            return None;
        }
        self.open = None;
        self.epoch += 1;
        Some(self.epoch)
    }

    /// The committed length that an opening of the log finds; `None` when the log is refused.
    pub(super) fn committed_length(&self) -> Option<usize> {
        let (topic, group, session) = ("t", "g", || "s".to_owned());
        let name = Name { slot: SlotId(1), folder: FolderId::parse("aaaaaaaa") };
        let checkpoint = name.key(group);
        let owner = Owner::Note(Note {
            topic: topic.to_owned(),
            group: group.to_owned(),
            checkpoint,
            session: session(),
            next: session(),
        });
        let log = Log { length: self.lines.len() as u64, topic, group, name: &name, owner: &owner, legacy: false };
        let own = LogCheckpoint { length: self.checkpoint as u64, session: session(), ..LogCheckpoint::default() };
        let found = Found { own: Some(own), former: None };
        let step = found.decide(&log).ok()?;
        Some(found.committed(step).length as usize)
    }

    /// Cuts off what is behind the committed length; `None` when committed lines are missing.
    pub(super) fn cut(&mut self, committed: usize) -> Option<()> {
        match Settlement::of(self.lines.len() as u64, committed as u64) {
            Settlement::Keep => {}
            Settlement::Cut(surplus) => self.lines.truncate(self.lines.len() - surplus as usize),
            Settlement::Lost(_) => return None,
        }
        self.synced = self.lines.len();
        Some(())
    }

    /// Where the first lines of this number leave a partition; `None` without one of its records.
    fn reaches(&self, lines: usize, partition: usize) -> Option<i64> {
        let of_partition = self.lines.iter().take(lines).filter(|line| line.0 == partition);
        of_partition.map(|line| i64::from(line.1) + 1).max()
    }
}

impl Process {
    /// What the program's cycle does next.
    pub(super) fn next(&self) -> Option<cycle::Action> {
        match self.step {
            Step::Polling if !self.batch.is_empty() => cycle::next(ConsumerStep::Polled),
            Step::After(step) => cycle::next(step),
            _ => None,
        }
    }

    /// The offsets that the batch's transaction moves.
    pub(super) fn moves(&self) -> [Option<u8>; PARTITIONS] {
        let offsets = |of: [Option<u8>; PARTITIONS]| {
            let known = of.into_iter().zip(0..).filter_map(|(next, number)| Some((number, next?)));
            known.map(|(number, next)| (Partition::main(number), i64::from(next))).collect::<BTreeMap<_, _>>()
        };
        let view = GroupView { changes: 0, metadata: self.polled_under, committed: offsets(self.owned) };
        let moved = view.moves(offsets(ends(&self.batch)).into_iter());
        std::array::from_fn(|p| moved.get(&Partition::main(p as i32)).map(|next| *next as u8))
    }

    /// Throws its clients away.
    pub(super) fn part(&mut self) {
        *self = Self { slot: self.slot, recovers: self.recovers, ..Self::default() };
    }
}

impl State {
    pub(super) fn is_member(&self, process: &Process) -> bool {
        process.slot.is_some_and(|slot| self.members[slot] == Some(process.epoch)) && process.step != Step::Apart
    }

    pub(super) fn is_current(&self, process: &Process) -> bool {
        self.is_member(process) && process.generation == Some(self.generation)
    }

    pub(super) fn owned_by(&self, slot: usize) -> usize {
        self.owners.iter().filter(|o| **o == Some(slot)).count()
    }

    /// Whether the group takes offsets from this member under this generation.
    pub(super) fn accepts(&self, process: &Process, generation: Option<u8>) -> bool {
        match generation {
            Some(g) => self.is_member(process) && g == self.generation,
            None => self.members == [None, None],
        }
    }

    /// Where the program reads a partition from; `None` when it does not.
    pub(super) fn start(&self, process: &Process, partition: usize) -> Option<u8> {
        let group = Some(i64::from(self.offsets[partition])).filter(|next| *next > 0);
        let written = self.slots.iter().filter_map(|slot| slot.reaches(slot.checkpoint, partition)).max();
        let done = self.slots[process.slot?].reaches(process.length, partition);
        let bounds = (0, i64::from(RECORDS[partition]));
        judge(Facts::new((group, group.is_some()), written, done, bounds)).ok().map(|start| start.from as u8)
    }

    /// What the program does after a failure of its transaction.
    pub(super) fn fail(&mut self, process: &mut Process, failure: Failure) {
        let Some(slot) = process.slot else { return };
        match BatchError::of(failure) {
            BatchError::Rebalanced | BatchError::Retry(_) => {
                // Aborted and rolled back.
                self.slots[slot].open = None;
                let is_whole = self.slots[slot].cut(process.length).is_some();
                process.batch.clear();
                process.step = if is_whole { Step::Polling } else { Step::Ended };
            }
            BatchError::Reconnect { .. } => process.part(),
            BatchError::Fatal(_) => process.step = Step::Ended,
        }
    }

    pub(super) fn is_stable(&self, partition: usize) -> bool {
        let pending = self.slots.iter().flat_map(|s| [&s.open, &s.committing]).flatten();
        pending.into_iter().all(|t| t.offsets[partition].is_none())
    }

    pub(super) fn leave(&mut self, slot: usize) -> Option<()> {
        self.members[slot].take()?;
        self.generation += 1;
        self.owners.iter_mut().filter(|o| **o == Some(slot)).for_each(|o| *o = None);
        Some(())
    }

    /// The process ends, and the operating system frees its locks.
    pub(super) fn end(&mut self, n: usize) -> Option<()> {
        let process = std::mem::take(&mut self.processes[n]);
        self.slots[process.slot?].lock = None;
        if let Some((slot, _)) = process.recovers {
            self.slots[slot].lock = None;
        }
        Some(())
    }
}

impl State {
    /// The same state with other names: only whether a generation or an epoch is the newest counts, who is fenced stays
    /// so, and a process is known by its slot. There are fewer states to explore then.
    pub(super) fn normalized(mut self) -> Self {
        if self.processes[0].slot == Some(1) || self.processes[1].slot == Some(0) {
            self.processes.swap(0, 1);
        }
        let newest = std::mem::replace(&mut self.generation, 1);
        for generation in self.processes.iter_mut().flat_map(|p| [&mut p.generation, &mut p.polled_under]).flatten() {
            *generation = u8::from(*generation == newest);
        }
        for (n, slot) in self.slots.iter_mut().enumerate() {
            let newest = std::mem::replace(&mut slot.epoch, 2);
            self.late.retain(|(of, epoch)| *of != n || *epoch == newest);
            let own = self.processes[n].epoch;
            let renamed = |epoch: u8| if epoch == newest { 2 } else { u8::from(epoch == own) };
            self.late.iter_mut().filter(|(of, _)| *of == n).for_each(|(_, epoch)| *epoch = 2);
            self.members[n] = self.members[n].map(renamed);
            self.processes[n].epoch = renamed(own);
        }
        self
    }
}

/// Where each partition continues after a batch.
pub(super) fn ends(batch: &[Line]) -> [Option<u8>; PARTITIONS] {
    let mut ends = [None; PARTITIONS];
    batch.iter().for_each(|(partition, offset)| ends[*partition] = Some(offset + 1));
    ends
}
