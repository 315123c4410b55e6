//! Consumers: the group, the logs in their slots, PostgreSQL, and the Kafka transaction that decides.
//!
//! Two processes, two slots, two partitions. Kafka's part is told as it is: the group's coordinator compares a commit's
//! generation and member, never who owns a partition, and takes a commit without a generation while the group is empty;
//! a commit is decided at once and shows later; a slot's identity keeps its place in the group until its session
//! expires. A process that stands still is one whose next step comes late. What the program decides, its own functions say:
//! the order of a batch's steps ([`cycle::next`]), the offsets that it moves, what follows a failure, which committed length
//! an opening takes and what it cuts off, and where a partition is read from.

mod properties;
mod world;

use consumer::cycle::{self, Part};
use kafka::Failure;
use runtime::step::ConsumerStep as Done;
use stateright::{Model, Property};

use crate::check::{breaks, holds};
use properties::{AGREED, KEPT, ONCE, TABLE};
use world::{BATCH, Faults, Lock, PARTITIONS, Process, RECORDS, State, Step, Transaction, ends};

/// A guard that is taken out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Without {
    Nothing,
    /// The log checkpoint is read before `init_transactions`.
    InitFirst,
    /// A log is not cut to its committed length.
    Cut,
    /// A log is synced after Kafka's commit.
    SyncFirst,
    /// The group's offsets are committed after the transaction.
    OffsetsInside,
    /// The group's metadata is taken when the batch is committed, not when it is polled.
    MetadataOfPoll,
    /// A rebalance does not put the batch back.
    PutBack,
    /// Nor that, nor the one before.
    PutBackAndMetadata,
    /// A partition is read from its committed offset without waiting for a commit that is on its way.
    StableOffsets,
    /// A neighbour recovers a slot whose lock is held.
    SlotLock,
    /// After a commit that was sent again over another connection, the same producer continues.
    NewConnection,
    /// PostgreSQL takes each batch, whatever it has already.
    CompareAndSet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Start(usize),
    Join(usize),
    /// A heartbeat is answered; the program does not see it yet.
    Heartbeat(usize),
    /// The program learns that it has lost its partitions, and joins again.
    Lost(usize),
    Assign(usize, usize),
    Revoke(usize, usize),
    Poll(usize, usize),
    /// What the program's cycle of a batch does next.
    Next(usize),
    CommitStalls(usize),
    /// Its connection breaks, it sends the same again over another one, and the first copy is on its way still.
    CommitTwice(usize),
    CommitOffsets(usize),
    RecoverBegin(usize),
    RecoverEnd(usize),
    Crash(usize),
    PowerLoss,
    /// The session of a slot's member expires.
    Expel(usize),
    /// What a slot's producer committed shows.
    Show(usize),
    Timeout(usize),
    LateCommit(usize),
}

struct Consumers {
    without: Without,
    faults: Faults,
}

