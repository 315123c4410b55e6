//! A transactional producer without sockets and clocks: bytes and times go in, bytes and deadlines come out.
//!
//! Invariants, each with a test:
//! - A batch is sent only to a partition whose addition to this transaction was answered with success. On V1 it would
//!   land in the transaction before, which was just committed.
//! - A batch that was sent keeps its bytes. One batch of a partition is on its way at a time.
//! - EndTxn with a commit is sent only when every batch and every offset is acknowledged. Once it was sent, nothing but
//!   the same EndTxn follows in the transaction.
//! - On V1 no transaction begins after one in which a request lost its answer.
//!
//! Sources: KIP-98, KIP-890, and Kafka's Java client 4.1 (`TransactionManager`, `Sender`).

mod answers;
mod nodes;
mod transaction;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::time::{Duration, Instant};

use super::failure::Failure;
use super::link::{Arrived, Closed, Greeting, Link, Subject};
use super::pause::{Length, Pause};
use super::slots::Slots;
use crate::wire::answers::Address;
use crate::wire::compression::Compression;
use crate::wire::record_batch::Record;
use crate::wire::requests::{Coordinates, GroupMember, GroupOffset, Identity, Level};

/// Bytes of records at which batches are closed within a transaction when the brokers have nothing to do.
const SEND_FROM: usize = 1 << 20;
/// Bytes of records at which they are closed in any case.
const SEND_AT: usize = 4 << 20;
/// Bytes of records after which it is looked whether the brokers have something to do.
const LOOK_AFTER: usize = 256 << 10;

/// How a producer is set up.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) transactional_id: String,
    pub(crate) transaction_timeout: Duration,
    pub(crate) compression: Compression,
    /// The first brokers to ask; there is one at least.
    pub(crate) bootstrap: Vec<Address>,
    pub(crate) greeting: Greeting,
}

/// What the producer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It has fenced nobody.
    Uninitialised,
    /// As before; it connects to its coordinator.
    Connecting,
    /// It asks for an id and epoch.
    Initialising,
    /// A transaction may begin.
    Ready,
    /// A transaction is open.
    Open,
    /// Everything is sent, then the transaction is committed.
    Committing,
    /// The transaction is aborted.
    Aborting,
}

/// Something that is asked of one broker, again and again until it succeeds.
#[derive(Clone, Copy, Debug, Default)]
struct Task {
    is_asked: bool,
    pause: Pause,
}

impl Task {
    fn may_be_asked(&self, now: Instant) -> bool {
        !self.is_asked && self.pause.is_over(now)
    }
}

/// The broker that coordinates something.
#[derive(Clone, Copy, Debug, Default)]
struct Seat {
    node: Option<i32>,
    search: Task,
}

/// The offsets of a group in the transaction.
#[derive(Clone, Debug)]
struct Offsets {
    member: GroupMember,
    /// By topic and partition, in this order.
    of: Vec<GroupOffset>,
    /// The group is part of the transaction: not needed on V2.
    is_added: bool,
    is_done: bool,
    task: Task,
}

/// A connection's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LinkId(pub(crate) usize);

/// See the module.
pub(crate) struct Core {
    options: Options,
    pub(crate) links: BTreeMap<LinkId, Link>,
    next_link: usize,
    dials: Vec<(LinkId, Address)>,
    /// The next bootstrap address.
    bootstrap: usize,
    dial_pauses: HashMap<Address, Pause>,
    nodes: BTreeMap<i32, Address>,
    slots: Slots,
    /// The number of each topic's partitions, as far as known.
    counts: HashMap<String, usize>,
    leaders: Task,
    /// Leaders are wanted though no slot lacks one.
    leaders_wanted: bool,
    /// How often leaders were answered.
    leaders_answers: u64,
    transactions_at: Seat,
    group_at: Seat,
    /// The group of `group_at`.
    group: String,
    identity: Option<Identity>,
    level: Level,
    stage: Stage,
    /// Initialisation, addition of partitions, or the end, one after the other.
    step: Task,
    offsets: Option<Offsets>,
    /// Whether the coordinator may know of the transaction: on V1 it refuses to end one that it does not know.
    is_known: bool,
    /// A commit was sent: nothing but the same may follow.
    is_ending: bool,
    /// A request of the transaction lost its answer.
    is_unanswered: bool,
    stale: Option<&'static str>,
    failure: Option<Failure>,
    /// The last error that another try may heal.
    trouble: Option<String>,
    /// Bytes of records at which [`Self::push`] says that it is time.
    look_at: usize,
}

impl Core {
    pub(crate) fn new(options: Options) -> Self {
        Self {
            options,
            links: BTreeMap::new(),
            next_link: 0,
            dials: Vec::new(),
            bootstrap: 0,
            dial_pauses: HashMap::new(),
            nodes: BTreeMap::new(),
            slots: Slots::default(),
            counts: HashMap::new(),
            leaders: Task::default(),
            leaders_wanted: false,
            leaders_answers: 0,
            transactions_at: Seat::default(),
            group_at: Seat::default(),
            group: String::new(),
            identity: None,
            level: Level::V1,
            stage: Stage::Uninitialised,
            step: Task::default(),
            offsets: None,
            is_known: false,
            is_ending: false,
            is_unanswered: false,
            stale: None,
            failure: None,
            trouble: None,
            look_at: SEND_FROM,
        }
    }

