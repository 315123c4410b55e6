//! The requests of a transaction, each as soon as it may be sent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::link::Subject;
use super::super::slots::{Membership, Slot};
use super::{Core, LinkId, Stage};
use crate::wire::bytes::{put_compact, put_count, put_no_tags, put_uvarint};
use crate::wire::frame::Piece;
use crate::wire::requests::{self, Coordinates, Identity, Level};

/// Bytes of batches in a Produce request, from which on the next batch waits for the next request.
const REQUEST: usize = 4 << 20;
/// Produce requests to a broker without an answer: it takes one after the other.
const IN_FLIGHT: usize = 2;
/// How long a broker may take for a Produce request; below the time after which the connection is broken.
const PRODUCE_WITHIN: Duration = Duration::from_secs(15);
/// A batch of less is copied into the request; a larger one is written from where it is.
const COPIED: usize = 4 << 10;

impl Core {
    pub(super) fn ask_for_identity(&mut self, now: Instant) {
        let Some(link) = self.coordinator_link(Coordinates::Transactions, now) else { return };
        if !self.step.may_be_asked(now) {
            return;
        }
        let id = self.options.transactional_id.clone();
        let timeout = i32::try_from(self.options.transaction_timeout.as_millis()).unwrap_or(i32::MAX);
        let body = |out: &mut Vec<u8>| requests::init_producer_id(&id, timeout, out);
        self.step.is_asked = self.ask(link, Subject::Initialise, now, body);
    }

    pub(super) fn coordinator_link(&mut self, of: Coordinates, now: Instant) -> Option<LinkId> {
        let node = self.coordinator(of, now)?;
        let is_linked = self.links.values().any(|link| link.node == Some(node));
        if !is_linked && !self.nodes.contains_key(&node) {
            // The brokers that were answered last are without it.
            self.lose_coordinator(of, now);
            return None;
        }
        self.link_to(node, now)
    }

    /// Sends what may be sent of an open transaction, and its end when a commit was asked for.
    pub(super) fn send(&mut self, now: Instant) {
        let Some(producer) = self.identity else { return };
        self.slots.put_in_order();
        self.add_partitions(producer, now);
        self.produce(producer, now);
        self.commit_offsets(producer, now);
        if self.stage == Stage::Committing && self.is_complete() {
            self.end(producer, true, now);
        }
    }

    /// Whether everything is acknowledged.
    pub(crate) fn is_complete(&self) -> bool {
        self.has_offsets() && self.slots.active.iter().all(|slot| self.slots.all[*slot].is_done())
    }

    /// Adds all partitions that have something to send: one request for a transaction that was written at once.
    fn add_partitions(&mut self, producer: Identity, now: Instant) {
        let is_new = |slot: &Slot| slot.membership == Membership::Out && slot.has_batch();
        let all = &self.slots.all;
        if !self.step.may_be_asked(now) || !self.slots.active.iter().any(|slot| is_new(&all[*slot])) {
            return;
        }
        let Some(link) = self.coordinator_link(Coordinates::Transactions, now) else { return };
        let new = self.slots.active.iter().copied().filter(|slot| is_new(&self.slots.all[*slot]));
        let new: Vec<usize> = new.collect();
        let place = |slot: &usize| {
            let slot = &self.slots.all[*slot];
            (self.slots.name(slot.topic), slot.partition)
        };
        let mut body = Vec::new();
        let places: Vec<(&str, i32)> = new.iter().map(place).collect();
        requests::add_partitions(&self.options.transactional_id, producer, &places, &mut body);
        if self.ask(link, Subject::AddPartitions(new.clone()), now, |out| out.extend_from_slice(&body)) {
            self.step.is_asked = true;
            new.iter().for_each(|slot| self.slots.all[*slot].membership = Membership::Asked);
        }
    }

    /// Their addition failed, or nobody knows.
    pub(super) fn not_added(&mut self, slots: &[usize]) {
        for slot in slots {
            let membership = &mut self.slots.all[*slot].membership;
            if *membership == Membership::Asked {
                *membership = Membership::Out;
            }
        }
    }

    /// Sends each broker the batches of the partitions that it leads, all in one request.
    fn produce(&mut self, producer: Identity, now: Instant) {
        let is_due = |slot: &Slot| slot.membership == Membership::In && slot.has_batch() && slot.pause.is_over(now);
        let mut by_leader: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
        for number in &self.slots.active {
            let slot = &self.slots.all[*number];
            if let Some(leader) = slot.leader
                && is_due(slot)
            {
                by_leader.entry(leader).or_default().push(*number);
            }
        }
        for (leader, slots) in by_leader {
            let Some(id) = self.link_to(leader, now) else { continue };
            if self.links.get(&id).is_some_and(|link| link.produces() < IN_FLIGHT) {
                self.produce_at(id, producer, &slots, now);
            }
        }
    }