impl Consumers {
    /// Steps of the program itself and of its clients.
    fn step(&self, state: &mut State, process: &mut Process, action: Action) -> Option<()> {
        let without = self.without;
        let slot = process.slot?;
        match (action, process.step) {
            (Action::Join(_), Step::Beginning) => {
                if without == Without::InitFirst {
                    process.epoch = state.slots[slot].init()?;
                } else if let Some(length) = state.slots[slot].committed_length() {
                    process.length = length;
                } else {
                    process.step = Step::Ended;
                    return Some(());
                }
                if without != Without::Cut && state.slots[slot].cut(process.length).is_none() {
                    process.step = Step::Ended;
                    return Some(());
                }
                // Who comes back before the session expires has the place of before.
                state.generation += u8::from(state.members[slot].is_none());
                state.members[slot] = Some(process.epoch);
                (process.generation, process.step) = (Some(state.generation), Step::Polling);
            }
            (Action::Heartbeat(_), step) if step > Step::Beginning => {
                let known = state.is_member(process).then_some(state.generation);
                if process.generation == known {
                    return None;
                }
                process.generation = known;
            }
            (Action::Lost(_), Step::Polling) if process.generation.is_none() => {
                (process.owned, process.batch) = ([None; PARTITIONS], Vec::new());
                state.generation += 1;
                state.members[slot] = Some(process.epoch);
                process.generation = Some(state.generation);
            }
            (Action::Assign(_, p), Step::Polling) => {
                let fair = state.members[1 - slot].is_none() || state.owned_by(slot) <= state.owned_by(1 - slot);
                let ours = state.owners[p] == Some(slot) || (state.owners[p].is_none() && fair);
                let stable = state.is_stable(p) || without == Without::StableOffsets;
                if !state.is_current(process) || process.owned[p].is_some() || !ours || !stable {
                    return None;
                }
                process.owned[p] = Some(state.start(process, p)?);
                state.owners[p] = Some(slot);
                self.rebalanced(process);
            }
            (Action::Revoke(_, p), Step::Polling) => {
                let asked = state.members[1 - slot].is_some() && state.owned_by(1 - slot) == 0;
                if !state.is_current(process) || !asked || state.owned_by(slot) < 2 {
                    return None;
                }
                process.owned[p].take()?;
                state.owners[p] = None;
                state.generation += 1;
                process.generation = Some(state.generation);
                self.rebalanced(process);
            }
            (Action::Poll(_, p), Step::Polling) => {
                let next = process.owned[p]? + process.batch.iter().filter(|l| l.0 == p).count() as u8;
                process.generation?;
                if next >= RECORDS[p] || process.batch.len() == BATCH {
                    return None;
                }
                if process.batch.is_empty() {
                    process.polled_under = process.generation;
                }
                process.batch.push((p, next));
                state.slots[slot].synced = state.slots[slot].lines.len();
            }
            (Action::Next(_) | Action::CommitTwice(_), _) => {
                let arrives_twice = matches!(action, Action::CommitTwice(_));
                match process.next()? {
                    cycle::Action::StoreRows => {
                        for (p, offset) in &process.batch {
                            if without == Without::CompareAndSet || *offset >= state.table[*p] {
                                state.table_wrong |= *offset != state.table[*p];
                                state.table[*p] = offset + 1;
                            }
                        }
                        process.step = Step::After(Done::RowsCommitted);
                    }
                    cycle::Action::AppendLines => {
                        state.slots[slot].lines.extend(&process.batch);
                        process.step = Step::After(Done::Appended);
                    }
                    cycle::Action::SyncLines => {
                        if without != Without::SyncFirst {
                            state.slots[slot].synced = state.slots[slot].lines.len();
                        }
                        process.step = Step::After(Done::Synced);
                    }
                    cycle::Action::Transact(part) => self.transact(state, process, part, arrives_twice)?,
                }
            }
            (Action::CommitStalls(_), Step::After(Done::Synced)) => {
                state.left.stalls = state.left.stalls.checked_sub(1)?;
                state.late.push((slot, process.epoch));
                state.fail(process, Failure::Broken(String::new()));
            }
            (Action::CommitOffsets(_), Step::Owing) => {
                if state.accepts(process, process.polled_under) {
                    let ends = ends(&process.batch);
                    (0..PARTITIONS).for_each(|p| state.offsets[p] = ends[p].unwrap_or(state.offsets[p]));
                }
                process.step = Step::Polling;
                self.done(process);
            }
            (Action::RecoverBegin(_), _) if process.recovers.is_none() => {
                let other = &mut state.slots[1 - slot];
                let without_lock = without == Without::SlotLock && other.lock == Some(Lock::Held);
                if !other.unsettled || (other.lock.is_some() && !without_lock) {
                    return None;
                }
                other.init()?;
                if without_lock {
                    other.unsettled = false;
                } else {
                    other.lock = Some(Lock::Recovering);
                }
                process.recovers = Some((1 - slot, other.committed_length()?));
            }
            (Action::RecoverEnd(_), _) => {
                let (slot, checkpoint) = process.recovers.take()?;
                state.slots[slot].cut(checkpoint)?;
                state.slots[slot].unsettled = false;
                if state.slots[slot].lock == Some(Lock::Recovering) {
                    state.slots[slot].lock = None;
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// A part of the Kafka transaction; the whole of it may arrive twice.
    fn transact(&self, state: &mut State, process: &mut Process, part: Part, arrives_twice: bool) -> Option<()> {
        let (without, number) = (self.without, process.slot?);
        let slot = &mut state.slots[number];
        if slot.committing.is_some() && part != Part::Commit {
            return None;
        }
        if process.epoch != slot.epoch {
            state.fail(process, Failure::Fenced(String::new()));
            return Some(());
        }
        match part {
            Part::SendLength => {
                slot.open = Some(Transaction { length: Some(slot.lines.len()), offsets: [None; PARTITIONS] });
                let sent = if without == Without::OffsetsInside { Done::OffsetsSent } else { Done::Marked };
                process.step = Step::After(sent);
            }
            Part::SendOffsets => {
                let late = matches!(without, Without::MetadataOfPoll | Without::PutBackAndMetadata);
                let metadata = if late { process.generation } else { process.polled_under };
                if !state.accepts(process, metadata) {
                    state.fail(process, Failure::Rebalanced(String::new()));
                    return Some(());
                }
                state.slots[number].open.get_or_insert_default().offsets = process.moves();
                process.step = Step::After(Done::OffsetsSent);
            }
            Part::Commit => {
                process.length = slot.lines.len();
                slot.committing = Some(slot.open.take()?);
                process.step = if without == Without::OffsetsInside { Step::Owing } else { Step::Polling };
                if arrives_twice {
                    state.left.stalls = state.left.stalls.checked_sub(1)?;
                    state.late.push((number, process.epoch));
                    if without != Without::NewConnection {
                        state.fail(process, Failure::Stale(""));
                        return Some(());
                    }
                }
                if process.step == Step::Polling {
                    self.done(process);
                }
            }
        }
        Some(())
    }

    fn rebalanced(&self, process: &mut Process) {
        if !matches!(self.without, Without::PutBack | Without::PutBackAndMetadata) {
            process.batch.clear();
        }
    }

    /// The batch is committed.
    fn done(&self, process: &mut Process) {
        for (p, end) in ends(&process.batch).into_iter().enumerate() {
            if process.owned[p].is_some() && end.is_some() {
                process.owned[p] = end;
            }
        }
        process.batch.clear();
    }
}

impl Model for Consumers {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            offsets: [0; PARTITIONS],
            generation: 0,
            members: [None, None],
            owners: [None; PARTITIONS],
            slots: Default::default(),
            processes: Default::default(),
            late: Vec::new(),
            table: [0; PARTITIONS],
            table_wrong: false,
            left: self.faults.clone(),
        }]
    }

    /// Those that may be possible; the next state says whether they are.
    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        use Action as A;
        for (n, process) in state.processes.iter().enumerate() {
            match process.step {
                Step::Apart => actions.push(A::Start(n)),
                Step::Beginning => actions.push(A::Join(n)),
                Step::Polling => {
                    actions.extend([A::Heartbeat(n), A::Lost(n), A::Next(n)]);
                    actions.extend((0..PARTITIONS).flat_map(|p| [A::Assign(n, p), A::Revoke(n, p), A::Poll(n, p)]));
                }
                Step::After(Done::Synced) => {
                    actions.extend([A::Heartbeat(n), A::Next(n), A::CommitStalls(n), A::CommitTwice(n)]);
                }
                Step::After(_) => actions.extend([A::Heartbeat(n), A::Next(n)]),
                Step::Owing => actions.extend([A::Heartbeat(n), A::CommitOffsets(n)]),
                Step::Ended => {}
            }
            match process.recovers {
                Some(_) => actions.push(A::RecoverEnd(n)),
                None if state.slots[1 - n].unsettled => actions.push(A::RecoverBegin(n)),
                None => {}
            }
            if state.left.crashes > 0 {
                actions.push(A::Crash(n));
            }
        }
        for (n, slot) in state.slots.iter().enumerate() {
            actions.extend(state.members[n].map(|_| A::Expel(n)));
            actions.extend(slot.open.as_ref().map(|_| A::Timeout(n)));
            actions.extend(slot.committing.as_ref().map(|_| A::Show(n)));
        }
        actions.extend((0..state.late.len()).map(A::LateCommit));
        if state.left.power_losses > 0 {
            actions.push(A::PowerLoss);
        }
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        match action {
            Action::Start(n) => {
                let process = &mut state.processes[n];
                if process.step != Step::Apart {
                    return None;
                }
                let first = || state.slots.iter().position(|s| s.lock != Some(Lock::Held));
                let slot = &mut state.slots[process.slot.or_else(first)?];
                // A newcomer waits for a neighbour that recovers.
                if slot.lock == Some(Lock::Recovering) {
                    return None;
                }
                process.slot = process.slot.or_else(|| before.slots.iter().position(|s| s.lock.is_none()));
                match self.without {
                    Without::InitFirst => process.length = slot.checkpoint,
                    _ => process.epoch = slot.init()?,
                }
                (slot.lock, slot.unsettled, process.step) = (Some(Lock::Held), true, Step::Beginning);
            }
            Action::Crash(n) => {
                state.left.crashes = state.left.crashes.checked_sub(1)?;
                state.end(n)?;
            }
            Action::PowerLoss => {
                state.left.power_losses = state.left.power_losses.checked_sub(1)?;
                let ended: Vec<_> = (0..2).filter_map(|n| state.end(n)).collect();
                if ended.is_empty() {
                    return None;
                }
                state.slots.iter_mut().for_each(|s| s.lines.truncate(s.synced));
            }
            Action::Expel(slot) => {
                let alive = state.processes.iter().any(|p| p.slot == Some(slot) && state.is_member(p));
                if alive {
                    state.left.stops = state.left.stops.checked_sub(1)?;
                }
                state.leave(slot)?;
            }
            Action::Show(slot) => {
                let transaction = state.slots[slot].committing.take()?;
                state.slots[slot].checkpoint = transaction.length.unwrap_or(state.slots[slot].checkpoint);
                (0..PARTITIONS).for_each(|p| state.offsets[p] = transaction.offsets[p].unwrap_or(state.offsets[p]));
            }
            Action::Timeout(slot) => {
                state.slots[slot].open.take()?;
                state.left.timeouts = state.left.timeouts.checked_sub(1)?;
                state.slots[slot].epoch += 1;
            }
            Action::LateCommit(i) => {
                let (slot, epoch) = state.late.remove(i);
                let slot = &mut state.slots[slot];
                if slot.epoch == epoch && slot.committing.is_none() {
                    slot.committing = slot.open.take();
                }
            }
            Action::Join(n)
            | Action::Heartbeat(n)
            | Action::Lost(n)
            | Action::Assign(n, _)
            | Action::Revoke(n, _)
            | Action::Poll(n, _)
            | Action::Next(n)
            | Action::CommitTwice(n)
            | Action::CommitStalls(n)
            | Action::CommitOffsets(n)
            | Action::RecoverBegin(n)
            | Action::RecoverEnd(n) => {
                let mut process = state.processes[n].clone();
                self.step(&mut state, &mut process, action)?;
                state.processes[n] = process;
            }
        }
        Some(state.normalized())
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::of(&self.faults)
    }
}