    pub(crate) fn stage(&self) -> Stage {
        self.stage
    }

    /// The kind of its transactions, known after the initialisation.
    pub(crate) fn level(&self) -> Level {
        self.level
    }

    /// Why the transaction, or the producer, has failed.
    pub(crate) fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    /// What went wrong last and is tried again.
    pub(crate) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Why no transaction may begin.
    pub(crate) fn stale(&self) -> Option<&'static str> {
        self.stale
    }

    /// Bytes of records that are not acknowledged.
    pub(crate) fn buffered(&self) -> usize {
        self.slots.buffered()
    }

    /// Finds the coordinator, and the leaders of the topic's partitions.
    pub(crate) fn connect(&mut self, topic: &str) {
        self.stage = Stage::Connecting;
        self.ask_for_leaders(topic);
    }

    /// Whether its coordinator takes requests, and leaders were answered.
    pub(crate) fn is_connected(&self) -> bool {
        let is_coordinator =
            |link: &Link| link.node.is_some() && link.node == self.transactions_at.node && link.is_open();
        self.leaders_answers > 0 && self.links.values().any(is_coordinator)
    }

    /// Asks for an id and epoch.
    pub(crate) fn initialise(&mut self) {
        self.stage = Stage::Initialising;
        self.step = Task::default();
    }

    /// Begins a transaction.
    pub(crate) fn begin(&mut self) {
        debug_assert_eq!(self.stage, Stage::Ready);
        self.stage = Stage::Open;
        (self.is_known, self.is_ending, self.is_unanswered) = (false, false, false);
        (self.step, self.offsets, self.trouble) = (Task::default(), None, None);
        self.look_at = SEND_FROM;
    }

    /// Adds a record to the transaction; returns whether it is time to read answers and to [`Self::seal_enough`].
    ///
    /// # Errors
    /// When records can't be compressed.
    pub(crate) fn push(&mut self, topic: &str, partition: i32, record: &Record<'_>) -> io::Result<bool> {
        self.slots.push(topic, partition, record, self.options.compression)?;
        let is_due = self.slots.open() >= self.look_at;
        if is_due {
            self.look_at = self.slots.open() + LOOK_AFTER;
        }
        Ok(is_due)
    }

    /// Closes the batches of all records when the brokers have nothing to do, or when there are many: the longer a
    /// broker takes, the larger its next batches.
    ///
    /// # Errors
    /// When records can't be compressed.
    pub(crate) fn seal_enough(&mut self) -> io::Result<()> {
        let is_idle = self.slots.buffered() == self.slots.open();
        if self.slots.open() >= SEND_AT || (is_idle && self.slots.open() >= SEND_FROM) {
            self.slots.seal(self.options.compression)?;
            self.look_at = SEND_FROM;
        }
        Ok(())
    }

    /// Adds a group's offsets to the transaction: the next record's, by topic and partition, in this order.
    pub(crate) fn send_offsets(&mut self, member: GroupMember, of: Vec<GroupOffset>) {
        if self.group != member.group {
            self.group.clone_from(&member.group);
            self.group_at = Seat::default();
        }
        self.offsets = Some(Offsets { member, of, is_added: false, is_done: false, task: Task::default() });
    }

    /// Whether the offsets are acknowledged.
    pub(crate) fn has_offsets(&self) -> bool {
        self.offsets.as_ref().is_none_or(|offsets| offsets.is_done)
    }

    /// Sends everything.
    ///
    /// # Errors
    /// When records can't be compressed.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.slots.seal(self.options.compression)
    }

    /// Sends everything, and commits.
    ///
    /// # Errors
    /// When records can't be compressed.
    pub(crate) fn commit(&mut self) -> io::Result<()> {
        self.flush()?;
        self.stage = Stage::Committing;
        Ok(())
    }

    /// Aborts, unless a commit was sent.
    pub(crate) fn abort(&mut self) {
        self.failure.take_if(|failure| failure.is_abortable());
        if self.is_ending {
            self.fail(Failure::Broken("a commit was sent, and its outcome is not known".to_owned()));
            return;
        }
        self.stage = Stage::Aborting;
        self.step.pause = Pause::default();
    }

    /// The failure counts unless there is one that says more.
    fn fail(&mut self, failure: Failure) {
        if self.stage == Stage::Aborting && failure.is_abortable() {
            // What is aborted may have failed.
            return;
        }
        let rank = |failure: &Failure| match failure {
            Failure::Abortable(_) | Failure::Rebalanced(_) => 0,
            Failure::Refused { .. } | Failure::OtherCount { .. } => 1,
            Failure::Stale(_) | Failure::Broken(_) => 2,
            Failure::Fenced(_) => 3,
        };
        if self.failure.as_ref().is_none_or(|before| rank(before) < rank(&failure)) {
            self.failure = Some(failure);
        }
    }

    /// Asks for the leaders of the topic's partitions; [`Self::leaders_answers`] grows with each answer.
    pub(crate) fn ask_for_leaders(&mut self, topic: &str) {
        self.slots.topic(topic);
        self.leaders_wanted = true;
    }

    /// How often brokers have answered who leads.
    pub(crate) fn leaders_answers(&self) -> u64 {
        self.leaders_answers
    }

    /// The number of the topic's partitions, as far as a broker has answered.
    pub(crate) fn partition_count(&self, topic: &str) -> Option<usize> {
        self.counts.get(topic).copied()
    }

    /// The connections that are to be made.
    pub(crate) fn take_dials(&mut self) -> Vec<(LinkId, Address)> {
        std::mem::take(&mut self.dials)
    }

    /// The socket of a link is connected.
    pub(crate) fn connected(&mut self, id: LinkId, now: Instant) {
        if let Some(link) = self.links.get_mut(&id) {
            link.connected(&self.options.greeting, now);
        }
    }

    /// Bytes were read into [`Link::incoming`].
    ///
    /// # Errors
    /// When the link must be closed; it is forgotten already.
    pub(crate) fn received(&mut self, id: LinkId, now: Instant) -> Result<(), Closed> {
        loop {
            let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
            let arrived = link.arrived(&self.options.greeting, now).inspect_err(|why| self.closed(id, why, now))?;
            match arrived {
                None => return Ok(()),
                Some(Arrived::Ready) => self.link_is_ready(id),
                Some(Arrived::Answer(subject, answer)) => self.answered(id, subject, answer, now),
            }
        }
    }

    /// Makes all requests that are due. Returns the links that must be closed; they are forgotten already.
    pub(crate) fn advance(&mut self, now: Instant) -> Vec<LinkId> {
        let mut closed = Vec::new();
        for id in self.links.keys().copied().collect::<Vec<_>>() {
            let Some(link) = self.links.get_mut(&id) else { continue };
            if let Err(why) = link.pass(&self.options.greeting, now) {
                self.closed(id, &why, now);
                closed.push(id);
            }
        }
        let is_usable = !matches!(self.failure, Some(Failure::Broken(_) | Failure::Fenced(_)));
        match self.stage {
            Stage::Connecting => drop(self.coordinator_link(Coordinates::Transactions, now)),
            Stage::Initialising if self.failure.is_none() => self.ask_for_identity(now),
            Stage::Open | Stage::Committing if self.failure.is_none() => self.send(now),
            Stage::Aborting if is_usable => self.end_aborted(now),
            _ => {}
        }
        self.find_leaders(now);
        closed
    }

    /// Whether a commit was sent that has no answer yet.
    pub(crate) fn is_ending(&self) -> bool {
        self.is_ending
    }

    /// The next time at which [`Self::advance`] has something to do without a new answer.
    pub(crate) fn deadline(&self, now: Instant) -> Option<Instant> {
        let links = self.links.values().filter_map(|link| link.deadline(now));
        let tasks = [self.leaders, self.transactions_at.search, self.group_at.search, self.step];
        let tasks = tasks.into_iter().chain(self.offsets.as_ref().map(|offsets| offsets.task));
        let slots = self.slots.active.iter().filter_map(|slot| self.slots.all[*slot].pause.until(now));
        let dials = self.dial_pauses.values().filter_map(|pause| pause.until(now));
        links.chain(tasks.filter_map(|task| task.pause.until(now))).chain(slots).chain(dials).min()
    }

    /// Finds who coordinates: the node, when it is known.
    fn coordinator(&mut self, of: Coordinates, now: Instant) -> Option<i32> {
        let seat = match of {
            Coordinates::Group => self.group_at,
            Coordinates::Transactions => self.transactions_at,
        };
        if seat.node.is_none() && seat.search.may_be_asked(now) {
            let key = match of {
                Coordinates::Group => self.group.clone(),
                Coordinates::Transactions => self.options.transactional_id.clone(),
            };
            let link = self.any_link(now)?;
            let ask = |out: &mut Vec<u8>| crate::wire::requests::find_coordinator(of, &key, out);
            if self.ask(link, Subject::Coordinator(of), now, ask) {
                self.seat(of).search.is_asked = true;
            }
        }
        seat.node
    }

    fn seat(&mut self, of: Coordinates) -> &mut Seat {
        match of {
            Coordinates::Group => &mut self.group_at,
            Coordinates::Transactions => &mut self.transactions_at,
        }
    }

    /// The coordinator is not where it was: looks for it again after a pause.
    fn lose_coordinator(&mut self, of: Coordinates, now: Instant) {
        let seat = self.seat(of);
        seat.node = None;
        seat.search.pause.again(Length::Usual, now);
    }
}

#[cfg(test)]
mod tests;