    fn produce_at(&mut self, id: LinkId, producer: Identity, slots: &[usize], now: Instant) {
        let mut bytes = 0;
        let mut batches: Vec<(usize, Arc<Vec<u8>>)> = Vec::new();
        for number in slots {
            if bytes >= REQUEST {
                break;
            }
            if let Some(batch) = self.slots.all[*number].send(producer) {
                bytes += batch.len();
                batches.push((*number, batch));
            }
        }
        let Some(link) = self.links.get_mut(&id) else { return };
        let subject = Subject::Produce(batches.iter().map(|(number, _)| *number).collect());
        let (all, names) = (&self.slots.all, self.slots.names());
        let transactional_id = &self.options.transactional_id;
        let outcome = link.ask_in_pieces(&self.options.greeting, self.level, subject, now, |out| {
            put_compact(transactional_id.as_bytes(), out);
            // All replicas in sync.
            out.extend_from_slice(&(-1_i16).to_be_bytes());
            out.extend_from_slice(&(PRODUCE_WITHIN.as_millis() as i32).to_be_bytes());
            let topics = || batches.chunk_by(|(one, _), (next, _)| all[*one].topic == all[*next].topic);
            put_count(topics().count(), out);
            let (mut pieces, mut own) = (Vec::new(), Vec::new());
            for topic in topics() {
                put_compact(names[all[topic[0].0].topic].as_bytes(), &mut own);
                put_count(topic.len(), &mut own);
                for (number, batch) in topic {
                    own.extend_from_slice(&all[*number].partition.to_be_bytes());
                    put_uvarint(batch.len() as u32 + 1, &mut own);
                    if batch.len() < COPIED {
                        own.extend_from_slice(batch);
                    } else {
                        pieces.push(Piece::Own(std::mem::take(&mut own)));
                        pieces.push(Piece::Batch(Arc::clone(batch)));
                    }
                    put_no_tags(&mut own);
                }
                put_no_tags(&mut own);
            }
            put_no_tags(&mut own);
            pieces.push(Piece::Own(own));
            pieces
        });
        self.is_known |= self.was_asked(outcome);
    }

    /// Commits the group's offsets. On V2 the group's coordinator adds the group to the transaction, which must not meet
    /// the addition of partitions: the coordinator of transactions takes one after the other.
    fn commit_offsets(&mut self, producer: Identity, now: Instant) {
        let all = &self.slots.all;
        let is_in = |slot: &usize| all[*slot].membership == Membership::In || !all[*slot].has_batch();
        let Some(offsets) = &self.offsets else { return };
        if offsets.is_done || !offsets.task.may_be_asked(now) || !self.slots.active.iter().all(is_in) {
            return;
        }
        let transactional_id = &self.options.transactional_id;
        let mut body = Vec::new();
        if self.level == Level::V1 && !offsets.is_added {
            requests::add_offsets(transactional_id, producer, &offsets.member.group, &mut body);
            let Some(link) = self.coordinator_link(Coordinates::Transactions, now) else { return };
            self.ask_about_offsets(link, Subject::AddOffsets, &body, now);
            return;
        }
        requests::txn_offset_commit(transactional_id, producer, &offsets.member, &offsets.of, &mut body);
        let Some(link) = self.coordinator_link(Coordinates::Group, now) else { return };
        self.ask_about_offsets(link, Subject::Offsets, &body, now);
    }

    fn ask_about_offsets(&mut self, link: LinkId, subject: Subject, body: &[u8], now: Instant) {
        let may_add = subject == Subject::Offsets;
        let is_asked = self.ask(link, subject, now, |out| out.extend_from_slice(body));
        self.is_known |= is_asked && may_add;
        self.offsets.iter_mut().for_each(|offsets| offsets.task.is_asked = is_asked);
    }

    /// Ends the aborted transaction when nothing of it is on the way.
    pub(super) fn end_aborted(&mut self, now: Instant) {
        let is_on_the_way = |slot: &usize| {
            let slot = &self.slots.all[*slot];
            slot.membership == Membership::Asked || slot.sent.as_ref().is_some_and(|sent| sent.on_the_way)
        };
        let asks_offsets = self.offsets.as_ref().is_some_and(|offsets| offsets.task.is_asked);
        if self.slots.active.iter().any(is_on_the_way) || asks_offsets {
            return;
        }
        if let Some(producer) = self.identity {
            self.end(producer, false, now);
        }
    }

    fn end(&mut self, producer: Identity, commit: bool, now: Instant) {
        if !self.is_known {
            // Nothing was written, and the coordinator refuses to end what it does not know.
            return self.ended(None);
        }
        if !self.step.may_be_asked(now) {
            return;
        }
        let Some(link) = self.coordinator_link(Coordinates::Transactions, now) else { return };
        let id = self.options.transactional_id.clone();
        let body = |out: &mut Vec<u8>| requests::end_txn(&id, producer, commit, out);
        if self.ask(link, Subject::End { commit }, now, body) {
            self.step.is_asked = true;
            self.is_ending |= commit;
        }
    }

    /// The transaction has ended; the next one has this id and epoch, when it is another one.
    pub(super) fn ended(&mut self, next: Option<Identity>) {
        // Nobody knows whether such a batch is written, and on V1 the sequence of the partition with it.
        let is_open = |slot: &usize| self.slots.all[*slot].sent.is_some();
        let is_uncertain = self.is_unanswered || self.slots.active.iter().any(is_open);
        if self.level == Level::V1 && is_uncertain {
            self.stale = Some("a request lost its answer, and could arrive late in the next one");
        }
        self.slots.end(next.is_some());
        self.identity = next.or(self.identity);
        (self.offsets, self.is_ending, self.is_known) = (None, false, false);
        self.stage = Stage::Ready;
        self.step = super::Task::default();
    }
}