const NONE: Faults = Faults { crashes: 0, power_losses: 0, stops: 0, stalls: 0, timeouts: 0 };
const CRASH: Faults = Faults { crashes: 1, ..NONE };
const STOP: Faults = Faults { stops: 1, ..NONE };

#[test]
fn the_consumers_keep_the_promise() {
    let run = |faults: Faults| {
        holds(&format!("consumers, {faults:?}"), Consumers { without: Without::Nothing, faults });
    };
    run(CRASH);
    run(STOP);
    run(Faults { power_losses: 1, ..NONE });
    run(Faults { stalls: 1, ..NONE });
    run(Faults { timeouts: 1, ..NONE });
}

/// It saves the work of a batch whose commit would be refused.
#[test]
fn the_promise_does_not_need_the_batch_to_be_put_back() {
    holds("consumers, batch kept over a rebalance", Consumers { without: Without::PutBack, faults: NONE });
}

#[test]
#[ignore = "takes minutes: for after a change of the protocol"]
fn the_consumers_keep_the_promise_under_two_faults() {
    let run = |faults: Faults| {
        holds(&format!("consumers, {faults:?}"), Consumers { without: Without::Nothing, faults });
    };
    run(Faults { stops: 1, timeouts: 1, ..NONE });
    run(Faults { stops: 1, stalls: 1, ..NONE });
    run(Faults { crashes: 1, stops: 1, ..NONE });
}

#[test]
fn each_guard_of_the_consumer_is_needed() {
    let run = |name, without, faults, property| breaks(name, Consumers { without, faults }, property);
    run("log checkpoint read before init_transactions", Without::InitFirst, CRASH, KEPT);
    run("no cut to the committed length", Without::Cut, CRASH, ONCE);
    run("sync after Kafka's commit", Without::SyncFirst, Faults { power_losses: 1, ..NONE }, KEPT);
    run("offsets outside of the transaction", Without::OffsetsInside, CRASH, ONCE);
    run("metadata of the commit, batch kept over a rebalance", Without::PutBackAndMetadata, NONE, ONCE);
    run("metadata of the commit", Without::MetadataOfPoll, Faults { stops: 2, ..NONE }, ONCE);
    run("offsets read that are not stable", Without::StableOffsets, STOP, ONCE);
    run("recovered without the slot's lock", Without::SlotLock, NONE, KEPT);
    let stall = Faults { stalls: 1, ..NONE };
    run("the same producer after a broken connection", Without::NewConnection, stall, AGREED);
    run("PostgreSQL without compare-and-set", Without::CompareAndSet, STOP, TABLE);
}
